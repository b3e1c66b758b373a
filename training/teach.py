"""Choose each query's candidates and let the teacher score them: `lists.jsonl`.

Candidates come from the top ranks of BM25 and of the bi-encoder over all sources, as they do where a
reranker is used. The teacher is a weighted sum of three opinions that cost next to nothing a pair, since
every text is encoded once: the bi-encoder's cosine, its late interaction, and BM25's score. It scores the
negatives too, so a false negative is a negative that it scores high, and costs little (see `train.target`).
"""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np

from config import TeachConfig
from encoder import Encoded, Floats, encode, late_interaction
from files import read_rows, write_rows

logger = logging.getLogger("teach")

HELD_OUT_CANDIDATES = 20


class Bm25:
    """BM25 over all passages."""

    def __init__(self, passages: Sequence[str]) -> None:
        """Index the passages."""
        self._retriever = bm25s.BM25()
        tokens = bm25s.tokenize(list(passages), stopwords="en", show_progress=False)
        self._retriever.index(tokens, show_progress=False)
        self._size = len(passages)

    def scores(self, query: str) -> Floats:
        """Return the score of every passage [passages]; all 0 if no word of the query is known."""
        [tokens] = bm25s.tokenize([query], stopwords="en", show_progress=False, return_ids=False)
        known = [token for token in tokens if token in self._retriever.vocab_dict]
        if not known:
            return np.zeros(self._size, np.float32)
        return np.asarray(self._retriever.get_scores(known), np.float32)


def candidates(
    query: dict[str, Any],
    bm25: Floats,
    cosine: Floats,
    passages: list[str],
    config: TeachConfig,
    rng: random.Random,
) -> dict[str, Any] | None:
    """Return a query's list: its label, `hard` of the best, given negatives, others; None if there are none.

    Args:
        query: A row of `queries.jsonl`.
        bm25: Score of every passage.
        cosine: The bi-encoder's cosine of the query with every passage.
        passages: All passages.
        config: How many of which kind.
        rng: Where the others are drawn from.
    """
    positives = sorted(query["positives"], key=lambda i: -cosine[i])
    answer = (query["answer"] or "\0").lower()
    given = query.get("negatives", [])

    def wrong(ranked: Sequence[int]) -> list[int]:
        """Leave out what answers, or is named as a negative already."""
        return [
            i
            for i in ranked
            if i not in positives and i not in given and not (positives and answer in passages[i].lower())
        ]

    lexical = wrong(np.argsort(-bm25, kind="stable")[: config.depth].tolist())
    semantic = wrong(np.argsort(-cosine, kind="stable")[: config.depth].tolist())
    best = HELD_OUT_CANDIDATES // 2 if query["held_out"] else config.hard
    hard = list(dict.fromkeys([*lexical[:best], *semantic[:best]]))
    chosen = [*hard, *dict.fromkeys(given)]
    if not query["held_out"]:
        rest = [i for i in lexical if i not in chosen]
        wanted = config.candidates - bool(positives) - len(chosen)
        chosen += rng.sample(rest, min(len(rest), max(0, wanted)))
    if not chosen:
        return None
    return {
        "query": query["query"],
        "source": query["source"],
        "held_out": query["held_out"],
        "labelled": bool(positives),
        "hard": len(hard),
        "passages": positives[:1] + chosen,
    }


def opinions(
    query: int, chosen: Sequence[int], queries: Encoded, passages: Encoded, cosine: Floats, bm25: Floats
) -> Floats:
    """Return cosine, late interaction and BM25's score of some passages [chosen, 3]."""
    words = queries.tokens(query)
    late = [late_interaction(words, passages.tokens(i)) for i in chosen]
    return np.stack([cosine[list(chosen)], np.float32(late), bm25[list(chosen)]], axis=1)


def teach(work: Path, config: TeachConfig, seed: int, threads: int) -> None:
    """Write the lists of all queries in `work`."""
    texts = [row["text"] for row in read_rows(work / "passages.jsonl")]
    rows = read_rows(work / "queries.jsonl")
    queries = encode([row["query"] for row in rows], work, threads)
    passages = encode(texts, work, threads)
    bm25 = Bm25(texts)
    rng = random.Random(seed)
    weights = np.float32([config.cosine, config.late_interaction, config.bm25])
    lists = []
    for number, query in enumerate(rows):
        words, cosine = bm25.scores(query["query"]), passages.vectors @ queries.vectors[number]
        made = candidates(query, words, cosine, texts, config, rng)
        if made is not None:
            values = opinions(number, made["passages"], queries, passages, cosine, words) @ weights
            lists.append(made | {"teacher": [round(value, 4) for value in values.tolist()]})
    write_rows(work / "lists.jsonl", lists)
    logger.info("%d lists of %d queries", len(lists), len(rows))
