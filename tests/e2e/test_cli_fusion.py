"""`rerank-plugins rank` with fusion and calibrated scores."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rerank_plugins import Calibration, CrossEncoderScorer
from rerank_plugins.cli.app import app

QUERY = "who wrote Faust?"
TEXTS = ["A fist is a hand.", "Faust is a play.", "Goethe wrote Faust."]


def run(*arguments: str) -> Result:
    command = ["rank", "-q", QUERY, "-m", "bundled", "--device", "cpu", *arguments]
    return CliRunner().invoke(app, command, input="\n".join(TEXTS))


def test_a_run_is_in_fused_order(bundled: CrossEncoderScorer) -> None:
    rows = [json.loads(line) for line in run("--fusion", "rrf", "--to", "jsonl").stdout.splitlines()]
    by_logit = sorted(range(3), key=lambda i: -bundled.score(QUERY, TEXTS)[i])
    expected = {place: 1 / (61 + place) + 1 / (61 + by_logit.index(place)) for place in range(3)}
    assert {row["index"]: row["fused"] for row in rows} == pytest.approx(expected)
    lines = [line.split() for line in run("--fusion", "rrf", "--to", "trec").stdout.splitlines()]
    assert [line[2] for line in lines] == [row["id"] for row in rows]
    scores = [float(line[4]) for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3
    assert scores == pytest.approx([row["fused"] for row in rows])


def test_scores_on_a_calibrated_scale(tmp_path: Path) -> None:
    path, calibration = tmp_path / "calibration.json", Calibration(2.0, 1.0)
    calibration.save(path)
    arguments = ("--scale", "calibrated", "--to", "jsonl")
    rows = [json.loads(line) for line in run("--calibration", str(path), *arguments).stdout.splitlines()]
    assert len(rows) == 3
    for row in rows:
        assert row["score"] == pytest.approx(float(calibration.apply(row["logit"])))
        assert row["fused"] is None
    assert "needs a calibration" in str(run(*arguments).exception)
