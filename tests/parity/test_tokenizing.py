"""Ids word by word equal ids of whole texts, whatever is in them."""

import json
import unicodedata
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer

from rerank_plugins import CrossEncoderScorer
from rerank_plugins.scoring import bert_words, tokenizing
from rerank_plugins.scoring.bert_words import WordLookup
from rerank_plugins.scoring.tokenizing import TextTokenizer
from tests.models import BUNDLED
from tests.texts import make_text

# Whatever joins, splits, combines, disappears or is special, with and without spaces around.
AWKWARD = [
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u00a0",
    "\u3000",
    "\u2028",
    "\u200b",
    "\u200d",
    "\ufeff",
    "\x00",
    "\x1c",
    "\x1f",
    "\x85",
    "[SEP]",
    "[CLS]",
    "[MASK]",
    "[UNK]",
    "[sep]",
    "##ing",
    "'",
    "--",
    "\u0301",
    " \u0301",
    "e\u0301",
    "\u0345",
    "\u0300\u0316",
    "Σ",
    "ΑΣ",
    "İ",
    "ß",
    "ﬁ",
    "中文",
    "日本 語",
    "한국어",
    "한",
    "ก็",
    "कि",
    "👩‍👩‍👧",
    "🇩🇪",
    "x" * 120,
    "\ufffd",
    "\U0001d518",
    "ــ",
    "Ünïcödé",
    "don't",
    "U.S.A.",
    "3.14",
    "a",
    "B",
    "the",
]
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=80),
    st.lists(st.sampled_from(AWKWARD), max_size=30).map("".join),
    st.lists(st.sampled_from(AWKWARD), max_size=30).map(" ".join),
)


@pytest.fixture(scope="module")
def plain() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def numbers(ids: bytes) -> list[int]:
    return np.frombuffer(ids, dtype=np.int32).tolist()


def whole(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]


def known_words(ours: TextTokenizer) -> int:
    assert ours._words is not None
    return ours._words._table.used


def test_the_familys_texts_are_looked_up_word_by_word(plain: Tokenizer) -> None:
    assert isinstance(TextTokenizer(plain)._words, WordLookup)


@settings(max_examples=400)
@given(texts=st.lists(TEXTS, max_size=6))
def test_any_text(plain: Tokenizer, texts: list[str]) -> None:
    ours = TextTokenizer(plain)
    for _ in range(2):  # unknown at first, then known
        assert [numbers(ids) for ids in ours.ids(texts, 10**6)] == whole(plain, texts)


def test_every_character_between_letters_and_between_spaces(plain: Tokenizer) -> None:
    # Every assigned character, but of the tens of thousands of ideographs and syllables a sample.
    points = [
        chr(i)
        for i in range(0x20000)
        if unicodedata.category(chr(i)) not in {"Cn", "Cs"} and not (0x3400 <= i < 0xD7A4 and i % 13)
    ]
    points = [c for c in points if not (0xE000 <= ord(c) < 0xF900 and ord(c) % 13)]
    texts = []
    for i in range(0, len(points), 16):
        some = points[i : i + 16]
        texts.append("".join(f"a{c}b {c} {c}c d{c} ,{c}- ({c}) " for c in some))
    ours = TextTokenizer(plain)
    assert [numbers(ids) for ids in ours.ids(texts, 10**6)] == whole(plain, texts)


def test_the_limit_keeps_the_first_ids(plain: Tokenizer) -> None:
    (ids,) = TextTokenizer(plain).ids(["one two three four"], 3)
    assert numbers(ids) == whole(plain, ["one two three"])[0]


@settings(max_examples=200)
@given(texts=st.lists(TEXTS, max_size=4), limit=st.integers(1, 40), gap=st.integers(1, 60))
def test_the_first_ids_of_any_text(plain: Tokenizer, texts: list[str], limit: int, gap: int) -> None:
    # Gaps hold words without an id, so that the first words are too few.
    texts = [text.replace(" ", " " * gap) for text in texts]
    expected = [ids[:limit] for ids in whole(plain, texts)]
    assert [numbers(ids) for ids in TextTokenizer(plain).ids(texts, limit)] == expected


