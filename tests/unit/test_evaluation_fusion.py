"""Fusion inside an evaluation: the orders are a reranker's own, and no query is judged by what it chose."""

import numpy as np
import pytest

from rerank_plugins import InvalidInputError, Reranker
from rerank_plugins.evaluation import Candidate, Evaluation, Topic, Topics, evaluate, verdict
from rerank_plugins.evaluation.folds import fold_of
from rerank_plugins.evaluation.fused import FUSION_WEIGHTS, fit_weight
from rerank_plugins.evaluation.measures import PRIMARY, Judge, standard_measures
from rerank_plugins.evaluation.tables import tables
from tests.evaluation import ByText, make_topics, right

NOISE = 1.0


def two_views(queries: int, noise: float = NOISE, seed: int = 0) -> tuple[Topics, ByText]:
    """Return topics and a scorer that see the same relevance through noises of their own."""
    draw = np.random.default_rng(seed)
    topics, logits = [], {}
    for q in range(queries):
        truth = (np.arange(30) == draw.integers(30)).astype(float)
        first, second = truth + draw.normal(0, 0.35, 30), truth + draw.normal(0, 0.35 * noise, 30)
        order = np.argsort(-first)
        found = tuple(Candidate(f"{q}-{i}", f"text {q} {i}", float(first[i])) for i in order)
        logits |= {f"text {q} {i}": float(second[i]) for i in order}
        topics.append(Topic(f"q{q}", f"question {q}", found, {f"{q}-{int(truth.argmax())}": 1}))
    return Topics("two views", tuple(topics), first_stage="noisy"), ByText(lambda text: logits[text])


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    topics, scorer = two_views(120)
    return evaluate(topics, {"s": scorer}, fusions=("rrf", 0.5, "fit"), timed_queries=0, resamples=500)


def test_fused_systems_come_after_their_own(evaluation: Evaluation) -> None:
    assert [s.name for s in evaluation.systems] == ["s", "s + rrf", "s + fusion 0.5", "s + fitted fusion"]
    plain, *fused = evaluation.systems
    assert plain.fused is None
    assert [system.fused.of for system in fused] == ["s"] * 3
    assert all(system.cost == plain.cost for system in fused)
    assert all(system.logits == {} and system.scores is None for system in fused)


@pytest.mark.parametrize("fusion", ["rrf", 0.5, 0.0, 1.0])
def test_an_order_is_that_of_a_reranker_so_set(fusion: str | float) -> None:
    topics, scorer = two_views(30)
    both = {"plain": scorer, "set": Reranker(scorer, fusion=fusion)}
    found = evaluate(topics, both, fusions=(fusion,), depths=(10, 30), timed_queries=0, resamples=100)
    by_name = {system.name: system for system in found.systems}
    after = next(system for name, system in by_name.items() if name.startswith("plain + "))
    assert [d.measured for d in after.depths] == [d.measured for d in by_name["set"].depths]


def test_two_views_are_better_than_one_and_the_weight_is_in_the_middle(evaluation: Evaluation) -> None:
    fitted = evaluation.systems[-1]
    assert 0.3 <= fitted.fused.fusion <= 0.7, "both views are equally good"
    assert fitted.fused.comparison.better
    assert evaluation.best is max(evaluation.systems, key=lambda s: s.comparison.after)
    curve = dict(fitted.fused.curve)
    assert tuple(curve) == FUSION_WEIGHTS
    assert curve[0.0] == pytest.approx(evaluation.first.mean[PRIMARY])
    assert curve[1.0] == pytest.approx(evaluation.systems[0].comparison.after)
    assert curve[fitted.fused.fusion] == max(curve.values())
    assert any("fusion=0." in sentence for sentence in verdict(evaluation))


