"""Run MTEB's reranking tasks with a scorer of ours."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import MissingExtraError, ScoringError
from rerank_plugins.evaluation.systems import in_input_order
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Scorer

try:
    from mteb.models import ModelMeta
except ImportError as error:
    msg = f"rerank_plugins.evaluation.mteb needs mteb ({error}); install it with: pip install mteb"
    raise MissingExtraError(msg) from error

__all__ = ["MTEBCrossEncoder"]


class MTEBCrossEncoder:
    """A scorer as the cross-encoder that `mteb.evaluate` takes (`mteb.CrossEncoderProtocol`).

    Args:
        scorer: A scorer; or a `Reranker`, whose long-document settings count, but not its cuts and its
            fusion: MTEB orders by the logits that it is given.
        name: The model's name in MTEB's results, as `owner/name`. None: the scorer's own.
        revision: Its revision there. None: the scorer's own.

    Example:
        >>> import mteb
        >>> from rerank_plugins import CrossEncoderScorer
        >>> from rerank_plugins.evaluation.mteb import MTEBCrossEncoder
        >>> model = MTEBCrossEncoder(CrossEncoderScorer("bundled"))
        >>> isinstance(model, mteb.CrossEncoderProtocol)
        True
    """

    def __init__(
        self, scorer: Scorer | Reranker, *, name: str | None = None, revision: str | None = None
    ) -> None:
        given = scorer if isinstance(scorer, Reranker) else Reranker(scorer)
        self._reranker = given.with_settings(fusion=None)  # MTEB tells no scores of a first stage
        info = getattr(self._reranker.scorer, "info", None)
        known = name or getattr(info, "model", None) or type(self._reranker.scorer).__name__
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": known if "/" in known else f"rerank-plugins/{known}",
                "revision": revision or getattr(info, "revision", None),
                "max_tokens": getattr(info, "max_length", None),
                "model_type": ["cross-encoder"],
            }
        )

    def predict(
        self,
        inputs1: Iterable[Mapping[str, Sequence[str]]],
        inputs2: Iterable[Mapping[str, Sequence[str]]],
        **_: Any,
    ) -> NDArray[np.float64]:
        """Score pairs as MTEB hands them over.

        Args:
            inputs1: Batches of queries, under `"text"`; one for each pair.
            inputs2: Batches of documents, likewise.

        Returns:
            float64 logits, one for each pair.

        Raises:
            ScoringError: If scoring fails, whatever the reranker's `on_error` says.
        """
        pairs = zip(_texts(inputs1), _texts(inputs2), strict=True)
        logits = [np.empty(0)]
        # A query's documents come one after the other.
        for query, group in groupby(pairs, key=lambda pair: pair[0]):
            ranking = self._reranker.rank(
                query, [document for _, document in group], top_k=None, min_score=None, scale="logit"
            )
            if not ranking.reranked:
                msg = f"query {query!r} was not scored: {ranking.reason}"
                raise ScoringError(msg)
            logits.append(in_input_order(ranking))
        return np.concatenate(logits)


def _texts(batches: Iterable[Mapping[str, Sequence[str]]]) -> Iterable[str]:
    return chain.from_iterable(batch["text"] for batch in batches)
