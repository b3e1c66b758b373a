"""The semantics that Haystack's own similarity rankers test, restated, for ours and for theirs.

Checks are written in Haystack's words (`scale_score`, `score_threshold`, ...); `translate` puts them
into ours, and is the migration table of docs/migration/haystack.md as code. Haystack's rankers run only where
they are installed (`make test-compat`); what fails there is printed, and shows that checks can fail.
"""

import copy
import importlib
import inspect
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from haystack import Document, Pipeline
from safetensors.torch import save_file

from rerank_plugins.haystack import CrossEncoderRanker
from rerank_plugins.scoring.loading import load_weights
from tests.models import BUNDLED, add_tokenizer

QUERY = "who wrote Faust?"
DOCUMENTS = [
    Document(id="hand", content="A fist is a hand.", meta={"title": "Hands", "year": 0, "open": False}),
    Document(id="faust", content="Goethe wrote Faust.", meta={"title": "Weimar", "none": None}),
    Document(id="city", content="Sarajevo is a city in Bosnia and Herzegovina."),
]
Make = Callable[..., Any]


def translate(options: dict[str, Any]) -> dict[str, Any]:
    """Return Haystack's options as ours."""
    renamed = {"score_threshold": "min_score", "backend": "engine"}
    ours = {renamed.get(name, name): value for name, value in options.items()}
    scaled = ours.pop("scale_score", None)
    if scaled is not None:
        ours["scale"] = "probability" if scaled else "logit"
    return ours


class Ours:
    """`CrossEncoderRanker`, spoken to in Haystack's words."""

    def __init__(self, **options: Any) -> None:
        self.ranker = CrossEncoderRanker(**translate(options))

    def run(self, **options: Any) -> dict[str, list[Document]]:
        return self.ranker.run(**translate(options))


def rank(ranker: Any, documents: list[Document] = DOCUMENTS, **options: Any) -> list[Document]:
    return ranker.run(query=QUERY, documents=copy.deepcopy(documents), **options)["documents"]


def scores(ranker: Any, documents: list[Document] = DOCUMENTS, **options: Any) -> list[float]:
    return [float(document.score or 0) for document in rank(ranker, documents, **options)]


def ids(found: list[Document]) -> list[str]:
    return [document.id for document in found]


def component(ranker: Any) -> Any:
    return getattr(ranker, "ranker", ranker)


def check_best_first(make: Make) -> None:
    found = rank(make())
    assert found[0].id == "faust"
    assert [d.score for d in found] == sorted((d.score for d in found), reverse=True)
    assert sorted(ids(found)) == ["city", "faust", "hand"]


def check_scores_are_floats_between_0_and_1(make: Make) -> None:
    found = rank(make())
    assert all(type(document.score) is float and 0 < document.score < 1 for document in found)


def check_scale_score_false_gives_logits(make: Make) -> None:
    logits, probabilities = scores(make(scale_score=False)), scores(make())
    assert probabilities == pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits], rel=1e-4)


def check_scale_score_at_run_time(make: Make) -> None:
    assert scores(make(), scale_score=False) == pytest.approx(scores(make(scale_score=False)))
    assert scores(make(scale_score=False), scale_score=True) == pytest.approx(scores(make()))


def check_top_k(make: Make) -> None:
    assert len(rank(make(top_k=2))) == 2
    assert len(rank(make(top_k=2), top_k=1)) == 1
    assert len(rank(make(top_k=2), top_k=9)) == 3


def check_top_k_must_be_positive_at_init(make: Make) -> None:
    for top_k in (0, -1):
        with pytest.raises(ValueError, match=f"top_k must be > 0, but got {top_k}"):
            make(top_k=top_k)


def check_top_k_must_be_positive_at_run_time(make: Make) -> None:
    for top_k in (-1, 0):
        with pytest.raises(ValueError, match=f"top_k must be > 0, but got {top_k}"):
            rank(make(), top_k=top_k)


def check_threshold_is_inclusive(make: Make) -> None:
    ranker = make()
    second = scores(ranker)[1]
    assert len(rank(ranker, score_threshold=second)) == 2
    assert len(rank(make(score_threshold=second))) == 2
    assert len(rank(ranker, score_threshold=math.nextafter(second, 1))) == 1


def check_threshold_zero_counts_at_run_time(make: Make) -> None:
    ranker = make(scale_score=False, score_threshold=1e9)
    assert rank(ranker) == []
    expected = [score for score in scores(make(scale_score=False)) if score >= 0]
    assert scores(ranker, score_threshold=0.0) == pytest.approx(expected)
    assert expected


def check_threshold_zero_counts_at_init(make: Make) -> None:
    found = scores(make(scale_score=False, score_threshold=0.0))
    assert found
    assert all(score >= 0 for score in found)


def check_no_documents(make: Make) -> None:
    assert rank(make(), []) == []


def check_one_document(make: Make) -> None:
    (found,) = rank(make(), DOCUMENTS[:1])
    assert type(found.score) is float


def check_no_content_is_scored_as_empty(make: Make) -> None:
    ranker = make()
    without, empty = Document(id="x", content=None), Document(id="x", content="")
    assert scores(ranker, [without]) == pytest.approx(scores(ranker, [empty]))


def check_equal_ids_count_once_and_the_best_stays(make: Make) -> None:
    twins = [
        Document(id="a", content="first", score=0.1),
        Document(id="a", content="best", score=0.9),
        Document(id="a", content="never scored"),
        Document(id="b", content="other"),
    ]
    for given in (twins, twins[::-1]):
        assert sorted(document.content for document in rank(make(), given)) == ["best", "other"]


