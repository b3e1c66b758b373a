"""Every example runs offline, as a user would run it, and puts the right passage on top."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


def test_there_are_some_for_each_framework() -> None:
    assert {path.name.split("_")[0] for path in EXAMPLES} == {"haystack", "langchain", "llama"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        cwd=path.parent,
    )
    assert done.returncode == 0, done.stderr
    passages = [line for line in done.stdout.splitlines() if line[:1] == "[" or "[0." in line]
    assert len(passages) == 3
    assert "Put cooked rice into the fridge" in passages[0]
