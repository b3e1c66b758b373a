"""Fixtures shared by all tests. Nothing here reaches a network."""

import os
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"
for name in [name for name in os.environ if name.startswith("RERANK_")]:
    del os.environ[name]
# Graphs are converted once per session, and nothing is left in the user's cache.
_graphs = tempfile.TemporaryDirectory(prefix="rerank-plugins-graphs-")
os.environ["RERANK_ENGINE_CACHE_DIR"] = _graphs.name

from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

from rerank_plugins import CrossEncoderScorer  # noqa: E402
from rerank_plugins.scoring.family import FAMILY, FamilyModel  # noqa: E402
from tests.models import make_bert  # noqa: E402

SHARED = Path(__file__).resolve().parents[2] / "shared"

# A busy machine is slow, and no test is about time.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    skips = {
        "gpu": (torch.cuda.is_available(), "needs a CUDA device"),
        "shared_data": ((SHARED / "data").is_dir(), f"needs the evaluation data in {SHARED.name}/"),
    }
    for item in items:
        for marker, (there, reason) in skips.items():
            if item.get_closest_marker(marker) and not there:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[FamilyModel], Path]:
    """Return a function that makes a family member's checkpoint, once per session."""
    root = tmp_path_factory.mktemp("checkpoints")

    def make(shape: FamilyModel) -> Path:
        folder = root / shape.id.split("/")[-1]
        return folder if folder.exists() else make_bert(folder, shape)

    return make


@pytest.fixture(scope="session")
def tiny(checkpoint: Callable[[FamilyModel], Path]) -> Path:
    """Return the folder of the smallest member, with random weights."""
    return checkpoint(min(FAMILY, key=lambda shape: shape.parameters))


@pytest.fixture(scope="session")
def tiny_scorer(tiny: Path) -> Iterator[CrossEncoderScorer]:
    with CrossEncoderScorer(str(tiny), device="cpu") as scorer:
        yield scorer


@pytest.fixture(scope="session")
def bundled() -> Iterator[CrossEncoderScorer]:
    with CrossEncoderScorer("bundled", device="cpu") as scorer:
        yield scorer
