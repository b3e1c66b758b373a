"""docs/llama-index.md says what the code does: each block runs by itself and prints what it says."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_index.core.instrumentation import get_dispatcher

from rerank_plugins.llama_index import CrossEncoderRerank

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "llama-index.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(autouse=True)
def _forget_handlers() -> Iterator[None]:
    handlers = get_dispatcher().event_handlers
    before = list(handlers)
    yield
    handlers[:] = before


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_a_block_prints_what_it_says(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "llama-index.md", "exec"), {"__name__": "__main__"})
    said = re.findall(r"^# > (.*)$", block, flags=re.MULTILINE)
    assert capsys.readouterr().out.splitlines() == said


def test_every_parameter_of_sentence_transformer_rerank_is_mapped() -> None:
    from llama_index.core.postprocessor import SentenceTransformerRerank

    table = PAGE.split("## Coming from")[1]
    theirs = re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)
    known = {*inspect.signature(SentenceTransformerRerank.__init__).parameters} - {"self"}
    assert known | {"callback_manager"} <= set(theirs)
    ours = {
        name
        for cell in re.findall(r"\| (`\w+`[^|]*) \|$", table, re.MULTILINE)
        for name in re.findall(r"`([a-z_]+)`", cell)
    }
    assert ours <= set(CrossEncoderRerank.model_fields)
