"""`rerank-plugins eval` for real, on little."""

import json
import re
import shlex
import sys
from pathlib import Path

import ir_measures
import pytest
from ir_measures import nDCG
from typer.main import get_command
from typer.testing import CliRunner, Result

from rerank_plugins import Calibration
from rerank_plugins.cli.app import app
from rerank_plugins.errors import InvalidInputError, MissingExtraError
from rerank_plugins.evaluation import load_jsonl
from tests.conftest import SHARED
from tests.workspace import fill

HOUSEHOLD = Path(__file__).parents[2] / "notebooks" / "data" / "household"
TREC = SHARED / "data" / "trec-dl"
CPU = ("--device", "cpu", "--engine", "torch", "--dtype", "float32")


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the path back: the command leaves its folder there, as python does."""
    monkeypatch.setattr(sys, "path", [*sys.path])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["eval", *map(str, arguments), *CPU])


def shown(*arguments: str) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, done.output or done.exception
    return done.stdout


def test_the_demo_with_two_models_and_a_report(tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "report"
    text = shown("demo", "-m", "bundled", "-m", str(tiny), "--depth", "5", "--depth", "20", "-o", str(out))
    assert text.startswith("Rerank with bundled: nDCG@10 rises from ")
    assert "13 queries are few" in text
    for title in ("Against the first stage", "All measures", "Cost", "How deep to rerank", "In a prompt"):
        assert title in text
    report = json.loads((out / "report.json").read_text())
    assert [system["name"] for system in report["systems"]] == ["bundled", str(tiny)]
    assert report["first_stage"] == "BM25 (bm25s)"
    assert [one["depth"] for one in report["systems"][0]["depths"]] == [5, 20]
    assert report["verdict"][0] in text.replace("\n", " ")
    assert (out / "report.md").read_text().startswith("# Reranking demo")
    assert (out / "report.html").read_text().startswith("<!doctype html>")


def test_own_data_as_json(tmp_path: Path) -> None:
    rows = [
        {
            "query": "who wrote Faust?",
            "documents": ["A fist is a hand.", "Goethe wrote Faust."],
            "relevant": [1],
        },
        {
            "query": "what is bread made of?",
            "documents": ["A bed.", "Flour and water."],
            "answers": ["flour"],
        },
    ]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    report = json.loads(shown(str(path), "-m", "bundled", "--json", "--limit", "1"))
    assert report["queries"] == {"1": "who wrote Faust?"}
    assert report["systems"][0]["depths"][0]["measured"]["mean"]["RR@10"] == 1
    assert report["first"]["mean"]["RR@10"] == 0.5
    assert report["first_stage"] == "given order"


def test_a_beir_folder() -> None:
    report = json.loads(shown(str(HOUSEHOLD), "-m", "bundled", "--depth", "10", "--limit", "3", "--json"))
    first = "my espresso tastes like lemon juice, what should I change"
    assert (report["name"], len(report["queries"]), report["queries"]["q001"]) == ("household", 3, first)
    assert report["first_stage"] == "BM25 (bm25s)"
    assert 0 < report["systems"][0]["cost"]["documents"] <= 30
    assert 0 < report["first"]["mean"]["nDCG@10"] <= report["best_possible"]["mean"]["nDCG@10"]


@pytest.fixture
def of_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """A TREC run in the current folder, with what belongs to it."""
    fill(tmp_path)
    monkeypatch.chdir(tmp_path)
    return ("bm25.run", "--qrels", "qrels.txt", "--queries", "queries.tsv", "--passages", "passages.jsonl")


def test_systems_of_one_name_are_refused(of_run: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "other.run").write_bytes((tmp_path / "other.run").read_bytes())
    runs = ("--other-run", "other.run", "--other-run", "deep/other.run")
    done = CliRunner().invoke(app, ["eval", *of_run, *runs])
    assert isinstance(done.exception, InvalidInputError)
    assert "'other' is there twice; rename deep/other.run" in str(done.exception)


def test_a_trec_run_with_its_texts(of_run: tuple[str, ...]) -> None:
    report = json.loads(shown(*of_run, "-m", "bundled", "--other-run", "other.run", "--json"))
    assert (report["name"], report["first_stage"], report["candidates"]) == ("qrels", "bm25", 3)
    assert report["queries"] == {"q1": "who wrote Faust?", "q2": "what is rice?"}
    # The right passages are second and third, and second and first in the other run.
    assert report["first"]["by_query"]["RR@10"] == pytest.approx({"q1": 1 / 2, "q2": 1 / 3})
    bundled, other = (system["depths"][-1]["measured"] for system in report["systems"])
    assert other["by_query"]["RR@10"] == {"q1": 1 / 2, "q2": 1}
    assert bundled["by_query"]["RR@10"] == {"q1": 1, "q2": 1}


def test_tokens_of_a_prompt_are_counted_as_you_say(of_run: tuple[str, ...]) -> None:
    words, letters = (
        json.loads(shown(*of_run, "-m", "bundled", "--json", *options))["first_bearing"]["tokens"]
        for options in ((), ("--count-tokens", "builtins:len"))
    )
    assert words == [6, 6 + 4, 6 + 4 + 5]
    assert letters == [17, 17 + 19, 17 + 19 + 16]
    for name in ("builtins:nothing", "tiktoken", ""):
        error = run(*of_run, "--count-tokens", name).exception
        assert isinstance(error, InvalidInputError)
        assert "--count-tokens must be module:name" in str(error)


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("demo", "-m", "bundled", "--limit", "2", "--depth", "5")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    assert run(*arguments).stderr == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    seen = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", run(*arguments).stderr)
    assert re.search(r"BM25 \(bm25s\) ━+ 1/1 ", seen)
    assert re.search(r"bundled ━+ 2/2 ", seen)


def test_a_retriever_of_your_own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_retriever_of_test.py").write_text(
        "from langchain_core.documents import Document\n"
        "from langchain_core.runnables import RunnableLambda\n"
        "found = [Document('Drain it.', id='p001'), Document('x', id='p057')]\n"
        "retriever = RunnableLambda(lambda query: found)\n"
    )
    monkeypatch.chdir(tmp_path)
    report = json.loads(
        shown("demo", "-m", "bundled", "--first-stage", "my_retriever_of_test:retriever", "--json")
    )
    assert report["first_stage"] == "my_retriever_of_test:retriever"
    assert report["candidates"] == 2
    assert isinstance(run("--first-stage", "nowhere_at_all:x").exception, InvalidInputError)
    assert isinstance(run("--first-stage", "elastic").exception, InvalidInputError)


def test_a_module_of_your_own_may_look_for_its_neighbours_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "neighbour_of_test.py").write_text("found = [('p057', 'Drain it.')]\n")
    (tmp_path / "late_retriever_of_test.py").write_text(
        "import sys\n"
        "sys.path.insert(0, 'its own')\n"
        "def retriever(query):\n"
        "    from neighbour_of_test import found\n"
        "    return found\n"
    )
    monkeypatch.chdir(tmp_path)
    report = json.loads(
        shown("demo", "-m", "bundled", "--first-stage", "late_retriever_of_test:retriever", "--json")
    )
    assert report["candidates"] == 1
    assert sys.path[:2] == ["its own", str(tmp_path)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jsonl"], "no such file"),
        (["{folder}"], "corpus.jsonl|qrels/test"),
        (["{hits}"], "--qrels is needed for a source of format hits"),
        (["{hits}", "--format", "run", "--qrels", "{hits}"], "--queries is needed"),
        (["demo", "--qrels", "{hits}"], "--qrels has no use for a source of format demo"),
        (["demo", "--first-stage", "given"], "call retrieve first"),
        (["demo", "--confidence", "95"], "confidence must be"),
        (["demo", "--fusion", "sum"], "fusion must be"),
        (["demo", "--fusion", "1.5"], "fusion must be"),
        (["demo", "--fusion", "fit", "--limit", "1"], "at least 2 queries"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, arguments: list[str], message: str) -> None:
    hits = tmp_path / "hits.json"
    hits.write_text("[]")
    (tmp_path / "empty").mkdir()
    filled = [one.format(hits=hits, folder=tmp_path / "empty") for one in arguments]
    error = run(*filled, "-m", "bundled").exception
    assert isinstance(error, InvalidInputError)
    assert re.search(message, str(error))


def test_a_dataset_id_without_ir_datasets_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    assert isinstance(run("beir/scifact/test").exception, MissingExtraError)


def test_the_page_says_what_the_command_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text()
    commands = re.findall(r"^rerank-plugins (\w+) (.*)$", page, flags=re.MULTILINE)
    offline = [arguments for name, arguments in commands if name == "eval" and arguments.startswith("demo")]
    assert len(offline) == 2
    monkeypatch.chdir(tmp_path)
    for arguments in offline:
        shown(*shlex.split(arguments))
    assert (tmp_path / "report" / "report.html").exists()
    (line,) = re.findall(r"```json\n(.*?)\n```", page, flags=re.DOTALL)
    (tmp_path / "own.jsonl").write_text(line)
    assert load_jsonl(tmp_path / "own.jsonl")[0].answers == ("Goethe",)
    of_command = get_command(app).commands  # type: ignore[attr-defined]
    known = {option for name in ("eval", "rank") for p in of_command[name].params for option in p.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", page)) <= known | {"--data"}


def test_fusion_and_calibration_and_what_comes_of_them(tmp_path: Path) -> None:
    out = tmp_path / "report"
    text = shown(
        *("demo", "-m", "bundled", "--depth", "20", "--fusion", "fit", "--fusion", "0.5", "-o", str(out)),
        *("--calibrate", "--precision", "0.5"),
    )
    report = json.loads((out / "report.json").read_text())
    names = ["bundled", "bundled + rrf", "bundled + fitted fusion", "bundled + fusion 0.5"]
    assert [system["name"] for system in report["systems"]] == names
    assert str(report["systems"][2]["fused"]["fusion"]) in text
    for title in ("Fused with the first stage", "Calibrated scores", "A threshold for a precision of 50%"):
        assert title in text
        assert title in (out / "report.html").read_text()
    calibration = Calibration.load(out / "calibration.json")
    assert (calibration.model, calibration.data) == ("bundled", "demo")
    command = ["rank", "-q", "who wrote Faust?", "-m", "bundled", "--to", "jsonl", "--device", "cpu"]
    command += ["--scale", "calibrated", "--calibration", str(out / "calibration.json")]
    done = CliRunner().invoke(app, command, input="Goethe wrote Faust.")
    row = json.loads(done.stdout)
    assert row["score"] == pytest.approx(float(calibration.apply(row["logit"])))


def test_windows_are_as_long_as_asked(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"query": "q", "documents": ["word " * 900, "x"], "relevant": [1]}))
    cut, read = (
        json.loads(shown(str(path), "-m", "bundled", "--json", *options))["systems"][0]["cost"]["truncated"]
        for options in (
            (),
            ("--long-documents", "max_passage", "--passage-tokens", "100", "--max-passages", "100"),
        )
    )
    assert (cut, read) == (0.5, 0)


@pytest.mark.shared_data
def test_trec_dl_with_a_published_run_and_figures_equal_ir_measures() -> None:
    qrels = TREC / "qrels.dl19-passage.txt"
    vicuna = TREC / "rankvicuna.bm25-top100.dl19.run"
    text = shown(
        *(str(TREC / "BM25.dl19.top100.json.gz"), "--qrels", str(qrels), "--other-run", str(vicuna)),
        *("--relevant-from", "2", "--json"),
    )
    report = json.loads(text)
    assert round(report["first"]["mean"]["nDCG@10"], 4) == 0.5058
    assert round(report["systems"][0]["depths"][0]["measured"]["mean"]["nDCG@10"], 4) == 0.6682
    assert round(report["best_possible"]["mean"]["nDCG@10"], 4) == 0.8922
    direct = ir_measures.calc(
        [nDCG @ 10], ir_measures.read_trec_qrels(str(qrels)), ir_measures.read_trec_run(str(vicuna))
    )
    ours = report["systems"][0]["depths"][0]["measured"]["by_query"]["nDCG@10"]
    assert ours == pytest.approx({metric.query_id: metric.value for metric in direct.per_query})


def test_the_order_of_the_environment_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = json.loads(shown("demo", "-m", "bundled", "--depth", "10", "--limit", "3", "--json"))
    monkeypatch.setenv("RERANK_FUSION", "0.0")
    found = json.loads(shown("demo", "-m", "bundled", "--depth", "10", "--limit", "3", "--json"))
    measured, wanted = (of["systems"][0]["depths"][0]["measured"]["mean"] for of in (found, expected))
    assert measured == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count-tokens", "math:pi"], "raises TypeError"),
        (["--count-tokens", "builtins:str"], "returns 'Goethe wrote Faust.'"),
    ],
)
def test_what_would_fail_at_the_end_fails_at_once(arguments: list[str], message: str) -> None:
    done = run("demo", *arguments)
    assert message in str(done.exception)


def test_a_folder_that_cannot_be_made_is_told_before_anything_is_scored(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run("demo", "-m", "no/model", "-o", str(tmp_path / "file" / "report"))
    assert "--output must be a folder that can be written" in str(done.exception)
