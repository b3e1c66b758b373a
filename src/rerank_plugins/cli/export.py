"""`rerank-plugins export`: the model as a file for other runtimes."""

from pathlib import Path

from rich.console import Console

from rerank_plugins.scoring.export import GraphFormat, export_model
from rerank_plugins.settings import ScorerSettings

__all__ = ["export"]


def export(settings: ScorerSettings, folder: Path, graph_format: GraphFormat, dtype: str) -> None:
    """Export, and say what was written and how well it agrees."""
    made = export_model(settings, folder, graph_format=graph_format, dtype=dtype)
    console = Console()
    console.print(f"{made.graph} ({made.megabytes:.1f} MB, {dtype})", soft_wrap=True)
    console.print(
        f"logits of {made.pairs} pairs within {made.largest_difference:.1e} of float32", highlight=False
    )
