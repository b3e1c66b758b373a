"""The BERT cross-encoder as a torch module: the family's weights, and only the work the score needs.

What differs from the stock model, with equal results (H is the hidden size; a layer costs 12 H^2
multiplications per token besides attention):

- Q, K and V come from one matmul.
- Only [CLS] feeds the head, so the last layer runs for [CLS] alone. Its keys and values are never
  computed: q (W_k x) = (W_k^T q) x and sum p (W_v x) = W_v (sum p x), so one small product per pair and
  head takes the place of 2 H^2 per token. The key's bias shifts all scores of a softmax alike and drops
  out; the value's passes through, as the weights sum to one.
- The pooler and the classifier run in float32 whatever the body's precision.

Per token that leaves 12 of 24 H^2 with two layers, 36 of 48 with four, 60 of 72 with six. (The first
layer's Q, K and V are linear in word, place and the norm's scale and could be looked up; measured on two
layers that is 15 per cent faster for three times the memory, and was left out.)

Architecture: Devlin et al., 2019, "BERT: Pre-training of Deep Bidirectional Transformers".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the name everybody reads
from torch import Tensor, nn

from rerank_plugins.errors import ModelFormatError

__all__ = ["BertConfig", "BertEmbeddings", "BertEncoder", "BertLayer", "BertNetwork"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}

_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"),
    *("intermediate_size", "max_position_embeddings"),
)


@dataclass(frozen=True)
class BertConfig:
    """The part of a checkpoint's `config.json` that shapes the forward pass."""

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int
    type_vocab_size: int
    activation: str
    eps: float
    pad_id: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "BertConfig":
        """Read it from a parsed `config.json`.

        Raises:
            ModelFormatError: If a field is missing, or a size cannot be.
        """
        try:
            sizes = {name: config[name] for name in _SIZES}
            if any(type(size) is not int or size < 1 for size in sizes.values()):
                msg = f"the sizes in config.json of a BERT model must be integers >= 1, but are {sizes}"
                raise ModelFormatError(msg)
            if sizes["hidden_size"] % sizes["num_attention_heads"]:
                msg = f"hidden_size must be a multiple of num_attention_heads, but config.json has {sizes}"
                raise ModelFormatError(msg)
            return cls(
                vocab_size=config["vocab_size"],
                hidden_size=config["hidden_size"],
                layers=config["num_hidden_layers"],
                heads=config["num_attention_heads"],
                intermediate_size=config["intermediate_size"],
                max_positions=config["max_position_embeddings"],
                type_vocab_size=config.get("type_vocab_size", 2),
                activation=config.get("hidden_act", "gelu"),
                eps=config.get("layer_norm_eps", 1e-12),
                pad_id=config.get("pad_token_id") or 0,
            )
        except KeyError as error:
            msg = f"config.json of a BERT model must have {error}, but it has {sorted(config)}"
            raise ModelFormatError(msg) from None

    @staticmethod
    def why_unsupported(config: Mapping[str, Any]) -> str | None:
        """Say why `BertNetwork` cannot run a checkpoint, or None if it can."""
        if config.get("model_type") != "bert":
            return f"model_type is {config.get('model_type')!r}, not 'bert'"
        if config.get("position_embedding_type", "absolute") != "absolute":
            return f"position_embedding_type is {config['position_embedding_type']!r}"
        if config.get("hidden_act", "gelu") not in _ACTIVATIONS:
            return f"hidden_act is {config['hidden_act']!r}"
        return None


