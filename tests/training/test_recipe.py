"""The parts of the recipe that are arithmetic: cutting, drawing, targets, rates, measures."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
import typer

from ablate import without_hard
from config import PrepareConfig, TeachConfig, TrainConfig, read_config
from encoder import Encoded, late_interaction
from measure import by_source, gain
from prepare import collect
from queries import vary
from sources import Document, Question, cut
from teach import Bm25, candidates, opinions
from train import draw, falling, rate, target

TEXT = "Bread rises because yeast makes gas. Salt slows it. " * 20 + "A last sentence ends it."


def test_passages_are_whole_sentences_and_lose_no_word() -> None:
    passages = cut(TEXT, words=20)
    assert " ".join(passages).split() == TEXT.split()
    assert max(len(passage.split()) for passage in passages) <= 20
    assert all(passage.endswith(".") for passage in passages)


def test_a_sentence_longer_than_a_passage_is_split() -> None:
    words = [f"w{i}" for i in range(95)]
    passages = cut(" ".join(words), words=30)
    assert " ".join(passages).split() == words
    assert [len(passage.split()) for passage in passages] == [30, 30, 30, 5]


def test_queries_vary_in_style_and_keep_their_words() -> None:
    rng = random.Random(1)
    styles = Counter(vary("What is the boiling point of water?", None, rng) for _ in range(400))
    assert set(styles) == {
        "What is the boiling point of water?",
        "what is the boiling point of water",
        "boiling point water",
    }
    assert vary("What is X?", "x meaning", random.Random(1)) in {"What is X?", "what is x", "x meaning"}


def list_of(teacher: list[float], labelled: bool = True) -> dict:
    return {"passages": list(range(len(teacher))), "teacher": teacher, "labelled": labelled}


def test_the_target_is_the_teacher_without_a_label_and_the_label_when_it_is_strong() -> None:
    row = list_of([10.0, 12.0, 2.0])
    assert torch.allclose(target(row, 1, 0), torch.tensor([10.0, 12.0, 2.0]).softmax(-1))
    assert torch.allclose(target(row, 0.5, 0), torch.tensor([5.0, 6.0, 1.0]).softmax(-1))
    assert target(row, 1, 0).argmax() == 1
    assert target(row, 1, 3).argmax() == 0
    assert torch.allclose(target(list_of([10.0, 12.0, 2.0], labelled=False), 1, 3), target(row, 1, 0))
    assert torch.allclose(target(row, 0, 40), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)


def test_the_teacher_sees_cosine_late_interaction_and_words_of_each_candidate() -> None:
    def encoded(tokens: list[list[list[float]]]) -> Encoded:
        flat = np.array([token for text in tokens for token in text], np.float16)
        ends = np.cumsum([len(text) for text in tokens])
        return Encoded(np.zeros((len(tokens), 2), np.float32), [flat], ends)

    queries = encoded([[[0, 0]], [[9, 9], [1, 0], [9, 9]]])
    passages = encoded([[[0, 1]], [[1, 0], [0, 1]], [[0.5, 0]]])
    cosine, bm25 = np.float32([0.1, 0.2, 0.3]), np.float32([7, 0, 5])
    found = opinions(1, [2, 1], queries, passages, cosine, bm25)
    assert found == pytest.approx(np.array([[0.3, 0.5, 5], [0.2, 1, 0]]))


def test_late_interaction_is_the_best_match_of_each_word_but_not_of_the_special_tokens() -> None:
    query = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], np.float32)
    passage = np.array([[1, 0], [0.8, 0.6]], np.float32)
    assert late_interaction(query, passage) == pytest.approx((0.6 + 0.96) / 2)
    assert late_interaction(query[[0, 3]], passage) == 0


def test_bm25_knows_the_words_it_has_seen() -> None:
    bm25 = Bm25(["yeast makes bread rise", "salt slows yeast", "thunder follows lightning"])
    assert bm25.scores("why does bread rise").argmax() == 0
    assert (bm25.scores("zymurgy") == 0).all()


def test_candidates_come_from_words_and_from_meaning_and_never_hold_the_answer() -> None:
    passages = ["the answer is Quito", "also Quito", "words", "words too", "near", "far"]
    query = {"query": "q", "source": "s", "positives": [0], "answer": "quito", "held_out": False}
    bm25 = np.array([5, 4, 3, 2, 0, 0], np.float32)
    cosine = np.array([0.9, 0.8, 0.1, 0.2, 0.7, 0.0], np.float32)
    config = TeachConfig(depth=4, candidates=4, hard=1)
    made = candidates(query, bm25, cosine, passages, config, random.Random(1))
    assert made is not None
    assert made["passages"] == [0, 2, 4, 3]
    assert made["hard"] == 2


def test_exactly_the_hard_negatives_are_left_out() -> None:
    """BM25 and the bi-encoder find the same one best; a given negative is none of theirs."""
    query = {
        "query": "q",
        "source": "s",
        "positives": [0],
        "answer": None,
        "held_out": False,
        "negatives": [5],
    }
    scores = np.array([6, 5, 4, 3, 2, 1], np.float32)
    config = TeachConfig(depth=6, candidates=5, hard=1)
    made = candidates(query, scores, scores, list("abcdef"), config, random.Random(1))
    assert made is not None
    assert made["passages"][:3] == [0, 1, 5]
    left = without_hard(made | {"teacher": list("pqrst")})
    assert left["passages"] == [0, *made["passages"][2:]]
    assert left["teacher"] == list("prst")
    with pytest.raises(typer.BadParameter, match="must say how many passages are hard"):
        without_hard({"labelled": True, "passages": [0, 1], "teacher": [1, 2]})


def test_a_query_is_on_one_side_however_often_it_is_asked() -> None:
    question = "What is the boiling point of water?"
    often = [Document([f"{i} C"], [Question(question, (0,)), Question(f"{i}?", (0,))]) for i in range(100)]
    more = [Document(["99 C"], [Question(question, (0,))])]
    for seed in range(9):
        config = PrepareConfig(held_out=0.5, vary=False)
        _, queries = collect({"a": often, "b": more}, config, seed)
        assert len({row["held_out"] for row in queries if row["query"] == question}) == 1
        assert {row["held_out"] for row in queries} == {False, True}


def test_queries_are_rewritten_only_where_that_is_wanted() -> None:
    texts = [f"What is the price of {i}?" for i in range(50)]
    source = [Document(["p"], [Question(text, (0,))]) for text in texts]
    for vary_them in (False, True):
        _, queries = collect({"a": source}, PrepareConfig(vary=vary_them), 1)
        assert ({row["query"] for row in queries} == set(texts)) is not vary_them


def test_a_step_is_a_function_of_seed_and_number_and_an_epoch_sees_each_list_once() -> None:
    config = TrainConfig(lists=3, passages=4)
    lists = [list_of([0.1] * 9) | {"name": i} for i in range(9)]
    steps = [draw(lists, step, config, seed=1) for step in range(3)]
    assert steps == [draw(lists, step, config, seed=1) for step in range(3)]
    assert steps != [draw(lists, step, config, seed=2) for step in range(3)]
    assert sorted(row["name"] for step in steps for row in step) == list(range(9))
    for row in (row for step in steps for row in step):
        assert row["passages"][0] == 0
        assert len(set(row["passages"])) == len(row["teacher"]) == 4


def test_the_rate_warms_up_stays_and_falls_to_zero() -> None:
    config = TrainConfig(steps=100, warm_up=10, decay=0.3)
    rates = [rate(step, config) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * i for i in range(1, 11)])
    assert set(rates[10:71]) == {1.0}
    assert rates[71:] == sorted(rates[71:], reverse=True)
    assert rates[100] == 0
    assert [step for step in range(100) if falling(step, config)] == list(range(71, 100))


def test_held_out_figures_count_ties_against_the_model() -> None:
    assert gain(torch.tensor([3.0, 1.0, 2.0])) == 1
    assert gain(torch.tensor([1.0, 1.0, 0.0])) == pytest.approx(1 / 1.5849625, abs=1e-6)
    assert gain(torch.arange(11.0)) == 0
    rows = [{"source": "a"}, {"source": "a"}, {"source": "b"}]
    found = by_source(rows, [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])])
    assert found["b"] == 1
    assert found["mean"] == pytest.approx((found["a"] + 1) / 2, abs=1e-4)


def test_a_misspelt_setting_is_an_error(tmp_path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("[train]\nstep = 3\n")
    with pytest.raises(TypeError, match="step"):
        read_config(path)
