"""The migration page maps every parameter of LlamaIndex's own reranker. tests/test_docs.py runs its code."""

import inspect
import re
from pathlib import Path

from rerank_plugins.llama_index import CrossEncoderRerank

PAGE = (Path(__file__).parents[2] / "docs" / "migration" / "llama-index.md").read_text()


def test_every_parameter_of_sentence_transformer_rerank_is_mapped() -> None:
    from llama_index.core.postprocessor import SentenceTransformerRerank

    table = PAGE.split("## Parameters")[1].split("\n## ")[0]
    theirs = re.findall(r"^\| `(\w+)`", table, flags=re.MULTILINE)
    known = {*inspect.signature(SentenceTransformerRerank.__init__).parameters} - {"self"}
    assert known | {"callback_manager"} <= set(theirs)
    ours = {
        name
        for cell in re.findall(r"\| (`\w+`[^|]*) \|$", table, re.MULTILINE)
        for name in re.findall(r"`([a-z_]+)`", cell)
    }
    assert ours <= set(CrossEncoderRerank.model_fields)
