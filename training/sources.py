"""Readers of the public sources: each yields documents, cut to passages, with the questions asked of them.

Only sources whose licence lets a trained model be shipped are read (the model card credits them). MS MARCO
text and the TREC topics are never read.
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from files import read_rows

PASSAGE_WORDS = 70  # MS MARCO passages have 56 on average
LONG_WORDS = 330  # about 500 tokens: users' chunks are often longer than MS MARCO's, and abstracts stay whole
LONG_EVERY = 3  # of texts that may be cut short or long, every third is cut long


@dataclass(frozen=True)
class Question:
    """A query, and which of its document's passages may answer it.

    Attributes:
        text: The query as the source has it.
        positives: Indexes into the document's passages. Where there are several, the teacher picks one;
            with none the teacher alone judges the query's candidates.
        answer: A string that no negative may hold.
        keywords: The same need as a search engine's user may type it, where the source says it.
        negatives: Indexes of passages known not to answer it.
    """

    text: str
    positives: tuple[int, ...] = ()
    answer: str | None = None
    keywords: str | None = None
    negatives: tuple[int, ...] = ()


@dataclass(frozen=True)
class Document:
    """A text in passages, and its questions."""

    passages: list[str]
    questions: list[Question] = field(default_factory=list)


def sentences(text: str) -> list[str]:
    """Split a text where a sentence seems to end."""
    return re.split(r"(?<=[.!?])\s+(?=[A-Z0-9\"(])", text)


def cut(text: str, words: int = PASSAGE_WORDS) -> list[str]:
    """Cut a text into passages of whole sentences, at most `words` long (longer sentences are split)."""
    passages: list[list[str]] = [[]]
    for sentence in sentences(text):
        tokens = sentence.split()
        if passages[-1] and len(passages[-1]) + len(tokens) > words:
            passages.append([])
        while len(passages[-1]) + len(tokens) > words:
            room = words - len(passages[-1])
            passages[-1] += tokens[:room]
            tokens = tokens[room:]
            passages.append([])
        passages[-1] += tokens
    return [" ".join(passage) for passage in passages if passage]


def holding(passages: list[str], answer: str) -> tuple[int, ...]:
    """Return the indexes of the passages that hold a string."""
    return tuple(i for i, passage in enumerate(passages) if answer in passage)


def squad(data: Path) -> Iterator[Document]:
    """Yield the paragraphs of both SQuAD development sets; unanswerable questions have no positives."""
    paragraphs: dict[str, dict[str, str | None]] = {}
    for name in ("squad11-dev", "squad20-dev"):
        for paragraph in read_rows(data / f"train/{name}.jsonl.gz"):
            questions = paragraphs.setdefault(paragraph["context"], {})
            for qa in paragraph["qas"]:
                questions.setdefault(qa["question"].strip(), qa["answers"][0] if qa["answers"] else None)
    for context, asked in paragraphs.items():
        passages = cut(context)
        yield Document(
            passages,
            [
                Question(text, holding(passages, answer) if answer else (), answer)
                for text, answer in asked.items()
            ],
        )


def boolq(data: Path) -> Iterator[Document]:
    """Yield natural yes-or-no questions; the passage stands in the prompt text."""
    for row in read_rows(data / "train/boolq.jsonl.gz"):
        text, _, question = row["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        passages = cut(text)[:3]
        yield Document(passages, [Question(question.strip(), tuple(range(len(passages))))])


def natural_questions(data: Path) -> Iterator[Document]:
    """Yield natural Google questions; the page stands in the prompt text."""
    for row in read_rows(data / "train/nq-openbook.jsonl.gz"):
        text, _, question = row["context"].removeprefix("Context: ").rpartition("\nQuestion: ")
        question = question.removesuffix("Answer:").strip()
        passages = cut(text)
        found = holding(passages, row["answer"])
        first = found[0] if found else 0
        near = passages[max(0, first - 3) : first + 4]
        yield Document(near, [Question(question, holding(near, row["answer"]), row["answer"])])


def medquad(data: Path) -> Iterator[Document]:
    """Yield medical questions with the beginning of their answer, in short passages or in long ones."""
    for number, row in enumerate(read_rows(data / "train/medquad.jsonl.gz")):
        text = row["question"].replace("What is (are)", "What is").replace(" ?", "?")
        kind = "" if row["qtype"] == "information" else row["qtype"]
        passages = cut(row["answer"], PASSAGE_WORDS if number % LONG_EVERY else LONG_WORDS)[:2]
        keywords = f"{row['focus']} {kind}".strip()
        yield Document(passages, [Question(text, tuple(range(len(passages))), keywords=keywords)])


def pubmedqa(data: Path) -> Iterator[Document]:
    """Yield abstracts without their conclusion, asked for by their question and by the conclusion."""
    with gzip.open(data / "train/pubmedqa.json.gz", "rt") as file:
        for row in json.load(file).values():
            passages = cut(" ".join(row["CONTEXTS"]), LONG_WORDS)[:1]
            claim = sentences(row["LONG_ANSWER"])[0]
            yield Document(passages, [Question(row["QUESTION"], (0,)), Question(claim, (0,))])


def openstax(data: Path) -> Iterator[Document]:
    """Yield textbook sections: asked for by their heading, by the terms they define, and by glossary."""
    modules = read_rows(data / "train/openstax.jsonl.gz")
    headings = Counter(s["path"][-1] for module in modules for s in module["sections"] if s["path"])
    for module in modules:
        glossary = {term.lower(): definition for term, definition in module["glossary"]}
        for section in module["sections"]:
            yield _section(section, glossary, headings)
        for term, definition in glossary.items():
            yield Document([f"{term}: {definition}"], [_definition(term, (0,), definition)])


def _section(section: dict[str, Any], glossary: dict[str, str], headings: Counter[str]) -> Document:
    """Return a section; terms that it defines are taken out of the glossary."""
    passages: list[str] = []
    questions = []
    for paragraph in section["paras"]:
        new = cut(paragraph["text"])
        for term in paragraph["terms"]:
            definition = glossary.pop(term.lower(), None)
            found = tuple(len(passages) + i for i in holding(new, term))
            if definition and found and len(paragraph["text"].split()) > 20:
                questions.append(_definition(term, found, definition))
        passages += new
    heading = section["path"][-1] if section["path"] else ""
    # A heading that stands only once is about something; "Summary" is not.
    if headings[heading] == 1 and 2 <= len(heading.split()) <= 8 and passages:
        questions.append(Question(heading, tuple(range(min(4, len(passages))))))
    return Document(passages, questions)


def _definition(term: str, positives: tuple[int, ...], definition: str) -> Question:
    return Question(f"What is {term}?", positives, definition, keywords=f"{term} definition")


def scifact(data: Path) -> Iterator[Document]:
    """Yield the abstracts that training claims are judged by, with those claims."""
    corpus = {row["_id"]: row for row in read_rows(data / "scifact/corpus.jsonl.gz")}
    claims: dict[str, list[str]] = {}
    for row in read_rows(data / "scifact/train_claims.jsonl"):
        for document in row["docs"]:
            claims.setdefault(document, []).append(row["claim"])
    for document, asked in claims.items():
        passages = cut(corpus[document]["title"] + ". " + corpus[document]["text"], LONG_WORDS)[:1]
        yield Document(passages, [Question(claim, (0,)) for claim in asked])


SOURCES: dict[str, Callable[[Path], Iterator[Document]]] = {
    "squad": squad,
    "boolq": boolq,
    "natural_questions": natural_questions,
    "openstax": openstax,
    "medquad": medquad,
    "pubmedqa": pubmedqa,
    "scifact": scifact,
}
