"""`Hosts`: the base URLs, the first one that works first."""

import time

__all__ = ["Hosts"]


class Hosts:
    """Remembers which base URLs failed lately. Safe to share between threads.

    Args:
        urls: In order of preference.
        cooldown: Seconds that one is avoided after it failed.
    """

    def __init__(self, urls: tuple[str, ...], cooldown: float) -> None:
        self._cooldown = cooldown
        self._down_until = dict.fromkeys(urls, 0.0)

    def pick(self) -> str:
        """Return the first that works; if none does, the one that should be back first."""
        now = time.monotonic()
        return min(self._down_until, key=lambda url: max(self._down_until[url], now))

    def failed(self, url: str, retry_after: float | None) -> None:
        """Avoid one for a while, a shorter one if it says so itself."""
        seconds = self._cooldown if retry_after is None else min(retry_after, self._cooldown)
        self._down_until[url] = time.monotonic() + seconds

    def worked(self, url: str) -> None:
        """Use one again."""
        self._down_until[url] = 0.0

    def another_is_up(self, url: str | None) -> bool:
        """Whether one besides this did not fail lately."""
        now = time.monotonic()
        return any(until <= now for other, until in self._down_until.items() if other != url)
