"""The network that trains computes what transformers computes."""

import pytest
import torch
from tokenizers import Tokenizer
from transformers import BertModel

import encoder
from bert import Stream, cross_encode, score_pairs
from model import load_tokenizer, start_model
from rerank_plugins import CrossEncoderScorer

PAIRS = [
    ("why does bread rise", "Yeast makes gas, which the dough holds."),
    ("why does bread rise", "no"),
    ("capital of france", "Paris has been the capital of France for most of its history. " * 12),
    ("x", "Salt slows yeast."),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer("bundled", 96)


def test_the_flat_stream_scores_like_the_library(tokenizer: Tokenizer) -> None:
    model = start_model("bundled", layers=0, frozen=0)
    logits = score_pairs(model, tokenizer.encode_batch(PAIRS), threads=2, at_once=3)
    with CrossEncoderScorer("bundled", device="cpu", max_length=96) as scorer:
        expected = torch.from_numpy(scorer.score_pairs(PAIRS))
    assert torch.allclose(logits, expected, atol=1e-4)


def test_gradients_are_those_of_transformers(tokenizer: Tokenizer) -> None:
    model = start_model("bundled", layers=2, frozen=1)
    learning = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0")) for name, _ in learning)
    encodings = tokenizer.encode_batch(PAIRS)
    weights = torch.tensor([1.0, -2.0, 3.0, 0.5])
    parameters = [p for _, p in learning]
    ours = torch.autograd.grad((cross_encode(model, Stream.of(encodings)) * weights).sum(), parameters)
    length = max(len(e.ids) for e in encodings)
    padded = {
        "input_ids": [e.ids + [0] * (length - len(e.ids)) for e in encodings],
        "token_type_ids": [e.type_ids + [0] * (length - len(e.ids)) for e in encodings],
        "attention_mask": [[1] * len(e.ids) + [0] * (length - len(e.ids)) for e in encodings],
    }
    logits = model(**{name: torch.tensor(value) for name, value in padded.items()}).logits.squeeze(-1)
    theirs = torch.autograd.grad((logits * weights).sum(), parameters)
    for (name, _), a, b in zip(learning, ours, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4, rtol=1e-3), name


def test_texts_are_encoded_as_their_tokens_and_their_mean_and_found_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(encoder, "CHUNK", 3)
    texts = [text for _, text in PAIRS]
    encoded = encoder.encode(texts, tmp_path, threads=2)
    bert = BertModel.from_pretrained(encoder.encoder_folder()).eval()
    tokenizer = Tokenizer.from_file(str(encoder.encoder_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    normalize = torch.nn.functional.normalize
    for number, text in enumerate(texts):
        with torch.inference_mode():
            states = bert(input_ids=torch.tensor([tokenizer.encode(text).ids])).last_hidden_state[0]
        tokens, vector = torch.tensor(encoded.tokens(number)), torch.tensor(encoded.vectors[number])
        assert torch.allclose(tokens, normalize(states, dim=-1), atol=1e-3)  # stored in half precision
        assert torch.allclose(vector, normalize(states.mean(0), dim=0), atol=1e-3)
    [folder] = tmp_path.iterdir()
    written = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    lost = sorted(folder.glob("*-vectors.npy"))[-1]
    lost.unlink()
    assert (encoder.encode(texts, tmp_path, threads=1).vectors == encoded.vectors).all()
    again = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {name for name, time in again.items() if written[name] != time} == {
        lost.name.replace("vectors", part) for part in ("ends", "tokens", "vectors")
    }


def test_an_encoded_text_is_found_again_whatever_stands_in_other_chunks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(encoder, "CHUNK", 2)
    texts = ["Bread rises.", "Salt slows yeast.", "Thunder follows lightning."]
    first = encoder.encode(texts, tmp_path, threads=1)
    monkeypatch.setattr(encoder.BertModel, "from_pretrained", lambda *_: pytest.fail("encoded again"))
    again = encoder.encode(texts[:2], tmp_path, threads=1)
    assert (again.vectors == first.vectors[:2]).all()
    assert (again.tokens(1) == first.tokens(1)).all()


def test_tokens_start_a_stream_at_their_text(tokenizer: Tokenizer) -> None:
    encodings = tokenizer.encode_batch(PAIRS)
    stream = Stream.of(encodings)
    assert stream.ids[stream.firsts].tolist() == [101] * len(PAIRS)
    assert len(stream.ids) == sum(len(e.ids) for e in encodings)
    assert stream.mask.sum() == len(stream.ids)
