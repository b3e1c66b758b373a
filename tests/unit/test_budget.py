"""Tokens of a batch from the device's memory."""

import pytest
import torch

from rerank_plugins import InvalidInputError
from rerank_plugins.scoring.budget import cpu_batch_tokens, cuda_batch_tokens, token_bytes

MINILM = {"hidden_size": 384, "intermediate_size": 1536}
HALF = torch.float16


def budget(free: int, limit: int | None = None, weights: int = 0) -> int:
    return cuda_batch_tokens(MINILM, HALF, free=free, limit=limit, weights=weights, least=512)


def test_a_batch_fits_into_half_of_what_is_free() -> None:
    a_token = token_bytes(MINILM, HALF)
    assert budget(2000 * a_token) == 1000
    assert budget(10**12) == 65536
    assert token_bytes(MINILM, torch.float32) == 2 * a_token


def test_a_limit_holds_weights_and_batch() -> None:
    a_token = token_bytes(MINILM, HALF)
    assert budget(10**12, limit=10**6 + 600 * a_token, weights=10**6) == 600
    # What is not free cannot be used, whatever the limit.
    assert budget(700 * a_token, limit=10**12) == 700


def test_a_device_without_room_for_one_pair_is_refused_with_numbers() -> None:
    with pytest.raises(InvalidInputError, match=r"one pair of 512 tokens.*max_device_memory=1000"):
        budget(10**12, limit=1000)
    with pytest.raises(InvalidInputError, match="0 MB are free"):
        budget(1000)


def test_a_cpu_batch_fits_the_cache() -> None:
    assert cpu_batch_tokens(MINILM, threads=2) == 1024
    assert cpu_batch_tokens({"hidden_size": 128, "intermediate_size": 512}, threads=1) == 1536
    assert cpu_batch_tokens({"hidden_size": 4096}, threads=1) == 512
