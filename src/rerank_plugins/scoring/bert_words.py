"""`bert_words`: the ids of texts as a BERT tokenizer gives them, word by word.

BERT's tokenizer splits at spaces and at punctuation, and normalises, lower-cases and cuts into word pieces on
either side without regard to the other. So a text is put together from what stands between its spaces, nearly
all of which is known. What is not is seldom new but for capitals and the punctuation at its ends, so it is
put together from its parts, in the same way. Only parts that are new are cut into word pieces.
"""

import json
import re
import string
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import WhitespaceSplit

from rerank_plugins.scoring.words import Words, WordTable

__all__ = ["WordLookup", "bert_words"]

# Words that each of the two tables remembers, with a few ids each: about 10 MB when full.
_MOST_WORDS = 2**17
# New words that one thread of the tokenizer takes at a time.
_WORDS_TOGETHER = 64
_SPACE = ord(" ")
_IS_MARK = np.zeros(256, dtype=np.bool_)
_IS_MARK[list(string.punctuation.encode())] = True

Ids = NDArray[np.int32]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Learned:
    """The ids of n words.

    Attributes:
        order: int64 [n], which of the words each is.
        ids: int32, their ids, one after the other, in this order.
        ends: int64 [n], where those of each end.
    """

    order: Ints
    ids: Ids
    ends: Ints


class WordLookup:
    """Puts texts together from what is known of their words; threads may share it.

    Args:
        learn: Finds the ids of different words that are not known; none is empty.
    """

    def __init__(self, learn: Callable[[list[bytes]], Learned]) -> None:
        self._learn = learn
        self._lock = threading.Lock()
        self._table = WordTable(_MOST_WORDS)
        self._table.add(Words.of([b""]).rows, np.zeros(0, dtype=np.int32), np.zeros(1, dtype=np.int64))

    def ids(self, texts: Sequence[bytes]) -> tuple[Ids, Ints]:
        """Encode texts in UTF-8.

        Returns:
            int32, the ids, one after the other; int64 [texts], where those of each end.
        """
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
            learned = self._learn(different)
            rows, counts = words.rows[first[learned.order]], np.diff(learned.ends, prepend=0)
            found = np.empty_like(first)
            with self._lock:
                found[learned.order] = table.add(rows, learned.ids, counts)
            entries[new] = found[which]
        with self._lock:
            ids, ends = table.ids(entries)
        return ids, ends[words.ends - 1]


def bert_words(tokenizer: Tokenizer) -> WordLookup | None:
    """Return what knows the ids of texts as this tokenizer gives them; None if it is not BERT's.

    Args:
        tokenizer: One that pads and truncates nothing.
    """
    pipeline: dict[str, Any] = json.loads(tokenizer.to_str())
    kinds = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}
    if any((pipeline.get(part) or {}).get("type") != kind for part, kind in kinds.items()):
        return None
    added = pipeline.get("added_tokens", [])
    if any(char.isspace() for token in added for char in token["content"]):
        return None
    # Added tokens, as "[SEP]" is one, are looked for before anything else is done to a text; or, if they are
    # to be normalised, after that: they may be in any word.
    found = ["" if token["normalized"] else re.escape(token["content"]) for token in added]
    # Words to which the tokenizer does more than to make them small and to split them at ASCII's punctuation.
    awkward = re.compile("|".join(["[^!-~]", *found]).encode())
    lowercase = pipeline["normalizer"]["lowercase"]
    model = Tokenizer(tokenizer.model)
    model.pre_tokenizer = WhitespaceSplit()
    parts = WordLookup(lambda new: Learned(np.arange(len(new)), *_encode(model, new, join=True)))

    def learn(words: list[bytes]) -> Learned:
        plain: list[int] = []
        others: list[int] = []
        for i, word in enumerate(words):
            (others if awkward.search(word) else plain).append(i)
        joined = b"\n".join([words[i] for i in plain])
        apart = _set_apart(joined.lower() if lowercase else joined).split(b"\n")
        ids, ends = parts.ids(apart[: len(plain)])
        if others:
            other_ids, other_ends = _encode(tokenizer, [words[i] for i in others], join=False)
            ids, ends = np.concatenate([ids, other_ids]), np.concatenate([ends, len(ids) + other_ends])
        return Learned(np.array(plain + others, dtype=np.int64), ids, ends)

    return WordLookup(learn)


def _encode(tokenizer: Tokenizer, words: Sequence[bytes], *, join: bool) -> tuple[Ids, Ints]:
    """Encode words, some together, as an encoding of its own costs more than a word.

    Args:
        tokenizer: Where words are joined, one that splits at spaces and nowhere else.
        words: In UTF-8, one or more.
        join: Whether to give it words as a text, which is faster.

    Returns:
        int32, the ids, one after the other; int64 [words], where those of each end.
    """
    texts = [word.decode() for word in words]
    groups = [texts[i : i + _WORDS_TOGETHER] for i in range(0, len(texts), _WORDS_TOGETHER)]
    encodings = tokenizer.encode_batch(
        [" ".join(group) for group in groups] if join else groups,
        is_pretokenized=not join,
        add_special_tokens=False,
    )
    ids = [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]
    counts = [
        np.bincount(np.array(encoding.word_ids, dtype=np.int64), minlength=len(group))
        for group, encoding in zip(groups, encodings, strict=True)
    ]
    return np.concatenate(ids), np.concatenate(counts).cumsum()


def _set_apart(words: bytes) -> bytes:
    """Put a space before and behind each mark of ASCII's punctuation."""
    chars = np.frombuffer(words, dtype=np.uint8)
    marks = _IS_MARK[chars]
    times = 1 + 2 * marks
    spread = chars.repeat(times)
    middle = (times.cumsum() - 2)[marks]
    spread[middle - 1] = spread[middle + 1] = _SPACE
    return spread.tobytes()
