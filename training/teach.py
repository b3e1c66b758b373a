"""Choose each query's candidates and let the teacher score them: `lists.jsonl`.

Candidates come from BM25's top ranks over all sources, as they do where a reranker is used. The teacher is a
bi-encoder: a text is encoded once, so its opinion of any number of pairs is nearly free. It also says which
of several possible positives is the best one; and as it scores the negatives too, a false negative is a
negative that it scores high, and costs little (see `train.targets`).
"""

import logging
import random
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt

from config import TeachConfig
from encoder import encode
from files import read_rows, write_rows

logger = logging.getLogger("teach")

HELD_OUT_CANDIDATES = 20


def search(passages: list[str], queries: list[str], depth: int) -> npt.NDArray[np.int64]:
    """Return BM25's best passages of each query, [queries, depth]."""
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(queries, stopwords="en", show_progress=False)
    found, _ = retriever.retrieve(tokens, k=min(depth, len(passages)), show_progress=False)
    return np.asarray(found, dtype=np.int64)


def candidates(
    query: dict[str, Any],
    ranks: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float32],
    passages: list[str],
    config: TeachConfig,
    rng: random.Random,
) -> dict[str, Any] | None:
    """Return a query's list, its label first; None if there are no candidates.

    Args:
        query: A row of `queries.jsonl`.
        ranks: Numbers of BM25's best passages.
        similarity: The teacher's cosine of the query with every passage.
        passages: All passages.
        config: How many of which kind.
        rng: Where the others are drawn from.
    """
    positives = sorted(query["positives"], key=lambda i: -similarity[i])
    answer = (query["answer"] or "\0").lower()
    given = query.get("negatives", [])
    pool = [
        int(i)
        for i in [*given, *(i for i in ranks if i not in given)]
        if i not in positives and not (positives and answer in passages[i].lower())
    ]
    wanted = config.candidates - bool(positives)
    if query["held_out"]:
        chosen = pool[:HELD_OUT_CANDIDATES]
    else:
        nearest = sorted(pool, key=lambda i: -similarity[i])
        chosen = list(dict.fromkeys([*given, *pool[: config.hard], *nearest[: config.hard]]))
        rest = [i for i in pool if i not in chosen]
        chosen += rng.sample(rest, min(len(rest), max(0, wanted - len(chosen))))
    if not chosen:
        return None
    numbers = positives[:1] + chosen
    return {
        "query": query["query"],
        "source": query["source"],
        "held_out": query["held_out"],
        "labelled": bool(positives),
        "passages": numbers,
        "similarity": [round(float(similarity[i]), 4) for i in numbers],
    }


def teach(work: Path, config: TeachConfig, seed: int, threads: int) -> None:
    """Write the lists of all queries in `work`."""
    passages = [row["text"] for row in read_rows(work / "passages.jsonl")]
    queries = read_rows(work / "queries.jsonl")
    texts = [query["query"] for query in queries]
    query_vectors = encode(texts, work, threads)
    passage_vectors = encode(passages, work, threads)
    found = search(passages, texts, config.depth)
    rng = random.Random(seed)
    lists = []
    for query, vector, ranks in zip(queries, query_vectors, found, strict=True):
        made = candidates(query, ranks, passage_vectors @ vector, passages, config, rng)
        if made is not None:
            lists.append(made)
    write_rows(work / "lists.jsonl", lists)
    logger.info("%d lists of %d queries", len(lists), len(queries))
