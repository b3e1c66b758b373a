"""`Asking`: one request made until it succeeds, or fails for good. Retries, fail-over, errors."""

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from rerank_plugins.errors import RemoteError
from rerank_plugins.scoring.remote.dialects import DIALECTS
from rerank_plugins.scoring.remote.hosts import Hosts
from rerank_plugins.scoring.remote.settings import RemoteSettings
from rerank_plugins.scoring.remote.steps import Answer, Deadline, Pause, Send, Steps

__all__ = ["Asking", "TooLargeError"]

logger = logging.getLogger(__name__)

_WORTH_ANOTHER_TRY = frozenset({429, 500, 502, 503, 504})
_TOO_LARGE = 413
_MESSAGE_LENGTH = 200


class TooLargeError(RemoteError):
    """The server refused a request as too large."""


class _FailedAttemptError(Exception):
    """An attempt that may be worth another one."""

    def __init__(
        self, base: str, url: str, message: str, status: int | None = None, after: float | None = None
    ) -> None:
        super().__init__(message)
        self.base = base
        self.url = url
        self.status = status
        self.after = after


class Asking:
    """Asks one of several servers, again where that may help.

    Args:
        settings: Who, how often, and how long.
    """

    def __init__(self, settings: RemoteSettings) -> None:
        self._settings = settings
        path = DIALECTS[settings.dialect].path
        self._hosts = Hosts(tuple(_root(url, path) for url in settings.base_urls), settings.cooldown)
        growing = wait_exponential(multiplier=settings.backoff, max=settings.max_pause)
        self._backoff = growing + wait_random(0, settings.backoff)

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None, deadline: Deadline
    ) -> Steps[tuple[str, Answer, Any]]:
        """Ask until there is an answer in JSON.

        Returns:
            The URL that answered, the answer, and its JSON.

        Raises:
            TooLargeError: If a server says so.
            RemoteError: If a server refuses, or none answers in time.
        """
        pauses: list[float] = []
        attempts = Retrying(
            sleep=pauses.append,
            retry=retry_if_exception_type(_FailedAttemptError),
            stop=stop_after_attempt(self._settings.max_retries + 1) | stop_before_delay(deadline.left),
            wait=self._pause,
            before_sleep=self._log,
            reraise=True,
        )
        try:
            for attempt in attempts:
                if pauses:
                    yield Pause(pauses.pop())
                with attempt:
                    return (yield from self._attempt(method, path, body, deadline))
        except _FailedAttemptError as error:
            tries = attempts.statistics["attempt_number"]
            times = "1 attempt" if tries == 1 else f"{tries} attempts"
            if tries <= self._settings.max_retries:
                times += f" within the deadline of {self._settings.deadline:g} s"
            msg = f"no scores after {times}; last, {error.url}: {error}"
            raise RemoteError(msg, status=error.status, url=error.url) from error.__cause__
        raise AssertionError  # tenacity leaves its loop by an error only

    def _attempt(
        self, method: str, path: str, body: Mapping[str, Any] | None, deadline: Deadline
    ) -> Steps[tuple[str, Answer, Any]]:
        base = self._hosts.pick()
        url = base + path
        try:
            answer: Answer = yield Send(method, url, body, deadline)
        except httpx.PoolTimeout as error:  # says nothing about the server
            msg = "no connection became free in time; see max_concurrency and deadline"
            raise _FailedAttemptError(base, url, msg) from error
        except httpx.RequestError as error:
            self._hosts.failed(base, None)
            raise _FailedAttemptError(base, url, f"{type(error).__name__}: {error}") from error
        if answer.status in _WORTH_ANOTHER_TRY:
            after = _retry_after(answer.headers.get("retry-after"))
            self._hosts.failed(base, after)
            raise _FailedAttemptError(base, url, self.quote(answer), answer.status, after)
        if not 200 <= answer.status < 300:
            self._hosts.worked(base)
            kind = TooLargeError if answer.status == _TOO_LARGE else RemoteError
            msg = f"{url} refused: {self.quote(answer)}"
            raise kind(msg, status=answer.status, url=url)
        try:
            found = json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            # Half a reply looks like this where no length was sent, so that it may be worth another try.
            self._hosts.failed(base, None)
            msg = f"the reply is no JSON: {self.quote(answer)}"
            raise _FailedAttemptError(base, url, msg, answer.status) from error
        self._hosts.worked(base)
        return url, answer, found

    def _pause(self, state: RetryCallState) -> float:
        """Return how long to wait: not at all where another server is up."""
        error = state.outcome.exception() if state.outcome else None
        if self._hosts.another_is_up(getattr(error, "base", None)):
            return 0.0
        after = getattr(error, "after", None) or 0.0
        return min(max(after, self._backoff(state)), self._settings.max_pause)

    def _log(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        url = getattr(error, "url", None)
        logger.info("asking again in %.2f s, after %s: %s", state.upcoming_sleep, url, error)

    def quote(self, answer: Answer) -> str:
        """Return a status and what the server said, shortened, without our secrets."""
        text = _message(answer.body)
        for secret in self._settings.secrets:
            text = text.replace(secret, "***") if secret else text
        short = text if len(text) <= _MESSAGE_LENGTH else f"{text[:_MESSAGE_LENGTH]}..."
        return f"{answer.status} {short}".strip()


def _root(base: str, path: str) -> str:
    """Return what a dialect's paths go below, of a base URL that may hold the start of one: `.../v1`."""
    parts = path.strip("/").split("/")
    for count in range(len(parts), 0, -1):
        start = "/" + "/".join(parts[:count])
        if base.endswith(start):
            return base.removesuffix(start)
    return base


def _retry_after(value: str | None) -> float | None:
    """Return the seconds that a Retry-After header, seconds or a date, asks for; None if it says nothing."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return max(seconds, 0.0) if seconds < float("inf") else None


def _message(body: bytes) -> str:
    """Find the sentence in an error's body, in the shape of any dialect; else take the body."""
    text = " ".join(body.decode("utf-8", "replace").split())
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return text
    for _ in range(4):
        if isinstance(found, list) and found:
            found = found[0]
        elif isinstance(found, Mapping):
            found = next((found[k] for k in ("message", "detail", "error", "msg") if k in found), None)
    return found if isinstance(found, str) else text
