"""Which engine and precision are chosen, why, and what is kept on disk."""

import importlib.util
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rich.progress
import torch

from rerank_plugins import (
    CrossEncoderScorer,
    InvalidInputError,
    MissingExtraError,
    ModelError,
    ScorerSettings,
)
from rerank_plugins.scoring import registry
from rerank_plugins.scoring.engines import artifacts, choice, precision
from rerank_plugins.scoring.engines.calibration import calibration_sources
from rerank_plugins.scoring.engines.choice import choose_engine
from rerank_plugins.scoring.loading import find_model

BERT = {"model_type": "bert"}
OTHER = {"model_type": "electra"}


def chosen(config: dict[str, str] = BERT, **settings: str) -> tuple[str, str]:
    return choose_engine(ScorerSettings(**{"device": "cpu", "dtype": "float32", **settings}), config)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch):
    """Return a function that makes packages look as if they were not installed."""
    find = importlib.util.find_spec

    def hide(*names: str) -> None:
        monkeypatch.setattr(
            choice.importlib.util, "find_spec", lambda name: None if name in names else find(name)
        )

    return hide


@pytest.mark.parametrize(
    ("dtype", "ability", "able", "first", "second"),
    [
        ("float32", "has_avx512", True, "openvino", "onnx"),
        ("float32", "has_avx512", False, "onnx", "openvino"),
        ("int8", "has_vnni", True, "openvino", "onnx"),
        ("int8", "has_vnni", False, "onnx", "openvino"),
    ],
)
def test_a_cpu_gets_what_is_faster_on_it_of_what_is_installed(
    monkeypatch: pytest.MonkeyPatch,
    without,
    dtype: str,
    ability: str,
    able: bool,
    first: str,
    second: str,
) -> None:
    monkeypatch.setattr(choice, ability, lambda: able)
    assert chosen(dtype=dtype) == (
        first,
        f"auto: fastest in {dtype} on such a CPU, of what is installed",
    )
    without("onnxruntime" if first == "onnx" else "openvino")
    name, why = chosen(dtype=dtype)
    assert name == second
    assert f'pip install "rerank-plugins[{first}]"' in why


def test_without_either_torch_computes_but_not_in_int8(without) -> None:
    without("openvino", "onnxruntime")
    assert chosen()[0] == "torch"
    with pytest.raises(MissingExtraError, match=r"rerank-plugins\[(openvino|onnx)\]"):
        chosen(dtype="int8")


def test_onnx_is_not_asked_for_a_precision_that_it_never_has() -> None:
    assert "'onnx'" not in chosen(dtype="bfloat16")[1]


def test_other_architectures_go_to_transformers_and_the_reason_is_told() -> None:
    name, why = chosen(OTHER)
    assert name == "transformers"
    assert "electra" in why


def test_cuda_never_gets_a_cpu_engine() -> None:
    assert chosen(device="cuda:0", dtype="bfloat16")[0] == "torch"
    with pytest.raises(InvalidInputError, match="must have device 'cpu', but got 'cuda:0'"):
        chosen(device="cuda:0", engine="onnx")


def test_int8_is_never_chosen_and_never_given_up_silently(tiny: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"dtype of engine 'torch' must be one of .* got 'int8'"):
        chosen(dtype="int8", engine="torch")
    with pytest.raises(InvalidInputError, match="electra"):
        chosen(OTHER, dtype="int8")
    with CrossEncoderScorer(str(tiny), device="cpu") as scorer:
        assert scorer.info.dtype != "int8"


