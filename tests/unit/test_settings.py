"""Settings: validation, JSON, environment."""

import json
import pickle

import pytest

from rerank_plugins import InvalidInputError, RerankSettings, ScorerSettings


@pytest.mark.parametrize(
    "settings",
    [
        ScorerSettings(),
        ScorerSettings(model="bundled", device="cuda:1", dtype="float16", max_length=128, revision="abc"),
        RerankSettings(),
        RerankSettings(top_k=0, min_score=0.0, scale="logit", on_error="keep_order"),
        RerankSettings(long_documents="max_passage", max_passages=None, passage_overlap=0, best_passages=2),
    ],
)
def test_json_and_pickle_round_trip(settings: ScorerSettings | RerankSettings) -> None:
    assert type(settings).model_validate_json(settings.model_dump_json()) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert hash(type(settings)(**settings.model_dump())) == hash(settings)


def test_frozen_and_closed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        ScorerSettings().model = "other"  # type: ignore[misc]
    with pytest.raises(InvalidInputError, match=r"ScorerSettings\.devise") as refused:
        ScorerSettings(devise="cpu")
    assert "cpu" not in str(refused.value), "it may be a secret under a misspelt name"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "tpu"),
        ("device", "cuda:x"),
        ("dtype", "int3"),
        ("engine", "magic"),
        ("model", ""),
        ("max_length", 3),
    ],
)
def test_a_bad_value_is_named(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"{name}.*but got {value!r}"):
        ScorerSettings(**{name: value})


def test_environment_fills_in_and_arguments_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_MODEL", "bundled")
    monkeypatch.setenv("RERANK_TOP_K", "7")
    monkeypatch.setenv("RERANK_MIN_SCORE", "")
    assert ScorerSettings().model == "bundled"
    assert ScorerSettings(model="other").model == "other"
    assert RerankSettings() == RerankSettings(top_k=7, min_score=None)
    assert RerankSettings(top_k=None).top_k is None
    monkeypatch.setenv("RERANK_TOP_K", "lots")
    with pytest.raises(InvalidInputError, match="lots"):
        RerankSettings()


def test_the_token_is_never_shown_or_serialised() -> None:
    settings = ScorerSettings(token="hf_secret")
    assert "hf_secret" not in repr(settings)
    assert "token" not in json.loads(settings.model_dump_json())
    assert b"hf_secret" not in pickle.dumps(settings)
    with pytest.raises(InvalidInputError, match="token") as refused:
        ScorerSettings(token=["hf_secret"])
    assert "hf_secret" not in str(refused.value)


def test_settings_of_another_kind_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="settings must be ScorerSettings, but got dict"):
        ScorerSettings.of({"model": "bundled"}, {})  # type: ignore[arg-type]
