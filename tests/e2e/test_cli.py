"""The command line, as a user meets it."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import ir_measures
import pytest
from ir_measures import nDCG

from tests.conftest import SHARED

QUERY = "who wrote Faust?"
ROWS = [("d1", "A fist is a hand."), ("d2", "Goethe wrote Faust."), ("d3", "")]


def run(*arguments: str, stdin: str | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rerank_plugins", *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        encoding="utf-8",
        env={**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "120", **env},
    )


def rank(*arguments: str, stdin: str | None = None) -> list[dict[str, object]]:
    done = run("rank", "-m", "bundled", *arguments, stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "no bar and no chatter when piped"
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        ("p.jsonl", "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in ROWS), ["d2", "d1", "d3"]),
        (
            "p.jsonl",
            "".join(json.dumps({"docid": i, "contents": t}) + "\n" for i, t in ROWS),
            ["d2", "d1", "d3"],
        ),
        ("p.jsonl", "".join(json.dumps(t) + "\n" for _, t in ROWS), ["2", "1", "3"]),
        ("p.tsv", "".join(f"{i}\t{t}\n" for i, t in ROWS), ["d2", "d1", "d3"]),
        ("p.txt", "A fist is a hand.\n\nGoethe wrote Faust.\r\n", ["3", "1"]),
    ],
)
def test_passages_from_a_file_in_any_format(tmp_path: Path, name: str, text: str, ids: list[str]) -> None:
    path = tmp_path / name
    path.write_bytes(text.encode())
    rows = rank(str(path), "-q", QUERY)
    assert rows[0]["text"] == "Goethe wrote Faust."
    assert rows[0]["id"] == ids[0]
    assert sorted(str(row["id"]) for row in rows) == sorted(ids)
    assert [row["rank"] for row in rows] == list(range(1, len(ids) + 1))


def test_stdin_limits_and_the_logit_scale() -> None:
    text = "A fist is a hand.\nGoethe wrote Faust.\n"
    rows = rank("-q", QUERY, "--top-k", "1", "--scale", "logit", stdin=text)
    assert len(rows) == 1
    assert rows[0]["score"] == rows[0]["logit"]
    assert rank("-q", QUERY, "--min-score", "1.1", stdin=text) == []
    assert rank("-q", QUERY, stdin="") == []


def test_long_documents_are_read_in_windows() -> None:
    text = "A fist is a hand. " * 200 + "Goethe wrote Faust.\n" + "A fist is a hand.\n"
    arguments = ("-q", QUERY, "--long-documents", "max_passage")
    by_id = {row["id"]: row for row in rank(*arguments, stdin=text)}
    start, end = by_id["1"]["passage"]  # type: ignore[misc]
    assert "Goethe wrote Faust." in text[start:end]
    assert start > 0
    assert by_id["2"]["passage"] == [0, 17]
    assert not by_id["1"]["truncated"]
    capped = {row["id"]: row for row in rank(*arguments, "--max-passages", "1", stdin=text)}
    assert capped["1"]["truncated"]
    assert {row["passage"] for row in rank("-q", QUERY, stdin=text)} == {None}


def test_the_table_shows_where_passages_came_from() -> None:
    done = run(
        "rank",
        "-m",
        "bundled",
        "-q",
        QUERY,
        "--to",
        "table",
        stdin="A [fist] is a hand.\nGoethe wrote Faust.\n",
    )
    assert done.returncode == 0
    assert "Goethe wrote Faust." in done.stdout
    assert "A [fist] is a hand." in done.stdout


@pytest.fixture
def run_files(tmp_path: Path) -> dict[str, Path]:
    files = {name: tmp_path / name for name in ("queries.tsv", "passages.jsonl", "first.run")}
    files["queries.tsv"].write_text(f"q1\t{QUERY}\nq2\twhat is a fist?\n")
    files["passages.jsonl"].write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in ROWS))
    files["first.run"].write_text(
        "".join(f"{q} Q0 {d} {n} {-n} bm25\n" for q in ("q1", "q2") for n, (d, _) in enumerate(ROWS, 1))
    )
    return files


def arguments_of(files: dict[str, Path]) -> list[str]:
    names = {"--queries": "queries.tsv", "--passages": "passages.jsonl", "--run": "first.run"}
    return [part for option, name in names.items() for part in (option, str(files[name]))]


def test_a_whole_run_becomes_a_run(run_files: dict[str, Path], tmp_path: Path) -> None:
    output = tmp_path / "reranked.run"
    done = run(
        *("rank", "-m", "bundled", *arguments_of(run_files)),
        *("--to", "trec", "-o", str(output), "--run-name", "mine"),
    )
    assert done.returncode == 0, done.stderr
    scored = list(ir_measures.read_trec_run(str(output)))
    assert len(scored) == 6
    best = {
        q: max((s for s in scored if s.query_id == q), key=lambda s: s.score).doc_id for q in ("q1", "q2")
    }
    assert best == {"q1": "d2", "q2": "d1"}
    assert all(line.split()[-1] == "mine" for line in output.read_text().splitlines())


def test_equal_logits_keep_their_order_in_a_run() -> None:
    done = run(
        "rank", "-m", "bundled", "-q", QUERY, "--to", "trec", stdin="same text\nsame text\nsame text\n"
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [row[2] for row in rows] == ["1", "2", "3"]
    scores = [float(row[4]) for row in rows]
    assert scores[0] > scores[1] > scores[2]


def test_a_hits_file_brings_its_queries(tmp_path: Path) -> None:
    hits = [{"content": text, "qid": 264014, "docid": i, "rank": n} for n, (i, text) in enumerate(ROWS, 1)]
    path = tmp_path / "top.json.gz"
    path.write_bytes(gzip.compress(json.dumps([{"query": QUERY, "hits": hits}]).encode()))
    rows = rank(str(path))
    assert (rows[0]["qid"], rows[0]["id"]) == ("264014", "d2")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.jsonl", '{"text": "a"}\n{"title": "b"}\n', "p.jsonl:2 must have a text"),
        ("p.jsonl", '{"text": "a"}\nnot json\n', "p.jsonl:2 must be JSON"),
        ("p.tsv", "a\tb\nno tab\n", "p.tsv:2 must be 'id<TAB>text'"),
        ("p.json", '[{"query": "q"}]', "must have a query and hits"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    done = run("rank", str(tmp_path / name), "-q", "q", "-m", "bundled")
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_bad_runs_are_named(run_files: dict[str, Path]) -> None:
    run_files["first.run"].write_text("q1 Q0 d1 1 0.5 bm25\nq1 Q0 nowhere 2 0.4 bm25\n")
    done = run("rank", "-m", "bundled", *arguments_of(run_files))
    assert (done.returncode, "first.run names 'nowhere'" in done.stderr) == (2, True)
    run_files["first.run"].write_text("q1 d1 1\n")
    assert "must be 'qid Q0 docid rank score tag'" in run("rank", *arguments_of(run_files)).stderr
    assert "all three" in run("rank", "--run", str(run_files["first.run"])).stderr


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["rank", "nowhere.txt", "-q", "q"], 2, "nowhere.txt"),
        (["rank", "-q", "q", "-m", "bundled", "--top-k", "-1"], 2, "but got -1"),
        (["rank", "-q", "q", "-m", "bundled", "--dtype", "int3"], 2, "int3"),
        (["rank", "-m", "bundled"], 2, "--query"),
        (["rank", "-q", "q", "-m", "nobody/nothing", "--local-files-only"], 3, "bundled"),
    ],
)
def test_errors_are_one_line_with_a_status(arguments: list[str], status: int, message: str) -> None:
    done = run(*arguments, stdin="a\n")
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(b"\xff\xfe\x00")
    assert "must be UTF-8" in run("rank", str(tmp_path / "p.txt"), "-q", "q").stderr


def test_models_lists_all_six_and_the_bundled_one() -> None:
    done = run("models")
    for name in (
        "TinyBERT-L2",
        "TinyBERT-L2-v2",
        "MiniLM-L2-v2",
        "MiniLM-L4-v2",
        "MiniLM-L6-v2",
        "MiniLM-L12-v2",
        "bundled",
    ):
        assert name in done.stdout
    assert "74.30" in done.stdout
    report = json.loads(run("models", "--json").stdout)
    assert [row.get("mrr10_dev") for row in report["models"]] == [
        30.15,
        32.56,
        34.85,
        37.70,
        39.01,
        39.02,
        None,
    ]


def test_doctor_says_what_was_chosen_and_why() -> None:
    done = run("doctor", "-m", "bundled", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    for part in ("the right passage first", "why engine", "float32", "torch", "langchain-core", "offline"):
        assert part in done.stdout
    report = json.loads(run("doctor", "-m", "bundled", "--json", RERANK_DTYPE="bfloat16").stdout)
    assert report["model"]["dtype"] == "bfloat16"
    assert report["environment"]["RERANK_DTYPE"] == "bfloat16"


def test_doctor_fails_with_the_reason() -> None:
    done = run("doctor", "-m", "nobody/nothing")
    assert done.returncode == 3
    assert "cannot score" in done.stdout


def test_the_demo_shows_before_and_after() -> None:
    done = run("demo", "--queries", "2")
    assert done.returncode == 0, done.stderr
    for part in (
        "before: BM25",
        "after: reranked",
        "right passage: rank",
        "2 queries, 89 passages",
        "What to try next",
    ):
        assert part in done.stdout


def test_the_bundled_model_improves_the_demo() -> None:
    from rerank_plugins import CrossEncoderScorer, Reranker
    from rerank_plugins.cli.demo import _rerank, _retrieve
    from rerank_plugins.demo.data import load_passages, load_queries

    passages, queries = load_passages(), load_queries()
    assert len(passages) >= 80
    assert len(queries) >= 10
    with CrossEncoderScorer("bundled", device="cpu") as scorer:
        outcomes = [
            _rerank(Reranker(scorer), q, f)
            for q, f in zip(queries, _retrieve(passages, queries), strict=True)
        ]
    before = sum(1 / rank for o in outcomes if (rank := o.rank(o.before)))
    after = sum(1 / rank for o in outcomes if (rank := o.rank(o.after)))
    assert after > 1.3 * before


@pytest.mark.shared_data
def test_trec_dl_2019_is_clearly_better_than_bm25(tmp_path: Path) -> None:
    output = tmp_path / "reranked.run"
    hits = SHARED / "data" / "trec-dl" / "BM25.dl19.top100.json.gz"
    done = run("rank", str(hits), "-m", "bundled", "--to", "trec", "-o", str(output))
    assert done.returncode == 0, done.stderr
    qrels = list(ir_measures.read_trec_qrels(str(SHARED / "data" / "trec-dl" / "qrels.dl19-passage.txt")))
    scored = list(ir_measures.read_trec_run(str(output)))
    assert ir_measures.calc_aggregate([nDCG @ 10], qrels, scored)[nDCG @ 10] > 0.62
