"""Calibration inside an evaluation: judged on queries it was not fitted on, at known probabilities."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rerank_plugins import Calibration, InvalidInputError, Reranker
from rerank_plugins.calibration import fit, threshold_for_precision
from rerank_plugins.evaluation import (
    Candidate,
    Evaluation,
    Topic,
    Topics,
    calibrate,
    evaluate,
    load_jsonl,
    verdict,
    write_report,
)
from rerank_plugins.evaluation.folds import fold_of
from rerank_plugins.evaluation.plots import plots
from rerank_plugins.evaluation.tables import tables
from rerank_plugins.evaluation.tables_chosen import min_score_text
from tests.evaluation import ByText, right

TEMPERATURE, OFFSET = 3.0, 2.0


def known_probabilities(queries: int, seed: int = 0, without: int = 0) -> tuple[Topics, ByText]:
    """Return topics whose relevance is drawn with probability sigmoid((logit - 2) / 3)."""
    draw = np.random.default_rng(seed)
    topics, logits = [], {}
    for q in range(queries):
        found = draw.normal(-6, 8, 20)
        labels = draw.random(20) < 1 / (1 + np.exp(-(found - OFFSET) / TEMPERATURE))
        nothing = q >= queries - without
        candidates = tuple(Candidate(f"{q}-{i}", f"text {q} {i}", -float(i)) for i in range(20))
        logits |= {f"text {q} {i}": float(-8 if nothing else x) for i, x in enumerate(found)}
        grades = {} if nothing else {f"{q}-{i}": int(label) for i, label in enumerate(labels)}
        topics.append(Topic(f"q{q}", f"question {q}", candidates, grades, unanswerable=nothing))
    return Topics("known", tuple(topics), first_stage="any order"), ByText(lambda text: logits[text])


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    topics, scorer = known_probabilities(300)
    return evaluate(
        topics, {"s": scorer}, calibrate=True, precision=0.8, timed_queries=0, resamples=500, fusions=("rrf",)
    )


def test_the_known_parameters_are_found_and_the_probabilities_hold(evaluation: Evaluation) -> None:
    plain, fused = evaluation.systems
    found = plain.calibrated
    assert fused.calibrated is None, "it has the logits of its own"
    assert found.calibration.temperature == pytest.approx(TEMPERATURE, rel=0.1)
    assert found.calibration.offset == pytest.approx(OFFSET, abs=0.4)
    assert found.calibrated.ece < 0.02 < found.sigmoid.ece
    assert found.calibrated.brier < found.sigmoid.brier
    assert (found.calibration.data, found.calibration.pairs) == ("known", 6000)


def test_the_wanted_precision_comes_out_on_queries_that_did_not_choose(evaluation: Evaluation) -> None:
    found = evaluation.systems[0].calibrated
    assert 0.8 <= found.precision < 0.9
    assert found.high > 0.8
    assert found.threshold.precision >= 0.8
    assert 0.1 < found.recall < 1


def test_cross_fitting_by_hand() -> None:
    topics, scorer = known_probabilities(23, seed=4)
    logits = {t.id: [scorer.logit(c.text) for c in t.candidates] for t in topics}
    found = calibrate(topics, logits, precision=0.7, seed=9, resamples=200)
    folds, kept, hits, squares = fold_of(23, 9), 0, 0, []
    of_query = [(np.array(logits[t.id]), np.array([t.grades[c.id] for c in t.candidates])) for t in topics]
    for fold in range(5):
        others = [pair for pair, f in zip(of_query, folds, strict=True) if f != fold]
        x, y = (np.concatenate(one) for one in zip(*others, strict=True))
        fitted = fit(x, y)
        whose = np.repeat(np.arange(len(others)), [len(values) for values, _ in others])
        chosen = threshold_for_precision(fitted.apply(x), y, 0.7, confidence=0.8, queries=whose)
        least = chosen.min_score
        for (values, labels), f in zip(of_query, folds, strict=True):
            if f == fold:
                p = fitted.apply(values)
                squares += ((p - labels) ** 2).tolist()
                kept += int((p >= least).sum())
                hits += int(labels[p >= least].sum())
    assert found.precision == pytest.approx(hits / kept)
    assert found.calibrated.brier == pytest.approx(np.mean(squares))
    assert found.kept == pytest.approx(kept / 23)


def test_the_interval_of_precision_holds_the_truth_as_often_as_it_says() -> None:
    """A threshold on scores that are probabilities keeps a known share; queries are drawn again."""
    from rerank_plugins.evaluation.statistics import ratio_interval

    held = []
    for seed in range(200):
        draw = np.random.default_rng(seed)
        kept = draw.integers(0, 4, 120)
        low, high = ratio_interval(draw.binomial(kept, 0.8), kept, resamples=499, seed=seed)
        held.append(low <= 0.8 <= high)
    assert 0.89 < np.mean(held) < 0.995
    kept, right = np.array([4, *[0] * 30]), np.array([1, *[0] * 30])
    assert ratio_interval(right, kept, resamples=499) == (0.25, 0.25)  # resamples without it say nothing
    assert ratio_interval(np.zeros(3, int), np.zeros(3, int)) == (None, None)
    assert ratio_interval(np.ones(1, int), np.ones(1, int)) == (None, None)


def test_queries_that_nothing_answers_count_in_calibrations_only() -> None:
    topics, scorer = known_probabilities(60, without=20)
    found = evaluate(topics, {"s": scorer}, calibrate=True, precision=0.7, timed_queries=0, resamples=100)
    assert (len(found.queries), found.unanswerable, found.left_out) == (40, 20, 0)
    refusals = found.systems[0].calibrated.refusals
    assert refusals.unanswerable >= 20
    assert refusals.rightly_refused >= 20, "all their logits are -8"
    assert refusals.answerable + refusals.unanswerable == 60
    assert refusals.found + refusals.misled + refusals.refused == refusals.answerable
    assert found.systems[0].calibrated.calibration.pairs == 60 * 20
    scorer.calls.clear()
    plain = evaluate(topics, {"s": scorer}, timed_queries=0, resamples=100)
    assert len(scorer.calls) == 1 + 40, "not scored in vain"
    assert plain.systems[0].measured == found.systems[0].measured


def test_taking_the_right_ones_away_leaves_nothing_to_keep() -> None:
    topics = tuple(
        Topic(
            f"q{q}",
            "?",
            tuple(Candidate(f"{q}-{i}", f"{'right' if i == q % 3 else 'no'} {q} {i}") for i in range(6)),
            {f"{q}-{q % 3}": 1},
        )
        for q in range(30)
    )
    found = evaluate(
        Topics("t", topics),
        {"s": ByText(right)},
        precision=0.95,
        calibrate=True,
        timed_queries=0,
        resamples=100,
    )
    refusals = found.systems[0].calibrated.refusals
    assert (refusals.found, refusals.misled, refusals.refused, refusals.emptied_refused) == (30, 0, 0, 30)
    assert found.systems[0].calibrated.precision == found.systems[0].calibrated.recall == 1


def test_own_data_say_what_nothing_answers(tmp_path: Path) -> None:
    rows = [
        {"query": "a", "documents": ["x"], "relevant": [0]},
        {"query": "b", "documents": ["x"], "relevant": []},
        {"query": "c", "documents": ["x"], "answers": []},
        {"query": "d", "documents": ["x"], "answers": ["y"]},
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert [topic.unanswerable for topic in load_jsonl(path)] == [False, True, True, False]


def test_the_report_has_it_all_and_its_file_works(evaluation: Evaluation, tmp_path: Path) -> None:
    names = [path.name for path in write_report(evaluation, tmp_path)]
    assert names == ["report.json", "report.md", "report.html", "calibration.json"]
    calibration = Calibration.load(tmp_path / "calibration.json")
    assert calibration == evaluation.systems[0].calibrated.calibration
    scorer = ByText(lambda text: 5.0 if text == "a" else -5.0)
    least = evaluation.systems[0].calibrated.threshold.min_score
    reranker = Reranker(
        scorer, scale="calibrated", calibration=str(tmp_path / "calibration.json"), min_score=least
    )
    assert [ranked.text for ranked in reranker.rank("q", ["b", "a"])] == ["a"]
    titles = [table.title for table in tables(evaluation)]
    for title in (
        "Calibrated scores",
        "A threshold for a precision of 80%",
        "None of these passages answers",
    ):
        assert title in titles
    assert "Do probabilities hold? s" in plots(evaluation)
    assert any("scale=calibrated and min_score=0." in sentence for sentence in verdict(evaluation))


def test_each_system_writes_a_file_of_its_own(evaluation: Evaluation, tmp_path: Path) -> None:
    names = ["s", "org/model v2", "org-model-v2"]
    found = evaluation.systems[0].calibrated
    several = tuple(
        replace(
            evaluation.systems[0],
            name=name,
            calibrated=replace(found, calibration=replace(found.calibration, data=name)),
        )
        for name in names
    )
    between = dict.fromkeys(names[1:], evaluation.between["s + rrf"])
    paths = write_report(replace(evaluation, systems=several, between=between), tmp_path)[3:]
    assert [path.name for path in paths] == [
        *("calibration-s.json", "calibration-org-model-v2.json", "calibration-org-model-v2-2.json")
    ]
    assert [Calibration.load(path).data for path in paths] == names


@pytest.mark.parametrize("scores", [[0.00004, 0.00003], [0.99997, 0.99996], [1 / 3, 0.33333], [1.0, 0.5]])
def test_a_threshold_as_text_keeps_what_was_measured(scores: list[float]) -> None:
    chosen = threshold_for_precision(scores, [1, 0], 1.0)
    assert [score >= float(min_score_text(chosen)) for score in scores] == [True, False]


def test_what_cannot_be_calibrated_is_said_and_nothing_is_lost() -> None:
    topics, _ = known_probabilities(20)
    found = evaluate(topics, {"no": ByText(lambda _: 0.0)}, calibrate=True, timed_queries=0, resamples=100)
    system = found.systems[0]
    assert system.calibrated is None
    assert "logits must rise with labels" in system.not_calibrated
    assert any("no could not be calibrated: logits must rise" in sentence for sentence in verdict(found))
    for precision in (90, "0.9"):
        with pytest.raises(InvalidInputError, match="precision must be from 0 to 1"):
            evaluate(topics, {"no": ByText(right)}, calibrate=True, precision=precision)


def test_a_precision_that_is_never_reached_keeps_nothing(tmp_path: Path) -> None:
    topics, scorer = known_probabilities(40)
    flat = ByText(lambda text: min(scorer.logit(text), 0.0))  # the best are alike, and not all right
    found = evaluate(topics, {"s": flat}, calibrate=True, precision=1.0, timed_queries=0, resamples=100)
    assert math.isinf(found.systems[0].calibrated.threshold.min_score)
    assert any("No threshold keeps 100% relevant" in sentence for sentence in verdict(found))
    write_report(found, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["systems"][0]["calibrated"]["threshold"]["min_score"] is None
