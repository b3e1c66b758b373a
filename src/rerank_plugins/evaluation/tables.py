"""The figures of an evaluation as tables of text, for the terminal, Markdown and HTML alike."""

from collections.abc import Iterator

from rerank_plugins.evaluation.measures import PRIMARY
from rerank_plugins.evaluation.results import Evaluation
from rerank_plugins.evaluation.table import Table, counts, difference
from rerank_plugins.evaluation.tables_chosen import CHOSEN
from rerank_plugins.machine import cores_of

__all__ = ["Table", "facts", "tables"]

_EXTREMES = 5


def facts(evaluation: Evaluation) -> list[str]:
    """Say what was evaluated, in one line each."""
    said = [
        f"{len(evaluation.queries)} judged queries of {evaluation.name}, "
        f"{evaluation.candidates:.0f} candidates each from {evaluation.first_stage}",
        f"relevant in binary measures: {_relevant(evaluation)}",
        f"intervals: paired bootstrap, {evaluation.confidence:.0%}; p: paired randomisation test, two-sided, "
        "not corrected for the number of systems",
        f"latencies: one query at a time, {_where(evaluation)}, {evaluation.machine['date']}",
    ]
    if evaluation.left_out:
        said.append(f"{evaluation.left_out} queries without judgements are left out")
    if evaluation.unanswerable:
        said.append(f"{evaluation.unanswerable} queries that nothing answers count in calibrations only")
    if evaluation.without_candidates:
        said.append(f"{evaluation.without_candidates} queries without candidates count as 0")
    return said


def tables(evaluation: Evaluation) -> list[Table]:
    """Return all tables that have rows, the most wanted first."""
    makers = (_quality, *CHOSEN, _measures, _cost, _depths, _prompts, _between, _extremes)
    return [table for make in makers if (table := make(evaluation)).rows]


def _relevant(evaluation: Evaluation) -> str:
    if evaluation.judged_by == "answers":
        return "contains a short answer"
    return f"grade {evaluation.relevant_from} or higher"


def _where(evaluation: Evaluation) -> str:
    return ", ".join([*evaluation.scored_on, cores_of(evaluation.machine)])


def _quality(evaluation: Evaluation) -> Table:
    columns = ["", PRIMARY, "difference", f"{evaluation.confidence:.0%} interval", "p", "better/worse/same"]
    rows = [[evaluation.first_stage, f"{evaluation.first.mean[PRIMARY]:.4f}", "", "", "", ""]]
    rows += [
        [s.name, f"{s.comparison.after:.4f}", *difference(s.comparison), counts(s.comparison)]
        for s in evaluation.systems
    ]
    rows.append(["best possible order", f"{evaluation.best_possible.mean[PRIMARY]:.4f}", "", "", "", ""])
    return Table("Against the first stage", columns, rows)


def _measures(evaluation: Evaluation) -> Table:
    names = list(evaluation.first.mean)
    measured = [(evaluation.first_stage, evaluation.first)]
    measured += [(system.name, system.measured) for system in evaluation.systems]
    measured.append(("best possible order", evaluation.best_possible))
    rows = [[measure, *(f"{one.mean[measure]:.4f}" for _, one in measured)] for measure in names]
    note = "Named as ir_measures names them: the mean of RR@10 is MRR@10, the mean of AP is MAP."
    return Table("All measures", ["", *(name for name, _ in measured)], rows, note)


def _cost(evaluation: Evaluation) -> Table:
    columns = ["", "p50 ms", "p99 ms", "docs/s", "cut", "ties", "device", "precision", "engine"]
    rows = [
        [
            system.name,
            f"{cost.p50_ms:,.1f}",
            f"{cost.p99_ms:,.1f}",
            f"{cost.docs_per_second:,.0f}",
            f"{cost.truncated:.1%}",
            f"{cost.ties:.1%}",
            *(value or "" for value in (cost.device, cost.dtype, cost.engine)),
        ]
        for system in evaluation.systems
        if (cost := system.cost) and not system.fused
    ]
    depth = max(system.depths[-1].depth for system in evaluation.systems)
    note = f"A query with {depth} candidates. Cut: documents not read to their end. Ties: equal logits."
    return Table("Cost", columns, rows, note)


def _depths(evaluation: Evaluation) -> Table:
    interval = f"{evaluation.confidence:.0%} interval"
    columns = ["", "depth", PRIMARY, "difference", interval, "p", "better/worse/same", "p50 ms"]
    rows = [
        [
            system.name,
            str(one.depth),
            f"{one.comparison.after:.4f}",
            *difference(one.comparison),
            counts(one.comparison),
            "" if one.p50_ms is None else f"{one.p50_ms:,.1f}",
        ]
        for system in evaluation.told_apart
        for one in system.depths
    ]
    note = "Only the first so many candidates are reranked; the others stay below them."
    return Table("How deep to rerank", columns, rows, note)


def _prompts(evaluation: Evaluation) -> Table:
    columns = ["", "answer-bearing", "passages", "tokens", "passages reranked", "tokens", "saved"]
    rows = [
        [
            system.name,
            f"{saving.recall:.1%}",
            str(saving.passages),
            f"{saving.tokens:,.0f}",
            *_needed(saving.passages_after, saving.tokens_after, saving.saved),
        ]
        for system in evaluation.told_apart
        for saving in system.savings
    ]
    who = "contains a short answer" if evaluation.rag == "answers" else "is relevant"
    note = (
        f"Answer-bearing: share of queries where one of the passages {who}. Then the fewest passages that "
        "reach this share, before and after reranking, and the prompt tokens that saves."
    )
    return Table("In a prompt", columns, rows, note)


def _needed(passages: int | None, tokens: float | None, saved: float | None) -> list[str]:
    if passages is None or tokens is None or saved is None:
        return ["not reached", "", ""]
    return [str(passages), f"{tokens:,.0f}", f"{saved:.0%}"]


def _between(evaluation: Evaluation) -> Table:
    columns = ["", "difference", f"{evaluation.confidence:.0%} interval", "p", "better/worse/same"]
    rows = [[name, *difference(c), counts(c)] for name, c in evaluation.between.items()]
    return Table(f"{evaluation.best.name} against the others, {PRIMARY}", columns, rows)


def _extremes(evaluation: Evaluation) -> Table:
    """Name the queries that gained and lost most with the best system."""
    best = evaluation.best
    before, after = evaluation.first.by_query[PRIMARY], best.measured.by_query[PRIMARY]
    ordered = sorted(evaluation.queries, key=lambda qid: before[qid] - after[qid])

    def chosen() -> Iterator[str]:
        yield from (qid for qid in ordered[:_EXTREMES] if after[qid] > before[qid])
        yield from (qid for qid in ordered[-_EXTREMES:] if after[qid] < before[qid])

    rows = [
        [
            f"{qid}: {' '.join(evaluation.queries[qid].split())}",
            f"{before[qid]:.3f}",
            f"{after[qid]:.3f}",
            f"{after[qid] - before[qid]:+.3f}",
        ]
        for qid in dict.fromkeys(chosen())
    ]
    columns = ["", "before", "after", "difference"]
    return Table(f"Queries that gained and lost most with {best.name}, {PRIMARY}", columns, rows)
