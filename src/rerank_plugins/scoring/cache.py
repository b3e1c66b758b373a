"""What is remembered between calls: token ids of texts, and, by choice, scores of pairs.

Keys are digests of contents, so no text is kept. Both caches forget what was used least recently, and
threads may share them.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Generic, TypeVar

from rerank_plugins.inputs import refuse_surrogates

__all__ = ["ContentCache", "digests"]

V = TypeVar("V")


def digests(texts: Iterable[str]) -> dict[str, bytes]:
    """Return 16 bytes for each text, the same in every process.

    Raises:
        InvalidInputError: If a text is not valid Unicode (holds a lone surrogate).
    """
    hashed = hashlib.blake2b
    different = dict.fromkeys(texts)
    try:
        return {text: hashed(text.encode(), digest_size=16).digest() for text in different}
    except UnicodeError:
        refuse_surrogates(different)
        raise


class ContentCache(Generic[V]):
    """A bounded map from digests to values.

    Our own, as `cachetools.LRUCache` does in Python, an item at a time, what `OrderedDict` does in C, and
    every text of every call passes through here.

    Args:
        capacity: The sum of `size` over all values that is kept at most; 0 keeps nothing.
        size: What a value counts for; None: one each.

    Attributes:
        used: How much of the capacity is taken.
    """

    def __init__(self, capacity: int, size: Callable[[V], int] | None = None) -> None:
        self._capacity = capacity
        self._size: Callable[[V], int] = size or (lambda _: 1)
        self._values: OrderedDict[bytes, V] = OrderedDict()
        self._lock = threading.Lock()
        self.used = 0

    def find(self, keys: Collection[bytes]) -> dict[bytes, V]:
        """Return what is known of `keys`."""
        values = self._values
        if not values:
            return {}
        with self._lock:
            found = {key: values[key] for key in keys if key in values}
            for key in found:
                values.move_to_end(key)
        return found

    def keep(self, items: Iterable[tuple[bytes, V]]) -> None:
        """Remember values; one that is larger than the whole cache is not."""
        if not self.enabled:
            return
        values, size = self._values, self._size
        with self._lock:
            for key, value in items:
                if size(value) > self._capacity:
                    continue
                if key in values:
                    self.used -= size(values.pop(key))
                values[key] = value
                self.used += size(value)
            while self.used > self._capacity:
                self.used -= size(values.popitem(last=False)[1])

    @property
    def enabled(self) -> bool:
        """Whether it keeps anything at all."""
        return bool(self._capacity)

    def __len__(self) -> int:
        return len(self._values)
