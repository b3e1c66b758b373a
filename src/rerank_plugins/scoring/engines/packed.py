"""Our BERT on a device of its own: no padding, no waiting for the host. Made for CUDA.

A batch is one flat stream of token ids with the segments' starts: linears run over the stream, attention
within segments. It crosses to the device in one copy from pinned memory, while the batch before is worked
on, and comes back in one. Small batches, whose time is that of launching kernels, are replayed as CUDA
graphs.

The logic is that of any device and runs on CPU in the tests; streams, events and graphs have no
counterpart there.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import ClassVar, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody reads
from numpy.typing import NDArray
from torch import Tensor, nn

from rerank_plugins.scoring.engines.attention import Attention, PaddedAttention, Segments
from rerank_plugins.scoring.engines.base import Launched, free_cached_memory
from rerank_plugins.scoring.engines.batches import PackedBatch, Shape, pack
from rerank_plugins.scoring.engines.bert import BertLayer, BertNetwork
from rerank_plugins.scoring.engines.graphs import SHAPES, Graphs
from rerank_plugins.scoring.engines.operators import PLAIN, Operators
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["PackedEngine", "PackedNetwork"]


class PackedNetwork(nn.Module):
    """A `BertNetwork` over packed batches: the same weights, shared, and the same numbers.

    Args:
        network: The network; its layers are used as they are. In the last layer keys and values are computed:
            absorbing them pays where batches are padded, here it would need the queries once a token.
        attention: Makes the attention of a batch.
        operators: What surrounds attention.
    """

    keys_values: Tensor

    def __init__(
        self,
        network: BertNetwork,
        attention: Callable[[Segments], Attention],
        operators: Operators = PLAIN,
    ) -> None:
        super().__init__()
        self._network = network
        self._attend = attention
        self._operators = operators
        last = network.encoder.last
        values = last.value.transpose(1, 2)
        self.register_buffer("keys_values", torch.cat([last.key, values]).flatten(0, 1).contiguous())

    def forward(self, array: Tensor, shape: Shape, longest: int) -> Tensor:
        """Return float32 logits [segments] of a `PackedBatch`'s array on the device."""
        ids, starts, boundaries = torch.split(array, [shape.tokens, shape.segments + 1, shape.segments])
        segments = Segments(starts, shape.tokens, longest)
        attention = self._attend(segments)
        encoder = self._network.encoder
        places = encoder.embeddings.max_positions
        types = segments.positions >= boundaries[segments.owners]
        rows = types * places + segments.positions
        # What is nobody's token may be anywhere.
        rows = rows.clamp(max=len(encoder.embeddings.places) - 1)
        x = self._operators.look_up(encoder.embeddings, ids, rows)
        for layer in cast("Iterable[BertLayer]", encoder.layers):
            # Queries, keys and values have no names, which would keep them in memory to the layer's end.
            mixed = attention.all(*layer.qkv(x).view(len(x), 3, layer.heads, -1).unbind(1))
            x = self._operators.feed_forward(layer, x, mixed.flatten(1))
        logits: Tensor = self._network.head(self._last(x, segments, attention)).squeeze(-1)
        return logits

    def _last(self, x: Tensor, segments: Segments, attention: Attention) -> Tensor:
        """Return [segments, hidden]: the last layer, for [CLS] alone."""
        layer = self._network.encoder.last
        cls = x[segments.firsts]
        q = layer.query(cls).view(len(cls), layer.heads, -1)
        k, v = F.linear(x, self.keys_values).view(len(x), 2, layer.heads, -1).unbind(1)
        # The key's bias drops out of the softmax, and the value's passes through it.
        mixed = attention.firsts(q, k, v).flatten(1) + layer.value_bias
        return self._operators.feed_forward(layer, cls, mixed)


