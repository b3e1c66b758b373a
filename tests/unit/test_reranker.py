"""The policy, with a scorer whose logits are known."""

import asyncio
import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import (
    CrossEncoderScorer,
    InvalidInputError,
    InvalidTypeError,
    RankedDocument,
    Reranker,
    RerankSettings,
    ScoringError,
)
from rerank_plugins.calibration import Calibration
from rerank_plugins.scoring.protocol import Scores
from tests.scorers import Broken


class Fixed:
    """A scorer with given logits."""

    def __init__(self, *logits: float) -> None:
        self.logits = logits

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        return np.array(self.logits[: len(documents)], dtype=np.float32)


def indices(ranking: Sequence[RankedDocument]) -> list[int]:
    return [ranked.index for ranked in ranking]


def test_best_first_with_both_scales() -> None:
    ranking = Reranker(Fixed(-1.0, 2.0, 0.0)).rank("q", ["a", "b", "c"])
    assert indices(ranking) == [1, 2, 0]
    assert [ranked.logit for ranked in ranking] == [2.0, 0.0, -1.0]
    assert [ranked.score for ranked in ranking] == pytest.approx(
        [1 / (1 + math.exp(-2)), 0.5, 1 / (1 + math.e)]
    )
    assert [ranked.text for ranked in ranking] == ["b", "c", "a"]
    assert ranking.scale == "probability"
    assert ranking.reranked
    assert ranking.reason is None


def test_ties_keep_input_order_and_saturation_is_no_tie() -> None:
    assert indices(Reranker(Fixed(1.0, 3.0, 1.0, 3.0)).rank("q", list("abcd"))) == [1, 3, 0, 2]
    # sigmoid(50) and sigmoid(60) are the same float
    ranking = Reranker(Fixed(50.0, 60.0)).rank("q", ["a", "b"])
    assert ranking[0].score == ranking[1].score
    assert indices(ranking) == [1, 0]


def test_min_score_is_inclusive_on_its_scale_and_before_top_k() -> None:
    reranker = Reranker(Fixed(0.0, -0.001, 4.0), min_score=0.5)
    assert indices(reranker.rank("q", list("abc"))) == [2, 0]
    assert indices(reranker.rank("q", list("abc"), scale="logit", min_score=0.0)) == [2, 0]
    assert indices(reranker.rank("q", list("abc"), min_score=0.0)) == [2, 0, 1]
    assert indices(reranker.rank("q", list("abc"), min_score=None)) == [2, 0, 1]
    assert indices(reranker.rank("q", list("abc"), top_k=1)) == [2]
    assert indices(reranker.rank("q", list("abc"), top_k=0)) == []
    assert indices(Reranker(Fixed(1, 2), top_k=1).rank("q", ["a", "b"], top_k=None)) == [1, 0]


def test_a_score_does_not_depend_on_the_other_documents(bundled: CrossEncoderScorer) -> None:
    reranker = Reranker(bundled)
    documents = ["Goethe wrote Faust.", "A fist is a hand.", ""]
    together = {r.index: r.score for r in reranker.rank("who wrote Faust?", documents)}
    for i, document in enumerate(documents):
        assert reranker.rank("who wrote Faust?", [document])[0].score == pytest.approx(together[i], abs=1e-6)


def test_empty_single_and_iterator() -> None:
    reranker = Reranker(Fixed(1.0))
    assert len(reranker.rank("q", [])) == 0
    assert reranker.rank("q", []).stats.documents == 0
    assert len(reranker.rank("q", iter(["only"]))) == 1
    assert isinstance(reranker.rank("q", ["only"])[0:1], tuple)


