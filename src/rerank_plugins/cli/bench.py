"""`rerank-plugins bench`: strings to scores, here, against what else is installed."""

from pathlib import Path

from rich.console import Console

from rerank_plugins.bench.report import plot, require_plot, tables
from rerank_plugins.bench.run import Plan, run_benchmark

__all__ = ["bench"]

# A table of figures that is folded cannot be read; a narrow terminal wraps lines instead.
_LEAST_WIDTH = 116


def bench(plan: Plan, *, json_path: Path | None, plot_path: Path | None) -> None:
    """Measure, print tables, and write JSON and a plot where asked."""
    if plot_path:
        require_plot()
    progress = Console(stderr=True)
    with progress.status("starting") as status:
        report = run_benchmark(plan, status.update)
    console = Console()
    console.width = max(console.width, _LEAST_WIDTH)
    for table in tables(report):
        console.print(table)
    here = report.machine
    instructions = ", ".join(here["instructions"]) or "unknown instructions"
    console.print(
        f"{here['cores']} cores of {here['cpu']} ({instructions}); medians of {report.rounds} interleaved "
        f"rounds, ratios to {report.baseline} paired by round; {here['date']}",
        highlight=False,
    )
    if json_path:
        json_path.write_text(report.to_json())
    if plot_path:
        plot(report, plot_path)
