"""Loading test sets: formats, and mistakes that are named."""

import gzip
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import ir_datasets
import pytest

from rerank_plugins import InvalidInputError, MissingExtraError
from rerank_plugins.evaluation import (
    Candidate,
    Topic,
    Topics,
    evaluate,
    load_beir,
    load_demo,
    load_hits,
    load_ir_dataset,
    load_jsonl,
    load_run,
    read_run,
)
from rerank_plugins.evaluation.judgements import read_qrels
from rerank_plugins.files import read_texts


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], Path]:
    def make(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return make


Write = Callable[[str, str], Path]


def test_qrels_of_trec_and_of_beir(write: Write) -> None:
    trec = write("a.txt", "7 Q0 d1 3\n7 0 d2 0\n\n8 Q0 d1 -1\n")
    assert read_qrels(trec) == {"7": {"d1": 3, "d2": 0}, "8": {"d1": -1}}
    beir = write("test.tsv.gz", "query-id\tcorpus-id\tscore\n7\td1\t1\n")
    assert read_qrels(beir) == {"7": {"d1": 1}}
    names = write("names.tsv", "query-id\tcorpus-id\tscore\n7\tmy file.pdf\t1\n7\tits last page.pdf\t0\n")
    assert read_qrels(names) == {"7": {"my file.pdf": 1, "its last page.pdf": 0}}
    spaced = write("spaced.txt", "query-id corpus-id score\n7 d1 1\n")
    assert read_qrels(spaced) == {"7": {"d1": 1}}


@pytest.mark.parametrize("text", ["7 d1\n", "7 Q0 d1 high\n", "7 Q0 d1 ²\n", "7 Q0 d1 1 x\n", ""])
def test_bad_qrels_are_named(write: Write, text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"q\.txt(:1)? must"):
        read_qrels(write("q.txt", text))


def test_hits_keep_every_judged_query(write: Write) -> None:
    hits = write(
        "b.json.gz",
        json.dumps([{"query": "who?", "hits": [{"content": "me", "qid": 7, "docid": "d1", "score": 3}]}]),
    )
    topics = load_hits(hits, write("q", "7 Q0 d1 1\n9 Q0 d5 1\n"))
    assert (topics.name, topics.first_stage) == ("q", "b")
    assert list(topics) == [
        Topic("7", "who?", (Candidate("d1", "me", 3.0),), {"d1": 1}),
        Topic("9", "", (), {"d5": 1}),
    ]
    with pytest.raises(InvalidInputError, match="share none"):
        load_hits(hits, write("q", "x Q0 d1 1\n"))


def test_a_run_goes_by_score_then_rank(write: Write) -> None:
    path = write("r.run", "1 Q0 c 9 1.0 t\n1 Q0 b 2 0.5 t\n1 Q0 a 1 0.5 t\n")
    assert read_run(path) == {"1": ["c", "a", "b"]}
    for bad in ("1 Q0 c 9 1.0\n", "1 Q0 c 9 high t\n"):
        with pytest.raises(InvalidInputError, match=r"r\.run:1"):
            read_run(write("r.run", bad))


def test_a_run_with_its_texts(write: Write) -> None:
    run, qrels = write("r.run", "1 Q0 a 1 2.0 t\n5 Q0 z 1 2.0 t\n"), write("q", "1 Q0 a 1\n2 Q0 a 1\n")
    queries, passages = write("q.tsv", "1\tone\n"), write("p.jsonl", '{"id": "a", "text": "A"}\n')
    topics = load_run(run, qrels, queries, passages)
    assert topics[0] == Topic("1", "one", (Candidate("a", "A", 2.0),), {"a": 1})
    assert topics[1].candidates == ()
    with pytest.raises(InvalidInputError, match="names 'a', which must have a text in"):
        load_run(run, qrels, queries, write("p.jsonl", '{"id": "b", "text": "A"}\n'))


@pytest.mark.parametrize(
    "names", [("queries.jsonl", "qrels/test.tsv"), ("queries.test.jsonl", "qrels.test.tsv")]
)
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_beir_folder(write: Write, tmp_path: Path, names: tuple[str, str], end: str) -> None:
    write(
        f"corpus.jsonl{end}",
        '{"_id": "d", "title": "T", "text": "x"}\n{"_id": "e", "title": "", "text": "y"}',
    )
    write(names[0] + end, '{"_id": "1", "text": "q"}\n{"_id": "2", "text": "unjudged"}\n')
    write(names[1] + end, "query-id\tcorpus-id\tscore\n1\td\t1\n")
    topics = load_beir(tmp_path)
    assert list(topics) == [Topic("1", "q", (), {"d": 1})]
    assert topics.corpus == {"d": "T x", "e": "y"}
    assert topics.first_stage is None
    with pytest.raises(InvalidInputError, match=r"qrels/dev\.tsv or qrels\.dev\.tsv .*but has corpus"):
        load_beir(tmp_path, "dev")


def test_own_jsonl(write: Write) -> None:
    rows = [
        {"query": "a", "documents": ["x", "y"], "relevant": [1]},
        {
            "id": 5,
            "query": "b",
            "documents": [{"id": "d", "text": "t", "score": 2}],
            "relevant": ["d", "e"],
        },
        {"query": "c", "documents": [{"content": "t"}], "relevant": {"0": 3}, "answers": ["t"]},
        {"query": "nobody knows", "documents": ["x"], "relevant": []},
    ]
    topics = load_jsonl(write("own.jsonl", "\n".join(map(json.dumps, rows))))
    assert [topic.id for topic in topics] == ["1", "5", "3", "4"]
    assert topics[0].grades == {"1": 1}
    assert topics[1] == Topic("5", "b", (Candidate("d", "t", 2),), {"d": 1, "e": 1})
    assert (topics[2].grades, topics[2].answers) == ({"0": 3}, ("t",))
    assert topics[3].grades == {}


def test_a_number_is_an_id_where_ids_are_numbers(write: Write) -> None:
    documents = [{"id": 1, "text": "A"}, {"id": 0, "text": "B"}]
    row = {"query": "q", "documents": documents, "relevant": [1, 7]}
    (topic,) = load_jsonl(write("own.jsonl", json.dumps(row)))
    assert topic.grades == {"1": 1, "7": 1}
    named = [{"id": "b", "text": "A"}, {"id": "a", "text": "B"}]
    (topic,) = load_jsonl(write("own.jsonl", json.dumps({"query": "q", "documents": named, "relevant": [1]})))
    assert topic.grades == {"a": 1}


@pytest.mark.parametrize("text_key", ["text", "content", "contents", "passage", "page_content"])
def test_documents_are_read_as_rank_reads_them(write: Write, text_key: str) -> None:
    document = {"id": None, "_id": "A", "docid": "B", text_key: "t"}
    row = {"id": None, "query": "q", "documents": [document], "relevant": ["B"]}
    topics = load_jsonl(write("own.jsonl", "\n".join([json.dumps(row)] * 2)))
    assert [topic.id for topic in topics] == ["1", "2"]
    ((docid, text),) = read_texts(write("p.jsonl", json.dumps(document)))
    assert topics[0].candidates == (Candidate("B", "t"),) == (Candidate(docid, text),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "q"}, "must be"),
        ("text", "must be"),
        ({"query": "q", "documents": ["x"]}, "must say what is right"),
        ({"query": "q", "documents": ["x"], "answers": "x"}, "answers must be a list"),
        ({"query": "q", "documents": ["x"], "relevant": [1]}, "positions from 0 to 0"),
        ({"query": "q", "documents": ["x"], "relevant": [True]}, "relevant must be"),
        ({"query": "q", "documents": ["x"], "relevant": 0}, "relevant must be"),
        ({"query": "q", "documents": ["x"], "relevant": ""}, "relevant must be"),
        ({"query": "q", "documents": ["x"], "relevant": {"0": "yes"}}, "relevant must be"),
        ({"query": "q", "documents": [3], "relevant": [0]}, r"documents\[0\] must have a text under"),
        (
            {"query": "q", "documents": [{"text": "t", "score": "1"}], "relevant": [0]},
            r"documents\[0\] must have a num",
        ),
    ],
)
def test_bad_rows_are_named(write: Write, row: object, message: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"own\.jsonl:1.*{message}"):
        load_jsonl(write("own.jsonl", json.dumps(row)))


