"""Write an evaluation: JSON for programs, Markdown for pull requests, one HTML page for people."""

import json
import re
from collections.abc import Iterator
from html import escape
from itertools import chain, count
from pathlib import Path

from rerank_plugins.calibration import Calibration
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.results import Evaluation
from rerank_plugins.evaluation.tables import Table, facts, tables
from rerank_plugins.evaluation.verdict import verdict

__all__ = ["to_html", "to_json", "to_markdown", "write_report"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:64rem;margin:2rem auto;padding:0 1rem;
color:#1a1a1a;background:#fff}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:2rem 0 .4rem}
.verdict{background:#eef4f9;border-left:4px solid #0072b2;padding:.6rem 1rem}.verdict p{margin:.35rem 0}
.verdict p:first-child{font-weight:600;font-size:1.05rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal}
.note,ul{color:#555;font-size:.9rem}figure{margin:0}svg{max-width:100%;height:auto}
"""


def write_report(evaluation: Evaluation, folder: Path | str) -> list[Path]:
    """Write `report.json`, `report.md` and `report.html`, and calibrations for `scale="calibrated"`.

    Args:
        evaluation: What to report.
        folder: Made if it is not there; files in it of these names are replaced.

    Returns:
        The paths: the three, and `calibration.json`, or `calibration-NAME.json` of each system, in their
        order, if there are several.

    Raises:
        InvalidInputError: If the folder cannot be written to.
        MissingExtraError: If matplotlib is not installed.
    """
    texts = {"json": to_json(evaluation), "md": to_markdown(evaluation), "html": to_html(evaluation)}
    written = []
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            path = Path(folder) / f"report.{suffix}"
            path.write_text(text, encoding="utf-8")
            written.append(path)
        for name, calibration in _calibrations(evaluation).items():
            calibration.save(Path(folder) / name)
            written.append(Path(folder) / name)
    except OSError as error:
        msg = f"a report must go to a folder that can be written, but {folder}: {error.strerror}"
        raise InvalidInputError(msg) from error
    return written


def _calibrations(evaluation: Evaluation) -> dict[str, Calibration]:
    """Return calibrations by the name of their file."""
    found = {s.name: s.calibrated.calibration for s in evaluation.systems if s.calibrated}
    if len(found) == 1:
        return {"calibration.json": next(iter(found.values()))}
    files: dict[str, Calibration] = {}
    for name, calibration in found.items():
        plain = re.sub(r"[^\w.-]+", "-", name)
        # Other names may become the same one: those are numbered.
        wanted = (f"calibration-{plain}{end}.json" for end in chain([""], (f"-{i}" for i in count(2))))
        files[next(file for file in wanted if file not in files)] = calibration
    return files


def to_json(evaluation: Evaluation) -> str:
    """Return all figures, and the verdict, as JSON."""
    return (
        json.dumps({"verdict": verdict(evaluation)} | evaluation.to_dict(), indent=1, allow_nan=False) + "\n"
    )


def to_markdown(evaluation: Evaluation) -> str:
    """Return verdict and tables as Markdown."""
    return "\n".join(_markdown(evaluation)) + "\n"


def _markdown(evaluation: Evaluation) -> Iterator[str]:
    yield f"# Reranking {evaluation.name}\n"
    answer, *more = verdict(evaluation)
    yield f"**{answer}**\n"
    yield from (f"- {sentence}" for sentence in more)
    for table in tables(evaluation):
        yield f"\n## {table.title}\n"
        yield f"| {' | '.join(table.columns)} |"
        yield f"|---{'|---:' * (len(table.columns) - 1)}|"
        yield from ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table.rows)
        if table.note:
            yield f"\n{table.note}"
    yield "\n## How it was measured\n"
    yield from (f"- {fact}" for fact in facts(evaluation))


def to_html(evaluation: Evaluation) -> str:
    """Return one page that needs no other file and no network.

    Raises:
        MissingExtraError: If matplotlib is not installed.
    """
    # matplotlib takes a while to import, and the other reports do without.
    from rerank_plugins.evaluation.plots import plots

    title = f"Reranking {evaluation.name}"
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in verdict(evaluation))
    figures = "".join(
        f"<h2>{escape(name)}</h2><figure>{svg}</figure>" for name, svg in plots(evaluation).items()
    )
    shown = [_table(table) for table in tables(evaluation)]
    measured = "".join(f"<li>{escape(fact)}</li>" for fact in facts(evaluation))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<h1>{escape(title)}</h1><div class="verdict">{sentences}</div>'
        f"{shown[0]}{figures}{''.join(shown[1:])}"
        f"<h2>How it was measured</h2><ul>{measured}</ul></body></html>\n"
    )


def _table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows
    )
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    return (
        f'<h2>{escape(table.title)}</h2><div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>{note}"
    )
