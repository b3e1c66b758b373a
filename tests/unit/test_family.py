"""The family's facts hang together."""

import re

import pytest

from rerank_plugins.scoring.family import FAMILY, FamilyModel, find


@pytest.mark.parametrize("member", FAMILY, ids=lambda m: m.id)
def test_parameters_follow_from_the_architecture(member: FamilyModel) -> None:
    width, inner = member.hidden_size, member.intermediate_size
    embeddings = (30522 + 512 + 2) * width + 2 * width
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    head = width * width + width + width + 1
    assert embeddings + member.layers * layer + head == member.parameters
    assert member.revision is None or re.fullmatch(r"[0-9a-f]{40}", member.revision)


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("cross-encoder/ms-marco-MiniLM-L-6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("ms-marco-minilm-l6-v2", "cross-encoder/ms-marco-MiniLM-L6-v2"),
        ("ms-marco-MiniLM-L-12-v2", "cross-encoder/ms-marco-MiniLM-L12-v2"),
        ("ms-marco-TinyBERT-L-2", "cross-encoder/ms-marco-TinyBERT-L2"),
        ("cross-encoder/ms-marco-TinyBERT-L2-v2", "cross-encoder/ms-marco-TinyBERT-L2-v2"),
    ],
)
def test_old_and_new_spellings(spelling: str, expected: str) -> None:
    found = find(spelling)
    assert found is not None
    assert found.id == expected


@pytest.mark.parametrize("name", ["my/ms-marco-MiniLM-L6-v2", "ms-marco-MiniLM-L6", "bundled", ""])
def test_a_name_that_only_looks_alike_is_not_the_family(name: str) -> None:
    assert find(name) is None
