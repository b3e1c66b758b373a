"""The model that trains: where it starts, what of it learns, its tokenizer."""

import shutil
from pathlib import Path

from tokenizers import Tokenizer
from transformers import BertConfig, BertForSequenceClassification

from encoder import encoder_folder
from rerank_plugins import ModelFormatError, ScorerSettings
from rerank_plugins.scoring.loading import find_model, load_weights


def start_model(start: str, layers: int, frozen: int) -> BertForSequenceClassification:
    """Return a model with one logit; embeddings and the lowest layers do not learn.

    Args:
        start: Cross-encoder to start from (`"bundled"`, a folder, a hub id); "" for the all-MiniLM-L6-v2
            encoder with a new head.
        layers: How many layers to keep, from below; 0 for all.
        frozen: How many of them do not learn.

    Raises:
        ModelFormatError: If the start model is no BERT cross-encoder.
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
    found = find_model(ScorerSettings(model=start))
    kind = found.config.get("model_type")
    if kind != "bert":
        msg = f"the model to start from must be of type 'bert', but {start} is of {kind!r}"
        raise ModelFormatError(msg)
    model = BertForSequenceClassification(BertConfig(**(dict(found.config) | off | {"num_labels": 1})))
    # Not strict: old checkpoints also hold position ids.
    missing = model.load_state_dict(load_weights(found.folder), strict=False).missing_keys
    if missing:
        msg = f"the weights in {found.folder} must be a BERT classifier's, but lack {', '.join(missing[:3])}"
        raise ModelFormatError(msg)
    return model


def load_tokenizer(start: str, max_tokens: int) -> Tokenizer:
    """Return the start model's tokenizer, cutting only passages, without padding."""
    _, tokenizer = _find_tokenizer(start)
    tokenizer.enable_truncation(max_tokens, strategy="only_second")
    return tokenizer


def write_tokenizer(start: str, output: Path) -> None:
    """Write the start model's tokenizer, which cuts nothing, and what its folder says of it."""
    folder, tokenizer = _find_tokenizer(start)
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)
    options = folder / "tokenizer_config.json"
    if options.exists():
        shutil.copy(options, output)


def _find_tokenizer(start: str) -> tuple[Path, Tokenizer]:
    """Return the start model's folder, and its tokenizer without truncation and padding."""
    if start:
        found = find_model(ScorerSettings(model=start))
        return found.folder, found.tokenizer
    folder = encoder_folder()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return folder, tokenizer
