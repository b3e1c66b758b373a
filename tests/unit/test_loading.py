"""What can be wrong with a checkpoint, and where one can come from."""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from rerank_plugins import (
    CrossEncoderScorer,
    InvalidInputError,
    ModelFormatError,
    ModelNotFoundError,
    ScorerSettings,
)
from rerank_plugins.scoring.family import FAMILY
from rerank_plugins.scoring.loading import find_model, load_weights
from tests.models import BUNDLED, make_bert


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    return folder


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def load(folder: Path) -> None:
    CrossEncoderScorer(str(folder), device="cpu")


def test_a_corrupted_weight_file(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFormatError, match="damaged, incomplete"):
        load(copy)


def test_two_logits(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="1 logit, but its config says 2"):
        load(make_bert(tmp_path / "two", FAMILY[0], labels=2))


def test_a_head_that_is_missing(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "classifier.weight"}, copy / "model.safetensors")
    with pytest.raises(ModelFormatError, match=r"classifier\.weight, but it is missing"):
        load(copy)


def test_an_encoder_is_no_cross_encoder(copy: Path) -> None:
    edit_config(copy, architectures=["BertModel"])
    with pytest.raises(ModelFormatError, match="BertModel"):
        load(copy)


def test_weights_of_another_shape(copy: Path) -> None:
    edit_config(copy, intermediate_size=256)
    with pytest.raises(ModelFormatError, match=r"must have shape \(256, 128\).*\(512, 128\)"):
        load(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokenizer.json", "must hold tokenizer.json"),
        ("config.json", "must hold config.json"),
        ("model.safetensors", "must hold model.safetensors"),
    ],
)
def test_a_missing_file_is_named_with_what_is_there(copy: Path, name: str, message: str) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelFormatError, match=message) as caught:
        load(copy)
    assert "tokenizer_config.json" in str(caught.value)


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_a_config_that_is_no_config(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        load(copy)


def test_a_config_without_a_size(copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config["hidden_size"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelFormatError, match="hidden_size"):
        load(copy)


def test_a_damaged_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelFormatError, match="cannot be read"):
        load(copy)


def test_a_tokenizer_of_another_model(copy: Path) -> None:
    edit_config(copy, vocab_size=100)
    with pytest.raises(ModelFormatError, match="must fit the model's 100 embeddings"):
        load(copy)


def test_weights_that_are_not_finite(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    weights["bert.pooler.dense.weight"][0, 0] = float("nan")
    save_file(weights, copy / "model.safetensors")
    with (
        CrossEncoderScorer(str(copy), device="cpu") as scorer,
        pytest.raises(RuntimeError, match="must be finite"),
    ):
        scorer.score("q", ["a"])


def test_pickled_weights_load_with_a_note_and_run_nothing(
    copy: Path, tiny_scorer: CrossEncoderScorer, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(load_file(copy / "model.safetensors"), copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with caplog.at_level(logging.WARNING), CrossEncoderScorer(str(copy), device="cpu") as scorer:
        np.testing.assert_allclose(scorer.score("q", ["river"]), tiny_scorer.score("q", ["river"]), atol=1e-5)
        assert "weights_only=True" in scorer.info.reasons["weights"]
    assert "pytorch_model.bin" in caplog.text


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (self.path.touch, ())


def test_a_pickle_with_code_is_refused_and_the_code_does_not_run(copy: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    torch.save({"classifier.weight": Payload(ran)}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelFormatError, match="cannot be read"):
        load(copy)
    assert not ran.exists()


def test_a_vocabulary_alone_is_enough_for_bert(copy: Path, tiny_scorer: CrossEncoderScorer) -> None:
    vocabulary = json.loads((copy / "tokenizer.json").read_text())["model"]["vocab"]
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    (copy / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    (copy / "tokenizer.json").unlink()
    texts = ["Zürich river-bank", "[SEP] 東京", ""]
    with CrossEncoderScorer(str(copy), device="cpu") as scorer:
        np.testing.assert_allclose(scorer.score("Café?", texts), tiny_scorer.score("Café?", texts), atol=1e-5)


def test_truncation_in_a_tokenizer_file_is_switched_off(copy: Path, tiny_scorer: CrossEncoderScorer) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(copy / "tokenizer.json"))
    text = "river bank " * 50
    with CrossEncoderScorer(str(copy), device="cpu") as scorer:
        np.testing.assert_allclose(scorer.score("q", [text]), tiny_scorer.score("q", [text]), atol=1e-5)


def test_limits_that_cannot_be(copy: Path) -> None:
    with pytest.raises(InvalidInputError, match="at most 512 for this model, but got 1024"):
        CrossEncoderScorer(str(copy), device="cpu", max_length=1024)
    with pytest.raises(InvalidInputError, match="must leave room for a document"):
        CrossEncoderScorer(str(copy), device="cpu", max_length=32, max_query_tokens=29)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_device_that_is_not_there_is_no_silent_cpu(copy: Path) -> None:
    with pytest.raises(InvalidInputError, match='device="auto"'):
        CrossEncoderScorer(str(copy), device="cuda")


@pytest.mark.parametrize("model", ["ms-marco-MiniLM-L-6-v2", "nobody/no-such-model", "not/a/model/id"])
def test_an_unreachable_hub_names_the_ways_out(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        CrossEncoderScorer(model, cache_dir=str(tmp_path), device="cpu")
    message = str(caught.value)
    assert "bundled" in message
    if model != "not/a/model/id":
        name = "cross-encoder/ms-marco-MiniLM-L6-v2" if "MiniLM" in model else model
        assert name in message
        assert str(tmp_path) in message
        assert "local_files_only=True" in message


def cache(root: Path, model: str, commit: str, source: Path) -> None:
    """Lay a model out as huggingface_hub caches it."""
    folder = root / ("models--" + model.replace("/", "--"))
    shutil.copytree(source, folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)


@pytest.mark.parametrize("spelling", ["ms-marco-TinyBERT-L-2-v2", "cross-encoder/ms-marco-TinyBERT-L2-v2"])
def test_the_cache_serves_the_pinned_commit_offline(tiny: Path, tmp_path: Path, spelling: str) -> None:
    member = next(m for m in FAMILY if m.id.endswith("TinyBERT-L2-v2"))
    cache(tmp_path, member.id, str(member.revision), tiny)
    with CrossEncoderScorer(spelling, cache_dir=str(tmp_path), local_files_only=True, device="cpu") as scorer:
        assert scorer.info.model == member.id
        assert scorer.info.revision == member.revision
        assert scorer.score("q", ["a"]).shape == (1,)


@pytest.mark.parametrize("network", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_the_cache_serves_it_without_being_told_that_there_is_no_network(
    tiny: Path, tmp_path: Path, network: dict[str, str]
) -> None:
    member = next(m for m in FAMILY if m.id.endswith("TinyBERT-L2-v2"))
    cache(tmp_path, member.id, str(member.revision), tiny)
    code = (
        "from rerank_plugins import CrossEncoderScorer as Scorer\n"
        f"print(Scorer({member.id!r}, device='cpu').info.revision)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**env, "RERANK_CACHE_DIR": str(tmp_path), **network},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == member.revision, done.stderr


def test_another_revision_is_not_served_from_the_pinned_one(tiny: Path, tmp_path: Path) -> None:
    member = next(m for m in FAMILY if m.id.endswith("TinyBERT-L2-v2"))
    cache(tmp_path, member.id, str(member.revision), tiny)
    with pytest.raises(ModelNotFoundError, match="revision other"):
        CrossEncoderScorer(member.id, revision="other", cache_dir=str(tmp_path), device="cpu")


def test_the_bundled_model_is_int8_small_and_exact() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) <= 25e6
    stored = load_file(BUNDLED / "model.safetensors")
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    assert stored[name].dtype == torch.int8
    weights = load_weights(BUNDLED)
    assert not any(key.endswith(".scale") for key in weights)
    assert torch.equal(weights[name], stored[name].float() * stored[f"{name}.scale"])
    found = find_model(ScorerSettings(model="bundled"))
    assert (found.max_length, found.revision) == (512, sha256(BUNDLED / "model.safetensors")[:12])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_weights_that_are_not_those_of_their_digest_are_refused(copy: Path) -> None:
    settings = ScorerSettings(model=str(copy))
    weights, digest = copy / "model.safetensors", copy / "model.safetensors.sha256"
    assert find_model(settings).revision is None
    digest.write_text(f"{sha256(weights)}  {weights.name}\n")
    assert find_model(settings).revision == sha256(weights)[:12]
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    with pytest.raises(ModelFormatError, match="damaged or was changed"):
        find_model(settings)


def test_weights_beside_the_checkpoints_own_are_not_read(copy: Path) -> None:
    weights = load_weights(copy)
    save_file({name: tensor + 1 for name, tensor in weights.items()}, copy / "model_old.safetensors")
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_weights(copy).items())
    # Parts of one that was split are read together.
    (copy / "model.safetensors").unlink()
    for i, names in enumerate((sorted(weights)[:10], sorted(weights)[10:]), 1):
        save_file({name: weights[name] for name in names}, copy / f"model-0000{i}-of-00002.safetensors")
    assert load_weights(copy).keys() == weights.keys()


@pytest.mark.parametrize("stored", [[torch.ones(1)], {"bert": {"weight": torch.ones(1)}}])
def test_a_pickle_that_holds_no_tensors_by_name(copy: Path, stored: object) -> None:
    (copy / "model.safetensors").unlink()
    torch.save(stored, copy / "pytorch_model.bin")
    with pytest.raises(ModelFormatError, match="tensors by name"):
        load(copy)


@pytest.mark.parametrize("name", ["~nosuchuser/model", "x" * 5000, "a\x00b"])
def test_a_name_that_no_folder_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="must be a hub id, a folder or"):
        CrossEncoderScorer(name, device="cpu", cache_dir=str(tmp_path), local_files_only=True)


@pytest.mark.parametrize(
    "changes", [{"num_attention_heads": 7}, {"num_hidden_layers": 0}, {"num_hidden_layers": "2"}]
)
def test_sizes_that_cannot_be(copy: Path, changes: dict[str, object]) -> None:
    edit_config(copy, **changes)
    with pytest.raises(ModelFormatError, match=next(iter(changes))):
        load(copy)


def test_a_length_that_is_no_number(copy: Path) -> None:
    (copy / "tokenizer_config.json").write_text('{"model_max_length": "512"}')
    with pytest.raises(ModelFormatError, match="must be numbers"):
        load(copy)


def test_damaged_weights_are_told_by_transformers_too(copy: Path) -> None:
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ModelFormatError, match="cannot load the checkpoint"):
        CrossEncoderScorer(str(copy), device="cpu", engine="transformers")


def test_a_digest_may_stand_alone_and_may_be_nonsense(copy: Path) -> None:
    digest = copy / "model.safetensors.sha256"
    digest.write_text(sha256(copy / "model.safetensors") + "\n")
    load(copy)
    for nonsense in (b"\xff\xfe", b""):
        digest.write_bytes(nonsense)
        with pytest.raises(ModelFormatError, match="must have the SHA-256"):
            load(copy)


@pytest.mark.parametrize("name", ["/no/such/model", "./nowhere", "a/b/c"])
def test_a_folder_that_is_not_there_is_called_a_folder(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"there is no folder .*(such|nowhere|b)"):
        CrossEncoderScorer(name, device="cpu")


def test_a_revision_that_a_folder_does_not_have_is_told(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    with CrossEncoderScorer(str(copy), device="cpu", revision="abc") as scorer:
        assert "'abc' was asked for" in scorer.info.reasons["revision"]
    assert "'abc' was asked for" in caplog.text
