"""`arrival`: answers for the tasks of an event loop, which is woken once for all that come together.

To wake a loop from another thread is a system call, in which Python's lock is let go: the engine's thread
would lose it to the loop's with the first answer that it has for it.
"""

import asyncio
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import ClassVar, TypeVar
from weakref import WeakKeyDictionary

__all__ = ["arrival"]

Answer = TypeVar("Answer")


async def arrival(answer: "Future[Answer]") -> Answer:
    """Wait for an answer without blocking the event loop.

    Raises:
        BaseException: What the answer has in place of a result.
    """
    loop = asyncio.get_running_loop()
    mail = _Mail.of(loop)
    came: asyncio.Future[None] = loop.create_future()

    def arrive() -> None:
        if not came.done():  # as when the task was cancelled
            came.set_result(None)

    answer.add_done_callback(lambda _: mail.add(arrive))
    await came
    return answer.result()


class _Mail:
    """What waits to be told to one event loop; lives as long as somebody waits there."""

    _all: ClassVar["WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Mail]]"] = WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._come: deque[Callable[[], None]] = deque()
        self._told = False

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> "_Mail":
        """Return a loop's; to be called in its thread."""
        known = cls._all.get(loop)
        mail = known() if known else None
        if mail is None:
            mail = cls(loop)
            cls._all[loop] = weakref.ref(mail)
        return mail

    def add(self, arrive: Callable[[], None]) -> None:
        """Let the loop call `arrive` soon; from any thread."""
        self._come.append(arrive)
        if not self._told:
            self._told = True
            with suppress(RuntimeError):  # it is closed, so nobody waits there
                self._loop.call_soon_threadsafe(self._take)

    def _take(self) -> None:
        self._told = False  # first: what comes from now on may come too late
        while self._come:
            self._come.popleft()()
