"""Whole runs, small: training that is interrupted, and adapting to a domain."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

import ablate
import adapt
import train
from config import Config, PrepareConfig, TeachConfig, TrainConfig
from export import calibrate, export
from files import read_rows, write_rows
from model import start_model
from prepare import collect
from rerank_plugins import CrossEncoderScorer, ModelFormatError
from teach import teach
from train import make_trainer

NOUNS = ("yeast", "salt", "copper", "cheese", "rice", "violin", "octave", "bicycle", "thunder", "orbit")
PLACES = ["Ghent", "Lagos", "Quito", "Osaka"]
SETTINGS = Config(
    prepare=PrepareConfig(held_out=0.2),
    teach=TeachConfig(candidates=6, hard=2),
    train=TrainConfig(
        start="bundled", steps=6, lists=2, passages=3, layers=2, warm_up=1, decay=0.5, evaluate_every=100
    ),
)


def write_pairs(path: Path, nouns: tuple[str, ...] = NOUNS) -> Path:
    rows = [
        {
            "query": f"price of {noun} in {place}?",
            "positive": f"In {place} the {noun} is sold for {len(noun) * 3} coins a piece. Dealers know it.",
        }
        for noun in nouns
        for place in PLACES
    ]
    write_rows(path, rows)
    return path


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    passages, queries = collect(
        {"pairs": adapt.read_pairs(write_pairs(folder / "pairs.jsonl"))}, SETTINGS.prepare, 1
    )
    write_rows(folder / "passages.jsonl", passages)
    write_rows(folder / "queries.jsonl", queries)
    teach(folder, SETTINGS.teach, 1, threads=2)
    return folder


def test_lists_begin_with_the_positive_and_hold_other_passages(work: Path) -> None:
    passages = [row["text"] for row in read_rows(work / "passages.jsonl")]
    queries = {row["query"]: row for row in read_rows(work / "queries.jsonl")}
    lists = read_rows(work / "lists.jsonl")
    assert len(lists) == len(NOUNS) * len(PLACES)
    for row in lists:
        assert row["passages"][:1] == queries[row["query"]]["positives"]
        assert len(set(row["passages"])) == len(row["passages"])
        assert row["held_out"] or len(row["passages"]) == SETTINGS.teach.candidates
        assert all(0 <= number < len(passages) for number in row["passages"])


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoint.pt", weights_only=True)["model"]


def test_an_interrupted_run_ends_where_the_whole_run_ends(work: Path, tmp_path: Path) -> None:
    whole = make_trainer(work, tmp_path / "whole", SETTINGS, threads=2)
    start = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    whole.run()
    first = make_trainer(work, tmp_path / "parts", SETTINGS, threads=2)
    for step in range(2):
        first.learn(first.groups(step))
    first.save("checkpoint.pt")
    second = make_trainer(work, tmp_path / "parts", SETTINGS, threads=2)
    for name, tensor in second.model.state_dict().items():
        assert torch.equal(tensor, start[name]), "measured now, it is as before training"
    second.resume()
    assert second.step == 2
    second.run()
    ends = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert any(not torch.equal(start[name], tensor) for name, tensor in ends[0].items())
    for name, tensor in ends[0].items():
        assert torch.allclose(tensor, ends[1][name], atol=1e-4), name


def test_lists_together_teach_what_they_teach_one_by_one(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(name: str, at_once: int) -> tuple[float, int, list[torch.Tensor]]:
        monkeypatch.setitem(train.LISTS_AT_ONCE, "cpu", at_once)
        trainer = make_trainer(work, tmp_path / name, SETTINGS, threads=2)
        trainer.lists[0] = trainer.lists[0] | {
            key: trainer.lists[0][key][:2] for key in ("passages", "teacher")
        }  # lists need not be of one size
        groups = trainer.groups(0)
        assert len(groups) == -(-SETTINGS.train.lists // at_once)
        divergence, pairs = trainer.learn(groups)
        return divergence, pairs, [parameter.grad for parameter in trainer.learning]

    single, together = step("single", 1), step("together", SETTINGS.train.lists)
    assert together[0] == pytest.approx(single[0], abs=1e-5)
    assert together[1] == single[1]
    for one, other in zip(single[2], together[2], strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_more_steps_go_on_from_before_the_rate_fell(work: Path, tmp_path: Path) -> None:
    make_trainer(work, tmp_path, SETTINGS, threads=2).run()
    more = replace(SETTINGS, train=replace(SETTINGS.train, steps=12))
    trainer = make_trainer(work, tmp_path, more, threads=2)
    trainer.resume()
    assert trainer.step == torch.load(tmp_path / "stable.pt", weights_only=True)["step"] == 4


def test_a_checkpoint_of_other_inputs_is_not_gone_on_from(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = make_trainer(work, tmp_path, SETTINGS, threads=2)
    first.learn(first.groups(0))
    first.save("checkpoint.pt")
    other = tmp_path / "other"
    other.mkdir()
    write_rows(other / "passages.jsonl", [{"text": "New."}, *read_rows(work / "passages.jsonl")[1:]])
    shutil.copy(work / "lists.jsonl", other)
    for data, settings in ((other, SETTINGS), (work, replace(SETTINGS, seed=2))):
        trainer = make_trainer(data, tmp_path, settings, threads=2)
        trainer.resume()
        assert trainer.step == 0
        assert "checkpoint.pt, which is of other texts, start or seed" in caplog.text
        caplog.clear()
    same = make_trainer(work, tmp_path, SETTINGS, threads=2)
    same.resume()
    assert same.step == 1


def test_lists_that_nothing_can_be_measured_with_are_refused(work: Path, tmp_path: Path) -> None:
    rows = read_rows(work / "lists.jsonl")
    write_rows(tmp_path / "lists.jsonl", (row | {"held_out": False} for row in rows))
    with pytest.raises(ValueError, match="must have a labelled list that is held out"):
        make_trainer(tmp_path, tmp_path, SETTINGS, threads=2)


def test_only_a_whole_bert_cross_encoder_is_started_from(tmp_path: Path, tiny: Path) -> None:
    other = shutil.copytree(tiny, tmp_path / "other")
    config = json.loads((tiny / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"model_type": "electra"}))
    with pytest.raises(ModelFormatError, match=r"must be of type 'bert', but .* is of 'electra'"):
        start_model(str(other), layers=0, frozen=0)
    headless = shutil.copytree(tiny, tmp_path / "headless")
    kept = {n: w for n, w in load_file(tiny / "model.safetensors").items() if not n.startswith("classifier")}
    save_file(kept, headless / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelFormatError, match=r"headless must be .*, but lack classifier\.weight"):
        start_model(str(headless), layers=0, frozen=0)


def test_a_model_adapts_to_pairs_and_documents(tmp_path: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", NOUNS[:5])
    documents = tmp_path / "documents.jsonl"
    write_rows(
        documents,
        ({"title": f"All about {n}", "text": f"{n} is old. It is traded. It keeps well."} for n in NOUNS[:5]),
    )
    mine = tmp_path / "model" / "training" / "mine.py"
    mine.parent.mkdir(parents=True)
    mine.touch()
    adapt.main(tmp_path / "model", pairs=pairs, documents=documents, steps=2, max_tokens=48, threads=2)
    held_out = json.loads((tmp_path / "model" / "held-out.json").read_text())
    assert held_out["before"].keys() == held_out["after"].keys() >= {"pairs", "mean"}
    texts = ["In Quito the salt is sold for 12 coins a piece.", "Osaka has rain."]
    with CrossEncoderScorer(str(tmp_path / "model"), device="cpu") as adapted:
        scores = adapted.score("price of salt in Quito?", texts)
    assert scores[0] > scores[1]
    assert mine.exists(), "a folder of the user's"
    assert not (tmp_path / "model" / adapt.WORK).exists()


def test_an_adaptation_goes_on_in_its_own_folder_and_in_no_other(tmp_path: Path) -> None:
    work = adapt.open_work(tmp_path)
    (work / "checkpoint.pt").touch()
    assert adapt.open_work(tmp_path) == work
    (work / adapt.OURS).unlink()
    with pytest.raises(typer.BadParameter, match="must be new, or of an interrupted adaptation"):
        adapt.open_work(tmp_path)


def write_lists(work: Path, tiny: Path, *, right: bool, count: int) -> None:
    """Write a model with lists whose positive it puts first, or last."""
    shutil.copytree(tiny, work / "model")
    passages = [f"In {place} the {noun} is old." for noun in NOUNS for place in PLACES]
    write_rows(work / "passages.jsonl", ({"text": text} for text in passages))
    rows = []
    with CrossEncoderScorer(str(tiny), device="cpu") as scorer:
        for i in range(count):
            query, numbers = f"age of {NOUNS[i]}?", list(range(4 * i, 4 * i + 4))
            logits = scorer.score(query, [passages[n] for n in numbers])
            order = sorted(range(4), key=lambda k, logits=logits: -logits[k])  # best first
            chosen = [numbers[k] for k in (order if right else order[::-1])]
            rows.append({"query": query, "held_out": True, "labelled": True, "passages": chosen})
    write_rows(work / "lists.jsonl", rows)


def test_a_calibration_never_explodes_and_never_turns_the_order_around(
    tmp_path: Path, tiny: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    def made(name: str, *, right: bool, count: int) -> tuple[float, float]:
        """Return scale and offset of what is exported against the plain logits."""
        write_lists(tmp_path / name, tiny, right=right, count=count)
        caplog.clear()
        export(tmp_path / name / "model", tmp_path / name, tmp_path / name / "out")
        before, after = (
            load_file(folder / "model.safetensors")
            for folder in (tmp_path / name / "model", tmp_path / name / "out")
        )
        scale = float((after["classifier.weight"] / before["classifier.weight"]).median())
        return scale, float(after["classifier.bias"] - scale * before["classifier.bias"])

    scale, _ = made("right", right=True, count=10)
    assert scale > 0
    assert "calibration: logit *" in caplog.text
    for name, options in {"wrong": {"right": False, "count": 10}, "few": {"right": True, "count": 9}}.items():
        assert made(name, **options) == (1.0, 0.0)
        assert "not calibrated, the model keeps its own logits: " in caplog.text


def test_a_calibration_weighs_answers_and_other_candidates_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the answers four in five have the logit 3, of the others one in five; the rest have -3."""
    lists = [{"query": "q", "passages": [int(i % 5 == 0), *[int(i % 5 != 1)] * 9]} for i in range(100)]

    class Scorer:
        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> "Scorer":
            return self

        def __exit__(self, *_: object) -> None: ...

        def score_pairs(self, pairs: list[tuple[str, float]]) -> list[float]:
            return [logit for _, logit in pairs]

    monkeypatch.setattr("export.CrossEncoderScorer", Scorer)
    scale, offset = calibrate(tmp_path, lists, [3.0, -3.0])
    found = torch.sigmoid(scale * torch.tensor([3.0, -3.0]) + offset)
    assert found.tolist() == pytest.approx([0.8, 0.2], abs=0.01)


