"""The same passages get the same order and scores everywhere."""

import asyncio
import json
import random
from pathlib import Path
from typing import Any

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
from tests.texts import ODD, make_text

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


SETS = 500
OPTIONS: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"min_score": 0.5},
    {"scale": "logit", "min_score": 0.0, "top_k": 4},
    {"long_documents": "max_passage", "passage_tokens": 20, "max_passages": 3},
]


def random_set(seed: int) -> tuple[str, list[str]]:
    """Return a query and up to nine candidates, odd, long and equal ones among them."""
    rng = random.Random(seed)
    texts = [
        make_text(rng.choice([0, 1, 5, 20, 60]), seed=rng.randrange(10**6)) for _ in range(rng.randrange(9))
    ]
    texts += rng.choices(ODD, k=rng.randrange(2)) + rng.choices(texts or [""], k=rng.randrange(2))
    return make_text(rng.randrange(1, 9), seed=seed), texts


@pytest.mark.parametrize("part", range(len(OPTIONS)))
def test_five_hundred_candidate_sets(
    part: int, tiny: Path, tiny_scorer: CrossEncoderScorer, tmp_path: Path
) -> None:
    options = OPTIONS[part]
    names = options.keys() - {"top_k"}
    others = {name: options[name] for name in names} | {"scorer": tiny_scorer}
    core = Reranker(tiny_scorer, **options)
    lang_chain = LangChainRerank(top_n=options.get("top_k"), **others)
    llama_index = LlamaIndexRerank(top_n=options.get("top_k"), **others)
    haystack = CrossEncoderRanker(top_k=options.get("top_k"), **others)
    sets = [random_set(seed) for seed in range(part, SETS, len(OPTIONS))]
    expected: list[Scored] = []
    for query, texts in sets:
        found = [(r.text, r.score) for r in core.rank(query, texts)]
        expected.append(found)  # type: ignore[arg-type]
        documents = lang_chain.compress_documents([Document(text) for text in texts], query)
        agree([(d.page_content, d.metadata["relevance_score"]) for d in documents], expected[-1])
        nodes = [NodeWithScore(node=TextNode(text=text)) for text in texts]
        agree(
            [(n.text, n.score) for n in llama_index.postprocess_nodes(nodes, query_str=query)], expected[-1]
        )
        contents = [HaystackDocument(content=text, id=str(i)) for i, text in enumerate(texts)]
        agree([(d.content, d.score) for d in haystack.run(query, contents)["documents"]], expected[-1])
    assert sum(map(len, expected)) > 100

    ranked = from_command_line(sets, options, tiny, tmp_path)
    for i, found in enumerate(expected):
        agree(ranked.get(f"q{i}", []), found)


def from_command_line(
    sets: list[tuple[str, list[str]]], options: dict[str, Any], model: Path, folder: Path
) -> dict[str, Scored]:
    """Return what one call of `rerank-plugins rank` makes of a run over all sets."""
    files = {name: folder / name for name in ("queries.tsv", "passages.jsonl", "first.run", "out.jsonl")}
    files["queries.tsv"].write_text("".join(f"q{i}\t{query}\n" for i, (query, _) in enumerate(sets)))
    passages, run = [], []
    for i, (_, texts) in enumerate(sets):
        for j, text in enumerate(texts):
            passages.append(json.dumps({"id": f"d{i}-{j}", "text": text}))
            run.append(f"q{i} Q0 d{i}-{j} {j + 1} {-j} first")
    files["passages.jsonl"].write_text("\n".join(passages))
    files["first.run"].write_text("\n".join(run))
    arguments = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    arguments += ["--queries", str(files["queries.tsv"]), "--passages", str(files["passages.jsonl"])]
    arguments += ["--run", str(files["first.run"]), "--to", "jsonl", "-o", str(files["out.jsonl"])]
    done = CliRunner().invoke(app, ["rank", "--model", str(model), "--device", "cpu", *arguments])
    assert done.exit_code == 0, done.output
    ranked: dict[str, Scored] = {}
    for line in files["out.jsonl"].read_text().splitlines():
        row = json.loads(line)
        ranked.setdefault(row["qid"], []).append((row["text"], row["score"]))
    return ranked
