"""The package as a whole: light, honest about its names, layered."""

import ast
import doctest
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rerank_plugins

SOURCE = Path(rerank_plugins.__file__).parent
HEAVY = [
    "torch",
    "transformers",
    "langchain_core",
    "llama_index",
    "haystack",
    "sentence_transformers",
    "numpy",
    "ir_measures",
    "rerank_plugins.evaluation",
]


def test_importing_the_package_is_light() -> None:
    code = f"import sys, json, rerank_plugins; print(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_every_public_name_exists_and_is_sorted() -> None:
    assert rerank_plugins.__all__ == sorted(rerank_plugins.__all__)
    for name in rerank_plugins.__all__:
        assert getattr(rerank_plugins, name) is not None
    assert dir(rerank_plugins) == rerank_plugins.__all__
    with pytest.raises(AttributeError, match="Nothing"):
        rerank_plugins.Nothing  # noqa: B018


def imports_of(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return found | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def test_imports_point_downwards() -> None:
    # demo/ is texts, which any layer may read.
    surfaces = (
        *("cli", "bench", "evaluation", "serving", "labelling"),
        *("langchain", "llama_index", "haystack", "_adapters", "lazy"),
    )
    for path in (SOURCE / "scoring").rglob("*.py"):
        for name in imports_of(path):
            assert not name.startswith("rerank_plugins.reranker"), path
            assert not any(name.startswith(f"rerank_plugins.{surface}") for surface in surfaces), path
            assert name.split(".")[0] not in {"langchain_core", "llama_index", "haystack", "typer"}, path
    for name in imports_of(SOURCE / "reranker.py"):
        assert not any(name.startswith(f"rerank_plugins.{surface}") for surface in surfaces)
    for path in (SOURCE / "evaluation").rglob("*.py"):
        for name in imports_of(path):
            above = [surface for surface in surfaces if surface != "evaluation"]
            assert not any(name.startswith(f"rerank_plugins.{surface}") for surface in above), path
            assert name.split(".")[0] not in {"langchain_core", "llama_index", "haystack", "typer"}, path


def test_the_library_never_prints_or_configures_logging() -> None:
    for path in SOURCE.rglob("*.py"):
        if "cli" not in path.parts:
            text = path.read_text()
            assert not re.search(r"\bprint\(", text), path
            assert "basicConfig" not in text, path


@pytest.mark.parametrize(
    "name",
    [
        "rerank_plugins.reranker",
        "rerank_plugins.template",
        "rerank_plugins.calibration.scale",
        "rerank_plugins.evaluation",
        "rerank_plugins.evaluation.mteb",
        "rerank_plugins.scoring.cross_encoder",
        "rerank_plugins.scoring.remote.scorer",
        "rerank_plugins.langchain",
        "rerank_plugins.llama_index",
        "haystack_integrations.components.rankers.rerank_plugins.ranker",
    ],
)
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("rerank_plugins.langchain", "langchain_core", "langchain"),
        ("rerank_plugins.llama_index", "llama_index", "llama-index"),
        ("rerank_plugins.haystack", "haystack", "haystack"),
        ("rerank_plugins.labelling", "ray", "ray"),
        ("rerank_plugins.serving.ray", "ray", "ray"),
    ],
)
def test_a_missing_framework_names_its_extra(module: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from rerank_plugins import MissingExtraError\n"
        f"try:\n    import {module}\nexcept MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f'pip install "rerank-plugins[{extra}]"' in done.stdout


def test_a_missing_transformers_names_its_extra(tmp_path: Path, tiny: Path) -> None:
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from rerank_plugins import CrossEncoderScorer, MissingExtraError\n"
        f"try:\n    CrossEncoderScorer({str(tiny)!r}, engine='transformers')\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "rerank-plugins[transformers]" in done.stdout
