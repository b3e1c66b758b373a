"""Calibration: fitted, stored, applied; reliability and thresholds."""

import io
import json
import logging
import math
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression

from rerank_plugins import (
    CrossEncoderScorer,
    InvalidInputError,
    MissingExtraError,
    Reranker,
    RerankSettings,
)
from rerank_plugins.calibration import (
    PLAIN,
    Calibration,
    Reliability,
    fit,
    plot_reliability,
    reliability,
    threshold_for_precision,
)
from tests.scorers import Fixed


def simulate(count: int, temperature: float, offset: float, seed: int = 0) -> tuple[Any, Any]:
    """Return logits, and labels that are as likely as the calibration with these numbers says."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 5, count)
    return logits, random.random(count) < 1 / (1 + np.exp(-(logits - offset) / temperature))


CALIBRATION = Calibration(2.0, 1.0, model="m", revision="r", method="platt", data="d", pairs=9, relevant=3)


# -- the scale


@given(st.floats(0.01, 100), st.floats(-20, 20), st.lists(st.floats(-30, 30, width=32), max_size=20))
def test_it_is_the_sigmoid_of_a_line_and_keeps_the_order(
    temperature: float, offset: float, logits: list[float]
) -> None:
    values = Calibration(temperature, offset).apply(logits)
    expected = [0.5 + 0.5 * math.tanh((x - offset) / temperature / 2) for x in logits]
    assert values.tolist() == pytest.approx(expected, abs=1e-12)
    by_logit = np.argsort(logits, kind="stable")
    assert (np.diff(values[by_logit]) >= 0).all()


def test_it_is_strictly_monotone_where_floats_are() -> None:
    values = CALIBRATION.apply(np.linspace(-60, 60, 1001))
    assert (np.diff(values) > 0).all()
    assert (values[0] + values[-1], CALIBRATION.apply(1.0)) == (pytest.approx(1, abs=1e-10), 0.5)


def test_extremes_saturate_without_warnings() -> None:
    assert Calibration(5e-324, 0.0).apply([-9, 0, 9]).tolist() == [0, 0.5, 1]
    assert Calibration(1e308, 0.0).apply([-9, 9]).tolist() == [0.5, 0.5]
    assert PLAIN.apply([-1000.0, 1000.0]).tolist() == [0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf, "2", None, True])
@pytest.mark.parametrize("name", ["temperature", "offset"])
def test_numbers_must_be_finite(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=rf"Calibration\.{name} must be a finite number, but got "):
        Calibration(**{"temperature": 1.0, "offset": 0.0, name: value})


@pytest.mark.parametrize("temperature", [0, 0.0, -1])
def test_a_temperature_is_above_0(temperature: float) -> None:
    with pytest.raises(InvalidInputError, match="above 0"):
        Calibration(temperature, 0.0)


# -- stored


def test_a_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    CALIBRATION.save(path)
    assert Calibration.load(path) == Calibration.load(str(path)) == CALIBRATION
    assert json.loads(path.read_text()) == {
        "temperature": 2.0,
        "offset": 1.0,
        "model": "m",
        "revision": "r",
        "method": "platt",
        "data": "d",
        "pairs": 9,
        "relevant": 3,
    }
    path.write_text('{"temperature": 3, "offset": 0}')
    assert Calibration.load(path) == Calibration(3.0, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "JSON"),
        ('{"temperature": 1}', "offset"),
        ('{"temperature": 1, "offset": 0, "slope": 2}', "slope"),
        ('{"temperature": -1, "offset": 0}', "above 0"),
        ('{"temperature": "warm", "offset": 0}', "warm"),
    ],
)
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text)
    with pytest.raises(InvalidInputError, match=rf"calibration\.json.*{message}"):
        Calibration.load(path)
    with pytest.raises(InvalidInputError, match=rf"calibration\.json.*{message}"):
        RerankSettings(calibration=path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"calibration must be a file that can be written, .*nowhere"):
        CALIBRATION.save(tmp_path / "nowhere" / "calibration.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"nowhere\.json.*No such file"):
        RerankSettings(calibration=str(tmp_path / "nowhere.json"))


# -- a setting


def test_settings_take_it_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "calibration.json"
    CALIBRATION.save(path)
    expected = RerankSettings(calibration=CALIBRATION, scale="calibrated")
    for form in (path, str(path), {"temperature": 2, "offset": 1, "pairs": 9, "relevant": 3}):
        settings = RerankSettings(calibration=form, scale="calibrated")
        assert settings.calibration is not None
        assert (settings.calibration.temperature, settings.calibration.pairs) == (2.0, 9)
    assert RerankSettings(calibration=path, scale="calibrated") == expected
    monkeypatch.setenv("RERANK_CALIBRATION", str(path))
    monkeypatch.setenv("RERANK_SCALE", "calibrated")
    assert RerankSettings() == expected
    monkeypatch.delenv("RERANK_CALIBRATION")
    assert Reranker(Fixed([]), calibration=CALIBRATION).settings == expected


def test_settings_survive_json_pickle_and_hashing() -> None:
    settings = RerankSettings(calibration=CALIBRATION, scale="calibrated", min_score=math.inf)
    assert RerankSettings.model_validate_json(settings.model_dump_json()) == settings
    assert RerankSettings(**json.loads(settings.model_dump_json())) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert {settings: 1}[RerankSettings(**settings.model_dump())] == 1


def test_the_scale_needs_a_calibration() -> None:
    for make in (RerankSettings, lambda **options: Reranker(Fixed([]), **options)):
        with pytest.raises(InvalidInputError, match=r"needs a calibration.*RERANK_CALIBRATION"):
            make(scale="calibrated")
    with pytest.raises(InvalidInputError, match="needs a calibration"):
        Reranker(Fixed([1.0])).rank("q", ["a"], scale="calibrated")
    with pytest.raises(InvalidInputError, match=r"calibration\.offset"):
        RerankSettings(calibration={"temperature": 1.0})


def test_scores_are_on_it_and_the_order_is_that_of_the_logits() -> None:
    logits = [300.0, -2.0, 400.0, 1.0]
    reranker = Reranker(Fixed(logits), scale="calibrated", calibration=CALIBRATION)
    ranking = reranker.rank("q", list("abcd"))
    assert ranking.scale == "calibrated"
    assert [document.index for document in ranking] == [2, 0, 3, 1]  # the best two saturate
    assert [document.score for document in ranking] == CALIBRATION.apply([400, 300, 1, -2]).tolist()
    assert all(type(document.score) is float for document in ranking)
    kept = reranker.rank("q", list("abcd"), min_score=0.5)
    assert [document.index for document in kept] == [2, 0, 3]
    plain = reranker.rank("q", list("abcd"), scale="probability")
    assert [document.score for document in plain] == PLAIN.apply([400, 300, 1, -2]).tolist()


def test_a_calibration_of_another_model_is_told(
    bundled: CrossEncoderScorer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "rerank_plugins"):
        Reranker(bundled, calibration=Calibration(1.0, 0.0, model="bundled"))
        Reranker(bundled, calibration=Calibration(1.0, 0.0))
        assert not caplog.records
        Reranker(bundled, calibration=Calibration(1.0, 0.0, model="another"))
    assert "fitted for model another, but the scorer's is bundled" in caplog.text


# -- fitted


@pytest.mark.parametrize(("temperature", "offset"), [(1.0, 0.0), (2.5, 1.5), (0.6, -4.0)])
def test_fit_finds_the_numbers_that_made_the_data(temperature: float, offset: float) -> None:
    fitted = fit(*simulate(40_000, temperature, offset), model="m", revision="r", data="simulated")
    assert fitted.temperature == pytest.approx(temperature, rel=0.05)
    assert fitted.offset == pytest.approx(offset, abs=0.1)
    assert (fitted.model, fitted.revision, fitted.method, fitted.data) == ("m", "r", "platt", "simulated")
    assert fitted.pairs == 40_000
    assert 0 < (fitted.relevant or 0) < 40_000


@pytest.mark.parametrize("shift", [0.0, 1e4])
def test_fit_agrees_with_scikit_learn(shift: float) -> None:
    logits, labels = simulate(300, 3.0, 2.0, seed=1)
    logits = logits + shift
    n1, n0 = labels.sum(), (~labels).sum()
    targets = np.where(labels, (n1 + 1) / (n1 + 2), 1 / (n0 + 2))
    # A soft target is a pair that counts a bit for each label.
    x = np.concatenate([logits, logits])[:, None] - shift
    y, weights = np.repeat([1, 0], len(logits)), np.concatenate([targets, 1 - targets])
    reference = LogisticRegression(C=np.inf, tol=1e-12, max_iter=10_000).fit(x, y, weights)
    slope, intercept = float(reference.coef_[0, 0]), float(reference.intercept_[0])
    fitted = fit(logits, labels)
    assert fitted.temperature == pytest.approx(1 / slope, rel=1e-5)
    assert fitted.offset - shift == pytest.approx(-intercept / slope, abs=1e-4)


def test_fit_is_finite_where_labels_can_be_told_apart() -> None:
    fitted = fit([-1.0, 1.0], [0, 1])
    # Targets 1/3 and 2/3 are met exactly.
    assert fitted.apply([-1.0, 1.0]).tolist() == pytest.approx([1 / 3, 2 / 3])


def test_fit_does_not_care_for_the_torch_mode() -> None:
    with torch.inference_mode():
        inference = fit([-1.0, 1.0], [0, 1])
    with torch.no_grad():
        assert fit([-1.0, 1.0], [False, True]) == inference


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([1.0, 2.0], [1, 1], "both 0 and 1, but got 0 and 2"),
        ([], [], "both 0 and 1"),
        ([1.0, 2.0], [1, 0], "must rise with labels"),
        ([1.0, 1.0], [1, 0], "must rise with labels"),
        ([1.0], [1, 0], "one length"),
        ([[1.0]], [[1]], "one length"),
        ([1.0, math.nan], [1, 0], r"logits\[1\] must be finite, but got nan"),
        ([1.0, 2.0], [0, 2], r"labels\[1\] must be 0 or 1; .*grade >= 2, but got 2.0"),
        (["a", "b"], [0, 1], "must be numbers"),
    ],
)
def test_what_cannot_be_fitted_is_named(logits: Any, labels: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fit(logits, labels)


# -- reliability


def test_reliability_by_hand() -> None:
    found = reliability([0.0, 0.1, 0.5, 0.75, 1.0], [0, 1, 1, 0, 1], bins=4)
    assert found == Reliability(
        edges=(0.0, 0.25, 0.5, 0.75, 1.0),
        counts=(2, 0, 1, 2),
        predicted=(0.05, None, 0.5, 0.875),
        observed=(0.5, None, 1.0, 0.5),
    )
    assert found.expected_calibration_error == pytest.approx((2 * 0.45 + 0.5 + 2 * 0.375) / 5)


def test_reliability_tells_honest_from_overconfident_and_fitting_helps() -> None:
    logits, labels = simulate(40_000, 3.0, 1.0)
    honest = Calibration(3.0, 1.0).apply(logits)
    assert reliability(honest, labels).expected_calibration_error < 0.01
    assert reliability(PLAIN.apply(logits), labels).expected_calibration_error > 0.05
    half = 20_000
    fitted = fit(logits[:half], labels[:half])
    assert reliability(fitted.apply(logits[half:]), labels[half:]).expected_calibration_error < 0.01


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=40), st.integers(1, 20))
def test_every_probability_is_in_one_bin(rows: list[tuple[float, bool]], bins: int) -> None:
    found = reliability([p for p, _ in rows], [label for _, label in rows], bins)
    assert len(found.counts) == len(found.predicted) == len(found.observed) == bins == len(found.edges) - 1
    for i, count in enumerate(found.counts):
        low, high = found.edges[i], found.edges[i + 1]
        inside = [(p, y) for p, y in rows if low <= p < high or (i == bins - 1 and p == high)]
        assert len(inside) == count
        if inside:
            assert found.predicted[i] == pytest.approx(sum(p for p, _ in inside) / count)
            assert found.observed[i] == pytest.approx(sum(y for _, y in inside) / count)
        else:
            assert found.predicted[i] is found.observed[i] is None
    assert 0 <= found.expected_calibration_error <= 1


@pytest.mark.parametrize(
    ("probabilities", "bins", "message"),
    [
        ([1.2, 0.1], 10, "from 0 to 1"),
        ([0.2, -0.1], 10, "from 0 to 1"),
        ([0.2, 0.1], 0, "at least 1"),
        ([0.2, 0.1], 2.5, "bins must be a whole number of at least 1, but got 2.5"),
        ([0.2, 0.1], "3", "bins must be a whole number"),
    ],
)
def test_what_is_no_probability_is_named(probabilities: Any, bins: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        reliability(probabilities, [0, 1], bins)


def test_the_plot_draws_what_was_measured() -> None:
    logits, labels = simulate(500, 3.0, 1.0)
    measured = {"before": reliability(PLAIN.apply(logits), labels), "empty": reliability([], [])}
    figure = plot_reliability(measured)
    curves, sizes = figure.axes
    sure, unsure = (line.get_xydata().tolist() for line in curves.lines[1:3])
    data = measured["before"]
    bins = [b for b in zip(data.predicted, data.observed, data.counts, strict=True) if b[2]]
    assert sure == [[x, y] for x, y, count in bins if count >= 10]
    assert unsure == [[x, y] for x, y, count in bins if count < 10]
    labels = curves.get_legend_handles_labels()[1]
    assert [label.split(" (")[0] for label in labels] == [
        "as promised",
        "before",
        "empty",
        "fewer than 10 pairs",
    ]
    assert len(sizes.patches) == 2
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert file.getvalue().startswith(b"\x89PNG")


def test_a_plot_without_matplotlib_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "rerank-plugins\[bench\]"'):
        plot_reliability({})


# -- thresholds

labelled = st.lists(st.tuples(st.integers(-6, 6).map(float), st.booleans()), max_size=25)


@given(labelled, st.floats(0, 1))
def test_a_threshold_is_the_lowest_that_is_precise_enough(
    rows: list[tuple[float, bool]], precision: float
) -> None:
    found = threshold_for_precision([s for s, _ in rows], [y for _, y in rows], precision)
    good = []
    for least in {score for score, _ in rows}:
        kept = [relevant for score, relevant in rows if score >= least]
        if sum(kept) / len(kept) >= precision:
            good.append(least)
    kept = [relevant for score, relevant in rows if score >= found.min_score]
    assert found.kept == len(kept)
    if not good:
        assert (found.min_score, found.precision, found.recall) == (math.inf, None, 0.0)
        return
    assert found.min_score == min(good)
    assert found.precision == pytest.approx(sum(kept) / len(kept))
    total = sum(relevant for _, relevant in rows)
    assert found.recall == pytest.approx(sum(kept) / total if total else 0.0)


def test_a_reranker_keeps_what_the_threshold_says() -> None:
    logits, labels = simulate(200, 3.0, 1.0)
    reranker = Reranker(Fixed(logits), scale="calibrated", calibration=fit(logits, labels))
    documents = ["d"] * len(logits)
    scores = {document.index: document.score for document in reranker.rank("q", documents)}
    chosen = threshold_for_precision([scores[i] for i in range(len(logits))], labels, 0.9)
    kept = reranker.rank("q", documents, min_score=chosen.min_score)
    assert len(kept) == chosen.kept
    share = sum(labels[document.index] for document in kept) / len(kept)
    assert share == pytest.approx(chosen.precision)
    assert share >= 0.9
    nothing = threshold_for_precision([0.9], [0], 0.5)
    assert len(reranker.rank("q", documents, min_score=nothing.min_score)) == 0


def test_a_threshold_that_is_sure_has_its_precision_on_other_pairs_as_often_as_it_says() -> None:
    """Probabilities that are true, of queries whose documents are alike; chosen on some, kept of others."""

    def draw(generator: np.random.Generator, queries: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        of_query = generator.uniform(0.2, 0.95, queries)
        right = np.repeat(generator.random(queries) < of_query, 3)
        return np.repeat(of_query, 3), right, np.repeat(np.arange(queries), 3)

    reached: dict[str, list[bool]] = {"sure": [], "by documents": [], "not asked": []}
    for seed in range(300):
        generator = np.random.default_rng(seed)
        scores, labels, queries = draw(generator, 60)
        others, right, _ = draw(generator, 4000)
        options = {"sure": {"confidence": 0.8, "queries": queries}, "by documents": {"confidence": 0.8}}
        for name, held in reached.items():
            found = threshold_for_precision(scores, labels, 0.7, **options.get(name, {}))
            kept = others >= found.min_score
            held.append(not kept.any() or right[kept].mean() >= 0.7)
    assert np.mean(reached["sure"]) > 0.78
    assert np.mean(reached["sure"]) > np.mean(reached["by documents"]) > np.mean(reached["not asked"])
    assert np.mean(reached["not asked"]) < 0.6


def test_a_threshold_that_is_sure_agrees_with_scipy() -> None:
    scores, labels = np.arange(40, 0, -1.0), np.array([1] * 30 + [0] * 10)
    for wanted in (0.5, 0.7, 0.9):
        found = threshold_for_precision(scores, labels, wanted, confidence=0.9)
        ends = [
            stats.binomtest(int(labels[:n].sum()), n, alternative="greater").proportion_ci(0.9, "wilson").low
            for n in range(1, 41)
        ]
        assert found.kept == max(n for n, low in enumerate(ends, start=1) if low >= wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": 1.0}, "confidence must be in"),
        ({"confidence": "x"}, "confidence must be in"),
        ({"queries": [1, 2]}, "queries must be one a score, 1"),
    ],
)
def test_what_a_sure_threshold_refuses(options: dict, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        threshold_for_precision([1.0], [1], 0.5, **options)


@pytest.mark.parametrize("precision", [-0.1, 1.1, math.nan, "x", None])
def test_a_precision_is_a_share(precision: Any) -> None:
    with pytest.raises(InvalidInputError, match="precision must be from 0 to 1"):
        threshold_for_precision([1.0], [1], precision)
