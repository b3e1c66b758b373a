"""MS MARCO cross-encoder reranking for RAG pipelines: one exact scorer, three thin adapters.

The names below load on first use, so that importing the package pulls in neither torch nor a
framework.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rerank_plugins.calibration import Calibration
    from rerank_plugins.errors import (
        InvalidInputError,
        InvalidTypeError,
        MissingExtraError,
        ModelError,
        ModelFormatError,
        ModelNotFoundError,
        QueueFullError,
        RemoteError,
        RerankError,
        ScorerClosedError,
        ScoringError,
    )
    from rerank_plugins.preview import PreviewedPair, PreviewedPassage
    from rerank_plugins.ranking import RankedDocument, Ranking, RankingStats
    from rerank_plugins.reranker import Reranker
    from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer
    from rerank_plugins.scoring.protocol import Scorer, ScorerInfo
    from rerank_plugins.scoring.remote import RemoteScorer, RemoteSettings
    from rerank_plugins.settings import RerankSettings, ScorerSettings
    from rerank_plugins.template import DocumentTemplate, RenderedDocument

__all__ = [
    "Calibration",
    "CrossEncoderScorer",
    "DocumentTemplate",
    "InvalidInputError",
    "InvalidTypeError",
    "MissingExtraError",
    "ModelError",
    "ModelFormatError",
    "ModelNotFoundError",
    "PreviewedPair",
    "PreviewedPassage",
    "QueueFullError",
    "RankedDocument",
    "Ranking",
    "RankingStats",
    "RemoteError",
    "RemoteScorer",
    "RemoteSettings",
    "RenderedDocument",
    "RerankError",
    "RerankSettings",
    "Reranker",
    "Scorer",
    "ScorerClosedError",
    "ScorerInfo",
    "ScorerSettings",
    "ScoringError",
    "__version__",
]

__version__ = "0.1.0"

_MODULES = {
    "Calibration": "calibration",
    "CrossEncoderScorer": "scoring.cross_encoder",
    "DocumentTemplate": "template",
    "PreviewedPair": "preview",
    "PreviewedPassage": "preview",
    "RankedDocument": "ranking",
    "Ranking": "ranking",
    "RankingStats": "ranking",
    "RemoteScorer": "scoring.remote",
    "RemoteSettings": "scoring.remote",
    "RenderedDocument": "template",
    "RerankSettings": "settings",
    "Reranker": "reranker",
    "Scorer": "scoring.protocol",
    "ScorerInfo": "scoring.protocol",
    "ScorerSettings": "settings",
}

# A library leaves logging to its host; without this, Python prints warnings to stderr for us.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)


def __dir__() -> list[str]:
    return __all__
