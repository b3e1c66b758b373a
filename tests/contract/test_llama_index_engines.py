"""`CrossEncoderRerank` inside LlamaIndex's engines, routers, evaluator, tools and workflows."""

from collections.abc import Sequence

import pytest
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.base.response.schema import AsyncStreamingResponse, StreamingResponse
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine, RouterQueryEngine
from llama_index.core.retrievers import RouterRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.tools import QueryEngineTool, RetrieverTool, ToolMetadata
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.llama_index import CrossEncoderRerank
from tests.contract.llama_index_parts import QUERY, Fixed, watching

BEST_FIRST = ["b", "a"]


@pytest.fixture
def rerank(bundled: CrossEncoderScorer) -> CrossEncoderRerank:
    return CrossEncoderRerank(
        scorer=bundled, top_n=2, keep_retrieval_score=True, long_documents="max_passage"
    )


def ids(found: Sequence[NodeWithScore]) -> list[str]:
    return [node.node_id for node in found]


def check_prompt(prompt: str, *, best_first: bool = True) -> None:
    """MockLLM answers with its prompt: there the best comes first, and nothing of ours is in it."""
    best, other = prompt.index("Goethe wrote Faust."), prompt.index("A fist is a hand.")
    assert best < other or not best_first
    assert "year: 1808" in prompt
    assert "retrieval_score" not in prompt
    assert "rerank" not in prompt


async def test_query_engine(rerank: CrossEncoderRerank) -> None:
    engine = RetrieverQueryEngine.from_args(Fixed(), llm=MockLLM(), node_postprocessors=[rerank])
    for response in (engine.query(QUERY), await engine.aquery(QUERY)):
        assert ids(response.source_nodes) == BEST_FIRST
        assert response.source_nodes[0].metadata["retrieval_score"] == 0.5
        check_prompt(str(response))


async def test_streaming_query_engine(rerank: CrossEncoderRerank) -> None:
    engine = RetrieverQueryEngine.from_args(
        Fixed(), llm=MockLLM(), node_postprocessors=[rerank], streaming=True
    )
    response = engine.query(QUERY)
    assert isinstance(response, StreamingResponse)
    assert ids(response.source_nodes) == BEST_FIRST, "sources are there before the first token"
    check_prompt("".join(response.response_gen))
    streamed = await engine.aquery(QUERY)
    assert isinstance(streamed, AsyncStreamingResponse)
    check_prompt("".join([token async for token in streamed.async_response_gen()]))


async def test_context_chat_engine(rerank: CrossEncoderRerank) -> None:
    engine = ContextChatEngine.from_defaults(Fixed(), llm=MockLLM(), node_postprocessors=[rerank])
    for response in (engine.chat(QUERY), await engine.achat(QUERY)):
        assert ids(response.source_nodes) == BEST_FIRST
        check_prompt(str(response))


async def test_condense_plus_context_chat_engine_reranks_for_the_condensed_question(
    rerank: CrossEncoderRerank,
) -> None:
    engine = CondensePlusContextChatEngine.from_defaults(Fixed(), llm=MockLLM(), node_postprocessors=[rerank])
    with watching() as seen:
        assert ids((await engine.achat(QUERY)).source_nodes) == BEST_FIRST
        response = engine.chat("and when?")
    # The question is a whole prompt by then, for which no order is the right one.
    check_prompt(str(response), best_first=False)
    first, second = (event.query for event in seen.events[::2])
    assert first == QUERY
    assert "Standalone question" in second, "MockLLM condenses to its own prompt"
    assert "and when?" in second


class Last(BaseSelector):
    """Always choose the last."""

    def _get_prompts(self) -> dict:
        return {}

    def _update_prompts(self, prompts: dict) -> None:
        pass

    def _select(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return SelectorResult(selections=[SingleSelection(index=len(choices) - 1, reason="it is the last")])

    async def _aselect(self, choices: Sequence[ToolMetadata], query: QueryBundle) -> SelectorResult:
        return self._select(choices, query)


class Nothing(Fixed):
    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return []


async def test_router_query_engine(rerank: CrossEncoderRerank) -> None:
    tools = [
        QueryEngineTool.from_defaults(
            RetrieverQueryEngine.from_args(retriever, llm=MockLLM(), node_postprocessors=[rerank]),
            name=name,
            description=name,
        )
        for name, retriever in (("nothing", Nothing()), ("fixed", Fixed()))
    ]
    router = RouterQueryEngine(Last(), tools, llm=MockLLM())
    assert ids(router.query(QUERY).source_nodes) == BEST_FIRST
    assert ids((await router.aquery(QUERY)).source_nodes) == BEST_FIRST
    assert tools[0].query_engine.query(QUERY).source_nodes == []


async def test_router_retriever_and_retriever_tool(rerank: CrossEncoderRerank) -> None:
    tools = [RetrieverTool.from_defaults(found, description="d") for found in (Nothing(), Fixed())]
    router = RouterRetriever(Last(), tools, llm=MockLLM())
    engine = RetrieverQueryEngine.from_args(router, llm=MockLLM(), node_postprocessors=[rerank])
    assert ids(engine.query(QUERY).source_nodes) == BEST_FIRST
    tool = RetrieverTool.from_defaults(router, node_postprocessors=[rerank], description="d")
    for output in (tool.call(QUERY), await tool.acall(QUERY)):
        assert ids(output.raw_output) == BEST_FIRST
        check_prompt(output.content)


async def test_retriever_evaluator(rerank: CrossEncoderRerank) -> None:
    metrics = ["mrr", "hit_rate"]
    plain = RetrieverEvaluator.from_metric_names(metrics, retriever=Fixed())
    reranked = RetrieverEvaluator.from_metric_names(metrics, retriever=Fixed(), node_postprocessors=[rerank])
    before = await plain.aevaluate(QUERY, expected_ids=["b"])
    after = await reranked.aevaluate(QUERY, expected_ids=["b"])
    assert before.metric_vals_dict == {"mrr": 0.5, "hit_rate": 1.0}
    assert after.metric_vals_dict == {"mrr": 1.0, "hit_rate": 1.0}
    assert after.retrieved_ids == BEST_FIRST


class Retrieved(Event):
    nodes: list[NodeWithScore]


class Flow(Workflow):
    """Retrieve, rerank, stop."""

    def __init__(self, rerank: CrossEncoderRerank) -> None:
        super().__init__(timeout=60)
        self.rerank = rerank

    @step
    async def retrieve(self, ctx: Context, event: StartEvent) -> Retrieved:
        await ctx.store.set("query", event.query)
        return Retrieved(nodes=await Fixed().aretrieve(event.query))

    @step
    async def order(self, ctx: Context, event: Retrieved) -> StopEvent:
        query = await ctx.store.get("query")
        return StopEvent(result=await self.rerank.apostprocess_nodes(event.nodes, query_str=query))


async def test_workflow(rerank: CrossEncoderRerank) -> None:
    with watching() as seen:
        assert ids(await Flow(rerank).run(query=QUERY)) == BEST_FIRST
    assert len(seen.events) == 2
