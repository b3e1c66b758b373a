"""What must not end in a traceback or in an option silently ignored."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import rerank_plugins
from rerank_plugins.cli import main
from rerank_plugins.cli.app import app
from rerank_plugins.cli.formats import read_topics
from rerank_plugins.cli.options import InputFormat
from rerank_plugins.errors import InvalidInputError, MissingExtraError, ModelNotFoundError
from rerank_plugins.scoring.dispatch import Worker

RANK = ["rank", "-m", "bundled", "-q", "who wrote Faust?"]
TEXT = "A fist is a hand.\nGoethe wrote Faust.\n"


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [*RANK, "-o", str(tmp_path / "no" / "folder.jsonl")], input=TEXT)
    assert isinstance(done.exception, InvalidInputError)
    assert "--output must be a file that can be written" in str(done.exception)


def test_a_model_that_is_not_there_leaves_the_old_output_alone(tmp_path: Path) -> None:
    output = tmp_path / "old.jsonl"
    output.write_text("old\n")
    done = CliRunner().invoke(app, ["rank", "-q", "q", "-m", "no/model", "-o", str(output)], input=TEXT)
    assert isinstance(done.exception, ModelNotFoundError)
    assert output.read_text() == "old\n"


@pytest.mark.parametrize("extra", [["-q", "q"], ["passages.txt"]])
def test_a_run_beside_a_query_or_passages_is_refused(extra: list[str]) -> None:
    run = ["--queries", "q.tsv", "--passages", "p.tsv", "--run", "r.run"]
    done = CliRunner().invoke(app, ["rank", *run, *extra])
    assert "leave --query and the argument out" in str(done.exception)


def test_a_query_is_no_markup() -> None:
    query = "what do [/INST] and [bold] mean?"
    done = CliRunner().invoke(app, ["rank", "-m", "bundled", "-q", query, "--to", "table"], input=TEXT)
    assert done.exit_code == 0
    assert query in done.stdout


@pytest.mark.parametrize("to", ["table", "jsonl", "trec"])
def test_a_kept_order_is_written_in_every_format(to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerank_plugins.errors import ScoringError

    def fail(*_: object) -> None:
        raise ScoringError("the device fell off")

    monkeypatch.setattr(Worker, "submit", fail)
    monkeypatch.setenv("RERANK_ON_ERROR", "keep_order")
    done = CliRunner().invoke(app, [*RANK, "--to", to], input=TEXT)
    assert done.exception is None
    lines = done.stdout.splitlines()
    if to == "jsonl":
        rows = [json.loads(line) for line in lines]
        assert [(row["index"], row["score"]) for row in rows] == [(0, None), (1, None)]
    elif to == "trec":
        assert [line.split()[2] for line in lines] == ["1", "2"]
    assert "kept the order of 1 of 1 queries, lastly because of: " in done.stderr
    assert "the device fell off" in done.stderr


def test_the_demo_shows_the_same_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_TOP_K", "1")
    monkeypatch.setenv("RERANK_MIN_SCORE", "0.99")
    monkeypatch.setenv("RERANK_SCALE", "logit")
    done = CliRunner().invoke(app, ["demo", "--queries", "1"])
    assert done.exception is None
    assert "Passages cut to 512 tokens: 0" in " ".join(done.stdout.split())


def test_the_demo_names_the_extra_it_needs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    done = CliRunner().invoke(app, ["demo"])
    assert isinstance(done.exception, MissingExtraError)
    monkeypatch.setattr("sys.argv", ["rerank-plugins", "demo"])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 3
    assert 'pip install "rerank-plugins[demo]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("offline", "endpoint", "expected"),
    [
        (True, "https://huggingface.co", "offline"),
        (False, "http://127.0.0.1:9", "cannot be reached"),
        (False, "no address", "cannot be reached"),
    ],
)
def test_doctor_says_whether_the_hub_answers_and_works_without_it(
    offline: bool, endpoint: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    done = CliRunner().invoke(app, ["doctor", "-m", "bundled", "--json"])
    assert done.exit_code == 0
    report = json.loads(done.stdout)
    assert expected in report["hub"]
    assert report["works"] is True


def test_doctor_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import PackageNotFoundError, version

    def without_haystack(name: str) -> str:
        if name == "haystack-ai":
            raise PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr("rerank_plugins.cli.doctor.version", without_haystack)
    done = CliRunner().invoke(app, ["doctor", "-m", "bundled"], env={"COLUMNS": "160"})
    assert done.exit_code == 0
    assert 'not installed: pip install "rerank-plugins[haystack]"' in done.stdout


def test_doctor_shows_no_secrets() -> None:
    held = {
        name: f"hush-{number}-0123456789"
        for number, name in enumerate(
            ("RERANK_TOKEN", "RERANK_REMOTE_API_KEY", "RERANK_REMOTE_HEADERS", "RERANK_SERVER_KEYS")
        )
    }
    held["RERANK_REMOTE_BASE_URLS"] = "http://me:hush@127.0.0.1:8000"
    unknown = {"RERANK_APIKEY": "hush-misspelt"}
    plain = {"RERANK_MAX_LENGTH": "128", "RERANK_REMOTE_DIALECT": "vllm", "RERANK_SERVER_PORT": "8123"}
    done = CliRunner().invoke(app, ["doctor", "-m", "bundled", "--json"], env=held | unknown | plain)
    assert done.exit_code == 0
    assert "hush" not in done.stdout
    environment = json.loads(done.stdout)["environment"]
    assert environment.keys() >= held.keys() | unknown.keys()
    assert {name: environment[name] for name in plain} == plain


def test_the_table_of_models_fits_a_narrow_terminal() -> None:
    done = CliRunner().invoke(app, ["models"], env={"COLUMNS": "80"})
    lines = done.stdout.splitlines()
    assert any("ms-marco-MiniLM-L12-v2 " in line and "74.31" in line for line in lines)
    assert any(line.startswith("bundled ") and "first steps" in line for line in lines)
    assert "…" not in done.stdout
    assert max(map(len, lines)) <= 80


COMMAND = [sys.executable, "-m", "rerank_plugins"]


def test_who_reads_only_the_beginning_ends_no_command_badly(tmp_path: Path) -> None:
    passages = tmp_path / "many.txt"
    passages.write_text("".join(f"{'word ' * 200}{i}\n" for i in range(400)))
    command = [*COMMAND, *RANK, "--max-length", "16", str(passages)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("into", [[], ["-o", "/dev/full"]])
def test_a_full_disk_is_one_line(into: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *RANK, *into], input=TEXT, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.startswith("rerank-plugins: ")
    assert "Traceback" not in done.stderr


def test_jsonl_is_utf8_whatever_the_terminal_is() -> None:
    done = subprocess.run(
        [*COMMAND, *RANK],
        input="Das Caf\u00e9 \u2013 na\u00efv.\n".encode(),
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
    )
    row = json.loads(done.stdout.decode())
    assert row["text"] == "Das Caf\u00e9 \u2013 na\u00efv."
    assert row["reranked"] is True


def test_what_the_library_warns_of_is_shown(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"temperature": 1.0, "offset": 0.0, "model": "some/other"}')
    done = subprocess.run(
        [*COMMAND, *RANK, "--scale", "calibrated", "--calibration", str(tmp_path / "c.json")],
        input=TEXT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "rerank-plugins: the calibration was fitted for model some/other" in done.stderr


def test_the_version() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == rerank_plugins.__version__


def test_who_types_is_asked_for_the_query_first(monkeypatch: pytest.MonkeyPatch) -> None:
    typed = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr(sys, "stdin", typed)
    with pytest.raises(InvalidInputError, match="--query for passages that are typed"):
        read_topics(None, None, InputFormat.auto)


def test_doctor_tells_settings_that_are_wrong_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_TOP_K", "abc")
    monkeypatch.setenv("RERANK_TOPK", "3")
    monkeypatch.setenv("RERANK_TOKEN", "hf_secret")
    done = CliRunner().invoke(app, ["doctor", "-m", "bundled", "--local-files-only", "--json"])
    assert done.exit_code == 3
    report = json.loads(done.stdout)
    assert report["self_check"]["ordered"]
    assert "RerankSettings.top_k" in report["bad_settings"]["RerankSettings"]
    assert report["environment"]["RERANK_TOPK"] == "(set, but no setting of this library)"
    assert report["environment"]["RERANK_TOKEN"] == "(set, not shown)"


def test_a_plot_that_cannot_be_written_is_told_first(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    done = CliRunner().invoke(app, ["bench", "--plot", str(tmp_path / "x.foo")])
    assert "--plot must be a file whose name ends in" in str(done.exception)


def test_an_export_into_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["export", str(tmp_path / "file"), "-m", "bundled"])
    assert "an export must be a folder that can be written" in str(done.exception)
