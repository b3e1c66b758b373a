"""The clients: each asks for the scores of documents as its own documentation says.

All return (position, score) in the client's order. Frameworks get documents whose ids are the positions.
"""

import asyncio
import json
import subprocess
from collections.abc import Callable
from typing import Any

import cohere
import litellm
import voyageai
from haystack import Document as HaystackDocument
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker
from langchain_cohere import CohereRerank as LangChainCohereRerank
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaIndexCohereRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

from tests.clients.conftest import Target

Ranked = list[tuple[int, float]]
Client = Callable[[Target, str, list[str]], Ranked]


def _results(reply: Any) -> Ranked:
    return [(result.index, result.relevance_score) for result in reply.results]


def cohere_v1(target: Target, query: str, texts: list[str]) -> Ranked:
    client = cohere.Client(target.key, base_url=target.url)
    reply = client.rerank(model=target.model, query=query, documents=texts, return_documents=True)
    assert [result.document.text for result in reply.results] == [texts[r.index] for r in reply.results]
    return _results(reply)


def cohere_v1_objects(target: Target, query: str, texts: list[str]) -> Ranked:
    client = cohere.Client(target.key, base_url=target.url)
    return _results(
        client.rerank(model=target.model, query=query, documents=[{"text": text} for text in texts])
    )


def cohere_v2(target: Target, query: str, texts: list[str]) -> Ranked:
    client = cohere.ClientV2(target.key, base_url=target.url)
    reply = client.rerank(model=target.model, query=query, documents=texts, top_n=len(texts))
    assert reply.id
    assert reply.meta.api_version.version == "2"
    assert reply.meta.billed_units.search_units == 1
    return _results(reply)


def cohere_v2_async(target: Target, query: str, texts: list[str]) -> Ranked:
    async def ask() -> Ranked:
        async with cohere.AsyncClientV2(target.key, base_url=target.url) as client:
            return _results(await client.rerank(model=target.model, query=query, documents=texts))

    return asyncio.run(ask())


def langchain_cohere(target: Target, query: str, texts: list[str]) -> Ranked:
    reranker = LangChainCohereRerank(
        cohere_api_key=target.key, base_url=target.url, model=target.model, top_n=len(texts)
    )
    documents = [Document(text, metadata={"place": i}) for i, text in enumerate(texts)]
    found = reranker.compress_documents(documents, query)
    return [(d.metadata["place"], d.metadata["relevance_score"]) for d in found]


def _haystack(ranker: Any, query: str, texts: list[str]) -> Ranked:
    documents = [HaystackDocument(id=str(i), content=text) for i, text in enumerate(texts)]
    return [(int(d.id), d.score) for d in ranker.run(query=query, documents=documents)["documents"]]


def haystack_cohere(target: Target, query: str, texts: list[str]) -> Ranked:
    key = Secret.from_token(target.key)
    return _haystack(CohereRanker(target.model, 100, key, api_base_url=target.url), query, texts)


def haystack_jina(target: Target, query: str, texts: list[str]) -> Ranked:
    key = Secret.from_token(target.key)
    return _haystack(JinaRanker(target.model, key, base_url=f"{target.url}/v1/rerank"), query, texts)


def haystack_vllm(target: Target, query: str, texts: list[str]) -> Ranked:
    key = Secret.from_token(target.key)
    ranker = VLLMRanker(model=target.model, api_key=key, api_base_url=f"{target.url}/v1")
    return _haystack(ranker, query, texts)


def haystack_tei(target: Target, query: str, texts: list[str]) -> Ranked:
    ranker = HuggingFaceTEIRanker(
        url=target.url, top_k=100, max_retries=1, token=Secret.from_token(target.key)
    )
    return _haystack(ranker, query, texts)


def _llama_index(reranker: Any, query: str, texts: list[str]) -> Ranked:
    nodes = [NodeWithScore(node=TextNode(id_=str(i), text=text)) for i, text in enumerate(texts)]
    found = reranker.postprocess_nodes(nodes, query_str=query)
    return [(int(each.node_id), each.score) for each in found]


def llama_index_cohere(target: Target, query: str, texts: list[str]) -> Ranked:
    reranker = LlamaIndexCohereRerank(
        len(texts), target.model, api_key=target.key, base_url=target.url, max_retries=1
    )
    return _llama_index(reranker, query, texts)


def llama_index_jina(target: Target, query: str, texts: list[str]) -> Ranked:
    reranker = JinaRerank(len(texts), target.model, base_url=f"{target.url}/v1", api_key=target.key)
    return _llama_index(reranker, query, texts)


def llama_index_tei(target: Target, query: str, texts: list[str]) -> Ranked:
    # This client sends no model, and its token is the whole header.
    reranker = TextEmbeddingInference(
        top_n=len(texts), base_url=target.url, auth_token=f"Bearer {target.key}"
    )
    return _llama_index(reranker, query, texts)


def voyage(target: Target, query: str, texts: list[str]) -> Ranked:
    client = voyageai.Client(api_key=target.key, base_url=f"{target.url}/v1", max_retries=1)
    reply = client.rerank(query, texts, target.model, top_k=len(texts))
    assert reply.total_tokens > 0
    assert [result.document for result in reply.results] == [texts[result.index] for result in reply.results]
    return _results(reply)


def _litellm(provider: str, path: str = "", **options: Any) -> Client:
    def ask(target: Target, query: str, texts: list[str]) -> Ranked:
        reply = litellm.rerank(
            model=f"{provider}/{target.model}",
            query=query,
            documents=texts,
            top_n=len(texts),
            api_base=target.url + path,
            api_key=target.key,
            **options,
        )
        return [(result["index"], result["relevance_score"]) for result in reply.results]

    return ask


def curl(target: Target, query: str, texts: list[str]) -> Ranked:
    body = {"model": target.model, "query": query, "documents": texts}
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail-with-body", "-X", "POST"),
            *("-H", "Content-Type: application/json", "-H", f"Authorization: Bearer {target.key}"),
            *("--data-binary", "@-", f"{target.url}/v1/rerank"),
        ],
        input=json.dumps(body).encode(),
        capture_output=True,
        check=False,
    )
    reply = json.loads(done.stdout)
    if done.returncode:
        raise RuntimeError(reply["message"])
    return [(result["index"], result["relevance_score"]) for result in reply["results"]]


CLIENTS: dict[str, Client] = {
    "cohere v1": cohere_v1,
    "cohere v1, objects": cohere_v1_objects,
    "cohere v2": cohere_v2,
    "cohere v2, async": cohere_v2_async,
    "langchain-cohere": langchain_cohere,
    "haystack cohere": haystack_cohere,
    "haystack jina": haystack_jina,
    "haystack tei": haystack_tei,
    "haystack vllm": haystack_vllm,
    "llama-index cohere": llama_index_cohere,
    "llama-index jina": llama_index_jina,
    "llama-index tei": llama_index_tei,
    "voyageai": voyage,
    "litellm cohere": _litellm("cohere"),
    "litellm hosted_vllm": _litellm("hosted_vllm"),
    "litellm jina_ai": _litellm("jina_ai"),
    "litellm huggingface": _litellm("huggingface"),
    "litellm litellm_proxy": _litellm("litellm_proxy"),
    "litellm together_ai": _litellm("together_ai", "/v1"),
    "litellm voyage": _litellm("voyage", "/v1"),
    # Infinity's documents are plain strings where all the others have objects, so it does without.
    "litellm infinity": _litellm("infinity", return_documents=False),
    "curl": curl,
}
