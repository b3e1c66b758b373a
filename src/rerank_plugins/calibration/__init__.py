"""Calibration: logits to probabilities that hold on your data, and what follows from them.

`fit` learns a `Calibration` from labelled pairs, `reliability` shows how far probabilities can be trusted,
and `threshold_for_precision` chooses a `min_score`.
"""

from rerank_plugins.calibration.diagram import Reliability, plot_reliability, reliability
from rerank_plugins.calibration.fitting import fit
from rerank_plugins.calibration.scale import PLAIN, Calibration
from rerank_plugins.calibration.threshold import Threshold, threshold_for_precision

__all__ = [
    "PLAIN",
    "Calibration",
    "Reliability",
    "Threshold",
    "fit",
    "plot_reliability",
    "reliability",
    "threshold_for_precision",
]
