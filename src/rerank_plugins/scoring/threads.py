"""How many threads this process computes with, where it shares the machine with others of its kind."""

import os

__all__ = ["limit_threads"]


def limit_threads(threads: int) -> None:
    """Compute with so many threads; call it before a model is loaded.

    All engines go by torch's number, and the tokeniser by rayon's. Without this each process takes all
    cores, and processes beside each other spend their time waiting for one another.

    Args:
        threads: At least 1.
    """
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    import torch

    torch.set_num_threads(threads)
