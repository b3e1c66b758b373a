"""Measures are those of ir_measures, and published figures come out exactly."""

from dataclasses import replace

import ir_measures
import pytest
from ir_measures import AP, RR, Judged, P, Qrel, R, ScoredDoc, nDCG

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.evaluation import Topics, evaluate, load_beir, load_hits, measure_run, read_run, retrieve
from rerank_plugins.evaluation.judgements import read_qrels
from rerank_plugins.evaluation.measures import PRIMARY, Judge, standard_measures
from tests.conftest import SHARED
from tests.evaluation import ByText, chance, make_topics, right

TREC = SHARED / "data" / "trec-dl"


def test_the_standard_measures() -> None:
    assert [str(measure) for measure in standard_measures()] == [
        *("nDCG@10", "RR@10", "AP", "R@5", "R@10", "R@20", "R@50", "R@100", "P@1", "P@5", "P@10", "Judged@10")
    ]
    assert standard_measures(2)[:3] == (nDCG @ 10, RR(rel=2) @ 10, AP(rel=2))
    assert standard_measures(2)[-1] == Judged @ 10
    assert R(rel=2) @ 20 in standard_measures(2)
    assert P(rel=2) @ 1 in standard_measures(2)


def test_every_judged_query_counts_and_repeated_documents_count_once() -> None:
    grades = {"1": {"a": 1}, "2": {"b": 1}, "3": {"b": 0}}
    found = measure_run({"1": ["x", "x", "a", "x", "a"], "2": [], "unjudged": ["b"]}, grades)
    assert found.by_query["RR@10"] == {"1": 0.5, "2": 0, "3": 0}
    assert found.mean["RR@10"] == pytest.approx(0.5 / 3)
    assert found.by_query["Judged@10"]["1"] == 0.5
    assert found.by_query["Judged@10"]["2"] == 0


def test_ties_are_in_the_order_given_whatever_the_ids() -> None:
    for ids in ("abc", "cba"):
        found = measure_run({"1": list(ids)}, {"1": {ids[0]: 1}})
        assert found.mean["RR@10"] == found.mean["P@1"] == 1


@pytest.mark.parametrize("relevant_from", [1, 2])
def test_a_whole_evaluation_equals_ir_measures_called_directly(relevant_from: int) -> None:
    topics = make_topics(queries=12, candidates=30)
    for topic in topics:  # grades of three levels, some documents not judged
        topic.grades.update({c.id: i % 3 for i, c in enumerate(topic.candidates[:15])})  # type: ignore[attr-defined]
    evaluation = evaluate(
        topics, {"s": ByText(chance)}, depths=(10, 30), relevant_from=relevant_from, resamples=100
    )
    qrels = [Qrel(t.id, docid, grade) for t in topics for docid, grade in t.grades.items()]
    after = [ScoredDoc(t.id, c.id, chance(c.text)) for t in topics for c in t.candidates]
    before = [ScoredDoc(t.id, c.id, c.score) for t in topics for c in t.candidates]
    measures = standard_measures(relevant_from)
    for run, ours in ((before, evaluation.first), (after, evaluation.systems[0].measured)):
        direct = ir_measures.calc(measures, qrels, run)
        assert ours.mean == pytest.approx({str(m): value for m, value in direct.aggregated.items()})
        for metric in direct.per_query:
            assert ours.by_query[str(metric.measure)][metric.query_id] == pytest.approx(metric.value)


def test_the_first_ten_reranked_equals_a_run_of_them() -> None:
    topics = make_topics(queries=12, candidates=30)
    ten = evaluate(topics, {"s": ByText(right)}, depths=(10, 30), resamples=100).systems[0].depths[0]
    run = [
        ScoredDoc(topic.id, candidate.id, 100 + right(candidate.text) if i < 10 else -i)
        for topic in topics
        for i, candidate in enumerate(topic.candidates)
    ]
    qrels = [Qrel(t.id, docid, grade) for t in topics for docid, grade in t.grades.items()]
    direct = ir_measures.calc_aggregate([nDCG @ 10, AP], qrels, run)
    assert ten.depth == 10
    assert (ten.measured.mean[PRIMARY], ten.measured.mean["AP"]) == pytest.approx(
        (direct[nDCG @ 10], direct[AP])
    )


