"""`rerank-plugins models`: the family as a table."""

import json
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from rerank_plugins.scoring.family import FAMILY

__all__ = ["show_models"]

_SOURCE = (
    "Published by the model cards: nDCG@10 on TREC DL 2019 (top-1000 reranked), MRR@10 on MS MARCO dev, "
    "documents/s on a V100. All were trained on MS MARCO, so these figures are in-domain."
)
_BUNDLED: dict[str, Any] = {
    "id": "bundled",
    "layers": 6,
    "parameters": 22_713_601,
    "good_for": "first steps, tests, and machines without network; see its model card",
}


def show_models(*, as_json: bool) -> None:
    """Print the family and the bundled model."""
    if as_json:
        rows = [asdict(member) for member in FAMILY]
        Console().print_json(json.dumps({"source": _SOURCE, "models": [*rows, _BUNDLED]}))
        return
    table, needs = Table(), Table.grid(padding=(0, 2))
    table.add_column("model", no_wrap=True)
    for heading in ("layers", "weights", "nDCG@10", "MRR@10", "docs/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for m in FAMILY:
        figures = (f"{m.ndcg10_dl19:.2f}", f"{m.mrr10_dev:.2f}", str(m.docs_per_second))
        table.add_row(m.aliases[0], str(m.layers), f"{m.parameters / 1e6:.1f} M", *figures)
        needs.add_row(m.aliases[0], m.good_for)
    table.add_row("bundled", str(_BUNDLED["layers"]), f"{_BUNDLED['parameters'] / 1e6:.1f} M", "", "", "")
    needs.add_row("bundled", _BUNDLED["good_for"])
    console = Console()
    console.print(table)
    console.print(f"{_SOURCE}\n\nGood for:", highlight=False)
    console.print(needs)
