"""Load test sets by their `ir_datasets` id."""

from typing import Any

from rerank_plugins.errors import InvalidInputError, MissingExtraError
from rerank_plugins.evaluation.topics import Candidate, Topic, Topics

__all__ = ["load_ir_dataset"]


def load_ir_dataset(dataset: Any, *, depth: int = 100) -> Topics:
    """Load a test set of `ir_datasets`, which downloads what it does not have yet.

    Args:
        dataset: An id such as `"beir/scifact/test"`, or what `ir_datasets.load` returned.
        depth: Candidates a query at most, where the set brings a first stage's (`scoreddocs`).

    Returns:
        The judged queries; with candidates if the set has them, else with the whole corpus to retrieve from.

    Raises:
        MissingExtraError: If `ir_datasets` is not installed.
        InvalidInputError: If it does not know the id or cannot get the data, or the set has no judgements.
    """
    name = dataset if isinstance(dataset, str) else "ir_datasets"
    try:
        return _read(_load(dataset) if isinstance(dataset, str) else dataset, name, depth)
    except (OSError, RuntimeError) as error:
        # What ir_datasets and its downloads raise without a network; requests' errors are OSErrors.
        msg = f"{name} must be cached or downloadable, but ir_datasets says: {error}"
        raise InvalidInputError(msg) from error


def _load(name: str) -> Any:
    try:
        import ir_datasets
    except ImportError as error:
        msg = f"{name} is read with ir_datasets; install it with: pip install ir-datasets"
        raise MissingExtraError(msg) from error
    try:
        return ir_datasets.load(name)
    except KeyError as error:
        msg = f"{name!r} must be an id that ir_datasets knows, but it does not: {error}"
        raise InvalidInputError(msg) from error


def _read(dataset: Any, name: str, depth: int) -> Topics:
    if not (dataset.has_queries() and dataset.has_qrels() and dataset.has_docs()):
        msg = f"{name} must have documents, queries and judgements, but lacks some: name a judged subset"
        raise InvalidInputError(msg)
    grades: dict[str, dict[str, int]] = {}
    for qrel in dataset.qrels_iter():
        grades.setdefault(qrel.query_id, {})[qrel.doc_id] = qrel.relevance
    queries = {query.query_id: query.default_text() for query in dataset.queries_iter()}
    found = _scored(dataset, grades.keys(), depth) if dataset.has_scoreddocs() else {}
    wanted = {docid for rows in found.values() for _, docid in rows}
    documents = dataset.docs_store().get_many_iter(wanted) if found else dataset.docs_iter()
    texts = {document.doc_id: document.default_text() for document in documents}
    topics = tuple(
        Topic(
            qid,
            queries.get(qid, ""),
            tuple(Candidate(docid, texts[docid], -negative) for negative, docid in found.get(qid, [])),
            of_query,
        )
        for qid, of_query in grades.items()
    )
    return Topics(name, topics, {} if found else texts, first_stage=f"{name} scoreddocs" if found else None)


def _scored(dataset: Any, judged: Any, depth: int) -> dict[str, list[tuple[float, str]]]:
    rows: dict[str, list[tuple[float, str]]] = {}
    for scored in dataset.scoreddocs_iter():
        if scored.query_id in judged:
            rows.setdefault(scored.query_id, []).append((-float(scored.score), scored.doc_id))
    return {qid: sorted(of_query)[:depth] for qid, of_query in rows.items()}
