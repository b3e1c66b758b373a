"""Load test sets of the field's formats: top-100 JSON, TREC runs, BEIR folders; and the demo."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.judgements import Qrels, read_qrels
from rerank_plugins.evaluation.topics import Candidate, Topic, Topics, unique_ids
from rerank_plugins.files import (
    Hits,
    first_of,
    numbered_lines,
    parse_json,
    read_file,
    read_hits,
    read_scored,
    read_texts,
    text_of,
    unique_texts,
)
from rerank_plugins.inputs import shorten

__all__ = ["load_beir", "load_demo", "load_hits", "load_run", "read_run", "stem"]


def load_hits(path: Path | str, qrels: Path | str) -> Topics:
    """Load retrieved passages as rank_llm publishes them, with TREC qrels.

    Args:
        path: `[{query, hits: [{content, qid, docid}]}]` as JSON, plain or gzipped; hits are best first.
        qrels: The judgements.

    Returns:
        Every judged query, as trec_eval counts with `-c`: one without hits counts with no candidates.

    Raises:
        InvalidInputError: If a file cannot be read.
    """
    path, judged = Path(path), read_qrels(Path(qrels))
    rows = list(read_hits(str(path), read_file(path)))
    unique_ids((hits.id for hits in rows), str(path))
    found = {hits.id: hits for hits in rows}
    _check_overlap(judged, found.keys(), str(path), str(qrels))
    topics = [_of_hits(found.get(qid, Hits(qid, "", [], [])), grades) for qid, grades in judged.items()]
    return Topics(stem(Path(qrels)), tuple(topics), first_stage=stem(path))


def _of_hits(hits: Hits, grades: Mapping[str, int]) -> Topic:
    pairs = zip(hits.documents, hits.scores, strict=True)
    candidates = tuple(Candidate(docid, text, score) for (docid, text), score in pairs)
    return Topic(hits.id, hits.query, candidates, grades)


def load_run(run: Path | str, qrels: Path | str, queries: Path | str, passages: Path | str) -> Topics:
    """Load a TREC run with the texts of its queries and passages, and qrels.

    Args:
        run: `qid Q0 docid rank score tag`, in the order of `read_run`.
        qrels: The judgements.
        queries: TSV or JSONL of id and text.
        passages: TSV or JSONL of id and text.

    Returns:
        Every judged query; one that the run leaves out has no candidates.

    Raises:
        InvalidInputError: If a file cannot be read, or an id of a judged query has no text.
    """
    run, judged = Path(run), read_qrels(Path(qrels))
    every = read_scored(run)
    _check_overlap(judged, every.keys(), str(run), str(qrels))
    orders = {qid: found for qid, found in every.items() if qid in judged}
    query_texts = unique_texts(read_texts(Path(queries)), queries)
    wanted = {docid for found in orders.values() for docid, _ in found}
    texts = unique_texts((row for row in read_texts(Path(passages)) if row[0] in wanted), passages)

    topics = [
        Topic(
            qid,
            text_of(qid, query_texts, run, queries) if qid in orders else query_texts.get(qid, ""),
            tuple(Candidate(d, text_of(d, texts, run, passages), score) for d, score in orders.get(qid, [])),
            grades,
        )
        for qid, grades in judged.items()
    ]
    return Topics(stem(Path(qrels)), tuple(topics), first_stage=stem(run))


def read_run(path: Path | str) -> dict[str, list[str]]:
    """Read the order of a TREC run: by score as trec_eval does, equal scores by rank.

    Returns:
        Document ids, best first, by query id.

    Raises:
        InvalidInputError: If the file or a line cannot be read.
    """
    return {qid: [docid for docid, _ in found] for qid, found in read_scored(Path(path)).items()}


def load_beir(folder: Path | str, split: str = "test") -> Topics:
    """Load a BEIR folder; `retrieve` finds its candidates.

    Args:
        folder: Has `corpus.jsonl`, `queries.jsonl` (or `queries.SPLIT.jsonl`) and `qrels/SPLIT.tsv` (or
            `qrels.SPLIT.tsv`), plain or with `.gz`.
        split: Which judgements.

    Returns:
        The judged queries, and the corpus: title and text of each document, joined by a space.

    Raises:
        InvalidInputError: If a file is missing or cannot be read, or a judged query has no text.
    """
    folder = Path(folder)
    judged = read_qrels(_find(folder, f"qrels/{split}.tsv", f"qrels.{split}.tsv"))
    asked, found = _find(folder, "queries.jsonl", f"queries.{split}.jsonl"), _find(folder, "corpus.jsonl")
    queries, corpus = unique_texts(read_texts(asked), asked), unique_texts(_documents(found), found)
    unknown = [qid for qid in judged if qid not in queries]
    if unknown:
        msg = f"every judged query of {folder} must have a text, but {shorten(unknown)} have none"
        raise InvalidInputError(msg)
    topics = tuple(Topic(qid, queries[qid], (), grades) for qid, grades in judged.items())
    return Topics(folder.resolve().name, topics, corpus)


def load_demo() -> Topics:
    """Load the packaged demo: 13 queries over passages that were written to fool word matching."""
    corpus = {passage.id: passage.text for passage in load_passages()}
    topics = tuple(
        Topic(query.id, query.text, (), dict.fromkeys(query.relevant, 1)) for query in load_queries()
    )
    return Topics("demo", topics, corpus)


def _find(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    there = sorted(str(path.relative_to(folder)) for path in folder.glob("**/*.*")) if folder.is_dir() else []
    msg = f"{folder} must have {' or '.join(names)} (or .gz), but has {', '.join(there[:12]) or 'nothing'}"
    raise InvalidInputError(msg)


def _documents(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in numbered_lines(read_file(path)):
        row = parse_json(line, f"{path}:{number}")
        docid, text = first_of(row, ("_id", "id")), first_of(row, ("text",))
        if docid is None or not isinstance(text, str):
            msg = f"{path}:{number} must have _id and text, but got {shorten(row)}"
            raise InvalidInputError(msg)
        yield str(docid), f"{row.get('title') or ''} {text}".strip()


def _check_overlap(judged: Qrels, found: Any, name: str, qrels: str) -> None:
    if not any(qid in judged for qid in found):
        msg = (
            f"{name} and {qrels} must be about the same queries, but share none: "
            f"{shorten(sorted(found)[:3])} and {shorten(sorted(judged)[:3])}"
        )
        raise InvalidInputError(msg)


def stem(path: Path) -> str:
    """Return a file's name without the suffixes of its format."""
    name = path.name.removesuffix(".gz")
    for suffix in (".jsonl", ".json", ".run", ".txt", ".tsv"):
        name = name.removesuffix(suffix)
    return name
