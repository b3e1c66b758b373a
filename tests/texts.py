"""Texts of every kind a reranker meets."""

import random

WORDS = [
    "the",
    "of",
    "and",
    "in",
    "to",
    "a",
    "is",
    "for",
    "on",
    "that",
    "by",
    "with",
    "as",
    "from",
    "at",
    "it",
    "an",
    "are",
    "was",
    "be",
    "river",
    "bank",
    "loan",
    "python",
    "memory",
    "allocation",
    "tomato",
    "garden",
    "Zürich",
    "naïve",
    "café",
    "東京",
    "42",
    "3.14",
    "e-mail",
    "foo_bar",
    "don't",
    "cross-encoder",
    "reranking",
    "antidisestablishmentarianism",
    "xqzzv",
    "HTTP/2",
    "$9.99",
    "😀",
    "Ωmega",
]


def make_text(words: int, seed: int = 0) -> str:
    """Return `words` words, the same ones for the same seed."""
    return " ".join(random.Random(seed).choices(WORDS, k=words))


ODD = [
    "",
    " \t\n ",
    "[SEP] [CLS] [PAD] [MASK]",
    "日本語のテキスト",
    "🏳️‍🌈👩‍👩‍👧",
    "e\u0301 vs é",
    "a\u0000b\u200bc\ufeff",
    "x" * 300,
    "العربية עברית हिन्दी ไทย",
    "…—“quotes”—…",
]
