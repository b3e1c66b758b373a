"""Our own client against our own server, in every dialect, and through every adapter."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from haystack import Document as HaystackDocument
from haystack import Pipeline
from langchain_core.documents import Document
from langchain_core.load import dumps, loads
from llama_index.core.schema import NodeWithScore, TextNode
from typer.testing import CliRunner

from rerank_plugins import CrossEncoderScorer, InvalidInputError, RemoteError, RemoteScorer, Reranker
from rerank_plugins.cli.app import app
from rerank_plugins.haystack import CrossEncoderRanker
from rerank_plugins.langchain import CrossEncoder
from rerank_plugins.langchain import CrossEncoderRerank as LangChainRerank
from rerank_plugins.llama_index import CrossEncoderRerank as LlamaIndexRerank
from rerank_plugins.scoring.remote.dialects import DIALECTS
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.clients.conftest import KEY, LONG, QUERY, TEXTS, Target
from tests.serving.live import live

DIALECT = pytest.mark.parametrize("dialect", list(DIALECTS))
ALL = [*TEXTS, LONG]


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANK_REMOTE_API_KEY", KEY)


@pytest.fixture
def best(reranker: Reranker) -> list[tuple[str, float]]:
    return [(ranked.text, float(ranked.score or 0)) for ranked in reranker.rank(QUERY, ALL)]


@DIALECT
async def test_every_dialect_gives_what_the_model_gives_here(
    dialect: str, target: Target, bundled: CrossEncoderScorer, reranker: Reranker
) -> None:
    with RemoteScorer(target.url, dialect=dialect, model=target.model) as scorer:
        scores = scorer.score_detailed(QUERY, ALL)
        assert scores.logits == pytest.approx(bundled.score(QUERY, ALL), abs=1e-5)
        assert (await scorer.ascore(QUERY, ALL)).tolist() == pytest.approx(scores.logits.tolist(), abs=1e-5)
        here, there = reranker.rank(QUERY, ALL), Reranker(scorer).rank(QUERY, ALL)
    assert [ranked.index for ranked in there] == [ranked.index for ranked in here]
    assert [r.score for r in there] == pytest.approx([r.score for r in here], abs=1e-6)
    says_what_was_cut = dialect not in {"tei", "voyage"}
    assert scores.truncated.tolist() == [False] * len(TEXTS) + [says_what_was_cut]
    assert scores.tokens == (0 if dialect == "tei" else here.stats.tokens)


@DIALECT
def test_a_query_that_is_cut_there_shows_here(dialect: str, target: Target) -> None:
    with RemoteScorer(target.url, dialect=dialect, model=target.model) as scorer:
        scores = scorer.score_pairs_detailed([(QUERY, TEXTS[0]), ("who wrote it? " * 300, TEXTS[0])])
        assert scores.query_truncated.tolist() == [False, dialect != "tei"]


@DIALECT
def test_a_server_that_returns_logits_or_takes_few_documents(
    dialect: str, bundled: CrossEncoderScorer, reranker: Reranker
) -> None:
    raw = Reranker(bundled, scale="logit")
    settings = ServerSettings(max_documents=3, scale="logit")
    with (
        live(create_app(settings, pool=ModelPool.of({"m": raw}))) as url,
        RemoteScorer(url, dialect=dialect) as scorer,
    ):
        assert scorer.score(QUERY, ALL) == pytest.approx(bundled.score(QUERY, ALL), abs=1e-5)


def test_a_server_in_front_of_a_server(target: Target, bundled: CrossEncoderScorer) -> None:
    with RemoteScorer(target.url, dialect="vllm") as far:
        pool = ModelPool.of({"far": Reranker(far)})
        with live(create_app(ServerSettings(), pool=pool)) as url, RemoteScorer(url, dialect="tei") as near:
            assert near.score(QUERY, ALL) == pytest.approx(bundled.score(QUERY, ALL), abs=1e-5)


@DIALECT
def test_what_the_server_refuses_is_said(dialect: str, target: Target) -> None:
    with (
        RemoteScorer(target.url, dialect=dialect, model="other") as scorer,
        pytest.raises(RemoteError, match="404 model must be one of") as caught,
    ):
        scorer.score(QUERY, TEXTS)
    assert caught.value.status == 404
    with (
        RemoteScorer(target.url, dialect=dialect, api_key="wrong") as scorer,
        pytest.raises(RemoteError, match="401"),
    ):
        scorer.score(QUERY, TEXTS)


def test_langchain(target: Target, best: list[tuple[str, float]]) -> None:
    documents = [Document(text, id=str(i)) for i, text in enumerate(ALL)]
    with RemoteScorer(target.url) as scorer:
        for rerank in (LangChainRerank(scorer=scorer), LangChainRerank(remote=target.url, model="bundled")):
            found = rerank.compress_documents(documents, QUERY)
            agree([(d.page_content, d.metadata["relevance_score"]) for d in found], best)
            found = asyncio.run(rerank.acompress_documents(documents, QUERY))
            agree([(d.page_content, d.metadata["relevance_score"]) for d in found], best)
    settings = {"base_urls": [target.url], "dialect": "tei"}
    written = dumps(LangChainRerank(remote=settings))
    assert KEY not in written
    rerank = loads(written, allowed_objects=[LangChainRerank], valid_namespaces=["rerank_plugins"])
    assert rerank.remote == settings
    found = rerank.invoke({"query": QUERY, "documents": documents})
    agree([(d.page_content, d.metadata["relevance_score"]) for d in found], best)
    scores = CrossEncoder(remote=settings).score([(QUERY, text) for text, _ in best])
    assert scores == pytest.approx([score for _, score in best], abs=1e-6)


def test_llama_index(target: Target, best: list[tuple[str, float]]) -> None:
    nodes = [NodeWithScore(node=TextNode(text=text)) for text in ALL]
    with RemoteScorer(target.url) as scorer:
        made = LlamaIndexRerank(remote={"base_urls": target.url, "dialect": "vllm"})
        assert KEY not in str(made.to_dict())
        again = LlamaIndexRerank.from_dict(made.to_dict())
        for rerank in (LlamaIndexRerank(scorer=scorer), made, again):
            found = rerank.postprocess_nodes(nodes, query_str=QUERY)
            agree([(n.node.get_content(), n.score) for n in found], best)
        found = asyncio.run(again.apostprocess_nodes(nodes, query_str=QUERY))
        agree([(n.node.get_content(), n.score) for n in found], best)


def test_haystack(target: Target, best: list[tuple[str, float]]) -> None:
    documents = [HaystackDocument(content=text) for text in ALL]
    with RemoteScorer(target.url) as scorer:
        found = CrossEncoderRanker(scorer=scorer).run(QUERY, documents)["documents"]
        agree([(d.content, d.score) for d in found], best)
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker("bundled", remote={"base_urls": [target.url]}))
    written = pipeline.dumps()
    assert KEY not in written
    again = Pipeline.loads(written)
    inputs: dict[str, Any] = {"ranker": {"query": QUERY, "documents": documents}}
    agree([(d.content, d.score) for d in again.run(inputs)["ranker"]["documents"]], best)
    ranker = again.get_component("ranker")
    found = asyncio.run(ranker.run_async(QUERY, documents))["documents"]
    agree([(d.content, d.score) for d in found], best)
    ranker.close()


def test_secrets_and_settings_of_a_model_are_refused_beside_a_server(target: Target) -> None:
    for make in (LangChainRerank, LlamaIndexRerank, CrossEncoderRanker):
        with pytest.raises(InvalidInputError, match="RERANK_REMOTE_API_KEY") as caught:
            make(remote={"base_urls": target.url, "api_key": "sk-secret"})
        assert "sk-secret" not in str(caught.value)
        with pytest.raises(InvalidInputError, match="dtype cannot be set for a server"):
            make(remote=target.url, dtype="int8")
        with pytest.raises(InvalidInputError, match="remote must be a base URL or a mapping"):
            make(remote=5)
        with pytest.raises(InvalidInputError, match="remote cannot change a scorer that is ready"):
            make(remote=target.url, scorer=RemoteScorer(target.url))


def test_the_command_line(target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "passages.txt"
    path.write_text("\n".join(TEXTS[:3]) + "\n")
    arguments = ["rank", str(path), "-q", QUERY, "--to", "trec"]
    here = CliRunner().invoke(app, [*arguments, "--model", "bundled"])
    there = CliRunner().invoke(app, [*arguments, "--url", target.url, "--dialect", "vllm"])
    assert there.exit_code == 0, there.output
    rows = [[line.split() for line in done.stdout.splitlines()] for done in (here, there)]
    assert [row[2] for row in rows[0]] == [row[2] for row in rows[1]]
    assert [float(r[4]) for r in rows[0]] == pytest.approx([float(r[4]) for r in rows[1]], abs=1e-5)
    monkeypatch.setenv("RERANK_REMOTE_BASE_URLS", target.url)
    measured = CliRunner().invoke(
        app, ["eval", "demo", "--dialect", "tei", "--limit", "3", "--depth", "5", "--json"]
    )
    assert measured.exit_code == 0, measured.output
    assert '"remote"' in measured.stdout


def agree(found: list[tuple[object, object]], expected: list[tuple[str, float]]) -> None:
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-6)
