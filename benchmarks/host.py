"""What a call costs the host, without a GPU: callers at once before an engine that only takes a card's time.

    python benchmarks/host.py [--callers 64]

Everything up to the device is real: tokenising, queueing, packing, answering. The device is a clock: a batch
takes as long as one of MiniLM-L6 on an H200, as far as docs/performance.md tells (that of L12, halved).
Compare commits with it, not machines; run it on each by turns.
"""

import os
import time
from dataclasses import replace
from typing import Annotated
from unittest.mock import patch

import cuda
import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console

from rerank_plugins.scoring import registry
from rerank_plugins.scoring.engines.base import Launched
from rerank_plugins.scoring.engines.batches import Shape, pack
from rerank_plugins.scoring.engines.graphs import SHAPES, Graphs
from rerank_plugins.scoring.pairs import EncodedPairs

# Seconds.
BATCH, TOKEN = 150e-6, 60e-9


class Clock:
    """An engine that computes nothing, and is done when a card would be."""

    name = "torch"
    pads = False
    ahead = 1
    memory = 0
    at_once = SHAPES[-1]

    def __init__(self) -> None:
        self._free = 0.0

    def takes_at_once(self, pairs: EncodedPairs) -> bool:
        """Say whether there would be a graph."""
        return Graphs.shape_for(Shape(len(pairs.ids), len(pairs))) is not None

    def launch(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> Launched:
        """Prepare a batch as for a card, and note when that would have its logits."""
        needed = Shape(int(pairs.lengths[indices].sum()), len(indices))
        batch = pack(pairs, indices, Graphs.shape_for(needed))
        torch.from_numpy(batch.array).clone()  # for pinned memory
        done = max(time.perf_counter(), self._free) + BATCH + TOKEN * batch.shape.tokens
        self._free = done

        def collect() -> NDArray[np.float32]:
            time.sleep(max(0.0, done - time.perf_counter()))
            return pairs.lengths[indices].astype(np.float32)

        return Launched(collect, lambda: time.perf_counter() >= done)

    def close(self) -> None:
        """Hold nothing."""


def main(callers: Annotated[int, typer.Option(help="How many at once.")] = 64) -> None:
    """Measure and print."""
    os.environ["RERANK_MAX_BATCH_TOKENS"] = "65536"  # as on a card
    size = replace(cuda.full("cpu"), ours=("torch:float32",), callers=callers)
    with (
        patch.object(registry, "make_engine", lambda *_: Clock()),
        patch.object(registry, "choose_engine", lambda *_: ("torch", "a clock")),
    ):
        cuda.show(Console(width=130), "callers", cuda.measure_many_callers("bundled", size))


if __name__ == "__main__":
    typer.run(main)