def test_each_query_is_judged_with_a_weight_chosen_without_it() -> None:
    topics, scorer = two_views(40, noise=1.5)
    judge = Judge({topic.id: topic.grades for topic in topics}, standard_measures()[:1])
    logits = {t.id: np.array([scorer.logit(c.text) for c in t.candidates]) for t in topics}
    fitted = fit_weight(topics.topics, logits, judge, seed=3)
    folds = fold_of(len(topics), 3)
    for fold, weight in enumerate(fitted.fold_weights):
        others = [topic for topic, f in zip(topics, folds, strict=True) if f != fold]
        alone = fit_weight(others, logits, judge, seed=3)
        assert alone.weight == weight, "the rest of the queries alone choose the same"
        held = [topic.id for topic, f in zip(topics, folds, strict=True) if f == fold]
        assert {fitted.by_query[qid] for qid in held} == {weight}
    found = evaluate(topics, {"s": scorer}, fusions=("fit",), timed_queries=0, resamples=100, seed=3)
    for weight in set(fitted.fold_weights):
        so_set = evaluate(topics, {"s": Reranker(scorer, fusion=weight)}, timed_queries=0, resamples=100)
        for qid in (qid for qid, chosen in fitted.by_query.items() if chosen == weight):
            mine = found.systems[1].measured.by_query
            assert mine[PRIMARY][qid] == so_set.systems[0].measured.by_query[PRIMARY][qid]


def test_folds_are_of_one_size_and_deterministic() -> None:
    counts = np.bincount(fold_of(43, 0))
    assert (len(counts), counts.min(), counts.max()) == (5, 8, 9)
    assert fold_of(43, 0).tolist() == fold_of(43, 0).tolist() != fold_of(43, 1).tolist()
    assert sorted(fold_of(3, 0)) == [0, 1, 2]
    with pytest.raises(InvalidInputError, match="at least 2 queries"):
        fold_of(1, 0)


def test_a_useless_first_stage_gets_no_weight_and_no_advice() -> None:
    topics = make_topics(40)
    found = evaluate(topics, {"s": ByText(right)}, fusions=("fit",), timed_queries=0, resamples=500)
    plain, fitted = found.systems
    assert fitted.fused.fusion == 1.0
    assert found.best is plain, "a fused one only if it is better by more than luck"
    assert not any("fusion=" in sentence for sentence in verdict(found))
    assert any("changes nothing that these queries can tell" in sentence for sentence in verdict(found))


def test_a_fusion_that_only_saves_what_reranking_harms_is_no_advice() -> None:
    topics, scorer = two_views(60, noise=6)
    found = evaluate(topics, {"s": scorer}, fusions=("fit",), timed_queries=0, resamples=500)
    plain, fitted = found.systems
    assert plain.comparison.worse
    assert fitted.fused.comparison.better
    assert not fitted.comparison.better
    answer, *more = verdict(found)
    assert answer.startswith("Reranking does not help here")
    assert any(sentence.startswith("s harms: nDCG@10 falls from") for sentence in more)
    assert any("Fusion saves what s harms, and is no better than the first stage" in s for s in more)
    assert not any("fusion=" in sentence for sentence in more)


def test_tables_say_what_to_set(evaluation: Evaluation) -> None:
    (table,) = [table for table in tables(evaluation) if table.title.startswith("Fused with")]
    assert [row[:2] for row in table.rows] == [
        ["s + rrf", "rrf"],
        ["s + fusion 0.5", "0.5"],
        ["s + fitted fusion", str(evaluation.systems[-1].fused.fusion)],
    ]


def test_what_cannot_be_fused_is_refused_before_anything_is_scored() -> None:
    scorer = ByText(right)
    topics = make_topics(3)
    bare = tuple(
        Topic(t.id, t.query, tuple(Candidate(c.id, c.text) for c in t.candidates), t.grades) for t in topics
    )
    for wanted in ("fit", 0.5):
        with pytest.raises(InvalidInputError, match="no candidate of query 'q0' has one"):
            evaluate(Topics("bare", bare), {"s": scorer}, fusions=(wanted,))
    for wrong in (None, "sum", 1.5, True):
        with pytest.raises(InvalidInputError, match="fusion"):
            evaluate(topics, {"s": scorer}, fusions=(wrong,))
    with pytest.raises(InvalidInputError, match="at least 2 queries"):
        evaluate(topics.limit(1), {"s": scorer}, fusions=("fit",))
    assert scorer.calls == []
    by_order = evaluate(Topics("bare", bare), {"s": scorer}, fusions=("rrf",), resamples=100)
    assert by_order.systems[1].fused.fusion == "rrf"