def test_an_adapted_model_keeps_its_own_vocabulary(tmp_path: Path, tiny: Path) -> None:
    start = shutil.copytree(tiny, tmp_path / "start")
    (start / "tokenizer.json").unlink()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "price", *NOUNS, *map(str.lower, PLACES)]
    (start / "vocab.txt").write_text("\n".join(words))
    pairs = write_pairs(tmp_path / "pairs.jsonl", NOUNS[:3])
    adapt.main(tmp_path / "model", pairs=pairs, start=str(start), steps=1, max_tokens=48, threads=2)
    tokenizer = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert tokenizer.get_vocab() == {word: number for number, word in enumerate(words)}
    assert tokenizer.truncation is tokenizer.padding is None
    options = [folder / "tokenizer_config.json" for folder in (start, tmp_path / "model")]
    assert options[0].read_text() == options[1].read_text()


def test_few_pairs_of_which_chance_holds_out_none(tmp_path: Path, tiny: Path) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", NOUNS[:3])

    def chosen(seed: int) -> list[bool]:
        rows = collect({"pairs": adapt.read_pairs(pairs)}, adapt.PREPARE, seed)[1]
        return [row["held_out"] for row in rows]

    seed = next(seed for seed in range(99) if not any(chosen(seed)))
    adapt.main(tmp_path / "model", pairs=pairs, start=str(tiny), steps=1, max_tokens=48, threads=2, seed=seed)
    held_out = json.loads((tmp_path / "model" / "held-out.json").read_text())
    assert held_out["before"].keys() == {"pairs", "mean"}
    asked = [("a", []), ("b", [0]), ("c", [1]), ("d", [2, 0]), ("d", [3])]
    queries = [{"query": query, "positives": numbers, "held_out": False} for query, numbers in asked]
    adapt.hold_some_out(queries)
    held = [row["held_out"] for row in queries]
    assert held == [False, True, False, True, True], "all that the passage answers, on all their lines"


