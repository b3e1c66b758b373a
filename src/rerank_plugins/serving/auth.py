"""Bearer keys: made, stored as hashes, and compared in constant time."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from fastapi.security import HTTPBearer

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.settings import ServerSettings

__all__ = ["OPEN_PATHS", "Keys", "bearer", "new_key"]

# Says so in OpenAPI; keys are checked before any route is looked for.
bearer = HTTPBearer(auto_error=False, description="Needed if the server has keys.")

# What anyone may ask: is it up, and the status page, which holds nothing until it is given a key.
OPEN_PATHS = frozenset({"/", "/health", "/ready"})

_LINE = re.compile(r"(?P<name>[\w.@-]+):(?P<digest>[0-9a-fA-F]{64})", re.ASCII)


def _digest(key: str) -> bytes:
    # Keys are random, so one round is enough: there is nothing to guess from.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def new_key(name: str) -> tuple[str, str]:
    """Make a key.

    Returns:
        The key, for the client, and its line for the keys file, from which it cannot be had back.

    Raises:
        InvalidInputError: If the name has other characters than letters, digits and `._@-`.
    """
    key = f"rp-{secrets.token_urlsafe(32)}"
    line = f"{name}:{_digest(key).hex()}"
    if not _LINE.fullmatch(line):
        msg = f"a key's name must consist of letters, digits and . _ @ -, but got {name!r}"
        raise InvalidInputError(msg)
    return key, line


class Keys:
    """Whom a bearer key belongs to.

    Args:
        digests: SHA-256 of each key, by the name of who has it.
    """

    def __init__(self, digests: Mapping[str, bytes]) -> None:
        self._digests = dict(digests)

    @classmethod
    def of(cls, settings: ServerSettings) -> Self:
        """Read the keys that settings name.

        Raises:
            InvalidInputError: If the keys file cannot be read, a line is no `name:sha256`, or it names a
                `key-N` that is given beside it.
        """
        digests = {f"key-{i}": _digest(key.get_secret_value()) for i, key in enumerate(settings.keys, 1)}
        if settings.keys_file is not None:
            of_file = _read(settings.keys_file)
            if twice := sorted(digests.keys() & of_file.keys()):
                msg = f"{settings.keys_file} must not name {twice}: so keys of the environment are called"
                raise InvalidInputError(msg)
            digests |= of_file
        return cls(digests)

    def __len__(self) -> int:
        return len(self._digests)

    def owner(self, authorization: str | None) -> str | None:
        """Return who sent an `Authorization` header; None if nobody who is known."""
        scheme, _, key = (authorization or "").partition(" ")
        shown = _digest(key.strip())
        # Every key is compared, whatever matches, so that time tells nothing.
        owners = [name for name, known in self._digests.items() if hmac.compare_digest(known, shown)]
        return owners[0] if owners and scheme.lower() == "bearer" else None


def _read(path: Path) -> dict[str, bytes]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        msg = f"keys_file must be a readable file, but got {str(path)!r}: {error}"
        raise InvalidInputError(msg) from None
    digests: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _LINE.fullmatch(line.strip())
        if found is None or found["name"] in digests:
            # The line itself is not shown: it may be a key in clear.
            problem = "must be name:sha256" if found is None else "must have a name that no line before has"
            msg = f"{path}:{number} {problem}; make one with: rerank-plugins new-key NAME"
            raise InvalidInputError(msg)
        digests[found["name"]] = bytes.fromhex(found["digest"])
    if not digests:
        msg = f"keys_file must hold a key, but {str(path)!r} has none; make one: rerank-plugins new-key NAME"
        raise InvalidInputError(msg)
    return digests
