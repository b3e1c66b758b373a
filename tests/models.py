"""Checkpoints made locally: the family's exact architectures, random weights, the real vocabulary."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification

from rerank_plugins.scoring.family import FamilyModel

BUNDLED = Path(str(files("rerank_plugins") / "bundled" / "model"))


def add_tokenizer(folder: Path) -> None:
    """Put the BERT uncased tokenizer, which the family shares, into a folder."""
    shutil.copy(BUNDLED / "tokenizer.json", folder)
    options = {
        "tokenizer_class": "BertTokenizerFast",
        "do_lower_case": True,
        "model_max_length": 512,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(options))


def make_bert(folder: Path, shape: FamilyModel, *, labels: int = 1, seed: int = 0) -> Path:
    """Save a random `BertForSequenceClassification` whose logits spread well over documents."""
    torch.manual_seed(seed)
    config = BertConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate_size,
        num_labels=labels,
        # Wider than BERT's 0.02: attention that is almost uniform would hide mistakes.
        initializer_range=0.08,
    )
    model = BertForSequenceClassification(config)
    for parameter in model.parameters():
        if parameter.ndim == 1:  # biases and norms too, or a mix-up of them would go unseen
            parameter.data += 0.05 * torch.randn_like(parameter)
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    add_tokenizer(folder)
    return folder
