"""Haystack: `CrossEncoderRanker`.

Defined under `haystack_integrations`, since Haystack 3 loads from YAML only what is defined there.
"""

from rerank_plugins._adapters import missing_extra

try:
    from haystack_integrations.components.rankers.rerank_plugins import CrossEncoderRanker
except ImportError as error:
    raise missing_extra("haystack", error) from error

__all__ = ["CrossEncoderRanker"]
