"""Inputs and outputs of labelling, without Ray: what is read, split, written and refused."""

import gzip
import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.labelling import label
from rerank_plugins.labelling.job import Columns, Job, ModelPrint, json_schema, measure
from rerank_plugins.labelling.store import InputFile, Store, find_inputs
from rerank_plugins.labelling.tables import (
    JsonRows,
    TableRows,
    count_lines,
    read_lines,
    read_table,
    sample_lines,
)
from rerank_plugins.settings import ScorerSettings

LOCAL = fs.LocalFileSystem()


@pytest.mark.parametrize("every", [1, 3, 10, 100])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("end", ["", "\n"])
def test_every_line_is_in_one_shard(tmp_path: Path, every: int, packed: bool, end: str) -> None:
    rows = [{"n": i, "text": "ü\u2028\t" * (i % 5)} for i in range(10)]
    text = ("\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + end).encode()
    path = str(tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl"))
    Path(path).write_bytes(gzip.compress(text) if packed else text)
    count, offsets = count_lines(LOCAL, path, every)
    assert count == 10
    firsts = range(0, 10, every)
    assert len(offsets) == len(firsts) + 1
    parts = [read_lines(LOCAL, path, *offsets[i : i + 2], first) for i, first in enumerate(firsts)]
    assert [row for part in parts for row in part.rows] == rows
    assert [line for part in parts for line in part.lines] == list(range(1, 11))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("size", [10, 10**6])
def test_columns_are_those_of_the_first_thousand_rows_whatever_the_shards(
    tmp_path: Path, packed: bool, size: int
) -> None:
    pair = {"query": "q", "document": "d"}
    rows = [*[pair] * 999, pair | {"late": 1}]
    text = "\n" + "".join(json.dumps(row) + "\n" for row in rows) + "{ no further is it read\n"
    path = str(tmp_path / ("rows.jsonl.gz" if packed else "rows.jsonl"))
    Path(path).write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert sample_lines(LOCAL, path) == rows
    file = InputFile(path, path, 0, 0)
    job = Job(
        sources=measure([file], Columns(), size),
        columns=Columns(),
        to="parquet",
        rows_per_shard=size,
        scorer=ModelPrint(
            model="m", revision=None, weights="", dtype="", engine="", max_length=512, max_query_tokens=64
        ),
    )
    assert job.rows == 1_002
    schema = json_schema(job, [file])
    assert schema is not None
    assert schema.names == ["query", "document", "late"]


@pytest.mark.parametrize("size", [1, 4, 7, 30])
def test_every_parquet_row_is_in_one_shard(tmp_path: Path, size: int) -> None:
    path = str(tmp_path / "rows.parquet")
    table = pa.table({"n": range(23), "list": [[i] * (i % 3) for i in range(23)]})
    pq.write_table(table, path, row_group_size=5)
    parts = [read_table(LOCAL, path, i, min(size, 23 - i)).table for i in range(0, 23, size)]
    assert pa.concat_tables(parts).equals(table)


def test_values_that_json_lacks_are_written_plainly(tmp_path: Path) -> None:
    nothing = np.zeros(1, dtype=np.bool_)
    labels = {"logit": (np.ones(1), pa.float32())}
    rows = TableRows(pa.table({"day": [date(2026, 1, 2)], "price": [Decimal("1.50")]}))
    assert json.loads(rows.encode("jsonl", {}, nothing, None)) == {"day": "2026-01-02", "price": "1.50"}
    with pytest.raises(InvalidInputError, match="write parquet"):
        TableRows(pa.table({"raw": [b"\x00"]})).encode("jsonl", {}, nothing, None)
    for number in (float("nan"), float("inf")):
        with pytest.raises(InvalidInputError, match=r"values that JSON has, but got .*; write parquet"):
            TableRows(pa.table({"x": [number]})).encode("jsonl", {}, nothing, None)
        with pytest.raises(InvalidInputError, match="write parquet"):
            JsonRows([{"x": {"y": [number]}}], [1]).encode("jsonl", labels, nothing, None)
    odd = [{"x": "\\\ud800", "y": "ü\ud83d\ude00"}]
    assert json.loads(JsonRows(odd, [1]).encode("jsonl", labels, nothing, None)) == {
        "x": "\\\ud800",
        "y": "ü\U0001f600",
        "logit": 1.0,
    }


def test_settings_are_given_at_once_or_singly() -> None:
    with pytest.raises(InvalidInputError, match=r"either settings or single options.*'dtype'"):
        label("in.jsonl", "out", settings=ScorerSettings(model="bundled"), dtype="int8")


def test_a_file_that_cannot_be_finished_is_not_there(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "out"))
    store.publish("part-1", b"whole")
    (tmp_path / "out" / "part-2").mkdir()  # in the way
    with pytest.raises(OSError, match="part-2"):
        store.publish("part-2", b"never")
    assert store.names() == {"part-1", "part-2"}
    assert store.read("part-1") == b"whole"
    (tmp_path / "out" / f".part-3.{'a1' * 16}").write_bytes(b"ha")  # whoever wrote it was killed
    (tmp_path / "out" / ".gitignore").write_bytes(b"*")  # not ours
    assert store.names() == {"part-1", "part-2"}
    store.sweep()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"part-1", "part-2", ".gitignore"}


