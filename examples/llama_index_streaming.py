"""LlamaIndex, streaming: sources first, then the answer as it is written. Offline, with the bundled model."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import bm25s
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from rerank_plugins.demo.data import load_passages
from rerank_plugins.llama_index import CrossEncoderRerank

NODES = [TextNode(text=p.text, id_=p.id, metadata={"title": p.title}) for p in load_passages()]


class BM25Retriever(BaseRetriever):
    """First stage: fast, and fooled by shared words."""

    def __init__(self, k: int = 20) -> None:
        super().__init__()
        self.k = k
        self.index = bm25s.BM25()
        tokens = bm25s.tokenize([node.text for node in NODES], stopwords="en", show_progress=False)
        self.index.index(tokens, show_progress=False)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        tokens = bm25s.tokenize(query_bundle.query_str, stopwords="en", show_progress=False)
        found, scores = self.index.retrieve(tokens, k=self.k, show_progress=False)
        return [
            NodeWithScore(node=NODES[i], score=float(score))
            for i, score in zip(found[0], scores[0], strict=True)
        ]


ENGINE = RetrieverQueryEngine.from_args(
    BM25Retriever(),
    llm=MockLLM(max_tokens=12),  # put your language model here
    node_postprocessors=[CrossEncoderRerank(model="bundled", top_n=3)],
    streaming=True,
)


async def answer(question: str) -> AsyncIterator[dict[str, Any]]:
    """Yield what a web app sends: one message with the sources, then one for each piece of the answer."""
    response = await ENGINE.aquery(question)
    yield {"sources": [{"score": n.score, "id": n.node_id, "text": n.text} for n in response.source_nodes]}
    async for token in response.async_response_gen():
        yield {"token": token}


async def main() -> None:
    """Print the messages as they come."""
    async for message in answer("how long does cooked rice keep in the fridge"):
        for source in message.get("sources", []):
            print(f"[{source['score']:.3f}] {source['text']}")
        print(message.get("token", "\nanswer: "), end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
