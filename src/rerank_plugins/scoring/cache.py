"""What is remembered between calls: token ids of texts, and, by choice, scores of pairs.

Keys are digests of contents, so no text is kept. Both caches forget what was used least recently, and
threads may share them.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from cachetools import LRUCache

__all__ = ["ContentCache", "digest"]

V = TypeVar("V")


def digest(text: str) -> bytes:
    """Return 16 bytes for a text, the same in every process.

    Raises:
        UnicodeEncodeError: If the text is not valid Unicode.
    """
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class ContentCache(Generic[V]):
    """A bounded map from digests to values.

    Args:
        capacity: The sum of `size` over all values that is kept at most; 0 keeps nothing.
        size: What a value counts for; None: one each.
    """

    def __init__(self, capacity: int, size: Callable[[V], int] | None = None) -> None:
        self._values: LRUCache[bytes, V] = LRUCache(capacity, getsizeof=size)
        self._lock = threading.Lock()

    def find(self, keys: Sequence[bytes]) -> dict[bytes, V]:
        """Return what is known of `keys`."""
        if not self.enabled:
            return {}
        with self._lock:
            return {key: self._values[key] for key in keys if key in self._values}

    def keep(self, items: Iterable[tuple[bytes, V]]) -> None:
        """Remember values; one that is larger than the whole cache is not."""
        if not self.enabled:
            return
        with self._lock:
            for key, value in items:
                if self._values.getsizeof(value) <= self._values.maxsize:
                    self._values[key] = value

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._values.clear()

    @property
    def enabled(self) -> bool:
        """Whether it keeps anything at all."""
        return bool(self._values.maxsize)

    @property
    def used(self) -> int:
        """How much of the capacity is taken."""
        return int(self._values.currsize)

    def __len__(self) -> int:
        return len(self._values)