def test_a_file_that_is_not_pairs_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"query": "a", "positive": "b"}\n{"question": "a"}\n')
    with pytest.raises(adapt.PairsError, match="line 2 must be an object"):
        list(adapt.read_pairs(path))


def test_each_variant_is_trained_and_measured_on_the_same_queries(
    work: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text(
        "[prepare]\nqueries = {pairs = 40, other = 1}\nheld_out = 0.2\n[teach]\ncandidates = 6\nhard = 2\n"
        '[train]\nstart = "bundled"\nlists = 2\npassages = 3\nlayers = 2\nwarm_up = 1\nmax_tokens = 48\n'
    )
    caplog.set_level("INFO")
    output = work / "ablations.json"
    facts = {"steps": 1, "lists": 2, "device": "cpu", "queries": 210}
    output.write_text(json.dumps(facts | {"without pairs": {"mean": 0.5}}))  # no list would be left
    ablate.main(config=settings, work=work, steps=1, threads=2)
    assert "without pairs is in" in caplog.text
    table = json.loads(output.read_text())
    with pytest.raises(typer.BadParameter, match=r"'steps': 2, .* is of .'steps': 1, .*another --output"):
        ablate.main(config=settings, work=work, steps=2, threads=2)
    assert json.loads(output.read_text()) == table
    assert {name: table.pop(name) for name in facts} == facts
    assert table.pop("without pairs") == {"mean": 0.5}, "what is there is kept"
    assert table.keys() == {
        *("teacher", "recipe", "labels only", "teacher only", "without hard negatives", "without other")
    }
    assert all(found.keys() == {"pairs", "mean"} for found in table.values())
    assert not any((work / "ablations").iterdir())
