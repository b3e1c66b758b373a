"""Pairs that int8 quantisation looks at to choose its ranges."""

from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.scoring.engines.batches import PaddedBatch, pad
from rerank_plugins.scoring.loading import ModelFiles
from rerank_plugins.scoring.packing import plan_batches
from rerank_plugins.scoring.pairs import PairEncoder

__all__ = ["calibration_batches", "calibration_sources"]

# Few texts are enough for ranges; long ones matter, so some documents are several passages.
_DOCUMENTS_PER_QUERY = 24
_BATCH_TOKENS = 1024


def calibration_batches(found: ModelFiles, pad_id: int) -> list[PaddedBatch]:
    """Return about 300 pairs of the demo's queries and passages, one to four passages long.

    They ship with the package, belong to no evaluation set, and are the same on every machine; what the
    user has set, a shorter `max_length` for example, has no say.
    """
    encoder = PairEncoder(found.tokenizer, max_length=found.max_length)
    pairs = encoder.encode(list(_pairs()))
    batches = plan_batches(pairs.lengths, _BATCH_TOKENS)
    return [pad(pairs, indices, pad_id, multiple=8) for indices in batches]


def calibration_sources(found: ModelFiles) -> list[str]:
    """Return all that `calibration_batches` and the choice of ranges depend on, but the weights."""
    quantizer = "" if find_spec("nncf") is None else version("nncf")
    texts = [text for pair in _pairs() for text in pair]
    code = Path(__file__).read_text(encoding="utf-8")
    return [code, quantizer, found.tokenizer.to_str(), str(found.max_length), *texts]


def _pairs() -> Iterator[tuple[str, str]]:
    random = np.random.default_rng(0)
    passages = [passage.text for passage in load_passages()]
    for query in load_queries():
        for _ in range(_DOCUMENTS_PER_QUERY):
            chosen = random.choice(len(passages), size=random.integers(1, 5), replace=False)
            yield query.text, " ".join(passages[i] for i in chosen)
