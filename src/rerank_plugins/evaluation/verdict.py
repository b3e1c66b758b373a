"""The verdict in plain words: does reranking help here, with what, and what does it cost."""

import math
from collections.abc import Iterator

from rerank_plugins.evaluation.calibrated import Refusals
from rerank_plugins.evaluation.measures import PRIMARY
from rerank_plugins.evaluation.results import AtDepth, Evaluation, System
from rerank_plugins.evaluation.statistics import Comparison
from rerank_plugins.evaluation.tables_chosen import min_score_text

__all__ = ["verdict"]

_ENOUGH_QUERIES = 25
_ENOUGH_GAIN = 0.9  # of the full depth's, to call a smaller depth enough
_CHEAPER = 0.8  # of the best one's latency, to call another one cheaper
_WELL_JUDGED = 0.8
_MANY_CUT = 0.05
_MANY_TIES = 0.01


def verdict(evaluation: Evaluation) -> list[str]:
    """Return sentences, the answer first.

    Reranking helps if the whole interval of the best system's difference in nDCG@10 is above zero, harms if
    it is below, and else does not help as far as these queries can tell; so few that there is no
    interval tell nothing. Systems that these queries cannot tell from the best are named, the cheapest among
    them first.
    """
    best = evaluation.best
    said = [_answer(evaluation, best)]
    if best.comparison.better:
        said += [*_cost(best), *_depth(best), *_prompts(best)]
    said += _harm(evaluation, best)
    said += _fusion(evaluation)
    said += _calibration(evaluation)
    said += _others(evaluation, best)
    said += _doubts(evaluation, best)
    return said


def _answer(evaluation: Evaluation, best: System) -> str:
    change = best.comparison
    several = len(evaluation.systems) > 1
    facts = f"{_change(evaluation, change)}; {_counts(change)}"
    if change.better:
        return f"Rerank with {best.name}: {facts}."
    if change.worse:
        who = f"even the best of {len(evaluation.systems)}, {best.name}," if several else best.name
        return f"Reranking does not help here, it harms: with {who} {facts}."
    who = f"the best of {len(evaluation.systems)} is {best.name}, and" if several else f"with {best.name}"
    if change.low is None:
        return f"{_queries(change)} cannot tell whether reranking helps: {who} {facts}."
    return f"Reranking does not help here, as far as {_queries(change)} can tell: {who} {facts}."


def _change(evaluation: Evaluation, change: Comparison) -> str:
    verb = "stays at" if not change.delta else "rises" if change.delta > 0 else "falls"
    moved = f"{change.before:.3f}" if not change.delta else f"from {change.before:.3f} to {change.after:.3f}"
    return f"{PRIMARY} {verb} {moved} ({_interval(change, evaluation.confidence)})"


def _interval(change: Comparison, confidence: float) -> str:
    if change.low is None or change.high is None:
        return f"{change.delta:+.3f}, no interval from {_queries(change)}"
    return f"{change.delta:+.3f}, {confidence:.0%} interval {change.low:+.3f} to {change.high:+.3f}"


def _counts(change: Comparison) -> str:
    return f"{_queries(change)}: {change.wins} better, {change.losses} worse, {change.ties} the same"


def _queries(change: Comparison) -> str:
    count = change.wins + change.losses + change.ties
    return f"{count} queries" if count != 1 else "1 query"


def _cost(system: System) -> Iterator[str]:
    if system.cost is None:
        return
    cost, depth = system.cost, system.depths[-1].depth
    where = f" on {cost.device}" if cost.device else ""
    yield (
        f"A query with {depth} candidates takes {_ms(cost.p50_ms)} (median) to {_ms(cost.p99_ms)} (99th "
        f"percentile){where}: {cost.docs_per_second:,.0f} documents a second."
    )


def _depth(system: System) -> Iterator[str]:
    """Say which smaller depth keeps most of the gain."""
    full = system.depths[-1]
    enough = next((one for one in system.depths if _keeps(one, full)), full)
    if enough is not full:
        share = enough.comparison.delta / full.comparison.delta
        timing = f" in {_ms(enough.p50_ms)}" if enough.p50_ms is not None else ""
        kept = f"{share:.0%} of the gain" if share <= 1 else "more than the whole gain"
        yield f"Reranking only the first {enough.depth} keeps {kept}{timing}."


def _keeps(one: AtDepth, full: AtDepth) -> bool:
    return one.comparison.better and one.comparison.delta >= _ENOUGH_GAIN * full.comparison.delta


def _prompts(system: System) -> Iterator[str]:
    reached = [saving for saving in system.savings if saving.saved is not None]
    if reached and (reached[-1].saved or 0) > 0:
        one = reached[-1]  # the largest prompt
        many = f"{one.passages_after} reranked passages bear"
        now = "1 reranked passage bears" if one.passages_after == 1 else many
        yield (
            f"In a prompt, {now} the answer as often as {one.passages} before ({one.recall:.0%} of the "
            f"queries): {one.saved:.0%} fewer tokens."
        )


def _harm(evaluation: Evaluation, best: System) -> Iterator[str]:
    """Name what is worse than not to rerank at all."""
    for system in evaluation.systems:
        if system is not best and system.comparison.worse:
            yield f"{system.name} harms: {_change(evaluation, system.comparison)}."


