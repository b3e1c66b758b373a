"""What servers want to be asked and what they answer, as data; and the one reader of all answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.inputs import shorten
from rerank_plugins.scoring.remote.settings import DialectName, ReplyScale

__all__ = ["DIALECTS", "BadReplyError", "Dialect", "Reply"]

# sigmoid(40) is 1.0 in float64, and sigmoid(-40) is 4e-18.
_MAX_LOGIT = 40.0
_MOST_TOKENS = 2**53


class BadReplyError(ValueError):
    """A reply that is no complete list of scores; the message says what is wrong."""


class Reply(NamedTuple):
    """What a server said about n documents, in their order.

    Attributes:
        logits: float32 [n].
        truncated: bool [n]; False where the server does not say.
        query_truncated: Whether the query was cut; False if the server does not say.
        tokens: Tokens read; 0 if the server does not say.
    """

    logits: NDArray[np.float32]
    truncated: NDArray[np.bool_]
    query_truncated: bool
    tokens: int

    def joined(self, other: Self) -> "Reply":
        """Return this and another reply as that to both requests in one."""
        return Reply(
            np.concatenate([self.logits, other.logits]),
            np.concatenate([self.truncated, other.truncated]),
            self.query_truncated or other.query_truncated,
            self.tokens + other.tokens,
        )


@dataclass(frozen=True)
class Dialect:
    """One way to ask for scores.

    Attributes:
        path: Below the base URL.
        documents: Name of the documents in the request.
        results: Name of the list in the reply; None: the reply is the list.
        score: Name of the score in a result.
        scale: What the scores are, asked as we ask.
        options: Sent with every request.
        limit: Path to ask for the server's limits, and the name of the one on documents.
    """

    path: str = "/v1/rerank"
    documents: str = "documents"
    results: str | None = "results"
    score: str = "relevance_score"
    scale: ReplyScale = "probability"
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: tuple[str, str] | None = None

    def body(self, model: str | None, query: str, documents: Sequence[str]) -> dict[str, Any]:
        """Return the JSON of a request for the scores of all documents."""
        named = {} if model is None else {"model": model}
        return {**named, "query": query, self.documents: list(documents), **self.options}

    def read(self, answer: Any, count: int, scale: str) -> Reply:
        """Read the JSON of a reply.

        Args:
            answer: The JSON.
            count: How many documents were sent.
            scale: What the scores are, unless the reply says so itself.

        Raises:
            BadReplyError: If not every document has exactly one finite score.
        """
        about = answer if isinstance(answer, Mapping) else {}
        rows = answer if self.results is None else about.get(self.results)
        if not isinstance(rows, list):
            where = "a list" if self.results is None else f'an object with a list "{self.results}"'
            msg = f"the reply must be {where}, but is {shorten(answer)}"
            raise BadReplyError(msg)
        if len(rows) != count:
            msg = f"the server returned {len(rows)} results for {count} documents"
            raise BadReplyError(msg)
        scores, truncated = np.empty(count), np.zeros(count, dtype=np.bool_)
        seen: set[int] = set()
        for row in rows:
            index = _index(row, count, seen)
            scores[index] = _score(row, self.score)
            truncated[index] = row.get("truncated") is True
        logits = _logits(scores, about.get("scale", scale))
        return Reply(logits, truncated, about.get("query_truncated") is True, _tokens(about))


def _index(row: Any, count: int, seen: set[int]) -> int:
    index = row.get("index") if isinstance(row, Mapping) else None
    if type(index) is not int or not 0 <= index < count:
        msg = f"a result must have an index from 0 to {count - 1}, but one is {shorten(row)}"
        raise BadReplyError(msg)
    if index in seen:
        msg = f"the server returned two results for document {index}"
        raise BadReplyError(msg)
    seen.add(index)
    return index


def _score(row: Mapping[str, Any], name: str) -> float:
    score = row.get(name)
    # float32's range: beyond it the logit would be infinite.
    if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) < 3e38:
        msg = f'a result must have a finite number "{name}", but one is {shorten(row)}'
        raise BadReplyError(msg)
    return score


def _logits(scores: NDArray[np.float64], scale: Any) -> NDArray[np.float32]:
    """Turn scores into logits whose sigmoid is the probability that the server gave, or just above it."""
    if scale == "logit":
        return scores.astype(np.float32)
    if scale not in ("probability", "calibrated"):  # it may be anything, even what has no hash
        msg = f"the reply's scale must be logit, probability or calibrated, but is {shorten(scale)}"
        raise BadReplyError(msg)
    outside = scores[(scores < 0) | (scores > 1)]
    if outside.size:
        msg = (
            f"a probability must be 0 to 1, but the server returned {outside[0]!s}; "
            'set scale="logit" if its scores are logits'
        )
        raise BadReplyError(msg)
    with np.errstate(divide="ignore", over="ignore"):
        logits = (np.log(scores) - np.log1p(-scores)).astype(np.float32)
        # Rounded up where float32 has no such number, so that a threshold of just this probability keeps it.
        below = 1 / (1 + np.exp(-logits.astype(np.float64))) < scores
    logits = np.where(below, np.nextafter(logits, np.float32(np.inf)), logits)
    clipped: NDArray[np.float32] = np.clip(logits, -_MAX_LOGIT, _MAX_LOGIT)
    return clipped


def _tokens(about: Mapping[str, Any]) -> int:
    usage = about.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, Mapping) else None
    return int(total) if isinstance(total, int | float) and 0 < total < _MOST_TOKENS else 0


DIALECTS: dict[DialectName, Dialect] = {
    "jina": Dialect(options={"return_documents": False}),
    "cohere": Dialect("/v2/rerank"),
    "voyage": Dialect(results="data", options={"truncation": True}),
    # -1: cut to the model's length; without it, vLLM refuses what is longer.
    "vllm": Dialect(scale="logit", options={"use_activation": False, "truncate_prompt_tokens": -1}),
    "tei": Dialect(
        "/rerank",
        documents="texts",
        results=None,
        score="score",
        scale="logit",
        options={"raw_scores": True, "truncate": True, "return_text": False},
        limit=("/info", "max_client_batch_size"),
    ),
    "infinity": Dialect("/rerank", scale="logit", options={"raw_scores": True, "return_documents": False}),
}
