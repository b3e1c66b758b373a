"""Reading passages, queries and runs; writing runs that evaluators read back in our order."""

import gzip
import io
import json
import sys
from pathlib import Path

import ir_measures
import pytest
from ir_measures import RR, Qrel

from rerank_plugins.cli.formats import Topic, read_run, read_topics
from rerank_plugins.cli.options import InputFormat
from rerank_plugins.cli.rank import _to_trec
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.ranking import RankedDocument, Ranking, RankingStats

HITS = [{"query": "q", "hits": [{"content": "c", "qid": 7, "docid": "d"}]}]


def read_bytes(
    folder: Path, name: str, raw: bytes, form: InputFormat = InputFormat.auto, query: str | None = "q"
) -> list[Topic]:
    path = folder / name
    path.write_bytes(raw)
    return read_topics(path, query, form)


def pipe(monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))


@pytest.mark.parametrize("key", ["text", "content", "contents", "passage", "page_content"])
@pytest.mark.parametrize("id_key", ["id", "docid", "_id"])
def test_jsonl_keys_in_use(tmp_path: Path, key: str, id_key: str) -> None:
    raw = json.dumps({id_key: 12, key: "a\tb"}).encode()
    assert read_bytes(tmp_path, "p.jsonl", raw) == [Topic(None, "q", [("12", "a\tb")])]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b'{"text": "a"}\n"b"\n', [("1", "a"), ("2", "b")]),
        (b'"a"\n"b"\n', [("1", "a"), ("2", "b")]),
        (b'"To be," he said.\nyes\n', [("1", '"To be," he said.'), ("2", "yes")]),
        (b"[1] a footnote\n", [("1", "[1] a footnote")]),
        (b"d1\ta\nd2\tb\n", [("d1", "a"), ("d2", "b")]),
        (b"a\n \n\nb", [("1", "a"), ("4", "b")]),
        ("a\u2028b\u0085c\n".encode(), [("1", "a\u2028b\u0085c")]),
        (b"", []),
    ],
)
def test_stdin_is_told_apart_by_its_first_line(
    monkeypatch: pytest.MonkeyPatch, raw: bytes, expected: list[tuple[str, str]]
) -> None:
    pipe(monkeypatch, raw)
    assert read_topics(None, "q", InputFormat.auto) == [Topic(None, "q", expected)]


def test_stdin_may_be_hits_gzip_and_utf8_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe(monkeypatch, gzip.compress(json.dumps(HITS, indent=2).encode()))
    assert read_topics(None, None, InputFormat.auto) == [Topic("7", "q", [("d", "c")])]
    pipe(monkeypatch, "für\n".encode())
    assert read_topics(Path("-"), "q", InputFormat.auto)[0].documents == [("1", "für")]
    pipe(monkeypatch, b"caf\xe9\n")
    with pytest.raises(InvalidInputError, match="stdin must be UTF-8"):
        read_topics(None, "q", InputFormat.auto)


def test_the_given_format_wins_over_the_guess(tmp_path: Path) -> None:
    raw = b'{"text": "a"}\tb'
    assert read_bytes(tmp_path, "p.jsonl", raw, InputFormat.lines)[0].documents == [("1", raw.decode())]
    assert read_bytes(tmp_path, "p.jsonl", raw, InputFormat.tsv)[0].documents == [('{"text": "a"}', "b")]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert read_bytes(tmp_path, "p.txt", b"\xef\xbb\xbfa\n")[0].documents == [("1", "a")]
    assert read_bytes(tmp_path, "p.jsonl", b'\xef\xbb\xbf{"text": "a"}')[0].documents == [("1", "a")]


@pytest.mark.parametrize(
    "raw", [gzip.compress(b"text" * 99)[:-9], b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03?"]
)
def test_a_damaged_gzip_is_named(tmp_path: Path, raw: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"p\.txt\.gz must be UTF-8 text, plain or gzipped"):
        read_bytes(tmp_path, "p.txt.gz", raw)


@pytest.mark.parametrize(
    ("rows", "place"),
    [
        ([HITS[0], {"hits": []}], r"p\.json\[1\] must have a query and hits"),
        ([{"query": {"text": "q"}, "hits": []}], r"p\.json\[0\] must have a query and hits"),
        ([{"query": "q", "hits": [{"docid": "d"}]}], r"p\.json\[0\]\.hits\[0\] must have a text"),
        ([{"query": "q", "hits": [None]}], r"p\.json\[0\]\.hits\[0\] must have a text"),
    ],
)
def test_bad_hits_are_named(tmp_path: Path, rows: object, place: str) -> None:
    with pytest.raises(InvalidInputError, match=place):
        read_bytes(tmp_path, "p.json", json.dumps(rows).encode(), query=None)


def test_nulls_say_nothing_and_hide_nothing(tmp_path: Path) -> None:
    row = {"id": None, "docid": "D7", "text": None, "contents": "a", "score": None}
    assert read_bytes(tmp_path, "p.jsonl", json.dumps(row).encode())[0].documents == [("D7", "a")]
    hits = [{"query": "q", "hits": [row | {"qid": None}, row | {"qid": 7}]}, {"query": "r", "hits": [row]}]
    topics = read_bytes(tmp_path, "p.json", json.dumps(hits).encode(), query=None)
    assert [(topic.id, topic.documents[0]) for topic in topics] == [("7", ("D7", "a")), ("2", ("D7", "a"))]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "p.jsonl",
            '{"text": "a", "score": 1%s}' % ("0" * 400),
            r"p\.jsonl:1 must have a score that a float",
        ),
        (
            "p.json",
            '[{"query": "q", "hits": [{"text": "a", "score": 1%s}]}]' % ("0" * 400),
            r"hits\[0\] must",
        ),
        ("p.jsonl", "[" * 100_000, r"p\.jsonl:1 must be JSON"),
        ("p.json", '[{"query":' + "[" * 100_000, r"p\.json must be JSON"),
    ],
)
def test_what_python_cannot_hold_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        read_bytes(tmp_path, name, text.encode(), query=None if name == "p.json" else "q")
    assert read_bytes(tmp_path, "p.txt", b"[" * 100_000)[0].documents == [("1", "[" * 100_000)]


