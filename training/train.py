"""Train the student: its softmax over a query's candidates comes to be the target's.

The target of a list is softmax(teacher + label): the teacher's opinion, with the label as evidence
added to its passage. So a negative that the teacher takes for an answer costs little, and a query without a
label still teaches. The learning rate warms up, stays, and falls to zero in the last part of the steps.
`checkpoint.pt` is where an interrupted run goes on; `stable.pt` is the state before the fall, where a later
run with more steps goes on.
"""

import hashlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import BertForSequenceClassification

from bert import Stream, cross_encode, half_precision, in_threads, score_pairs
from config import Config, TrainConfig
from files import read_rows
from measure import by_source, choose_held_out
from model import load_tokenizer, start_model, write_tokenizer

logger = logging.getLogger("train")

CHECKPOINT_SECONDS = 180
LOG_EVERY = 20
NEVER = -1e4  # the logit of a passage that is not there
LISTS_AT_ONCE = {"cpu": 1, "cuda": 8}  # whose gradients are computed together


def rate(step: int, config: TrainConfig) -> float:
    """Return the learning rate's factor: warm-up, plateau, linear fall to zero."""
    fall = max(1, round(config.steps * config.decay))
    return max(0.0, min((step + 1) / config.warm_up, 1.0, (config.steps - step) / fall))


def falling(step: int, config: TrainConfig) -> bool:
    """Say whether the rate has begun to fall."""
    return step > config.warm_up and rate(step, config) < 1


def draw(lists: list[dict[str, Any]], step: int, config: TrainConfig, seed: int) -> list[dict[str, Any]]:
    """Return a step's lists with the passages drawn for it: a function of seed and step alone."""
    usable = len(lists) - len(lists) % config.lists
    epoch, first = divmod(step * config.lists, usable)
    order = list(range(len(lists)))
    random.Random(f"{seed} {epoch}").shuffle(order)
    rng = random.Random(f"{seed} {step}")
    drawn = []
    for i in order[first : first + config.lists]:
        row = lists[i]
        keep = [0] if row["labelled"] else []
        others = range(len(keep), len(row["passages"]))
        keep += rng.sample(others, min(len(others), config.passages - len(keep)))
        drawn.append(row | {key: [row[key][k] for k in keep] for key in ("passages", "teacher")})
    return drawn


def target(row: dict[str, Any], scale: float, label: float) -> Tensor:
    """Return a list's target probabilities [passages]; a labelled list has its positive first."""
    logits = scale * torch.tensor(row["teacher"])
    logits[0] += label * row["labelled"]
    return logits.softmax(-1)


@dataclass(frozen=True)
class Group:
    """Lists whose gradients are computed together.

    Attributes:
        stream: Their pairs.
        sizes: How many pairs each list has.
        targets: Probabilities [lists, most pairs], 0 behind a list's last.
    """

    stream: Stream
    sizes: list[int]
    targets: Tensor


