"""The model that trains: where it starts, what of it learns, its tokenizer."""

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

from encoder import encoder_folder
from rerank_plugins import ScorerSettings
from rerank_plugins.scoring.loading import find_model, load_weights


def start_model(start: str, layers: int, frozen: int) -> BertForSequenceClassification:
    """Return a model with one logit; embeddings and the lowest layers do not learn.

    Args:
        start: Cross-encoder to start from (`"bundled"`, a folder, a hub id); "" for the all-MiniLM-L6-v2
            encoder with a new head.
        layers: How many layers to keep, from below; 0 for all.
        frozen: How many of them do not learn.
    """
    model = _load(start)
    if layers:
        model.bert.encoder.layer = model.bert.encoder.layer[:layers]
        model.config.num_hidden_layers = layers
    model.bert.embeddings.requires_grad_(False)
    for layer in model.bert.encoder.layer[:frozen]:
        layer.requires_grad_(False)
    return model


def _load(start: str) -> BertForSequenceClassification:
    # Dropout costs a quarter of the time on CPU, and there is less than one epoch to overfit in.
    off = {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    if not start:
        model: BertForSequenceClassification = BertForSequenceClassification.from_pretrained(
            encoder_folder(), num_labels=1, **off
        )
        return model
    folder = Path(start) if Path(start).is_dir() else find_model(ScorerSettings(model=start)).folder
    config = json.loads((folder / "config.json").read_text())
    model = BertForSequenceClassification(BertConfig(**(config | off | {"num_labels": 1})))
    model.load_state_dict(load_weights(folder), strict=False)  # old checkpoints also hold position ids
    return model


def load_tokenizer(start: str, max_tokens: int) -> Tokenizer:
    """Return the start model's tokenizer, cutting only passages, without padding."""
    file = Path(start) / "tokenizer.json"
    if start and not Path(start).is_dir():
        file = find_model(ScorerSettings(model=start)).folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(file if file.exists() else encoder_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(max_tokens, strategy="only_second")
    tokenizer.no_padding()
    return tokenizer
