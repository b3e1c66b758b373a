"""What the LangChain tests share: documents, a retriever that always finds them, a tracer."""

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

QUERY = "who wrote Faust?"


class Special(Document):
    """A user's own document type."""

    page: int = 0


def documents() -> list[Document]:
    return [
        Document("A fist is a hand.", id="a", metadata={"source": "x"}),
        Special(page_content="Goethe wrote Faust.", id="b", metadata={"relevance_score": 0.2}, page=7),
        Document("", id="c"),
    ]


def ids(found: Sequence[Document]) -> list[str | None]:
    return [document.id for document in found]


def agree(found: Sequence[Document], expected: Sequence[Document]) -> None:
    """Check that results are equal, but for rounding: what shares a batch shifts the last digits."""
    assert len(found) == len(expected)
    for new, old in zip(found, expected, strict=True):
        key = "relevance_score"
        assert new.metadata[key] == pytest.approx(old.metadata[key], abs=1e-5)
        assert new.model_copy(update={"metadata": {**new.metadata, key: old.metadata[key]}}) == old


class Fixed(BaseRetriever):
    found: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.found

    # Native, so that a thread that a test sees was not started here.
    async def _aget_relevant_documents(self, query: str, *, run_manager: Any) -> list[Document]:
        return self.found


class Recorder(BaseTracer):
    """Keeps the finished runs that have no parent."""

    run_inline = True

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)

    def find(self, name: str) -> tuple[Run, Run | None]:
        """Return the only run of this name, and its parent."""
        runs = [(root, None) for root in self.roots]
        found = []
        while runs:
            run, parent = runs.pop()
            found += [(run, parent)] if run.name == name else []
            runs += [(child, run) for child in run.child_runs]
        (only,) = found
        return only
