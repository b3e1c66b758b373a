"""Write passages and queries: from the public sources, or from a user's own file.

`passages.jsonl` has {"text", "source"} a line, `queries.jsonl` {"query", "source", "positives" and
"negatives" (line numbers of passages), "answer", "held_out"}. Both depend only on the data and the seed.
"""

import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config import PrepareConfig
from files import write_rows
from queries import vary
from sources import SOURCES, Document

logger = logging.getLogger("prepare")


@dataclass
class _Collection:
    """Passages, each once, and queries; whether a query is held out is the same wherever it is asked."""

    passages: dict[str, tuple[int, str]] = field(default_factory=dict)
    queries: list[dict[str, Any]] = field(default_factory=list)
    held_out: dict[str, bool] = field(default_factory=dict)

    def add(self, document: Document, source: str, config: PrepareConfig, rng: random.Random) -> int:
        """Add a document with some of its questions; return how many."""
        numbers = [self.passages.setdefault(p, (len(self.passages), source))[0] for p in document.passages]
        drawn = rng.random() < config.held_out
        questions = document.questions
        if len(questions) > config.per_document:
            questions = rng.sample(questions, config.per_document)
        for question in questions:
            self.queries.append(
                {
                    "query": vary(question.text, question.keywords, rng) if config.vary else question.text,
                    "source": source,
                    "positives": [numbers[i] for i in question.positives],
                    "negatives": [numbers[i] for i in question.negatives],
                    "answer": question.answer,
                    "held_out": self.held_out.setdefault(question.text, drawn),
                }
            )
        return len(questions)


def collect(
    sources: dict[str, Iterable[Document]], config: PrepareConfig, seed: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return passages and queries of all sources, up to each source's number of queries."""
    found = _Collection()
    for name, read in sources.items():
        rng = random.Random(f"{seed} {name}")
        documents = list(read)
        rng.shuffle(documents)
        wanted = config.queries.get(name, len(documents) * config.per_document)
        taken = 0
        for document in documents:
            if taken >= wanted:
                break
            taken += found.add(document, name, config, rng)
        logger.info("%-18s %6d queries of %d documents", name, taken, len(documents))
    random.Random(seed).shuffle(found.queries)
    passages = [{"text": text, "source": source} for text, (_, source) in found.passages.items()]
    return passages, found.queries


def prepare(data: Path, work: Path, config: PrepareConfig, seed: int) -> None:
    """Write the public sources' passages and queries into `work`."""
    chosen = {name: SOURCES[name](data) for name in config.queries}
    passages, queries = collect(chosen, config, seed)
    work.mkdir(parents=True, exist_ok=True)
    write_rows(work / "passages.jsonl", passages)
    write_rows(work / "queries.jsonl", queries)
    logger.info("%d passages, %d queries in %s", len(passages), len(queries), work)
