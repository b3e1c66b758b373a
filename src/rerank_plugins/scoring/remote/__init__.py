"""`RemoteScorer`: any rerank server as a scorer."""

from rerank_plugins.scoring.remote.scorer import RemoteScorer
from rerank_plugins.scoring.remote.settings import RemoteSettings

__all__ = ["RemoteScorer", "RemoteSettings"]
