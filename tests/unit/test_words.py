"""The table that words are looked up in."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.scoring.words import Words, WordTable


def words_of(texts: list[str]) -> Words:
    return Words.of([text.encode() for text in texts])


def learn(table: WordTable, words: list[str]) -> None:
    """Add words, each with its characters for ids."""
    ids = np.array([ord(c) for word in words for c in word], dtype=np.int32)
    table.add(words_of(words).rows, ids, np.array([len(word) for word in words], dtype=np.int64))


def recall(table: WordTable, words: list[str]) -> list[str | None]:
    entries = table.find(words_of(words).rows)
    ids, ends = table.ids(entries)
    found = ["".join(map(chr, part)) for part in np.split(ids, ends[:-1])]
    return [word if entry else None for word, entry in zip(found, entries, strict=True)]


def test_texts_are_split_at_ascii_space_and_nowhere_else() -> None:
    words = words_of(["one two", "", " é\u3000ü\n", "\x00", "a\tb\rc\x0bd"])
    assert words.ends.tolist() == [2, 3, 6, 7, 10]
    found, first, which = words.distinct(np.arange(10))
    assert [word.decode() for word in found] == ["one", "two", "", "é\u3000ü", "\x00", "a", "b", "c\x0bd"]
    assert first.tolist() == [0, 1, 2, 4, 6, 7, 8, 9]
    assert which.tolist() == [0, 1, 2, 2, 3, 2, 4, 5, 6, 7]


def test_the_same_word_has_the_same_row_wherever_it_stands() -> None:
    rows = words_of(["word", "a word", "word or words"]).rows
    assert np.array_equal(rows[0], rows[2])
    assert np.array_equal(rows[0], rows[3])
    assert not np.array_equal(rows[0], rows[5])


@given(
    st.lists(
        st.text(st.characters(exclude_characters=" \t\n\r", exclude_categories=["Cs"])),
        min_size=1,
        unique=True,
    )
)
def test_words_are_found_again_if_they_fit(words: list[str]) -> None:
    table = WordTable(64)
    learn(table, words[::2])
    expected = [
        word if i % 2 == 0 and len(word.encode()) < 32 and i // 2 + 1 < 64 else None
        for i, word in enumerate(words)
    ]
    assert recall(table, words) == expected


def test_words_that_want_the_same_slot_are_all_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WordTable, "_slot", lambda self, rows: np.full(len(rows), 62))
    table = WordTable(32)  # 64 slots: probing goes on at the first
    words = [f"word{i}" for i in range(20)]
    learn(table, words[:9])
    learn(table, words[9:18])
    assert recall(table, words) == [*words[:18], None, None]


def test_nobody_can_know_which_words_collide() -> None:
    rows = words_of([f"word{i}" for i in range(64)]).rows
    slots = [WordTable(64)._slot(rows) for _ in range(8)]
    assert all(0 <= some.min() <= some.max() < 128 for some in slots)
    assert len({tuple(some.tolist()) for some in slots}) == 8
    # Spread as by chance: 64 in 128 slots leave some 50 different ones.
    assert all(len(set(some.tolist())) > 32 for some in slots)


def test_one_call_may_bring_more_words_than_are_remembered() -> None:
    table = WordTable(8)
    words = [f"word{i}" for i in range(30)]
    entries = table.add(words_of(words).rows, np.arange(30, dtype=np.int32), np.ones(30, dtype=np.int64))
    assert table.ids(entries)[0].tolist() == list(range(30))
    assert table.full
    assert (table.find(words_of(words).rows) > 0).tolist() == [True] * 7 + [False] * 23


def test_the_early_half_is_what_came_first_and_can_be_found() -> None:
    table = WordTable(16)
    words = ["x" * 40, *(f"word{i}" for i in range(14))]
    learn(table, words)
    assert table.full
    half = table.early_half()
    assert not half.full
    assert recall(half, words) == [None, *words[1:7], *[None] * 8]


def test_ids_that_are_never_looked_up_are_not_kept_for_ever() -> None:
    table = WordTable(16)
    learn(table, ["word"])
    long = ["x" * 100 + str(i) for i in range(4)]
    learn(table, long)
    assert not table.full
    learn(table, [word + "y" for word in long])
    assert table.full
    half = table.early_half()
    assert not half.full
    assert recall(half, ["word", *long]) == ["word", None, None, None, None]
