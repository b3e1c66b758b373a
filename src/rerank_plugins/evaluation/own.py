"""Load test sets of your own: a JSON object a line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.load import stem
from rerank_plugins.evaluation.topics import Candidate, Topic, Topics
from rerank_plugins.files import ID_KEYS, first_of, numbered_lines, parse_json, read_file, read_row
from rerank_plugins.inputs import shorten

__all__ = ["load_jsonl"]

_ROW = '{"query": str, "documents": [...], "relevant": [...]}'


def load_jsonl(path: Path | str) -> Topics:
    """Load your own data: a JSON object a line.

    Args:
        path: Lines of `{"query": str, "documents": [...], "relevant": [...], "answers": [...], "id": str}`.
            `documents` are what the first stage found, best first: texts, or objects with `text` and,
            optionally, `id` and `score`; a document without id has its position, from 0, as its id. Text
            and id may stand under the keys that `rank` reads, too (`TEXT_KEYS`, `ID_KEYS`).
            `relevant` holds ids or positions of right documents, or is an object of id and grade; a number is
            a position, unless documents have numbers as ids.
            `answers` holds short right answers. One of `relevant` and `answers` is needed; if what there
            is of them is empty, nothing answers the query (see `Topic.unanswerable`). `id` is not needed.

    Raises:
        InvalidInputError: If a line is not that.
    """
    path = Path(path)
    topics = [
        _read_own(parse_json(line, f"{path}:{number}"), f"{path}:{number}", str(number))
        for number, line in numbered_lines(read_file(path))
    ]
    return Topics(stem(path), tuple(topics), first_stage="given order")


def _read_own(row: Any, place: str, number: str) -> Topic:
    query, documents, answers = (first_of(row, (key,)) for key in ("query", "documents", "answers"))
    if not isinstance(query, str) or not isinstance(documents, list):
        msg = f"{place} must be {_ROW}, but got {shorten(row)}"
        raise InvalidInputError(msg)
    if answers is not None and not (isinstance(answers, list) and all(isinstance(a, str) for a in answers)):
        msg = f"{place}: answers must be a list of str, but got {shorten(answers)}"
        raise InvalidInputError(msg)
    if "relevant" not in row and "answers" not in row:
        msg = f"{place} must say what is right, with relevant or answers, but has neither: {shorten(row)}"
        raise InvalidInputError(msg)
    candidates = tuple(_own_document(one, place, i) for i, one in enumerate(documents))
    # A number is an id where ids are numbers, else a position.
    numbered = any(type(first_of(one, ID_KEYS)) is int for one in documents)
    relevant, own_id = row.get("relevant"), first_of(row, ("id",))
    grades = _own_grades([] if relevant is None else relevant, candidates, place, numbered=numbered)
    return Topic(
        id=number if own_id is None else str(own_id),
        query=query,
        candidates=candidates,
        grades=grades,
        answers=tuple(answers or ()),
        unanswerable=not grades and not answers,
    )


def _own_document(one: Any, place: str, position: int) -> Candidate:
    docid, text = read_row(one, f"{place}: documents[{position}]", str(position))
    score = first_of(one, ("score",))
    if not isinstance(score, int | float | None):
        msg = f"{place}: documents[{position}] must have a number as its score, but got {shorten(score)}"
        raise InvalidInputError(msg)
    return Candidate(docid, text, score)


def _own_grades(
    relevant: Any, candidates: Sequence[Candidate], place: str, *, numbered: bool
) -> dict[str, int]:
    if isinstance(relevant, dict) and all(type(grade) is int for grade in relevant.values()):
        return {str(docid): grade for docid, grade in relevant.items()}
    if isinstance(relevant, list) and all(type(one) in {int, str} for one in relevant):
        if numbered:
            return {str(one): 1 for one in relevant}
        beyond = [one for one in relevant if isinstance(one, int) and not 0 <= one < len(candidates)]
        if not beyond:
            return {candidates[one].id if isinstance(one, int) else one: 1 for one in relevant}
    msg = (
        f"{place}: relevant must be a list of document ids or of positions from 0 to "
        f"{len(candidates) - 1}, or an object of id and grade, but got {shorten(relevant)}"
    )
    raise InvalidInputError(msg)
