"""Any one-logit sequence classifier, through transformers: RoBERTa, DeBERTa, ELECTRA, ModernBERT ..."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.errors import MissingExtraError, ModelFormatError
from rerank_plugins.scoring.engines.base import PaddingEngine, free_cached_memory
from rerank_plugins.scoring.engines.batches import pad
from rerank_plugins.scoring.pairs import EncodedPairs

__all__ = ["TransformersEngine"]


class TransformersEngine(PaddingEngine):
    """`AutoModelForSequenceClassification` on padded token-budget batches.

    The body runs in `dtype`, what transformers puts on top of it in float32. Code from a checkpoint
    never runs.

    Args:
        folder: Folder with `config.json` and weights.
        device: Where to run.
        dtype: Precision of the model.

    Raises:
        MissingExtraError: If transformers is not installed.
        ModelFormatError: If the checkpoint has no trained head, or transformers cannot load it.
    """

    name = "transformers"

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype) -> None:
        model, missing = _load(folder, dtype)
        if missing:
            msg = (
                f"the checkpoint in {folder} must hold all weights of its classifier, but lacks "
                f"{sorted(missing)}; it is not a trained cross-encoder"
            )
            raise ModelFormatError(msg)
        self._device = device
        self._model = _with_float32_head(model).to(device).eval()
        self._takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
        self._pad_id = model.config.pad_token_id or 0
        self.memory = sum(weight.nbytes for weight in model.parameters())

    @torch.inference_mode()
    def forward(self, pairs: EncodedPairs, indices: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return float32 logits [len(indices)] of the pairs at `indices`."""
        batch = pad(pairs, indices, self._pad_id)
        ids, mask, token_types = batch.tensors(self._device)
        mask = torch.ones_like(ids) if mask is None else mask
        types = {"token_type_ids": token_types} if self._takes_types else {}
        logits = self._model(input_ids=ids, attention_mask=mask, **types).logits
        scores: NDArray[np.float32] = logits.float().squeeze(-1).cpu().numpy()
        return scores

    def close(self) -> None:
        """Free the weights, and give cached device memory back."""
        self.__dict__.clear()
        free_cached_memory()


def _with_float32_head(model: Any) -> Any:
    """Turn every module beside the body to float32, its inputs with it."""

    def cast(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(x.float() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)

    for name, module in model.named_children():
        if name != model.base_model_prefix:
            module.float().register_forward_pre_hook(cast)
    return model


def _load(folder: Path, dtype: torch.dtype) -> tuple[Any, list[str]]:
    """Return the model and the names of weights the checkpoint lacks."""
    try:
        from transformers import AutoModelForSequenceClassification
    except ImportError as error:
        msg = (
            "this architecture needs the transformers engine; "
            'install it with: pip install "rerank-plugins[transformers]"'
        )
        raise MissingExtraError(msg) from error
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever damaged files make of it
        msg = f"transformers cannot load the checkpoint in {folder}: {error}"
        raise ModelFormatError(msg) from error
    return model, list(report["missing_keys"])
