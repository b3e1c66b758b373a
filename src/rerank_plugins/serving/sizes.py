"""How much a request asks the model to read: estimated before it is tokenised, and cut where it says so."""

import math
from dataclasses import dataclass

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Span, WindowScorer, info_of

__all__ = ["LONGEST_PAIR", "NO_LIMITS", "Limits", "cut", "estimate", "known"]

# Where a scorer does not say.
LONGEST_PAIR = 512
# English; the real number is known only after tokenising, which is what this guards.
_CHARACTERS_PER_TOKEN = 4
# The most that a pair of any supported architecture has; BERT's have 3.
_SPECIAL_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Limits:
    """Tokens to read, at most; None: what the model takes.

    Attributes:
        document: Of each document.
        query: Of the query.
        pair: Of query, document and special tokens together.
    """

    document: int | None = None
    query: int | None = None
    pair: int | None = None

    def bind(self, reranker: Reranker) -> bool:
        """Say whether that is less than the model reads anyway."""
        longest = known(reranker, "max_length", LONGEST_PAIR)
        together = longest * _windows(reranker)
        bounds = ((self.document, together), (self.query, longest), (self.pair, together))
        return any(limit is not None and limit < bound for limit, bound in bounds)


NO_LIMITS = Limits()


def known(reranker: Reranker, name: str, otherwise: float) -> float:
    """Return a number that a scorer tells of itself, or what to take where it does not (0 is unknown)."""
    return getattr(info_of(reranker.scorer), name, 0) or otherwise


def estimate(query: str, documents: list[str], limits: Limits, reranker: Reranker) -> int:
    """Return about how many tokens the model will read."""
    longest = known(reranker, "max_length", LONGEST_PAIR)
    asked = len(query) // _CHARACTERS_PER_TOKEN
    beside = (asked if limits.query is None else min(asked, limits.query)) + _SPECIAL_TOKENS
    # As `cut` leaves of a document.
    allowed = min(
        math.inf if limits.document is None else limits.document,
        math.inf if limits.pair is None else max(limits.pair - beside, 1),
    )
    room = max(longest - beside, longest // 4)
    settings, windows = reranker.settings, _windows(reranker)
    size = room if windows == 1 else min(room, settings.passage_tokens or room)
    overlap = min(settings.passage_overlap, size // 2)

    def pair(document: str) -> float:
        tokens = min(len(document) // _CHARACTERS_PER_TOKEN + 1, allowed)
        count = min(1 + max(math.ceil((tokens - size) / (size - overlap)), 0), windows)
        return min(tokens + (count - 1) * overlap, count * size) + count * min(beside, longest - room)

    return int(sum(map(pair, documents)))


def cut(query: str, documents: list[str], limits: Limits, reranker: Reranker) -> tuple[str, list[str]]:
    """Cut texts where words begin, so that no more tokens are read than the limits allow.

    Returns:
        The query and the documents; what keeps its limit is the text as it was given, to the last space, so
        that a shorter one was cut.

    Raises:
        InvalidInputError: If the scorer knows no tokens, or the limits leave documents nothing.
    """
    scorer = reranker.scorer
    if not isinstance(scorer, WindowScorer):
        msg = "this server cannot count the model's tokens; leave the limit of tokens out"
        raise InvalidInputError(msg)
    longest = int(known(reranker, "max_length", LONGEST_PAIR))
    if limits.query is not None:
        (query,) = _starts(scorer, [query], limits.query, longest)
    sizes = [limits.document] if limits.document is not None else []
    if limits.pair is not None:
        taken = scorer.extents(query, [])[0].tokens + _SPECIAL_TOKENS
        if limits.pair <= taken:
            msg = f"{limits.pair} tokens for query and document leave documents nothing; raise it"
            raise InvalidInputError(msg)
        sizes.append(limits.pair - taken)
    return query, _starts(scorer, documents, min(sizes), longest) if sizes else documents


def _starts(scorer: WindowScorer, texts: list[str], size: int, longest: int) -> list[str]:
    """Return the first `size` tokens of each text; a text that has no more stays as it is."""
    room = max(longest - _SPECIAL_TOKENS, 1)  # of one pass; what is longer is read in several windows
    # Windows end where words do, some well before they are full: twice as many as fit are enough, and one
    # more tells whether a text goes on.
    most = 2 * -(-size // room) + 1

    def start(text: str, spans: list[Span]) -> str:
        if len(spans) == 1:  # which is all of the text
            return text
        if size <= room:
            return text[: spans[0][1]]
        _, extents = scorer.extents("", [text[begin:end] for begin, end in spans])
        left = size
        for (begin, end), extent in zip(spans, extents, strict=True):
            if extent.tokens > left:
                if not left:
                    return text[:begin]
                ((within,),) = scorer.windows("", [text[begin:end]], size=left, overlap=0, most=1)
                return text[: begin + within[1]]
            left -= extent.tokens
        return text if len(spans) < most else text[: spans[-1][1]]

    return list(map(start, texts, scorer.windows("", texts, size=size, overlap=0, most=most)))


def _windows(reranker: Reranker) -> float:
    """Return how many passes over a document the model makes at most."""
    settings = reranker.settings
    return 1 if settings.long_documents == "truncate" else settings.max_passages or math.inf
