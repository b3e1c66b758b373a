"""Post-training int8 quantisation of a converted `BertNetwork`, for every graph format alike.

Only the matmuls that run for every token are quantised (symmetric int8 weights per channel, activations
per tensor, with ranges fixed at calibration, so that a score never depends on its batch). Embeddings,
attention, the last layer's [CLS] row and the head stay as they are: they cost next to nothing.
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import nncf
import rich

__all__ = ["quantize"]

_PER_TOKEN = re.compile(r"layers\.\d+[./](qkv|out|up|down)\b")


def quantize(model: Any, operations: Iterable[str], feeds: Sequence[Any]) -> Any:
    """Return an int8 copy of a graph.

    Args:
        model: A graph that nncf reads: `openvino.Model` or `onnx.ModelProto`.
        operations: Names of the graph's operations.
        feeds: Calibration inputs, as the graph's runtime takes them.
    """
    exact = [name for name in operations if not _PER_TOKEN.search(name)]
    with _off_stdout():
        return nncf.quantize(
            model,
            nncf.Dataset(feeds),
            subset_size=len(feeds),
            model_type=nncf.ModelType.TRANSFORMER,
            fast_bias_correction=True,
            ignored_scope=nncf.IgnoredScope(names=exact, validate=False),
        )


@contextlib.contextmanager
def _off_stdout() -> Iterator[None]:
    """Send nncf's progress bars to standard error, in a notebook nowhere, and log only its errors.

    The bars go to rich's shared console and nncf has no switch for them. In a notebook rich would display
    them wherever standard output leads, or warn that it cannot.
    """
    logger, console = logging.getLogger("nncf"), rich.get_console()
    level, settings = logger.level, vars(console).copy()
    logger.setLevel(logging.ERROR)
    rich.reconfigure(stderr=True, quiet=console.is_jupyter, force_jupyter=False)
    try:
        yield
    finally:
        vars(console).update(settings)
        logger.setLevel(level)
