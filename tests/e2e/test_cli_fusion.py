"""`rerank-plugins rank` with fusion and calibrated scores."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rerank_plugins import Calibration, CrossEncoderScorer, Reranker
from rerank_plugins.cli.app import app

QUERY = "who wrote Faust?"
TEXTS = ["A fist is a hand.", "Faust is a play.", "Goethe wrote Faust."]
RUN = {"run": "r.run", "queries": "q.tsv", "passages": "p.tsv"}


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


def fused_by_hand(bundled: CrossEncoderScorer, weight: float, first_stage: list[float]) -> list[int]:
    ranking = Reranker(bundled, fusion=weight).rank(QUERY, TEXTS, first_stage=first_stage)
    return [ranked.index for ranked in ranking]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_a_weight_takes_the_scores_of_a_run(
    weight: float, tmp_path: Path, bundled: CrossEncoderScorer
) -> None:
    (tmp_path / "q.tsv").write_text(f"1\t{QUERY}\n")
    (tmp_path / "p.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in enumerate(TEXTS)))
    scores = [9.5, 9.0, 1.5]
    (tmp_path / "r.run").write_text("".join(f"1 Q0 {i} {i + 1} {s} bm25\n" for i, s in enumerate(scores)))
    files = [f"--{name}={tmp_path / file}" for name, file in RUN.items()]
    command = ["rank", *files, "-m", "bundled", "--device", "cpu", "--to", "trec", "--fusion", str(weight)]
    done = CliRunner().invoke(app, command)
    order = [int(line.split()[2]) for line in done.stdout.splitlines()]
    assert order == fused_by_hand(bundled, weight, scores)
    if weight == 0:
        assert order == [0, 1, 2]


def test_a_weight_takes_the_scores_of_jsonl_and_needs_some(bundled: CrossEncoderScorer) -> None:
    scores = [1.0, 9.0, 2.0]
    lines = "\n".join(json.dumps({"text": t, "score": s}) for t, s in zip(TEXTS, scores, strict=True))
    command = ["rank", "-q", QUERY, "-m", "bundled", "--device", "cpu", "--to", "jsonl", "--fusion", "0.4"]
    rows = [json.loads(line) for line in CliRunner().invoke(app, command, input=lines).stdout.splitlines()]
    assert [row["index"] for row in rows] == fused_by_hand(bundled, 0.4, scores)
    assert "needs first-stage scores" in str(run("--fusion", "0.4").exception)
    assert "fusion must be" in str(run("--fusion", "half").exception)


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
