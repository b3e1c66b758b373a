"""The first stage: bm25s over the corpus, or the retriever of a framework, told by its methods."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.extra import missing
from rerank_plugins.evaluation.topics import Candidate, Topics
from rerank_plugins.files import ID_KEYS
from rerank_plugins.inputs import shorten

__all__ = ["retrieve"]

_STOP_WORDS = "english_plus"
_META_KEYS = (*ID_KEYS, "document_id", "source_id")


@dataclass(frozen=True)
class _Found:
    """What a framework's document says of itself; its own id first, then that of what it is a chunk of."""

    ids: tuple[str | None, ...]
    text: str
    score: float | None
    meta: dict[str, Any]


def retrieve(
    topics: Topics,
    retriever: Any = "bm25s",
    *,
    depth: int = 100,
    id_key: str | None = None,
    name: str | None = None,
    progress: Callable[[str, int, int], None] = lambda *_: None,
) -> Topics:
    """Give each query its candidates.

    Args:
        topics: The queries; `"bm25s"` also needs their corpus.
        retriever: `"bm25s"` (its defaults: Lucene's BM25 with k1 1.5 and b 0.75, no stemming; with the
            longer of its lists of English stop words, which has those of questions, such as "what" and
            "does"; documents that share no other word with the query are not retrieved). Or a LangChain
            retriever (`.invoke(query)`), a LlamaIndex retriever (`.retrieve(query)`), a Haystack retriever
            component (`.run(query=...)`). Or a function from a query to such documents, or to (id, text).
        depth: Candidates a query at most; a framework's retriever has its own setting, which may be less.
        id_key: The metadata key that holds a document's id in the judgements. None: the document's own id
            if the judgements or the corpus know it, else that of the document it is a chunk of, else one
            under a usual key (`id`, `doc_id`, ...), else that of the corpus's document with the same text.
        name: The first stage's name in reports. None: `"BM25 (bm25s)"`, or the retriever's type.
        progress: Called with (name, done, total).

    Returns:
        The topics with candidates, best first.

    Raises:
        InvalidInputError: If there is no corpus for `"bm25s"` or no word in it, the retriever has none of
            these methods or returns something else, or no document it returned is known to the judgements or
            the corpus.
        MissingExtraError: If bm25s is not installed.
    """
    if depth < 1:
        msg = f"depth must be at least 1, but got {depth}"
        raise InvalidInputError(msg)
    if isinstance(retriever, str):
        if retriever != "bm25s":
            msg = f'a retriever must be "bm25s" or an object that retrieves, but got {retriever!r}'
            raise InvalidInputError(msg)
        name = name or "BM25 (bm25s)"
        progress(name, 0, 1)
        made = _with(topics, _bm25s(topics, depth), name)
        progress(name, 1, 1)
        return made
    search, resolve = _searcher(retriever), _Resolver(topics, id_key)
    name, found = name or type(retriever).__name__, []
    for done, topic in enumerate(topics, start=1):
        found.append([resolve(_read(document)) for document in list(search(topic.query))[:depth]])
        progress(name, done, len(topics))
    resolve.check(found)
    return _with(topics, found, name)


def _with(topics: Topics, found: Sequence[Sequence[Candidate]], name: str) -> Topics:
    filled = tuple(
        replace(topic, candidates=tuple(of_query)) for topic, of_query in zip(topics, found, strict=True)
    )
    return replace(topics, topics=filled, first_stage=name)


