"""Who is measured: our engines, and the libraries people would use instead, all on the same weights."""

import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from rerank_plugins.errors import InvalidInputError, RerankError
from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer
from rerank_plugins.scoring.loading import find_model, load_weights
from rerank_plugins.scoring.protocol import ScorerInfo
from rerank_plugins.settings import Dtype, EngineName, ScorerSettings

__all__ = [
    "PEERS",
    "Contestant",
    "PeerModel",
    "Skipped",
    "our_contestant",
    "peer_contestant",
    "write_checkpoint",
]

Score = Callable[[str, Any], NDArray[np.float32]]


@dataclass(frozen=True)
class Contestant:
    """One way to score.

    Attributes:
        name: As the report shows it.
        score: (query, documents) to raw logits, float32 [n].
        info: What ours loaded; None for peers.
        close: Frees it.
    """

    name: str
    score: Score
    info: ScorerInfo | None = None
    close: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class Skipped:
    """A contestant that cannot run here, and why."""

    name: str
    reason: str


def our_contestant(spec: str, model: str, *, device: str, token_cache: bool) -> Contestant | Skipped:
    """Return ours for `"engine:dtype"`, either of which may be `"auto"`.

    Without the token cache every text is tokenised, as the peers do.
    """
    engine, _, dtype = spec.partition(":")
    options: dict[str, Any] = {"engine": engine, "dtype": dtype or "auto", "device": device}
    if engine not in get_args(EngineName) or options["dtype"] not in get_args(Dtype):
        msg = f"--ours must be engine:dtype, for example openvino:float32, but got {spec!r}"
        raise InvalidInputError(msg)
    if not token_cache:
        options["token_cache_bytes"] = 0
    name = f"rerank-plugins {spec}"
    try:
        scorer = CrossEncoderScorer(model, **options)
    except RerankError as error:
        return Skipped(name, str(error))
    return Contestant(name, scorer.score, scorer.info, scorer.close)