@pytest.mark.parametrize(
    ("query", "documents", "message"),
    [
        (None, ["a"], "query must be a str, but got NoneType"),
        (b"q", ["a"], "decode"),
        ("q", "a single text", "put a single document into a list"),
        ("q", b"bytes", "documents must be a list of str"),
        ("q", None, "documents must be a list of str"),
        ("q", 7, "documents must be a list of str"),
        ("q", ["a", None], r"documents\[1\] must be a str, but got NoneType"),
        ("q", ["a", b"b"], r"documents\[1\].*decode"),
        ("q", [1.5], r"documents\[0\].*1.5"),
    ],
)
def test_what_is_no_text_is_named(query: object, documents: object, message: str) -> None:
    reranker = Reranker(Fixed(1, 2))
    with pytest.raises(InvalidTypeError, match=message):
        reranker.rank(query, documents)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        asyncio.run(reranker.arank(query, documents))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": -1},
        {"top_k": 1.5},
        {"top_k": "many"},
        {"min_score": math.nan},
        {"min_score": "high"},
        {"scale": "percent"},
        {"on_error": "ignore"},
    ],
)
def test_a_bad_setting_is_named_at_construction_and_at_the_call(settings: dict[str, object]) -> None:
    (name, value), *_ = settings.items()
    with pytest.raises(InvalidInputError, match=f"{name}.*but got {value!r}"):
        Reranker(Fixed(1), **settings)  # type: ignore[arg-type]
    if name != "on_error":
        with pytest.raises(ValueError, match=name):
            Reranker(Fixed(1)).rank("q", ["a"], **settings)  # type: ignore[arg-type]


def test_what_is_no_scorer_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="score"):
        Reranker("bundled")  # type: ignore[arg-type]


def test_failure_raises_or_keeps_the_order_visibly() -> None:
    with pytest.raises(ScoringError, match="fell off"):
        Reranker(Broken()).rank("q", ["a"])
    kept = Reranker(Broken(), on_error="keep_order", top_k=2, min_score=0.9).rank("q", ["a", "b", "c"])
    assert indices(kept) == [0, 1]
    assert not kept.reranked
    assert "fell off" in str(kept.reason)
    assert kept[0].score is None
    with pytest.raises(InvalidTypeError):
        Reranker(Broken(), on_error="keep_order").rank("q", [None])  # type: ignore[list-item]


@pytest.mark.parametrize("logits", [(1.0,), (1.0, math.nan), (1.0, 2.0, math.inf)])
def test_a_foreign_scorer_must_return_one_finite_logit_each(logits: tuple[float, ...]) -> None:
    with pytest.raises(ScoringError, match="finite logits"):
        Reranker(Fixed(*logits)).rank("q", ["a", "b", "c"][: max(2, len(logits))])


def test_results_are_plain_json(bundled: CrossEncoderScorer) -> None:
    ranking = Reranker(bundled).rank("who wrote Faust?", ["Goethe wrote Faust.", "word " * 600])
    row = json.loads(json.dumps(ranking.to_dict()))
    assert row["stats"]["truncated"] == 1
    assert row["stats"]["model"] == "bundled"
    assert type(ranking[0].score) is float
    cut = next(ranked for ranked in ranking if ranked.truncated)
    assert cut.index == 1
    assert cut.tokens < 512
    assert ranking.stats.tokens > cut.tokens
    assert ranking.stats.total_ms >= ranking.stats.compute_ms > 0


def test_a_long_query_is_cut_and_flagged(bundled: CrossEncoderScorer) -> None:
    ranking = Reranker(bundled).rank("river " * 600, ["bank", "word " * 600])
    assert ranking.stats.query_truncated
    by_index = {ranked.index: ranked for ranked in ranking}
    assert not by_index[0].truncated
    assert by_index[1].tokens == 512 - 384 - 3


@given(logits=st.lists(st.floats(-30, 30, width=32), max_size=30), top_k=st.none() | st.integers(0, 40))
def test_ranking_is_a_stable_sorted_prefix(logits: list[float], top_k: int | None) -> None:
    ranking = Reranker(Fixed(*logits), scale="logit").rank("q", ["d"] * len(logits), top_k=top_k)
    expected = sorted(range(len(logits)), key=lambda i: (-np.float32(logits[i]), i))[:top_k]
    assert indices(ranking) == expected


