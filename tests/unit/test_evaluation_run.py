"""Evaluations as a whole: depths from one pass, costs, given runs, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker, ScoringError
from rerank_plugins.evaluation import Candidate, Topic, Topics, evaluate, load_demo, retrieve
from rerank_plugins.evaluation.measures import PRIMARY
from rerank_plugins.evaluation.systems import given_order
from tests.evaluation import ByText, chance, make_topics, right, wrong


def test_depths_follow_from_one_pass() -> None:
    topics = make_topics(queries=30, candidates=20)
    scorer = ByText(right)
    found = evaluate(topics, {"s": scorer}, depths=(20, 5), timed_queries=0, resamples=100)
    assert scorer.calls == [8] + [20] * 30, "one warm-up, then each query once"
    logits = found.systems[0].logits
    assert logits["q3"] == pytest.approx([right(c.text) for c in topics[3].candidates])
    assert "logits" not in found.to_dict()["systems"][0]
    five, twenty = found.systems[0].depths
    assert (five.depth, twenty.depth) == (5, 20)
    assert twenty.measured.mean["RR@10"] == 1
    # Five deep, only what the first stage has among its five can come first.
    within = [t.id for t in topics if any(c.id in t.grades for c in t.candidates[:5])]
    assert {q for q, value in five.measured.by_query["P@1"].items() if value} == set(within)
    outside = [q for q in found.queries if q not in within]
    before = found.first.by_query[PRIMARY]
    assert [five.measured.by_query[PRIMARY][q] for q in outside] == [before[q] for q in outside]
    assert five.p50_ms is None
    assert twenty.p50_ms > 0


def test_smaller_depths_are_timed_on_some_queries() -> None:
    scorer = ByText(right)
    evaluate(make_topics(10), {"s": scorer}, depths=(5, 20), timed_queries=3, resamples=100)
    assert scorer.calls == [8, 5, 5, 5] + [20] * 10


def test_depths_beyond_the_candidates_are_all_of_them() -> None:
    found = evaluate(make_topics(5), {"s": ByText(right)}, depths=(10, 50, 100), resamples=100)
    assert [one.depth for one in found.systems[0].depths] == [10, 20]


def test_candidates_below_the_depth_stay_there() -> None:
    found = evaluate(make_topics(20), {"s": ByText(wrong)}, depths=(1,), resamples=100).systems[0]
    assert found.comparison.ties == 20, "one document cannot change places"


@pytest.mark.parametrize("fusion", ["rrf", 0.0, 0.5, 1.0])
def test_fused_orders_are_the_rerankers_own(fusion: str | float) -> None:
    topics = make_topics(20, candidates=12)
    reranker = Reranker(ByText(chance), fusion=fusion)
    found = evaluate(topics, {"s": reranker}, depths=(12,), timed_queries=0, resamples=100)
    measured = found.systems[0].depths[-1].measured.by_query["RR@10"]
    for topic in topics:
        scores = [candidate.score for candidate in topic.candidates]
        ranking = reranker.rank(topic.query, [c.text for c in topic.candidates], first_stage=scores)
        place = next(i for i, ranked in enumerate(ranking, start=1) if "right" in ranked.text)
        assert measured[topic.id] == pytest.approx(1 / place if place <= 10 else 0)
    if fusion == 0.0:
        assert measured == found.first.by_query["RR@10"]


def test_costs_of_a_real_model(bundled: CrossEncoderScorer) -> None:
    topics = retrieve(load_demo(), depth=10).limit(4)
    long = Candidate("long", "word " * 2000)
    first = topics[0]
    cut = Topic(first.id, first.query, (*first.candidates, long, long), first.grades)
    topics = Topics("demo", (cut, *topics[1:]))
    told: list[tuple[str, int, int]] = []
    found = evaluate(
        topics, {"m": bundled}, depths=(5, 20), resamples=100, progress=lambda *step: told.append(step)
    )
    cost = found.systems[0].cost
    documents = sum(len(topic.candidates) for topic in topics)
    assert cost.documents == documents
    assert cost.truncated == pytest.approx(2 / documents)
    assert cost.ties == pytest.approx(2 / documents), "equal texts have equal logits"
    assert 0 < cost.p50_ms <= cost.p99_ms
    assert cost.docs_per_second > 0
    assert (cost.device, cost.dtype) == ("cpu", bundled.info.dtype)
    assert told[0] == ("m", 0, 8)
    assert told[-1] == ("m", 8, 8)
    scores = found.systems[0].scores
    assert sum(scores.relevant) + sum(scores.other) == documents
    assert len(scores.edges) == len(scores.other) + 1
    json.dumps(found.to_dict(), allow_nan=False)


def test_a_reranker_keeps_its_reading_but_not_its_cut(tiny_scorer: CrossEncoderScorer) -> None:
    long = Candidate("long", "word " * 1500)
    some = make_topics(queries=3, candidates=4)
    topics = Topics("t", tuple(Topic(t.id, t.query, (*t.candidates, long), t.grades) for t in some))
    windows = Reranker(tiny_scorer, long_documents="max_passage", top_k=1, min_score=0.9, scale="probability")
    found = evaluate(topics, {"cut": tiny_scorer, "windows": windows}, resamples=100)
    cut, whole = found.systems
    assert cut.cost.documents == whole.cost.documents == 15
    assert cut.cost.truncated == pytest.approx(0.2)
    assert whole.cost.truncated == 0


def test_several_systems_are_compared_with_the_best() -> None:
    systems = {"chance": ByText(chance), "right": ByText(right), "same": ByText(right)}
    found = evaluate(make_topics(), systems, resamples=500)
    assert found.best.name == "right"
    assert list(found.between) == ["chance", "same"]
    assert found.between["chance"].better
    assert found.between["same"].delta == 0
    assert found.best_possible.mean[PRIMARY] == found.best.measured.mean[PRIMARY] == 1


def test_a_given_run_counts_the_first_chunk_of_a_document() -> None:
    chunks = (Candidate("d", "first and long", 3.0), Candidate("e", "other"), Candidate("d", "last", 1.0))
    topic = Topic("1", "q", chunks, {"d": 1})
    assert given_order([topic], {"1": ["e", "d"]}, 2).orders == {2: {"1": [chunks[1], chunks[0]]}}


def test_a_given_run_may_hold_documents_of_its_own() -> None:
    topics = make_topics(5)
    run = {topic.id: ["elsewhere", next(iter(topic.grades))] for topic in topics}
    system = evaluate(topics, {"run": run}, resamples=100).systems[0]
    assert system.measured.mean["RR@10"] == 0.5
    assert (system.bearing, system.cost, system.scores, system.logits) == (None, None, None, {})


def test_queries_without_judgements_or_candidates_are_told() -> None:
    some = make_topics(4)
    topics = Topics(
        "t", (*some, Topic("u", "unjudged", some[0].candidates), Topic("n", "none", (), {"d": 1}))
    )
    found = evaluate(topics, {"s": ByText(right)}, resamples=100)
    assert (len(found.queries), found.left_out, found.without_candidates) == (5, 1, 1)
    assert found.systems[0].measured.mean["RR@10"] == pytest.approx(4 / 5)


def test_answers_of_queries_that_found_nothing() -> None:
    some = make_topics(3)
    topics = [Topic(t.id, t.query, t.candidates, answers=("right",)) for t in some]
    found = evaluate(
        Topics("t", (*topics, Topic("n", "none", (), answers=("right",)))),
        {"s": ByText(right)},
        resamples=100,
    )
    assert found.systems[0].bearing.recall[0] == 0.75
    assert found.systems[0].measured.mean["RR@10"] == 0.75


def test_what_cannot_be_evaluated_is_refused() -> None:
    topics = make_topics(3)
    with pytest.raises(InvalidInputError, match="at least one reranker"):
        evaluate(topics, {})
    with pytest.raises(InvalidInputError, match="depths must be"):
        evaluate(topics, {"s": ByText(right)}, depths=(0, 10))
    with pytest.raises(InvalidInputError, match="call retrieve first"):
        evaluate(load_demo(), {"s": ByText(right)})
    with pytest.raises(InvalidInputError, match="must have judgements or answers"):
        evaluate(Topics("t", (Topic("1", "q", (Candidate("a", "x"),)),)), {"s": ByText(right)})
    with pytest.raises(InvalidInputError, match="must have a method score"):
        evaluate(topics, {"s": 7})  # type: ignore[dict-item]


def test_a_failure_is_never_measured_as_an_order() -> None:
    failing = Reranker(ByText(lambda _: np.nan), on_error="keep_order")
    with pytest.raises(ScoringError, match=r"query q0 was not scored"):
        evaluate(make_topics(3), {"s": failing})


@pytest.mark.parametrize("package", ["ir_measures", "scipy", "bm25s", "matplotlib"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from rerank_plugins import MissingExtraError\n"
        "try:\n"
        "    from rerank_plugins.evaluation import load_demo, retrieve\n"
        "    retrieve(load_demo())\n"
        "    import rerank_plugins.evaluation.plots\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'pip install "rerank-plugins[eval]"' in done.stdout
