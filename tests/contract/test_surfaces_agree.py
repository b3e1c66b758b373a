"""The same passages get the same order and scores everywhere."""

import asyncio
import json
from pathlib import Path

import pytest
from haystack import Document as HaystackDocument
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from typer.testing import CliRunner

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.cli.app import app
from rerank_plugins.demo.data import load_passages, load_queries
from rerank_plugins.haystack import CrossEncoderRanker
from rerank_plugins.langchain import CrossEncoderRerank as LangChainRerank
from rerank_plugins.llama_index import CrossEncoderRerank as LlamaIndexRerank

Scored = list[tuple[str, float]]


@pytest.mark.parametrize("query", [query.text for query in load_queries()[:3]])
def test_core_cli_langchain_llama_index_and_haystack(
    query: str, bundled: CrossEncoderScorer, tmp_path: Path
) -> None:
    texts = [passage.text for passage in load_passages()[:25]] + ["", "word " * 600]
    expected: Scored = [(r.text, r.score) for r in Reranker(bundled).rank(query, texts)]  # type: ignore[misc]

    rerank = LangChainRerank(model="bundled", device="cpu")
    documents = [Document(text) for text in texts]
    compressed = rerank.compress_documents(documents, query)
    agree([(d.page_content, d.metadata["relevance_score"]) for d in compressed], expected)
    compressed = asyncio.run(rerank.acompress_documents(documents, query))
    agree([(d.page_content, d.metadata["relevance_score"]) for d in compressed], expected)

    postprocessor = LlamaIndexRerank(model="bundled", device="cpu")
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
    agree([(n.text, n.score) for n in postprocessor.postprocess_nodes(nodes, query_str=query)], expected)
    processed = asyncio.run(postprocessor.apostprocess_nodes(nodes, query_str=query))
    agree([(n.text, n.score) for n in processed], expected)

    ranker = CrossEncoderRanker("bundled", device="cpu")
    contents = [HaystackDocument(content=text) for text in texts]
    agree([(d.content, d.score) for d in ranker.run(query, contents)["documents"]], expected)
    ranked = asyncio.run(ranker.run_async(query, contents))["documents"]
    agree([(d.content, d.score) for d in ranked], expected)

    path = tmp_path / "passages.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    done = CliRunner().invoke(app, ["rank", str(path), "-q", query, "-m", "bundled", "--to", "jsonl"])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    agree([(row["text"], row["score"]) for row in rows], expected)


def agree(found: list[tuple[object, object]], expected: Scored) -> None:
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)
    assert all(type(score) is float for _, score in found)
