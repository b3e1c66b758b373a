"""Haystack 3: retrieve, rerank, then stream the answer as it is written. Offline, bundled model."""

import asyncio
from collections.abc import AsyncIterator

from haystack import Document, Pipeline, component
from haystack.components.builders import PromptBuilder
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.dataclasses import StreamingChunk
from haystack.dataclasses.streaming_chunk import StreamingCallbackT
from haystack.document_stores.in_memory import InMemoryDocumentStore

from rerank_plugins.demo.data import load_passages
from rerank_plugins.haystack import CrossEncoderRanker

TEMPLATE = """Answer from these passages:
{% for document in documents %}{{ loop.index }}. {{ document.content }}
{% endfor %}
Question: {{ question }}"""


@component
class YourLLM:
    """Stands in for a generator that streams; put yours here. It reads out the best passage."""

    @component.output_types(replies=list[str])
    def run(self, prompt: str, streaming_callback: StreamingCallbackT | None = None) -> dict[str, list[str]]:
        """Answer."""
        return {"replies": [prompt.splitlines()[1].removeprefix("1. ")]}

    @component.output_types(replies=list[str])
    async def run_async(
        self, prompt: str, streaming_callback: StreamingCallbackT | None = None
    ) -> dict[str, list[str]]:
        """Answer word by word."""
        replies = self.run(prompt)["replies"]
        for word in replies[0].split():
            if streaming_callback is not None:
                await streaming_callback(StreamingChunk(content=f"{word} "))  # type: ignore[misc]
        return {"replies": replies}


def make_pipeline() -> Pipeline:
    """Build retriever -> ranker -> prompt -> llm."""
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=p.id, content=p.text, meta={"title": p.title}) for p in load_passages()]
    )
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=20))
    pipeline.add_component("ranker", CrossEncoderRanker("bundled", top_k=3, meta_fields_to_embed=["title"]))
    pipeline.add_component("prompt", PromptBuilder(TEMPLATE, required_variables=["documents", "question"]))
    pipeline.add_component("llm", YourLLM())
    pipeline.connect("retriever", "ranker")
    pipeline.connect("ranker", "prompt.documents")
    pipeline.connect("prompt", "llm")
    return pipeline


async def answer(pipeline: Pipeline, question: str) -> AsyncIterator[str]:
    """Yield the answer in pieces, then the sources: what a web framework's streaming response takes."""
    stream = pipeline.stream(
        {"retriever": {"query": question}, "ranker": {"query": question}, "prompt": {"question": question}},
        include_outputs_from={"ranker"},
    )
    async for chunk in stream:
        yield chunk.content
    yield "\n\n"
    for document in stream.result["ranker"]["documents"]:
        yield f"[{document.score:.3f}] {document.content}\n"


async def main() -> None:
    """Print the pieces as they come."""
    async for piece in answer(make_pipeline(), "how long does cooked rice keep in the fridge"):
        print(piece, end="", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
