"""First stages: bm25s, and the real retrievers of three frameworks."""

from typing import Any

import pytest
from haystack import Document as HaystackDocument
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document as LlamaDocument
from llama_index.core import MockEmbedding, VectorStoreIndex

from rerank_plugins import InvalidInputError
from rerank_plugins.evaluation import Candidate, Topic, Topics, load_demo, retrieve

CORPUS = {
    "a": "Goethe wrote Faust in Weimar.",
    "b": "A fist is a hand.",
    "c": "Marlowe wrote a play of Doctor Faustus.",
    "d": "Bread rises because of yeast.",
}
TOPICS = Topics(
    "t",
    (Topic("1", "who wrote Faust", (), {"a": 1}), Topic("2", "yeast in bread", (), {"d": 1})),
    CORPUS,
)


def ids(topics: Topics) -> list[list[str]]:
    return [[candidate.id for candidate in topic.candidates] for topic in topics]


def test_bm25s_finds_what_shares_words_and_nothing_else() -> None:
    found = retrieve(TOPICS)
    assert ids(found) == [["a", "c"], ["d"]]
    assert found.first_stage == "BM25 (bm25s)"
    scores = [candidate.score for candidate in found[0].candidates]
    assert scores == sorted(scores, reverse=True)
    assert found[0].candidates[0].text == CORPUS["a"]
    assert ids(retrieve(TOPICS, depth=1)) == [["a"], ["d"]]
    assert TOPICS[0].candidates == (), "the topics that were given are not changed"


def test_bm25s_finds_all_that_the_demo_asks_for() -> None:
    demo = retrieve(load_demo(), depth=20)
    found = [not topic.grades.keys().isdisjoint({c.id for c in topic.candidates}) for topic in demo]
    assert sum(found) >= 12


def test_a_langchain_retriever() -> None:
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(text, id=docid) for docid, text in CORPUS.items()])
    found = retrieve(TOPICS, store.as_retriever(search_kwargs={"k": 3}))
    assert [len(of_query) for of_query in ids(found)] == [3, 3]
    assert all(candidate.text == CORPUS[candidate.id] for topic in found for candidate in topic.candidates)
    assert found.first_stage == "VectorStoreRetriever"


def test_a_llama_index_retriever_finds_chunks_of_judged_documents() -> None:
    documents = [LlamaDocument(text=text, doc_id=docid) for docid, text in CORPUS.items()]
    index = VectorStoreIndex.from_documents(documents, embed_model=MockEmbedding(embed_dim=4))
    found = retrieve(TOPICS, index.as_retriever(similarity_top_k=4), name="vectors")
    assert all(sorted(of_query) == list("abcd") for of_query in ids(found))
    assert all(isinstance(candidate.score, float) for candidate in found[0].candidates)
    assert found.first_stage == "vectors"


def test_a_haystack_retriever() -> None:
    store = InMemoryDocumentStore()
    store.write_documents([HaystackDocument(id=docid, content=text) for docid, text in CORPUS.items()])
    found = retrieve(TOPICS, InMemoryBM25Retriever(store, top_k=2))
    assert ids(found)[0][0] == "a"
    assert found[0].candidates[0].score is not None


def test_a_function_of_ids_and_texts() -> None:
    found = retrieve(TOPICS, lambda query: [("b", CORPUS["b"]), ("a", CORPUS["a"])])
    assert ids(found) == [["b", "a"], ["b", "a"]]


@pytest.mark.parametrize(
    ("document", "id_key", "expected"),
    [
        (Document("x", id="a"), None, "a"),
        (Document("x", id="uuid", metadata={"doc_id": "a"}), None, "a"),
        (Document(CORPUS["a"], id="uuid"), None, "a"),
        (Document("x", id="a", metadata={"source": "b"}), "source", "b"),
        (Document("x", metadata={"source": "c"}), "source", "c"),
        (("a", "x"), None, "a"),
    ],
)
def test_which_judged_document_a_retrieved_one_is(document: Any, id_key: str | None, expected: str) -> None:
    assert ids(retrieve(TOPICS, lambda _: [document], id_key=id_key))[0] == [expected]


def test_mistakes_are_named() -> None:
    with pytest.raises(InvalidInputError, match=r"none is.*'uuid'.*id_key"):
        retrieve(TOPICS, lambda _: [Document("x", id="uuid")])
    with pytest.raises(InvalidInputError, match=r"must have 'source' in its metadata"):
        retrieve(TOPICS, lambda _: [Document("x", id="a")], id_key="source")
    with pytest.raises(InvalidInputError, match="must have a corpus"):
        retrieve(Topics("t", (Topic("1", "q", (Candidate("a", "x"),)),)))
    with pytest.raises(InvalidInputError, match=r"must have a corpus with words to search for, .*'of the'"):
        retrieve(Topics("t", TOPICS.topics, {"a": "of the", "b": ""}))
    with pytest.raises(InvalidInputError, match='must be "bm25s"'):
        retrieve(TOPICS, "elastic")
    with pytest.raises(InvalidInputError, match="must have invoke"):
        retrieve(TOPICS, 7)
    with pytest.raises(InvalidInputError, match="must return documents"):
        retrieve(TOPICS, lambda _: ["text"])
    with pytest.raises(InvalidInputError, match="depth must be at least 1"):
        retrieve(TOPICS, depth=0)
