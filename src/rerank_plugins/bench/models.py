"""Checkpoints with a family member's exact shape and random weights: speed does not depend on values."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import save_file

from rerank_plugins.scoring.family import FamilyModel

__all__ = ["make_random_checkpoint"]

_VOCABULARY, _POSITIONS = 30522, 512


def make_random_checkpoint(shape: FamilyModel, folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint that every library of the field loads, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["BertForSequenceClassification"],
        "model_type": "bert",
        "vocab_size": _VOCABULARY,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": _POSITIONS,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    random = torch.Generator().manual_seed(seed)
    weights = {name: _weight(name, sizes, random) for name, sizes in _shapes(shape).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    bundled = Path(str(files("rerank_plugins") / "bundled" / "model"))
    for path in bundled.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    return folder


def _weight(name: str, sizes: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    # Wider than BERT's 0.02, so that logits of different texts differ.
    noise = 0.06 * torch.randn(sizes, generator=random)
    return 1 + noise if name.endswith("LayerNorm.weight") else noise


def _shapes(shape: FamilyModel) -> dict[str, tuple[int, ...]]:
    hidden, inner = shape.hidden_size, shape.intermediate_size
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (_VOCABULARY, hidden),
        "bert.embeddings.position_embeddings.weight": (_POSITIONS, hidden),
        "bert.embeddings.token_type_embeddings.weight": (2, hidden),
    }
    linears = {"bert.pooler.dense": (hidden, hidden), "classifier": (1, hidden)}
    norms = ["bert.embeddings.LayerNorm"]
    for i in range(shape.layers):
        layer = f"bert.encoder.layer.{i}."
        linears |= {f"{layer}attention.self.{part}": (hidden, hidden) for part in ("query", "key", "value")}
        linears |= {
            f"{layer}attention.output.dense": (hidden, hidden),
            f"{layer}intermediate.dense": (inner, hidden),
            f"{layer}output.dense": (hidden, inner),
        }
        norms += [f"{layer}attention.output.LayerNorm", f"{layer}output.LayerNorm"]
    for name, (rows, columns) in linears.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    for name in norms:
        shapes |= {f"{name}.weight": (hidden,), f"{name}.bias": (hidden,)}
    return shapes
