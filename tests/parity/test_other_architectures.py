"""The transformers engine: other architectures, and BERT when asked for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
)

from rerank_plugins import CrossEncoderScorer, InvalidInputError, ModelFormatError
from tests.models import add_tokenizer
from tests.parity.test_family_parity import DOCUMENTS, QUERY, reference


@pytest.fixture(scope="module", params=["electra", "distilbert"])
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "electra":
        config = ElectraConfig(
            hidden_size=64,
            embedding_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=128,
            num_labels=1,
            initializer_range=0.1,
        )
        model = ElectraForSequenceClassification(config)
    else:
        config = DistilBertConfig(
            dim=64, n_layers=2, n_heads=2, hidden_dim=128, num_labels=1, initializer_range=0.1
        )
        model = DistilBertForSequenceClassification(config)
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return folder


def test_auto_takes_transformers_and_equals_it(other: Path) -> None:
    with CrossEncoderScorer(str(other), device="cpu") as scorer:
        assert scorer.info.engine == "transformers"
        assert "model_type" in scorer.info.reasons["engine"]
        expected = reference_without_types(other)
        np.testing.assert_allclose(scorer.score(QUERY, DOCUMENTS), expected, atol=1e-4, rtol=0)


def reference_without_types(folder: Path) -> np.ndarray:
    if "distilbert" not in folder.name:
        return reference(folder, [(QUERY, document) for document in DOCUMENTS])
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    logits = []
    for document in DOCUMENTS:
        inputs = tokenizer([(QUERY, document)], truncation="only_second", max_length=512, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        with torch.no_grad():
            logits.append(model(**inputs).logits.item())
    return np.array(logits, dtype=np.float32)


def test_half_precision_keeps_the_head_in_float32(other: Path) -> None:
    with (
        CrossEncoderScorer(str(other), device="cpu", dtype="bfloat16") as half,
        CrossEncoderScorer(str(other), device="cpu") as full,
    ):
        distance = np.abs(half.score(QUERY, DOCUMENTS) - full.score(QUERY, DOCUMENTS)).max()
        assert 0 < distance < 0.05
        assert len(set(half.score(QUERY, DOCUMENTS[:9]).tolist())) == 9, "ties tell of a bfloat16 head"


def test_bert_runs_in_both_engines(tiny: Path, tiny_scorer: CrossEncoderScorer) -> None:
    with CrossEncoderScorer(str(tiny), device="cpu", engine="transformers") as scorer:
        assert scorer.info.engine == "transformers"
        np.testing.assert_allclose(
            scorer.score(QUERY, DOCUMENTS), tiny_scorer.score(QUERY, DOCUMENTS), atol=1e-4, rtol=0
        )


def test_our_engine_refuses_what_it_does_not_know(other: Path) -> None:
    with pytest.raises(InvalidInputError, match="engine='auto'"):
        CrossEncoderScorer(str(other), device="cpu", engine="torch")


def test_a_headless_checkpoint_is_refused(other: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "headless"
    shutil.copytree(other, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if "classifier" not in k}, folder / "model.safetensors")
    with pytest.raises(ModelFormatError, match="lacks"):
        CrossEncoderScorer(str(folder), device="cpu")


def test_code_beside_a_checkpoint_never_runs(other: Path, tmp_path: Path) -> None:
    folder, ran = tmp_path / "coded", tmp_path / "ran"
    shutil.copytree(other, folder)
    (folder / "evil.py").write_text(f"import pathlib\npathlib.Path({str(ran)!r}).touch()\n")
    names = {"AutoConfig": "evil.Config", "AutoModelForSequenceClassification": "evil.Model"}
    config = json.loads((folder / "config.json").read_text()) | {"auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    with CrossEncoderScorer(str(folder), device="cpu") as scorer:
        assert scorer.score(QUERY, DOCUMENTS[:3]).shape == (3,)
    assert not ran.exists()
