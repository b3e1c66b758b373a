"""What was measured, as tables, JSON and a plot."""

import importlib.util
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from rerank_plugins.bench.contestants import Skipped
from rerank_plugins.bench.measure import ENOUGH, Agreement, Load, Race
from rerank_plugins.errors import InvalidInputError, MissingExtraError
from rerank_plugins.machine import cores_of, machine

__all__ = ["Report", "Result", "machine", "plot", "require_plot", "tables"]


@dataclass(frozen=True)
class Result:
    """One contestant at one number of candidates.

    Attributes:
        name: The contestant.
        race: Its rounds.
        ratio: How many times as fast as the baseline, median of paired rounds; None for lack of one.
        agreement: With our float32 logits.
        peak_share: Needed arithmetic per second over the machine's measured matmul peak in the
            contestant's float precision; None for peers and int8.
    """

    name: str
    race: Race
    ratio: float | None
    agreement: Agreement
    peak_share: float | None = None

    def row(self) -> dict[str, Any]:
        """Return plain values."""
        low, high = self.race.spread
        return {
            "name": self.name,
            "docs_per_second": round(self.race.rate, 1),
            "quartiles": [round(low, 1), round(high, 1)],
            "rounds": [round(rate, 1) for rate in self.race.rates],
            "p50_ms": round(1000 * self.race.p50, 2),
            "p99_ms": round(1000 * self.race.p99, 2),
            "latencies": len(self.race.latencies),
            "ratio": None if self.ratio is None else round(self.ratio, 2),
            "largest_logit_difference": round(self.agreement.largest, 6),
            "kendall_tau": None if self.agreement.tau is None else round(self.agreement.tau, 4),
            "share_of_matmul_peak": None if self.peak_share is None else round(self.peak_share, 3),
        }


