"""Who may call."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.auth import Keys, new_key
from rerank_plugins.serving.errors import RequestError
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import live

GOOD = {"query": "who wrote Faust?", "documents": ["A fist is a hand.", "Goethe wrote Faust."]}
SECRET = "a-key-of-the-environment"


def test_keys_from_a_file_and_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reranker: Reranker, caplog: pytest.LogCaptureFixture
) -> None:
    first, one = new_key("search-team")
    second, two = new_key("chat.team")
    path = tmp_path / "keys.txt"
    path.write_text(f"# who may call\n{one}\n\n{two}\n")
    monkeypatch.setenv("RERANK_SERVER_KEYS", f"{SECRET}, another-key-of-the-environment")
    settings = ServerSettings(keys_file=path, host="0.0.0.0")
    settings.check_exposure()
    assert SECRET not in repr(settings) + settings.model_dump_json()
    app = create_app(settings, pool=ModelPool.of({"bundled": reranker}))
    with live(app) as url, httpx.Client(base_url=url, timeout=600) as client, caplog.at_level("INFO"):

        def ask(authorization: str | None, path: str = "/v2/rerank") -> httpx.Response:
            headers = {} if authorization is None else {"Authorization": authorization}
            return client.post(path, json=GOOD, headers=headers)

        for key in (first, second, SECRET, "another-key-of-the-environment"):
            assert ask(f"Bearer {key}").status_code == 200
            assert ask(f"bearer  {key}").status_code == 200
        for wrong in (
            None,
            "",
            "Bearer",
            f"Basic {first}",
            first,
            f"Bearer {first}x",
            f"Bearer {one}",
        ):
            refused = ask(wrong)
            assert refused.status_code == 401
            assert refused.json()["error"]["type"] == "key"
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert ask(f"Bearer {first}".encode() + b"\xff").status_code == 401  # type: ignore[arg-type]
        for path_ in ("/info", "/v1/models", "/openapi.json", "/metrics", "/stats", "/nowhere", "/health/"):
            assert client.get(path_).status_code == 401
        for path_ in ("/health", "/ready"):
            assert client.get(path_).status_code == 200
        callers = [record.fields.get("caller") for record in caplog.records if hasattr(record, "fields")]
        assert callers[0] == "search-team"
        assert {"search-team", "chat.team", "key-1", "key-2"} <= set(callers)
        logged = "".join(str(vars(record)) for record in caplog.records)
        assert first not in logged
        assert SECRET not in logged


def test_a_key_is_kept_as_its_hash_only() -> None:
    key, line = new_key("a")
    assert line == f"a:{hashlib.sha256(key.encode()).hexdigest()}"
    assert len(key) > 40
    assert new_key("a")[0] != key


@pytest.mark.parametrize("name", ["", "a b", "a:b", "a\nb", "é"])
def test_names_of_keys(name: str) -> None:
    with pytest.raises(InvalidInputError, match="name must consist of"):
        new_key(name)


@pytest.mark.parametrize("text", ["", "# none\n", "plain-key\n", "a:12\n", "a:{0}\na:{0}\n"])
def test_a_keys_file_that_is_none_is_refused_without_showing_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.txt"
    path.write_text(text.format("0" * 64))
    with pytest.raises(InvalidInputError, match=r"keys\.txt") as refused:
        Keys.of(ServerSettings(keys_file=path))
    assert "plain-key" not in str(refused.value)
    with pytest.raises(InvalidInputError, match="missing"):
        Keys.of(ServerSettings(keys_file=tmp_path / "missing"))


def test_a_name_of_a_key_of_the_environment_is_refused_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_SERVER_KEYS", SECRET)
    path = tmp_path / "keys.txt"
    path.write_text(new_key("key-1")[1])
    with pytest.raises(InvalidInputError, match="key-1"):
        Keys.of(ServerSettings(keys_file=path))


def test_an_application_may_be_started_again() -> None:
    app = create_app(ServerSettings(models=("bundled",), load="lazy"))
    for _ in range(2):
        with TestClient(app) as client:
            assert client.post("/v1/rerank", json=GOOD).status_code == 200


def test_short_keys_are_refused_without_showing_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_SERVER_KEYS", "hunter2")
    with pytest.raises(InvalidInputError, match="16 characters") as refused:
        ServerSettings()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({}, True),
        ({"host": "localhost"}, True),
        ({"host": "127.0.0.2"}, True),
        ({"host": "::1"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "::"}, False),
        ({"host": "127.evil.example"}, False),
        ({"host": "reranker"}, False),
        ({"host": "0.0.0.0", "keys": [SECRET]}, True),
        ({"host": "0.0.0.0", "keys": []}, False),
        ({"host": "0.0.0.0", "allow_unauthenticated": True}, True),
    ],
)
def test_other_machines_need_keys(options: dict[str, Any], fits: bool) -> None:
    settings = ServerSettings(**options)
    if fits:
        settings.check_exposure()
    else:
        with pytest.raises(InvalidInputError, match="--allow-unauthenticated"):
            settings.check_exposure()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 70000}, r"ServerSettings\.port"),
        ({"models": ()}, r"ServerSettings\.models"),
        ({"aliases": {"a": "b"}, "models": "bundled"}, r"alias 'a' must stand for one of \['bundled'\]"),
        ({"aliases": ["rerank"]}, "ASKED=SERVED"),
        ({"load": "some"}, r"ServerSettings\.load"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_settings_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        ServerSettings(**options)


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_SERVER_MODELS", "bundled, cross-encoder/ms-marco-MiniLM-L6-v2")
    monkeypatch.setenv("RERANK_SERVER_ALIASES", "rerank-v3.5=bundled,*=bundled")
    monkeypatch.setenv("RERANK_SERVER_MAX_QUEUE_TOKENS", "99")
    settings = ServerSettings()
    assert settings.models == ("bundled", "cross-encoder/ms-marco-MiniLM-L6-v2")
    assert settings.aliases == {"rerank-v3.5": "bundled", "*": "bundled"}
    assert ServerSettings(**settings.model_dump()) == settings
    pool = ModelPool.from_settings(settings)
    assert pool._models["bundled"].scorer_settings.max_queue_tokens == 99
    for name in (None, "", "bundled", "rerank-v3.5", "anything"):
        assert pool.resolve(name) == "bundled"
    for name in ("ms-marco-MiniLM-L-6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"):
        assert pool.resolve(name) == "cross-encoder/ms-marco-MiniLM-L6-v2"


def test_an_alias_stands_for_one_model() -> None:
    served = {"a": LazyReranker(), "b": LazyReranker()}
    assert ModelPool(served, {"a": "a", "c": "b"}).resolve("c") == "b"
    with pytest.raises(InvalidInputError, match="alias 'a' must stand for one model"):
        ModelPool(served, {"a": "b"})


def test_a_name_that_looks_like_somebodys_home_is_just_unknown() -> None:
    name = "~nobody-of-this-machine/model"
    with pytest.raises(RequestError, match="but got '~nobody"):
        ModelPool({"a": LazyReranker()}).resolve(name)
    assert ModelPool({"a": LazyReranker()}, {"*": "a"}).resolve(name) == "a"


def test_ready_rerankers_fuse_with_nothing(bundled: CrossEncoderScorer) -> None:
    pool = ModelPool.of({"m": Reranker(bundled, fusion=0.5, on_error="keep_order")})
    assert (pool._models["m"].settings.fusion, pool._models["m"].settings.on_error) == (None, "raise")


def test_the_default_model_is_the_librarys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_MODEL", "bundled")
    assert ServerSettings().models == ("bundled",)


def test_what_is_the_clients_to_choose_does_not_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"SCALE": "logit", "ON_ERROR": "keep_order", "FUSION": "0.5"}.items():
        monkeypatch.setenv(f"RERANK_{name}", value)
    settings = ModelPool.from_settings(ServerSettings(models=("bundled",)))._models["bundled"].settings
    assert (settings.scale, settings.on_error, settings.fusion) == ("probability", "raise", None)


def test_the_server_is_not_imported_before_it_is_asked_for() -> None:
    code = (
        "import sys, rerank_plugins, rerank_plugins.cli.app; "
        "print([m for m in ('fastapi', 'uvicorn', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
