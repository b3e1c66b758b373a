"""`rerank-plugins demo`: BM25, then the cross-encoder, side by side."""

import time
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rerank_plugins.demo.data import Passage, Query, load_passages, load_queries
from rerank_plugins.errors import MissingExtraError
from rerank_plugins.ranking import Ranking
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer

__all__ = ["run_demo"]

_CANDIDATES = 20
_INTRODUCTION = (
    "The demo's passages were written to fool word matching: for most queries four of them share the "
    "query's words and answer something else.\n"
)
_NEXT = """\
What to try next:
  rerank-plugins doctor                      what runs on this machine, and why
  rerank-plugins models                      the MS MARCO models: better than the bundled one
  printf 'A fist is a hand.\\nGoethe wrote Faust.\\n' | \\
    rerank-plugins rank --query 'who wrote Faust?' --model bundled
  examples/                                  LangChain, LlamaIndex and Haystack, a file each"""


@dataclass(frozen=True)
class Outcome:
    """One query before and after.

    Attributes:
        query: The query.
        before: BM25's candidates, best first.
        after: The same candidates, reranked.
        ranking: What the reranker returned.
    """

    query: Query
    before: list[Passage]
    after: list[Passage]
    ranking: Ranking

    def rank(self, passages: list[Passage]) -> int | None:
        """Return the first relevant passage's rank, from 1; None if it was not retrieved."""
        ranks = [i for i, p in enumerate(passages, start=1) if p.id in self.query.relevant]
        return min(ranks, default=None)


def run_demo(*, queries: int | None, model: str, top_k: int) -> None:
    """Retrieve, rerank, print."""
    console = Console()
    passages, questions = load_passages(), load_queries()[:queries]
    retrieved = _retrieve(passages, questions)
    started = time.perf_counter()
    with CrossEncoderScorer(model) as scorer:
        loaded = time.perf_counter() - started
        # All given, so that RERANK_TOP_K and the like do not change what is shown.
        reranker = Reranker(
            scorer, top_k=None, min_score=None, scale="probability", fusion=None, on_error="raise"
        )
        outcomes = [
            _rerank(reranker, query, found) for query, found in zip(questions, retrieved, strict=True)
        ]
        console.print(_INTRODUCTION)
        for outcome in outcomes:
            console.print(_table(outcome, top_k))
        _summarise(outcomes, len(passages), console)
        spent = sorted(outcome.ranking.stats.total_ms for outcome in outcomes)
        cut = sum(outcome.ranking.stats.truncated for outcome in outcomes)
        info = scorer.info
        console.print(
            f"Model {info.model}: loaded in {loaded:.1f} s; {_CANDIDATES} passages reranked in "
            f"{spent[len(spent) // 2]:.0f} ms (median) on {info.device}, {info.dtype}, "
            f"engine {info.engine}. Passages cut to {info.max_length} tokens: {cut}."
        )
    console.print(_NEXT, markup=False, highlight=False, soft_wrap=True)


def _retrieve(passages: list[Passage], queries: list[Query]) -> list[list[Passage]]:
    """Return each query's candidates by BM25."""
    try:
        import bm25s
    except ImportError as error:
        msg = 'the demo retrieves with bm25s; install it with: pip install "rerank-plugins[demo]"'
        raise MissingExtraError(msg) from error
    retriever = bm25s.BM25()
    corpus = [passage.text for passage in passages]
    tokens = bm25s.tokenize(corpus, stopwords="en", show_progress=False)
    retriever.index(tokens, show_progress=False)
    questions = bm25s.tokenize([q.text for q in queries], stopwords="en", show_progress=False)
    # By default bm25s takes JAX where it is installed, and that most of a GPU's memory.
    found, _ = retriever.retrieve(questions, k=_CANDIDATES, show_progress=False, backend_selection="numpy")
    return [[passages[i] for i in ranks] for ranks in found]


def _rerank(reranker: Reranker, query: Query, found: list[Passage]) -> Outcome:
    ranking = reranker.rank(query.text, [passage.text for passage in found])
    return Outcome(query, found, [found[ranked.index] for ranked in ranking], ranking)


def _table(outcome: Outcome, top_k: int) -> Table:
    before, after = (outcome.rank(side) or "none" for side in (outcome.before, outcome.after))
    table = Table(
        title=f"{escape(outcome.query.text)}   [dim]right passage: rank {before} -> {after}[/dim]",
        title_justify="left",
        expand=True,
    )
    table.add_column("before: BM25", ratio=1)
    table.add_column("after: reranked", ratio=1)
    scores = {outcome.before[r.index].id: r.score for r in outcome.ranking}

    def cell(passage: Passage, score: float | None) -> str:
        mark = "[green]*[/green] " if passage.id in outcome.query.relevant else "  "
        shown = "" if score is None else f"[bold]{score:.3f}[/bold] "
        return f"{mark}{shown}[bold]{escape(passage.title)}[/bold]\n{escape(passage.text[:110])}..."

    for old, new in zip(outcome.before[:top_k], outcome.after[:top_k], strict=True):
        table.add_row(cell(old, None), cell(new, scores[new.id]), end_section=True)
    return table


def _summarise(outcomes: list[Outcome], passages: int, console: Console) -> None:
    table = Table(title=f"{len(outcomes)} queries, {passages} passages; * marks a right passage")
    for heading in ("", "right passage first", "mean reciprocal rank"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, side in (("BM25", "before"), ("reranked", "after")):
        ranks = [outcome.rank(getattr(outcome, side)) for outcome in outcomes]
        first = sum(rank == 1 for rank in ranks)
        mrr = sum(1 / rank for rank in ranks if rank) / len(ranks)
        table.add_row(name, f"{first} of {len(ranks)}", f"{mrr:.3f}")
    console.print(table)