def check_meta_fields_are_read_before_the_content(make: Make) -> None:
    options = {"meta_fields_to_embed": ["title", "year", "open", "none", "no_such"]}
    for separator in ("\n", " | "):
        ranker = make(**options, embedding_separator=separator)
        written = [
            replace(DOCUMENTS[0], content=separator.join(["Hands", "0", "False", "A fist is a hand."])),
            replace(DOCUMENTS[1], content=separator.join(["Weimar", "Goethe wrote Faust."])),
            DOCUMENTS[2],
        ]
        assert scores(ranker) == pytest.approx(scores(make(), written), rel=1e-4)
    assert scores(make(**options)) != pytest.approx(scores(make()), rel=1e-4)


def check_prefixes_and_suffixes(make: Make) -> None:
    ranker = make(
        query_prefix="query: ", query_suffix=" ?", document_prefix="passage: ", document_suffix=" ."
    )
    written = [replace(d, content=f"passage: {d.content} .") for d in DOCUMENTS]
    plain = make().run(query=f"query: {QUERY} ?", documents=written)["documents"]
    assert scores(ranker) == pytest.approx([d.score for d in plain], rel=1e-4)


def check_input_stays_as_it_is(make: Make) -> None:
    given = copy.deepcopy(DOCUMENTS)
    found = make().run(query=QUERY, documents=given)["documents"]
    assert given == DOCUMENTS
    assert all(a is not b for a in found for b in given)


def check_results_share_no_meta_with_the_input(make: Make) -> None:
    given = copy.deepcopy(DOCUMENTS)
    for document in make().run(query=QUERY, documents=given)["documents"]:
        document.meta["seen"] = True
    assert given == DOCUMENTS


def check_dict_round_trip(make: Make) -> None:
    ranker = component(make(top_k=2, meta_fields_to_embed=["title"], scale_score=False))
    data = ranker.to_dict()
    before = copy.deepcopy(data)
    again = type(ranker).from_dict(data)
    assert data == before
    assert again.to_dict() == before
    assert [d.score for d in rank(again)] == pytest.approx([d.score for d in rank(ranker)])


def check_an_unset_device_stays_unset(make: Make) -> None:
    parameters = component(make()).to_dict()["init_parameters"]
    assert parameters["device"] is None
    assert not (parameters.get("model_kwargs") or {}).get("device_map")


def check_all_can_be_given_by_position_or_name(make: Make) -> None:
    ranker = component(make())
    by_name = ranker.run(query=QUERY, documents=copy.deepcopy(DOCUMENTS))["documents"]
    assert ids(ranker.run(QUERY, copy.deepcopy(DOCUMENTS))["documents"]) == ids(by_name)


def check_run_async_has_the_signature_of_run(make: Make) -> None:
    ranker = component(make())
    assert inspect.iscoroutinefunction(ranker.run_async)
    assert inspect.signature(ranker.run_async) == inspect.signature(ranker.run)


def check_yaml_round_trip_in_a_pipeline(make: Make) -> None:
    ranker = component(make(top_k=2))
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    again = Pipeline.loads(pipeline.dumps())
    given = {"ranker": {"query": QUERY, "documents": DOCUMENTS}}
    assert ids(again.run(given)["ranker"]["documents"]) == ids(pipeline.run(given)["ranker"]["documents"])


CHECKS = {
    name.removeprefix("check_"): check for name, check in list(globals().items()) if name.startswith("check_")
}

PEERS = {
    "SentenceTransformersSimilarityRanker": (
        "haystack_integrations.components.rankers.sentence_transformers",
        "haystack.components.rankers",
    ),
    "TransformersSimilarityRanker": ("haystack.components.rankers",),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of the bundled model in float32, which other libraries load, too."""
    folder = tmp_path_factory.mktemp("plain")
    shutil.copy(BUNDLED / "config.json", folder)
    save_file(load_weights(BUNDLED), folder / "model.safetensors", metadata={"format": "pt"})
    add_tokenizer(folder)
    return str(folder)


def ours(model: str) -> Make:
    return partial(Ours, model=model, dtype="float32")


def import_peer(name: str) -> type:
    """Return Haystack's class, or skip. A home that it has left answers ImportError or AttributeError."""
    for module in PEERS[name]:
        try:
            peer: type = getattr(importlib.import_module(module), name)
            peer(model="any")  # says here what else it needs
        except (AttributeError, ImportError):
            continue
        return peer
    return pytest.skip(f"{name} is not there; make test-compat has it, where its haystack-ai still does")


@pytest.mark.parametrize("name", CHECKS)
def test_ours_passes(name: str, model: str) -> None:
    CHECKS[name](ours(model))


@pytest.mark.parametrize("peer", PEERS)
def test_the_checks_can_fail(peer: str, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    cls = import_peer(peer)
    failed = {}
    for name, check in CHECKS.items():
        try:
            check(partial(cls, model=model))
        except (Exception, pytest.fail.Exception) as error:
            failed[name] = type(error).__name__
    shown = ", ".join(f"{name} ({error})" for name, error in failed.items())
    with capsys.disabled():
        sys.stdout.write(f"\n{cls.__module__} fails {len(failed)} of {len(CHECKS)}: {shown}\n")
    # It is a ranker all the same: these hold, so the failures are its own.
    assert not {"best_first", "top_k", "no_documents", "one_document"} & set(failed)
    assert {"an_unset_device_stays_unset", "run_async_has_the_signature_of_run"} <= set(failed)


@pytest.mark.parametrize("peer", PEERS)
def test_ours_scores_as_theirs(peer: str, model: str) -> None:
    options = {"meta_fields_to_embed": ["title"], "scale_score": False}
    mine, theirs = ours(model)(**options), import_peer(peer)(model=model, **options)
    assert ids(rank(mine)) == ids(rank(theirs))
    assert scores(mine) == pytest.approx(scores(theirs), abs=1e-3)
