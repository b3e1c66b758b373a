"""What is evaluated: questions with candidates, and who says which of them are right."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import overload

from rerank_plugins.errors import InvalidInputError

__all__ = ["Candidate", "Topic", "Topics", "unique_ids"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that the first stage found.

    Attributes:
        id: Its id in the judgements. Chunks of one document may share it: the document then counts at
            the place of its first chunk.
        text: What is scored, and what a prompt would hold.
        score: The first stage's score, if it gave one.
    """

    id: str
    text: str
    score: float | None = None


@dataclass(frozen=True)
class Topic:
    """A query with its candidates and what is known to be right.

    Attributes:
        id: Id of the query.
        query: Its text.
        candidates: What the first stage found, best first; empty before `retrieve`, or if it found nothing.
        grades: Grade of each judged document, by id; 0 is not relevant. Documents without one count as
            not relevant, as in trec_eval.
        answers: Short right answers; a passage that contains one bears the answer.
        unanswerable: Whether it is known that nothing answers the query. It then says nothing of an order
            and is left out of measures; calibrations and thresholds learn from it.
    """

    id: str
    query: str
    candidates: tuple[Candidate, ...] = ()
    grades: Mapping[str, int] = field(default_factory=dict)
    answers: tuple[str, ...] = ()
    unanswerable: bool = False


@dataclass(frozen=True)
class Topics(Sequence[Topic]):
    """A test set.

    Attributes:
        name: For reports.
        topics: The queries, each id once.
        corpus: Texts that can be retrieved, by id; empty where candidates came along.
        first_stage: Who found the candidates; None before `retrieve`.

    Raises:
        InvalidInputError: If there is no topic, or two have the same id.
    """

    name: str
    topics: tuple[Topic, ...]
    corpus: Mapping[str, str] = field(default_factory=dict, repr=False)
    first_stage: str | None = None

    def __post_init__(self) -> None:
        if not self.topics:
            msg = f"{self.name} must have queries with judgements or answers, but has none"
            raise InvalidInputError(msg)
        unique_ids((topic.id for topic in self.topics), self.name)

    @overload
    def __getitem__(self, index: int) -> Topic: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Topic, ...]: ...
    def __getitem__(self, index: int | slice) -> Topic | tuple[Topic, ...]:
        return self.topics[index]

    def __len__(self) -> int:
        return len(self.topics)

    def __iter__(self) -> Iterator[Topic]:
        return iter(self.topics)

    def limit(self, count: int | None) -> "Topics":
        """Return the first `count` topics; None means all."""
        return replace(self, topics=self.topics[:count])


def unique_ids(ids: Iterable[str], place: str) -> None:
    """Raise for the first id that comes twice."""
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            msg = f"{place} must have each query id once, but {one!r} comes twice"
            raise InvalidInputError(msg)
        seen.add(one)
