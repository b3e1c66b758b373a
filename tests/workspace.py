"""What blocks of the documentation find: a hub cache without a network, and sample files."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from safetensors.torch import save_file

from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.scoring import family
from rerank_plugins.scoring.loading import load_weights
from tests.models import BUNDLED, add_tokenizer

PASSAGES = {"d1": "A fist is a hand.", "d2": "Goethe wrote Faust.", "d3": "Rice is a grass."}
_ADDRESS = re.compile(r"running on http://([\w.:]+)")
QUERIES = {"q1": "who wrote Faust?", "q2": "what is rice?"}


def make_hub(folder: Path) -> Path:
    """Make a hub cache in which the bundled weights stand in for family members, under `refs/main` too."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    save_file(load_weights(BUNDLED), checkpoint / "model.safetensors")
    shutil.copy(BUNDLED / "config.json", checkpoint)
    add_tokenizer(checkpoint)
    for member in family.FAMILY:
        if member.layers not in (6, 12):
            continue
        # Both spellings: those who load with transformers ask for what they were given.
        for alias in member.aliases:
            root = folder / "hub" / f"models--cross-encoder--{alias}"
            (root / "refs").mkdir(parents=True)
            (root / "refs" / "main").write_text(str(member.revision))
            (root / "snapshots").mkdir()
            (root / "snapshots" / str(member.revision)).symlink_to(checkpoint)
    return folder


def environment(hub: Path) -> dict[str, str]:
    """Return the variables that a user's process has: no network, nothing of the tests' own settings."""
    here = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    return {
        **here,
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "COLUMNS": "120",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # rerankers imports it, and it would wait for a network
    }


def fill(folder: Path) -> None:
    """Put the files into a folder that the documentation's commands name."""
    rows = [{"id": i, "text": text} for i, text in PASSAGES.items()]
    (folder / "passages.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "queries.tsv").write_text("".join(f"{i}\t{text}\n" for i, text in QUERIES.items()))
    write_run(folder / "bm25.run", PASSAGES)
    write_run(folder / "other.run", reversed(PASSAGES))
    (folder / "qrels.txt").write_text("q1 0 d2 1\nq2 0 d3 1\n")
    (folder / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own_data()))
    (folder / "my-model").symlink_to(BUNDLED)


def write_run(path: Path, order: Iterable[str]) -> None:
    """Write a TREC run with this order of the passages for each query."""
    placed = list(enumerate(order, 1))
    run = [f"{q} Q0 {d} {rank} {10 - rank} {path.stem}\n" for q in QUERIES for rank, d in placed]
    path.write_text("".join(run))


def own_data() -> list[dict[str, object]]:
    """Return the demo's questions, each with its right passages among the 20 that follow."""
    passages, rows = load_passages(), []
    for place, question in enumerate(load_queries()):
        others = [p for p in passages if p.id not in question.relevant][place : place + 20]
        right = [p for p in passages if p.id in question.relevant]
        chosen = sorted([*others, *right], key=lambda passage: passage.id)
        relevant = [i for i, passage in enumerate(chosen) if passage.id in question.relevant]
        texts = [passage.text for passage in chosen]
        rows.append({"query": question.text, "documents": texts, "relevant": relevant})
    return rows


def fill_flashrank(folder: Path) -> None:
    """Put a model into `folder/models` as FlashRank stores it: the bundled one, exported by us."""
    if not all(map(importlib.util.find_spec, ("flashrank", "onnx", "onnxruntime"))):
        return
    from rerank_plugins.scoring.export import export_model
    from rerank_plugins.settings import ScorerSettings

    model = folder / "models" / "ms-marco-MiniLM-L-12-v2"
    made = export_model(ScorerSettings(model="bundled"), model)
    made.graph.rename(model / "flashrank-MiniLM-L-12-v2_Q.onnx")
    add_tokenizer(model)
    (model / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[PAD]", "sep_token": "[SEP]"}))


@contextmanager
def serve(hub: Path, log: Path) -> Iterator[str]:
    """Run our server with the bundled model, and yield its `host:port` when it is ready."""
    command = [sys.executable, "-m", "rerank_plugins", "serve", "--port", "0"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env={**environment(hub), "RERANK_SERVER_MODELS": "bundled", "RERANK_DEVICE": "cpu"},
        )
    try:
        deadline = time.monotonic() + 120
        while not ((found := _ADDRESS.search(log.read_text())) and _is_ready(found[1])):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield found[1]
    finally:
        process.terminate()
        process.wait(timeout=60)


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/ready", timeout=5).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
