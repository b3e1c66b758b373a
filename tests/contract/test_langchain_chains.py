"""LangChain's real classes around `CrossEncoderRerank`: retrievers, LCEL, LangGraph, run-time settings."""

import asyncio
import copy
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker, DocumentCompressorPipeline
from langchain_core.documents import BaseDocumentCompressor, BaseDocumentTransformer, Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.load import dumps, loads
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import ConfigurableField, RunnableParallel, RunnablePassthrough
from langgraph.graph import END, START, StateGraph

from rerank_plugins import CrossEncoderScorer, InvalidInputError
from rerank_plugins.langchain import CrossEncoder, CrossEncoderRerank
from rerank_plugins.scoring.registry import loaded_models
from tests.contract.langchain_parts import QUERY, Fixed, agree, documents, ids


@pytest.fixture
def rerank(bundled: CrossEncoderScorer) -> CrossEncoderRerank:
    return CrossEncoderRerank(scorer=bundled, top_n=2)


def wrap(compressor: BaseDocumentCompressor) -> ContextualCompressionRetriever:
    return ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Fixed(found=documents()))


async def test_the_compression_retriever(rerank: CrossEncoderRerank) -> None:
    found = wrap(rerank).invoke(QUERY)
    assert len(found) == 2
    assert found[0].id == "b"
    agree(await wrap(rerank).ainvoke(QUERY), found)
    for batched in (wrap(rerank).batch([QUERY, QUERY]), await wrap(rerank).abatch([QUERY, QUERY])):
        assert len(batched) == 2
        for each in batched:
            agree(each, found)
    empty = ContextualCompressionRetriever(base_compressor=rerank, base_retriever=Fixed(found=[]))
    assert empty.invoke(QUERY) == []


class Shout(BaseDocumentTransformer):
    def transform_documents(self, documents: Any, **kwargs: Any) -> list[Document]:
        return [document.model_copy(update={"metadata": {"loud": True}}) for document in documents]


async def test_the_pipeline_with_others_before_and_after(rerank: CrossEncoderRerank) -> None:
    pipeline = DocumentCompressorPipeline(transformers=[Shout(), rerank, rerank])
    found = wrap(pipeline).invoke(QUERY)
    assert ids(found)[0] == "b"
    assert found[0].metadata["loud"]
    agree(await wrap(pipeline).ainvoke(QUERY), found)


async def test_lcel_invoke_batch_and_stream(rerank: CrossEncoderRerank) -> None:
    chain = RunnableParallel(documents=Fixed(found=documents()), query=RunnablePassthrough()) | rerank
    once = chain.invoke(QUERY)
    assert once[0].id == "b"
    agree(await chain.ainvoke(QUERY), once)
    streams = list(chain.stream(QUERY)), [chunk async for chunk in chain.astream(QUERY)]
    assert [len(stream) for stream in streams] == [1, 1]
    batches = chain.batch([QUERY, QUERY]), await chain.abatch([QUERY, QUERY])
    assert [len(batch) for batch in batches] == [2, 2]
    for each in (*streams[0], *streams[1], *batches[0], *batches[1]):
        agree(each, once)


async def test_a_streaming_app_gets_the_sources_and_then_the_tokens(rerank: CrossEncoderRerank) -> None:
    answer = (lambda state: state["query"]) | FakeListChatModel(responses=["Goethe"]) | StrOutputParser()
    chain = (
        RunnableParallel(documents=Fixed(found=documents()), query=RunnablePassthrough())
        | RunnablePassthrough.assign(documents=rerank)
        | RunnablePassthrough.assign(answer=answer)
    )
    chunks = [chunk async for chunk in chain.astream(QUERY)]
    keys = [next(iter(chunk)) for chunk in chunks]
    assert keys.index("documents") < keys.index("answer")
    assert [ids(chunk["documents"])[0] for chunk in chunks if "documents" in chunk] == ["b"]
    assert [chunk["answer"] for chunk in chunks if "answer" in chunk] == list("Goethe")


class State(TypedDict):
    query: str
    documents: list[Document]


async def test_a_langgraph_node(rerank: CrossEncoderRerank) -> None:
    def node(state: State) -> dict[str, Any]:
        return {"documents": rerank.invoke(state)}

    async def anode(state: State) -> dict[str, Any]:
        return {"documents": await rerank.ainvoke(state)}

    results = []
    for function in (node, anode):
        graph = StateGraph(State)
        graph.add_node("rerank", function)
        graph.add_edge(START, "rerank")
        graph.add_edge("rerank", END)
        given = {"query": QUERY, "documents": documents()}
        results.append(await graph.compile().ainvoke(given))
        assert given["documents"] == documents()
    assert ids(results[0]["documents"])[0] == "b"
    agree(results[0]["documents"], results[1]["documents"])


def test_settings_change_at_run_time(rerank: CrossEncoderRerank) -> None:
    chain = RunnableParallel(documents=Fixed(found=documents()), query=RunnablePassthrough())
    chain |= rerank.configurable_fields(
        top_n=ConfigurableField(id="top_n"),
        scale=ConfigurableField(id="scale"),
        min_score=ConfigurableField(id="min_score"),
        score_key=ConfigurableField(id="score_key"),
    )

    def call(**configurable: Any) -> list[Document]:
        return chain.invoke(QUERY, {"configurable": configurable})

    plain = call()
    agree(chain.invoke(QUERY), plain)
    assert len(plain) == 2
    assert ids(call(top_n=1)) == ["b"]
    assert len(call(top_n=None)) == 3
    assert call(top_n=0) == []
    assert call(min_score=1.1) == []
    assert call(scale="logit")[0].metadata["relevance_score"] > 1
    assert "points" in call(score_key="points")[0].metadata
    assert ids(chain.with_config(configurable={"top_n": 1}).batch([QUERY])[0]) == ["b"]
    with pytest.raises(InvalidInputError, match="top_k"):
        call(top_n=-1)


