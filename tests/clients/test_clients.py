"""Clients of other projects get from our server what the same model gives in this process."""

import re
from dataclasses import replace

import pytest

from rerank_plugins import Reranker
from tests.clients.clients import CLIENTS, Ranked
from tests.clients.conftest import LONG, QUERY, TEXTS, Target

EVERY_CLIENT = pytest.mark.parametrize("name", CLIENTS)
# These send no model.
WITHOUT_MODEL = {"haystack tei", "llama-index tei", "litellm huggingface"}
# This always sends `truncate: false`, so that what is too long is an error, with TEI too.
WITHOUT_TRUNCATION = {"litellm huggingface"}
# This reads an error's body as if it were results.
WITHOUT_ERRORS = {"llama-index tei"}


@EVERY_CLIENT
def test_a_client_gets_the_scores_of_the_model(name: str, target: Target, reranker: Reranker) -> None:
    texts = TEXTS if name in WITHOUT_TRUNCATION else [*TEXTS, LONG]
    agree(CLIENTS[name](target, QUERY, texts), reranker, texts)


@EVERY_CLIENT
def test_a_wrong_key_is_the_clients_own_error(name: str, target: Target) -> None:
    said = error_of(name, replace(target, key="wrong-key"))
    if name not in WITHOUT_ERRORS:
        assert re.search("401|key|[Uu]nauthorized|Authentication", said), said


@pytest.mark.parametrize("name", sorted(CLIENTS.keys() - WITHOUT_MODEL))
def test_an_unknown_model_is_the_clients_own_error(name: str, target: Target) -> None:
    said = error_of(name, replace(target, model="no-such-model"))
    assert re.search("404|no-such-model|NotFound", said), said


def test_an_alias_is_what_a_client_calls_the_model(target: Target, reranker: Reranker) -> None:
    agree(CLIENTS["cohere v2"](replace(target, model="rerank-v3.5"), QUERY, TEXTS), reranker, TEXTS)


def agree(found: Ranked, reranker: Reranker, texts: list[str]) -> None:
    ranking = reranker.rank(QUERY, texts)
    assert [index for index, _ in found] == [ranked.index for ranked in ranking]
    assert [score for _, score in found] == pytest.approx([ranked.score for ranked in ranking], abs=1e-6)


def error_of(name: str, target: Target) -> str:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - each client has errors of its own
        CLIENTS[name](target, QUERY, TEXTS[:2])
    return f"{type(caught.value).__name__}: {caught.value}"
