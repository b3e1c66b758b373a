"""Cohere v1 and v2, Jina, vLLM and Voyage: one tolerant request, and one reply that satisfies all of them."""

import math
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.inputs import shorten
from rerank_plugins.serving.service import RerankReply, RerankRequest, RerankResult
from rerank_plugins.serving.sizes import Limits

__all__ = ["LimitedBody", "RerankBody", "RerankResponse", "Usage"]

# What Cohere bills as one unit.
_DOCUMENTS_PER_SEARCH_UNIT = 100

_EXAMPLE: JsonDict = {
    "model": "bundled",
    "query": "who wrote Faust?",
    "documents": ["A fist is a hand.", "Goethe wrote Faust."],
    "top_n": 1,
}


class LimitedBody(BaseModel):
    """What a body may say of how much of its texts to read."""

    max_tokens_per_doc: int | None = Field(None, ge=0, description="Tokens to read of each; 0: no limit.")
    max_tokens_per_query: int | None = Field(None, ge=0, description="Tokens to read of it; 0: no limit.")
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="vLLM: tokens of query and document together; -1: what the model takes."
    )
    truncation_side: Literal["left", "right"] | None = Field(
        None, description="vLLM: only `right` can be done; with `left`, what is too long is an error."
    )

    def limits(self) -> Limits:
        """Return it in no dialect."""
        pair = self.truncate_prompt_tokens
        return Limits(
            document=self.max_tokens_per_doc or None,
            query=self.max_tokens_per_query or None,
            pair=None if pair == -1 else pair,
        )


class RerankBody(LimitedBody):
    """A query and documents. Fields that are not listed are accepted and ignored, and so is null."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]}, protected_namespaces=())

    query: str
    documents: list[str | dict[str, Any]] = Field(
        description="Texts, or objects with `text` (or with the fields that `rank_fields` names)."
    )
    model: str | None = Field(None, description="A model of /v1/models, or an alias. Default: the first.")
    top_n: int | None = Field(None, ge=1, description="How many results; more than there are is all.")
    top_k: int | None = Field(None, ge=1, description="Voyage's name of `top_n`.")
    return_documents: bool | None = Field(None, description="Whether results hold the documents.")
    rank_fields: list[str] | None = Field(None, description="Cohere v1: fields to read of object documents.")
    truncation: bool | None = Field(None, description="Voyage: if false, what is too long is an error.")
    use_activation: bool | None = Field(None, description="vLLM: if false, scores are logits.")
    raw_scores: bool | None = Field(None, description="If true, scores are logits.")

    def to_request(self) -> RerankRequest:
        """Return the request in no dialect.

        Raises:
            InvalidInputError: If an object document has no text.
        """
        raw = self.raw_scores if self.use_activation is None else not self.use_activation
        return RerankRequest(
            query=self.query,
            documents=[self._text(document, i) for i, document in enumerate(self.documents)],
            model=self.model,
            top_n=self.top_k if self.top_n is None else self.top_n,
            raw=raw,
            limits=self.limits(),
            may_truncate=self.truncation is not False and self.truncation_side != "left",
        )

    def _text(self, document: str | dict[str, Any], i: int) -> str:
        if isinstance(document, str):
            return document
        fields = self.rank_fields or ["text"]
        texts = {name: document[name] for name in fields if isinstance(document.get(name), str)}
        if not texts:
            msg = (
                f"documents[{i}] must be a string or hold one in {fields}, but holds "
                f"{shorten(list(document))}; name the fields to read in rank_fields"
            )
            raise InvalidInputError(msg)
        if fields == ["text"]:
            return str(texts["text"])
        return "\n".join(f"{name}: {text}" for name, text in texts.items())


class Document(BaseModel):
    """A document of a result."""

    text: str


class Result(BaseModel):
    """A document's score.

    Attributes:
        index: Position in the documents that were sent.
        relevance_score: On the reply's scale, higher is better.
        document: With `return_documents`.
        truncated: Whether the model read less than all of it.
    """

    index: int
    relevance_score: float
    document: Document | None = None
    truncated: bool


class VoyageResult(BaseModel):
    """The same as Voyage's clients read it."""

    index: int
    relevance_score: float
    document: str | None = None


class Usage(BaseModel):
    """Tokens that the model read."""

    prompt_tokens: int
    total_tokens: int


class ApiVersion(BaseModel):
    """Cohere's version."""

    version: str


class BilledUnits(BaseModel):
    """What Cohere would bill: a unit is a query with up to 100 documents. Nothing is billed here."""

    search_units: int


class Tokens(BaseModel):
    """Tokens that the model read."""

    input_tokens: int
    output_tokens: int = 0


class Meta(BaseModel):
    """What Cohere's clients read."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: Tokens


class RerankResponse(BaseModel):
    """Results, best first."""

    id: str = Field(description="The request's id.")
    object: Literal["rerank"] = "rerank"
    model: str = Field(description="The model that was used.")
    scale: str = Field(description="`probability`, `logit` or `calibrated`.")
    query_truncated: bool = Field(description="Whether the model read less than all of the query.")
    results: list[Result]
    data: list[VoyageResult] = Field(description="The results again, as Voyage's clients read them.")
    usage: Usage
    meta: Meta

    @classmethod
    def of(cls, reply: RerankReply, *, request_id: str, version: str, documents: bool) -> Self:
        """Return a reply as clients read it; with their texts if `documents`."""
        tokens = reply.stats.tokens
        units = max(1, math.ceil(reply.stats.documents / _DOCUMENTS_PER_SEARCH_UNIT))
        return cls(
            id=request_id,
            model=reply.model,
            scale=reply.scale,
            query_truncated=reply.stats.query_truncated,
            results=[_result(result, documents=documents) for result in reply.results],
            data=[
                VoyageResult(
                    index=result.index,
                    relevance_score=result.score,
                    document=result.text if documents else None,
                )
                for result in reply.results
            ],
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
            meta=Meta(
                api_version=ApiVersion(version=version),
                billed_units=BilledUnits(search_units=units),
                tokens=Tokens(input_tokens=tokens),
            ),
        )


def _result(result: RerankResult, *, documents: bool) -> Result:
    return Result(
        index=result.index,
        relevance_score=result.score,
        document=Document(text=result.text) if documents else None,
        truncated=result.truncated,
    )
