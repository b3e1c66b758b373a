"""One call, chunk by chunk: any number of documents in bounded memory."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from rerank_plugins import CrossEncoderScorer, InvalidTypeError, ScorerClosedError
from rerank_plugins.scoring.engines.base import Launched
from rerank_plugins.scoring.engines.batches import Shape
from rerank_plugins.scoring.engines.torch import TorchEngine
from rerank_plugins.scoring.flight import _CHUNK
from rerank_plugins.scoring.pairs import Cost, EncodedPairs, Texts


class Text(str):
    """A string that counts how many of its kind are alive."""

    __slots__ = ()
    alive = 0
    most = 0

    def __new__(cls, text: str) -> "Text":
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        return super().__new__(cls, text)

    def __del__(self) -> None:
        Text.alive -= 1


def test_streamed_texts_are_let_go(tiny_scorer: CrossEncoderScorer) -> None:
    n = 8 * _CHUNK
    logits = tiny_scorer.score("q", (Text(f"number {i}") for i in range(n)))
    assert logits.shape == (n,)
    assert Text.alive == 0
    # Two chunks in the air with one engine, the one that is being filled, one that is let go, and no more.
    assert Text.most <= 4 * _CHUNK
    some = [0, 1, _CHUNK - 1, _CHUNK, n - 1]
    expected = tiny_scorer.score("q", [f"number {i}" for i in some])
    np.testing.assert_allclose(logits[some], expected, atol=1e-5, rtol=0)


def test_equal_texts_far_apart_get_equal_scores(tiny_scorer: CrossEncoderScorer) -> None:
    texts = [f"number {i % (2 * _CHUNK)}" for i in range(5 * _CHUNK)]
    scores = tiny_scorer.score_detailed("q", iter(texts))
    np.testing.assert_array_equal(scores.logits[: 2 * _CHUNK], scores.logits[2 * _CHUNK : 4 * _CHUNK])
    assert scores.tokens == tiny_scorer.score_detailed("q", texts[: 2 * _CHUNK]).tokens


def test_a_mistake_in_a_stream_is_named_and_a_list_is_checked_first(tiny_scorer: CrossEncoderScorer) -> None:
    def stream() -> Iterator[object]:
        yield from ("fine", "fine too", None)

    with pytest.raises(InvalidTypeError, match=r"documents\[2\] must be a str"):
        tiny_scorer.score("q", stream())  # type: ignore[arg-type]
    with pytest.raises(InvalidTypeError, match=r"pairs\[1\]"):
        tiny_scorer.score_pairs(iter([("q", "d"), ("q",)]))  # type: ignore[list-item]
    with pytest.raises(InvalidTypeError, match=r"documents\[1\]"):
        tiny_scorer.score("q", ["fine", 3])  # type: ignore[list-item]


def test_an_endless_stream_ends_when_the_scorer_is_closed(tiny: Path) -> None:
    scorer = CrossEncoderScorer(str(tiny), device="cpu", max_length=77)

    def endless() -> Iterator[str]:
        for i in count():
            if i == 3 * _CHUNK:
                scorer.close()
            yield f"number {i}"

    with pytest.raises(ScorerClosedError):
        scorer.score("q", endless())


async def test_async_streams_alike(tiny_scorer: CrossEncoderScorer) -> None:
    texts = [f"number {i}" for i in range(_CHUNK + 3)]
    np.testing.assert_allclose(
        await tiny_scorer.ascore("q", iter(texts)), tiny_scorer.score("q", texts), atol=1e-5, rtol=0
    )


@pytest.fixture
def own_device(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[CrossEncoderScorer]:
    """Yield a scorer whose engine passes for one on a device of its own, with pieces of some texts."""
    monkeypatch.setattr(TorchEngine, "takes_at_once", lambda self, pairs: len(pairs) > 2)
    monkeypatch.setattr(TorchEngine, "at_once", Shape(64, 8))
    monkeypatch.setattr(TorchEngine, "ahead", 1)
    with CrossEncoderScorer(str(tiny), device="cpu", engine="torch", max_length=78) as scorer:
        yield scorer


async def test_pieces_for_a_device_give_the_same_scores_in_the_same_order(
    own_device: CrossEncoderScorer, tiny_scorer: CrossEncoderScorer
) -> None:
    texts = [f"number {i} {'and so on ' * (i % 17)}" for i in range(200)] + ["number 3", "number 3"]
    expected = tiny_scorer.score("q", texts)
    for logits in (
        own_device.score("q", texts),
        own_device.score("q", iter(texts)),
        await own_device.ascore("q", texts),
    ):
        np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)
    assert own_device.stats.batches > 30
    assert own_device.score("q", []).shape == (0,)
    batches = own_device.stats.batches
    assert own_device.score_pairs([(f"query {i}", "") for i in range(80)]).shape == (80,)
    assert own_device.stats.batches - batches < 30  # empty documents fill a piece, too


def test_pieces_fill_what_the_device_takes_whatever_the_language(
    own_device: CrossEncoderScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    launch = TorchEngine.launch

    def noting(engine: TorchEngine, pairs: EncodedPairs, indices: np.ndarray) -> Launched:
        sizes.append(len(pairs.ids))
        return launch(engine, pairs, indices)

    monkeypatch.setattr(TorchEngine, "launch", noting)
    monkeypatch.setattr(TorchEngine, "at_once", Shape(500, 100))
    with CrossEncoderScorer(own_device.settings.model, device="cpu", engine="torch") as scorer:
        for word in ("internationalisation", "7"):  # a token has many characters, or one
            sizes.clear()
            scorer.score("q", [f"{word} {i % 10} " + f"{word} " * 10 for i in range(200)])
            assert all(350 < size <= 500 for size in sizes[1:-1]), sizes


def test_pieces_bound_memory(own_device: CrossEncoderScorer) -> None:
    Text.most = Text.alive
    own_device.score("q", (Text(f"number {i} " + "x" * 50) for i in range(500)))
    assert Text.alive == 0
    assert Text.most < 20


def test_what_waits_is_tokenised_together(own_device: CrossEncoderScorer) -> None:
    calls = [(f"query {i % 3}", [f"number {i} {j}" for j in range(1 + i % 5)]) for i in range(200)]
    expected = [own_device.score(*call) for call in calls]
    encoder = own_device._loaded.encoder
    together: list[int] = []
    encode = encoder.encode_together

    def noting(parts: Sequence[Texts]) -> tuple[EncodedPairs, list[Cost]]:
        together.append(len(parts))
        time.sleep(0.002)  # others come meanwhile
        return encode(parts)

    with patch.object(encoder, "encode_together", noting), ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda call: own_device.score_detailed(*call), calls))
    for (_, documents), scores, logits in zip(calls, found, expected, strict=True):
        np.testing.assert_allclose(scores.logits, logits, atol=1e-5, rtol=0)
        assert scores.texts == scores.token_cache_hits == 1 + len(documents)
        assert (scores.document_tokens > 0).all()
        assert scores.tokenize_ms > 0
    assert sum(together) == len(calls)
    assert max(together) > 1


async def test_tasks_need_no_other_thread_to_tokenise(own_device: CrossEncoderScorer) -> None:
    with patch.object(own_device._loaded.tokenizing, "submit", side_effect=AssertionError):
        texts = [f"number {i}" for i in range(50)]
        found = await asyncio.gather(*(own_device.ascore(f"query {i}", texts) for i in range(20)))
    for i, logits in enumerate(found):
        np.testing.assert_allclose(logits, own_device.score(f"query {i}", texts), atol=1e-5, rtol=0)


def test_a_tokenizer_that_fails_fails_its_round_and_no_more(own_device: CrossEncoderScorer) -> None:
    encoder = own_device._loaded.encoder
    with patch.object(encoder, "encode_together", side_effect=RuntimeError("broken")):
        for _ in range(5):  # and gives its place on the device back
            with pytest.raises(RuntimeError, match="broken"):
                own_device.score("q", ["d"])
        with pytest.raises(RuntimeError, match="broken"):
            asyncio.run(own_device.ascore("q", ["d"]))
    assert own_device.score("q", ["d"]).shape == (1,)