def test_a_query_beside_hits_is_refused_not_ignored(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="--query must be left out"):
        read_bytes(tmp_path, "p.json", json.dumps(HITS).encode())


def test_a_run_is_read_by_rank_not_by_line(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"_id": 1, "text": "q"}\n')
    (tmp_path / "p.tsv").write_text("a\tA\nb\tB\n")
    (tmp_path / "r.run").write_text("1 Q0 b 2 0.1 x\n1 Q0 a 1 0.2 x\n")
    topics = read_run(tmp_path / "q.jsonl", tmp_path / "p.tsv", tmp_path / "r.run")
    assert topics == [Topic("1", "q", [("a", "A"), ("b", "B")], [0.2, 0.1])]
    (tmp_path / "r.run").write_text("1 Q0 a 1 0.1 x\n1 Q0 b 2 0.2 x\n")  # scores count, as in `eval`
    (topic,) = read_run(tmp_path / "q.jsonl", tmp_path / "p.tsv", tmp_path / "r.run")
    assert topic.documents == [("b", "B"), ("a", "A")]
    for line, rule in (("1 Q0 a 1 nan x", "finite"), ("1 Q0 a 1 0.2 x\n1 Q0 a 2 0.1 x", "once")):
        (tmp_path / "r.run").write_text(line)
        with pytest.raises(InvalidInputError, match=rule):
            read_run(tmp_path / "q.jsonl", tmp_path / "p.tsv", tmp_path / "r.run")


def ranking_of(logits: list[float | None]) -> Ranking:
    documents = tuple(RankedDocument(i, x, x, "", truncated=False, tokens=0) for i, x in enumerate(logits))
    return Ranking(documents, RankingStats(len(logits)), "logit")


@pytest.mark.parametrize("logits", [[1.5] * 9, [0.0] * 9, [-7.25] * 9, [None] * 9, [2.0, 2.0, 1.9999998]])
@pytest.mark.parametrize("ids", ["abcdefghi", "ihgfedcba"])
def test_trec_eval_keeps_our_order_of_ties(tmp_path: Path, logits: list[float | None], ids: str) -> None:
    """trec_eval reads scores as float32 and breaks ties by id, last one first."""
    ids = ids[: len(logits)]
    path = tmp_path / "run"
    topic = Topic("1", "q", [(docid, "") for docid in ids])
    path.write_text("".join(_to_trec(topic, ranking_of(logits), "tag")))
    run = list(ir_measures.read_trec_run(str(path)))
    for place, docid in enumerate(ids, start=1):
        found = ir_measures.pytrec_eval.calc_aggregate([RR], [Qrel("1", docid, 1)], run)[RR]
        assert found == pytest.approx(1 / place)


def test_a_run_writes_logits_exactly_where_they_differ() -> None:
    logits = [3.0540921688079834, 0.1, -12.000000953674316]
    topic = Topic("1", "q", [("a", ""), ("b", ""), ("c", "")])
    lines = [line.split() for line in _to_trec(topic, ranking_of(logits), "tag")]
    assert [float(line[4]) for line in lines] == pytest.approx(logits, rel=1e-7)
    assert (lines[0][4], lines[2][4]) == ("3.0540921688079834", "-12.000000953674316")


@pytest.mark.parametrize(
    ("qid", "docid", "tag"), [("q 1", "d", "t"), ("q", "d 1", "t"), ("q", "", "t"), ("q", "d", "my run")]
)
def test_a_run_has_one_word_a_column(qid: str, docid: str, tag: str) -> None:
    with pytest.raises(InvalidInputError, match="must be one word"):
        list(_to_trec(Topic(qid, "q", [(docid, "")]), ranking_of([1.0]), tag))
