"""A whole benchmark: who, on what, how often."""

import importlib.util
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rerank_plugins.bench.contestants import (
    PEERS,
    Contestant,
    PeerModel,
    Skipped,
    our_contestant,
    peer_contestant,
    write_checkpoint,
)
from rerank_plugins.bench.flops import matmul_peak, needed_flops
from rerank_plugins.bench.measure import PAUSE, Load, agreement, measure_callers, race
from rerank_plugins.bench.models import make_random_checkpoint
from rerank_plugins.bench.report import Report, Result, machine
from rerank_plugins.bench.workload import LENGTHS, Topic, make_topics, read_topics
from rerank_plugins.errors import InvalidInputError, MissingExtraError
from rerank_plugins.scoring import family
from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer
from rerank_plugins.scoring.loading import ModelFiles, find_model
from rerank_plugins.settings import ScorerSettings

__all__ = ["Plan", "run_benchmark"]

_OURS = (
    "torch:float32",
    "openvino:float32",
    "openvino:bfloat16",
    "openvino:int8",
    "onnx:float32",
    "onnx:int8",
)
_REFERENCE_QUERIES = 3
_REFERENCE_DOCUMENTS = 200
# Between turns on a GPU, where a peer's threads do little.
_GPU_PAUSE = 0.05


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        model: Hub id, folder or `"bundled"`; with `random_weights` a member of the family.
        ours: `"engine:dtype"` each; empty: all that could run.
        peers: Names of `PEERS`.
        lengths: A name of `LENGTHS`, or a JSONL file of topics, of which each round takes the next ones,
            and the first again behind the last.
        candidates: Numbers of documents a query, each measured by itself.
        queries: Queries a round.
        rounds: Rounds that count.
        callers: Numbers of callers at once, each measured by itself, with the first of `ours` that runs.
        requests: Requests of each caller.
        caller_documents: Documents a request.
        background: Documents of a long request beside the callers, at most all of a file's; 0: none.
        repeat_documents: Let the same documents come back in every round, for other queries, with
            the token cache on; otherwise every text is new and the cache is off.
        random_weights: Use the member's exact shape with random weights: nothing is downloaded.
        baseline: Whom ratios compare with; None: the first peer that runs, else the first of ours.
        device: `"cpu"` or `"cuda:N"`.
        peer_batch_size: Pairs in a batch of peers that have such a setting; None: their default.
        seed: Of the texts.
    """

    model: str = "bundled"
    ours: tuple[str, ...] = ()
    peers: tuple[str, ...] = ("sentence-transformers",)
    lengths: str = "msmarco"
    candidates: tuple[int, ...] = (100,)
    queries: int = 1
    rounds: int = 7
    callers: tuple[int, ...] = ()
    requests: int = 4
    caller_documents: int = 20
    background: int = 0
    repeat_documents: bool = False
    random_weights: bool = False
    baseline: str | None = None
    device: str = "cpu"
    peer_batch_size: int | None = None
    seed: int = 0


def run_benchmark(plan: Plan, progress: Callable[[str], None] = lambda _: None) -> Report:
    """Measure, and return what was found.

    Args:
        plan: What to measure.
        progress: Told what is being done.

    Raises:
        InvalidInputError: If the plan names something unknown, or nobody can run.
        ModelError: If the model cannot be loaded.
        MissingExtraError: If scipy, which compares scores, is not installed.
    """
    # Said before minutes are spent.
    if importlib.util.find_spec("scipy") is None:
        raise MissingExtraError('bench needs scipy; install it with: pip install "rerank-plugins[bench]"')
    unknown = set(plan.peers) - set(PEERS)
    if unknown:
        msg = f"--peer must be one of {sorted(PEERS)}, but got {sorted(unknown)}"
        raise InvalidInputError(msg)
    # Not "auto", which is a word of ours: peers are told the same.
    if not re.fullmatch(r"cpu|cuda(:\d+)?", plan.device):
        msg = f"--device must be cpu or cuda:N, but got {plan.device!r}"
        raise InvalidInputError(msg)
    with tempfile.TemporaryDirectory(prefix="rerank-plugins-bench-") as folder, ExitStack() as stack:
        model = _model(plan, Path(folder))
        progress("loading")
        ours, peers, skipped = _line_up(plan, model, Path(folder) / "peer", stack)
        everybody = [*ours, *peers]
        if not everybody:
            reasons = "; ".join(f"{one.name}: {one.reason}" for one in skipped)
            msg = f"at least one contestant must run here, but none does: {reasons}"
            raise InvalidInputError(msg)
        baseline = plan.baseline or (peers or ours)[0].name
        if baseline not in {contestant.name for contestant in everybody}:
            msg = f"--baseline must be one of {[c.name for c in everybody]}, but got {baseline!r}"
            raise InvalidInputError(msg)
        if plan.callers and not ours:
            skipped.append(Skipped("callers at once", "ours are to answer them, and none of ours runs here"))
        # It remembers: everybody is compared with the same scores.
        remembered = _REFERENCE_QUERIES * _REFERENCE_DOCUMENTS
        reference = stack.enter_context(
            CrossEncoderScorer(
                model, device="cpu", engine="torch", dtype="float32", score_cache_size=remembered
            )
        )
        found = find_model(ScorerSettings(model=model))
        rounds = {
            candidates: [_topics(plan, candidates, number) for number in range(plan.rounds + 1)]
            for candidates in plan.candidates
        }
        # Of the rounds that count.
        lengths = {candidates: _token_counts(found, topics[1:]) for candidates, topics in rounds.items()}
        report = Report(
            model=plan.model,
            tokens_per_pair=float(np.concatenate(list(lengths.values())).mean()),
            lengths=plan.lengths,
            rounds=plan.rounds,
            baseline=baseline,
            machine=machine(),
            device=plan.device,
            card=None if plan.device == "cpu" else torch.cuda.get_device_name(plan.device),
            skipped=skipped,
            peaks=_peaks(plan, ours),
        )
        for candidates in plan.candidates:
            progress(f"{candidates} candidates")
            pause = PAUSE if plan.device == "cpu" else _GPU_PAUSE
            races = race(everybody, rounds[candidates], pause=pause)
            checked = [
                (query, documents[:_REFERENCE_DOCUMENTS])
                for query, documents in rounds[candidates][1][:_REFERENCE_QUERIES]
            ]
            report.results[candidates] = [
                Result(
                    name=one.name,
                    race=races[one.name],
                    ratio=races[one.name].ratio(races[baseline]),
                    agreement=agreement(one.score, reference.score, checked),
                    peak_share=_peak_share(
                        one, races[one.name].rate, found.config, lengths[candidates], report.peaks
                    ),
                )
                for one in everybody
            ]
        if ours:
            report.loads.extend(_callers(plan, ours[0], progress))
        return report


def _model(plan: Plan, folder: Path) -> str:
    if not plan.random_weights:
        return plan.model
    shape = family.find(plan.model)
    if shape is None:
        members = [member.id for member in family.FAMILY]
        msg = f"random weights need a member of the family, one of {members}, but got {plan.model!r}"
        raise InvalidInputError(msg)
    return str(make_random_checkpoint(shape, folder / "random"))


def _line_up(
    plan: Plan, model: str, folder: Path, stack: ExitStack
) -> tuple[list[Contestant], list[Contestant], list[Skipped]]:
    specs = plan.ours or (_OURS if plan.device == "cpu" else ("torch:auto",))
    ours = [
        our_contestant(spec, model, device=plan.device, token_cache=plan.repeat_documents) for spec in specs
    ]
    peers = []
    if plan.peers:
        write_checkpoint(model, folder)
        calibration = [
            (query, document)
            for query, documents in make_topics(LENGTHS["msmarco"], queries=4, candidates=25, seed=10**6)
            for document in documents
        ]
        peer = PeerModel(folder, plan.device, calibration, plan.peer_batch_size)
        peers = [peer_contestant(name, peer) for name in plan.peers]
    running: tuple[list[Contestant], list[Contestant]] = ([], [])
    skipped = []
    for found, ready in zip((ours, peers), running, strict=True):
        for one in found:
            if isinstance(one, Skipped):
                skipped.append(one)
            else:
                stack.callback(one.close)
                ready.append(one)
    return *running, skipped


def _topics(plan: Plan, candidates: int, number: int) -> list[Topic]:
    """Return the topics of one round; new texts in every round unless documents come back."""
    if plan.lengths not in LENGTHS:
        path = Path(plan.lengths)
        if not path.is_file():
            msg = f"--lengths must be one of {sorted(LENGTHS)} or a JSONL file, but got {plan.lengths!r}"
            raise InvalidInputError(msg)
        topics = read_topics(path)
        first = 0 if plan.repeat_documents else number * plan.queries
        chosen = [topics[(first + i) % len(topics)] for i in range(min(plan.queries, len(topics)))]
        return [(query, documents[:candidates]) for query, documents in chosen]
    lengths = LENGTHS[plan.lengths]
    seed = plan.seed * 10_000
    topics = make_topics(lengths, queries=plan.queries, candidates=candidates, seed=seed + number)
    if not plan.repeat_documents:
        return topics
    same = make_topics(lengths, queries=plan.queries, candidates=candidates, seed=seed)
    return [(query, documents) for (query, _), (_, documents) in zip(topics, same, strict=True)]


def _token_counts(found: ModelFiles, rounds: list[list[Topic]]) -> NDArray[np.int64]:
    """Return int64 [n], tokens of each pair that the model reads."""
    pairs = [(query, text) for topics in rounds for query, documents in topics for text in documents]
    encodings = found.tokenizer.encode_batch_fast(pairs)
    return np.minimum([len(encoding.ids) for encoding in encodings], found.max_length).astype(np.int64)


def _peaks(plan: Plan, ours: list[Contestant]) -> dict[str, float]:
    dtypes = {one.info.dtype for one in ours if one.info} - {"int8"}
    return {dtype: matmul_peak(getattr(torch, dtype), plan.device) for dtype in sorted(dtypes)}


def _peak_share(
    one: Contestant,
    rate: float,
    config: Mapping[str, Any],
    lengths: NDArray[np.int64],
    peaks: dict[str, float],
) -> float | None:
    if one.info is None or one.info.dtype not in peaks:
        return None
    flops = needed_flops(config, lengths)
    return rate * flops / len(lengths) / 1e9 / peaks[one.info.dtype]


def _callers(plan: Plan, contestant: Contestant, progress: Callable[[str], None]) -> Iterator[Load]:
    for callers in plan.callers:
        for background in dict.fromkeys((0, plan.background)):
            beside = f" beside {background:,} documents" if background else ""
            progress(f"{callers} callers{beside}")
            topics = _requests(plan, max(callers * plan.requests, 8))
            long = _long_request(plan) if background else None
            yield replace(measure_callers(contestant.score, topics, callers, long), name=contestant.name)


def _requests(plan: Plan, count: int) -> list[Topic]:
    """Return requests of callers, of the rounds' lengths; a file's topics by turns."""
    plan = replace(plan, queries=count, repeat_documents=False)
    topics = _topics(plan, plan.caller_documents, plan.rounds + 1)  # new ones, unless of a file
    return list(islice(cycle(topics), count))


def _long_request(plan: Plan) -> Topic:
    if plan.lengths in LENGTHS:
        lengths = LENGTHS[plan.lengths]
        return make_topics(lengths, queries=1, candidates=plan.background, seed=10**7)[0]
    topics = read_topics(Path(plan.lengths))
    texts = [text for _, documents in topics for text in documents]
    return topics[0][0], texts[: plan.background]