def _fusion(evaluation: Evaluation) -> Iterator[str]:
    """Say what a fitted fusion is worth, and what to set."""
    for system in evaluation.systems:
        if system.fused is None or not system.fused.curve:
            continue
        found, change = system.fused, system.fused.comparison
        facts = f"{found.of}'s {_change(evaluation, change)} on queries that the weight was not chosen on"
        if change.better and not system.comparison.better:
            yield f"Fusion saves what {found.of} harms, and is no better than the first stage alone: {facts}."
        elif change.better:
            yield f"Fuse {found.of} with the first stage, fusion={found.fusion}: {facts}."
        elif change.worse:
            yield f"Do not fuse {found.of} with the first stage: {facts}."
        else:
            yield f"Fusion with the first stage changes nothing that these queries can tell: {facts}."


def _calibration(evaluation: Evaluation) -> Iterator[str]:
    """Say which threshold to set, and what it keeps."""
    for system in evaluation.systems:
        if system.not_calibrated:
            yield f"{system.name} could not be calibrated: {system.not_calibrated}."
        if system.calibrated is None:
            continue
        found = system.calibrated
        if found.precision is None or math.isinf(found.threshold.min_score):
            yield (
                f"No threshold keeps {found.wanted:.0%} relevant documents with {system.name}, as far as "
                "these queries can tell: too few are relevant, or too few were judged."
            )
            continue
        span = (
            ""
            if found.low is None
            else f", {evaluation.confidence:.0%} interval {found.low:.0%} to {found.high:.0%}"
        )
        yield (
            f"With {system.name}, scale=calibrated and min_score={min_score_text(found.threshold)}, "
            f"{found.precision:.0%} of what is kept is relevant (wanted {found.wanted:.0%}{span}), and "
            f"{found.recall:.0%} of what is relevant is kept. The probabilities are off by "
            f"{found.calibrated.ece:.3f} on average ({found.sigmoid.ece:.3f} before)."
        )
        if found.high is not None and found.high < found.wanted:
            yield (
                f"That is less than wanted: a threshold from these queries does not reach {found.wanted:.0%} "
                "on others. Ask for more, or judge more queries."
            )
        made = found.refusals
        yield (
            f"Where it keeps nothing, the answer is that none of these answers: wrong for {made.refused} of "
            f"{made.answerable} queries that have a relevant candidate; right for {made.emptied_refused} of "
            f"them once those are taken away{_without(made)}."
        )


def _without(made: Refusals) -> str:
    if not made.unanswerable:
        return ""
    return f", and for {made.rightly_refused} of {made.unanswerable} that have none"


def _others(evaluation: Evaluation, best: System) -> Iterator[str]:
    """Compare the other systems with the best one."""
    others = [
        (system, evaluation.between[system.name]) for system in evaluation.systems if system is not best
    ]
    for system, change in others:
        if change.worse:
            ahead = f"{-change.delta:+.3f}, {PRIMARY} {system.comparison.after:.3f}"
            yield f"The given run {system.name} is better than {best.name}: {ahead}."
    alike = [system for system, change in others if not change.better and not change.worse]
    if not alike or not best.comparison.better:
        return
    names = ", ".join(system.name for system in alike)
    yield f"These queries cannot tell {best.name} from {names}: the interval of the difference holds zero."
    timed = [system for system in alike if system.cost is not None and system.comparison.better]
    cheapest = min(timed, key=lambda system: system.cost.p50_ms if system.cost else 0, default=None)
    if cheapest is None or cheapest.cost is None or best.cost is None:
        return
    if cheapest.cost.p50_ms <= _CHEAPER * best.cost.p50_ms:
        yield (
            f"Of these, {cheapest.name} is the cheapest: {_ms(cheapest.cost.p50_ms)} in place of "
            f"{_ms(best.cost.p50_ms)}, {PRIMARY} {cheapest.comparison.after:.3f} in place of "
            f"{best.comparison.after:.3f}."
        )


def _doubts(evaluation: Evaluation, best: System) -> Iterator[str]:
    """Say what weakens the answer."""
    count = len(evaluation.queries)
    if count == 1:
        yield "One query is too few: it says nothing of others."
    elif count < _ENOUGH_QUERIES:
        yield f"{count} queries are few: only large differences show, and intervals are rough."
    judged, before = best.measured.mean["Judged@10"], evaluation.first.mean["Judged@10"]
    if evaluation.judged_by == "judgements" and judged < min(_WELL_JUDGED, before):
        yield (
            f"Only {judged:.0%} of the reranked top 10 are judged ({before:.0%} before); the others count as "
            "not relevant, which favours the first stage."
        )
    if evaluation.judged_by == "answers":
        yield "Relevant means here: contains one of the short answers. A passage may hold it by chance."
    if evaluation.without_candidates:
        yield f"For {evaluation.without_candidates} of {count} queries the first stage found nothing."
    if best.cost is not None and best.cost.truncated > _MANY_CUT:
        yield (
            f"{best.cost.truncated:.0%} of the documents were cut: long_documents='max_passage' reads them "
            "in windows."
        )
    if best.cost is not None and best.cost.ties > _MANY_TIES:
        yield f"{best.cost.ties:.0%} of the logits are ties; equal texts, or too low a precision, make them."


def _ms(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 10_000 else f"{milliseconds:,.0f} ms"
