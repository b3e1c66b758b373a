"""Write the measured tables into README.md, docs/ and the model card, none by hand.

python benchmarks/render.py [--check]
"""

import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import render_cuda
import typer

ROOT = Path(__file__).parents[1]
CARD = ROOT / "src/rerank_plugins/bundled/model/README.md"
PAGES = (ROOT / "README.md", CARD, *sorted((ROOT / "docs").rglob("*.md")))
RESULTS = Path(__file__).parent / "results"

Rows = list[dict[str, Any]]


def read(name: str) -> dict[str, Any]:
    """Return one result file."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table, figures to the right."""
    columns = list(head)
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def best(rows: Rows, start: str, int8: bool) -> dict[str, Any] | None:
    """Return the fastest of those whose names begin like this, in float32 or in int8."""

    def fits(name: str) -> bool:
        if int8:
            return name.endswith("int8")
        # Ours name every precision, peers all but float32.
        ours = name.startswith("rerank-plugins")
        return name.endswith(":float32") if ours else not name.endswith(("int8", "bf16", "fp16"))

    fitting = [row for row in rows if row["name"].startswith(start) and fits(row["name"])]
    return max(fitting, key=lambda row: row["docs_per_second"], default=None)


def paired(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """Return how many times as fast ours is, round by round, as a median."""
    return statistics.median(a / b for a, b in zip(ours["rounds"], theirs["rounds"], strict=True))


def runs(machine: str = ".") -> Iterable[tuple[str, dict[str, Any], str, Rows]]:
    """Yield name, report, number of candidates and rows of each race, from a folder of the results."""
    for path in sorted((RESULTS / machine).glob("*-*.json"), key=lambda path: (_order(path.stem), path.stem)):
        report = json.loads(path.read_text())
        for candidates, rows in report["results"].items():
            if len(rows) > 1:
                yield path.stem, report, candidates, rows


def _order(name: str) -> int:
    return ["L6", "L12", "L4", "L2", "TinyBERT"].index(name.partition("-")[0])


def summary(machine: str = ".") -> str:
    """Return how many times as fast ours is: as sentence-transformers' default, and as its best alike."""
    lines = []
    for name, report, candidates, rows in runs(machine):
        cells = [name.partition("-")[0], report["lengths"], f"{report['tokens_per_pair']:.0f}", candidates]
        default = next(row for row in rows if row["name"] == "sentence-transformers")
        for int8 in (False, True):
            ours, theirs = best(rows, "rerank-plugins", int8), best(rows, "sentence-transformers", int8)
            if ours is None:
                cells += ["", ""]
                continue
            cells.append(f"**{ours['ratio']:.1f}** ({ours['name'].split()[1].split(':')[0]})")
            cells.append(f"{paired(ours, theirs):.1f}" if theirs else "")
        lines.append([*cells, f"{default['docs_per_second']:,.0f}"])
    head = [
        "model",
        "lengths",
        "tokens",
        "candidates",
        "float32, times its default",
        "times its best float32",
    ]
    head += ["int8, times its default", "times its best int8", "its default, docs/s"]
    return table(head, lines)


def headline(machine: str = ".") -> str:
    """Return documents a second of our fastest, at 20 to 100 candidates, and of sentence-transformers."""
    lines = []
    for name, report, candidates, rows in runs(machine):
        if not 20 <= int(candidates) <= 100:
            continue
        cells = [name.partition("-")[0], f"{report['tokens_per_pair']:.0f}"]
        for int8 in (False, True):
            ours = best(rows, "rerank-plugins", int8)
            cells.append(f"{ours['docs_per_second']:,.0f} ({ours['ratio']:.1f}x)" if ours else "")
        default = next(row for row in rows if row["name"] == "sentence-transformers")
        lines.append([*cells, f"{default['docs_per_second']:,.0f}"])
    head = [
        "documents a second",
        "tokens a pair",
        "ours, float32",
        "ours, int8",
        "sentence-transformers' default",
    ]
    return table(head, lines)


def bundled(name: str) -> str:
    """Return nDCG@10 of the bundled model on its test sets."""
    lines = [
        [
            SETS[key],
            row["queries"],
            f"{row['first']['nDCG@10']:.4f}",
            f"**{row['alone']['mean']['nDCG@10']:.4f}**",
            _interval(row["alone"]["against_first"]),
        ]
        for key, row in _sets(name)
    ]
    head = ["test set", "queries", "nDCG@10, BM25 top 100", "reranked", "difference, 95% interval"]
    return table(head, lines)


def race(name: str) -> str:
    """Return one run in full."""
    parts = []
    for candidates, rows in read(name)["results"].items():
        report = read(name)
        lines = [
            [
                row["name"],
                f"{row['docs_per_second']:,.0f}",
                "{:,.0f} to {:,.0f}".format(*row["quartiles"]),
                f"{row['p50_ms']:,.1f}",
                f"{row['p99_ms']:,.1f}",
                f"{row['ratio']:.2f}",
                f"{row['largest_logit_difference']:.1e}",
                "" if row["kendall_tau"] is None else f"{row['kendall_tau']:.3f}",
                "" if row["share_of_matmul_peak"] is None else f"{row['share_of_matmul_peak']:.0%}",
            ]
            for row in rows
        ]
        head = ["", "docs/s", "quartiles", "p50 ms", "p99 ms", "ratio", "logits apart", "tau", "of peak"]
        tokens = report["tokens_per_pair"]
        parts.append(f"{candidates} candidates, {tokens:.0f} tokens a pair, {report['rounds']} rounds:")
        parts.append(table(head, lines))
    return "\n\n".join(parts)


def callers(name: str) -> str:
    """Return what callers at once got."""
    report = read(name)
    lines = [
        [
            load["callers"],
            f"{load['background']:,} documents" if load["background"] else "nobody",
            f"{load['rate']:,.0f}",
            f"{1000 * load['p50']:,.0f}",
            f"{1000 * load['p99']:,.0f}",
        ]
        for load in report["callers"]
    ]
    (row,) = report["results"]["100"]
    alone = f"One caller with 100 candidates: {row['docs_per_second']:,.0f} docs/s."
    return table(["callers", "beside", "docs/s of the callers", "p50 ms", "p99 ms"], lines) + f"\n\n{alone}"


def tokenizing(name: str) -> str:
    """Return what encoding pairs takes, met for the first time and again."""
    lines = [
        [way, f"{times[0]:.0f}", f"{statistics.median(times):.0f}", f"{times[-1]:.0f}"]
        for way, times in read(name)["milliseconds"].items()
    ]
    return table(["milliseconds a call", "first call", "median", "last call"], lines)


def scaling(name: str) -> str:
    """Return cost against candidates, tokenising, memory."""
    report = read(name)
    memory = report["peak_mib_of_one_streamed_call"]
    return "\n\n".join(
        [
            table(
                ["candidates of one call", "docs/s"],
                [[key, f"{value:,}"] for key, value in report["docs_per_second"].items()],
            ),
            table(
                ["100 documents a call", "share of the time spent tokenising"],
                [[key, f"{value:.0%}"] for key, value in report["share_of_time_tokenising"].items()],
            ),
            table(
                ["documents streamed through one call", "peak MiB of the process", "of it, by that call"],
                [
                    [count, f"{found['after']:,}", f"{found['after'] - found['before']:,}"]
                    for count, found in memory.items()
                ],
            ),
        ]
    )


def accuracy(name: str) -> str:
    """Return what each precision changes."""
    report = read(name)
    lines = [
        [
            row["engine"],
            f"{row['largest_difference']:.1e}",
            f"{row['mean_difference']:+.1e}",
            f"{row['kendall_tau']:.3f}",
            f"{row['ndcg_at_10']:.4f}",
        ]
        for row in report["rows"]
    ]
    head = ["engine:precision", "largest logit difference", "mean", "Kendall's tau", "nDCG@10"]
    return table(head, lines)


def labelling() -> str:
    """Return what labelling through Ray Data does."""
    report = read("labelling")
    killed = report["killed"]
    alone, workers = report["docs_per_second_in_process"], report["docs_per_second_per_worker"]
    half = len(alone) // 2
    lines = [
        ["pairs", f"{report['pairs']:,}"],
        ["pairs a second, a plain process, before", f"{statistics.mean(alone[:half]):,.0f}"],
        ["pairs a second, a worker", f"{statistics.mean(workers):,.0f}"],
        ["pairs a second, a plain process, after", f"{statistics.mean(alone[half:]):,.0f}"],
        ["labelled when it was killed", f"{killed['pairs_labelled_before']:,}"],
        ["labelled after it was continued", f"{killed['pairs_labelled_after']:,}"],
        ["lost, doubled", f"{report['pairs_lost']}, {report['pairs_doubled']}"],
        ["largest logit difference", f"{report['largest_logit_difference']:.1e}"],
    ]
    return table([f"{report['model']}, {report['engine']}", ""], lines)


def sizing(price: str) -> str:
    """Return what a million pairs cost on the machine that was measured, at a price an hour."""
    lines = []
    for name, report, _, rows in runs():
        for int8 in (False, True):
            ours = best(rows, "rerank-plugins", int8)
            if ours is not None and name.endswith(("-msmarco", "-rag")):
                rate = ours["docs_per_second"]
                cost = 1e6 / rate / 3600 * float(price)
                cells = [name.partition("-")[0], ours["name"].split()[1], f"{report['tokens_per_pair']:.0f}"]
                lines.append(
                    [
                        *cells,
                        f"{rate:,.0f}",
                        f"{1e6 / rate / 3600:.2f}",
                        f"{cost:.2f}",
                        f"{0.7 * rate / 50:.1f}",
                    ]
                )
    head = ["model", "engine", "tokens a pair", "pairs a second", "hours for a million", "cost of a million"]
    return table([*head, "requests a second of 50 documents"], lines)


def serving(name: str) -> str:
    """Return what the server did under load."""
    report = read(name)
    full, load = report["throughput"], report["load"]
    lines = [
        [
            f"{row['share']:.0%}",
            row["requests"],
            *(f"{row[f'p{percent}_ms']:,.0f}" for percent in (50, 95, 99)),
            f"{row['refused'] / row['requests']:.0%}",
            f"{row['refusals']['p99_ms']:,.0f}" if row["refusals"] else "",
            "{} to {}".format(*row["memory_mib"]),
        ]
        for row in load["rows"]
    ]
    head = ["load", "requests", "p50 ms", "p95 ms", "p99 ms", "refused", "p99 ms of refusals", "server's MiB"]
    said = (
        f"Requests of {full['documents_per_request']} documents, {full['callers']} at once: "
        f"{full['server_docs_per_second']:,.0f} docs/s through the server, "
        f"{full['in_process_docs_per_second']:,.0f} in process: **{full['ratio']:.0%}** "
        f"(median of {len(full['rounds']['server'])} rounds, by turns).\n\n"
        f"Requests of {load['documents_per_request']} documents that come at random times, as shares of "
        f"{load['capacity_requests_per_second']:.1f} requests a second, which 8 callers at once get:"
    )
    checked = f"{report['replies_checked']:,} replies compared, {report['replies_wrong']} with wrong scores."
    return f"{said}\n\n{table(head, lines)}\n\n{checked}"


SETS = {"dl19": "TREC DL 2019", "dl21": "TREC DL 2021", "scifact": "BEIR SciFact"}


def quality(name: str) -> str:
    """Return nDCG@10 of each set before and after, alone and fused."""
    rows = [
        [
            f"{SETS[key]}, {row['queries']} queries, {row['depth']} deep",
            f"{row['first']['nDCG@10']:.4f}",
            f"{row['alone']['mean']['nDCG@10']:.4f}",
            _interval(row["alone"]["against_first"]),
            f"{row['rrf']['mean']['nDCG@10']:.4f}",
            f"{row['fitted']['mean']['nDCG@10']:.4f} ({row['fitted']['fusion']})",
            _interval(row["fitted"]["against_alone"]),
            f"{row['best_possible']['nDCG@10']:.4f}",
        ]
        for key, row in _sets(name)
    ]
    head = ["nDCG@10", "BM25", "reranked", "difference, 95% interval", "with rrf", "with a fitted weight"]
    head += ["against reranked, 95% interval", "best possible order"]
    return table(head, rows)


def calibration(name: str) -> str:
    """Return what calibration and a threshold do on each set."""
    rows = [
        [
            SETS[key],
            f"{found['error_before']:.3f}",
            f"{found['error_after']:.3f}",
            f"{found['wanted']:.0%}",
            "" if found["precision"] is None else f"{found['precision']:.0%}",
            "{:.0%} to {:.0%}".format(*found["precision_interval"])
            if found["precision_interval"][0] is not None
            else "",
            f"{found['recall']:.0%}",
        ]
        for key, row in _sets(name)
        if (found := row["calibrated"])
    ]
    head = ["", "error of the sigmoid", "calibrated", "precision wanted", "had", "95% interval", "recall"]
    return table(head, rows)


def _sets(name: str) -> Iterable[tuple[str, dict[str, Any]]]:
    found = read(name)
    return ((key, found[key]) for key in SETS if key in found)


def _interval(change: dict[str, float]) -> str:
    return f"{change['delta']:+.3f} ({change['low']:+.3f} to {change['high']:+.3f})"


BLOCKS: dict[str, Callable[..., str]] = {
    "summary": summary,
    "headline": headline,
    "bundled": bundled,
    "race": race,
    "callers": callers,
    "scaling": scaling,
    "tokenizing": tokenizing,
    "accuracy": accuracy,
    "labelling": labelling,
    "sizing": sizing,
    "serving": serving,
    "quality": quality,
    "calibration": calibration,
    **render_cuda.blocks(table, read),
}


def render(text: str) -> str:
    """Return the page with every `<!-- block argument -->` ... `<!-- end -->` filled."""

    def fill(match: re.Match[str]) -> str:
        block, *arguments = match["call"].split()
        return f"<!-- {match['call']} -->\n\n{BLOCKS[block](*arguments)}\n\n<!-- end -->"

    return re.sub(
        rf"<!-- (?P<call>(?:{'|'.join(BLOCKS)})(?: [^>]*?)?) -->\n.*?<!-- end -->",
        fill,
        text,
        flags=re.DOTALL,
    )


def main(
    check: Annotated[bool, typer.Option("--check", help="Only say whether it is up to date.")] = False,
) -> None:
    """Fill the pages."""
    for page in PAGES:
        text = page.read_text()
        rendered = render(text)
        if check and rendered != text:
            typer.echo(f"{page.name} is not what was measured", err=True)
            raise typer.Exit(1)
        page.write_text(rendered)


if __name__ == "__main__":
    typer.run(main)
