"""MTEB's reranking interface, installed and run for real, on a task of our own: equal figures."""

import subprocess
import sys

import mteb
import pytest
from datasets import Dataset
from ir_measures import AP, RR, P, R, nDCG
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from rerank_plugins import CrossEncoderScorer, Reranker, ScoringError
from rerank_plugins.evaluation import Topics, evaluate, load_demo, measure_run, retrieve
from rerank_plugins.evaluation.mteb import MTEBCrossEncoder
from tests.evaluation import ByText, chance


@pytest.fixture(scope="module")
def topics() -> Topics:
    return retrieve(load_demo(), depth=12)


class DemoReranking(AbsTaskRetrieval):
    """The demo as a task of MTEB's; nothing is downloaded."""

    metadata = TaskMetadata(
        name="DemoReranking",
        description="The demo of rerank-plugins.",
        reference=None,
        dataset={"path": "local/demo", "revision": "1"},
        type="Reranking",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="ndcg_at_10",
    )
    topics: Topics

    def load_data(self, *_: object, **__: object) -> None:
        rows = {candidate.id: candidate.text for topic in self.topics for candidate in topic.candidates}
        judged = {qid: dict(topic.grades) for topic in self.topics for qid in [topic.id]}
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list([{"id": k, "title": "", "text": v} for k, v in rows.items()]),
                    "queries": Dataset.from_list([{"id": t.id, "text": t.query} for t in self.topics]),
                    "relevant_docs": judged,
                    "top_ranked": {t.id: [c.id for c in t.candidates] for t in self.topics},
                }
            }
        }
        self.data_loaded = True


def by_mteb(topics: Topics, model: MTEBCrossEncoder) -> dict[str, float]:
    task = DemoReranking()
    task.topics = topics
    (result,) = mteb.evaluate(model, task, cache=None, co2_tracker=False, show_progress_bar=False)
    return result.scores["test"][0]


def test_mteb_takes_it_for_a_cross_encoder(bundled: CrossEncoderScorer) -> None:
    model = MTEBCrossEncoder(bundled)
    assert isinstance(model, mteb.CrossEncoderProtocol)
    meta = model.mteb_model_meta
    assert (meta.name, meta.is_cross_encoder) == ("rerank-plugins/bundled", True)
    assert meta.max_tokens == bundled.info.max_length
    named = MTEBCrossEncoder(bundled, name="me/mine", revision="7").mteb_model_meta
    assert (named.name, named.revision) == ("me/mine", "7")


def test_figures_of_a_task_are_those_of_our_harness(topics: Topics, bundled: CrossEncoderScorer) -> None:
    theirs = by_mteb(topics, MTEBCrossEncoder(bundled))
    ours = evaluate(topics, {"m": bundled}, timed_queries=0, resamples=100).systems[0].measured.mean
    # MTEB rounds to five digits.
    assert theirs["ndcg_at_10"] == pytest.approx(ours["nDCG@10"], abs=6e-6)
    assert theirs["main_score"] == theirs["ndcg_at_10"]
    assert theirs["recall_at_5"] == pytest.approx(ours["R@5"], abs=6e-6)
    assert theirs["precision_at_5"] == pytest.approx(ours["P@5"], abs=6e-6)
    assert theirs["mrr_at_10"] == pytest.approx(ours["RR@10"], abs=6e-6)
    assert theirs["map_at_100"] == pytest.approx(ours["AP"], abs=6e-6)
    assert (
        theirs["ndcg_at_10"]
        > measure_run(
            {t.id: [c.id for c in t.candidates] for t in topics}, {t.id: t.grades for t in topics}
        ).mean["nDCG@10"]
    )


def test_figures_of_a_model_that_knows_nothing_agree_too(topics: Topics) -> None:
    theirs = by_mteb(topics, MTEBCrossEncoder(ByText(chance)))
    order = {t.id: [c.id for c in sorted(t.candidates, key=lambda c: -chance(c.text))] for t in topics}
    measures = [nDCG @ 3, AP @ 10, R @ 3, P @ 3, RR @ 3]
    ours = measure_run(order, {t.id: t.grades for t in topics}, measures).mean
    for name, measure in zip(("ndcg", "map", "recall", "precision", "mrr"), measures, strict=True):
        k = 10 if name == "map" else 3
        assert theirs[f"{name}_at_{k}"] == pytest.approx(ours[str(measure)], abs=6e-6)


def test_a_reranker_keeps_its_reading_but_not_its_cut(bundled: CrossEncoderScorer) -> None:
    windows = Reranker(bundled, long_documents="max_passage", top_k=1, min_score=0.9)
    text = "word " * 2000 + "Goethe wrote Faust."
    batches = [{"text": ["who wrote Faust?"] * 2}], [{"text": ["A fist is a hand.", text]}]
    cut = MTEBCrossEncoder(bundled).predict(*batches)
    read = MTEBCrossEncoder(windows).predict(*batches)
    assert cut.shape == read.shape == (2,)
    assert read[0] == pytest.approx(cut[0], abs=1e-4)
    assert read[1] > cut[1]


def test_fusion_has_no_part_in_it() -> None:
    batches = [{"text": ["q"] * 3}], [{"text": ["a", "b", "c"]}]
    fused = MTEBCrossEncoder(Reranker(ByText(chance), fusion=0.5)).predict(*batches)
    assert fused.tolist() == MTEBCrossEncoder(ByText(chance)).predict(*batches).tolist()


def test_a_failure_is_never_a_score() -> None:
    failing = Reranker(ByText(lambda _: float("nan")), on_error="keep_order")
    with pytest.raises(ScoringError, match="'q' was not scored"):
        MTEBCrossEncoder(failing).predict([{"text": ["q"]}], [{"text": ["d"]}])


def test_without_mteb_the_package_is_named() -> None:
    code = (
        "import sys; sys.modules['mteb'] = None\n"
        "import rerank_plugins.evaluation\n"
        "from rerank_plugins import MissingExtraError\n"
        "try:\n    import rerank_plugins.evaluation.mteb\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install mteb" in done.stdout