class BertNetwork(nn.Module):
    """A `BertForSequenceClassification` with one logit, for inference: an encoder and a head.

    Args:
        config: The parsed `config.json`.
        weights: float32 tensors under the names transformers gives them.
        dtype: Precision of the encoder; the head is float32.

    Raises:
        ModelFormatError: If a weight is missing or has another shape than the config says.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.config = BertConfig.of(config)
        reader = _WeightReader(weights)
        self.encoder = BertEncoder(reader, self.config).to(dtype)
        self.head = _Head(reader, self.config.hidden_size)
        self.requires_grad_(requires_grad=False).eval()

    @property
    def memory(self) -> int:
        """Bytes held by the weights."""
        return sum(part.nbytes for part in self.state_dict().values())

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor) -> Tensor:
        """Return float32 logits [batch, 1]; the arguments are the encoder's."""
        logits: Tensor = self.head(self.encoder(input_ids, attention_mask, token_type_ids))
        return logits


class BertEncoder(nn.Module):
    """Token ids to the last hidden state of [CLS]."""

    def __init__(self, reader: "_WeightReader", c: BertConfig) -> None:
        super().__init__()
        *names, last = [f"bert.encoder.layer.{i}." for i in range(c.layers)]
        self.embeddings = BertEmbeddings(reader, c)
        self.layers = nn.ModuleList(BertLayer(reader, name, c) for name in names)
        self.last = _ClsLayer(reader, last, c)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None, token_type_ids: Tensor) -> Tensor:
        """Return [batch, hidden], in the encoder's precision.

        Args:
            input_ids: int64 [batch, length].
            attention_mask: int64 or bool [batch, length], nonzero where there is a token; None if
                nothing is padded.
            token_type_ids: int64 [batch, length].
        """
        x = self.embeddings(input_ids, token_type_ids)
        bias = None
        if attention_mask is not None:  # added to the scores before the softmax
            lowest = torch.finfo(x.dtype).min
            bias = torch.where(attention_mask.bool(), 0.0, lowest).to(x.dtype)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        cls: Tensor = self.last(x, bias)
        return cls


class _Head(nn.Module):
    """Pooler and classifier, in float32."""

    def __init__(self, reader: "_WeightReader", hidden: int) -> None:
        super().__init__()
        self.pooler = reader.linear("bert.pooler.dense", hidden, hidden)
        self.classifier = reader.linear("classifier", 1, hidden)

    def forward(self, cls: Tensor) -> Tensor:
        """Return float32 logits [batch, 1]."""
        logits: Tensor = self.classifier(torch.tanh(self.pooler(cls.float())))
        return logits


