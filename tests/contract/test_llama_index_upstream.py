"""What LlamaIndex's own rerankers promise, restated for ours; and what ours promises, tried on theirs.

Every check takes a function that makes a reranker. Those in `BOTH` hold for LlamaIndex's
`SentenceTransformerRerank` too; those in `OURS` fail there, which shows that they can.
"""

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.llms.types import CompletionResponse
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload, LlamaDebugHandler
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms.mock import MockLLM
from llama_index.core.postprocessor import LLMRerank
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    ImageNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)
from safetensors.torch import save_file

from rerank_plugins.llama_index import CrossEncoderRerank
from rerank_plugins.scoring.loading import load_weights
from tests.contract.llama_index_parts import QUERY, nodes, watching
from tests.models import BUNDLED

Make = Callable[..., BaseNodePostprocessor]


def make_ours(**options: Any) -> BaseNodePostprocessor:
    return CrossEncoderRerank(model="bundled", device="cpu", **options)


@pytest.fixture(scope="module")
def make_theirs(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that makes LlamaIndex's reranker, with the bundled weights in float32."""
    pytest.importorskip("sentence_transformers")
    from llama_index.core.postprocessor import SentenceTransformerRerank

    folder = tmp_path_factory.mktemp("theirs")
    for path in BUNDLED.glob("*.json"):
        shutil.copy(path, folder)
    save_file(load_weights(BUNDLED), folder / "model.safetensors", metadata={"format": "pt"})
    return partial(SentenceTransformerRerank, model=str(folder), device="cpu")


def is_a_postprocessor(make: Make) -> None:
    assert isinstance(make(), BaseNodePostprocessor)
    assert make().callback_manager is not None


def puts_the_best_first_and_cuts(make: Make) -> None:
    out = make(top_n=2).postprocess_nodes(nodes(), QueryBundle(QUERY))
    assert [node.node_id for node in out][0] == "b"
    assert len(out) == 2
    assert out[0].score > out[1].score
    assert len(make(top_n=9).postprocess_nodes(nodes(), query_str=QUERY)) == 3
    assert make(top_n=0).postprocess_nodes(nodes(), query_str=QUERY) == []


def gives_nothing_for_nothing(make: Make) -> None:
    assert make(top_n=2).postprocess_nodes([], query_str=QUERY) == []


def wants_one_query(make: Make) -> None:
    with pytest.raises(ValueError, match="query"):
        make(top_n=2).postprocess_nodes(nodes())
    with pytest.raises(ValueError, match="both"):
        make(top_n=2).postprocess_nodes(nodes(), QueryBundle(QUERY), QUERY)


def reads_embedded_metadata(make: Make) -> None:
    def score(**node: Any) -> float:
        given = [NodeWithScore(node=TextNode(text="It was written by Goethe.", **node))]
        return float(make(top_n=1).postprocess_nodes(given, query_str=QUERY)[0].score)

    titled = {"metadata": {"title": "Faust"}}
    assert score(**titled) != pytest.approx(score(), abs=1e-4)
    assert score(**titled, excluded_embed_metadata_keys=["title"]) == pytest.approx(score(), abs=1e-5)


def reports_to_the_callback_manager(make: Make) -> None:
    debug = LlamaDebugHandler(print_trace_on_end=False)
    rerank = make(top_n=2)
    rerank.callback_manager = CallbackManager([debug])
    out = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    ((start, end),) = debug.get_event_pairs(CBEventType.RERANKING)
    assert set(start.payload) == {
        EventPayload.NODES,
        EventPayload.MODEL_NAME,
        EventPayload.QUERY_STR,
        EventPayload.TOP_K,
    }
    assert end.payload[EventPayload.NODES] == out


def leaves_nodes_alone(make: Make) -> None:
    given = nodes()
    before = copy.deepcopy(given)
    make(top_n=3, keep_retrieval_score=True).postprocess_nodes(given, query_str=QUERY)
    assert given == before


def gives_scores_that_json_takes(make: Make) -> None:
    out = make(top_n=3).postprocess_nodes(nodes(), query_str=QUERY)
    assert all(type(node.score) is float for node in out)
    assert [json.loads(node.to_json())["score"] for node in out] == [node.score for node in out]


def scores_a_second_pass_alike(make: Make) -> None:
    rerank = make(top_n=3, keep_retrieval_score=True)
    first = rerank.postprocess_nodes(nodes(), query_str=QUERY)
    before = copy.deepcopy(first)
    again = rerank.postprocess_nodes(first, query_str=QUERY)
    assert [node.score for node in again] == pytest.approx([node.score for node in before], abs=1e-5)
    kept = {node.node_id: node.metadata["retrieval_score"] for node in again}
    assert kept == {"a": 0.9, "b": 0.5, "c": None}


def keeps_the_prompt_clean(make: Make) -> None:
    out = make(top_n=3, keep_retrieval_score=True).postprocess_nodes(nodes(), query_str=QUERY)
    assert not any("retrieval_score" in node.node.get_content(MetadataMode.LLM) for node in out)


def tells_the_dispatcher(make: Make) -> None:
    with watching() as seen:
        make(top_n=2).postprocess_nodes(nodes(), query_str=QUERY)
    start, end = seen.events
    assert isinstance(start, ReRankStartEvent)
    assert isinstance(end, ReRankEndEvent)


def may_return_all(make: Make) -> None:
    assert len(make(top_n=None).postprocess_nodes(nodes(), query_str=QUERY)) == 3


def survives_json_and_loads_late(make: Make) -> None:
    rerank = make(top_n=2)
    again = type(rerank).from_dict(json.loads(json.dumps({**rerank.to_dict(), "model": "/nowhere/at/all"})))
    assert again.top_n == 2  # type: ignore[attr-defined]


BOTH = [
    is_a_postprocessor,
    puts_the_best_first_and_cuts,
    gives_nothing_for_nothing,
    wants_one_query,
    reads_embedded_metadata,
    reports_to_the_callback_manager,
]
OURS = [
    leaves_nodes_alone,
    gives_scores_that_json_takes,
    scores_a_second_pass_alike,
    keeps_the_prompt_clean,
    tells_the_dispatcher,
    may_return_all,
    survives_json_and_loads_late,
]
by_name = {"ids": lambda check: check.__name__}


@pytest.mark.parametrize("check", BOTH + OURS, **by_name)
def test_ours(check: Callable[[Make], None]) -> None:
    check(make_ours)


@pytest.mark.parametrize("check", BOTH, **by_name)
def test_theirs_agrees(check: Callable[[Make], None], make_theirs: Make) -> None:
    check(make_theirs)


@pytest.mark.parametrize("check", OURS, **by_name)
def test_theirs_fails(check: Callable[[Make], None], make_theirs: Make) -> None:
    """If LlamaIndex mends one of these, move the check to `BOTH`."""
    make_theirs(top_n=1)  # it can be made: what fails is the check
    with pytest.raises((AssertionError, TypeError, ValueError, OSError)):
        check(make_theirs)


def test_scores_are_theirs(make_theirs: Make) -> None:
    theirs = make_theirs(top_n=3).postprocess_nodes(nodes(), query_str=QUERY)
    ours = make_ours(top_n=3).postprocess_nodes(nodes(), query_str=QUERY)
    assert [node.node_id for node in ours] == [node.node_id for node in theirs]
    assert [node.score for node in ours] == pytest.approx([node.score for node in theirs], abs=1e-4)


def message_of(code: str) -> dict[str, Any]:
    """Return what an ImportError says that `code` raises in a fresh interpreter."""
    report = "json.dumps({'args': len(e.args), 'text': str(e)})"
    run = f"import json, sys\ntry:\n    {code}\nexcept ImportError as e:\n    print({report})"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_a_missing_dependency_is_told_in_one_sentence() -> None:
    ours = message_of("sys.modules['llama_index.core.callbacks'] = None; import rerank_plugins.llama_index")
    assert ours["args"] == 1
    assert 'pip install "rerank-plugins[llama-index]"' in ours["text"]
    assert not ours["text"].startswith("(")


class Grader(MockLLM):
    """Grade `Test7` as 7, `Test5` as 5, and leave even numbers out, as LlamaIndex's own test does."""

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        found = re.findall(r"Document (\d+):\nTest(\d+)", prompt)
        lines = [f"Doc: {number}, Relevance: {grade}" for number, grade in found if int(grade) % 2]
        return CompletionResponse(text="\n".join(lines))


class Graded:
    """The same grades as logits."""

    def score(self, query: str, documents: Sequence[str]) -> np.ndarray:
        grades = [int(text.removeprefix("Test") or 0) for text in documents]
        return np.array([grade if grade % 2 else -grade for grade in grades], dtype=np.float32)


@pytest.mark.parametrize(
    "rerank",
    [CrossEncoderRerank(scorer=Graded(), top_n=3), LLMRerank(llm=Grader(), choice_batch_size=4, top_n=3)],
    ids=["ours", "LLMRerank"],
)
def test_the_best_of_all_batches_win(rerank: BaseNodePostprocessor) -> None:
    given = [NodeWithScore(node=TextNode(text=f"Test{i}")) for i in range(1, 9)]
    out = rerank.postprocess_nodes(given, QueryBundle("What is?"))
    assert [node.node.get_content() for node in out] == ["Test7", "Test5", "Test3"]


@pytest.mark.skipif(
    not hasattr(TextNode, "get_content_blocks"), reason="this llama-index-core has no content blocks"
)
def test_media_nodes_are_taken_like_llm_rerank_takes_them() -> None:
    media = [
        TextNode(text="Test1"),
        ImageNode(image="aGk="),
        Node(image_resource=MediaResource(data=b"hi")),
        Node(audio_resource=MediaResource(data=b"hi")),
        Node(video_resource=MediaResource(data=b"hi")),
        TextNode(text="Test2"),
    ]
    given = [NodeWithScore(node=node) for node in media]
    out = CrossEncoderRerank(scorer=Graded(), top_n=5).postprocess_nodes(given, query_str=QUERY)
    assert [node.node for node in out] == media[:5], "equal scores keep their order"
    assert [node.node.get_content_blocks() for node in out] == [n.get_content_blocks() for n in media[:5]]