@dataclass
class Trainer:
    """A model, its data, and how far it has come."""

    model: BertForSequenceClassification
    tokenizer: Tokenizer
    passages: list[str]
    lists: list[dict[str, Any]]
    tests: list[dict[str, Any]]
    config: Config
    output: Path
    threads: int
    device: torch.device
    inputs: str
    step: int = 0

    def __post_init__(self) -> None:
        """Make the optimizer: AdamW with a rate of its own for the head."""
        names = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        body = [p for name, p in names if name.startswith("bert.encoder")]
        head = [p for name, p in names if not name.startswith("bert.encoder")]
        self.learning = body + head
        settings = self.config.train
        groups = [
            {"params": body, "base": settings.body_rate},
            {"params": head, "base": settings.head_rate},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01, fused=True)

    def groups(self, step: int) -> list[Group]:
        """Return a step's lists in groups of like length, the longest first, so that no thread ends late."""
        drawn = draw(self.lists, step, self.config.train, self.config.seed)
        drawn.sort(key=lambda row: -sum(len(self.passages[i]) for i in row["passages"]))
        size = LISTS_AT_ONCE[self.device.type]
        return [self._group(drawn[first : first + size]) for first in range(0, len(drawn), size)]

    def _group(self, rows: Sequence[dict[str, Any]]) -> Group:
        pairs = [(row["query"], self.passages[i]) for row in rows for i in row["passages"]]
        stream = Stream.of(self.tokenizer.encode_batch(pairs)).to(self.device)
        teach = self.config.teach
        targets = pad_sequence([target(row, teach.scale, teach.label) for row in rows], batch_first=True)
        return Group(stream, [len(row["passages"]) for row in rows], targets.to(self.device))

    def learn(self, groups: Sequence[Group]) -> tuple[float, int]:
        """Take one step; return its mean divergence and how many pairs it had."""
        total, gradients = 0.0, None
        for loss, new in in_threads(self._gradients, groups, self.threads):
            total += loss
            gradients = new if gradients is None else [a.add_(b) for a, b in zip(gradients, new, strict=True)]
        lists = sum(len(group.sizes) for group in groups)
        for parameter, gradient in zip(self.learning, gradients or [], strict=True):
            parameter.grad = gradient / lists
        torch.nn.utils.clip_grad_norm_(self.learning, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * rate(self.step, self.config.train)
        self.optimizer.step()
        self.step += 1
        return total / lists, sum(sum(group.sizes) for group in groups)

    def _gradients(self, group: Group) -> tuple[float, list[Tensor]]:
        """Return the sum of the Kullback-Leibler divergences from a group's targets, and its gradients."""
        with half_precision(self.device):
            logits = cross_encode(self.model, group.stream)
        logits = pad_sequence(logits.split(group.sizes), batch_first=True, padding_value=NEVER)
        loss = torch.nn.functional.kl_div(logits.log_softmax(-1), group.targets, reduction="sum")
        return loss.item(), list(torch.autograd.grad(loss, self.learning))

    def evaluate(self) -> dict[str, float]:
        """Return nDCG@10 on held-out queries, by source."""
        pairs = [(row["query"], self.passages[i]) for row in self.tests for i in row["passages"]]
        logits = score_pairs(self.model, self.tokenizer.encode_batch(pairs), self.threads)
        figures = by_source(self.tests, list(logits.split([len(row["passages"]) for row in self.tests])))
        logger.info("step %d, held out: %s", self.step, figures)
        return figures

    def save(self, name: str) -> None:
        """Write a checkpoint, completely or not at all."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "fell": falling(self.step - 1, self.config.train),
            "steps": self.config.train.steps,
            "inputs": self.inputs,
        }
        path = self.output / name
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def resume(self) -> None:
        """Go on from the last checkpoint of these inputs that serves this many steps, if there is one."""
        for name in ("checkpoint.pt", "stable.pt"):
            path = self.output / name
            if not path.exists():
                continue
            state = torch.load(path, weights_only=True, map_location=self.device)
            if state.get("inputs") != self.inputs:
                logger.warning("not going on from %s, which is of other texts, start or seed", path)
                continue
            if state["fell"] and state["steps"] != self.config.train.steps:
                continue  # its rate fell for another end
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            logger.info("going on from %s at step %d", name, self.step)
            return

    def run(self) -> dict[str, float]:
        """Take the steps that remain, from the last checkpoint if there is one; return the last figures."""
        self.resume()
        settings = self.config.train
        average, pairs, started, saved = 0.0, 0, time.monotonic(), time.monotonic()
        for groups in ahead(self.groups, self.step, settings.steps):
            if self.step and self.step % settings.evaluate_every == 0:
                self.evaluate()
            if falling(self.step, settings) and not falling(self.step - 1, settings):
                self.save("stable.pt")
            loss, count = self.learn(groups)
            pairs += count
            average = average + 0.03 * (loss - average) if average else loss
            if self.step % LOG_EVERY == 0:
                speed = pairs / (time.monotonic() - started)
                logger.info(
                    "step %d of %d, divergence %.4f, %.1f pairs/s", self.step, settings.steps, average, speed
                )
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save("checkpoint.pt")
                saved = time.monotonic()
        self.save("checkpoint.pt")
        self.model.save_pretrained(self.output / "model")
        write_tokenizer(settings.start, self.output / "model")
        return self.evaluate()


def ahead(make: Callable[[int], Any], first: int, end: int) -> Iterator[Any]:
    """Yield `make(step)` for the steps from `first` to `end`, each made while the one before is used."""
    with ThreadPoolExecutor(1) as pool:
        ready = None
        for step in range(first, end):
            coming = pool.submit(make, step)
            if ready is not None:
                yield ready.result()
            ready = coming
        if ready is not None:
            yield ready.result()


def fingerprint(passages: list[str], lists: list[dict[str, Any]], config: Config) -> str:
    """Return what tells inputs apart, without the teacher's figures, whose last digits may change."""
    asked = [(row["query"], row["held_out"], row["passages"]) for row in lists]
    inputs = json.dumps([passages, asked, config.train.start, config.seed])
    return hashlib.sha256(inputs.encode()).hexdigest()


def make_trainer(
    work: Path,
    output: Path,
    config: Config,
    threads: int,
    device: str = "cpu",
) -> Trainer:
    """Return a trainer on the lists in `work` that writes into `output`.

    Raises:
        ValueError: If there are not even lists for one step, or none to measure with.
    """
    settings = config.train
    torch.manual_seed(config.seed)  # the new head's weights
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans every new shape anew, and each step has one
    output.mkdir(parents=True, exist_ok=True)
    lists = read_rows(work / "lists.jsonl")
    if sum(not row["held_out"] for row in lists) < settings.lists:
        msg = f"{work / 'lists.jsonl'} must have {settings.lists} lists to learn from: give more data"
        raise ValueError(msg)
    tests = choose_held_out(lists, settings.evaluate_queries)
    if not tests:
        msg = f"{work / 'lists.jsonl'} must have a labelled list that is held out: give more data"
        raise ValueError(msg)
    passages = [row["text"] for row in read_rows(work / "passages.jsonl")]
    return Trainer(
        model=start_model(settings.start, settings.layers, settings.frozen).train().to(device),
        tokenizer=load_tokenizer(settings.start, settings.max_tokens),
        passages=passages,
        lists=[row for row in lists if not row["held_out"]],
        tests=tests,
        config=config,
        output=output,
        threads=threads if device == "cpu" else 1,
        device=torch.device(device),
        inputs=fingerprint(passages, lists, config),
    )
