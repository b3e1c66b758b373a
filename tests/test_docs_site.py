"""The site builds without a warning, holds all that is public, and loads nothing from elsewhere."""

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import mkdocstrings
import pytest

from tests.pages import ROOT

MODULES = (
    *("", ".langchain", ".llama_index", ".haystack", ".errors", ".fusion", ".calibration"),
    *(".evaluation", ".evaluation.mteb", ".labelling"),
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@pytest.mark.parametrize("module", MODULES)
def test_every_public_name_is_in_the_reference(site: Path, module: str) -> None:
    with (site / "objects.inv").open("rb") as file:
        known = mkdocstrings.Inventory.parse_sphinx(file)
    name = f"rerank_plugins{module}"
    public = set(import_module(name).__all__) - {"__version__"}
    # A function in a module of its own name is listed as that module's.
    missing = {each for each in public if not {f"{name}.{each}", f"{name}.{each}.{each}"} & set(known)}
    assert not missing


def test_settings_and_commands_are_all_there(site: Path) -> None:
    from rerank_plugins import RerankSettings, ScorerSettings
    from rerank_plugins.cli.app import app

    page = (site / "reference" / "settings.html").read_text()
    for field in (*ScorerSettings.model_fields, *RerankSettings.model_fields):
        assert f"<code>RERANK_{field.upper()}</code>" in page
    page = (site / "reference" / "cli.html").read_text()
    for command in app.registered_commands:
        name = command.name or command.callback.__name__  # type: ignore[union-attr]
        assert f"<code>rerank-plugins {name}</code>" in page
    assert "--fusion" in page


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"""<(?:script|img|iframe|link)\b[^>]*\b(?:src|href)=["']?(https?://[^"'> ]+)""")
    found = {url for page in site.rglob("*.html") for url in loads.findall(page.read_text())}
    assert not found
