"""LangChain, async: many questions at once on one loaded model. Offline, with the bundled model.

No thread is started per question: all wait for one worker, which scores them in common batches.
"""

import asyncio

import bm25s
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from rerank_plugins.demo.data import load_passages, load_queries
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


async def main() -> None:
    """Ask all questions of the demo at once; show how many are right, and one answer."""
    index = bm25s.BM25()
    tokens = bm25s.tokenize([d.page_content for d in DOCUMENTS], stopwords="en", show_progress=False)
    index.index(tokens, show_progress=False)
    first_stage = BM25Retriever(index=index)
    retriever = ContextualCompressionRetriever(
        base_compressor=CrossEncoderRerank(model="bundled", top_n=3), base_retriever=first_stage
    )

    queries = load_queries()
    before = await first_stage.abatch([query.text for query in queries])
    after = await retriever.abatch([query.text for query in queries])
    for name, answers in (("before", before), ("after", after)):
        right = sum(found[0].id in query.relevant for query, found in zip(queries, answers, strict=True))
        print(f"{name}: the first passage answers {right} of {len(queries)} questions")

    print(queries[0].text)
    for document in after[0]:
        print(f"[{document.metadata['relevance_score']:.3f}] {document.page_content}")


if __name__ == "__main__":
    asyncio.run(main())
