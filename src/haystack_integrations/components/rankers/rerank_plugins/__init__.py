"""Haystack component of rerank-plugins; also importable from `rerank_plugins.haystack`."""

from haystack_integrations.components.rankers.rerank_plugins.ranker import CrossEncoderRanker

__all__ = ["CrossEncoderRanker"]
