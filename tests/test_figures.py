"""Figures and outputs that depend on the bundled model are of the one that ships."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.models import BUNDLED

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def shipped() -> str:
    return hashlib.sha256((BUNDLED / "model.safetensors").read_bytes()).hexdigest()[:12]


def test_quality_is_of_the_model_that_ships(shipped: str) -> None:
    sets = json.loads((RESULTS / "quality.json").read_text())
    assert sets.keys() == {"dl19", "dl21", "scifact"}
    assert {(row["model"], row["revision"], row["depth"]) for row in sets.values()} == {
        ("bundled", shipped, 100)
    }


@pytest.mark.parametrize("path", sorted(RESULTS.rglob("accuracy.json")), ids=lambda path: path.parent.stem)
def test_accuracy_is_of_the_model_that_ships(path: Path, shipped: str) -> None:
    report = json.loads(path.read_text())
    assert (report["model"], report["revision"]) == ("bundled", shipped)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_show_the_model_that_ships(path: Path, shipped: str) -> None:
    assert json.loads(path.read_text())["metadata"]["bundled_model"] == shipped