class PackedEngine:
    """Runs a `BertNetwork` on packed batches.

    Args:
        network: The network, in its precision; moved to `device`.
        device: Where to run.
        attention: Makes the attention of a batch; see `choose_attention`.
        graphs: `"lazy"` captures a shape when it is first needed, `"load"` all of them now, `"off"` none.
            Needs `VarlenAttention`: the other's shapes depend on the batch.
        operators: What surrounds attention; see `choose_operators`.
    """

    name = "torch"

    def __init__(
        self,
        network: BertNetwork,
        device: torch.device,
        attention: Callable[[Segments], Attention],
        *,
        graphs: str = "off",
        operators: Operators = PLAIN,
    ) -> None:
        # Where attention pads, a batch's memory goes by its padded tokens, and so must its plan.
        self.pads = attention is PaddedAttention
        self._network = PackedNetwork(network, attention, operators).to(device)
        self._weights: int = sum(part.nbytes for part in self._network.state_dict().values())
        self._streams = _Streams.take(device) if device.type == "cuda" else None
        self.ahead = 1 if self._streams else 0
        self._graphs: Graphs | None = None
        if graphs != "off":
            stream = self._streams.capture if self._streams else None
            self._graphs = Graphs(self._network, device, network.config.max_positions, stream)
            if graphs == "load":
                with self._streams.compute() if self._streams else nullcontext():
                    self._graphs.capture_all()

    @property
    def memory(self) -> int:
        """Bytes held by the weights, and by the graphs that are captured."""
        captured = 0 if self._graphs is None else self._graphs.memory
        return self._weights + captured

    @property
    def at_once(self) -> Shape | None:
        """The largest batch for which there may be a graph."""
        return None if self._graphs is None else SHAPES[-1]

    def takes_at_once(self, pairs: EncodedPairs) -> bool:
        """Whether there is a graph for them; without one each thread needs a workspace of cuBLAS."""
        return self._graphs is not None and self._graphs.has(Shape(len(pairs.ids), len(pairs)))

    @torch.inference_mode()
    def launch(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> Launched:
        """Start on the pairs at `indices`, whose float32 logits [len(indices)] can be collected."""
        needed = Shape(int(pairs.lengths[indices].sum()), len(indices))
        shape = None if self._graphs is None else self._graphs.shape_for(needed)
        batch = pack(pairs, indices, shape)
        array = torch.from_numpy(batch.array)
        if self._streams is None:
            logits = self._run(array, batch, captured=shape is not None)
            answer: NDArray[np.float32] = logits[: len(indices)].numpy().copy()
            return Launched(lambda: answer)
        # torch's pinned memory comes from a cache, which keeps a block until its copy is through.
        array = array.pin_memory()
        with self._streams.compute():
            if shape is None:  # a graph's array is small: copying it costs less than fences between streams
                array = self._streams.to_device(array)
            logits = self._run(array, batch, captured=shape is not None)
            return self._streams.to_host(logits[: len(indices)])

    def _run(self, array: Tensor, batch: PackedBatch, *, captured: bool) -> Tensor:
        if captured and self._graphs is not None:
            return self._graphs.replay(array, batch.shape)
        logits: Tensor = self._network(array, batch.shape, batch.longest)
        return logits

    def close(self) -> None:
        """Free weights and graphs, and give cached device memory back."""
        streams = self._streams
        if streams:
            streams.finish()  # what a caller launched may still read the weights
        self.__dict__.clear()
        free_cached_memory()
        if streams:
            streams.give_back()


class _Streams:
    """An engine's CUDA streams: one copies the next large batch in, one computes, on one graphs are captured.

    Not run on CPU.
    """

    # Of closed engines, for the next ones: torch keeps cuBLAS's workspace, 32 MiB on Hopper, for every stream
    # that ever computed, and has 32 streams, after which new ones are old ones that may be in use.
    _spare: ClassVar[defaultdict[torch.device, list["_Streams"]]] = defaultdict(list)

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._compute = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._copy = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.capture = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    @classmethod
    def take(cls, device: torch.device) -> "_Streams":
        """Return streams that no other engine has."""
        try:
            streams = cls._spare[device].pop()
        except IndexError:
            streams = cls(device)
        # Weights were put there on another stream.
        streams._compute.wait_stream(torch.cuda.current_stream(device))
        return streams

    def give_back(self) -> None:
        """Leave them to the next engine."""
        self._spare[self._device].append(self)

    def finish(self) -> None:
        """Wait for all that was launched."""
        self._compute.synchronize()

    def compute(self) -> torch.cuda.StreamContext:
        return torch.cuda.stream(self._compute)

    def to_device(self, pinned: Tensor) -> Tensor:
        with torch.cuda.stream(self._copy):
            there = pinned.to(self._device, non_blocking=True)
        self._compute.wait_stream(self._copy)
        there.record_stream(self._compute)
        return there

    def to_host(self, logits: Tensor) -> Launched:
        here = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
        here.copy_(logits, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(self._compute)

        def collect() -> NDArray[np.float32]:
            done.synchronize()
            answer: NDArray[np.float32] = here.numpy().copy()
            return answer

        return Launched(collect, done.query)
