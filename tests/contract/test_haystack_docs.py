"""docs/haystack.md and its migration page name all parameters; tests/test_docs.py runs them."""

import inspect
import re
from pathlib import Path

import pytest

from rerank_plugins.haystack import CrossEncoderRanker
from tests.contract.test_haystack_upstream import PEERS, import_peer

DOCS = Path(__file__).parents[2] / "docs"
MIGRATION = (DOCS / "migration" / "haystack.md").read_text()
PAGE = (DOCS / "haystack.md").read_text() + MIGRATION
OURS = set(inspect.signature(CrossEncoderRanker.__init__).parameters) - {"self"}
ROWS = re.findall(r"^\| (`.*?) \| (.*) \|$", MIGRATION, flags=re.MULTILINE)
THEIRS = {name for left, _ in ROWS for name in re.findall(r"`(?:run\()?(\w+)", left)}


def test_the_table_maps_to_parameters_that_exist() -> None:
    named = {name for _, right in ROWS for name in re.findall(r"^`(\w+)", right)}
    assert named - {"CrossEncoderRanker", "torch_dtype", "model_max_length", "run"} <= OURS
    assert len(named & OURS) > 10


def test_every_parameter_of_ours_is_on_a_page() -> None:
    assert not {name for name in OURS if f"`{name}" not in PAGE}


@pytest.mark.parametrize("peer", PEERS)
def test_every_parameter_of_theirs_is_in_the_table(peer: str) -> None:
    cls = import_peer(peer)
    for method in (cls.__init__, cls.run):
        given = set(inspect.signature(method).parameters) - {"self", "query", "documents"}
        assert given <= THEIRS
