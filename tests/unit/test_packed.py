"""The engine made for CUDA, on CPU: the same numbers as padded, in any company and any shape."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rerank_plugins.scoring.engines.attention import (
    PaddedAttention,
    Segments,
    VarlenAttention,
    choose_attention,
)
from rerank_plugins.scoring.engines.base import capturing, free_cached_memory
from rerank_plugins.scoring.engines.batches import Shape, pack
from rerank_plugins.scoring.engines.bert import BertNetwork
from rerank_plugins.scoring.engines.graphs import SHAPES, Graphs
from rerank_plugins.scoring.engines.operators import PLAIN, Operators
from rerank_plugins.scoring.engines.packed import PackedEngine
from rerank_plugins.scoring.engines.torch import TorchEngine
from rerank_plugins.scoring.family import FAMILY, FamilyModel
from rerank_plugins.scoring.loading import find_model, load_weights
from rerank_plugins.scoring.pairs import EncodedPairs
from rerank_plugins.settings import ScorerSettings

CPU = torch.device("cpu")


def pairs_of(lengths: Sequence[int], *, document_type: int = 1, seed: int = 0) -> EncodedPairs:
    """Make pairs of random words; each length counts [CLS] and two [SEP]."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    ids = rng.integers(1000, 30000, offsets[-1]).astype(np.int32)
    ids[offsets[:-1]] = 101
    boundaries = np.array([max(2, length // 3) for length in lengths], dtype=np.int32)
    none = np.zeros(len(lengths), dtype=bool)
    return EncodedPairs(
        ids=ids,
        offsets=offsets,
        boundaries=boundaries,
        document_type=document_type,
        document_tokens=np.array(lengths, dtype=np.int32) - boundaries - 1,
        truncated=none,
        query_truncated=none,
    )


def reference_varlen(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_starts: Tensor,
    k_starts: Tensor,
    longest_q: int,
    longest_k: int,
    *,
    scale: float | None = None,
) -> Tensor:
    """What torch's `varlen_attn` computes on CUDA, a segment at a time; what is nobody's is poison."""
    out = torch.full_like(q, float("nan"))
    for i in range(len(q_starts) - 1):
        mine, theirs = slice(q_starts[i], q_starts[i + 1]), slice(k_starts[i], k_starts[i + 1])
        assert q[mine].shape[0] <= longest_q
        assert k[theirs].shape[0] <= longest_k
        if k[theirs].shape[0] == 0:
            out[mine] = 0
            continue
        parts = (x.transpose(0, 1) for x in (q[mine], k[theirs], v[theirs]))
        out[mine] = torch.nn.functional.scaled_dot_product_attention(*parts, scale=scale).transpose(0, 1)
    return out


@pytest.fixture(params=["padded", "varlen"])
def attention(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable:
    if request.param == "padded":
        return PaddedAttention
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", reference_varlen)
    return VarlenAttention


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> Callable[[FamilyModel], BertNetwork]:
    checkpoint = request.getfixturevalue("checkpoint")

    def make(shape: FamilyModel) -> BertNetwork:
        found = find_model(ScorerSettings(model=str(checkpoint(shape))))
        return BertNetwork(found.config, load_weights(found.folder))

    return make


@pytest.mark.parametrize("shape", FAMILY, ids=lambda shape: shape.id.split("/")[-1])
@pytest.mark.parametrize("graphs", ["off", "lazy"])
def test_logits_equal_the_padded_engine(shape, graphs, network, attention) -> None:
    made = network(shape)
    pairs = pairs_of([40, 3, 17, 90, 17, 5])
    order = np.arange(len(pairs))
    expected = TorchEngine(made).forward(pairs, order)
    assert np.ptp(expected) > 0.1  # not all alike
    engine = PackedEngine(made, CPU, attention, graphs=graphs)
    assert engine.launch(pairs, order).collect() == pytest.approx(expected, abs=1e-4)
    # Alone, and in another order.
    shuffled = np.array([5, 0, 3])
    assert engine.launch(pairs, shuffled).collect() == pytest.approx(expected[shuffled], abs=1e-4)
    assert engine.launch(pairs, order[2:3]).collect() == pytest.approx(expected[2:3], abs=1e-4)


@given(lengths=st.lists(st.integers(3, 60), min_size=1, max_size=12), graphs=st.booleans())
@settings(max_examples=25)
def test_no_pair_sees_another(tiny_network, lengths, graphs) -> None:
    pairs = pairs_of(lengths, seed=sum(lengths))
    engine = PackedEngine(tiny_network, CPU, PaddedAttention, graphs="lazy" if graphs else "off")
    together = engine.launch(pairs, np.arange(len(pairs))).collect()
    alone = np.concatenate([engine.launch(pairs, np.array([i])).collect() for i in range(len(pairs))])
    assert together == pytest.approx(alone, abs=1e-4)


@pytest.fixture(scope="module")
def tiny_network(network) -> BertNetwork:
    return network(min(FAMILY, key=lambda shape: shape.parameters))


def test_a_model_without_token_types_has_none(tiny_network) -> None:
    pairs = pairs_of([9, 30], document_type=0)
    order = np.arange(2)
    expected = TorchEngine(tiny_network).forward(pairs, order)
    for graphs in ("off", "lazy"):
        engine = PackedEngine(tiny_network, CPU, PaddedAttention, graphs=graphs)
        assert engine.launch(pairs, order).collect() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("graphs", ["off", "lazy", "load"])
def test_a_model_with_one_token_type_has_no_other_to_look_up(checkpoint, graphs) -> None:
    found = find_model(ScorerSettings(model=str(checkpoint(min(FAMILY, key=lambda shape: shape.parameters)))))
    weights = dict(load_weights(found.folder))
    name = "bert.embeddings.token_type_embeddings.weight"
    weights[name] = weights[name][:1]
    made = BertNetwork(dict(found.config) | {"type_vocab_size": 1}, weights)
    pairs = pairs_of([9, 30], document_type=0)
    expected = TorchEngine(made).forward(pairs, np.arange(2))
    engine = PackedEngine(made, CPU, PaddedAttention, graphs=graphs)
    assert engine.launch(pairs, np.arange(2)).collect() == pytest.approx(expected, abs=1e-5)


def test_batches_are_planned_by_padded_tokens_where_attention_pads(tiny_network) -> None:
    assert PackedEngine(tiny_network, CPU, PaddedAttention).pads
    assert not PackedEngine(tiny_network, CPU, VarlenAttention).pads


def test_one_array_carries_a_batch() -> None:
    pairs = pairs_of([4, 3, 6])
    batch = pack(pairs, np.array([2, 1]), Shape(12, 4))
    ids, starts, boundaries = np.split(batch.array, [12, 17])
    assert ids.tolist() == [*pairs.pair_ids(2), *pairs.pair_ids(1), 0, 0, 0]
    assert starts.tolist() == [0, 6, 9, 9, 9]
    assert boundaries.tolist() == [2, 2, 0, 0]
    assert batch.longest == 6
    assert batch.array.dtype == np.int32
    assert pack(pairs, np.array([0])).shape == (4, 1)


def test_the_operators_it_is_given_are_used(tiny_network) -> None:
    called = []

    def look_up(*arguments: Any) -> Tensor:
        called.append("look_up")
        return PLAIN.look_up(*arguments)

    def feed_forward(*arguments: Any) -> Tensor:
        called.append("feed_forward")
        return PLAIN.feed_forward(*arguments)

    pairs = pairs_of([40, 3, 17])
    order = np.arange(len(pairs))
    expected = PackedEngine(tiny_network, CPU, PaddedAttention).launch(pairs, order).collect()
    engine = PackedEngine(tiny_network, CPU, PaddedAttention, operators=Operators(look_up, feed_forward))
    assert np.array_equal(engine.launch(pairs, order).collect(), expected)
    assert called == ["look_up"] + ["feed_forward"] * tiny_network.config.layers


def test_shapes_are_few_and_fit() -> None:
    assert len(SHAPES) <= 21
    for tokens, segments in [(1, 1), (256, 8), (257, 8), (3000, 20), (16384, 128)]:
        shape = Graphs.shape_for(Shape(tokens, segments))
        assert shape is not None
        assert shape.tokens >= tokens
        assert shape.segments >= segments
        assert shape.tokens < 2 * max(tokens, 256) or shape.tokens < 32 * segments
    assert Graphs.shape_for(Shape(16385, 1)) is None
    assert Graphs.shape_for(Shape(2000, 513)) is None


def test_each_shape_is_prepared_once_and_large_batches_not_at_all(tiny_network) -> None:
    engine = PackedEngine(tiny_network, CPU, PaddedAttention, graphs="lazy")
    for lengths in ([20, 30], [5], [100, 100], [300, 300, 300], [400] * 60):
        engine.launch(pairs_of(lengths), np.arange(len(lengths))).collect()
    assert engine._graphs.captured == 2  # 256 and 1,024 tokens; 24,000 have none
    loaded = PackedEngine(tiny_network, CPU, PaddedAttention, graphs="load")
    assert loaded._graphs.captured == len(SHAPES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_attention_is_chosen_by_device_and_precision(dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_attention(CPU, dtype, 32)[0] is PaddedAttention
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    kind, why = choose_attention(torch.device("cuda:0"), dtype, 32)
    assert kind is (PaddedAttention if dtype is torch.float32 else VarlenAttention), why
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    kind, why = choose_attention(torch.device("cuda:0"), dtype, 32)
    assert kind is PaddedAttention
    assert "half precision" in why or "8.0" in why


def test_attention_is_chosen_by_what_the_kernel_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda:0")
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, 0))
    assert choose_attention(cuda, torch.float16, 64)[0] is VarlenAttention
    for size in (26, 264):  # 26: TinyBERT with four layers
        kind, why = choose_attention(cuda, torch.float16, size)
        assert kind is PaddedAttention
        assert f"these have {size}" in why

    def old(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, return_aux=None): ...

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", old)
    kind, why = choose_attention(cuda, torch.float16, 64)
    assert kind is PaddedAttention
    assert "takes no scale" in why


def test_memory_is_given_back_when_no_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    freed: list[None] = []
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: freed.append(None))
    monkeypatch.setattr("rerank_plugins.scoring.engines.base._LONGEST_CAPTURE", 0.01)
    with capturing:
        free_cached_memory()
    assert not freed
    free_cached_memory()
    assert freed


def test_segments_know_their_tokens() -> None:
    segments = Segments(torch.tensor([0, 3, 5, 5, 5], dtype=torch.int32), 7, 4)
    assert segments.owners.tolist()[:5] == [0, 0, 0, 1, 1]
    assert segments.positions.tolist()[:5] == [0, 1, 2, 0, 1]
    assert segments.firsts.tolist() == [0, 3, 5, 5]
    assert all(0 <= owner < 4 for owner in segments.owners.tolist())
