"""Labelling through Ray Data: what is killed continues, nothing is lost, nothing is done twice."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.cli import label as command
from rerank_plugins.cli import main
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.labelling import LabelReport, label
from rerank_plugins.labelling.cluster import Pool
from rerank_plugins.settings import ScorerSettings

Rows = list[dict[str, Any]]


def make_rows(count: int) -> Rows:
    return [
        {
            "id": f"p{i}",
            "query": f"who wrote book {i % 97}?",
            "document": f"author {i} wrote {'it ' * (i % 9)}",
        }
        for i in range(count)
    ]


def read(folder: Path) -> Rows:
    found: Rows = []
    for path in sorted(folder.glob("part-*")):
        rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else map(json.loads, path.open())
        found += rows
    return found


def check(found: Rows, rows: Rows, scorer: CrossEncoderScorer) -> None:
    """Every row once, in order, as it was, with the score that one process gives it."""
    assert [{name: row[name] for name in rows[0]} for row in found] == rows
    logits = scorer.score_pairs([(row["query"], row["document"]) for row in rows])
    np.testing.assert_allclose([row["logit"] for row in found], logits, atol=1e-4)
    np.testing.assert_allclose([row["score"] for row in found], 1 / (1 + np.exp(-logits)), atol=1e-4)
    assert not any(row["truncated"] for row in found)


def test_killed_driver_and_killed_worker_lose_nothing(
    tmp_path: Path, cluster: None, tiny: Path, tiny_scorer: CrossEncoderScorer
) -> None:
    rows, output = make_rows(6_000), tmp_path / "labels"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet", row_group_size=1_700)
    options = {"dtype": "float32", "workers": 2, "rows_per_shard": 250}
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "rerank_plugins", "label", "-i", str(tmp_path / "*.parquet")]
    command += ["-o", str(output), "-m", str(tiny), "--address", "local", *flags]
    with subprocess.Popen(command) as job:
        while len(list(output.glob("part-*"))) < 3:
            assert job.poll() is None, "the job ended early"
            time.sleep(0.01)
        job.kill()
    for path in sorted(output.glob("part-*"))[12:]:
        path.unlink()  # however fast it was, something is left to do
    before = len(list(output.glob("part-*")))

    killed: list[int] = []

    def kill_one(report: LabelReport) -> None:
        if not killed and report.pairs:
            killed.append(int(next(iter(report.workers)).rpartition(":")[2]))
            os.kill(killed[0], signal.SIGKILL)

    report = label(tmp_path / "*.parquet", output, model=str(tiny), progress=kill_one, **options)
    assert killed
    assert report.rows == report.done == report.before + report.pairs == 6_000
    assert report.before >= 250 * before
    check(read(output), rows, tiny_scorer)
    # Nothing else is left, and nothing is left to do.
    assert sorted(path.suffix for path in output.iterdir()) == [".json", *[".parquet"] * 24]
    assert label(tmp_path / "*.parquet", output, model=str(tiny), **options).pairs == 0


def test_rows_without_text(
    tmp_path: Path, cluster: None, tiny: Path, tiny_scorer: CrossEncoderScorer
) -> None:
    rows = make_rows(60)
    bad = {7: None, 31: 4.5, 42: "\ud800"}
    mixed = [row | {"document": bad[i]} if i in bad else row for i, row in enumerate(rows)]
    path, output = tmp_path / "pairs.jsonl", tmp_path / "labels"
    # A blank line is no row; the last line has no end.
    path.write_text("\n" + "\n".join(map(json.dumps, mixed)))
    options: dict[str, Any] = {"model": str(tiny), "dtype": "float32", "workers": 1, "rows_per_shard": 25}
    with pytest.raises(InvalidInputError, match=r"row 9 of .*pairs.jsonl must have a text as 'document'"):
        label(path, output, **options)
    report = label(path, output, on_bad="skip", **options)
    assert report.bad == 3
    found = read(output)
    assert [{name: row[name] for name in rows[0]} for row in found] == mixed
    assert [i for i, row in enumerate(found) if row["logit"] is row["score"] is row["truncated"] is None] == [
        *bad
    ]
    good = [i for i in range(60) if i not in bad]
    check([found[i] for i in good], [rows[i] for i in good], tiny_scorer)


def test_relative_paths_are_of_the_caller_not_of_the_workers(
    tmp_path: Path,
    cluster: None,
    tiny: Path,
    tiny_scorer: CrossEncoderScorer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = make_rows(20)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "model").symlink_to(tiny)
    monkeypatch.chdir(tmp_path)  # Ray runs already, in another folder
    for _ in range(2):
        label("pairs.jsonl", "labels", model="model", dtype="float32", workers=1)
        check(read(tmp_path / "labels"), rows, tiny_scorer)


def test_types_that_no_column_has_are_refused_before_anything_is_written(
    tmp_path: Path, cluster: None, tiny: Path
) -> None:
    rows = [{"query": "who wrote Faust?", "document": document} for document in ("Goethe wrote Faust.", 4.5)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options: dict[str, Any] = {"model": str(tiny), "on_bad": "skip", "workers": 1}
    with pytest.raises(InvalidInputError, match=r"columns of one type each .*write jsonl"):
        label(tmp_path / "in.jsonl", tmp_path / "out", to="parquet", **options)
    report = label(tmp_path / "in.jsonl", tmp_path / "out", to="jsonl", **options)
    assert report.rows == 2


def test_jsonl_becomes_parquet_of_one_schema(tmp_path: Path, cluster: None, tiny: Path) -> None:
    # A column that is null in one shard and has values in another.
    rows = [row | {"note": None if i < 30 else "late", "score": i} for i, row in enumerate(make_rows(60))]
    (tmp_path / "in").mkdir()
    for name, part in {"b.jsonl": rows[30:], "a.jsonl": rows[:30]}.items():
        (tmp_path / "in" / name).write_text("".join(json.dumps(row) + "\n" for row in part))
    with pytest.raises(InvalidInputError, match="must not have a column 'score' already"):
        label(tmp_path / "in", tmp_path / "out", model=str(tiny), to="parquet", workers=1)
    label(tmp_path / "in", tmp_path / "out", model=str(tiny), to="parquet", workers=1, prefix="tiny_")
    table = pq.read_table(tmp_path / "out")
    assert table.select(list(rows[0])).to_pylist() == rows
    kinds = [str(table.schema.field(f"tiny_{name}").type) for name in ("logit", "score", "truncated")]
    assert kinds == ["float", "double", "bool"]
    # An interrupted job continues as it began, or not at all.
    again: dict[str, Any] = {"to": "parquet", "workers": 1, "prefix": "tiny_"}
    for change, named in (
        ({"model": "bundled"}, "model"),
        ({"rows_per_shard": 7}, "rows_per_shard"),
        ({"prefix": "other_"}, "prefix"),
        ({"max_length": 64}, "max_length"),
    ):
        with pytest.raises(InvalidInputError, match=f"only be continued as it began, but .*{named}"):
            label(tmp_path / "in", tmp_path / "out", **{"model": str(tiny)} | again | change)
    (tmp_path / "in" / "b.jsonl").unlink()
    with pytest.raises(InvalidInputError, match=r"input .*b\.jsonl changed since"):
        label(tmp_path / "in", tmp_path / "out", model=str(tiny), **again)
    with (tmp_path / "in" / "a.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(InvalidInputError, match=r"input .*a\.jsonl changed since"):
        label(tmp_path / "in", tmp_path / "out", model=str(tiny), **again)


def test_a_worker_that_will_never_fit_is_refused(
    cluster: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = ScorerSettings(model="bundled", device="cpu")
    for cpus, gpus in ((5, None), (1, 99)):
        message = rf"has 4 CPUs and \d+ GPUs, but got cpus={cpus} and gpus={gpus or 0}; ask for no more"
        with pytest.raises(InvalidInputError, match=message):
            Pool.of(None, None, cpus, gpus, settings)
    assert not caplog.text
    assert Pool.of(6, None, 1, None, settings).least == 6
    assert "there is room for 4 of 6 workers now" in caplog.text
    # A cluster may grow.
    monkeypatch.setattr("rerank_plugins.labelling.cluster._started_here", lambda: False)
    assert Pool.of(None, None, 5, None, settings).least == 1
    assert "there is room for 0 of 1 workers now" in caplog.text


def test_the_command_shows_what_the_library_warns_of(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: Any, **__: Any) -> None:
        logging.getLogger("rerank_plugins.labelling.cluster").warning("no room")
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run", run)
    monkeypatch.setattr(sys, "argv", ["rerank-plugins", "label", "-i", "pairs.jsonl", "-o", "labels"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.count("no room") == 1
