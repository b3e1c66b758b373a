"""Fusion with the first stage: the formulas, and what stays as it is."""

import asyncio
import math
import pickle
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from rerank_plugins import InvalidInputError, InvalidTypeError, Reranker, RerankSettings
from rerank_plugins.fusion import best_first, fuse, read_first_stage
from tests.scorers import Broken, Fixed

# Values that are few, so that they tie, and of few digits, so that sums are exact enough to compare.
logit = st.integers(-40, 40).map(lambda x: x / 4)
score = st.integers(-8, 8).map(float) | st.floats(-1000, 1000, width=16)
weight = st.floats(0, 1)
both = st.lists(st.tuples(logit, st.none() | score), max_size=25)
scored = st.lists(st.tuples(logit, score), max_size=25)


def columns(rows: list[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    return [row[0] for row in rows], [row[1] for row in rows]


def rank(logits: Sequence[float], first_stage: Any = None, **options: Any) -> list[Any]:
    reranker = Reranker(Fixed(logits), **options)
    return list(reranker.rank("q", ["d"] * len(logits), first_stage=first_stage))


def order(ranked: list[Any]) -> list[int]:
    return [document.index for document in ranked]


def by_hand_rrf(*columns: Sequence[float | None]) -> list[float]:
    """Add up reciprocal ranks, walking down each ranking."""
    fused = [0.0] * len(columns[0])
    for values in columns:
        place = 1
        for value in sorted({value for value in values if value is not None}, reverse=True):
            holders = [i for i, other in enumerate(values) if other == value]
            for i in holders:
                fused[i] += 1 / (60 + place)
            place += len(holders)
    return fused


def by_hand_min_max(values: Sequence[float | None]) -> list[Fraction]:
    found = [Fraction(value) for value in values if value is not None]
    span = max(found) - min(found)
    return [
        Fraction(0) if value is None else (Fraction(value) - min(found)) / span if span else Fraction(1)
        for value in values
    ]


@given(both)
def test_rrf_is_the_sum_of_reciprocal_ranks(rows: list[tuple[float, float | None]]) -> None:
    logits, first = columns(rows)
    used = first if any(value is not None for value in first) else [-i for i in range(len(rows))]
    expected = by_hand_rrf(logits, used)
    ranked = rank(logits, first, fusion="rrf")
    assert [document.fused for document in ranked] == [expected[i] for i in order(ranked)]
    assert order(ranked) == sorted(range(len(rows)), key=lambda i: (-expected[i], -logits[i], i))


def test_rrf_in_numbers() -> None:
    ranked = rank([3.0, 1.0, 2.0], [5.0, None, 9.0], fusion="rrf")
    assert [(document.index, document.fused) for document in ranked] == [
        (0, 1 / 61 + 1 / 62),  # equal to the next one, and the better logit
        (2, 1 / 62 + 1 / 61),
        (1, 1 / 63),
    ]


@given(both, weight)
def test_a_weight_adds_what_was_stretched_to_0_to_1(
    rows: list[tuple[float, float | None]], share: float
) -> None:
    logits, first = columns(rows)
    assume(any(value is not None for value in first))
    x, y = by_hand_min_max(logits), by_hand_min_max(first)
    expected = [float(Fraction(share) * a + (1 - Fraction(share)) * b) for a, b in zip(x, y, strict=True)]
    ranked = rank(logits, first, fusion=share)
    assert [document.fused for document in ranked] == pytest.approx([expected[i] for i in order(ranked)])
    keys = [(-document.fused, -document.logit, document.index) for document in ranked]
    assert keys == sorted(keys)


def test_a_weight_in_numbers() -> None:
    ranked = rank([4.0, 0.0, 2.0], [10.0, 30.0, None], fusion=0.25)
    assert [(document.index, document.fused) for document in ranked] == [(1, 0.75), (0, 0.25), (2, 0.125)]


@given(scored)
def test_the_ends_are_the_two_orders(rows: list[tuple[float, float]]) -> None:
    logits, first = columns(rows)
    assert order(rank(logits, first, fusion=1.0)) == order(rank(logits))
    expected = sorted(range(len(rows)), key=lambda i: (-first[i], -logits[i], i))
    assert order(rank(logits, first, fusion=0.0)) == expected


@given(both, st.just("rrf") | weight, st.sampled_from(["probability", "logit"]), st.none() | logit)
def test_only_the_order_changes(
    rows: list[tuple[float, float | None]], fusion: Any, scale: Any, least: float | None
) -> None:
    logits, first = columns(rows)
    assume(fusion == "rrf" or any(value is not None for value in first))
    options = {"scale": scale, "min_score": least}
    plain = {document.index: document for document in rank(logits, **options)}
    fused = {document.index: document for document in rank(logits, first, fusion=fusion, **options)}
    assert plain.keys() == fused.keys()
    for index, document in plain.items():
        assert (fused[index].score, fused[index].logit) == (document.score, document.logit)
        assert document.fused is None
        assert type(fused[index].fused) is float


@given(both, st.just("rrf") | weight, st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(
    rows: list[tuple[float, float | None]], fusion: Any, random: Any
) -> None:
    assume(any(value is not None for _, value in rows))
    places = list(range(len(rows)))
    random.shuffle(places)

    def fused(of: list[tuple[float, float | None]]) -> Any:
        logits, first = columns(of)
        return fuse(fusion, np.array(logits), read_first_stage(fusion, first, len(of)))

    assert fused([rows[i] for i in places]).tolist() == fused(rows)[places].tolist()


@given(scored, st.just("rrf") | weight, st.data())
def test_a_better_first_stage_score_never_costs_a_place(
    rows: list[tuple[float, float]], fusion: Any, data: st.DataObject
) -> None:
    assume(rows)
    logits, first = columns(rows)
    chosen = data.draw(st.integers(0, len(rows) - 1))
    raised = list(first)
    raised[chosen] += data.draw(st.integers(1, 50))
    before = order(rank(logits, first, fusion=fusion)).index(chosen)
    assert order(rank(logits, raised, fusion=fusion)).index(chosen) <= before


@given(
    st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=12),
    st.just("rrf") | weight,
)
@example([1.7e308, -1.7e308, 0.0], 0.5)
@example([5e-324, 0.0, None], 0.5)
@example([0.0, 0.0], 0.0)
def test_any_finite_scores_can_be_fused(first: list[float | None], fusion: Any) -> None:
    assume(fusion == "rrf" or any(value is not None for value in first))
    ranked = rank([0.0] * len(first), first, fusion=fusion)
    assert sorted(order(ranked)) == list(range(len(first)))
    assert all(0 <= document.fused <= 1 for document in ranked)
    found = [first[i] for i in order(ranked) if first[i] is not None]
    if fusion == "rrf" and found:
        assert found == sorted(found, reverse=True)  # type: ignore[type-var]


@pytest.mark.parametrize("none", [None, [None, None, None]])
def test_without_scores_the_input_order_is_the_ranking(none: Any) -> None:
    assert order(rank([1.0, 3.0, 2.0], none, fusion="rrf")) == order(
        rank([1.0, 3.0, 2.0], [3, 2, 1], fusion="rrf")
    )
    with pytest.raises(InvalidInputError, match=r"fusion=0.5 needs.*first_stage=.*rrf"):
        rank([1.0, 3.0, 2.0], none, fusion=0.5)


def test_none_and_one_document() -> None:
    for fusion in ("rrf", 0.5):
        assert rank([], fusion=fusion) == []
        assert rank([], [], fusion=fusion) == []
    assert rank([2.0], [7], fusion=0.25)[0].fused == 1.0
    assert rank([2.0], [None], fusion="rrf")[0].fused == 2 / 61


def test_a_document_that_was_not_found_gets_nothing_for_it() -> None:
    assert [d.fused for d in rank([1.0, 1.0], [4.0, None], fusion=0.5)] == [1.0, 0.5]
    assert [d.fused for d in rank([1.0, 1.0], [4.0, None], fusion="rrf")] == [2 / 61, 1 / 61]


def test_saturated_and_equal_fused_values_go_by_the_logit() -> None:
    assert order(rank([50.0, 60.0], [1.0, 1.0], fusion=0.0)) == [1, 0]
    assert order(rank([1.0, 2.0], [2.0, 1.0], fusion=0.5)) == [1, 0]
    assert order(rank([1.0, 2.0], [2.0, 1.0], fusion="rrf")) == [1, 0]
    assert best_first(np.array([1.0, 1.0, 2.0])).tolist() == [2, 0, 1]


def test_min_score_and_top_k_come_after_fusion() -> None:
    ranked = rank([-2.0, 1.0, 3.0], [9, 8, 7], fusion=0.1, scale="logit", min_score=0.0, top_k=1)
    assert [(document.index, document.score) for document in ranked] == [(1, 1.0)]
    whole = rank([-2.0, 1.0, 3.0], [9, 8, 7], fusion=0.1, scale="logit")
    # What is dropped has been compared with all the same.
    assert ranked[0].fused == next(document.fused for document in whole if document.index == 1)


async def test_async_agrees() -> None:
    reranker = Reranker(Fixed([1.0, 2.0, 3.0]), fusion=0.4)
    given = ("q", ["a", "b", "c"])
    sync = reranker.rank(*given, first_stage=[3, 2, 1])
    assert (await reranker.arank(*given, first_stage=[3, 2, 1])).documents == sync.documents
    with pytest.raises(InvalidInputError, match="first_stage="):
        await reranker.arank(*given)


def test_numpy_scores_and_an_iterator_of_documents() -> None:
    reranker = Reranker(Fixed([1.0, 2.0]), fusion=0.0)
    ranking = reranker.rank("q", iter("ab"), first_stage=np.array([2, 1], dtype=np.float32))  # type: ignore[arg-type]
    assert [document.text for document in ranking] == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "kind", "message"),
    [
        ([1.0], InvalidInputError, "got 1 for 2"),
        ([1, 2, 3], InvalidInputError, "got 3 for 2"),
        ([1, math.nan], InvalidInputError, r"first_stage\[1\] must be finite, but got nan; give None"),
        ([math.inf, 1], InvalidInputError, r"first_stage\[0\] must be finite, but got inf"),
        ([10**400, 1], InvalidInputError, r"first_stage\[0\] must be finite"),
        ([1, "2"], InvalidTypeError, r"first_stage\[1\] must be a number or None, but got str: '2'"),
        ("12", InvalidTypeError, "must be a list of numbers"),
        (3, InvalidTypeError, "must be a list of numbers"),
    ],
)
def test_what_is_no_score_is_named(first: Any, kind: type[Exception], message: str) -> None:
    for reranker in (
        Reranker(Fixed([1.0, 2.0]), fusion="rrf"),
        Reranker(Broken(), fusion="rrf", on_error="keep_order"),
    ):
        with pytest.raises(kind, match=message):
            reranker.rank("q", ["a", "b"], first_stage=first)
        with pytest.raises(kind, match=message):
            asyncio.run(reranker.arank("q", ["a", "b"], first_stage=first))


