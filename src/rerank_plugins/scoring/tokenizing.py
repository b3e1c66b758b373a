"""Texts to token ids, exactly as the checkpoint's tokenizer does, with words looked up.

BERT's tokenizer never looks across a space: it splits there, and normalises, lower-cases and cuts into word
pieces on either side without regard to the other. So the ids of a text are those of what stands between
its spaces, one after the other, and most of that has been seen before. Measured on English passages, this
is many times as fast as tokenising whole texts. Tokenizers of another kind get whole texts.
"""

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerank_plugins.scoring.words import Words, WordTable

__all__ = ["CHARACTERS_PER_TOKEN", "ID_BYTES", "TextTokenizer", "never_looks_across_spaces"]

# Ids travel as the bytes of int32s: joining bytes is the fastest way that Python has to join anything.
ID_BYTES = 4
# Words remembered, with a few ids each: about 10 MB when full.
_MOST_WORDS = 2**17
# New words that one thread of the tokenizer takes at a time.
_WORDS_TOGETHER = 64
# Characters looked up together: arrays of their words stay in the processor's cache.
_CHARACTERS_TOGETHER = 2**18
# Characters for a token: so much of a long text is nearly always enough, and no more is looked at.
CHARACTERS_PER_TOKEN = 8


def never_looks_across_spaces(tokenizer: Tokenizer) -> bool:
    """Say whether a tokenizer is BERT's, and so treats what stands between spaces by itself."""
    pipeline: dict[str, Any] = json.loads(tokenizer.to_str())
    parts = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}
    if any((pipeline.get(part) or {}).get("type") != kind for part, kind in parts.items()):
        return False
    return not any(" " in token["content"] for token in pipeline.get("added_tokens", []))


class TextTokenizer:
    """Encodes texts without special tokens and without truncation; threads may share it.

    Args:
        tokenizer: A private tokenizer that pads and truncates nothing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._by_word = never_looks_across_spaces(tokenizer)
        self._table = WordTable(_MOST_WORDS)
        self._lock = threading.Lock()

    def ids(self, texts: Sequence[str], limit: int) -> list[bytes]:
        """Return the ids of each text, the first `limit` of them, as the bytes of int32s."""
        size, most = limit * ID_BYTES, limit * CHARACTERS_PER_TOKEN
        if not self._by_word:
            return [ids[:size] for ids in self._encode(texts)]
        if max(map(len, texts), default=0) <= most and sum(map(len, texts)) <= _CHARACTERS_TOGETHER:
            return [ids[:size] for ids in self._look_up(texts)]  # nearly always
        found = [b""] * len(texts)
        rests = dict(enumerate(texts))
        while rests:
            heads = {i: _head(rest, most) for i, rest in rests.items()}
            for some in _groups(heads):
                for i, ids in zip(some, self._look_up([heads[i] for i in some]), strict=True):
                    found[i] += ids
            rests = {
                i: rest[len(heads[i]) + 1 :]  # without the space
                for i, rest in rests.items()
                if len(heads[i]) < len(rest) and len(found[i]) < size
            }
            most *= 4
        return [ids[:size] for ids in found]

    def head(self, text: str, words: int) -> str:
        """Return the start of a text whose ids are the first of all: so many words, or the whole of it."""
        end = -1
        for _ in range(words if self._by_word else 0):
            end = text.find(" ", end + 1)
            if end < 0:
                return text
        return text[:end] if self._by_word else text

    def _look_up(self, texts: Sequence[str]) -> list[bytes]:
        """Return all ids of each text."""
        words = Words.of(texts)
        with self._lock:
            if self._table.full:
                # What is frequent came early. Who is at work keeps the table at hand.
                self._table = self._table.early_half()
            table = self._table
            entries = table.find(words.rows)
        new = (entries == 0).nonzero()[0]
        if len(new):
            # The new words of all texts are learned together, which takes all cores.
            different, first, which = words.distinct(new)
            ids, counts = self._encode_words(different)
            with self._lock:
                entries[new] = table.add(words.rows[first], ids, counts)[which]
        with self._lock:
            ids, ends = table.ids(entries)
        joined = ids.tobytes()
        stops = ends[words.ends - 1] * ID_BYTES
        return [joined[start:stop] for start, stop in pairwise([0, *stops.tolist()])]

    def _encode(self, texts: Sequence[str]) -> list[bytes]:
        # Rayon spreads a batch over the cores, outside the GIL; "fast" leaves out the offsets.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32).tobytes() for encoding in encodings]

    def _encode_words(self, words: list[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of words, one after the other, and how many each has.

        Together, as an encoding of its own costs more than a word.
        """
        groups = [words[i : i + _WORDS_TOGETHER] for i in range(0, len(words), _WORDS_TOGETHER)]
        encodings = self._tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
        counts = [
            np.bincount(np.array(encoding.word_ids, dtype=np.int64), minlength=len(group))
            for group, encoding in zip(groups, encodings, strict=True)
        ]
        return np.concatenate(ids), np.concatenate(counts)


def _head(text: str, least: int) -> str:
    """Return the start of a text up to a space, `least` characters or a word more; or the whole of it."""
    if len(text) <= least:
        return text
    end = text.find(" ", least)
    return text if end < 0 else text[:end]


def _groups(texts: Mapping[int, str]) -> Iterator[list[int]]:
    """Yield keys of texts that are looked up together."""
    some: list[int] = []
    length = 0
    for i, text in texts.items():
        some.append(i)
        length += len(text)
        if length >= _CHARACTERS_TOGETHER:
            yield some
            some, length = [], 0
    if some:
        yield some
