"""Text Embeddings Inference: `/rerank` with `texts`, and `/info`."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel
from pydantic.config import JsonDict

from rerank_plugins.serving.service import RerankReply, RerankRequest

__all__ = ["TeiBody", "TeiInfo", "TeiResponse", "TeiResult"]

_EXAMPLE: JsonDict = {"query": "who wrote Faust?", "texts": ["A fist is a hand.", "Goethe wrote Faust."]}


class TeiBody(BaseModel):
    """A query and texts. Fields that are not listed are accepted and ignored, and so is null."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]}, protected_namespaces=())

    query: str
    texts: list[str]
    model: str | None = Field(None, description="Not TEI's: a model of /v1/models. Default: the first.")
    raw_scores: bool | None = Field(None, description="If true, scores are logits.")
    return_text: bool | None = Field(None, description="Whether results hold the texts.")
    truncate: bool | None = Field(None, description="If false, what is too long is an error.")
    truncation_direction: Literal["Left", "Right", "left", "right"] | None = Field(
        None, description="Only `Right` can be done; with `Left`, what is too long is an error."
    )

    def to_request(self) -> RerankRequest:
        """Return the request in no dialect."""
        left = (self.truncation_direction or "").lower() == "left"
        return RerankRequest(
            query=self.query,
            documents=self.texts,
            model=self.model,
            raw=self.raw_scores,
            may_truncate=self.truncate is not False and not left,
        )


class TeiResult(BaseModel):
    """A text's score.

    Attributes:
        index: Position in the texts that were sent.
        score: On the scale that the header `X-Rerank-Scale` names.
        text: With `return_text`.
    """

    index: int
    score: float
    text: str | None = None


class TeiResponse(RootModel[list[TeiResult]]):
    """Results, best first."""

    @classmethod
    def of(cls, reply: RerankReply, *, texts: bool) -> "TeiResponse":
        """Return a reply as TEI's clients read it; with the texts if `texts`."""
        return cls(
            [
                TeiResult(index=result.index, score=result.score, text=result.text if texts else None)
                for result in reply.results
            ]
        )


class TeiInfo(BaseModel):
    """The default model, and how much a request may have.

    Attributes:
        model_id: Its name.
        model_sha: Its commit on the hub, if it has one.
        model_dtype: Precision of its body.
        model_type: That it is a reranker.
        max_concurrent_requests: Requests that may be inside at once.
        max_input_length: Tokens of a pair.
        max_batch_tokens: Tokens of a batch.
        max_client_batch_size: Texts of a request.
        auto_truncate: Whether longer texts are cut where a request does not say.
        version: Of this server.
        device: Where the model runs.
        engine: What runs it.
        scale: Scale of scores where a request does not say.
    """

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    model_sha: str | None
    model_dtype: str | None
    model_type: dict[str, Any] = Field(
        default_factory=lambda: {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    )
    max_concurrent_requests: int
    max_input_length: int | None
    max_batch_tokens: int | None
    max_client_batch_size: int
    auto_truncate: bool = True
    version: str
    device: str | None
    engine: str | None
    scale: str
