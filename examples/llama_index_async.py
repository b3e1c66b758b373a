"""LlamaIndex, async: many questions at once, scored in common batches. Offline, with the bundled model."""

import asyncio

import bm25s
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from rerank_plugins.demo.data import load_passages
from rerank_plugins.llama_index import CrossEncoderRerank

NODES = [TextNode(text=p.text, id_=p.id, metadata={"title": p.title}) for p in load_passages()]
QUESTIONS = [
    "how long does cooked rice keep in the fridge",
    "can I get my deposit back if I cancel a rental contract early",
    "who invented the telephone",
]


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


async def main() -> None:
    """Ask all questions together; put your language model in the place of MockLLM."""
    engine = RetrieverQueryEngine.from_args(
        BM25Retriever(),
        llm=MockLLM(),
        node_postprocessors=[CrossEncoderRerank(model="bundled", top_n=1)],
    )
    responses = await asyncio.gather(*(engine.aquery(question) for question in QUESTIONS))
    for question, response in zip(QUESTIONS, responses, strict=True):
        best = response.source_nodes[0]
        print(f"{question}?")
        print(f"[{best.score:.3f}] {best.text}")


if __name__ == "__main__":
    asyncio.run(main())
