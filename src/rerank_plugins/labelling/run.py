"""`label`: score every pair of a data set through Ray Data, and continue where an interrupted job stopped."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import ray.data

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.labelling.cluster import Pool, cluster, told
from rerank_plugins.labelling.job import (
    MANIFEST,
    Columns,
    Job,
    ModelPrint,
    Shard,
    json_schema,
    measure,
    print_model,
)
from rerank_plugins.labelling.report import LabelReport, Progress
from rerank_plugins.labelling.store import Format, InputFile, Store, find_inputs, takes_in
from rerank_plugins.labelling.worker import Labeller, OnBad, ShardReport, Task
from rerank_plugins.scoring.threads import limit_threads
from rerank_plugins.settings import ScorerSettings

__all__ = ["label"]

_ROWS_PER_SHARD = 10_000
# Settings that say how to compute; the rest of them does not change scores.
_PINNED = ("dtype", "engine", "max_length", "max_query_tokens")


def label(
    inputs: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    query_column: str = "query",
    document_column: str = "document",
    prefix: str = "",
    to: Format | None = None,
    on_bad: OnBad = "raise",
    rows_per_shard: int | None = None,
    workers: int | None = None,
    max_workers: int | None = None,
    cpus: float = 1,
    gpus: float | None = None,
    address: str | None = None,
    progress: Progress | None = None,
    settings: ScorerSettings | None = None,
    **options: Any,
) -> LabelReport:
    """Label pairs with a cross-encoder: every row of the inputs comes out with its logit and probability.

    The same call continues a job that was interrupted, whatever was killed: shards of rows are written whole
    or not at all, and those that are there are passed over. Rows keep all their columns; a shard keeps the
    order of its rows, and shards are numbered in the order of the inputs.

    Args:
        inputs: Files, folders or patterns (`data/*.parquet`), of Parquet or JSON lines; paths, or URIs such
            as s3://bucket/pairs, that all workers can read.
        output: A new folder for the labels; path or URI, that all workers can write to.
        query_column: Where the queries are.
        document_column: Where the documents are.
        prefix: What the names of the new columns begin with: `logit` (float32), `score` (its sigmoid,
            float64) and `truncated` (whether the document was cut).
        to: "parquet" or "jsonl"; JSON has neither NaN nor bytes, so that rows which hold such are refused.
            None: as the first input.
        on_bad: What to do with a row that has no text for query or document: "raise", or "skip", which gives
            it null labels.
        rows_per_shard: Rows of an output file, at most, and what a worker does in one go. None: 10,000.
        workers: How many score at once; each has the model in a process of its own. None: as many as there
            is room for.
        max_workers: Up to how many there may be, as work waits and the cluster grows. None: `workers`.
        cpus: CPUs of a worker, and its threads.
        gpus: GPUs of a worker. None: 1 where Ray has some and the device is not "cpu", else 0.
        address: Of a Ray cluster. None: the one that Ray knows of, or a local one for this call.
        progress: Called with the report so far, whenever a shard is done.
        settings: The model; or single `options`.
        **options: Fields of `ScorerSettings`: `model`, `device`, `dtype`, ...

    Returns:
        What was done.

    Raises:
        InvalidInputError: If an input, a row or an option cannot be used, or inputs, columns, model or
            settings are not those that the job began with.
        ModelError: If the model cannot be loaded.
        ScoringError: If workers fail over and again.

    Example:
        >>> from rerank_plugins.labelling import label
        >>> report = label("pairs.parquet", "labels", model="bundled", workers=2)  # doctest: +SKIP
    """
    started = time.perf_counter()
    settings = ScorerSettings.of(settings, options)
    columns = Columns(query=query_column, document=document_column, prefix=prefix)
    named = [inputs] if isinstance(inputs, str | Path) else inputs
    files = find_inputs([str(one) for one in named])
    store = Store(str(output))
    _check_apart(files, store)
    asked: dict[str, Any] = {"to": to, "rows_per_shard": rows_per_shard}
    asked |= {name: getattr(settings, name) for name in _PINNED} | print_model(settings)
    # A folder's name is absolute from here on, since workers have another working directory.
    settings = settings.model_copy(update={"model": asked["model"]})
    job = Job.load(store)
    if job is not None:
        job.check_same(files, columns, asked)
    if job is not None and not _todo(job, files, store):
        return _finish(LabelReport(job.rows, job.rows, job.scorer), store, started)
    with cluster(address), told():
        pool = Pool.of(workers, max_workers, cpus, gpus, settings)
        begun = job or _begin(files, columns, asked, settings, pool)
        schema = json_schema(begun, files)  # before anything is written, as it may refuse the inputs
        if job is None:
            store.publish(MANIFEST, begun.model_dump_json(indent=1).encode())
        job = begun
        pinned = {"revision": job.scorer.revision, **{name: getattr(job.scorer, name) for name in _PINNED}}
        task = Task(
            settings=pool.place(settings).model_copy(update=pinned),
            output=store.uri,
            columns=columns,
            to=job.to,
            on_bad=on_bad,
            threads=pool.threads,
            schema=schema,
        )
        todo = _todo(job, files, store)
        rows = {shard.name: shard.rows for shard in todo}
        report = LabelReport(job.rows, job.rows - sum(rows.values()), job.scorer)
        for done in _run(todo, task, pool):
            report.add(done, rows[done.name])
            if progress is not None:
                progress(report)
    lost = _todo(job, files, store)
    if lost:
        msg = (
            f"all workers must write to the same {store.uri}, but {lost[0].name} is not there; "
            "give a folder that all machines share, or an object store"
        )
        raise InvalidInputError(msg)
    return _finish(report, store, started)


def _todo(job: Job, files: Sequence[InputFile], store: Store) -> list[Shard]:
    """Return the shards that are not written yet."""
    there = store.names()
    return [shard for shard in job.shards(files) if shard.name not in there]


def _finish(report: LabelReport, store: Store, started: float) -> LabelReport:
    store.sweep()
    report.seconds = time.perf_counter() - started
    return report


def _check_apart(files: Sequence[InputFile], store: Store) -> None:
    """Refuse an output that would be read as input the next time."""
    for file in files:
        if takes_in(file.uri, f"{store.root}/part.{file.format}"):
            msg = f"output must lie outside of the inputs, but {store.uri} is in {file.uri}"
            raise InvalidInputError(msg)


def _begin(
    files: Sequence[InputFile],
    columns: Columns,
    asked: dict[str, Any],
    settings: ScorerSettings,
    pool: Pool,
) -> Job:
    """Plan a new job."""
    size = asked["rows_per_shard"] or _ROWS_PER_SHARD
    if size < 1:
        msg = f"rows_per_shard must be at least 1, but got {size}"
        raise InvalidInputError(msg)
    sources = measure(files, columns, size)
    # What "auto" means is found out where workers run, once: they must not differ from each other.
    chosen = ray.remote(_choose).options(num_cpus=pool.cpus, num_gpus=pool.gpus)
    pinned = ray.get(chosen.remote(pool.place(settings), pool.threads))
    known = {name: asked[name] for name in ("model", "revision", "weights")}
    return Job(
        sources=sources,
        columns=columns,
        to=asked["to"] or files[0].format,
        rows_per_shard=size,
        scorer=ModelPrint(**known, **pinned),
    )


def _choose(settings: ScorerSettings, threads: int) -> dict[str, Any]:
    """Load the model, and say how it computes here."""
    limit_threads(threads)
    from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer

    with CrossEncoderScorer(settings=settings) as scorer:
        return {name: getattr(scorer.info, name) for name in _PINNED}


def _run(shards: Sequence[Shard], task: Task, pool: Pool) -> Iterator[ShardReport]:
    """Label shards; yield what became of each, as they are done."""
    if not shards:
        return
    context = ray.data.DataContext.get_current()
    shown, context.enable_progress_bars = context.enable_progress_bars, False
    try:
        # A block is one shard: a worker that dies costs the shard it is at, which another then gets.
        labelled = ray.data.from_items(
            [asdict(shard) for shard in shards], override_num_blocks=len(shards)
        ).map_batches(
            Labeller,
            batch_size=1,
            fn_constructor_args=(task,),
            compute=ray.data.ActorPoolStrategy(min_size=min(pool.least, len(shards)), max_size=pool.most),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        for row in labelled.iter_rows():
            done = ShardReport(**row)
            if done.error:
                raise InvalidInputError(done.error)
            yield done
    finally:
        context.enable_progress_bars = shown
