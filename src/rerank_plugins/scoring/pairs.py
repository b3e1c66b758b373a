"""`PairEncoder`: (query, document) strings to ragged token ids, the query protected.

A private tokenizer encodes every distinct text once, untruncated and without special tokens, and what
it found is remembered: in RAG the same chunks come back for other questions. Cutting and assembling
happen here, on arrays. A tokenizer whose truncation is set per call is silently wrong when threads share
it, so ours is never touched after construction.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate, chain, repeat

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerank_plugins.errors import InvalidInputError, ModelFormatError, ScoringError
from rerank_plugins.inputs import refuse_surrogates
from rerank_plugins.scoring.cache import ContentCache, digests
from rerank_plugins.scoring.protocol import Extent, Span
from rerank_plugins.scoring.tokenizing import CHARACTERS_PER_TOKEN, ID_BYTES, TextTokenizer
from rerank_plugins.scoring.windows import Offsets, plan_windows

__all__ = ["Cost", "EncodedPairs", "Pair", "PairEncoder", "PairTemplate", "Texts"]

IntArray = NDArray[np.int32]
# Query and document.
Pair = tuple[str, str]

# What an entry of the token cache costs besides its ids: key, header, links (200 measured with 175,000).
_ENTRY_BYTES = 220
# Characters of a document for each token of its pair, until texts tell.
_CHARACTERS = 3.7
# Long texts whose offsets are at hand at once: they take far more memory than ids.
_LONG_TEXTS = 64


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens around a pair, as the checkpoint's own tokenizer puts them.

    For BERT: `[CLS] query [SEP] document [SEP]`, token type 0 up to the first `[SEP]`, then 1.

    Attributes:
        prefix: Ids before the query.
        middle: Ids between query and document.
        suffix: Ids after the document.
        document_type: Token type of the document and what follows (the query's is always 0).
    """

    prefix: IntArray
    middle: IntArray
    suffix: IntArray
    document_type: int

    @property
    def specials(self) -> int:
        """How many special tokens a pair has."""
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "PairTemplate":
        """Read the template off a tokenizer by encoding a pair of one-word texts.

        Raises:
            ModelFormatError: If the tokenizer does not put a pair into one sequence.
        """
        encoding = tokenizer.encode("a", "b", add_special_tokens=True)
        sides = encoding.sequence_ids
        if 0 not in sides or 1 not in sides or sides.index(0) > sides.index(1):
            raise ModelFormatError(
                "the tokenizer must put query and document into one sequence in this order; "
                "use the tokenizer.json of a cross-encoder"
            )
        ids = np.asarray(encoding.ids, dtype=np.int32)
        query_end = len(sides) - sides[::-1].index(0)
        document_end = len(sides) - sides[::-1].index(1)
        return cls(
            prefix=ids[: sides.index(0)],
            middle=ids[query_end : sides.index(1)],
            suffix=ids[document_end:],
            document_type=encoding.type_ids[sides.index(1)],
        )


