"""The settings of a training, read from TOML: every choice that a run depends on."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class PrepareConfig:
    """What is read.

    Attributes:
        queries: Source name to how many queries at most.
        per_document: Queries of one document at most.
        held_out: Share of documents whose queries are kept for evaluation. A query that several documents
            are asked for goes where the first of them does.
        vary: Whether queries are rewritten as people type them, in `queries.py`.
    """

    queries: dict[str, int] = field(default_factory=dict)
    per_document: int = 4
    held_out: float = 0.04
    vary: bool = True


@dataclass(frozen=True)
class TeachConfig:
    """Candidates and the teacher's opinion of them.

    Attributes:
        depth: Rank down to which candidates are looked at.
        candidates: Passages kept a query, the positive included.
        hard: Of these, how many come from the bi-encoder's top, and as many from BM25's; the rest is
            drawn from anywhere down to `depth` of BM25.
        cosine: The teacher's weight of the bi-encoder's cosine.
        late_interaction: Its weight of the mean best match of the query's words, a cosine too.
        bm25: Its weight of BM25's score, which is some tens.
        scale: Factor to the teacher's logits: 0 trusts labels alone.
        label: What a label adds to its passage's logit: 0 trusts the teacher alone.
    """

    depth: int = 100
    candidates: int = 16
    hard: int = 5
    cosine: float = 20.0
    late_interaction: float = 15.0
    bm25: float = 0.25
    scale: float = 1.0
    label: float = 3.0


@dataclass(frozen=True)
class TrainConfig:
    """How the student learns.

    Attributes:
        start: Cross-encoder to start from: "bundled", a folder or hub id; "" for the encoder.
        steps: Optimizer steps in all.
        lists: Queries a step.
        passages: Passages a query.
        max_tokens: Longest pair.
        body_rate: Learning rate of the encoder's layers.
        head_rate: Learning rate of pooler and classifier.
        warm_up: Steps until the rate is full.
        decay: Share of the steps, at the end, in which the rate falls to zero.
        layers: Layers kept of the start model; 0 for all.
        frozen: How many of the lowest layers stay as they are; embeddings always do.
        evaluate_every: Steps between evaluations on held-out queries.
        evaluate_queries: How many of these, as many of each source.
    """

    start: str = ""
    steps: int = 1200
    lists: int = 8
    passages: int = 8
    max_tokens: int = 112
    body_rate: float = 1e-4
    head_rate: float = 4e-4
    warm_up: int = 30
    decay: float = 0.3
    layers: int = 0
    frozen: int = 0
    evaluate_every: int = 200
    evaluate_queries: int = 210


@dataclass(frozen=True)
class Config:
    """All settings of one run."""

    seed: int = 1
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    teach: TeachConfig = field(default_factory=TeachConfig)
    train: TrainConfig = field(default_factory=TrainConfig)


def read_config(path: Path) -> Config:
    """Read a TOML file; unknown names are errors."""
    values: dict[str, Any] = tomllib.loads(path.read_text())
    return Config(
        seed=values.pop("seed", 1),
        prepare=PrepareConfig(**values.pop("prepare", {})),
        teach=TeachConfig(**values.pop("teach", {})),
        train=TrainConfig(**values.pop("train", {})),
        **values,
    )
