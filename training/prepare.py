"""Turn public question-answer data into training groups: a query, its passage, mined negatives.

    python training/prepare.py --data ../shared/data --output training/work/groups.jsonl

Only sources whose licence lets a trained model be shipped are read (see the model card). MS MARCO text
is never read.
"""

import gzip
import json
import logging
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import bm25s
import typer

logger = logging.getLogger("prepare")

WINDOW = 80  # words of a passage; MS MARCO passages have 56 on average
NEGATIVES = 8
STOP_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "is",
        "are",
        "was",
        "were",
        "be",
        "been",
        "do",
        "does",
        "did",
        "of",
        "in",
        "on",
        "at",
        "to",
        "for",
        "from",
        "by",
        "with",
        "and",
        "or",
        "that",
        "this",
        "it",
        "its",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "when",
        "where",
        "why",
        "how",
        "many",
        "much",
        "can",
        "could",
        "should",
        "would",
        "will",
    ]
)


@dataclass(frozen=True)
class Example:
    """A query with the passage that answers it; `answer` is a string negatives must not hold."""

    query: str
    passage: str
    answer: str | None = None


def read_lines(path: Path) -> Iterator[Any]:
    """Yield the objects of a gzipped or plain JSONL file."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    # Not splitlines(): texts may hold line separators of other kinds.
    yield from (json.loads(line) for line in text.split("\n") if line)


def window(text: str, answer: str | None = None) -> str:
    """Cut a text to `WINDOW` words, around the answer where it is known."""
    words = text.split()
    start = 0
    if answer and answer in text:
        before = len(text[: text.index(answer)].split())
        start = max(0, min(before - WINDOW // 2, len(words) - WINDOW))
    return " ".join(words[start : start + WINDOW])


def squad(data: Path) -> Iterator[Example]:
    """Yield answerable questions of both SQuAD development sets, each once."""
    seen = set()
    for name in ("squad11-dev", "squad20-dev"):
        for paragraph in read_lines(data / f"train/{name}.jsonl.gz"):
            for qa in paragraph["qas"]:
                if qa["answers"] and qa["question"] not in seen:
                    seen.add(qa["question"])
                    answer = qa["answers"][0]
                    yield Example(qa["question"], window(paragraph["context"], answer), answer)


def boolq(data: Path) -> Iterator[Example]:
    """Yield natural yes-or-no questions; the passage stands in the prompt text."""
    for row in read_lines(data / "train/boolq.jsonl.gz"):
        passage, _, question = row["query"].removeprefix("Passage: ").rpartition("\nQuestion: ")
        yield Example(question.strip(), window(passage))


def natural_questions(data: Path) -> Iterator[Example]:
    """Yield natural Google questions; the passage stands in the prompt text."""
    for row in read_lines(data / "train/nq-openbook.jsonl.gz"):
        passage, _, question = row["context"].removeprefix("Context: ").rpartition("\nQuestion: ")
        question = question.removesuffix("Answer:").strip()
        yield Example(question, window(passage, row["answer"]), row["answer"])


def medquad(data: Path) -> Iterator[Example]:
    """Yield medical questions with the beginning of their answer."""
    for row in read_lines(data / "train/medquad.jsonl.gz"):
        if row["answer"]:
            question = row["question"].replace("What is (are)", "What is").replace(" ?", "?")
            yield Example(question, window(row["answer"]))


def pubmedqa(data: Path) -> Iterator[Example]:
    """Yield research questions with their abstract's conclusion and context."""
    with gzip.open(data / "train/pubmedqa.json.gz", "rt") as file:
        for row in json.load(file).values():
            yield Example(row["QUESTION"], window(" ".join(row["CONTEXTS"])))