def test_topics_are_not_empty_and_have_each_id_once() -> None:
    with pytest.raises(InvalidInputError, match="must have queries"):
        Topics("t", ())
    with pytest.raises(InvalidInputError, match="'1' comes twice"):
        Topics("t", (Topic("1", "a"), Topic("1", "b")))
    two = Topics("t", (Topic("1", "a"), Topic("2", "b")))
    assert [len(two.limit(n)) for n in (None, 1, 9)] == [2, 1, 2]


def test_the_demo_is_a_test_set() -> None:
    demo = load_demo()
    assert len(demo) == 13
    assert all(docid in demo.corpus for topic in demo for docid in topic.grades)


def test_ir_datasets_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtraError, match="pip install ir-datasets"):
        load_ir_dataset("beir/scifact/test")


class Dataset:
    """The documented interface of a dataset of ir_datasets, with or without a first stage."""

    def __init__(self, *, scored: bool, offline: bool = False) -> None:
        self.scored = scored
        self.offline = offline

    def has_docs(self) -> bool:
        return True

    has_queries = has_qrels = has_docs

    def has_scoreddocs(self) -> bool:
        return self.scored

    def qrels_iter(self) -> list[SimpleNamespace]:
        if self.offline:
            raise RuntimeError("download failed")
        return [SimpleNamespace(query_id="1", doc_id="d", relevance=2)]

    def queries_iter(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(query_id=q, default_text=lambda q=q: f"query {q}") for q in "12"]

    def docs_iter(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(doc_id=d, default_text=lambda d=d: f"text {d}") for d in "def"]

    def docs_store(self) -> SimpleNamespace:
        return SimpleNamespace(
            get_many_iter=lambda ids: [doc for doc in self.docs_iter() if doc.doc_id in ids]
        )

    def scoreddocs_iter(self) -> list[SimpleNamespace]:
        rows = [("1", "d", 1.0), ("1", "e", 3.0), ("2", "f", 9.0)]
        return [SimpleNamespace(query_id=q, doc_id=d, score=s) for q, d, s in rows]


