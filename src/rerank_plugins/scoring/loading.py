"""Model name to verified files: family ids, other hub ids, local folders, and `"bundled"`.

What is checked before anything is scored: the config asks for exactly one logit, the weights hold a
trained head, the tokenizer is there and its ids fit the embedding table. Weights are read from
safetensors; an old checkpoint that has only `pytorch_model.bin` is read with `weights_only=True`,
which runs no code, and noted. Code from a checkpoint never runs. A folder whose weights have their SHA-256
beside them, as the bundled model and adapted ones do, is checked against it.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.implementations import BertWordPieceTokenizer  # type: ignore[attr-defined]
from torch import Tensor

from rerank_plugins.errors import ModelError, ModelFormatError, ModelNotFoundError
from rerank_plugins.inputs import shorten
from rerank_plugins.scoring import family
from rerank_plugins.settings import ScorerSettings

__all__ = ["BUNDLED", "ModelFiles", "canonical_name", "find_model", "load_weights"]

logger = logging.getLogger(__name__)

BUNDLED = "bundled"

_WANTED = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
_PICKLED = "pytorch_model.bin"
# Architectures whose positions start after the padding id, so that they have fewer than their number.
_OFFSET_POSITIONS = frozenset(
    {
        *("camembert", "data2vec-text", "ibert", "lilt", "longformer", "luke", "mpnet", "roberta"),
        *("roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod"),
    }
)
_DIGEST = "model.safetensors.sha256"  # as sha256sum writes and checks it


@dataclass(frozen=True)
class ModelFiles:
    """A checkpoint on disk whose config and tokenizer are checked.

    Attributes:
        model: Canonical hub id, folder, or `"bundled"`.
        revision: Commit on the hub; 12 digits of the weights' SHA-256 for a folder that has it; else None.
        folder: Where the files are.
        config: The parsed `config.json`.
        tokenizer: The checkpoint's tokenizer, without truncation and padding.
        max_length: Tokens of a pair at most, by config and tokenizer.
        notes: What the user should know of how it was loaded.
    """

    model: str
    revision: str | None
    folder: Path
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    max_length: int
    notes: dict[str, str] = field(default_factory=dict)


def canonical_name(model: str) -> str:
    """Return the one name under which all spellings of a model are known."""
    try:
        folder = Path(model).expanduser()
        if model != BUNDLED and folder.is_dir():
            return str(folder.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # too long, nobody's home, a zero
        msg = f"model must be a hub id, a folder or 'bundled', but got {shorten(model)}: {error}"
        raise ModelNotFoundError(msg) from error
    known = family.find(model)
    return known.id if known else model


def find_model(settings: ScorerSettings) -> ModelFiles:
    """Find a model's files, downloading them if need be, and check what does not need weights.

    Raises:
        ModelNotFoundError: If the model is nowhere to be had.
        ModelFormatError: If it is no one-logit cross-encoder.
    """
    model, revision, folder = _locate(settings)
    config = _read_json(folder / "config.json")
    _check_one_logit(config, folder)
    tokenizer = _load_tokenizer(folder, config)
    return ModelFiles(
        model=model,
        revision=revision,
        folder=folder,
        config=config,
        tokenizer=tokenizer,
        max_length=_max_length(config, folder),
        notes=_notes(folder, settings.revision if model in {BUNDLED, str(folder)} else None),
    )


def load_weights(folder: Path) -> dict[str, Tensor]:
    """Read all weights of a checkpoint as tensors on the CPU, floating ones in float32.

    A tensor `name` that comes with `name.scale` is int8 and stands for `int8 * scale`.

    Raises:
        ModelFormatError: If there are no weights, or a file is damaged.
    """
    paths = _safetensors(folder)
    try:
        if paths:
            stored = _tensors({name: t for path in paths for name, t in load_file(path).items()})
        elif (folder / _PICKLED).is_file():
            stored = _tensors(torch.load(folder / _PICKLED, map_location="cpu", weights_only=True))
        else:
            msg = f"{folder} must hold model.safetensors, but has {_listing(folder)}"
            raise ModelFormatError(msg)
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, ValueError, EOFError) as error:
        if isinstance(error, ModelError):
            raise
        msg = (
            f"the weights in {folder} cannot be read ({error}); the file is damaged, incomplete or holds "
            "more than tensors: delete it and fetch it again, from a source you trust"
        )
        raise ModelFormatError(msg) from error
    return _dequantise(stored)


def _safetensors(folder: Path) -> list[Path]:
    """Return the files of a checkpoint's weights: one, or its parts; none if it has none in this format."""
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))


