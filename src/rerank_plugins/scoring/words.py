"""`WordTable`: the token ids of words, for all words of many texts at once.

Strings, dicts and loops cost Python a few hundred nanoseconds a word, and hold its lock meanwhile. Here words
are rows of bytes, looked up in a hash table that is made of arrays: a tenth of that, and mostly without the
lock. Nothing is taken on trust to a hash: a row is compared as a whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["WordTable", "Words"]

# Bytes of a row: a word's UTF-8, the space behind it, and zeros; so no two words have the same row. Longer
# words do not fit, are seldom words, and seldom come back.
_WIDTH = 32
_LANES = _WIDTH // 8
_SPACE = ord(" ")
# By length with the space, a row of ones for each byte that is the word's.
_MASKS = (255 * (np.arange(_WIDTH) < np.arange(_WIDTH + 1)[:, None])).astype(np.uint8)
_MASK_ROWS = _MASKS.view(f"V{_WIDTH}").ravel()
_HALF = np.uint64(32)

Rows = NDArray[np.uint64]
Ints = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Words:
    """What stands between the spaces of some texts; tabs and ends of lines are spaces, too.

    Attributes:
        data: The texts in UTF-8, with a space before each and behind the last.
        spaces: int64 [n + 1], where the spaces are; word i stands between space i and the next.
        rows: uint64 [n, 4], each word with the space behind it, cut to 32 bytes.
        ends: int64 [texts], how many words there are up to the end of each text.
    """

    data: bytes
    spaces: Ints
    rows: Rows
    ends: Ints

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> Self:
        """Split texts in UTF-8; the empty string is a word, too."""
        data = b" ".join([b"", *texts, bytes(_WIDTH)])  # the zeros, as a row is read at every byte
        for space in b"\t\n\r":
            data = data.replace(bytes([space]), b" ")
        spaces = (np.frombuffer(data, dtype=np.uint8) == _SPACE).nonzero()[0]
        overlapping = np.ndarray(len(data) - _WIDTH, f"V{_WIDTH}", data, offset=1, strides=(1,))
        rows = _lanes(overlapping[spaces[:-1]])
        rows &= _lanes(_MASK_ROWS.take(spaces[1:] - spaces[:-1], mode="clip"))
        sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
        return cls(data, spaces, rows, spaces.searchsorted((sizes + 1).cumsum()))

    def distinct(self, which: Ints) -> tuple[list[bytes], Ints, Ints]:
        """Return the different words at `which`; where each comes first; for each of `which`, which it is."""
        numbers: dict[bytes, int] = {}
        data = self.data
        spans = zip(self.spaces[which].tolist(), self.spaces[which + 1].tolist(), strict=True)
        inverse = [numbers.setdefault(data[before + 1 : end], len(numbers)) for before, end in spans]
        found = np.array(inverse, dtype=np.int64)
        first = np.empty(len(numbers), dtype=np.int64)
        first[found[::-1]] = which[::-1]
        return list(numbers), first, found


class WordTable:
    """A hash table from rows to token ids, with linear probing; entry 0 is no word's.

    Not for several threads at once.

    Args:
        capacity: How many words can be found again at most; a power of two.

    Attributes:
        used: Entries, the first one included.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        # Half of the slots at most are taken, so that probing ends soon.
        self._slots = np.zeros(2 * capacity, dtype=np.int64)
        # Drawn anew for each table: who sends texts cannot know which words collide.
        drawn = np.random.default_rng().integers(2**63, size=_LANES + 1, dtype=np.uint64) * 2 + 1
        self._factors, self._mixer = drawn[:-1], drawn[-1]
        self._shift = np.uint64(64 - (2 * capacity - 1).bit_length())
        self._rows = np.zeros((capacity, _LANES), dtype=np.uint64)
        self._starts = np.zeros(capacity, dtype=np.int64)
        self._counts = np.zeros(capacity, dtype=np.int64)
        self._ids = np.zeros(0, dtype=np.int32)
        self._ids_used = 0
        self.used = 1

    @property
    def full(self) -> bool:
        """Whether no more words can be found again, or there are more ids than words that fit can have.

        Of a text without spaces, as Chinese has none, the ids are those of one word, and never looked up.
        """
        return self.used >= self._capacity or self._ids_used >= self._capacity * _WIDTH

    def find(self, rows: Rows) -> Ints:
        """Return int64 [n], the entry of each row; 0 where there is none, as for words that do not fit."""
        slots = self._slot(rows)
        entries = self._slots.take(slots)
        left = _differ(_lanes(_as_rows(self._rows).take(entries)), rows)
        while len(left) and len(left := left[entries[left] > 0]):
            slots[left] = self._next(slots[left])
            tried = self._slots[slots[left]]
            entries[left] = tried
            left = left[_differ(self._rows[tried], rows[left])]
        return entries

    def add(self, rows: Rows, ids: NDArray[np.int32], counts: Ints) -> Ints:
        """Add different words that are not there, and return their entries; who does not fit is not found.

        Args:
            rows: uint64 [n, 4].
            ids: int32, the ids of all, one after the other.
            counts: int64 [n], how many of them each word has.
        """
        entries = np.arange(self.used, self.used + len(rows))
        self.used += len(rows)
        self._rows = _grown(self._rows, self.used)
        self._starts = _grown(self._starts, self.used)
        self._counts = _grown(self._counts, self.used)
        self._ids = _grown(self._ids, self._ids_used + len(ids))
        self._ids[self._ids_used :][: len(ids)] = ids
        self._rows[entries], self._counts[entries] = rows, counts
        self._starts[entries] = self._ids_used + np.cumsum(counts) - counts
        self._ids_used += len(ids)
        fit = (rows.view(np.uint8) == _SPACE).any(axis=1)
        self._place(entries[fit & (entries < self._capacity)])
        return entries

    def ids(self, entries: Ints) -> tuple[NDArray[np.int32], Ints]:
        """Return the ids of words, one after the other, and int64 [n], where those of each end."""
        counts = self._counts.take(entries)
        ends = counts.cumsum()
        source = (self._starts.take(entries) - ends + counts).repeat(counts)
        source += np.arange(len(source))
        return self._ids.take(source), ends

    def early_half(self) -> "WordTable":
        """Return a table of what came first, as the frequent words do, and fills half of it."""
        kept = np.unique(self._slots)
        kept = kept[(kept > 0) & (kept < self._capacity // 2)]
        ids, _ = self.ids(kept)
        half = WordTable(self._capacity)
        half.add(self._rows[kept], ids, self._counts[kept])
        return half

    def _place(self, entries: Ints) -> None:
        slots = self._slot(self._rows[entries])
        while len(entries):
            free = self._slots[slots] == 0
            self._slots[slots[free]] = entries[free]  # of several that want one, the last gets it
            left = self._slots[slots] != entries
            entries, slots = entries[left], self._next(slots[left])

    def _slot(self, rows: Rows) -> Ints:
        """Multiply-shift hashing (Dietzfelbinger et al. 1997), twice, as many words are much alike."""
        sums = rows @ self._factors
        sums ^= sums >> _HALF
        sums *= self._mixer
        return (sums >> self._shift).view(np.int64)

    def _next(self, slots: Ints) -> Ints:
        return (slots + 1) % len(self._slots)


def _lanes(rows: NDArray[np.void]) -> Rows:
    return rows.view(np.uint64).reshape(-1, _LANES)


def _as_rows(lanes: Rows) -> NDArray[np.void]:
    """Return a view: rows as one item each are taken many times as fast."""
    return lanes.view(f"V{_WIDTH}").ravel()


def _differ(some: Rows, others: Rows) -> Ints:
    """Return where rows are not equal."""
    differ: NDArray[np.int32] = (some != others).view(np.int32).ravel()  # four bools are one number
    return differ.nonzero()[0]


def _grown(array: NDArray[Number], size: int) -> NDArray[Number]:
    """Return an array of this size or more that begins with `array`."""
    if size <= len(array):
        return array
    grown = np.zeros((max(size, 2 * len(array)), *array.shape[1:]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown
