"""What a tracer sees of `CrossEncoderRerank`."""

from typing import Any

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker, DocumentCompressorPipeline
from langchain_core.documents import BaseDocumentCompressor
from langchain_core.runnables import ConfigurableField, RunnableParallel, RunnablePassthrough
from langgraph.graph import END, START, StateGraph

from rerank_plugins import CrossEncoderScorer, ScoringError
from rerank_plugins.langchain import CrossEncoder, CrossEncoderRerank
from tests.contract.langchain_parts import QUERY, Fixed, Recorder, documents
from tests.contract.test_langchain_chains import State
from tests.scorers import Broken

NAME = "CrossEncoderRerank"


@pytest.fixture
def rerank(bundled: CrossEncoderScorer) -> CrossEncoderRerank:
    return CrossEncoderRerank(scorer=bundled, top_n=2)


def check(recorder: Recorder, parent_name: str | None) -> None:
    """Check name, parent, inputs, outputs and metadata of the only rerank in a trace."""
    run, parent = recorder.find(NAME)
    assert (parent.name if parent else None) == parent_name
    assert run.run_type == "chain"
    assert run.error is None
    assert run.inputs == {"documents": documents(), "query": QUERY}
    output = run.outputs["output"]
    assert [document.id for document in output] == ["b", output[1].id]
    assert output[0].metadata["relevance_score"] > output[1].metadata["relevance_score"]
    assert run.metadata["rerank_model"] == "bundled"
    assert run.metadata["rerank_top_k"] == 2
    assert run.metadata["user"] == "u1"


def config(recorder: Recorder) -> Any:
    return {"callbacks": [recorder], "metadata": {"user": "u1"}}


def wrap(compressor: BaseDocumentCompressor) -> ContextualCompressionRetriever:
    return ContextualCompressionRetriever(base_compressor=compressor, base_retriever=Fixed(found=documents()))


async def test_by_itself(rerank: CrossEncoderRerank) -> None:
    state = {"documents": documents(), "query": QUERY}
    recorder, arecorder = Recorder(), Recorder()
    rerank.invoke(state, config(recorder))
    await rerank.ainvoke(state, config(arecorder))
    check(recorder, None)
    check(arecorder, None)


async def test_in_a_retriever_and_a_pipeline(rerank: CrossEncoderRerank) -> None:
    for compressor in (rerank, DocumentCompressorPipeline(transformers=[rerank])):
        recorder, arecorder = Recorder(), Recorder()
        wrap(compressor).invoke(QUERY, config(recorder))
        await wrap(compressor).ainvoke(QUERY, config(arecorder))
        check(recorder, "ContextualCompressionRetriever")
        check(arecorder, "ContextualCompressionRetriever")


def test_that_langchains_own_reranker_leaves_no_run(bundled: CrossEncoderScorer) -> None:
    recorder = Recorder()
    wrap(CrossEncoderReranker(model=CrossEncoder(scorer=bundled))).invoke(QUERY, config(recorder))
    (root,) = recorder.roots
    assert [child.name for child in root.child_runs] == ["Fixed"]


async def test_in_a_chain_and_a_graph(rerank: CrossEncoderRerank) -> None:
    chain = RunnableParallel(documents=Fixed(found=documents()), query=RunnablePassthrough()) | rerank
    recorder = Recorder()
    await chain.ainvoke(QUERY, config(recorder))
    check(recorder, "RunnableSequence")

    async def node(state: State) -> dict[str, Any]:
        # No config is passed on: the run that is going on is the parent all the same.
        return {"documents": await rerank.acompress_documents(state["documents"], state["query"])}

    graph = StateGraph(State)
    graph.add_node("order", node)
    graph.add_edge(START, "order")
    graph.add_edge("order", END)
    recorder = Recorder()
    await graph.compile().ainvoke({"documents": documents(), "query": QUERY}, config(recorder))
    check(recorder, "order")


def test_what_was_changed_for_the_call_is_what_is_traced(rerank: CrossEncoderRerank) -> None:
    state = {"documents": documents(), "query": QUERY}
    configurable = rerank.configurable_fields(top_n=ConfigurableField(id="n"))
    calls = {
        1: lambda c: rerank.invoke(state, c, top_n=1),
        None: lambda c: rerank.bind(top_n=None).invoke(state, c),
        0: lambda c: configurable.invoke(state, c | {"configurable": {"n": 0}}),
    }
    for expected, call in calls.items():
        recorder = Recorder()
        call(config(recorder))
        assert recorder.find(NAME)[0].metadata["rerank_top_k"] == expected


def test_a_name_of_ones_own() -> None:
    recorder = Recorder()
    rerank = CrossEncoderRerank(scorer=Broken(), on_error="keep_order", name="second stage")
    rerank.compress_documents(documents(), QUERY, callbacks=[recorder])
    run, _ = recorder.find("second stage")
    assert all(document.metadata["reranked"] is False for document in run.outputs["output"])
    assert run.metadata["rerank_model"] == "Broken"


def test_an_error_is_in_the_trace() -> None:
    recorder = Recorder()
    with pytest.raises(ScoringError):
        CrossEncoderRerank(scorer=Broken()).compress_documents(documents(), QUERY, callbacks=[recorder])
    run, _ = recorder.find(NAME)
    assert "the device fell off" in run.error