def test_sync_and_async_agree(bundled: CrossEncoderScorer) -> None:
    reranker = Reranker(bundled, top_k=2)
    documents = ["Goethe wrote Faust.", "A fist is a hand.", "Faust is a play."]
    sync = reranker.rank("who wrote Faust?", documents)
    assert asyncio.run(reranker.arank("who wrote Faust?", documents)).documents == sync.documents
    assert asyncio.run(Reranker(Fixed(1, 2)).arank("q", ["a", "b"]))[0].index == 1


def test_settings_object_and_single_settings() -> None:
    reranker = Reranker(Fixed(1), settings=RerankSettings(top_k=3, scale="logit"), top_k=2)
    assert (reranker.settings.top_k, reranker.settings.scale) == (2, "logit")


def test_closing_closes_the_scorer(tiny: object) -> None:
    scorer = CrossEncoderScorer(str(tiny), device="cpu")
    with Reranker(scorer) as reranker:
        assert len(reranker.rank("q", ["a"])) == 1
    assert scorer.closed
    Reranker(Fixed(1)).close()


def test_what_a_call_changes_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reranker = Reranker(Fixed(1.0, 2.0), min_score=0.125)
    assert len(reranker.rank("q", ["a", "b"], top_k=1)) == 1
    # Settings read the environment when they are made, which takes a millisecond.
    monkeypatch.setattr(RerankSettings, "__init__", None)
    assert len(reranker.rank("q", ["a", "b"], top_k=1)) == 1
    monkeypatch.undo()
    assert len(reranker.rank("q", ["a", "b"], top_k=None)) == 2
    with pytest.raises(InvalidInputError, match="top_k"):
        reranker.rank("q", ["a"], top_k=[1])  # type: ignore[arg-type]


class Detailed(Fixed):
    """A scorer of a user's own that says more, rightly or not."""

    info = {"model": "mine"}

    def score_detailed(self, query: str, documents: Sequence[str]) -> Scores:
        none = np.zeros(len(documents), dtype=np.bool_)
        return Scores(self.score(query, documents), none.astype(np.int32), none, none)

    async def ascore_detailed(self, query: str, documents: Sequence[str]) -> Scores:
        return self.score_detailed(query, documents)


def test_what_a_scorer_of_ones_own_returns_is_checked() -> None:
    assert Reranker(Detailed(1.0)).rank("q", ["a"]).stats.model is None
    for wrong in (Detailed(math.nan), Detailed()):
        with pytest.raises(ScoringError, match="must return 1 finite logits"):
            Reranker(wrong).rank("q", ["a"])
        with pytest.raises(ScoringError, match="must return 1 finite logits"):
            asyncio.run(Reranker(wrong).arank("q", ["a"]))
        assert not Reranker(wrong, on_error="keep_order").rank("q", ["a"]).reranked

    class Words:
        def score(self, query: str, documents: Sequence[str]) -> list[str]:
            return ["high"] * len(documents)

    with pytest.raises(ScoringError, match="must return logits"):
        Reranker(Words()).rank("q", ["a"])  # type: ignore[arg-type]


def test_what_is_no_scorer_and_no_settings_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="scorer must have"):
        Reranker(Fixed)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="settings must be RerankSettings, but got dict"):
        Reranker(Fixed(1.0), settings={"top_k": 1})  # type: ignore[arg-type]


@pytest.mark.parametrize("documents", [{"a": "one", "b": "two"}, {"one", "two"}])
def test_documents_without_an_order_are_refused(documents: object) -> None:
    with pytest.raises(InvalidTypeError, match="documents must be in an order"):
        Reranker(Fixed(1.0, 2.0)).rank("q", documents)  # type: ignore[arg-type]


def test_a_calibration_of_another_revision_is_told(
    bundled: CrossEncoderScorer, caplog: pytest.LogCaptureFixture
) -> None:
    for revision, warnings in ((bundled.info.revision, 0), ("other", 1)):
        caplog.clear()
        fitted = Calibration(1.0, 0.0, model="bundled", revision=revision)
        Reranker(bundled, scale="calibrated", calibration=fitted)
        assert len(caplog.records) == warnings
