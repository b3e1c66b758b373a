"""What is scored: queries with candidates whose lengths are those of the field, or the user's own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.files import first_of, numbered_lines, parse_json, read_file
from rerank_plugins.inputs import shorten

__all__ = ["LENGTHS", "Topic", "make_topics", "read_topics"]

Topic = tuple[str, list[str]]


@dataclass(frozen=True)
class Lengths:
    """A log-normal distribution of tokens a pair, query and special tokens included.

    Attributes:
        mean: Tokens.
        spread: Standard deviation of the logarithm.
    """

    mean: float
    spread: float


# MS MARCO passages with their queries; chunks as RAG pipelines cut them.
LENGTHS = {"msmarco": Lengths(73, 0.4), "rag": Lengths(250, 0.4)}

_TOKENS_PER_WORD = 1.18  # of the demo's passages in BERT's vocabulary
_LEAST_WORDS = 4


def make_topics(lengths: Lengths, *, queries: int, candidates: int, seed: int) -> list[Topic]:
    """Return topics of natural text, the same for the same seed, no document twice.

    Documents are runs of the demo's words, drawn anew for every seed, so that nothing can be
    remembered from one seed to the next.
    """
    random = np.random.default_rng(seed)
    words = [word for passage in load_passages() for word in passage.text.split()]
    texts = load_queries()
    topics = []
    seen: set[str] = set()
    for i in range(queries):
        query = texts[(seed * queries + i) % len(texts)].text
        room = lengths.mean - len(query.split()) * _TOKENS_PER_WORD - 3
        documents: list[str] = []
        while len(documents) < candidates:
            document = _draw(words, room, lengths.spread, random)
            if document not in seen:
                seen.add(document)
                documents.append(document)
        topics.append((query, documents))
    return topics


def _draw(words: list[str], mean: float, spread: float, random: np.random.Generator) -> str:
    tokens = random.lognormal(np.log(mean) - spread**2 / 2, spread)
    count = max(_LEAST_WORDS, round(tokens / _TOKENS_PER_WORD))
    start = int(random.integers(len(words)))
    # Around the end of the passages to their beginning.
    return " ".join(words[(start + i) % len(words)] for i in range(count))


def read_topics(path: Path) -> list[Topic]:
    """Read JSONL lines of `{"query": str, "documents": [str, ...]}`.

    Raises:
        InvalidInputError: If a line is not that, or the file has none.
    """
    topics = list(_read(path))
    if not topics:
        msg = f'{path} must have lines of {{"query": ..., "documents": [...]}}, but has none'
        raise InvalidInputError(msg)
    return topics


def _read(path: Path) -> Iterator[Topic]:
    for number, line in numbered_lines(read_file(path)):
        row = parse_json(line, f"{path}:{number}")
        query, documents = first_of(row, ("query",)), first_of(row, ("documents",))
        texts = [query, *documents] if isinstance(documents, list) and documents else [None]
        if not all(isinstance(text, str) for text in texts):
            msg = (
                f'{path}:{number} must be {{"query": str, "documents": [str, ...]}}, but got {shorten(line)}'
            )
            raise InvalidInputError(msg)
        yield query, documents