@dataclass(frozen=True)
class Report:
    """A whole run.

    Attributes:
        model: What was measured.
        tokens_per_pair: Mean, specials and query included.
        lengths: Name of the distribution, or the file.
        rounds: Rounds that count.
        baseline: Whom ratios compare with.
        machine: Where.
        device: What computed: `"cpu"` or `"cuda:N"`.
        card: Its name, of a CUDA device.
        results: By number of candidates.
        skipped: Who could not run, and why.
        loads: Callers at once.
        peaks: GFLOP/s of a matmul, by precision.
    """

    model: str
    tokens_per_pair: float
    lengths: str
    rounds: int
    baseline: str
    machine: dict[str, Any]
    device: str = "cpu"
    card: str | None = None
    results: dict[int, list[Result]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """What computed, in words."""
        host = cores_of(self.machine)
        return host if self.card is None else f"{self.card} ({self.device}) and {host}"

    def to_json(self) -> str:
        """Return the report as JSON."""
        names = ("model", "lengths", "rounds", "baseline", "machine", "device", "card")
        values = {name: getattr(self, name) for name in names}
        values["tokens_per_pair"] = round(self.tokens_per_pair, 1)
        values["matmul_peak_gflops"] = {name: round(peak, 1) for name, peak in self.peaks.items()}
        values["results"] = {n: [result.row() for result in rows] for n, rows in self.results.items()}
        values["skipped"] = {skipped.name: skipped.reason for skipped in self.skipped}
        values["callers"] = [asdict(load) for load in self.loads]
        return json.dumps(values, indent=2) + "\n"


def tables(report: Report) -> list[Table]:
    """Return one table for each number of candidates, one for callers, one for who was skipped."""
    made = [_race_table(report, candidates, rows) for candidates, rows in report.results.items()]
    if report.loads:
        made.append(_load_table(report))
    if report.skipped:
        table = Table(title="not run", title_justify="left")
        table.add_column("")
        table.add_column("why", overflow="fold")
        for skipped in report.skipped:
            table.add_row(skipped.name, skipped.reason)
        made.append(table)
    return made


def _race_table(report: Report, candidates: int, rows: list[Result]) -> Table:
    timed = len(rows[0].race.latencies)  # as many of everybody: all score the same
    title = (
        f"{report.model}: {candidates} candidates of {report.tokens_per_pair:.0f} tokens a pair, "
        f"latencies of {timed:,} queries"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("", no_wrap=True)
    p99 = "p99 ms" if timed >= ENOUGH else "slowest\nms"
    for column in ("docs/s", "quartiles", "p50 ms", p99, "ratio", "apart", "tau", "peak"):
        table.add_column(column, justify="right", no_wrap=True)
    for result in rows:
        row = result.row()
        low, high = row["quartiles"]
        share = row["share_of_matmul_peak"]
        table.add_row(
            result.name,
            f"{row['docs_per_second']:,.0f}",
            f"{low:,.0f} to {high:,.0f}",
            f"{row['p50_ms']:,.1f}",
            f"{row['p99_ms']:,.1f}",
            "" if row["ratio"] is None else f"{row['ratio']:.2f}",
            f"{result.agreement.largest:.1e}",
            "" if row["kendall_tau"] is None else f"{row['kendall_tau']:.3f}",
            "" if share is None else f"{share:.0%}",
        )
    return table


def _load_table(report: Report) -> Table:
    title = f"{report.model}: callers at once, answered by {report.loads[0].name}"
    table = Table(title=title, title_justify="left")
    for column in ("callers", "requests", "documents each", "beside", "docs/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for load in report.loads:
        p99 = f"{1000 * load.p99:,.0f}"
        table.add_row(
            str(load.callers),
            f"{load.latencies:,}",
            str(load.documents),
            f"{load.background:,} documents" if load.background else "nobody",
            f"{load.rate:,.0f}",
            f"{1000 * load.p50:,.0f}",
            p99 if load.latencies >= ENOUGH else f"slowest {p99}",
        )
    return table


def require_plot(path: Path) -> None:
    """Check that `plot` can draw, before minutes are spent on what it would draw.

    Raises:
        MissingExtraError: If matplotlib is not installed.
        InvalidInputError: If it writes no files of this kind.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(
            '--plot needs matplotlib; install it with: pip install "rerank-plugins[bench]"'
        )
    from matplotlib.backend_bases import FigureCanvasBase

    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in kinds:
        msg = f"--plot must be a file whose name ends in one of {', '.join(sorted(kinds))}, but got {path}"
        raise InvalidInputError(msg)


def plot(report: Report, path: Path) -> None:
    """Draw documents per second with quartiles, a panel for each number of candidates.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    require_plot(path)
    from matplotlib.figure import Figure

    panels = list(report.results.items())
    height = 1.2 + 0.35 * max(len(rows) for _, rows in panels)
    figure = Figure(figsize=(8, height * len(panels)), layout="constrained")
    for axes, (candidates, rows) in zip(
        figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True
    ):
        ordered = sorted(rows, key=lambda result: result.race.rate)
        rates = [result.race.rate for result in ordered]
        low = [result.race.rate - result.race.spread[0] for result in ordered]
        high = [result.race.spread[1] - result.race.rate for result in ordered]
        ours = [result.name.startswith("rerank-plugins") for result in ordered]
        colours = ["tab:blue" if own else "tab:gray" for own in ours]
        names = [result.name for result in ordered]
        bars = axes.barh(names, rates, xerr=[low, high], color=colours, error_kw={"lw": 1})
        axes.bar_label(bars, fmt="%.0f", padding=6, fontsize=8)
        axes.set_title(f"{candidates} candidates", fontsize=10, loc="left")
        axes.margins(x=0.12)
        axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(f"documents per second, {report.tokens_per_pair:.0f} tokens a pair")
    figure.suptitle(f"{report.model} on {report.where}", fontsize=11, wrap=True)
    figure.savefig(path, dpi=120)