def openstax(data: Path) -> Iterator[Example]:
    """Yield "what is TERM" with the paragraph that defines it, and with its glossary entry."""
    for module in read_lines(data / "train/openstax.jsonl.gz"):
        glossary = {term.lower(): definition for term, definition in module["glossary"]}
        for section in module["sections"]:
            for paragraph in section["paras"]:
                for term in paragraph["terms"]:
                    if term.lower() in glossary and len(paragraph["text"].split()) > 20:
                        passage = window(paragraph["text"], term)
                        yield Example(f"What is {term}?", passage, glossary.pop(term.lower()))
        for term, definition in glossary.items():
            yield Example(f"define {term}", f"{term}: {definition}", definition)


def scifact(data: Path) -> Iterator[Example]:
    """Yield training claims with the abstract they are judged by."""
    corpus = {row["_id"]: row for row in read_lines(data / "scifact/corpus.jsonl.gz")}
    for row in read_lines(data / "scifact/train_claims.jsonl"):
        for document in row["docs"]:
            text = corpus[document]["title"] + ". " + corpus[document]["text"]
            yield Example(row["claim"], window(text))


SOURCES: dict[str, tuple[Callable[[Path], Iterator[Example]], int]] = {
    "squad": (squad, 6000),
    "boolq": (boolq, 3270),
    "natural_questions": (natural_questions, 824),
    "openstax": (openstax, 4500),
    "medquad": (medquad, 2000),
    "pubmedqa": (pubmedqa, 700),
    "scifact": (scifact, 400),
}


def vary(query: str, rng: random.Random) -> str:
    """Write a query the way people type it: often lower case, no question mark, keywords."""
    draw = rng.random()
    if draw < 0.3:
        return query
    query = re.sub(r"[?.]\s*$", "", query).lower()
    if draw < 0.85:
        return query
    keywords = [word for word in query.split() if word not in STOP_WORDS]
    return " ".join(keywords) if len(keywords) >= 2 else query


def mine(examples: list[Example], rng: random.Random) -> list[dict[str, Any]]:
    """Give each example negatives from BM25's top ranks over its source's passages."""
    passages = list(dict.fromkeys(example.passage for example in examples))
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(passages, stopwords="en", show_progress=False), show_progress=False)
    queries = bm25s.tokenize([e.query for e in examples], stopwords="en", show_progress=False)
    found, _ = retriever.retrieve(queries, k=min(40, len(passages)), show_progress=False)
    groups = []
    for example, ranks in zip(examples, found, strict=True):
        start = set(example.passage.split()[:12])
        candidates = [
            passages[i]
            for i in ranks
            if passages[i] != example.passage
            and not (example.answer and example.answer.lower() in passages[i].lower())
            and len(start & set(passages[i].split()[:12])) < 9  # another window of the same text
        ]
        # Mostly hard ones; a few from further down, so that easy cases stay easy.
        chosen = candidates[:5] + rng.sample(candidates[5:], min(3, len(candidates[5:])))
        if len(chosen) >= 4:
            query = vary(example.query, rng)
            groups.append({"query": query, "positive": example.passage, "negatives": chosen[:NEGATIVES]})
    return groups


def main(
    data: Annotated[Path, typer.Option(help="Folder with train/ and scifact/.")] = Path("../shared/data"),
    output: Annotated[Path, typer.Option(help="Where to write the groups.")] = Path(
        "training/work/groups.jsonl"
    ),
    seed: Annotated[int, typer.Option(help="Seed of every random choice.")] = 1,
) -> None:
    """Write training groups as JSONL."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    rng = random.Random(seed)
    groups = []
    for name, (read, limit) in SOURCES.items():
        mined = mine(list(read(data)), rng)
        kept = rng.sample(mined, min(limit, len(mined)))
        logger.info("%-18s %6d groups, %6d kept", name, len(mined), len(kept))
        groups += [{"source": name, **group} for group in kept]
    rng.shuffle(groups)
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("w") as file:
        file.writelines(json.dumps(group) + "\n" for group in groups)


if __name__ == "__main__":
    typer.run(main)
