"""A table of text, and the cells that several tables share."""

from dataclasses import dataclass

from rerank_plugins.evaluation.statistics import Comparison

__all__ = ["Table", "counts", "difference"]


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: One line.
        columns: Headings; the first column names the row, the others are figures.
        rows: Cells, as many as there are headings.
        note: How to read it.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


def difference(change: Comparison) -> list[str]:
    """Return difference, interval and p as cells."""
    known = change.low is not None and change.high is not None
    return [
        f"{change.delta:+.4f}",
        f"{change.low:+.4f} to {change.high:+.4f}" if known else "",
        "" if change.p_value is None else f"{change.p_value:.4f}",
    ]


def counts(change: Comparison) -> str:
    """Return better, worse and same as a cell."""
    return f"{change.wins} / {change.losses} / {change.ties}"
