"""Prompts: who bears the answer, and what equal recall costs."""

from dataclasses import replace

import pytest

from rerank_plugins.evaluation import Candidate, Topic, Topics, count_words, evaluate
from rerank_plugins.evaluation.rag import Bearing, answer_grades, bearers, bearing, bears_answer, savings
from tests.evaluation import ByText, chance, make_topics, right


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("Goethe wrote Faust.", "goethe", True),
        ("It was written by J. W. von Goethe!", "J.W. von Goethe", True),
        ("It was written by J.W. von Goethe!", "j. w. von goethe", True),
        ("It was written by von Goethe!", "J.W. von Goethe", False),
        ("The Beatles played.", "beatles", True),
        ("Beatles played.", "The Beatles", True),
        ("In 1999,\nnot before", "1999 not", True),
        ("He won 19 times", "9", False),
        ("Straße", "STRASSE", True),
        ("ﬁsh", "fish", True),
        ("vitamin a helps", "a", False),  # articles alone are no answer
        ("anything", "", False),
        ("anything", "!", False),
        ("under_score", "score", True),
    ],
)
def test_an_answer_is_found_as_whole_words(text: str, answer: str, expected: bool) -> None:
    assert bears_answer(text, [answer]) is expected


def test_grades_from_answers() -> None:
    candidates = (Candidate("a", "Goethe."), Candidate("b", "Nobody."), Candidate("a", "Another chunk."))
    assert answer_grades(Topic("1", "who?", candidates, answers=("goethe",))) == {"a": 1, "b": 0}


def test_passages_bear_an_answer_by_their_text_and_else_by_the_grade_of_their_document() -> None:
    start, rest, other = Candidate("a", "A play."), Candidate("a", "By Goethe."), Candidate("b", "Nobody.")
    topic = Topic("1", "who?", (start, rest, other), {"a": 2, "b": 1})
    assert bearers(topic) == {start, rest, other}
    assert bearers(topic, 2) == {start, rest}
    assert bearers(replace(topic, answers=("goethe",)), 2) == {rest}


def test_words_are_counted() -> None:
    assert count_words("Goethe wrote Faust, didn't he?") == 9
    assert count_words("") == 0


def test_recall_and_tokens_of_prompts() -> None:
    a, b, c = Candidate("a", "one"), Candidate("b", "one two"), Candidate("c", "one two three")
    orders = {"1": [a, b], "2": [c], "3": []}
    found = bearing(orders, {"1": {b}, "2": {c}, "3": {a}})
    assert found.recall == pytest.approx([1 / 3, 2 / 3])
    assert found.tokens == pytest.approx([4 / 3, 6 / 3])
    assert bearing(orders, {"1": {b}}, count_tokens=len) == Bearing([0, 1], [3, 10])
    assert bearing({"1": []}, {"1": {b}}) == Bearing([], [])


def test_chunks_of_a_document_bear_the_answer_where_they_stand() -> None:
    chunks = [Candidate("A", f"part {i}") for i in range(4)]
    found = (*chunks, Candidate("A", "By Goethe."), Candidate("B", "Nobody knows."))
    judged, answered = (
        evaluate(Topics("t", (topic,)), {"s": ByText(chance)}, resamples=100).first_bearing
        for topic in (Topic("1", "who?", found, {"B": 1}), Topic("1", "who?", found, answers=("Goethe",)))
    )
    assert judged.recall == [0, 0, 0, 0, 0, 1]
    assert answered.recall == [0, 0, 0, 0, 1, 1]
    assert judged.tokens == answered.tokens == [2, 4, 6, 8, 11, 14]


def test_savings_at_equal_recall() -> None:
    before = Bearing([0.0, 0.2, 0.4, 0.6, 0.8], [10, 20, 30, 40, 50])
    after = Bearing([0.4, 0.6, 0.7, 0.7, 0.7], [12, 24, 36, 48, 60])
    found = savings(before, after, prompts=(1, 3, 4, 5, 10))
    assert [(s.passages, s.passages_after) for s in found] == [(3, 1), (4, 2), (5, None)]
    assert found[0].saved == pytest.approx(1 - 12 / 30)
    assert found[2].tokens_after is None
    assert found[2].saved is None


def test_passages_that_added_nothing_before_are_no_saving() -> None:
    before = Bearing([0.5, 0.5, 0.5, 1.0, 1.0], [10, 20, 30, 40, 50])
    found = savings(before, Bearing([0.5, 1.0], [10, 20]), prompts=(2, 3, 5))
    assert [(s.passages, s.passages_after) for s in found] == [(1, 1), (4, 2)]
    assert [s.saved for s in found] == [0, 0.5]


def test_a_right_order_saves_tokens_and_a_dataset_may_have_answers_only() -> None:
    topics = make_topics()
    found = evaluate(topics, {"s": ByText(right)}, resamples=100)
    assert (found.rag, found.judged_by) == ("judgements", "judgements")
    assert all(s.passages_after == 1 and s.saved > 0.5 for s in found.systems[0].savings)
    answers = tuple(Topic(t.id, t.query, t.candidates, answers=("right text",)) for t in topics)
    by_answer = evaluate(Topics("a", answers), {"s": ByText(right)}, resamples=100)
    assert (by_answer.rag, by_answer.judged_by) == ("answers", "answers")
    assert by_answer.systems[0].savings == found.systems[0].savings
    assert by_answer.systems[0].measured.mean["RR@10"] == 1


def test_a_grade_that_answers_never_give_is_not_asked_for() -> None:
    topics = tuple(Topic(t.id, t.query, t.candidates, answers=("right text",)) for t in make_topics(5))
    one, two = (
        evaluate(Topics("a", topics), {"s": ByText(right)}, relevant_from=grade, resamples=100)
        for grade in (1, 2)
    )
    assert two.systems[0].measured == one.systems[0].measured
    assert (two.relevant_from, two.systems[0].measured.mean["P@1"]) == (1, 1)
