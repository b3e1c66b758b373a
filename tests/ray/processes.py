"""Ray's worker processes that this process started, to kill them as an accident would."""

import os
from pathlib import Path


def pids_of(name: str) -> list[int]:
    """Return the ids of worker processes whose name holds `name`, of the Ray that runs here and no other."""
    parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdigit()}
    return [
        pid
        for pid, parent in parents.items()
        if parents.get(parent) == os.getpid() and name in _command(pid)  # driver, raylet, worker
    ]


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
