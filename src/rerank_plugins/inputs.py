"""Checks of what callers hand in. Every error names the value, its position, and the fix."""

from collections.abc import Iterable, Sequence
from typing import Any

from rerank_plugins.errors import InvalidTypeError

__all__ = ["check_documents", "check_pairs", "check_query", "shorten"]


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


def check_documents(documents: Iterable[Any]) -> list[str]:
    """Return the documents as a new list.

    Raises:
        InvalidTypeError: If `documents` is a string or not iterable, or a document is no string.
    """
    if isinstance(documents, str | bytes) or not isinstance(documents, Iterable):
        msg = (
            f"documents must be a list of str, but got {type(documents).__name__}: "
            f"{shorten(documents)}; put a single document into a list"
        )
        raise InvalidTypeError(msg)
    return [_check_text(text, f"documents[{i}]") for i, text in enumerate(documents)]


def check_pairs(pairs: Iterable[Any]) -> list[tuple[str, str]]:
    """Return (query, document) pairs as a new list.

    Raises:
        InvalidTypeError: If a pair is not two strings.
    """
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        msg = f"pairs must be a list of (query, document), but got {shorten(pairs)}"
        raise InvalidTypeError(msg)
    checked = []
    for i, pair in enumerate(pairs):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            msg = f"pairs[{i}] must be (query, document), but got {shorten(pair)}"
            raise InvalidTypeError(msg)
        checked.append((_check_text(pair[0], f"pairs[{i}][0]"), _check_text(pair[1], f"pairs[{i}][1]")))
    return checked
