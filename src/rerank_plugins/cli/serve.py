"""`rerank-plugins serve` and `new-key`."""

import logging
import os
import sys
from pathlib import Path
from typing import Any

from rerank_plugins.errors import InvalidInputError, MissingExtraError

__all__ = ["add_key", "serve"]


def serve(
    server_options: dict[str, Any], scorer_options: dict[str, Any], rerank_options: dict[str, Any]
) -> None:
    """Serve until a signal; options that are None were not given."""
    try:
        from rerank_plugins.serving.logs import JsonFormatter
        from rerank_plugins.serving.models import ModelPool
        from rerank_plugins.serving.run import serve as run
        from rerank_plugins.serving.settings import ServerSettings
    except ImportError as error:
        raise _missing(error) from error

    settings = ServerSettings(**_given(server_options))
    settings.check_exposure()
    pool = ModelPool.from_settings(
        settings, scorer_options=_given(scorer_options), rerank_options=_given(rerank_options)
    )
    _log_to_stderr(JsonFormatter())
    try:
        run(settings, pool=pool)
    finally:
        pool.close()


def _log_to_stderr(formatter: logging.Formatter) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # A line for each file that is looked up on the hub is of no use here.
    logging.getLogger("httpx").setLevel(logging.WARNING)


def add_key(name: str, keys_file: Path | None) -> None:
    """Print a new key; its line goes to the keys file, or is printed too."""
    try:
        from rerank_plugins.serving.auth import new_key
    except ImportError as error:
        raise _missing(error) from error

    key, line = new_key(name)
    if keys_file is None:
        sys.stderr.write(f"{line}\n")
    else:
        _append(keys_file, name, line)
    sys.stdout.write(f"{key}\n")


def _append(path: Path, name: str, line: str) -> None:
    try:
        held = path.read_text() if path.exists() else ""
        if any(known.startswith(f"{name}:") for known in held.splitlines()):
            msg = f"{path} has a key named {name!r} already; remove that line, or choose another name"
            raise InvalidInputError(msg)
        # For the owner only, from the start.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
            file.write("" if held.endswith("\n") or not held else "\n")
            file.write(f"{line}\n")
    except OSError as error:
        msg = f"--keys-file must be a file that can be written, but {path} cannot: {error.strerror}"
        raise InvalidInputError(msg) from error


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _missing(error: ImportError) -> MissingExtraError:
    return MissingExtraError(
        f"serving needs a package that is not installed ({error}); "
        'install it with: pip install "rerank-plugins[serve]"'
    )
