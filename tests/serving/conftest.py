"""A reranker, and a server around it."""

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import live


@pytest.fixture(scope="session")
def reranker(bundled: CrossEncoderScorer) -> Reranker:
    return Reranker(bundled)


@pytest.fixture
def app(reranker: Reranker) -> FastAPI:
    # A busy machine is slow, which no test is about that does not say so.
    patient = ServerSettings(max_wait_ms=600_000, deadline_ms=600_000)
    return create_app(patient, pool=ModelPool.of({"bundled": reranker}, {"rerank-v3.5": "bundled"}))


@pytest.fixture
def client(app: FastAPI) -> Iterator[httpx.Client]:
    with live(app) as url, httpx.Client(base_url=url, timeout=600) as client:
        yield client
