"""What LangChain's own `CrossEncoderReranker` promises, and what it gets wrong, checked on both.

Its promises are checked on ours too. What it gets wrong are checks that ours passes and it fails, so
that we know they can fail.
"""

import json
import math
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.load import dumps
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests

from rerank_plugins import CrossEncoderScorer, InvalidInputError, InvalidTypeError, ScoringError
from rerank_plugins.langchain import CrossEncoder, CrossEncoderRerank
from tests.contract.langchain_parts import QUERY, documents, ids
from tests.scorers import Broken

Make = Callable[..., BaseDocumentCompressor]


@pytest.fixture
def ours() -> Make:
    return lambda **settings: CrossEncoderRerank(model="bundled", device="cpu", **settings)


@pytest.fixture
def theirs(bundled: CrossEncoderScorer) -> Make:
    return lambda **settings: CrossEncoderReranker(model=CrossEncoder(scorer=bundled), **settings)


@pytest.fixture(params=["ours", "theirs"])
def both(request: pytest.FixtureRequest) -> Make:
    return request.getfixturevalue(request.param)


# What it promises.


def test_the_best_come_first_and_top_n_cuts(both: Make) -> None:
    everything = ids(both(top_n=3).compress_documents(documents(), QUERY))
    assert everything[0] == "b"
    assert sorted(filter(None, everything)) == ["a", "b", "c"]
    for top_n in (0, 1, 2):
        assert ids(both(top_n=top_n).compress_documents(documents(), QUERY)) == everything[:top_n]
    assert ids(both(top_n=99).compress_documents(documents(), QUERY)) == everything


async def test_nothing_in_nothing_out(both: Make) -> None:
    assert list(both(top_n=3).compress_documents([], QUERY)) == []
    assert list(await both(top_n=3).acompress_documents([], QUERY)) == []


async def test_async_is_sync(both: Make) -> None:
    compressor = both(top_n=2)
    expected = compressor.compress_documents(documents(), QUERY)
    assert ids(await compressor.acompress_documents(documents(), QUERY)) == ids(expected)


def test_equal_documents_keep_their_order(both: Make) -> None:
    same = [Document("Goethe wrote Faust.", id=str(i)) for i in range(5)]
    assert ids(both(top_n=5).compress_documents(same, QUERY)) == list("01234")


def test_an_unknown_setting_is_refused(both: Make) -> None:
    with pytest.raises(ValueError, match="topn"):
        both(topn=3)


# What it gets wrong.


def the_score_is_on_the_document(make: Make) -> None:
    found = make(top_n=2).compress_documents(documents(), QUERY)
    scores = [document.metadata.get("relevance_score") for document in found]
    assert scores[0] != 0.2
    assert all(type(score) is float for score in scores)
    json.dumps(scores)


def results_are_copies(make: Make) -> None:
    given = documents()
    found = make(top_n=2).compress_documents(given, QUERY)
    assert not {id(document) for document in found} & {id(document) for document in given}
    for document in found:
        document.metadata["mine"] = True
    assert given == documents()


def all_documents_by_default(make: Make) -> None:
    assert len(make().compress_documents([*documents(), *documents()], QUERY)) == 6


def a_negative_top_n_is_refused(make: Make) -> None:
    try:
        make(top_n=-1)
    except ValueError:
        return
    raise AssertionError("accepted")


def dumps_writes_it(make: Make) -> None:
    assert json.loads(dumps(make(top_n=2)))["type"] == "constructor"


CHECKS = [
    the_score_is_on_the_document,
    results_are_copies,
    all_documents_by_default,
    a_negative_top_n_is_refused,
    dumps_writes_it,
]


@pytest.mark.parametrize("check", CHECKS)
def test_ours_passes(check: Callable[[Make], None], ours: Make) -> None:
    check(ours)


@pytest.mark.parametrize("check", CHECKS)
def test_theirs_fails(check: Callable[[Make], None], theirs: Make) -> None:
    with pytest.raises(AssertionError):
        check(theirs)


# Our engine inside theirs.