def test_openvino_refuses_a_precision_it_would_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank_plugins.scoring.engines import openvino

    class Core:
        def get_property(self, device: str, name: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(openvino.ov, "Core", Core)
    with pytest.raises(InvalidInputError, match="'bfloat16'"):
        chosen(dtype="bfloat16", engine="openvino")
    # asked for bfloat16 without an engine, torch does it, and says why
    name, why = chosen(dtype="bfloat16")
    assert name == "torch"
    assert "OpenVINO" in why


@pytest.mark.parametrize(
    ("supported", "seconds", "expected"),
    [(True, 0.5, "bfloat16"), (True, 0.9, "float32"), (True, 30.0, "float32"), (False, 0.0, "float32")],
)
def test_bfloat16_on_cpu_only_where_it_measures_faster(
    monkeypatch: pytest.MonkeyPatch, supported: bool, seconds: float, expected: str
) -> None:
    times = {torch.float32: 1.0, torch.bfloat16: seconds}
    monkeypatch.setattr(precision, "_has_bfloat16", lambda: supported)
    monkeypatch.setattr(precision, "_matmul_seconds", times.__getitem__)
    dtype, why = precision.cpu_dtype.__wrapped__()
    assert dtype == expected
    assert ("measured" in why) == supported


def test_the_measurement_measures() -> None:
    assert 0 < precision._matmul_seconds(torch.float32, repeats=2) < 10


def test_tf32_is_told_whichever_of_torchs_switches_was_used() -> None:
    matmul = torch.backends.cuda.matmul
    try:
        torch.set_float32_matmul_precision("high")
        assert precision.tf32_note().startswith("on")
        torch.set_float32_matmul_precision("highest")
        assert precision.tf32_note().startswith("off")
        if hasattr(matmul, "fp32_precision"):  # torch 2.9
            matmul.fp32_precision = "tf32"
            assert precision.tf32_note().startswith("on")
            matmul.fp32_precision = "ieee"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_graph_is_made_once_and_again_when_the_weights_change(tiny: Path, tmp_path: Path) -> None:
    import shutil

    made = tmp_path / "graphs"
    model = tmp_path / "model"
    shutil.copytree(tiny, model)

    def score() -> np.ndarray:
        with CrossEncoderScorer(
            str(model), device="cpu", dtype="float32", engine="openvino", engine_cache_dir=str(made)
        ) as scorer:
            return scorer.score("q", ["a b c", "d"])

    first = score()
    (folder,) = made.iterdir()
    stamp = (folder / "graph.xml").stat().st_mtime_ns
    np.testing.assert_array_equal(score(), first)
    assert (folder / "graph.xml").stat().st_mtime_ns == stamp
    assert any(path.suffix == ".blob" for path in folder.iterdir()), "the compiled model is kept too"

    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["classifier.bias"] = weights["classifier.bias"] + 1
    save_file(weights, model / "model.safetensors")
    np.testing.assert_allclose(score(), first + 1, atol=1e-5)
    assert len(list(made.iterdir())) == 2


def test_a_crash_leaves_nothing_half_made(tmp_path: Path) -> None:
    def crash(folder: Path) -> None:
        (folder / "graph.xml").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        artifacts.artifact(str(tmp_path), "key", crash)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_race(tmp_path: Path) -> None:
    def slow(folder: Path) -> None:
        (folder / "mine").touch()
        other = artifacts.artifact(str(tmp_path), "key", lambda f: (f / "theirs").touch())
        assert (other / "theirs").exists()

    assert (artifacts.artifact(str(tmp_path), "key", slow) / "theirs").exists()
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_refuses_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    folder = artifacts.artifact(str(blocked), "key", lambda f: (f / "made").touch())
    assert (folder / "made").exists()
    assert "cannot write" in caplog.text


@pytest.mark.parametrize("engine", ["openvino", "onnx"])
def test_a_damaged_graph_names_the_folder_to_delete(tiny: Path, tmp_path: Path, engine: str) -> None:
    options = {"device": "cpu", "dtype": "float32", "engine": engine, "engine_cache_dir": str(tmp_path)}
    CrossEncoderScorer(str(tiny), **options).close()
    (folder,) = tmp_path.iterdir()
    for path in folder.iterdir():
        path.chmod(0o644)
        path.write_bytes(b"damaged")
    with pytest.raises(ModelError, match="delete it"):
        CrossEncoderScorer(str(tiny), **options)


def test_a_conversion_that_fails_names_the_way_around(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rerank_plugins.scoring.engines import openvino

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("unsupported operation")

    monkeypatch.setattr(openvino.ov, "convert_model", fail)
    with pytest.raises(ModelError, match="engine='torch' needs no conversion: unsupported operation"):
        CrossEncoderScorer(str(tiny), device="cpu", engine="openvino", engine_cache_dir=str(tmp_path))


@pytest.mark.parametrize("in_notebook", [False, True])
@pytest.mark.filterwarnings("error")
def test_quantising_says_nothing_on_stdout_and_in_a_notebook_nothing_at_all(
    in_notebook: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    quantize = pytest.importorskip("rerank_plugins.scoring.engines.quantize", reason="needs nncf")
    console = rich.get_console()
    monkeypatch.setattr(console, "is_jupyter", in_notebook)
    before = vars(console).copy()
    with quantize._off_stdout():
        assert list(rich.progress.track(range(3), "Bar")) == [0, 1, 2]
    written = capsys.readouterr()
    assert written.out == ""
    assert ("Bar" in written.err) is not in_notebook
    assert vars(console) == before


def test_what_was_chosen_and_why_is_in_one_log_line(tiny: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "rerank_plugins"),
        CrossEncoderScorer(str(tiny), max_length=103) as scorer,  # nobody else's, so it is loaded now
    ):
        info = scorer.info
    (line,) = [r.getMessage() for r in caplog.records if r.getMessage().startswith("loaded ")]
    assert info.model in line
    for what in ("engine", "device", "dtype"):
        assert f"{what} {getattr(info, what)} ({info.reasons[what]})" in line


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_named_engine_gets_a_precision_that_it_has(
    engine: str, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    # As on CPUs that are faster in bfloat16, which ONNX Runtime never has, and OpenVINO not on all.
    monkeypatch.setattr(registry, "cpu_dtype", lambda: ("bfloat16", "measured"))
    with CrossEncoderScorer(str(tiny), device="cpu", engine=engine) as scorer:
        lacks = scorer.info.dtype == "float32"
        assert lacks or engine == "openvino"
        assert ("has no bfloat16" in scorer.info.reasons["dtype"]) == lacks
    with pytest.raises(InvalidInputError, match="dtype"):
        CrossEncoderScorer(str(tiny), device="cpu", engine="onnx", dtype="bfloat16")


def test_a_graph_can_be_read_by_whoever_can_read_the_cache(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    folder = artifacts.artifact(str(tmp_path), "key", lambda f: (f / "graph").touch())
    assert folder.stat().st_mode & 0o777 == 0o755


def test_an_int8_graph_is_made_again_when_its_texts_are_tokenised_otherwise() -> None:
    found = find_model(ScorerSettings(model="bundled"))
    same, shorter = calibration_sources(found), calibration_sources(replace(found, max_length=256))
    assert same == calibration_sources(found)
    assert same != shorter


@pytest.mark.parametrize("asked", [{"engine": "onnx"}, {"dtype": "int8"}])
def test_what_only_a_cpu_runs_is_not_sent_to_a_gpu(
    asked: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    key, reasons = registry._resolve(ScorerSettings(model="bundled", **asked))
    assert key.device == "cpu"
    assert "runs there alone" in reasons["device"]
    key, _ = registry._resolve(ScorerSettings(model="bundled"))
    assert key.device == "cuda:0"
