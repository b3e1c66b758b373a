"""Run the notebooks and write their outputs into them.

`python notebooks/execute.py` runs all, `python notebooks/execute.py 03-choosing.ipynb` the named ones. Each
runs from a clean kernel of this interpreter, in its own folder, offline; no installed kernel is needed.
"""

import os
import sys
import time
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

from rerank_plugins import ScorerSettings
from rerank_plugins.scoring.loading import find_model

__all__ = ["NOTEBOOKS", "execute"]

HERE = Path(__file__).parent
NOTEBOOKS = tuple(sorted(HERE.glob("*.ipynb")))
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}
_SECONDS_A_CELL = 600


class _ThisInterpreter(AsyncKernelManager):
    """A kernel of the running interpreter, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="Python 3",
            language="python",
        )


def execute(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with new outputs, and without what changes from run to run for no reason.

    Its metadata say which bundled model made the outputs.

    Args:
        path: The notebook; it is not written to.

    Raises:
        nbclient.exceptions.CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_SECONDS_A_CELL,
        kernel_manager_class=_ThisInterpreter,
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    client.execute(env={**os.environ, **_OFFLINE})
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "bundled_model": find_model(ScorerSettings(model="bundled")).revision,
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def main(names: list[str]) -> None:
    """Execute in place."""
    for path in [HERE / name for name in names] or NOTEBOOKS:
        started = time.perf_counter()
        notebook = execute(path)
        path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
        print(f"{path.name}: {time.perf_counter() - started:.0f} s, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main(sys.argv[1:])
