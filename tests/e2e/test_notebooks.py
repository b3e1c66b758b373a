"""Every notebook runs from a clean kernel, offline, and is committed with small outputs of such a run."""

import ast
import re
import sys
from importlib.metadata import packages_distributions, requires
from pathlib import Path
from typing import Any

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_BYTES = 400_000
ENGINES = {"openvino", "onnxruntime", "nncf"}  # notebook 3 names them, and int8; it does not import them


def outputs_of(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def test_there_are_five() -> None:
    assert [path.name[:2] for path in NOTEBOOKS] == ["01", "02", "03", "04", "05"]


def code_of(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub(r"^%.*$", "", code, flags=re.MULTILINE)


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(code_of(path))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name.partition(".")[0] for name in names}


def test_the_extra_brings_what_they_import() -> None:
    required = {
        canonicalize_name(one.name)
        for one in map(Requirement, requires("rerank-plugins") or ())
        if one.marker is None or one.marker.evaluate({"extra": "notebooks"})
    }
    brought_by = packages_distributions()
    names = set().union(*map(imported, [*NOTEBOOKS, FOLDER / "shared.py"])) | ENGINES
    missing = {
        name
        for name in names - sys.stdlib_module_names - {"rerank_plugins", "shared"}
        if not required.intersection(map(canonicalize_name, brought_by.get(name, ())))
    }
    assert not missing


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_as_it_ran(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = outputs_of(notebook)
    assert sum(
        "image/png" in output.get("data", {}) or "image/svg+xml" in output.get("data", {})
        for output in outputs
    )
    assert path.stat().st_size < MOST_BYTES
    assert not [
        output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"
    ]
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"/(?:home|root|Users|tmp|work)/\w", text), "a path of one machine"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "execute", raising=False)
    from execute import execute

    notebook = execute(path)  # raises if a cell fails
    assert not [output for output in outputs_of(notebook) if output.get("name") == "stderr"]
