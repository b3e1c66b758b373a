"""The fenced blocks of README.md and docs/, and what a test does with each.

What is done with a block follows from its language:

    python    Run. The blocks of a page run from top to bottom in one namespace, in a process and an empty
              folder of their own, offline. Lines `# > text` in a block are exactly what it prints; without
              them it may print anything.
    sh        Run by bash in a folder with the sample files of `tests/workspace.py`. Commands that match
              `NOT_RUN` are left out; `make` is run with `--dry-run`.
    json, jsonl, yaml, toml
              Parsed.
    text      Nothing: output, drawings. So are promql and ini. Any other language, or none, fails.

A comment changes that, for the next block or, on the first line of a page, for all of its blocks:

    <!-- test: needs flashrank -->    Run only where these modules can be imported, else skip and say so.
    <!-- test: skip needs a GPU -->   Never run; what follows `skip` is the reason, and is shown.
    <!-- test: alone -->              Each block in a namespace of its own (for a page).
    <!-- test: server -->             `rerank-plugins serve` runs meanwhile, bundled model, no keys
                                      (for a page): `localhost:8000` and `127.0.0.1:8000` in its blocks become
                                      that server's address, and RERANK_REMOTE_BASE_URLS names it.

Hub ids work: there is a hub cache in which the bundled weights stand in for MiniLM-L6 and L12. So blocks show
that code runs as written, and nothing about those models.
"""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))

# Commands that are not run as they stand, and why. A pattern has to match a whole command.
NOT_RUN = {
    r"python benchmarks/render\.py": "rewrites pages; a test runs it with --check",
    r"(\S*/)?(python -m )?pip install .*": "changes the environment",
    r"(sudo )?apt-get .*": "changes the machine",
    r"python -m venv .*": "makes an environment; `make demo` does it in a checkout",
    r"(docker|kubectl|systemctl|sudo) .*": "needs more than this process",
    r"ray (start|stop).*|serve (run|deploy|status|shutdown).*": "starts a cluster; tests/ray starts one",
    r"rerank-plugins label .*": "needs a cluster; tests/ray runs it",
    r"git .*": "works on a checkout",
    r"pytest.*": "is the test suite",
    r"(\w+=\S+ )*rerank-plugins serve.*": "runs until it is stopped; tests/serving runs it",
    r"rerank-plugins bench\b.*": "takes minutes; tests/e2e/test_bench_cli.py runs it",
    r"rerank-plugins eval \S+/\S+/\S+.*": "needs a network",
    r"(\S*/)?python (benchmarks|training)/\S+\.py.*": "takes minutes, and data; its options are checked",
}

_BLOCK = re.compile(
    r"^(?P<indent>[ ]*)```(?P<info>[^`\n]*)\n(?P<body>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL
)
_MARK = re.compile(r"<!-- test: (\w+) ?(.*?) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: First word after the fence.
        text: What stands between the fences, without their indent.
        line: Line of the page on which the text begins, from 1.
        marks: Words of the comments that apply to it, with what follows them.
    """

    language: str
    text: str
    line: int
    marks: dict[str, str] = field(default_factory=dict)


def name_of(page: Path) -> str:
    """Return how tests name a page: `README`, `concepts`, `migration/flashrank`."""
    return page.relative_to(ROOT).with_suffix("").as_posix().removeprefix("docs/")


def page_marks(page: Path) -> dict[str, str]:
    """Return the marks on the first line of a page."""
    return _marks(page.read_text().partition("\n")[0])


def blocks(page: Path) -> Iterator[Block]:
    """Yield a page's fenced blocks from top to bottom."""
    text, end, whole = page.read_text(), 0, page_marks(page)
    for match in _BLOCK.finditer(text):
        before = text[end : match.start()].rstrip().rpartition("\n")[2]
        end = match.end()
        yield Block(
            language=match["info"].strip().partition(" ")[0],
            text=textwrap.dedent(match["body"]),
            line=text.count("\n", 0, match.start("body")) + 1,
            marks={**whole, **_marks(before)},
        )


def commands(script: str) -> Iterator[str]:
    """Yield the commands of a shell block; lines that are continued, or end inside quotes, are joined."""
    command = ""
    for line in script.replace("\\\n", " ").splitlines():
        command += line
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # no closing quotation yet
            command += "\n"
            continue
        if words:
            yield command
        command = ""


def not_run(command: str) -> str | None:
    """Return why a command is not run, or None if it is."""
    plain = " ".join(shlex.split(command, comments=True))
    return next((why for pattern, why in NOT_RUN.items() if re.fullmatch(pattern, plain)), None)


def _marks(line: str) -> dict[str, str]:
    return dict(_MARK.findall(line))