def test_many_texts_are_looked_up_some_at_a_time(plain: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizing, "_CHARACTERS_TOGETHER", 200)
    texts = [make_text(i % 60, seed=i) for i in range(100)] + ["", " ", "x" * 300]
    for limit in (7, 10**6):
        expected = [ids[:limit] for ids in whole(plain, texts)]
        assert [numbers(ids) for ids in TextTokenizer(plain).ids(texts, limit)] == expected


def test_what_is_not_read_costs_nothing(plain: Tokenizer) -> None:
    ours = TextTokenizer(plain)
    ours.ids([" ".join(f"word{i}" for i in range(100_000))], 16)
    assert known_words(ours) <= 2 + 16 * tokenizing.CHARACTERS_PER_TOKEN // len("word0 ") + 1


def test_words_of_all_lengths_are_remembered_or_not(plain: Tokenizer) -> None:
    ours = TextTokenizer(plain)
    # Nulls are bytes of words, too, and those of a row that are no word's.
    words = [letter * size for size in range(70) for letter in ("a", "é", "中", "\x00")]
    words += [word + "\x00" for word in words] + ["\x00" + word for word in words]
    for _ in range(2):
        assert [numbers(ids) for ids in ours.ids(words, 10**6)] == whole(plain, words)
    known = known_words(ours)
    ours.ids(["a" * 31, "é" * 15], 10**6)
    assert known_words(ours) == known
    ours.ids(["a" * 32, "é" * 16], 10**6)
    assert known_words(ours) == known + 2


def test_threads_while_words_are_forgotten(plain: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bert_words, "_MOST_WORDS", 64)
    ours = TextTokenizer(plain)
    texts = [make_text(1 + i % 60, seed=i) for i in range(200)]
    expected = whole(plain, texts)

    def encode(seed: int) -> bool:
        order = np.random.default_rng(seed).permutation(len(texts))
        return all(numbers(ours.ids([texts[i]], 10**6)[0]) == expected[i] for i in order)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(encode, range(32)))
    assert known_words(ours) <= 64 + 60


def test_other_tokenizers_get_whole_texts(plain: Tokenizer) -> None:
    for part, replacement in (
        ("normalizer", {"type": "NFC"}),
        ("pre_tokenizer", {"type": "Whitespace"}),
        ("normalizer", None),
    ):
        pipeline = json.loads(plain.to_str())
        pipeline[part] = replacement
        other = Tokenizer.from_str(json.dumps(pipeline))
        ours = TextTokenizer(other)
        assert ours._words is None
        assert numbers(ours.ids(["New York is big"], 3)[0]) == whole(other, ["New York is big"])[0][:3]
    spaced = Tokenizer.from_str(plain.to_str())
    spaced.add_tokens(["new york"])
    assert TextTokenizer(spaced)._words is None
    assert numbers(TextTokenizer(spaced).ids(["in new york"], 9)[0]) == whole(spaced, ["in new york"])[0]


@settings(max_examples=100)
@given(
    texts=st.lists(TEXTS, max_size=4),
    lowercase=st.booleans(),
    strip_accents=st.sampled_from([None, True, False]),
    clean_text=st.booleans(),
    added=st.lists(
        st.sampled_from(["[DOC]", "the", "x", ".", "a-b", "<q>", "Ünï", "U.S", "in'"]),
        max_size=3,
        unique=True,
    ),
    normalized=st.booleans(),
)
def test_other_bert_tokenizers(
    plain: Tokenizer,
    texts: list[str],
    lowercase: bool,
    strip_accents: bool | None,
    clean_text: bool,
    added: list[str],
    normalized: bool,
) -> None:
    pipeline = json.loads(plain.to_str())
    pipeline["normalizer"] |= {
        "lowercase": lowercase,
        "strip_accents": strip_accents,
        "clean_text": clean_text,
    }
    other = Tokenizer.from_str(json.dumps(pipeline))
    other.add_tokens([AddedToken(token, normalized=normalized) for token in added])
    texts = [*texts, *(f"A{token}b, THE.{token.upper()} {token}" for token in added)]
    ours = TextTokenizer(other)
    assert ours._words is not None
    for _ in range(2):
        assert [numbers(ids) for ids in ours.ids(texts, 10**6)] == whole(other, texts)


def test_the_scorer_uses_it(tiny_scorer: CrossEncoderScorer) -> None:
    assert tiny_scorer._loaded.encoder._texts._words
