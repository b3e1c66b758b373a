"""LangChain: retrieve with BM25, rerank, build the prompt. Offline, with the bundled model."""

import bm25s
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableParallel, RunnablePassthrough

from rerank_plugins.demo.data import load_passages
from rerank_plugins.langchain import CrossEncoderRerank

DOCUMENTS = [Document(p.text, id=p.id, metadata={"title": p.title}) for p in load_passages()]


class BM25Retriever(BaseRetriever):
    """First stage: fast, and fooled by shared words."""

    index: bm25s.BM25
    k: int = 20
    model_config = {"arbitrary_types_allowed": True}

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        tokens = bm25s.tokenize(query, stopwords="en", show_progress=False)
        found, _ = self.index.retrieve(tokens, k=self.k, show_progress=False)
        return [DOCUMENTS[i] for i in found[0]]


def main() -> None:
    """Answer nothing, but show the prompt a chat model would get."""
    index = bm25s.BM25()
    tokens = bm25s.tokenize([d.page_content for d in DOCUMENTS], stopwords="en", show_progress=False)
    index.index(tokens, show_progress=False)
    retriever = BM25Retriever(index=index)
    reranker = CrossEncoderRerank(model="bundled", top_n=3)

    candidates = RunnableParallel(documents=retriever, query=RunnablePassthrough())
    prompt = ChatPromptTemplate.from_template(
        "Answer from these passages:\n{context}\n\nQuestion: {question}"
    )
    chain = RunnableParallel(context=candidates | reranker | join, question=RunnablePassthrough()) | prompt
    print(chain.invoke("how long does cooked rice keep in the fridge").to_string())


def join(documents: list[Document]) -> str:
    """Write passages with their scores, one below the other."""
    return "\n".join(f"[{d.metadata['relevance_score']:.3f}] {d.page_content}" for d in documents)


if __name__ == "__main__":
    main()
