"""Haystack: several questions at once, on one pipeline and one loaded model. Offline, bundled model."""

import asyncio
from typing import Any

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from rerank_plugins.demo.data import load_passages
from rerank_plugins.haystack import CrossEncoderRanker

QUESTIONS = [
    "how long does cooked rice keep in the fridge",
    "who invented the telephone",
    "can I get my deposit back if I cancel a rental contract early",
]


def make_pipeline() -> Pipeline:
    """Build retriever -> ranker over the demo's passages. With Haystack 2, this is an AsyncPipeline."""
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=p.id, content=p.text, meta={"title": p.title}) for p in load_passages()]
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=20))
    pipeline.add_component("ranker", CrossEncoderRanker("bundled", top_k=1, meta_fields_to_embed=["title"]))
    pipeline.connect("retriever", "ranker")
    return pipeline


def inputs(question: str) -> dict[str, Any]:
    """Both components need the question."""
    return {"retriever": {"query": question}, "ranker": {"query": question}}


async def main() -> None:
    """Rerank for all questions together; their batches are shared, their results are not."""
    pipeline = make_pipeline()
    await pipeline.warm_up_async()
    results = await asyncio.gather(*(pipeline.run_async(inputs(question)) for question in QUESTIONS))
    for question, result in zip(QUESTIONS, results, strict=True):
        (best,) = result["ranker"]["documents"]
        print(f"{question}?\n[{best.score:.3f}] {best.content}\n")
    await pipeline.close_async()


if __name__ == "__main__":
    asyncio.run(main())