@dataclass(frozen=True)
class Texts:
    """Pairs that are still to be encoded, valid Unicode.

    Attributes:
        queries: n queries. Apart from the documents, as garbage collection looks at every pair, but not at
            strings.
        documents: n documents.
        characters: How many of the documents may be read; one more each, as empty ones take tokens, too.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    characters: int = 0

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def distinct(self) -> dict[str, bytes]:
        """The different texts, with nothing behind them."""
        return dict.fromkeys(chain(self.queries, self.documents), b"")

    @cached_property
    def digests(self) -> dict[str, bytes]:
        """Of the different texts; see `scoring.cache`.

        Raises:
            InvalidInputError: If a text is not valid Unicode (holds a lone surrogate).
        """
        return digests(self.distinct)


@dataclass(frozen=True, slots=True)
class Cost:
    """What encoding a call's pairs took.

    Attributes:
        tokens: Tokens of the pairs.
        texts: How many distinct texts they hold.
        cached_texts: How many of them did not have to be tokenised.
        milliseconds: How long it took, with what else was encoded together.
    """

    tokens: int
    texts: int = 0
    cached_texts: int = 0
    milliseconds: float = 0.0


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs as one ragged batch: no padding from here on.

    Attributes:
        ids: int32 [tokens], the token ids of all pairs, one after the other.
        offsets: int64 [n + 1], pair i is `ids[offsets[i]:offsets[i + 1]]`.
        boundaries: int32 [n], where the document begins within its pair.
        document_type: Token type id from the boundary on; 0 before it.
        document_tokens: int32 [n], tokens of the document that were kept.
        truncated: bool [n], whether the document was cut.
        query_truncated: bool [n], whether the query was cut.
        cost: What encoding took, where they are all the pairs of a call.
    """

    ids: IntArray
    offsets: NDArray[np.int64]
    boundaries: IntArray
    document_type: int
    document_tokens: IntArray
    truncated: NDArray[np.bool_]
    query_truncated: NDArray[np.bool_]
    cost: Cost | None = None

    def __len__(self) -> int:
        return len(self.boundaries)

    @property
    def known_cost(self) -> Cost:
        """What encoding took as far as is known: how many tokens came of it, if no more."""
        return self.cost or Cost(len(self.ids))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of each pair."""
        return self.offsets[1:] - self.offsets[:-1]

    def take(self, indices: NDArray[np.int64]) -> "EncodedPairs":
        """Return the pairs at `indices`, in this order; views where they follow one another."""
        first, count = (int(indices[0]), len(indices)) if len(indices) else (0, 0)
        if np.array_equal(indices, np.arange(first, first + count)):
            return self.span(first, first + count)
        lengths = self.lengths[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        # Row by row: where it begins there, less where it begins here, plus a running count.
        source = np.repeat(self.offsets[indices] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return replace(
            self,
            ids=self.ids[source],
            offsets=offsets,
            boundaries=self.boundaries[indices],
            document_tokens=self.document_tokens[indices],
            truncated=self.truncated[indices],
            query_truncated=self.query_truncated[indices],
        )

    def span(self, begin: int, end: int) -> "EncodedPairs":
        """Return the pairs from `begin` up to `end`, as views."""
        first, last = self.offsets[begin], self.offsets[end]
        return EncodedPairs(
            ids=self.ids[first:last],
            offsets=self.offsets[begin : end + 1] - first,
            boundaries=self.boundaries[begin:end],
            document_type=self.document_type,
            document_tokens=self.document_tokens[begin:end],
            truncated=self.truncated[begin:end],
            query_truncated=self.query_truncated[begin:end],
        )

    def pair_ids(self, index: int) -> IntArray:
        """Return int32 [length], the ids of one pair."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def type_ids(self, index: int) -> IntArray:
        """Return int32 [length], the token type ids of one pair."""
        types = np.zeros(int(self.lengths[index]), dtype=np.int32)
        types[self.boundaries[index] :] = self.document_type
        return types