def test_what_is_configured_for_one_call_keeps_its_model(bundled: CrossEncoderScorer) -> None:
    # Settings that no other test has, or its model would be the one that stays.
    rerank = CrossEncoderRerank(model="bundled", device="cpu", max_length=77)
    configurable = rerank.configurable_fields(top_n=ConfigurableField(id="top_n"))
    state = {"documents": documents(), "query": QUERY}

    def loaded() -> int:
        return sum(info.max_length == 77 for info in loaded_models())

    assert loaded() == 0
    configurable.invoke(state, {"configurable": {"top_n": 1}})
    assert loaded() == 1
    again = pickle.loads(pickle.dumps(rerank))
    assert again == rerank
    del rerank, configurable
    assert loaded() == 1  # `again` would load the same
    del again
    assert loaded() == 0


def test_models_change_at_run_time(rerank: CrossEncoderRerank, tiny: Any) -> None:
    other = CrossEncoderRerank(model=str(tiny), device="cpu")
    chosen = rerank.configurable_alternatives(ConfigurableField(id="reranker"), tiny=other)
    state = {"documents": documents(), "query": QUERY}
    agree(chosen.invoke(state), rerank.invoke(state))
    agree(chosen.invoke(state, {"configurable": {"reranker": "tiny"}}), other.invoke(state))
    assert len(other.invoke(state)) != len(rerank.invoke(state))


async def test_bind_overrides_for_one_step(rerank: CrossEncoderRerank) -> None:
    state = {"documents": documents(), "query": QUERY}
    assert ids(rerank.bind(top_n=1).invoke(state)) == ["b"]
    agree(await rerank.bind(top_n=1).ainvoke(state), rerank.invoke(state, top_n=1))
    assert len(rerank.invoke(state, top_n=None)) == 3
    assert rerank.invoke(state, min_score=1.1) == []
    assert rerank.invoke(state, scale="logit")[0].metadata["relevance_score"] > 1
    assert len(rerank.invoke(state)) == 2


class NoThreads(ThreadPoolExecutor):
    """Stands in for an event loop's default executor, and refuses."""

    def submit(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a thread was asked for")


async def call_fifty_times(retriever: Callable[[str], Any]) -> None:
    """Check that 50 calls at once start no thread."""
    await retriever(QUERY)  # loads what loads on first use
    before = set(threading.enumerate())
    asyncio.get_running_loop().set_default_executor(NoThreads())
    seen: set[threading.Thread] = set()

    async def call() -> None:
        await retriever(QUERY)
        seen.update(threading.enumerate())

    await asyncio.gather(*(call() for _ in range(50)))
    assert seen <= before


async def test_fifty_at_once_start_no_thread(rerank: CrossEncoderRerank) -> None:
    chain = RunnableParallel(documents=Fixed(found=documents()), query=RunnablePassthrough()) | rerank
    await call_fifty_times(wrap(rerank).ainvoke)
    await call_fifty_times(chain.ainvoke)


async def test_that_check_fails_for_langchains_own_reranker(bundled: CrossEncoderScorer) -> None:
    theirs = CrossEncoderReranker(model=CrossEncoder(scorer=bundled))
    with pytest.raises(AssertionError, match="a thread was asked for"):
        await call_fifty_times(wrap(theirs).ainvoke)


async def test_fifty_different_calls_at_once_equal_one_by_one(rerank: CrossEncoderRerank) -> None:
    states = [
        {
            "documents": [*documents(), Document(f"Number {i} wrote {i % 7} books.")],
            "query": f"who wrote {i}?",
        }
        for i in range(50)
    ]
    before = copy.deepcopy(states)
    one_by_one = [rerank.invoke(state) for state in states]
    at_once = await asyncio.gather(*(rerank.ainvoke(state) for state in states))
    assert states == before
    for found, expected in zip(at_once, one_by_one, strict=True):
        agree(found, expected)


async def test_round_trips_give_equal_results() -> None:
    rerank = CrossEncoderRerank(model="bundled", device="cpu", top_n=2, scale="logit")
    expected = rerank.compress_documents(documents(), QUERY)
    text = dumps(rerank)
    copies = [
        loads(text, allowed_objects=[CrossEncoderRerank], valid_namespaces=["rerank_plugins"]),
        pickle.loads(pickle.dumps(rerank)),
        copy.deepcopy(rerank),
        rerank.model_copy(),
    ]
    for again in copies:
        assert again == rerank
        agree(again.compress_documents(documents(), QUERY), expected)
        agree(await again.acompress_documents(documents(), QUERY), expected)


def test_a_second_pass_equals_the_first(rerank: CrossEncoderRerank) -> None:
    first = rerank.compress_documents(documents(), QUERY)
    kept = copy.deepcopy(first)
    second = rerank.compress_documents(first, QUERY)
    assert first == kept
    for document, of_first in zip(second, first, strict=True):
        assert document.metadata.pop("previous_relevance_score") == of_first.metadata["relevance_score"]
        of_first.metadata.pop("previous_relevance_score", None)
    agree(second, first)
