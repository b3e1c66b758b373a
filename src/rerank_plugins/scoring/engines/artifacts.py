"""What engines make from a checkpoint and keep on disk: converted, quantised and compiled graphs."""

import atexit
import hashlib
import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_dir

__all__ = ["artifact", "default_folder", "fingerprint"]

logger = logging.getLogger(__name__)


def default_folder() -> Path:
    """Return the folder that is used unless `ScorerSettings.engine_cache_dir` names one."""
    return Path(user_cache_dir("rerank-plugins")) / "engines"


def fingerprint(folder: Path, *parts: str) -> str:
    """Return 32 hex digits that change with a checkpoint's weights and config, and with `parts`."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(folder.iterdir()):
        if path.name == "config.json" or path.suffix in {".safetensors", ".bin"}:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "blake2b").digest())
    digest.update("\0".join(parts).encode())
    return digest.hexdigest()


def artifact(root: str | None, key: str, make: Callable[[Path], None]) -> Path:
    """Return the folder that `make` filled for `key`, now or in an earlier process.

    Filled under another name and moved when complete, so that a crash leaves nothing half made and
    two processes may race. Where the cache's folder cannot be written to, a temporary one is used until the
    process ends, and the log says so.

    Args:
        root: Folder of the cache; None for `default_folder()`.
        key: A `fingerprint`.
        make: Fills the empty folder that it is given.
    """
    parent = Path(root) if root is not None else default_folder()
    target = parent / key
    if target.is_dir():
        return target
    try:
        parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=parent))
    except OSError as error:
        logger.warning("cannot write to %s (%s): made again in every process", parent, error)
        draft = Path(tempfile.mkdtemp(prefix="rerank-plugins-"))
        atexit.register(shutil.rmtree, draft, ignore_errors=True)
        make(draft)
        return draft
    try:
        make(draft)
        # mkdtemp's is private, and others may share the cache.
        draft.chmod(parent.stat().st_mode)
        draft.rename(target)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        if not target.is_dir():  # else another process was first
            raise
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return target
