"""Texts to token ids, exactly as the checkpoint's tokenizer does, with words looked up.

The ids of a text are those of its words, one after the other, if the tokenizer is BERT's, and most words have
been seen before. Measured on English passages, this is many times as fast as tokenising whole texts.
Tokenizers of another kind get whole texts.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from tokenizers import Tokenizer

from rerank_plugins.scoring.bert_words import WordLookup, bert_words

__all__ = ["CHARACTERS_PER_TOKEN", "ID_BYTES", "TextTokenizer"]

# Ids travel as the bytes of int32s: joining bytes is the fastest way that Python has to join anything.
ID_BYTES = 4
# Characters looked up together: arrays of their words stay in the processor's cache.
_CHARACTERS_TOGETHER = 2**18
# Characters for a token: so much of a long text is nearly always enough, and no more is looked at.
CHARACTERS_PER_TOKEN = 8


class TextTokenizer:
    """Encodes texts without special tokens and without truncation; threads may share it.

    Args:
        tokenizer: A private tokenizer that pads and truncates nothing.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._words = bert_words(tokenizer)

    def ids(self, texts: Sequence[str], limit: int) -> list[bytes]:
        """Return the ids of each text, the first `limit` of them, as the bytes of int32s."""
        size, most = limit * ID_BYTES, limit * CHARACTERS_PER_TOKEN
        if not self._words:
            return [ids[:size] for ids in self._encode(texts)]
        if max(map(len, texts), default=0) <= most and sum(map(len, texts)) <= _CHARACTERS_TOGETHER:
            return [ids[:size] for ids in _look_up(self._words, texts)]  # nearly always
        found = [b""] * len(texts)
        rests = dict(enumerate(texts))
        while rests:
            heads = {i: _head(rest, most) for i, rest in rests.items()}
            for some in _groups(heads):
                for i, ids in zip(some, _look_up(self._words, [heads[i] for i in some]), strict=True):
                    found[i] += ids
            rests = {
                i: rest[len(heads[i]) + 1 :]  # without the space
                for i, rest in rests.items()
                if len(heads[i]) < len(rest) and len(found[i]) < size
            }
            most = min(4 * most, _CHARACTERS_TOGETHER)
        return [ids[:size] for ids in found]

    def head(self, text: str, words: int) -> str:
        """Return the start of a text whose ids are the first of all: so many words, or the whole of it."""
        end = -1
        for _ in range(words if self._words else 0):
            end = text.find(" ", end + 1)
            if end < 0:
                return text
        return text[:end] if self._words else text

    def _encode(self, texts: Sequence[str]) -> list[bytes]:
        # Rayon spreads a batch over the cores, outside the GIL; "fast" leaves out the offsets.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32).tobytes() for encoding in encodings]


def _look_up(words: WordLookup, texts: Sequence[str]) -> list[bytes]:
    """Return all ids of each text."""
    ids, ends = words.ids([text.encode() for text in texts])
    joined = ids.tobytes()
    return [joined[start:stop] for start, stop in pairwise([0, *(ends * ID_BYTES).tolist()])]


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
