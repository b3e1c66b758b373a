"""The scripts behind the committed figures, on small data."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from rerank_plugins.evaluation import evaluate
from tests.evaluation import ByText, make_topics, right

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let them be imported: they are no package."""
    monkeypatch.syspath_prepend(SCRIPTS)


@pytest.mark.parametrize("depth", [5, 20])
def test_measures_are_those_of_ir_measures_at_any_depth(depth: int) -> None:
    import quality

    topics = make_topics(queries=10, candidates=20)
    found = evaluate(topics, {"s": ByText(right)}, depths=(depth,), timed_queries=0, resamples=100).systems[0]
    assert quality.check(topics, found, 1) == pytest.approx(found.measured.mean["nDCG@10"])


def test_more_topics_than_queries_ask_them_again(tmp_path: Path) -> None:
    import real_topics

    (tmp_path / "trec-dl").mkdir()
    for number, name in enumerate(real_topics.HITS):
        hits = [{"content": f"passage {number} {i}", "docid": f"{number} {i}"} for i in range(9)]
        rows = [{"query": f"query {number}", "hits": [hit | {"qid": number} for hit in hits]}]
        (tmp_path / "trec-dl" / name).write_bytes(gzip.compress(json.dumps(rows).encode()))
    output = tmp_path / "topics.jsonl"
    real_topics.main(data=tmp_path, output=output, candidates=4)
    topics = [json.loads(line) for line in output.open()]
    assert [topic["query"] for topic in topics] == ["query 0", "query 1", "query 0", "query 1"]
    assert len({text for topic in topics for text in topic["documents"]}) == 16


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_the_peak_of_a_process_is_not_that_of_its_parent() -> None:
    import scaling

    ballast = bytearray(b"x") * 2**29
    command = [sys.executable, "-c", "import scaling; print(scaling.peak_mib())"]
    done = subprocess.run(command, cwd=SCRIPTS, capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < scaling.peak_mib() - len(ballast) / 2**21


def test_the_best_in_float32_is_of_that_precision() -> None:
    import render

    ours, theirs = "rerank-plugins", "sentence-transformers"
    specs = ("torch:auto", "openvino:bfloat16", "torch", "onnx:int8", "onnx:float32")
    names = [f"{ours} {spec}" for spec in specs]
    names += [f"{theirs}{precision}" for precision in (" bf16", " fp16", " onnx int8", " onnx", "")]
    rows = [{"name": name, "docs_per_second": 100 - place} for place, name in enumerate(names)]
    assert [render.best(rows, start, int8=False)["name"] for start in (ours, theirs)] == [
        "rerank-plugins onnx:float32",
        "sentence-transformers onnx",
    ]
    assert [render.best(rows, start, int8=True)["name"] for start in (ours, theirs)] == [
        "rerank-plugins onnx:int8",
        "sentence-transformers onnx int8",
    ]
    assert render.best(rows[:3], ours, int8=False) is None