def write_checkpoint(model: str, folder: Path) -> Path:
    """Write a model as a plain float32 Hugging Face folder, which every peer loads."""
    found = find_model(ScorerSettings(model=model))
    config = dict(found.config) | {"architectures": ["BertForSequenceClassification"], "num_labels": 1}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = {name: tensor.contiguous() for name, tensor in load_weights(found.folder).items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found.tokenizer.save(str(folder / "tokenizer.json"))
    options = {
        "tokenizer_class": "BertTokenizerFast",
        "do_lower_case": True,
        "model_max_length": found.max_length,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(options))
    return folder


@dataclass(frozen=True)
class PeerModel:
    """What a peer is made from.

    Attributes:
        folder: A checkpoint from `write_checkpoint`; exports are written beside it.
        device: `"cpu"` or `"cuda:N"`.
        calibration: Pairs for peers that quantise with calibration.
        batch_size: Pairs in a batch, of peers that have such a setting; None: their default.
    """

    folder: Path
    device: str = "cpu"
    calibration: Sequence[tuple[str, str]] = ()
    batch_size: int | None = None

    def need_cpu(self) -> None:
        """Refuse another device for a peer that is measured on CPU only."""
        if self.device != "cpu":
            msg = f"measured on CPU only, not on {self.device}"
            raise RuntimeError(msg)


def peer_contestant(name: str, model: PeerModel) -> Contestant | Skipped:
    """Return a peer by its name in `PEERS`, or why it cannot run."""
    if name not in PEERS:
        msg = f"--peer must be one of {sorted(PEERS)}, but got {name!r}"
        raise InvalidInputError(msg)
    # Other libraries in whatever version is there: any way they fail is a reason to skip, and is shown.
    try:
        return Contestant(name, PEERS[name](model))
    except Exception as error:  # noqa: BLE001
        lines = f"{type(error).__name__}: {error}".splitlines()
        return Skipped(name, lines[0][:300])


def _cross_encoder(folder: Path, device: str = "cpu", **options: Any) -> Any:
    from sentence_transformers import CrossEncoder

    return CrossEncoder(
        str(folder), device=device, activation_fn=torch.nn.Identity(), local_files_only=True, **options
    )


def _predict(encoder: Any, batch_size: int | None = None) -> Score:
    options = {"show_progress_bar": False} | ({"batch_size": batch_size} if batch_size else {})

    def score(query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        pairs = [(query, document) for document in documents]
        return np.asarray(encoder.predict(pairs, **options), dtype=np.float32)

    return score


def _st_torch(model: PeerModel, dtype: torch.dtype = torch.float32) -> Score:
    options = {"model_kwargs": {"dtype": dtype}} if dtype != torch.float32 else {}
    return _predict(_cross_encoder(model.folder, model.device, **options), model.batch_size)


def _st_bfloat16(model: PeerModel) -> Score:
    if model.device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise RuntimeError("this CPU has no bfloat16 instructions")
    return _st_torch(model, torch.bfloat16)


def _st_float16(model: PeerModel) -> Score:
    if model.device == "cpu":
        raise RuntimeError("float16 is not measured on CPU")
    return _st_torch(model, torch.float16)


def _st_onnx(model: PeerModel) -> Score:
    model.need_cpu()
    file = _onnx_file(model.folder)
    return _predict(_cross_encoder(model.folder, backend="onnx", model_kwargs={"file_name": file}))


def _onnx_file(folder: Path) -> str:
    """Export once with sentence-transformers' own means; return the file's name within the folder."""
    if not (folder / "onnx" / "model.onnx").exists():
        _cross_encoder(folder, backend="onnx", model_kwargs={"export": True}).save_pretrained(str(folder))
    return "onnx/model.onnx"


def _st_onnx_int8(model: PeerModel) -> Score:
    from sentence_transformers import export_dynamic_quantized_onnx_model

    model.need_cpu()
    folder = model.folder
    isa = "avx512_vnni" if torch.cpu._is_vnni_supported() else "avx2"
    exact = _cross_encoder(folder, backend="onnx", model_kwargs={"file_name": _onnx_file(folder)})
    export_dynamic_quantized_onnx_model(exact, isa, str(folder))
    quantised = f"onnx/model_qint8_{isa}.onnx" if isa != "avx2" else "onnx/model_quint8_avx2.onnx"
    return _predict(_cross_encoder(folder, backend="onnx", model_kwargs={"file_name": quantised}))


def _st_openvino(model: PeerModel) -> Score:
    model.need_cpu()
    options = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    return _predict(_cross_encoder(model.folder, backend="openvino", model_kwargs=options))


def _st_openvino_int8(peer: PeerModel) -> Score:
    """Quantise as sentence-transformers' export does: optimum-intel, static, its defaults."""
    from datasets import Dataset
    from optimum.intel import OVConfig, OVModelForSequenceClassification, OVQuantizationConfig, OVQuantizer
    from transformers import AutoTokenizer

    peer.need_cpu()
    folder = peer.folder
    target = folder / "openvino-int8"
    if not target.exists():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = OVModelForSequenceClassification.from_pretrained(folder, export=True, compile=False)
        queries, documents = zip(*peer.calibration, strict=True)
        rows = tokenizer(
            list(queries), list(documents), padding="max_length", truncation=True, max_length=256
        )
        quantizer = OVQuantizer.from_pretrained(model)
        quantizer.quantize(
            calibration_dataset=Dataset.from_dict(dict(rows)),
            save_directory=target,
            ov_config=OVConfig(quantization_config=OVQuantizationConfig()),
        )
        for path in folder.glob("*.json"):
            with suppress(shutil.SameFileError):
                shutil.copy(path, target / path.name)
    return _predict(_cross_encoder(target, backend="openvino"))


def _flashrank_style(model: PeerModel) -> Score:
    """Score as FlashRank 0.2.10 does: all candidates padded into one pass of a quantised ONNX graph.

    Its own models need a download, so its way is run here on our weights: onnxruntime's dynamic int8,
    truncation at 512, defaults of the session.
    """
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from tokenizers import Tokenizer

    model.need_cpu()
    folder = model.folder
    exact = folder / _onnx_file(folder)
    quantised = folder / "flashrank.onnx"
    quantize_dynamic(exact, quantised, weight_type=QuantType.QInt8)
    session = onnxruntime.InferenceSession(quantised, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding()

    def score(query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        encodings = tokenizer.encode_batch([(query, document) for document in documents])
        columns = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        inputs = {
            name: np.array([getattr(encoding, part) for encoding in encodings], dtype=np.int64)
            for name, part in columns.items()
        }
        return np.asarray(session.run(None, inputs)[0][:, 0], dtype=np.float32)

    return score


def _rerankers(model: PeerModel) -> Score:
    from rerankers import Reranker

    folder, device = str(model.folder), model.device
    ranker = Reranker(folder, model_type="cross-encoder", device=device, dtype=torch.float32, verbose=0)
    if ranker is None:
        raise RuntimeError("rerankers could not load the checkpoint")

    def score(query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        ids = list(range(len(documents)))
        ranked = ranker.rank(query=query, docs=list(documents), doc_ids=ids)
        scores = np.empty(len(documents), dtype=np.float32)
        for result in ranked.results:
            scores[result.document.doc_id] = result.score
        return scores

    return score


PEERS: dict[str, Callable[[PeerModel], Score]] = {
    "sentence-transformers": _st_torch,
    "sentence-transformers bf16": _st_bfloat16,
    "sentence-transformers fp16": _st_float16,
    "sentence-transformers onnx": _st_onnx,
    "sentence-transformers onnx int8": _st_onnx_int8,
    "sentence-transformers openvino": _st_openvino,
    "sentence-transformers openvino int8": _st_openvino_int8,
    "flashrank-style onnx int8": _flashrank_style,
    "rerankers": _rerankers,
}
