"""Checks of what callers hand in. Every error names the value, its position, and the fix."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import filterfalse, repeat
from numbers import Real
from typing import Any

from rerank_plugins.errors import InvalidInputError, InvalidTypeError

__all__ = [
    "check_documents",
    "check_first_stage",
    "check_pairs",
    "check_query",
    "pair_up",
    "refuse_surrogates",
    "shorten",
]


def shorten(value: object, limit: int = 80) -> str:
    """Return `repr(value)`, cut to `limit` characters, for messages."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}..."


def _check_text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        msg = f"{name} must be a str, but got {type(value).__name__}: {shorten(value)}"
        if isinstance(value, bytes):
            msg += '; decode it first, for example with .decode("utf-8")'
        raise InvalidTypeError(msg)
    return value


def check_query(query: Any) -> str:
    """Return the query.

    Raises:
        InvalidTypeError: If it is not a string.
    """
    return _check_text(query, "query")


def check_documents(documents: Iterable[Any]) -> Iterable[str]:
    """Return the documents: a list of them, or for an iterator one that checks as it goes.

    Raises:
        InvalidTypeError: If `documents` is a string or not iterable, or a document is no string.
    """
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        msg = (
            f"documents must be a list of str, but got {type(documents).__name__}: "
            f"{shorten(documents)}; put a single document into a list"
        )
        raise InvalidTypeError(msg)
    if isinstance(documents, Mapping | set | frozenset):
        msg = (
            "documents must be in an order, as results name them by index, but got "
            f"{type(documents).__name__}: {shorten(documents)}; give a list, of a mapping's values"
        )
        raise InvalidTypeError(msg)
    if not isinstance(documents, Iterator):
        # Nothing is scored before everything was checked, where all is at hand.
        documents = list(documents)
        if set(map(type, documents)) <= {str}:  # nearly always, and no Python runs for each
            return documents
    checked = (_check_text(text, f"documents[{i}]") for i, text in enumerate(documents))
    return list(checked) if isinstance(documents, list) else checked


def pair_up(query: Any, documents: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Return the pairs of a query with each document, checked as `check_query` and `check_documents` do."""
    return zip(repeat(check_query(query)), check_documents(documents), strict=False)


def check_pairs(pairs: Iterable[Any]) -> Iterable[tuple[str, str]]:
    """Return (query, document) pairs: a list, or for an iterator one that checks as it goes.

    Raises:
        InvalidTypeError: If a pair is not two strings.
    """
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        msg = f"pairs must be a list of (query, document), but got {shorten(pairs)}"
        raise InvalidTypeError(msg)
    checked = (_check_pair(pair, i) for i, pair in enumerate(pairs))
    return checked if isinstance(pairs, Iterator) else list(checked)


def _check_pair(pair: Any, i: int) -> tuple[str, str]:
    if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
        msg = f"pairs[{i}] must be (query, document), but got {shorten(pair)}"
        raise InvalidTypeError(msg)
    return _check_text(pair[0], f"pairs[{i}][0]"), _check_text(pair[1], f"pairs[{i}][1]")


def check_first_stage(scores: Iterable[Any], count: int) -> list[float]:
    """Return first-stage scores of `count` documents, NaN for None.

    Raises:
        InvalidInputError: If there are more or fewer, or one is NaN or infinite.
        InvalidTypeError: If `scores` is not iterable, or one is neither a number nor None.
    """
    if isinstance(scores, str | bytes) or not isinstance(scores, Iterable):
        msg = f"first_stage must be a list of numbers, but got {shorten(scores)}"
        raise InvalidTypeError(msg)
    checked = [_check_number(score, f"first_stage[{i}]") for i, score in enumerate(scores)]
    if len(checked) != count:
        msg = f"first_stage must have one score for each document, but got {len(checked)} for {count}"
        raise InvalidInputError(msg)
    return checked


def _check_number(value: Any, name: str) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, Real):
        msg = f"{name} must be a number or None, but got {type(value).__name__}: {shorten(value)}"
        raise InvalidTypeError(msg)
    try:
        number = float(value)
    except OverflowError:  # an int that no float can hold
        number = math.inf
    if not math.isfinite(number):
        msg = f"{name} must be finite, but got {shorten(value)}; give None for a document without a score"
        raise InvalidInputError(msg)
    return number


def refuse_surrogates(texts: Iterable[str]) -> None:
    """Raise our error for the first text that is not valid Unicode."""
    for text in filterfalse(str.isascii, texts):  # which a string knows of itself
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            msg = (
                f"a text must be valid Unicode, but {shorten(text)} holds the lone surrogate "
                f"{text[error.start]!r} at position {error.start}; clean it, for example with "
                'text.encode("utf-8", "replace").decode()'
            )
            raise InvalidInputError(msg) from None
