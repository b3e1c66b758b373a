"""vLLM's score API: one query with many documents, or pairs."""

import time
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.dialects.rerank import LimitedBody, Usage
from rerank_plugins.serving.service import RerankReply, RerankRequest

__all__ = ["ScoreBody", "ScoreResponse"]

_EXAMPLE: JsonDict = {"text_1": "who wrote Faust?", "text_2": ["A fist is a hand.", "Goethe wrote Faust."]}
Texts = str | list[str] | None


class ScoreBody(LimitedBody):
    """Queries and documents, one to one or one to many, under one of vLLM's pairs of names.

    Fields that are not listed are accepted and ignored, and so is null.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]}, protected_namespaces=())

    queries: Texts = Field(None, description="With `documents` or `items`.")
    documents: Texts = None
    items: Texts = None
    text_1: Texts = Field(None, description="Queries, with `text_2`.")
    text_2: Texts = None
    data_1: Texts = Field(None, description="Queries, with `data_2`.")
    data_2: Texts = None
    model: str | None = Field(None, description="A model of /v1/models, or an alias. Default: the first.")
    use_activation: bool | None = Field(None, description="If false, scores are logits.")

    def pairs(self) -> list[tuple[str, str]]:
        """Return n (query, document) pairs.

        Raises:
            InvalidInputError: If a side is missing, or there are neither as many of both nor one query.
        """
        names = (("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2"))
        sides = [(getattr(self, one), getattr(self, two)) for one, two in names]
        full = [(_list(one), _list(two)) for one, two in sides if one is not None and two is not None]
        if len(full) != 1:
            msg = f"one of these pairs of fields must be given: {names}, but got {len(full)} of them"
            raise InvalidInputError(msg)
        queries, documents = full[0]
        if len(queries) == 1 and documents:
            queries *= len(documents)
        if not documents or len(queries) != len(documents):
            msg = f"queries must be one or as many as documents, but got {len(queries)} for {len(documents)}"
            raise InvalidInputError(msg)
        return list(zip(queries, documents, strict=True))

    def to_requests(self) -> tuple[list[RerankRequest], list[list[int]]]:
        """Return a request for each distinct query, and the places of its documents in the n pairs."""
        places: dict[str, list[int]] = {}
        pairs = self.pairs()
        for i, (query, _) in enumerate(pairs):
            places.setdefault(query, []).append(i)
        requests = [self._request(query, [pairs[i][1] for i in of]) for query, of in places.items()]
        return requests, list(places.values())

    def _request(self, query: str, documents: list[str]) -> RerankRequest:
        return RerankRequest(
            query=query,
            documents=documents,
            model=self.model,
            raw=None if self.use_activation is None else not self.use_activation,
            limits=self.limits(),
            may_truncate=self.truncation_side != "left",
        )


class Score(BaseModel):
    """A pair's score, in the order of the pairs."""

    index: int
    object: Literal["score"] = "score"
    score: float


class ScoreResponse(BaseModel):
    """Scores in the order of the pairs."""

    id: str = Field(description="The request's id.")
    object: Literal["list"] = "list"
    created: int = Field(description="Seconds since 1970.")
    model: str = Field(description="The model that was used.")
    scale: str = Field(description="`probability`, `logit` or `calibrated`.")
    data: list[Score]
    usage: Usage

    @classmethod
    def of(cls, replies: list[RerankReply], places: list[list[int]], *, request_id: str) -> Self:
        """Return the replies to `to_requests` as vLLM's clients read them."""
        scores: dict[int, float] = {}
        for reply, of in zip(replies, places, strict=True):
            scores |= {of[result.index]: result.score for result in reply.results}
        tokens = sum(reply.stats.tokens for reply in replies)
        return cls(
            id=request_id,
            created=int(time.time()),
            model=replies[0].model,
            scale=replies[0].scale,
            data=[Score(index=i, score=scores[i]) for i in sorted(scores)],
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        )


def _list(texts: Any) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)