class BertLayer(nn.Module):
    """One encoder layer, post-norm."""

    def __init__(self, reader: "_WeightReader", name: str, c: BertConfig) -> None:
        super().__init__()
        h = c.hidden_size
        self.heads = c.heads
        self.activation = _ACTIVATIONS[c.activation]
        qkv = [reader.linear(f"{name}attention.self.{part}", h, h) for part in ("query", "key", "value")]
        self.qkv = _linear(torch.cat([part.weight for part in qkv]), torch.cat([part.bias for part in qkv]))
        self.out = reader.linear(f"{name}attention.output.dense", h, h)
        self.attention_norm = reader.norm(f"{name}attention.output.LayerNorm", h, c.eps)
        self.up = reader.linear(f"{name}intermediate.dense", c.intermediate_size, h)
        self.down = reader.linear(f"{name}output.dense", h, c.intermediate_size)
        self.output_norm = reader.norm(f"{name}output.LayerNorm", h, c.eps)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return [batch, length, hidden]."""
        q, k, v = (self._split(part) for part in self.qkv(x).chunk(3, dim=-1))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.feed_forward(x, mixed.transpose(1, 2).flatten(2))

    def feed_forward(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Return what follows attention, for any number of tokens."""
        x = self.attention_norm(x + self.out(mixed))
        y: Tensor = self.output_norm(x + self.down(self.activation(self.up(x))))
        return y

    def _split(self, x: Tensor) -> Tensor:
        """[batch, length, hidden] to [batch, heads, length, head size]."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)


class _ClsLayer(BertLayer):
    """The last layer, for [CLS] alone, with keys and values absorbed into query and output."""

    key: Tensor
    value: Tensor
    value_bias: Tensor

    def __init__(self, reader: "_WeightReader", name: str, c: BertConfig) -> None:
        super().__init__(reader, name, c)
        size = c.hidden_size // c.heads
        q, k, v = self.qkv.weight.data.chunk(3)
        q_bias, _, v_bias = self.qkv.bias.data.chunk(3)
        del self.qkv  # taken apart here
        scale = size**-0.5
        self.query = _linear(q * scale, q_bias * scale)
        self.register_buffer("key", k.view(c.heads, size, -1).contiguous())
        self.register_buffer("value", v.view(c.heads, size, -1).transpose(1, 2).contiguous())
        self.register_buffer("value_bias", v_bias.clone())

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """Return [batch, hidden], the last hidden state of [CLS]."""
        cls = x[:, 0]
        query = self.query(cls).view(-1, self.heads, self.key.shape[1]).transpose(0, 1)
        queries = torch.matmul(query, self.key).transpose(0, 1)  # [batch, heads, hidden]
        scores = torch.matmul(queries, x.transpose(1, 2))  # [batch, heads, length]
        if bias is not None:
            scores = scores + bias[:, 0]
        mixed = torch.matmul(scores.softmax(-1), x).transpose(0, 1)  # [heads, batch, hidden]
        values = torch.matmul(mixed, self.value).transpose(0, 1).flatten(1)
        return self.feed_forward(cls, values + self.value_bias)


class BertEmbeddings(nn.Module):
    """Word, position and token type, normed."""

    words: Tensor
    places: Tensor

    def __init__(self, reader: "_WeightReader", c: BertConfig) -> None:
        super().__init__()
        names = "bert.embeddings."
        self.max_positions = c.max_positions
        positions = reader.tensor(names + "position_embeddings.weight", c.max_positions, c.hidden_size)
        types = reader.tensor(names + "token_type_embeddings.weight", c.type_vocab_size, c.hidden_size)
        self.register_buffer(
            "words", reader.tensor(names + "word_embeddings.weight", c.vocab_size, c.hidden_size)
        )
        # [types * positions, hidden]: what a token adds besides its word is known in advance.
        self.register_buffer("places", (types[:, None] + positions[None]).flatten(0, 1))
        self.norm = reader.norm(names + "LayerNorm", c.hidden_size, c.eps)

    def forward(self, ids: Tensor, types: Tensor) -> Tensor:
        """Return [batch, length, hidden]."""
        return self.look_up(
            ids, types * self.max_positions + torch.arange(types.shape[1], device=types.device)
        )

    def look_up(self, ids: Tensor, rows: Tensor) -> Tensor:
        """Return [..., hidden] of word ids and rows of `places`."""
        x: Tensor = self.norm(F.embedding(ids, self.words) + F.embedding(rows, self.places))
        return x


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
    return layer


class _WeightReader:
    """Takes weights out by name, checked."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._weights = weights

    def tensor(self, name: str, *shape: int) -> Tensor:
        found = self._weights.get(name)
        if found is None:
            msg = f"the weights must have {name}, but it is missing; is this a cross-encoder?"
            raise ModelFormatError(msg)
        if tuple(found.shape) != shape:
            msg = f"{name} must have shape {shape} by config.json, but got {tuple(found.shape)}"
            raise ModelFormatError(msg)
        return found.float()

    def linear(self, name: str, rows: int, columns: int) -> nn.Linear:
        return _linear(self.tensor(f"{name}.weight", rows, columns), self.tensor(f"{name}.bias", rows))

    def norm(self, name: str, size: int, eps: float) -> nn.LayerNorm:
        norm = nn.LayerNorm(size, eps=eps, device="meta")
        norm.weight = nn.Parameter(self.tensor(f"{name}.weight", size))
        norm.bias = nn.Parameter(self.tensor(f"{name}.bias", size))
        return norm