def _bm25s(topics: Topics, depth: int) -> list[list[Candidate]]:
    try:
        import bm25s
    except ImportError as error:
        raise missing("bm25s", error) from error
    if not topics.corpus:
        msg = f"{topics.name} must have a corpus to retrieve from, but has none; use the candidates it has"
        raise InvalidInputError(msg)
    ids, texts = list(topics.corpus), list(topics.corpus.values())
    words = bm25s.tokenize(texts, stopwords=_STOP_WORDS, show_progress=False)
    if not words.vocab:
        msg = (
            f"{topics.name} must have a corpus with words to search for, but has none besides stop words and "
            f"single letters: {shorten(texts[:3])}; give another retriever"
        )
        raise InvalidInputError(msg)
    index = bm25s.BM25()
    index.index(words, show_progress=False)
    queries = bm25s.tokenize([topic.query for topic in topics], stopwords=_STOP_WORDS, show_progress=False)
    found, scores = index.retrieve(
        queries,
        k=min(depth, len(ids)),
        show_progress=False,
        backend_selection="numpy",  # JAX, where it is installed, would take most of a GPU's memory
    )
    return [
        [
            Candidate(ids[i], texts[i], score)
            for i, score in zip(of_query.tolist(), of_scores.tolist(), strict=True)
            if score > 0
        ]
        for of_query, of_scores in zip(found, scores, strict=True)
    ]


def _searcher(retriever: Any) -> Callable[[str], Iterable[Any]]:
    """Return the search of whatever framework this comes from; no framework is imported to tell."""
    if hasattr(retriever, "retrieve"):  # LlamaIndex
        return lambda query: retriever.retrieve(query)
    if hasattr(retriever, "invoke"):  # LangChain
        return lambda query: retriever.invoke(query)
    if hasattr(retriever, "run"):  # Haystack
        return lambda query: retriever.run(query=query)["documents"]
    if callable(retriever):
        return lambda query: retriever(query)
    msg = (
        "a retriever must have invoke (LangChain), retrieve (LlamaIndex) or run (Haystack), or be a "
        f"function, but got {shorten(retriever)}"
    )
    raise InvalidInputError(msg)


def _read(document: Any) -> _Found:
    if isinstance(document, tuple) and len(document) == 2 and all(isinstance(x, str) for x in document):
        return _Found((document[0],), document[1], None, {})
    node = getattr(document, "node", document)
    text = node.get_content() if hasattr(node, "get_content") else None
    for field in ("page_content", "content"):
        text = getattr(node, field, None) if text is None else text
    if not isinstance(text, str):
        msg = (
            "a retriever must return documents of LangChain, LlamaIndex or Haystack, or (id, text), but "
            f"returned {shorten(document)}"
        )
        raise InvalidInputError(msg)
    ids = tuple(getattr(node, name, None) for name in ("node_id", "id", "ref_doc_id"))
    score = getattr(document, "score", None)
    meta = getattr(node, "metadata", None) or getattr(node, "meta", None) or {}
    return _Found(ids, text, None if score is None else float(score), dict(meta))


class _Resolver:
    """Which judged document a retrieved one is."""

    def __init__(self, topics: Topics, id_key: str | None) -> None:
        self._key = id_key
        self._known = {docid for topic in topics for docid in topic.grades} | topics.corpus.keys()
        self._of_text = {text: docid for docid, text in topics.corpus.items()}

    def __call__(self, found: _Found) -> Candidate:
        return Candidate(self._id(found), found.text, found.score)

    def _id(self, found: _Found) -> str:
        if self._key is not None:
            if self._key not in found.meta:
                msg = f"every document must have {self._key!r} in its metadata, but has {shorten(found.meta)}"
                raise InvalidInputError(msg)
            return str(found.meta[self._key])
        for one in (*found.ids, *(found.meta.get(key) for key in _META_KEYS)):
            if one is not None and str(one) in self._known:
                return str(one)
        own = next((one for one in found.ids if one), found.text)
        return self._of_text.get(found.text, own)

    def check(self, found: Sequence[Sequence[Candidate]]) -> None:
        """Raise if nothing that was retrieved is known: then the ids are other ids."""
        ids = [candidate.id for of_query in found for candidate in of_query]
        if ids and self._known and not self._known.intersection(ids):
            msg = (
                "some retrieved documents must be known to the judgements or the corpus, but none is: got "
                f"{shorten(ids[:3])}, known are {shorten(sorted(self._known)[:3])}; name the metadata key of "
                "the id with id_key"
            )
            raise InvalidInputError(msg)
