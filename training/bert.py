"""BERT's layers over a flat stream of tokens: no time goes to padding, and gradients flow.

A CPU is used by threads that take small batches from a queue, each with one torch thread: on few and
busy cores that is faster than every matrix product waiting for its slowest thread. A GPU takes large batches
one by one, in bfloat16 where autocast says so.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody reads
from tokenizers import Encoding
from torch import Tensor, nn


@dataclass(frozen=True)
class Stream:
    """Texts or pairs, one after the other.

    Attributes:
        ids: Token ids [tokens].
        types: Token types [tokens].
        places: Position of each token in its text [tokens].
        slots: Position of each token in a padded [texts * longest] array [tokens].
        firsts: Position of each text's first token in the stream [texts].
        mask: Which slots are filled [texts, 1, 1, longest].
    """

    ids: Tensor
    types: Tensor
    places: Tensor
    slots: Tensor
    firsts: Tensor
    mask: Tensor

    @classmethod
    def of(cls, encodings: Sequence[Encoding]) -> "Stream":
        """Lay encodings without padding one after the other."""
        lengths = torch.tensor([len(e.ids) for e in encodings])
        longest = int(lengths.max())
        filled = torch.arange(longest) < lengths[:, None]
        slots = filled.flatten().nonzero().squeeze(1)
        return cls(
            ids=torch.tensor([i for e in encodings for i in e.ids]),
            types=torch.tensor([i for e in encodings for i in e.type_ids]),
            places=slots % longest,
            slots=slots,
            firsts=lengths.cumsum(0) - lengths,
            mask=filled[:, None, None, :],
        )

    def to(self, device: torch.device) -> "Stream":
        """Return it on a device."""
        return Stream(*(getattr(self, field.name).to(device) for field in fields(self)))


def half_precision(device: torch.device) -> torch.autocast:
    """Return the context that runs products in bfloat16 on a GPU, and changes nothing on CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")


def embed(bert: Any, stream: Stream) -> Tensor:
    """Return embeddings [tokens, width]; they never learn."""
    e = bert.embeddings
    with torch.no_grad():
        words = e.word_embeddings(stream.ids) + e.position_embeddings(stream.places)
        embedded: Tensor = e.LayerNorm(words + e.token_type_embeddings(stream.types))
    return embedded


def run_layer(layer: Any, x: Tensor, stream: Stream) -> Tensor:
    """Return a layer's output [tokens, width]."""
    attention = layer.attention.self
    q, k, v = (
        _padded(part(x), stream, attention) for part in (attention.query, attention.key, attention.value)
    )
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=stream.mask)
    mixed = mixed.transpose(1, 2).flatten(2).flatten(0, 1).index_select(0, stream.slots)
    return _rest(layer, mixed, x)


def run_last_layer(layer: Any, x: Tensor, stream: Stream) -> Tensor:
    """Return a layer's output for the first token of each text alone [texts, width]: most of it is saved."""
    attention = layer.attention.self
    first = x.index_select(0, stream.firsts)
    k, v = (_padded(part(x), stream, attention) for part in (attention.key, attention.value))
    q = attention.query(first).view(len(first), 1, attention.num_attention_heads, -1).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=stream.mask)
    return _rest(layer, mixed.flatten(1), first)


def _padded(flat: Tensor, stream: Stream, attention: Any) -> Tensor:
    """[tokens, width] to [texts, heads, longest, head size]."""
    texts, longest = stream.mask.shape[0], stream.mask.shape[-1]
    slots = flat.new_zeros(texts * longest, flat.shape[1]).index_copy(0, stream.slots, flat)
    return slots.view(texts, longest, attention.num_attention_heads, -1).transpose(1, 2)


def _rest(layer: Any, mixed: Tensor, x: Tensor) -> Tensor:
    """Return what follows attention."""
    x = layer.attention.output(mixed, x)
    y: Tensor = layer.output(layer.intermediate(x), x)
    return y


def cross_encode(model: Any, stream: Stream) -> Tensor:
    """Return the logits [pairs] of a `BertForSequenceClassification`."""
    x = embed(model.bert, stream)
    *layers, last = model.bert.encoder.layer
    for layer in layers:
        x = run_layer(layer, x, stream)
    cls = run_last_layer(last, x, stream)
    with torch.autocast(cls.device.type, enabled=False):
        logits: Tensor = model.classifier(torch.tanh(model.bert.pooler.dense(cls.float()))).squeeze(-1)
    return logits


def encode_tokens(bert: Any, stream: Stream) -> Tensor:
    """Return the last layer's states [tokens, width] of a `BertModel`."""
    x = embed(bert, stream)
    for layer in bert.encoder.layer:
        x = run_layer(layer, x, stream)
    return x


def in_threads(work: Callable[[Any], Any], items: Sequence[Any], threads: int) -> Iterator[Any]:
    """Yield `work(item)` in order; idle threads take the next item."""
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, items)


def score_pairs(
    model: nn.Module, encodings: Sequence[Encoding], threads: int, at_once: int | None = None
) -> Tensor:
    """Return the logits of pairs in their order, on CPU, without gradients."""
    device = next(model.parameters()).device
    at_once = at_once or (16 if device.type == "cpu" else 256)
    order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids))
    parts = [order[i : i + at_once] for i in range(0, len(order), at_once)]

    def work(part: list[int]) -> Tensor:
        with torch.inference_mode(), half_precision(device):
            return cross_encode(model, Stream.of([encodings[i] for i in part]).to(device)).cpu()

    logits = torch.cat(list(in_threads(work, parts, threads)))
    return logits[torch.tensor(order).argsort()]
