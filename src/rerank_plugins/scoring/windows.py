"""Where a text too long for one pass is cut: windows of tokens that overlap, as spans of characters."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from tokenizers import Encoding

from rerank_plugins.scoring.protocol import Span

__all__ = ["Offsets", "plan_windows"]


@dataclass(frozen=True)
class Offsets:
    """Where the n tokens of a text lie in it. Neither starts nor ends ever go back.

    Attributes:
        starts: First character of each token, or of a later one that begins before it.
        ends: One past the last character of each token, or of an earlier one that ends after it.
        words: Positions of the tokens that begin a word, ascending; the first is 0.
    """

    starts: Sequence[int]
    ends: Sequence[int]
    words: Sequence[int]

    def __len__(self) -> int:
        return len(self.starts)

    @classmethod
    def of(cls, encoding: Encoding) -> Self:
        """Read them off an encoding that has at least one token."""
        starts, ends = zip(*encoding.offsets, strict=True)
        words = encoding.word_ids
        return cls(
            starts=list(accumulate(reversed(starts), min))[::-1],
            ends=list(accumulate(ends, max)),
            # A token without a word, such as a special one, stands by itself.
            words=[i for i, word in enumerate(words) if i == 0 or word is None or word != words[i - 1]],
        )


def plan_windows(offsets: Offsets, size: int, *, overlap: int, most: int | None) -> list[Span]:
    """Cut a text into windows that begin and end where words do.

    Only a word longer than a quarter of a window may be cut inside. Together the windows hold every token,
    unless `most` leaves out the last ones, and their number grows with the text's length, not faster.

    Args:
        offsets: Where the tokens lie, of a text with at least one.
        size: Tokens of a window at most, at least 1.
        overlap: Tokens that neighbours share at least, up to half of `size`.
        most: How many windows to make at most, at least 1; None: all.

    Returns:
        Characters of each window, from the text's start to its end.
    """
    overlap = min(overlap, size // 2)
    spans: list[Span] = []
    start = stop = 0
    while stop < len(offsets) and len(spans) != most:
        start = _cut(offsets.words, start, stop - overlap) if spans else 0
        end = start + size
        # Beyond the last window's end, or this one would add nothing.
        above = max(start + 3 * size // 4, stop)
        stop = _cut(offsets.words, above, end) if end < len(offsets) else len(offsets)
        spans.append((offsets.starts[start], offsets.ends[stop - 1]))
    return spans


def _cut(words: Sequence[int], above: int, at: int) -> int:
    """Return the last token that begins a word after `above` and not after `at`; `at` if none does."""
    last = words[bisect_right(words, at) - 1]
    return last if last > above else at