def _tensors(stored: Any) -> Mapping[str, Tensor]:
    if isinstance(stored, Mapping) and all(isinstance(tensor, Tensor) for tensor in stored.values()):
        return stored
    raise ValueError("it must hold tensors by name, and nothing else")


def _dequantise(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(".scale") and name.removesuffix(".scale") in stored:
            continue
        scale = stored.get(f"{name}.scale")
        weights[name] = tensor.float() if scale is None else tensor.float() * scale
    return weights


def _locate(settings: ScorerSettings) -> tuple[str, str | None, Path]:
    """Return canonical name, revision and folder of the model that settings name."""
    if settings.model == BUNDLED:
        folder = Path(str(files("rerank_plugins") / "bundled" / "model"))
        return BUNDLED, _pinned(folder), folder
    name = canonical_name(settings.model)
    if Path(name).is_dir():
        return name, _pinned(Path(name)), Path(name)
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        msg = f"model must be a hub id, a folder or 'bundled', but there is no folder {Path(name).absolute()}"
        raise ModelNotFoundError(msg)
    known = family.find(name)
    revision = settings.revision or (known.revision if known else None)
    folder = _fetch(name, revision, settings)
    # The cache keeps every commit in a folder of its own name.
    commit = folder.name if folder.parent.name == "snapshots" else revision
    return name, commit, folder


def _pinned(folder: Path) -> str | None:
    """Return 12 digits of the weights' SHA-256 if it stands beside them, after checking it."""
    path = folder / _DIGEST
    if not path.is_file():
        return None
    wanted = next(iter(path.read_text(encoding="utf-8", errors="replace").split()), "")
    weights = folder / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest() if weights.is_file() else "no file"
    if found != wanted:
        msg = (
            f"{weights} must have the SHA-256 {wanted} of {_DIGEST}, but got {found}; it is damaged or was "
            f"changed: restore it, or delete {_DIGEST} if you changed it yourself"
        )
        raise ModelFormatError(msg)
    return found[:12]


def _fetch(name: str, revision: str | None, settings: ScorerSettings) -> Path:
    """Return the folder of a hub model, from the cache or the hub."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    def cached_or_fetched(patterns: tuple[str, ...], *, local: bool) -> Path:
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=settings.cache_dir,
                local_files_only=local,
                token=settings.token.get_secret_value() if settings.token else None,
                allow_patterns=list(patterns),
            )
        )

    def snapshot(*patterns: str) -> Path:
        try:
            return cached_or_fetched(patterns, local=settings.local_files_only)
        except (httpx.TransportError, OfflineModeIsEnabled):
            # For a pinned commit huggingface_hub 1.33 asks the hub which files it has, even if they are
            # cached, unless that list is cached too; where other versions or libraries filled it, it is not.
            return cached_or_fetched(patterns, local=True)

    try:
        folder = snapshot(*_WANTED)
        return folder if _safetensors(folder) else snapshot(*_WANTED, _PICKLED)
    except HFValidationError as error:
        msg = f"model must be a hub id, a folder or 'bundled', but got {name!r}: {error}"
        raise ModelNotFoundError(msg) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelNotFoundError(_not_found(name, revision, settings, error)) from error


def _not_found(name: str, revision: str | None, settings: ScorerSettings, error: Exception) -> str:
    from huggingface_hub import constants

    cache = settings.cache_dir or constants.HF_HUB_CACHE
    offline = settings.local_files_only or constants.HF_HUB_OFFLINE
    first_line = str(error).partition("\n")[0]
    return (
        f"model {name!r} (revision {revision or 'main'}) must be a local folder, in the hub cache, "
        f"or on the hub, but there is no folder {Path(settings.model).expanduser().absolute()}, "
        f"the cache {cache} does not hold it, and the hub "
        + ("was not asked (offline mode)" if offline else "could not provide it")
        + f" [{type(error).__name__}: {first_line}]. Ways out: download it once with "
        f"network (`hf download {name} --revision {revision or 'main'}`) and set local_files_only=True; "
        'give the path of a folder with its files; or use model="bundled", which needs no network'
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        msg = f"{path.parent} must hold {path.name}, but has {_listing(path.parent)}"
        raise ModelFormatError(msg) from None
    except ValueError as error:
        msg = f"{path} must be JSON, but cannot be parsed: {error}"
        raise ModelFormatError(msg) from error
    if not isinstance(content, dict):
        msg = f"{path} must hold a JSON object, but got {type(content).__name__}"
        raise ModelFormatError(msg)
    return content


def _listing(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.iterdir())) or "no files"


def _check_one_logit(config: Mapping[str, Any], folder: Path) -> None:
    architectures = config.get("architectures") or []
    if architectures and not any("SequenceClassification" in name for name in architectures):
        msg = (
            f"the checkpoint in {folder} must be a sequence classifier, but its architecture is "
            f"{', '.join(architectures)}; a bi-encoder or language model has no head to score with"
        )
        raise ModelFormatError(msg)
    labels = config.get("num_labels", len(config.get("id2label") or {0: "", 1: ""}))
    if labels != 1:
        msg = (
            f"the checkpoint in {folder} must have a head of 1 logit, but its config says {labels} "
            "labels; use a cross-encoder trained for ranking, such as the ms-marco family"
        )
        raise ModelFormatError(msg)


def _load_tokenizer(folder: Path, config: Mapping[str, Any]) -> Tokenizer:
    if (folder / "tokenizer.json").is_file():
        try:
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises bare Exception
            msg = f"{folder / 'tokenizer.json'} cannot be read: {error}"
            raise ModelFormatError(msg) from error
    elif config.get("model_type") == "bert" and (folder / "vocab.txt").is_file():
        tokenizer = _wordpiece(folder)
    else:
        msg = (
            f"{folder} must hold tokenizer.json (or, for BERT, vocab.txt), but has "
            f"{_listing(folder)}; save the tokenizer there with tokenizer.save_pretrained"
        )
        raise ModelFormatError(msg)
    # A file may bring truncation and padding along, which would cut texts unseen.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    size, rows = tokenizer.get_vocab_size(with_added_tokens=True), config.get("vocab_size")
    if rows is not None and size > rows:
        msg = (
            f"the tokenizer in {folder} must fit the model's {rows} embeddings, but has {size} "
            "tokens; it belongs to another checkpoint"
        )
        raise ModelFormatError(msg)
    return tokenizer


def _wordpiece(folder: Path) -> Tokenizer:
    """Build BERT's tokenizer from `vocab.txt`, for checkpoints older than `tokenizer.json`."""
    path = folder / "tokenizer_config.json"
    options = _read_json(path) if path.is_file() else {}
    try:
        built = BertWordPieceTokenizer(
            str(folder / "vocab.txt"),
            lowercase=options.get("do_lower_case", True),
            strip_accents=options.get("strip_accents"),
            handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        )
    except Exception as error:  # tokenizers raises bare Exception
        msg = f"{folder / 'vocab.txt'} is no WordPiece vocabulary: {error}"
        raise ModelFormatError(msg) from error
    return Tokenizer.from_str(built.to_str())


def _max_length(config: Mapping[str, Any], folder: Path) -> int:
    """Return the smaller of the model's positions and the tokenizer's limit."""
    path = folder / "tokenizer_config.json"
    limit = _read_json(path).get("model_max_length") if path.is_file() else None
    try:
        positions = int(config.get("max_position_embeddings") or 512)
        if config.get("model_type") in _OFFSET_POSITIONS:
            positions -= int(config.get("pad_token_id") or 0) + 1
        # transformers writes 1e30 for "no limit".
        return positions if limit is None else int(min(positions, limit))
    except (TypeError, ValueError) as error:
        msg = f"the lengths in {folder}'s config.json and tokenizer_config.json must be numbers: {error}"
        raise ModelFormatError(msg) from error


def _only_pickled(folder: Path) -> bool:
    return (folder / _PICKLED).is_file() and not _safetensors(folder)


def _notes(folder: Path, without_use: str | None) -> dict[str, str]:
    """Return what was done otherwise than one might think, and log it."""
    notes = {}
    if _only_pickled(folder):
        notes["weights"] = f"{_PICKLED} (no safetensors in this checkpoint), read with weights_only=True"
    if without_use is not None:
        notes["revision"] = f"{without_use!r} was asked for, which a folder does not have"
    for what, note in notes.items():
        logger.warning("%s: %s: %s", folder, what, note)
    return notes
