"""README says what the code does: its Python runs, its commands exist, its files are there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.cli.app import app
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import live

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
# Pages whose blocks run one after the other. Those of docs/llama-index.md and docs/haystack.md stand alone;
# the frameworks' contract tests run them, and compare what they print.
PAGES = ("concepts", "cuda", "evaluation", "langchain", "scale-out", "serving")


def test_there_is_one_block_for_the_core_and_each_framework() -> None:
    assert len(BLOCKS) == 4


@pytest.mark.parametrize("block", BLOCKS, ids=["core", "langchain", "llama_index", "haystack"])
def test_a_python_block_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    output = capsys.readouterr().out
    assert "Goethe wrote Faust." in output or output.startswith(("1 0.", "2 0."))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_top_to_bottom(page: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert blocks
    exec(compile("\n".join(blocks), page, "exec"), {"__name__": page})


def test_the_page_on_servers_runs_against_one(
    bundled: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "remote.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    with live(create_app(ServerSettings(), pool=ModelPool.of({"bundled": Reranker(bundled)}))) as url:
        monkeypatch.setenv("RERANK_REMOTE_BASE_URLS", url)
        exec(compile("\n".join(blocks), "remote.md", "exec"), {"__name__": "remote"})
    output = capsys.readouterr().out
    assert output.startswith("Goethe wrote Faust. 0.")
    assert "no scores after 2 attempts" in output
    assert output.endswith("Goethe wrote Faust.\n")


def test_commands_and_targets_exist() -> None:
    commands = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^rerank-plugins (\w+)", README, flags=re.MULTILINE)) <= commands
    for target in re.findall(r"^make (\w+)", README, flags=re.MULTILINE):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_links_lead_somewhere() -> None:
    pages = [ROOT / "README.md", ROOT / "training" / "README.md", *(ROOT / "docs").glob("*.md")]
    for page in pages:
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_tables_are_those_that_were_measured() -> None:
    script = ROOT / "benchmarks" / "render.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run python benchmarks/render.py\n{done.stderr}"


def test_every_extra_the_readme_names_exists() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in (
        "langchain",
        "llama-index",
        "haystack",
        "openvino",
        "onnx",
        "bench",
        "serve",
        "eval",
        "ray",
        "otel",
        "all",
    ):
        assert name in extras
