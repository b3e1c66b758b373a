"""docs/serving.md: what its curl commands print, and that its options exist."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer

from rerank_plugins.cli.app import app as command_line
from rerank_plugins.serving.settings import ServerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
CALLS = [
    (text, json.loads(after[1]) if after[0] == "json" else None)
    for (kind, text), after in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if kind == "sh" and text.startswith("curl")
]


def same(shown: Any, found: Any) -> bool:
    if isinstance(shown, dict):
        keys = shown.keys() - {"id"}
        return keys == found.keys() - {"id"} and all(same(shown[key], found[key]) for key in keys)
    if isinstance(shown, list):
        return len(shown) == len(found) and all(map(same, shown, found))
    return shown == pytest.approx(found, abs=5e-3) if isinstance(shown, float) else shown == found


def test_there_are_calls_to_run() -> None:
    assert len(CALLS) >= 4
    assert sum(shown is not None for _, shown in CALLS) >= 2


@pytest.mark.parametrize(("call", "shown"), CALLS, ids=range(len(CALLS)))
def test_a_curl_command_prints_what_the_page_shows(client: httpx.Client, call: str, shown: Any) -> None:
    script = call.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(done.stdout)
    if shown is None:
        assert "message" not in found
        assert found["model"] == "bundled"
    else:
        assert same(shown, found), found


def test_commands_options_and_variables_exist() -> None:
    commands = typer.main.get_command(command_line).commands  # type: ignore[attr-defined]
    for name, rest in re.findall(r"^rerank-plugins ([\w-]+)(.*)$", PAGE, flags=re.MULTILINE):
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r" (--[\w-]+)", rest)) <= options
    options = {option for parameter in commands["serve"].params for option in parameter.opts}
    assert set(re.findall(r"`(--[\w-]+)", PAGE)) <= options
    fields = {f"RERANK_SERVER_{name.upper()}" for name in ServerSettings.model_fields}
    assert set(re.findall(r"RERANK_SERVER_[A-Z_]+\b", PAGE)) <= fields
