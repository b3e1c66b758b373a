"""Haystack: retriever, ranker and prompt in a pipeline, before and after. Offline, with the bundled model."""

from haystack import Document, Pipeline
from haystack.components.builders import PromptBuilder
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from rerank_plugins.demo.data import load_passages
from rerank_plugins.haystack import CrossEncoderRanker

TEMPLATE = """Answer from these passages:
{% for document in documents %}[{{ "%.3f"|format(document.score) }}] {{ document.content }}
{% endfor %}
Question: {{ question }}"""


def main() -> None:
    """Answer nothing, but show what BM25 found, and the prompt a generator would get."""
    store = InMemoryDocumentStore()
    store.write_documents(
        [Document(id=p.id, content=p.text, meta={"title": p.title}) for p in load_passages()]
    )

    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=20))
    pipeline.add_component("ranker", CrossEncoderRanker("bundled", top_k=3, meta_fields_to_embed=["title"]))
    pipeline.add_component("prompt", PromptBuilder(TEMPLATE, required_variables=["documents", "question"]))
    pipeline.connect("retriever", "ranker")
    pipeline.connect("ranker", "prompt.documents")

    question = "how long does cooked rice keep in the fridge"
    result = pipeline.run(
        {
            "retriever": {"query": question},
            "ranker": {"query": question},
            "prompt": {"question": question},
        },
        include_outputs_from={"retriever"},
    )
    print("Before, by BM25:")
    for document in result["retriever"]["documents"][:3]:
        print(f"  {document.score:.1f}  {document.content}")
    print(f"\nAfter, in the prompt:\n{result['prompt']['prompt']}")


if __name__ == "__main__":
    main()