def test_a_dataset_object_with_and_without_a_first_stage() -> None:
    topics = load_ir_dataset(Dataset(scored=False))
    assert list(topics) == [Topic("1", "query 1", (), {"d": 2})]
    assert list(topics.corpus) == ["d", "e", "f"]
    scored = load_ir_dataset(Dataset(scored=True))
    assert scored[0].candidates == (Candidate("e", "text e", 3.0), Candidate("d", "text d", 1.0))
    assert load_ir_dataset(Dataset(scored=True), depth=1)[0].candidates == (Candidate("e", "text e", 3.0),)
    with pytest.raises(InvalidInputError, match=r"must be cached or downloadable.*download failed"):
        load_ir_dataset(Dataset(scored=False, offline=True))


def test_a_dataset_of_the_real_library(write: Write) -> None:
    dataset = ir_datasets.create_dataset(
        docs_tsv=str(write("docs.tsv", "d\tA fist is a hand.\ne\tGoethe wrote Faust.\n")),
        queries_tsv=str(write("queries.tsv", "1\twho wrote Faust?\n2\tnobody judged this\n")),
        qrels_trec=str(write("qrels", "1 0 e 2\n1 0 d 0\n")),
    )
    topics = load_ir_dataset(dataset)
    assert list(topics) == [Topic("1", "who wrote Faust?", (), {"e": 2, "d": 0})]
    assert topics.corpus == {"d": "A fist is a hand.", "e": "Goethe wrote Faust."}
    with pytest.raises(InvalidInputError, match="must be an id that ir_datasets knows"):
        load_ir_dataset("nothing/of/that/name")


def test_what_comes_twice_or_is_no_number_is_named(write: Write) -> None:
    qrels, queries = write("qrels", "1 0 a 1\n"), write("q.tsv", "1\tone\n")
    passages, twice = write("p.tsv", "a\tA\n"), write("p2.tsv", "a\tA\na\tB\n")
    good = write("good.run", "1 Q0 a 1 2.0 x\n")
    assert load_run(good, qrels, queries, passages)[0].candidates == (Candidate("a", "A", 2.0),)
    with pytest.raises(
        InvalidInputError, match=r"p2\.tsv must have one text for each id, but has two for 'a'"
    ):
        load_run(good, qrels, queries, twice)
    with pytest.raises(InvalidInputError, match=r"q2\.tsv must have one text for each id"):
        load_run(good, qrels, write("q2.tsv", "1\tone\n1\ttwo\n"), passages)
    with pytest.raises(InvalidInputError, match=r"run:2 must name a document once for a query"):
        load_run(write("twice.run", "1 Q0 a 1 2 x\n1 Q0 a 2 1 x\n"), qrels, queries, passages)
    with pytest.raises(InvalidInputError, match=r"run:1 must have a finite score"):
        read_run(write("nan.run", "1 Q0 a 1 nan x\n"))
    with pytest.raises(InvalidInputError, match=r"share none: \['9'\] and \['1'\]"):
        load_run(write("other.run", "9 Q0 a 1 2 x\n"), qrels, queries, passages)
    hits = json.dumps([{"query": "q", "hits": [{"content": "c", "qid": "1", "docid": "a"}]}] * 2)
    with pytest.raises(InvalidInputError, match=r"h\.json must have each query id once"):
        load_hits(write("h.json", hits), qrels)


def test_judgements_that_name_other_ids_are_refused(write: Write) -> None:
    topics = load_run(
        write("r.run", "1 Q0 a 1 2.0 x\n"),
        write("qrels", "1 0 doc-a 1\n"),
        write("q.tsv", "1\tone\n"),
        write("p.tsv", "a\tA\n"),
    )
    with pytest.raises(InvalidInputError, match=r"candidates are \['a'\], judged are \['doc-a'\]"):
        evaluate(topics, {"order": {"1": ["a"]}})