def test_inputs_are_found_in_order(tmp_path: Path) -> None:
    for name in ("b.parquet", "a.jsonl", "sub/c.jsonl.gz", "_SUCCESS", ".hidden.parquet", "_tmp/x.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()

    def names(*inputs: str) -> list[str]:
        found = find_inputs([str(tmp_path / one) for one in inputs])
        return [str(Path(file.path).relative_to(tmp_path)) for file in found]

    assert names("") == ["a.jsonl", "b.parquet", "sub/c.jsonl.gz"]
    assert names("sub", "b.parquet") == ["sub/c.jsonl.gz", "b.parquet"]
    assert names("*.jsonl") == ["a.jsonl"]
    assert find_inputs([f"file://{tmp_path}/a.jsonl"])[0].path == str(tmp_path / "a.jsonl")
    with pytest.raises(InvalidInputError, match="named 2 times"):
        names("", "a.jsonl")
    with pytest.raises(InvalidInputError, match=r"nothing\.parquet is not"):
        names("nothing.parquet")
    with pytest.raises(InvalidInputError, match="there are none at"):
        names("*.csv")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InvalidInputError, match=r"notes\.txt"):
        names("")
    with pytest.raises(InvalidInputError, match="'ftp://nowhere/x'"):
        find_inputs(["ftp://nowhere/x"])


def test_a_relative_path_is_of_the_working_directory_at_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs.jsonl").touch()
        monkeypatch.chdir(tmp_path / name)
        (file,) = find_inputs(["pairs.jsonl"])
        store = Store("out")
        assert (file.uri, file.path) == (str(tmp_path / name / "pairs.jsonl"),) * 2
        assert (store.uri, store.root) == (str(tmp_path / name / "out"),) * 2


def test_columns_are_checked_before_anything_is_scored(tmp_path: Path) -> None:
    def refused(table: dict[str, list[object]], message: str, columns: Columns | None = None) -> None:
        path = str(tmp_path / "rows.parquet")
        pq.write_table(pa.table(table), path)
        with pytest.raises(InvalidInputError, match=message):
            measure([InputFile(path, path, 0, 0)], columns or Columns(), 10)

    refused({"query": ["q"], "passage": ["p"]}, "must have a column 'document', but has query, passage")
    refused({"query": ["q"], "document": [1]}, "'document' of .* must hold strings, but holds int64")
    refused(
        {"q": ["q"], "d": ["d"], "x_logit": [1]},
        "'x_logit' already",
        Columns(query="q", document="d", prefix="x_"),
    )
    broken = tmp_path / "broken.jsonl"
    for line in ('{"query": ', "[" * 100_000):
        broken.write_text('{"query": "q", "document": "d"}\n' + line + "\n")
        with pytest.raises(InvalidInputError, match=r"broken\.jsonl:2 must be a JSON object"):
            measure([InputFile(str(broken), str(broken), 0, 0)], Columns(), 10)
    cut = tmp_path / "cut.parquet"
    cut.write_bytes((tmp_path / "rows.parquet").read_bytes()[:-9])
    with pytest.raises(InvalidInputError, match="must be a Parquet file"):
        measure([InputFile(str(cut), str(cut), 0, 0)], Columns(), 10)


def test_outputs_that_cannot_be_used(tmp_path: Path) -> None:
    pairs = tmp_path / "in" / "pairs.jsonl"
    pairs.parent.mkdir()
    pairs.write_text('{"query": "q", "document": "d"}\n')
    with pytest.raises(InvalidInputError, match="output must lie outside of the inputs"):
        label(tmp_path / "in", tmp_path / "in" / "labels", model="bundled")
    with pytest.raises(InvalidInputError, match=r"has pairs\.jsonl and no _labels\.json"):
        label(pairs, tmp_path / "in", model="bundled")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "_labels.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="is not what a job writes"):
        label(pairs, tmp_path / "other", model="bundled")
