"""README and docs say what the code does: every block is run or parsed (tests/pages.py says how).

Links lead somewhere, commands and extras exist, tables are those that were measured.
"""

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from rerank_plugins.cli.app import app
from tests.pages import PAGES, ROOT, Block, blocks, commands, name_of, not_run, page_marks
from tests.workspace import environment, fill, fill_flashrank, make_hub, serve

PARSERS = {
    "json": json.loads,
    "jsonl": lambda text: [json.loads(line) for line in text.splitlines()],
    "yaml": lambda text: list(yaml.safe_load_all(text)),
    "toml": tomllib.loads,
    **dict.fromkeys(("text", "promql", "ini"), str),
}
SCRIPTS = [(page, block) for page in PAGES for block in blocks(page) if block.language == "sh"]


def with_python(page: Path) -> bool:
    return any(block.language == "python" for block in blocks(page))


def installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def skip_where_marked(marks: dict[str, str]) -> None:
    if "skip" in marks:
        pytest.skip(marks["skip"])
    missing = [name for name in marks.get("needs", "").split() if not installed(name)]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    fill(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def server(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve(hub, tmp_path_factory.mktemp("server") / "log") as address:
        yield address


@pytest.fixture
def address(request: pytest.FixtureRequest, page: Path) -> str | None:
    """The address of a running server, for pages that ask for one."""
    return request.getfixturevalue("server") if "server" in page_marks(page) else None


def located(text: str, address: str | None) -> str:
    return text if address is None else re.sub(r"(localhost|127\.0\.0\.1):8000", address, text)


def variables(hub: Path, address: str | None) -> dict[str, str]:
    named = {} if address is None else {"RERANK_REMOTE_BASE_URLS": f"http://{address}"}
    return {**environment(hub), **named}


def run_page(page: Path, chosen: list[Block], hub: Path, folder: Path, address: str | None) -> None:
    """Run a page's Python in a process of its own."""
    given = {
        "page": str(page),
        "alone": "alone" in page_marks(page),
        "blocks": [{"line": block.line, "text": located(block.text, address)} for block in chosen],
    }
    done = subprocess.run(
        # -P: else `import ray` would find tests/ray.
        [sys.executable, "-P", str(ROOT / "tests" / "run_page.py")],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        cwd=folder,
        env=variables(hub, address),
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("page", [page for page in PAGES if with_python(page)], ids=name_of)
def test_a_page_runs_from_top_to_bottom(page: Path, hub: Path, workspace: Path, address: str | None) -> None:
    skip_where_marked(page_marks(page))
    chosen = [block for block in blocks(page) if block.language == "python" and not is_apart(page, block)]
    if "flashrank" in page.stem:
        fill_flashrank(workspace)
    run_page(page, chosen, hub, workspace, address)


def is_apart(page: Path, block: Block) -> bool:
    """Say whether a block needs something of its own: other people's code, mostly."""
    return bool({"needs", "skip"} & (block.marks.keys() - page_marks(page).keys()))


def blocks_apart() -> Iterator[object]:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "python" and is_apart(page, block):
                yield pytest.param(page, block, id=f"{name_of(page)}:{block.line}")


@pytest.mark.parametrize(("page", "block"), list(blocks_apart()))
def test_a_block_with_needs_runs_where_they_are_met(
    page: Path, block: Block, hub: Path, workspace: Path, address: str | None
) -> None:
    skip_where_marked(block.marks)
    if "flashrank" in block.marks["needs"]:
        fill_flashrank(workspace)
    run_page(page, [block], hub, workspace, address)


@pytest.mark.parametrize(
    ("page", "block"), SCRIPTS, ids=[f"{name_of(page)}:{block.line}" for page, block in SCRIPTS]
)
def test_shell_commands_run(
    page: Path, block: Block, hub: Path, workspace: Path, address: str | None
) -> None:
    skip_where_marked(block.marks)
    lines = [command for command in commands(block.text) if not not_run(command)]
    for command in commands(block.text):
        check_script(command)
    if not lines:
        pytest.skip("; ".join(sorted({str(not_run(command)) for command in commands(block.text)})))
    lines = [located(line, address) for line in lines]
    dry = [re.sub(r"^make\b", f"make --dry-run -C {shlex.quote(str(ROOT))}", line) for line in lines]
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(dry)],
        capture_output=True,
        text=True,
        cwd=workspace,
        env={
            **variables(hub, address),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        check=False,
    )
    assert done.returncode == 0, f"{page.name}:{block.line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"


def check_script(command: str) -> None:
    """Check that a script of ours is there, and knows the options it is called with."""
    if not (match := re.match(r"\S*python ((?:benchmarks|training)/\S+\.py)([^#]*)", command)):
        return
    source = (ROOT / match[1]).read_text()
    # Not imported: some need a GPU, or what only their own environment has.
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    arguments = [argument for function in functions for argument in function.args.args]
    known = {
        argument.arg.replace("_", "-")
        for argument in arguments
        if argument.annotation is not None and "typer.Option" in ast.unparse(argument.annotation)
    }
    known |= set(re.findall(r'"--([\w-]+)"', source))
    assert set(re.findall(r"--([\w-]+)", match[2])) <= known, f"{match[1]} knows {sorted(known)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_other_blocks_parse_and_no_language_is_unknown(page: Path) -> None:
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in {"python", "sh", *PARSERS}, f"{where}: {block.language or 'no language'}"
        if block.language in PARSERS:
            PARSERS[block.language](block.text)


def test_commands_exist() -> None:
    known = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    for page in PAGES:
        named = set(re.findall(r"`rerank-plugins ([a-z]\w*)", page.read_text()))
        assert named <= known, name_of(page)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "training" / "README.md", ROOT / "CHANGELOG.md"], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_tables_are_those_that_were_measured() -> None:
    script = ROOT / "benchmarks" / "render.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run python benchmarks/render.py\n{done.stderr}"


def test_every_extra_that_is_named_exists() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {
        extra
        for page in PAGES
        for group in re.findall(r'"rerank-plugins\[([\w,-]+)\]"', page.read_text())
        for extra in group.split(",")
    }
    assert named <= set(extras)
    assert {"langchain", "llama-index", "haystack"} <= named


def test_every_example_is_on_its_page() -> None:
    shown = re.findall(
        r"^<!-- example: (\w+) -->$", (ROOT / "docs" / "examples.md").read_text(), re.MULTILINE
    )
    assert sorted(shown) == sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
