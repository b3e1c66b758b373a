"""`rerank-plugins bench` for real, on little."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rerank_plugins.cli.app import app
from rerank_plugins.errors import InvalidInputError


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["bench", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_ours_and_a_peer_on_the_same_weights(tmp_path: Path) -> None:
    out, picture = tmp_path / "bench.json", tmp_path / "bench.png"
    shown = run(
        *("-m", "ms-marco-TinyBERT-L2-v2", "--random-weights", "--rounds", "2", "--candidates", "6"),
        *("--ours", "torch:float32", "--ours", "onnx:float32", "--ours", "torch:int8"),
        *("--peer", "sentence-transformers", "--callers", "2", "--background", "50"),
        *("--json", str(out), "--plot", str(picture)),
    )
    assert "sentence-transformers" in shown
    report = json.loads(out.read_text())
    names = [row["name"] for row in report["results"]["6"]]
    assert names == ["rerank-plugins torch:float32", "rerank-plugins onnx:float32", "sentence-transformers"]
    assert all(row["largest_logit_difference"] < 1e-4 for row in report["results"]["6"])
    assert report["results"]["6"][2]["ratio"] == 1
    assert list(report["skipped"]) == ["rerank-plugins torch:int8"]
    assert [load["background"] for load in report["callers"]] == [0, 50]
    assert {load["name"] for load in report["callers"]} == {"rerank-plugins torch:float32"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_own_texts_that_come_back_are_remembered(tmp_path: Path) -> None:
    path = tmp_path / "topics.jsonl"
    path.write_text(json.dumps({"query": "who?", "documents": ["me", "you", "nobody at all"]}))
    out = tmp_path / "bench.json"
    few = ("--ours", "torch", "--peer", "none", "--rounds", "1")
    run("--lengths", str(path), *few, "--callers", "2", "--background", "50", "--json", str(out))
    run(*few, "--candidates", "2", "--repeat-documents")
    report = json.loads(out.read_text())
    assert report["lengths"] == str(path)
    assert [row["name"] for row in report["results"]["100"]] == ["rerank-plugins torch"]
    assert [(load["documents"], load["background"]) for load in report["callers"]] == [(3, 0), (3, 3)]


@pytest.mark.parametrize("option", ["--json", "--plot"])
def test_what_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path, option: str) -> None:
    there = tmp_path / "there.png"
    there.write_text("kept until there is something else to write")
    nowhere = tmp_path / "no folder" / "x.png"
    for path, message in ((nowhere, f"{option} must be a file"), (there, "--peer must be")):
        done = CliRunner().invoke(app, ["bench", "--peer", "nobody", option, str(path)])
        assert isinstance(done.exception, InvalidInputError)
        assert message in str(done.exception)
    assert there.read_text().startswith("kept")
