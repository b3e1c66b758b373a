"""What only a GPU can show; skipped without one."""

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from rerank_plugins import CrossEncoderScorer
from tests.texts import make_text

pytestmark = pytest.mark.gpu

QUERY = "how do I reset my router?"
DOCUMENTS = [make_text(1 + (13 * i) % 200, seed=i) for i in range(300)]


@pytest.fixture(scope="module")
def exact() -> Iterator[CrossEncoderScorer]:
    """In float32 whatever this CPU is fastest in."""
    with CrossEncoderScorer("bundled", device="cpu", engine="torch", dtype="float32") as scorer:
        yield scorer


@pytest.mark.parametrize("graphs", ["off", "lazy", "load"])
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float16", 0.05), ("bfloat16", 0.3)])
def test_logits_are_the_cpus_within_the_precisions_bound(
    exact: CrossEncoderScorer, dtype: str, bound: float, graphs: str
) -> None:
    expected = exact.score(QUERY, DOCUMENTS)
    with CrossEncoderScorer("bundled", device="cuda", dtype=dtype, cuda_graphs=graphs) as scorer:
        found = scorer.score(QUERY, DOCUMENTS)
        assert np.abs(found - expected).max() < bound
        # Few documents go through a graph, many do not; company and order change nothing.
        few = scorer.score(QUERY, DOCUMENTS[:5])
        assert np.abs(few - expected[:5]).max() < bound
        assert np.abs(scorer.score(QUERY, DOCUMENTS[::-1])[::-1] - found).max() < bound


def test_what_was_chosen_is_told(tiny: Path) -> None:
    with CrossEncoderScorer(str(tiny), device="cuda") as scorer:
        assert scorer.info.dtype == "float16"
        assert {"attention", "operators", "graphs", "dtype"} <= scorer.info.reasons.keys()
    with CrossEncoderScorer(str(tiny), device="cuda", dtype="float32") as scorer:
        assert "tf32" in scorer.info.reasons


def test_closing_gives_the_memory_back(tiny: Path) -> None:
    with CrossEncoderScorer(str(tiny), device="cuda") as scorer:
        scorer.score(QUERY, DOCUMENTS)
        scorer.score(QUERY, DOCUMENTS[:5])
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with CrossEncoderScorer(str(tiny), device="cuda") as scorer:
        scorer.score(QUERY, DOCUMENTS)
        scorer.score(QUERY, DOCUMENTS[:5])
        assert torch.cuda.memory_reserved() > before
    assert torch.cuda.memory_reserved() <= before


def test_closing_leaves_the_graphs_of_others_alone(tiny: Path) -> None:
    with CrossEncoderScorer(str(tiny), device="cuda") as kept:
        expected = kept.score(QUERY, DOCUMENTS[:5])
        with CrossEncoderScorer(str(tiny), device="cuda", dtype="bfloat16") as other:
            other.score(QUERY, DOCUMENTS[:5])
        assert np.array_equal(kept.score(QUERY, DOCUMENTS[:5]), expected)


def test_replicas_capture_by_turns_and_agree(tiny: Path) -> None:
    device = f"cuda:{torch.cuda.device_count() - 1}"
    calls = [DOCUMENTS[i : i + 1 + i % 120] for i in range(150)]
    with CrossEncoderScorer(str(tiny), device=device, cuda_graphs="off") as scorer:
        expected = [scorer.score(QUERY, documents) for documents in calls]
    with (
        CrossEncoderScorer(str(tiny), devices=["cuda:0", device]) as scorer,
        ThreadPoolExecutor(8) as pool,
    ):
        found = list(pool.map(lambda documents: scorer.score(QUERY, documents), calls))
    assert np.abs(np.concatenate(found) - np.concatenate(expected)).max() < 0.05


def test_running_out_of_memory_changes_no_score(tiny: Path) -> None:
    documents = [f"{i} {text}" for i, text in enumerate(DOCUMENTS * 40)]
    with CrossEncoderScorer(str(tiny), device="cuda", cuda_graphs="off") as scorer:
        expected = scorer.score(QUERY, documents)
    total = torch.cuda.get_device_properties(0).total_memory
    with CrossEncoderScorer(str(tiny), device="cuda", cuda_graphs="off", max_batch_tokens=2**20) as scorer:
        # One request: calls come in chunks that may fit.
        pairs = scorer._loaded.encoder.encode([(QUERY, text) for text in documents])
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**26) / total)
        try:
            scored = scorer._loaded.worker.submit(pairs).result()
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    assert scored.out_of_memory > 0
    assert np.abs(scored.logits - expected).max() < 0.05
