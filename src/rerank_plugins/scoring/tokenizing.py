"""Texts to token ids, exactly as the checkpoint's tokenizer does, with words looked up.

BERT's tokenizer never looks across a space: it splits there, and normalises, lower-cases and cuts into word
pieces on either side without regard to the other. So the ids of a text are those of what stands between
its spaces, one after the other, and most of that has been seen before. Measured on English passages, this
is many times as fast as tokenising whole texts. Tokenizers of another kind get whole texts.
"""

import json
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
from tokenizers import Tokenizer

__all__ = ["ID_BYTES", "TextTokenizer", "never_looks_across_spaces"]

# Ids travel as the bytes of int32s: joining bytes is the fastest way that Python has to join anything.
ID_BYTES = 4
# Words remembered, with a few ids each: about 20 MB when full.
_MOST_WORDS = 2**17
# Longer ones are seldom words, and seldom come back.
_LONGEST_WORD = 32
# New words that one thread of the tokenizer takes at a time.
_WORDS_TOGETHER = 64


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
        self._words: dict[str, bytes] = {}

    def ids(self, texts: Sequence[str], limit: int) -> list[bytes]:
        """Return the ids of each text, the first `limit` of them, as the bytes of int32s."""
        size, count = limit * ID_BYTES, limit
        if not self._by_word:
            return [ids[:size] for ids in self._encode(texts)]
        found = [b""] * len(texts)
        rests = dict(enumerate(texts))
        # A word has one id or more, nearly always: so many words are enough, however long the text is.
        while rests:
            known, new, unfinished = self._words.get, set[str](), []
            # Text by text: the memory of one's words is still at hand for the next one's.
            for i, text in rests.items():
                words = text.split(" ", count)
                rests[i] = words.pop() if len(words) > count else ""
                ids = list(map(known, words))
                try:
                    found[i] += b"".join(ids)  # type: ignore[arg-type]
                except TypeError:  # None, for a new word
                    gaps = [place for place, part in enumerate(ids) if part is None]
                    new.update([words[place] for place in gaps])
                    unfinished.append((i, words, ids, gaps))
            # The new words of all texts are learned together, which takes all cores.
            fresh = self._learn(list(new)) if new else {}
            for i, words, ids, gaps in unfinished:
                for place in gaps:
                    ids[place] = fresh[words[place]]
                found[i] += b"".join(ids)  # type: ignore[arg-type]
            rests = {i: rest for i, rest in rests.items() if rest and len(found[i]) < size}
            count *= 4
        return [ids[:size] for ids in found]

    def head(self, text: str, words: int) -> str:
        """Return the start of a text whose ids are the first of all: so many words, or the whole of it."""
        end = -1
        for _ in range(words if self._by_word else 0):
            end = text.find(" ", end + 1)
            if end < 0:
                return text
        return text[:end] if self._by_word else text

    def _learn(self, words: list[str]) -> dict[str, bytes]:
        """Return the ids of new words, and remember those that may come back."""
        fresh = dict(zip(words, self._encode_words(words), strict=True))
        if len(self._words) + len(fresh) > _MOST_WORDS:
            # What is frequent came early. Other threads keep the dict they hold.
            self._words = dict(islice(self._words.items(), _MOST_WORDS // 2))
        self._words.update({word: ids for word, ids in fresh.items() if len(word) <= _LONGEST_WORD})
        return fresh

    def _encode(self, texts: Sequence[str]) -> list[bytes]:
        # Rayon spreads a batch over the cores, outside the GIL; "fast" leaves out the offsets.
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32).tobytes() for encoding in encodings]

    def _encode_words(self, words: list[str]) -> list[bytes]:
        """Return the ids of each word; together, as an encoding of its own costs more than a word."""
        groups = [words[i : i + _WORDS_TOGETHER] for i in range(0, len(words), _WORDS_TOGETHER)]
        encodings = self._tokenizer.encode_batch(groups, is_pretokenized=True, add_special_tokens=False)
        found: list[bytes] = []
        for group, encoding in zip(groups, encodings, strict=True):
            ids = np.array(encoding.ids, dtype=np.int32).tobytes()
            counts = np.bincount(np.array(encoding.word_ids, dtype=np.int64), minlength=len(group))
            ends = (np.cumsum(counts) * ID_BYTES).tolist()
            found += [ids[start:end] for start, end in pairwise([0, *ends])]
        return found
