"""What reranking is worth to a prompt: how often k passages hold the answer, and the tokens that takes."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np

from rerank_plugins.evaluation.systems import Orders
from rerank_plugins.evaluation.topics import Candidate, Topic

__all__ = [
    "Bearing",
    "Saving",
    "answer_grades",
    "bearers",
    "bearing",
    "bears_answer",
    "count_words",
    "savings",
]

_MOST_PASSAGES = 50
_PROMPTS = (3, 5, 10, 20)

_WORD = re.compile(r"\w+|[^\w\s]")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_WORD = re.compile(r"[^\w\s]|_")


def count_words(text: str) -> int:
    """Count words and punctuation marks, which is near to tokens and needs no tokenizer.

    Tokenizers of today's language models give somewhat more, about alike for all passages, so that the ratio
    before and after holds; for the number itself, count with the tokenizer of the model that is prompted.
    """
    return sum(1 for _ in _WORD.finditer(text))


def bears_answer(text: str, answers: Sequence[str]) -> bool:
    """Tell whether a text contains one of the answers as whole words.

    Case, accents' encoding, punctuation, articles and white space do not matter, as in SQuAD's evaluation.
    """
    normal = f" {_normalise(text)} "
    return any(f" {answer} " in normal for answer in map(_normalise, answers) if answer)


def _normalise(text: str) -> str:
    plain = _NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(_ARTICLE.sub(" ", plain).split())


def answer_grades(topic: Topic) -> dict[str, int]:
    """Return grade 1 for each document with a candidate that bears an answer of the topic, else 0."""
    bear = {one.id for one in bearers(topic)}
    return {one.id: int(one.id in bear) for one in topic.candidates}


def bearers(topic: Topic, relevant_from: int = 1) -> set[Candidate]:
    """Return the candidates that bear the answer: that contain one, or without answers, by their grade.

    Chunks of one document share its grade, but an answer is in some of them only.
    """
    if topic.answers:
        return {one for one in topic.candidates if bears_answer(one.text, topic.answers)}
    return {one for one in topic.candidates if topic.grades.get(one.id, 0) >= relevant_from}


@dataclass(frozen=True)
class Bearing:
    """Prompts of the first k passages, for k from 1.

    Attributes:
        recall: Share of queries with an answer-bearing passage among the first k: [k - 1].
        tokens: Mean tokens of the first k passages: [k - 1].
    """

    recall: list[float]
    tokens: list[float]


@dataclass(frozen=True)
class Saving:
    """The prompt that is needed after reranking, in place of one before.

    Attributes:
        passages: The fewest passages in a prompt that reach this recall before.
        recall: Share of queries whose prompt held the answer.
        tokens: Mean tokens of those passages.
        passages_after: The fewest passages that reach that recall after reranking; None: not reached within
            50, or within what there is.
        tokens_after: Their mean tokens.
        saved: Share of the tokens that is saved; negative if more are needed.
    """

    passages: int
    recall: float
    tokens: float
    passages_after: int | None
    tokens_after: float | None
    saved: float | None


def bearing(
    orders: Orders,
    bear: Mapping[str, Set[Candidate]],
    *,
    count_tokens: Callable[[str], int] = count_words,
) -> Bearing:
    """Measure prompts of 1 to 50 passages.

    Args:
        orders: Candidates, best first, by query id.
        bear: Those that bear the answer, by query id: `bearers`. Other queries are left out.
        count_tokens: Counts a passage's tokens.
    """
    most = min(_MOST_PASSAGES, max((len(order) for order in orders.values()), default=0))
    borne, tokens = np.zeros((2, len(bear), most))
    for row, (qid, right) in enumerate(bear.items()):
        passages = orders[qid][:most]
        # Both by place: a prompt holds all chunks of a document, of which a measure counts the first alone.
        borne[row, : len(passages)] = [passage in right for passage in passages]
        tokens[row, : len(passages)] = [count_tokens(passage.text) for passage in passages]
    return Bearing(
        recall=np.maximum.accumulate(borne, axis=1).mean(axis=0).tolist(),
        tokens=tokens.cumsum(axis=1).mean(axis=0).tolist(),
    )


def savings(before: Bearing, after: Bearing, prompts: Sequence[int] = _PROMPTS) -> list[Saving]:
    """Compare prompts of equal recall.

    Args:
        before: Prompts in first-stage order.
        after: Prompts of reranked passages.
        prompts: Sizes whose recall is wanted. Where fewer passages reach it before, too, these are compared:
            what reranking did not save is not counted.
    """
    wanted = [before.recall[k - 1] for k in prompts if k <= len(before.recall)]
    return [_saving(before, after, recall) for recall in dict.fromkeys(wanted) if recall > 0]


def _saving(before: Bearing, after: Bearing, recall: float) -> Saving:
    least = before.recall.index(recall) + 1
    tokens = before.tokens[least - 1]
    needed = next((k for k, reached in enumerate(after.recall, start=1) if reached >= recall), None)
    if needed is None:
        return Saving(least, recall, tokens, None, None, None)
    tokens_after = after.tokens[needed - 1]
    return Saving(least, recall, tokens, needed, tokens_after, 1 - tokens_after / tokens if tokens else 0.0)
