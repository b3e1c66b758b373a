"""What is said, for help, no help and harm, and what weakens it."""

from dataclasses import replace

from rerank_plugins.evaluation import Topic, Topics, evaluate, verdict
from tests.evaluation import ByText, chance, make_topics, right, wrong


def said(topics: Topics, **scorers: ByText) -> list[str]:
    return verdict(evaluate(topics, scorers, depths=(5, 10, 20), resamples=999))


def test_it_helps() -> None:
    answer, *more = said(make_topics(), good=ByText(right))
    assert answer.startswith("Rerank with good: nDCG@10 rises from 0.")
    assert "to 1.000 (+0." in answer
    assert "95% interval +0." in answer
    assert "40 queries:" in answer
    assert "0 worse" in answer
    assert any(sentence.startswith("A query with 20 candidates takes ") for sentence in more)
    assert any("1 reranked passage bears the answer as often as" in sentence for sentence in more)
    assert any("fewer tokens" in sentence for sentence in more)


def test_it_does_not_help() -> None:
    answer, *more = said(make_topics(), luck=ByText(chance))
    assert answer.startswith("Reranking does not help here, as far as 40 queries can tell: with luck nDCG@10")
    assert not any("takes" in sentence for sentence in more)


def test_nothing_changes() -> None:
    answer, *_ = said(make_topics(), same=ByText(lambda _: 0.0))
    assert "does not help here" in answer
    assert "nDCG@10 stays at 0." in answer
    assert "40 the same" in answer


def test_it_harms() -> None:
    best_first = tuple(
        Topic(t.id, t.query, tuple(sorted(t.candidates, key=lambda c: c.id not in t.grades)), t.grades)
        for t in make_topics()
    )
    topics = Topics("already right", best_first)
    answer, *_ = said(topics, bad=ByText(wrong))
    assert answer.startswith(
        "Reranking does not help here, it harms: with bad nDCG@10 falls from 1.000 to 0.000"
    )
    answer, *_ = said(topics, bad=ByText(wrong), luck=ByText(chance))
    assert "it harms: with even the best of 2, luck, nDCG@10 falls" in answer


def test_equals_of_the_best_are_named_and_the_cheapest_with_its_price() -> None:
    scorers = {"slow": ByText(right), "fast": ByText(right), "luck": ByText(chance)}
    found = evaluate(make_topics(), scorers, resamples=999)
    costs = {"slow": 2000.0, "fast": 50.0, "luck": 1.0}
    priced = tuple(replace(s, cost=replace(s.cost, p50_ms=costs[s.name])) for s in found.systems)
    told = verdict(replace(found, systems=priced))
    assert told[0].startswith("Rerank with slow")
    assert "These queries cannot tell slow from fast: the interval of the difference holds zero." in told
    cheap = "Of these, fast is the cheapest: 50 ms in place of 2,000 ms, nDCG@10 1.000 in place of 1.000."
    assert cheap in told


def test_a_run_that_nobody_can_use_is_never_the_advice() -> None:
    topics = make_topics()
    perfect = {
        topic.id: sorted((c.id for c in topic.candidates), key=lambda d: d not in topic.grades)
        for topic in topics
    }

    def good(text: str) -> float:
        return chance(text) + 0.5 * ("right" in text)

    found = evaluate(topics, {"perfect": perfect, "good": ByText(good)}, resamples=999)
    told = verdict(found)
    assert told[0].startswith("Rerank with good")
    assert any(sentence.startswith("The given run perfect is better than good: +0.") for sentence in told)
    alone = verdict(evaluate(topics, {"perfect": perfect}, resamples=999))
    assert alone[0].startswith("Rerank with perfect")


def test_a_smaller_depth_that_keeps_the_gain_is_named() -> None:
    def fifth(topic: Topic) -> Topic:
        others = [c for c in topic.candidates if c.id not in topic.grades]
        found = [c for c in topic.candidates if c.id in topic.grades]
        return replace(topic, candidates=(*others[:4], *found, *others[4:]))

    told = said(Topics("fifth", tuple(map(fifth, make_topics()))), good=ByText(right))
    assert any("Reranking only the first 5 keeps 100% of the gain" in sentence for sentence in told)


def test_doubts_are_said() -> None:
    few = said(make_topics(5), good=ByText(right))
    assert "5 queries are few: only large differences show, and intervals are rough." in few
    unjudged = tuple(
        replace(t, grades=dict.fromkeys([c.id for c in t.candidates[:10]], 0) | t.grades)
        for t in make_topics()
    )
    told = said(Topics("pool", unjudged), luck=ByText(chance))
    assert any("of the reranked top 10 are judged (100% before)" in sentence for sentence in told)
    answers = tuple(Topic(t.id, t.query, t.candidates, answers=("right",)) for t in make_topics())
    assert any("contains one of the short answers" in s for s in said(Topics("a", answers), g=ByText(right)))
    tied = said(make_topics(), tied=ByText(lambda text: float("right" in text)))
    assert any("of the logits are ties" in sentence for sentence in tied)
    one = said(make_topics(1, seed=4), good=ByText(right))
    assert "no interval from 1 query)" in one[0]
    five = said(make_topics(5), good=ByText(right))[0]
    assert five.startswith("5 queries cannot tell whether reranking helps: with good nDCG@10 rises")
    assert said(make_topics(6), good=ByText(right))[0].startswith("Rerank with good")
    assert "One query is too few: it says nothing of others." in one
