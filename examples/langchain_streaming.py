"""LangChain, streaming: show the sources first, then the answer as it is written. Offline.

The shape of a chat app: one chain, and `astream` yields what is ready, sources before tokens.
"""

import asyncio

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from rerank_plugins.demo.data import load_passages
from rerank_plugins.langchain import CrossEncoderRerank

PROMPT = ChatPromptTemplate.from_template("Answer from these passages:\n{context}\n\nQuestion: {query}")


def build(llm: BaseChatModel) -> Runnable:
    """Return a chain from a question to `{"documents": [...], "answer": "..."}`."""
    # Embeddings without meaning: all passages come back, in a random order. Put your own here.
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=64))
    store.add_documents([Document(p.text, id=p.id, metadata={"title": p.title}) for p in load_passages()])
    retriever = store.as_retriever(search_kwargs={"k": len(store.store)})
    reranker = CrossEncoderRerank(model="bundled", top_n=3, document_template="{title}\n{content}")

    context = RunnablePassthrough.assign(context=lambda state: join(state["documents"]))
    return (
        {"documents": retriever, "query": RunnablePassthrough()}
        | RunnablePassthrough.assign(documents=reranker)
        | RunnablePassthrough.assign(answer=context | PROMPT | llm | StrOutputParser())
    )


def join(documents: list[Document]) -> str:
    """Write passages one below the other."""
    return "\n\n".join(document.page_content for document in documents)


async def main() -> None:
    """Stream one answer."""
    # Put your chat model here, for example one from langchain.chat_models.init_chat_model.
    llm = FakeListChatModel(responses=["One day in the fridge, two at most [1]."])
    async for chunk in build(llm).astream("how long does cooked rice keep in the fridge"):
        for document in chunk.get("documents", []):
            print(f"[{document.metadata['relevance_score']:.3f}] {document.page_content}")
        print(chunk.get("answer", ""), end="", flush=True)
    print()


if __name__ == "__main__":
    asyncio.run(main())
