"""`rerank-plugins export`, and the file in the runtimes it is written for."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rerank_plugins import CrossEncoderScorer, InvalidInputError, ScorerSettings
from rerank_plugins.cli.app import app
from rerank_plugins.scoring.export import export_model

PAIRS = [("who wrote faust?", "Goethe wrote Faust."), ("who wrote faust?", "A fist is a hand. " * 9)]


@pytest.mark.parametrize("graph_format", ["onnx", "openvino"])
def test_the_file_scores_by_itself(
    tiny: Path, tiny_scorer: CrossEncoderScorer, tmp_path: Path, graph_format: str
) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), "-m", str(tiny), "--format", graph_format])
    assert done.exit_code == 0, done.output
    assert "of float32" in done.output
    # What a stranger has: the file, the tokenizer beside it, and the runtime.
    from transformers import AutoTokenizer

    inputs = dict(AutoTokenizer.from_pretrained(tmp_path)(PAIRS, padding=True, return_tensors="np"))
    if graph_format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
        assert [x.name for x in session.get_inputs()] == ["input_ids", "attention_mask", "token_type_ids"]
        logits = session.run(["logits"], inputs)[0]
    else:
        import openvino

        logits = openvino.Core().compile_model(tmp_path / "openvino" / "openvino_model.xml", "CPU")(inputs)[
            "logits"
        ]
    assert logits.shape == (2, 1)
    np.testing.assert_allclose(logits[:, 0], tiny_scorer.score_pairs(PAIRS), atol=1e-4, rtol=0)


def test_int8_is_smaller_and_says_how_near_it_is(tiny: Path, tmp_path: Path) -> None:
    settings = ScorerSettings(model=str(tiny))
    exact = export_model(settings, tmp_path / "a")
    small = export_model(settings, tmp_path / "b", dtype="int8")
    assert exact.largest_difference < 1e-4 < small.largest_difference
    assert small.megabytes < exact.megabytes


def test_what_cannot_be_exported_says_why(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="float32 or int8, but got 'onnx', 'float16'"):
        export_model(ScorerSettings(model=str(tiny)), tmp_path, dtype="float16")
    assert CliRunner().invoke(app, ["export", str(tmp_path), "--format", "tflite"]).exit_code == 2


def test_a_model_may_be_exported_into_its_own_folder(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    before = (folder / "config.json").read_bytes()
    made = export_model(ScorerSettings(model=str(folder)), folder)
    assert made.graph.is_relative_to(folder)
    assert made.largest_difference < 1e-4
    assert (folder / "config.json").read_bytes() == before
