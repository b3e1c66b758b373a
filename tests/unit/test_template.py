"""Which text is scored: templates of content and metadata."""

import pickle
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import DocumentTemplate, InvalidInputError
from rerank_plugins._adapters import content_passage


@pytest.mark.parametrize(
    ("template", "metadata", "text"),
    [
        ("{content}", {"title": "T"}, "C"),
        ("{title}\n{content}", {"title": "T"}, "T\nC"),
        ("{title}\n{content}", {}, "C"),
        ("{title}\n{content}", {"title": None}, "C"),
        ("{title}\n{content}", {"title": ""}, "C"),
        ("{title}\n{content}", {"title": 0}, "0\nC"),
        ("{title}\n{content}", {"title": False}, "False\nC"),
        ("{title} ({year})\n{content}", {"year": 1808}, " (1808)\nC"),
        ("{title} ({year})\n{content}", {}, "C"),
        ("Title: {title}, {content}", {}, "Title: , C"),
        ("{content}\nFrom: {source}", {}, "C"),
        ("{content}\nFrom: {source}", {"source": "S"}, "C\nFrom: S"),
        ("{a}\n{b}\n{content}", {"b": "B"}, "B\nC"),
        ("Passage:\n\n{content}\n", {}, "Passage:\n\nC\n"),
        ("{{{title}}} {content}", {"title": "T"}, "{T} C"),
        ("{year:04d} {price:.2f}\n{content}", {"year": 7, "price": 2.5}, "0007 2.50\nC"),
        ("{year:04d}: {content}", {}, ": C"),
        ("{tags}\n{content}", {"tags": ["a", "b"]}, "['a', 'b']\nC"),
        ("{file name}\n{content}", {"file name": "f.txt"}, "f.txt\nC"),
    ],
)
def test_fields_and_lines(template: str, metadata: dict[str, Any], text: str) -> None:
    rendered = DocumentTemplate(template).render("C", metadata)
    assert rendered.text == text
    assert rendered.text[rendered.content_start] == "C"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "content.* once"),
        ("{title}", "content.* once"),
        ("{content} {content}", "content.* once"),
        ("{{content}}", "content.* once"),
        ("{doc.title} {content}", r"plain names.*\{doc\.title\}"),
        ("{tags[0]} {content}", r"plain names.*\{tags\[0\]\}"),
        ("{} {content}", r"plain names.*\{\}"),
        ("{0} {content}", r"plain names.*\{0\}"),
        ("{title!r} {content}", r"plain names.*\{title!r\}"),
        ("{title:{width}} {content}", r"plain names.*\{title:\{width\}\}"),
        ("{content:>9}", r"plain names.*\{content:>9\}"),
        ("{title {content}", "braces"),
        ("{content}}", "braces"),
        ("{title\n} {content}", "braces"),
        (7, "must be a str, but got int"),
    ],
)
def test_what_is_no_template_is_refused(template: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        DocumentTemplate(template)


def test_a_value_that_does_not_take_its_format_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"'year' must take the format '04d', but 'x'"):
        DocumentTemplate("{year:04d} {content}").render("C", {"year": "x"})
    with pytest.raises(InvalidInputError, match="'year'"):
        DocumentTemplate("{year:04d} {content}").render("C", {"year": [1]})


def test_fields_joined_as_haystack_does() -> None:
    meta = {"title": "T", "year": 1808, "none": None, "empty": "", "content": "meta"}
    names = ["title", "missing", "year", "none", "empty", "content"]
    rendered = DocumentTemplate.of_fields(names, " | ").render("C", meta)
    assert rendered.text == "T | 1808 |  | meta | C"
    assert rendered.content_start == len(rendered.text) - 1
    assert DocumentTemplate.of_fields([]).render("C", meta) == ("C", 0)
    assert DocumentTemplate.of_fields(["a.b{0}"]).render("C", {"a.b{0}": 1}).text == "1\nC"


def test_compares_by_value_and_survives_copies() -> None:
    template = DocumentTemplate("{title}\n{content}")
    assert pickle.loads(pickle.dumps(template)) == template
    assert deepcopy(template) == template
    assert hash(template) == hash(DocumentTemplate("{title}\n{content}"))
    assert template != DocumentTemplate("{title} {content}")
    assert template != DocumentTemplate.of_fields(["title"])
    assert eval(repr(template)) == template


@given(
    content=st.text(max_size=20),
    metadata=st.dictionaries(st.sampled_from(["a", "b"]), st.none() | st.text(max_size=5)),
    literal=st.text(st.characters(exclude_characters="{}"), max_size=5),
)
def test_the_content_is_where_it_is_said_to_be(content: str, metadata: dict[str, Any], literal: str) -> None:
    for template in (
        DocumentTemplate(f"{literal}{{a}}\n{{b}}{literal}{{content}}{literal}\n{{a}}"),
        DocumentTemplate.of_fields(["b", "a"], literal),
    ):
        text, start = template.render(content, metadata)
        assert text[start : start + len(content)] == content


@pytest.mark.parametrize(
    ("passage", "start", "length", "expected"),
    [
        (None, 3, 10, None),
        ((0, 13), 3, 10, (0, 10)),
        ((5, 9), 3, 10, (2, 6)),
        ((0, 5), 3, 10, (0, 2)),
        ((8, 20), 3, 10, (5, 10)),
        ((0, 3), 3, 10, None),
        ((13, 15), 3, 10, None),
        ((0, 3), 3, 0, (0, 0)),
    ],
)
def test_a_passage_of_the_text_as_one_of_the_content(
    passage: tuple[int, int] | None, start: int, length: int, expected: tuple[int, int] | None
) -> None:
    assert content_passage(passage, start, length) == expected
