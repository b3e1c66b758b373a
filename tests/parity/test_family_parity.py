"""Our engine against transformers on the same weights, for the family's six architectures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.scoring.family import FAMILY, FamilyModel
from tests.texts import ODD, make_text

QUERY = "which river bank gives a loan in Zürich?"
DOCUMENTS = [make_text(words, seed=words) for words in (1, 2, 3, 7, 20, 55, 56, 57, 130, 400, 1000)] + ODD

# No logit of these random weights may be further from fp32. They spread wider than trained ones, for which
# benchmarks/precision.py measures the distance and README publishes it.
BOUND = {"bfloat16": 0.12, "float16": 0.015}
# In standard deviations of the logits.
INT8_BOUND = 1.0


def reference(folder: Path, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Score one pair at a time with transformers, fp32, eager attention."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    logits = []
    for pair in pairs:
        # As a list: for a lone pair, transformers takes an empty document for none at all.
        inputs = tokenizer([pair], truncation="only_second", max_length=512, return_tensors="pt")
        with torch.no_grad():
            logits.append(model(**inputs).logits.item())
    return np.array(logits, dtype=np.float32)


@pytest.fixture(scope="module", params=FAMILY, ids=lambda shape: shape.id.split("/")[-1])
def member(
    request: pytest.FixtureRequest, checkpoint: Callable[[FamilyModel], Path]
) -> tuple[Path, np.ndarray]:
    folder = checkpoint(request.param)
    return folder, reference(folder, [(QUERY, document) for document in DOCUMENTS])


@pytest.mark.parametrize("engine", ["torch", "openvino", "onnx"])
def test_logits_equal_transformers(member: tuple[Path, np.ndarray], engine: str) -> None:
    folder, expected = member
    assert expected.std() > 0.05, "documents must differ, or equality would show nothing"
    with CrossEncoderScorer(str(folder), device="cpu", dtype="float32", engine=engine) as scorer:
        assert scorer.info.engine == engine
        logits = scorer.score(QUERY, DOCUMENTS)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)

        order = np.random.default_rng(0).permutation(len(DOCUMENTS))
        shuffled = scorer.score(QUERY, [DOCUMENTS[i] for i in order])
        np.testing.assert_allclose(shuffled, expected[order], atol=1e-4, rtol=0)
        for i in (0, 9, len(DOCUMENTS) - 1):
            alone = scorer.score(QUERY, [DOCUMENTS[i]])
            np.testing.assert_allclose(alone, expected[i : i + 1], atol=1e-4, rtol=0)


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_int8_is_near_and_does_not_depend_on_the_batch(tiny: Path, engine: str) -> None:
    expected = reference(tiny, [(QUERY, document) for document in DOCUMENTS])
    with CrossEncoderScorer(str(tiny), device="cpu", dtype="int8", engine=engine) as scorer:
        logits = scorer.score(QUERY, DOCUMENTS)
        alone = [scorer.score(QUERY, [document]).item() for document in DOCUMENTS]
    distance = np.abs(logits - expected).max()
    assert 1e-4 < distance < INT8_BOUND * expected.std(), distance
    # Ranges are fixed at calibration: neighbours in a batch have no say.
    np.testing.assert_allclose(logits, alone, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", BOUND)
def test_half_precision_stays_within_its_bound(member: tuple[Path, np.ndarray], dtype: str) -> None:
    folder, expected = member
    with CrossEncoderScorer(str(folder), device="cpu", dtype=dtype) as scorer:
        distance = np.abs(scorer.score(QUERY, DOCUMENTS) - expected).max()
    assert 0 < distance <= BOUND[dtype], f"{dtype} is {distance:.4f} from fp32"


def test_tiny_batches_change_nothing(tiny: Path, tiny_scorer: CrossEncoderScorer) -> None:
    with CrossEncoderScorer(str(tiny), device="cpu", max_batch_tokens=16) as cramped:
        np.testing.assert_allclose(
            cramped.score(QUERY, DOCUMENTS), tiny_scorer.score(QUERY, DOCUMENTS), atol=1e-5, rtol=0
        )


def test_many_queries_equal_one_by_one(tiny: Path, tiny_scorer: CrossEncoderScorer) -> None:
    pairs = [(make_text(n % 9, seed=n), DOCUMENTS[n % len(DOCUMENTS)]) for n in range(40)]
    np.testing.assert_allclose(tiny_scorer.score_pairs(pairs), reference(tiny, pairs), atol=1e-4, rtol=0)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    query=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=60),
    document=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=1200),
)
def test_ids_equal_the_tokenizer(
    hf_tokenizer: Any, tiny_scorer: CrossEncoderScorer, query: str, document: str
) -> None:
    encoded = tiny_scorer._loaded.encoder.encode([(query, document)])
    expected = hf_tokenizer([(query, document)], truncation="only_second", max_length=512)
    assert encoded.pair_ids(0).tolist() == expected["input_ids"][0]
    assert encoded.type_ids(0).tolist() == expected["token_type_ids"][0]


@pytest.fixture(scope="module")
def hf_tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.mark.parametrize("words", [1, 400, 507, 508, 509, 510, 600])
def test_ids_equal_the_tokenizer_around_the_limit(
    hf_tokenizer: Any, tiny_scorer: CrossEncoderScorer, words: int
) -> None:
    document = " ".join(["river"] * words)
    encoded = tiny_scorer._loaded.encoder.encode([("bank", document)])
    expected = hf_tokenizer([("bank", document)], truncation="only_second", max_length=512)
    assert encoded.pair_ids(0).tolist() == expected["input_ids"][0]
    # 512 less three special tokens less the query's one
    assert bool(encoded.truncated[0]) == (words > 508)
    assert encoded.document_tokens[0] == min(words, 508)


@pytest.mark.gpu
def test_cuda_equals_cpu(member: tuple[Path, np.ndarray]) -> None:
    folder, expected = member
    with CrossEncoderScorer(str(folder), device="cuda", dtype="float32") as scorer:
        np.testing.assert_allclose(scorer.score(QUERY, DOCUMENTS), expected, atol=1e-3, rtol=0)