def test_one_changed_line_gives_our_engine(bundled: CrossEncoderScorer, ours: Make) -> None:
    model = CrossEncoder("bundled", device="cpu")
    assert isinstance(model, BaseCrossEncoder)
    chain = ContextualCompressionRetriever(
        base_compressor=CrossEncoderReranker(model=model, top_n=2), base_retriever=Everything(k=3)
    )
    expected = ours(top_n=2).compress_documents(documents(), QUERY)
    assert ids(chain.invoke(QUERY)) == ids(expected)


def test_scores_are_python_floats_in_input_order(bundled: CrossEncoderScorer) -> None:
    pairs = [("who wrote Faust?", "Goethe wrote Faust."), ("what is a fist?", "A fist is a hand.")]
    pairs += [(query, text) for query, _ in pairs for _, text in reversed(pairs)]
    expected = bundled.score_pairs(pairs)
    logits = CrossEncoder(scorer=bundled, scale="logit").score(pairs)
    assert [type(score) for score in logits] == [float] * 6
    assert logits == pytest.approx([float(logit) for logit in expected], abs=1e-5)
    probabilities = CrossEncoder(scorer=bundled).score(pairs)
    assert probabilities == pytest.approx([1 / (1 + math.exp(-logit)) for logit in logits], abs=1e-6)
    assert CrossEncoder(scorer=bundled).score([]) == []


def test_the_environment_sets_the_scale_but_drops_nothing(
    bundled: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_TOP_K", "1")
    monkeypatch.setenv("RERANK_MIN_SCORE", "0.9")
    monkeypatch.setenv("RERANK_ON_ERROR", "keep_order")
    monkeypatch.setenv("RERANK_SCALE", "logit")
    pairs = [(QUERY, document.page_content) for document in documents()]
    logits = bundled.score_pairs(pairs)
    assert CrossEncoder(scorer=bundled).score(pairs) == pytest.approx(logits.tolist(), abs=1e-5)
    with pytest.raises(ScoringError):
        CrossEncoder(scorer=Broken()).score(pairs)


def test_a_scorer_of_ones_own_is_enough() -> None:
    class Lengths:
        def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
            return np.array([len(query) * 100 + len(text) for text in documents], dtype=np.float32)

    model = CrossEncoder(scorer=Lengths(), scale="logit")
    assert model.score([("ab", "x"), ("a", "xyz"), ("ab", "")]) == [201.0, 103.0, 200.0]


def test_pickle_keeps_the_settings() -> None:
    model = CrossEncoder("bundled", device="cpu", scale="logit")
    pairs = [(QUERY, "Goethe wrote Faust.")]
    expected = model.score(pairs)
    assert pickle.loads(pickle.dumps(model)).score(pairs) == expected
    assert repr(model) == "CrossEncoder('bundled', scale='logit')"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"devise": "cpu"}, "devise"), ({"scale": "percent"}, "percent"), ({"top_k": 3}, "top_k")],
)
def test_bad_settings_raise_ours(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        CrossEncoder("bundled", **settings)


def test_a_pair_that_is_none_is_named(bundled: CrossEncoderScorer) -> None:
    with pytest.raises(InvalidTypeError, match=r"pairs\[1\]"):
        CrossEncoder(scorer=bundled).score([("a", "b"), ("a", None)])  # type: ignore[list-item]


# LangChain's suite for retrievers, over one whose documents ours orders.


class Everything(BaseRetriever):
    """Finds the first `k` documents, whatever is asked."""

    k: int

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None
    ) -> list[Document]:
        return documents()[: self.k if k is None else k]


class Reranked(ContextualCompressionRetriever):
    """Vectors find, ours orders and cuts."""

    def __init__(self, k: int = 4, **fields: Any) -> None:
        store = InMemoryVectorStore(DeterministicFakeEmbedding(size=16))
        store.add_documents([Document(f"Book {i} is about rivers.", id=str(i)) for i in range(10)])
        fields["base_compressor"] = CrossEncoderRerank(model="bundled", device="cpu", top_n=k)
        super().__init__(base_retriever=store.as_retriever(search_kwargs={"k": 8}), **fields)


class TestLangChainsRetrieverSuite(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[Reranked]:
        return Reranked

    @property
    def retriever_query_example(self) -> str:
        return "which book is about rivers?"
