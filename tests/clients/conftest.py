"""One server with keys on a real socket, as clients of other projects meet it."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from rerank_plugins import CrossEncoderScorer, Reranker
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.settings import ServerSettings
from tests.serving.live import live

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or litellm asks a network for prices

QUERY = "who wrote Faust?"
TEXTS = [
    "A fist is a hand with the fingers closed.",
    "Goethe wrote Faust, a tragedy in two parts.",
    "The weather in Weimar is mild.",
    "",
    'Ärger, Δοκιμή, 図書館 & <b>tags</b> "quoted" \\ \n new line 👩‍🔬',
    "Goethe was born in Frankfurt.",
]
LONG = "Marlowe wrote a play about Doctor Faustus. " * 200
KEY = "rp-the-key-of-the-tests"


@dataclass(frozen=True)
class Target:
    """Whom a client is pointed at."""

    url: str
    key: str = KEY
    model: str = "bundled"


@pytest.fixture(scope="session")
def target(reranker: Reranker) -> Iterator[Target]:
    settings = ServerSettings(keys=[KEY])
    pool = ModelPool.of({"bundled": reranker}, {"rerank-v3.5": "bundled"})
    with live(create_app(settings, pool=pool)) as url:
        yield Target(url)


@pytest.fixture(scope="session")
def reranker(bundled: CrossEncoderScorer) -> Reranker:
    """The same model in this process."""
    return Reranker(bundled)
