"""Write the folder that ships: the trained model, calibrated, in int8.

    python training/export.py --output src/rerank_plugins/bundled/model

Every large matrix is stored as int8 with one float32 scale a row, so `int8 * scale` gives back exactly
what the figures in the model card were measured with. The file's SHA-256 goes beside it: loading checks it.
"""

import hashlib
import json
import logging
import math
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor

from files import read_rows
from rerank_plugins import CrossEncoderScorer, InvalidInputError
from rerank_plugins.calibration import fit

logger = logging.getLogger("export")

SMALLEST = 4096  # elements; smaller tensors, and the head, stay float32
EXACT = (
    "classifier.weight",
    "bert.pooler.dense.weight",
    "bert.embeddings.position_embeddings.weight",
)
CALIBRATION_QUERIES = 200
FEWEST_QUERIES = 10  # with fewer, the scale would be chance


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
    """Write weights and config."""
    output.mkdir(parents=True, exist_ok=True)
    metadata = {"format": "pt", "quantization": "int8 per row: weight = int8 * scale"}
    path = output / "model.safetensors"
    save_file(quantise(weights), path, metadata)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".safetensors.sha256").write_text(f"{digest}  {path.name}\n")
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.0}
    for key in ("_name_or_path", "transformers_version", "dtype", "gradient_checkpointing"):
        config.pop(key, None)
    (output / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def calibrate(model: Path, lists: list[dict[str, Any]], passages: list[str]) -> tuple[float, float]:
    """Fit sigmoid(a * logit + b) to held-out positives and negatives; return a, above 0, and b.

    Both kinds weigh the same, since how rare answers are is a matter of the retriever: at 0.5 a passage is as
    like an answer as like one of the candidates that are none. A starting point, not a promise.

    Raises:
        InvalidInputError: If the lists are too few, or their positives do not have the higher logits.
    """
    if len(lists) < FEWEST_QUERIES:
        msg = f"labelled held-out queries must be {FEWEST_QUERIES} or more, but are {len(lists)}"
        raise InvalidInputError(msg)
    pairs = [(row["query"], passages[i]) for row in lists for i in row["passages"]]
    labels = [place == 0 for row in lists for place in range(len(row["passages"]))]
    with CrossEncoderScorer(str(model), device="cpu") as scorer:
        fitted = fit(scorer.score_pairs(pairs), labels)
    # As many answers as other candidates, by Bayes' rule, in place of one a list.
    balance = math.log(labels.count(False) / labels.count(True))
    return 1 / fitted.temperature, balance - fitted.offset / fitted.temperature


def export(model: Path, work: Path, output: Path) -> None:
    """Calibrate on held-out queries of `work` if they allow it, quantise, write."""
    weights = load_file(model / "model.safetensors")
    write(weights, model, output)
    for path in model.glob("tokenizer*.json"):
        shutil.copy(path, output)
    passages = [row["text"] for row in read_rows(work / "passages.jsonl")]
    lists = [row for row in read_rows(work / "lists.jsonl") if row["held_out"] and row["labelled"]]
    try:
        scale, offset = calibrate(output, lists[:CALIBRATION_QUERIES], passages)
    except InvalidInputError as error:
        logger.warning("not calibrated, the model keeps its own logits: %s", error)
    else:
        weights["classifier.weight"] = weights["classifier.weight"] * scale
        weights["classifier.bias"] = weights["classifier.bias"] * scale + offset
        write(weights, model, output)
        logger.info("calibration: logit * %.3f %+.3f", scale, offset)
    size = sum(path.stat().st_size for path in output.iterdir()) / 1e6
    logger.info("%.1f MB in %s", size, output)


def main(
    work: Annotated[Path, typer.Option(help="Folder of a finished training.")] = Path("training/work"),
    output: Annotated[Path, typer.Option(help="Folder that ships.")] = Path(
        "src/rerank_plugins/bundled/model"
    ),
) -> None:
    """Calibrate, quantise, write."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export(work / "model", work, output)


if __name__ == "__main__":
    typer.run(main)