def test_without_fusion_first_stage_scores_are_not_looked_at() -> None:
    assert order(rank([1.0, 2.0], [math.nan])) == [1, 0]


def test_a_kept_order_is_the_input_order() -> None:
    kept = Reranker(Broken(), fusion=0.5, on_error="keep_order").rank("q", ["a", "b"], first_stage=[1, 2])
    assert [(document.index, document.fused) for document in kept] == [(0, None), (1, None)]


@pytest.mark.parametrize("fusion", [None, "rrf", 0.0, 0.25, 1.0])
def test_settings_keep_it(fusion: Any) -> None:
    settings = RerankSettings(fusion=fusion)
    assert settings.fusion == fusion
    assert RerankSettings.model_validate_json(settings.model_dump_json()) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert {settings: 1}[RerankSettings(fusion=fusion)] == 1


@pytest.mark.parametrize("fusion", [-0.1, 1.1, math.nan, math.inf, True, "RRF", "half", [0.5]])
def test_a_bad_fusion_is_named(fusion: Any) -> None:
    with pytest.raises(InvalidInputError, match=r"fusion must be None, .*but got "):
        Reranker(Fixed([]), fusion=fusion)


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_FUSION", "rrf")
    assert RerankSettings().fusion == "rrf"
    monkeypatch.setenv("RERANK_FUSION", "0.25")
    assert RerankSettings().fusion == 0.25
    assert RerankSettings(fusion=None).fusion is None
