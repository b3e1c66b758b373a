"""How adapters hold a reranker."""

from collections.abc import Iterable
from typing import Any

import pytest
from haystack import Document

from rerank_plugins import CrossEncoderScorer, InvalidInputError, Reranker
from rerank_plugins import langchain as for_langchain
from rerank_plugins import llama_index as for_llama_index
from rerank_plugins.haystack import CrossEncoderRanker
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.ranking import Ranking
from tests.scorers import Fixed

SERVER = "http://127.0.0.1:9"


class Counting(Reranker):
    """What a user may write, with a constructor of its own."""

    def __init__(self, logits: list[float]) -> None:
        super().__init__(Fixed(logits))
        self.calls = 0

    def rank(self, query: str, documents: Iterable[str], **changes: Any) -> Ranking:
        self.calls += 1
        return super().rank(query, documents, **changes)


def test_a_ready_reranker_is_used_as_it_is() -> None:
    mine = Counting([1.0, 2.0])
    rerank = for_langchain.CrossEncoderRerank(reranker=mine)
    assert [row["index"] for row in rerank.rerank(["a", "b"], "q")] == [1, 0]
    assert mine.calls == 1


def test_options_beside_it_make_a_copy_of_its_own_kind() -> None:
    mine = Counting([1.0, 2.0])
    lazy = LazyReranker(reranker=mine, rerank_options={"top_k": 1})
    held = lazy.get()
    assert isinstance(held, Counting)
    assert len(held.rank("q", ["a", "b"])) == 1
    assert (held.calls, mine.calls, mine.settings.top_k, held.scorer) == (1, 0, None, mine.scorer)
    with pytest.raises(InvalidInputError, match="max_passage"):
        LazyReranker(reranker=mine, rerank_options={"long_documents": "max_passage"})


def test_a_model_on_a_server_has_one_name() -> None:
    for options in ({"remote": SERVER}, {"remote": {"base_urls": SERVER, "model": "m"}}):
        assert LazyReranker(scorer_options=options | {"model": "m"}).model == "m"
    with pytest.raises(InvalidInputError, match=r"'a'.*'b'"):
        LazyReranker(scorer_options={"model": "a", "remote": {"base_urls": SERVER, "model": "b"}})


def test_a_model_has_the_same_name_before_it_is_loaded(bundled: CrossEncoderScorer) -> None:
    lazy = LazyReranker(scorer_options={"model": "bundled", "device": "cpu"})
    before = lazy.model
    lazy.get()
    assert lazy.model == before
    old = LazyReranker(scorer_options={"model": "ms-marco-MiniLM-L-6-v2"})
    assert old.model == "cross-encoder/ms-marco-MiniLM-L6-v2"


def test_a_changed_setting_keeps_the_connections_to_a_server() -> None:
    rerank = for_llama_index.CrossEncoderRerank(remote=SERVER)
    scorer = rerank._lazy.get().scorer
    rerank.top_n = 3
    assert rerank._lazy.get().scorer is scorer
    assert rerank._lazy.settings.top_k == 3
    rerank.remote = "http://127.0.0.1:10"
    assert rerank._lazy.get().scorer is not scorer


def test_langchains_configured_copies_share_the_connections_to_a_server() -> None:
    one = for_langchain.CrossEncoderRerank(remote=SERVER)
    scorer = one._get().scorer
    assert for_langchain.CrossEncoderRerank(remote=SERVER, top_n=2)._get().scorer is scorer
    one._lazy.close()
    assert for_langchain.CrossEncoderRerank(remote=SERVER)._get().scorer is not scorer


def test_whoever_shares_connections_that_were_closed_connects_anew() -> None:
    one, other = (for_langchain.CrossEncoderRerank(remote=SERVER, top_n=n) for n in (1, 2))
    assert one._get().scorer is other._get().scorer
    one.close()
    fresh = other._get().scorer
    assert not fresh.closed
    assert one._get().scorer is fresh


def test_an_assigned_setting_keeps_what_the_environment_said_of_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RERANK_REMOTE_TIMEOUT", "7")
    monkeypatch.setenv("RERANK_REMOTE_SCALE", "logit")
    rerank = for_llama_index.CrossEncoderRerank(remote=SERVER, model="a")
    monkeypatch.delenv("RERANK_REMOTE_TIMEOUT")
    monkeypatch.delenv("RERANK_REMOTE_SCALE")
    before = rerank._lazy.scorer_settings
    rerank.scale = "logit"
    assert rerank._lazy.scorer_settings == before
    rerank.model = "b"
    assert rerank._lazy.scorer_settings.model_dump() == before.model_dump() | {"model": "b"}
    rerank.remote = {"base_urls": SERVER, "timeout": 3}
    assert rerank._lazy.scorer_settings.timeout == 3
    rerank.model = None
    assert rerank._lazy.scorer_settings.model is None
    with pytest.raises(InvalidInputError, match=r"'b'.*'a'"):
        rerank.model_copy(update={"remote": {"base_urls": SERVER, "model": "a"}, "model": "b"})
    with pytest.raises(InvalidInputError, match="device cannot be set for a server"):
        rerank.device = "cpu"


def test_a_server_cannot_be_asked_for_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (for_langchain.CrossEncoderRerank, for_llama_index.CrossEncoderRerank, CrossEncoderRanker):
        with pytest.raises(InvalidInputError, match='must be "truncate" with remote'):
            make(remote=SERVER, long_documents="max_passage")
    monkeypatch.setenv("RERANK_LONG_DOCUMENTS", "max_passage")
    with pytest.raises(InvalidInputError, match='must be "truncate" with remote'):
        LazyReranker(scorer_options={"remote": SERVER})


class LetGo(LazyReranker):
    """One whose model another thread lets go of as soon as it was looked at."""

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name == "_ready" and value is not None:
            self._ready = None
        return value


async def test_it_may_be_let_go_while_it_is_looked_at() -> None:
    def held() -> LazyReranker:
        lazy = LazyReranker(scorer=Fixed([1.0]))
        lazy.__class__ = LetGo
        return lazy

    assert held().model == "Fixed"
    assert held().loaded
    assert isinstance(held().get(), Reranker)
    assert isinstance(await held().aget(), Reranker)


class Talkative(Fixed):
    """A scorer whose `info` is something else than ours."""

    def __init__(self, info: Any) -> None:
        super().__init__([1.0, 2.0])
        self.info = info


@pytest.mark.parametrize("info", [lambda: "mine", {"model": "mine"}, "mine"], ids=["method", "dict", "text"])
def test_an_info_that_is_none_of_ours_is_not_read(info: Any) -> None:
    scorer = Talkative(info)
    assert LazyReranker(scorer=scorer).model == "Talkative"
    assert [row["index"] for row in for_langchain.CrossEncoderRerank(scorer=scorer).rerank(["a", "b"], "q")]
    documents = [Document(content="a"), Document(content="b")]
    assert CrossEncoderRanker(scorer=scorer).run("q", documents)["documents"][0].content == "b"