def direct_ndcg(run: str, qrels: str) -> float:
    """Return what ir_measures says of the files themselves."""
    files = ir_measures.read_trec_qrels(str(TREC / qrels)), ir_measures.read_trec_run(str(TREC / run))
    return float(ir_measures.calc_aggregate([nDCG @ 10], *files)[nDCG @ 10])


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("run", "published"), [("BM25.dl19.run", 0.5058), ("rankvicuna.bm25-top100.dl19.run", 0.6682)]
)
def test_published_runs_of_trec_dl_2019(run: str, published: float) -> None:
    found = measure_run(read_run(TREC / run), read_qrels(TREC / "qrels.dl19-passage.txt"))
    assert round(found.mean[PRIMARY], 4) == published
    assert found.mean[PRIMARY] == pytest.approx(direct_ndcg(run, "qrels.dl19-passage.txt"), abs=1e-9)


def dl(year: int, first_stage: str = "BM25") -> Topics:
    return load_hits(TREC / f"{first_stage}.dl{year}.top100.json.gz", TREC / f"qrels.dl{year}-passage.txt")


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("first_stage", "year", "queries", "before", "best"),
    [
        ("BM25", 19, 43, 0.5058, 0.8922),
        ("BM25", 21, 53, 0.4458, 0.8351),
        ("SPLADE_P_P_ENSEMBLE_DISTIL", 19, 43, 0.7308, None),
    ],
)
def test_first_stages_of_trec_dl_and_their_best_possible_order(
    first_stage: str, year: int, queries: int, before: float, best: float | None
) -> None:
    topics = dl(year, first_stage)
    order = {topic.id: [candidate.id for candidate in topic.candidates] for topic in topics}
    found = evaluate(topics, {"itself": order}, resamples=100)
    assert len(found.queries) == queries
    assert round(found.first.mean[PRIMARY], 4) == before
    assert found.systems[0].comparison.delta == 0
    if best is not None:
        assert round(found.best_possible.mean[PRIMARY], 4) == best


@pytest.mark.shared_data
def test_rankvicuna_against_bm25() -> None:
    run = read_run(TREC / "rankvicuna.bm25-top100.dl19.run")
    found = evaluate(dl(19), {"RankVicuna": run}, relevant_from=2)
    system = found.systems[0]
    assert round(system.comparison.after, 4) == 0.6682
    assert system.comparison.better
    assert system.comparison.p_value < 0.001
    assert system.cost is None
    assert system.bearing is not None, "it reorders BM25's passages, whose texts are known"
    assert [one.depth for one in system.depths] == [100]


@pytest.fixture(scope="module")
def scifact() -> Topics:
    return retrieve(load_beir(SHARED / "data" / "scifact"))


QRELS = {
    "dl19": TREC / "qrels.dl19-passage.txt",
    "dl21": TREC / "qrels.dl21-passage.txt",
    "scifact": SHARED / "data" / "scifact" / "qrels.test.tsv",
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", QRELS)
def test_reranked_equals_ir_measures_called_directly(
    name: str, request: pytest.FixtureRequest, bundled: CrossEncoderScorer
) -> None:
    whole = request.getfixturevalue("scifact") if name == "scifact" else dl(int(name[2:]))
    relevant_from = 1 if name == "scifact" else 2
    topics = replace(whole.limit(8), corpus={})
    found = evaluate(
        topics, {"m": bundled}, depths=(10,), timed_queries=0, resamples=100, relevant_from=relevant_from
    )
    kept = {topic.id for topic in topics}
    rows = [line.split() for line in QRELS[name].read_text().splitlines()]
    qrels = [Qrel(row[0], row[-2], int(row[-1])) for row in rows if row[0] in kept]
    run = [
        ScoredDoc(topic.id, candidate.id, score - 1e-6 * place)  # ties keep the first stage's order
        for topic in topics
        for place, (candidate, score) in enumerate(
            zip(
                topic.candidates,
                [*(found.systems[0].logits[topic.id]), *range(-1001, -1001 - len(topic.candidates), -1)],
                strict=False,
            )
        )
    ]
    direct = ir_measures.calc_aggregate(standard_measures(relevant_from), qrels, run)
    assert found.systems[0].measured.mean == pytest.approx({str(m): v for m, v in direct.items()})


@pytest.mark.shared_data
def test_scifact_by_bm25s(scifact: Topics) -> None:
    topics = scifact
    assert len(topics) == 300
    assert len(topics.corpus) == 5183
    order = {topic.id: [candidate.id for candidate in topic.candidates] for topic in topics}
    judge = Judge({topic.id: topic.grades for topic in topics}, [nDCG @ 10])
    # Published BM25s are at 0.665 to 0.679.
    assert judge.measure(order).mean[PRIMARY] == pytest.approx(0.6666, abs=0.0005)