class PairEncoder:
    """Encode pairs within a token limit, cutting only documents.

    Ids equal `tokenizer(query, document, truncation="only_second", max_length=max_length)` of
    transformers wherever the query has at most `max_query_tokens` tokens. Threads may share it.

    Args:
        tokenizer: The checkpoint's tokenizer. A private copy is made.
        max_length: Tokens of a pair, special tokens included.
        max_query_tokens: Tokens of a query; a longer one is cut at its end and flagged. None: three quarters
            of `max_length`, or what leaves one for the document.
        cache_bytes: Memory for token ids of texts seen before; 0 remembers nothing.

    Raises:
        ModelFormatError: If the tokenizer cannot encode pairs.
        InvalidInputError: If the limits leave no token for the document.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        max_length: int,
        max_query_tokens: int | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.template = PairTemplate.of(self._tokenizer)
        self.max_length = max_length
        most = max_length - self.template.specials - 1
        self.max_query_tokens = (
            min(max_length * 3 // 4, most) if max_query_tokens is None else max_query_tokens
        )
        if not 1 <= self.max_query_tokens <= most:
            msg = (
                f"max_query_tokens must leave room for a document in max_length={max_length} with "
                f"{self.template.specials} special tokens, but got {self.max_query_tokens}"
            )
            raise InvalidInputError(msg)
        self._texts = TextTokenizer(self._tokenizer)
        # No more of a document counts when tokens are to be estimated.
        self.most_characters = max_length * CHARACTERS_PER_TOKEN
        self._characters_per_token = _CHARACTERS
        self._cache: ContentCache[bytes] = ContentCache(cache_bytes, lambda ids: len(ids) + _ENTRY_BYTES)

    def encode(self, pairs: Sequence[Pair]) -> EncodedPairs:
        """Encode (query, document) pairs; equal texts are tokenised once.

        Raises:
            InvalidInputError: If a text is not valid Unicode (holds a lone surrogate).
        """
        queries, documents = [query for query, _ in pairs], [document for _, document in pairs]
        refuse_surrogates(chain(queries, documents))
        return self.encode_texts(Texts(queries, documents))

    def encode_texts(self, texts: Texts) -> EncodedPairs:
        """Encode what one call asks for."""
        encoded, (cost,) = self.encode_together([texts])
        return replace(encoded, cost=cost)

    def encode_together(self, parts: Sequence[Texts]) -> tuple[EncodedPairs, list[Cost]]:
        """Encode what several calls ask for, which costs little more than one; also say what each took."""
        started = time.perf_counter()
        keys: dict[str, bytes] = {}
        # Digests only where anything is remembered by them.
        distinct = [part.digests if self._cache.enabled else part.distinct for part in parts]
        for some in distinct:
            keys.update(some)
        tokens, new = self._tokens(keys)
        queries = list(chain.from_iterable(part.queries for part in parts))
        documents = list(chain.from_iterable(part.documents for part in parts))
        encoded = self._assemble(queries, documents, tokens)
        spent = (time.perf_counter() - started) * 1000
        ends = encoded.offsets[list(accumulate(map(len, parts), initial=0))]
        return encoded, [
            Cost(count, len(some), len(some) - sum(map(new.__contains__, some)), spent)
            for count, some in zip((ends[1:] - ends[:-1]).tolist(), distinct, strict=True)
        ]

    def expected_tokens(self, texts: Texts) -> int:
        """Return how many tokens there may be, going by what was encoded last; one or more."""
        return 1 + int(texts.characters / self._characters_per_token)

    def room_for(self, tokens: int) -> float:
        """Return how many characters of documents may have so many tokens, by what was encoded last.

        One more counts for each document, as empty ones take tokens, too.
        """
        return tokens * self._characters_per_token

    def _assemble(
        self, queries: Sequence[str], documents: Sequence[str], tokens: Mapping[str, bytes]
    ) -> EncodedPairs:
        """Put pairs together, given the ids of each text; no Python runs for each document."""
        n = len(documents)
        suffix = self.template.suffix.tobytes()
        heads = {query: self._head(tokens[query]) for query in set(queries)}
        rooms = {query: self._room(head) * ID_BYTES for query, head in heads.items()}
        longest = self.max_query_tokens * ID_BYTES
        too_long = {query: len(tokens[query]) > longest for query in heads}
        begins, bodies = (
            list(map(of.__getitem__, texts)) for of, texts in ((heads, queries), (tokens, documents))
        )
        head_sizes, sizes = (np.fromiter(map(len, some), np.int64, n) for some in (begins, bodies))
        truncated = sizes > np.fromiter(map(rooms.__getitem__, queries), np.int64, n)
        for i in truncated.nonzero()[0].tolist():
            bodies[i] = bodies[i][: rooms[queries[i]]]
            sizes[i] = len(bodies[i])
        offsets = np.zeros(n + 1, dtype=np.int64)
        np.cumsum((head_sizes + sizes + len(suffix)) // ID_BYTES, out=offsets[1:])
        if n:
            read = np.minimum(np.fromiter(map(len, documents), np.int64, n), self.most_characters) + 1
            self._characters_per_token = int(read.sum()) / max(int(offsets[-1]), 1)
        pieces = b"".join(chain.from_iterable(zip(begins, bodies, repeat(suffix), strict=False)))
        return EncodedPairs(
            ids=np.frombuffer(pieces, dtype=np.int32),
            offsets=offsets,
            boundaries=(head_sizes // ID_BYTES).astype(np.int32),
            document_type=self.template.document_type,
            document_tokens=(sizes // ID_BYTES).astype(np.int32),
            truncated=truncated,
            query_truncated=np.fromiter(map(too_long.__getitem__, queries), np.bool_, n),
        )

    def windows(
        self, query: str, documents: Sequence[str], *, size: int | None, overlap: int, most: int | None
    ) -> list[list[Span]]:
        """Cut documents into windows that fit beside the query; see `WindowScorer.windows`.

        Raises:
            InvalidInputError: If a text is not valid Unicode, or a number cannot be used.
        """
        if overlap < 0 or any(number is not None and number < 1 for number in (size, most)):
            msg = f"overlap must be >= 0, size and most >= 1 or None, but got {overlap}, {size} and {most}"
            raise InvalidInputError(msg)
        tokens, _ = self._tokens(digests([query, *documents]))
        room = self._room(self._head(tokens[query]))
        room = min(room, size or room)
        # Ids tell what fits; only the rest needs offsets.
        long = [text for text in dict.fromkeys(documents) if _count(tokens[text]) > room]
        cut = {
            text: self._split(text, offsets, room, overlap, most)
            for text, offsets in zip(long, self._offsets(long, most and most * room), strict=True)
        }
        return [list(cut.get(text) or [(0, len(text))]) for text in documents]

    def extents(self, query: str, documents: Sequence[str]) -> tuple[Extent, list[Extent]]:
        """Say how much of each text is read; see `WindowScorer.extents`.

        Raises:
            InvalidInputError: If a text is not valid Unicode.
        """
        tokens, _ = self._tokens(digests([query, *documents]))
        room = self._room(self._head(tokens[query]))

        def extent(text: str, limit: int) -> Extent:
            if _count(tokens[text]) <= limit:
                return Extent(len(text), _count(tokens[text]), cut=False)
            (offsets,) = self._offsets([text], limit)
            return Extent(offsets.ends[limit - 1], limit, cut=True)

        return extent(query, self.max_query_tokens), [extent(text, room) for text in documents]

    def _split(self, text: str, offsets: Offsets, room: int, overlap: int, most: int | None) -> list[Span]:
        size = room
        while True:
            spans = plan_windows(offsets, size, overlap=overlap, most=most)
            # Scoring needs these ids anyway. A slice may have more than the text had there where a word is
            # cut inside, and with tokenizers that treat a text's first word in a way of its own.
            tokens, _ = self._tokens(digests(text[start:end] for start, end in spans))
            excess = max(map(_count, tokens.values())) - room
            if excess <= 0 or size == 1:
                return spans
            size = max(1, size - max(excess, size // 8))

    def _offsets(self, texts: Sequence[str], least: int | None) -> Iterator[Offsets]:
        """Say where the tokens of each text lie: all, or more than `least` from its start."""
        for first in range(0, len(texts), _LONG_TEXTS):
            some = texts[first : first + _LONG_TEXTS]
            heads = [text if least is None else self._texts.head(text, least + 1) for text in some]
            encodings = self._tokenizer.encode_batch(heads, add_special_tokens=False)
            for text, head, encoding in zip(some, heads, encodings, strict=True):
                if least is not None and len(head) < len(text) and len(encoding) <= least:
                    (encoding,) = self._tokenizer.encode_batch([text], add_special_tokens=False)
                yield Offsets.of(encoding)

    def _room(self, head: bytes) -> int:
        """Return how many tokens of a document fit behind a pair's head."""
        return self.max_length - _count(head) - len(self.template.suffix)

    def _head(self, query: bytes) -> bytes:
        template = self.template
        kept = query[: self.max_query_tokens * ID_BYTES]
        return template.prefix.tobytes() + kept + template.middle.tobytes()

    def _tokens(self, keys: Mapping[str, bytes]) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """Return the ids of each text, and of those that were not known, given what is remembered by."""
        known = self._cache.find(keys.values())
        new = [text for text, key in keys.items() if key not in known] if known else list(keys)
        try:
            # One more than a pair has room for, so that it shows whether a text was cut.
            learned = dict(zip(new, self._texts.ids(new, self.max_length + 1), strict=True))
        except Exception as error:  # tokenizers raises bare Exception
            msg = f"the tokenizer failed on {len(new)} texts: {error}"
            raise ScoringError(msg) from error
        self._cache.keep((keys[text], ids) for text, ids in learned.items())
        if not known:
            return learned, learned
        return {text: known[key] if key in known else learned[text] for text, key in keys.items()}, learned


def _count(ids: bytes) -> int:
    return len(ids) // ID_BYTES
