"""The commands and their options."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rerank_plugins.cli.options import (
    EvalFormat,
    ExportDtype,
    GraphFormat,
    InputFormat,
    LabelFormat,
    OnBad,
    OutputFormat,
)
from rerank_plugins.errors import InvalidInputError

app = typer.Typer(
    name="rerank-plugins",
    help="Rerank passages with a cross-encoder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Hub id, folder or 'bundled'. Default: RERANK_MODEL, or MiniLM-L6-v2."
    ),
]
Revision = Annotated[str | None, typer.Option(help="Commit, branch or tag on the hub.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Dtype = Annotated[str | None, typer.Option(help="auto, float32, bfloat16, float16 or int8.")]
Engine = Annotated[str | None, typer.Option(help="auto, torch, openvino, onnx or transformers.")]
MaxLength = Annotated[int | None, typer.Option(help="Tokens of a pair.")]
LongDocuments = Annotated[
    str | None, typer.Option(help="truncate, or max_passage: read in windows, the best one counts.")
]
PassageTokens = Annotated[
    int | None, typer.Option(help="Tokens of a window with max_passage; default: what fits.")
]
MaxPassages = Annotated[int | None, typer.Option(help="Windows to read of a document with max_passage.")]
Url = Annotated[
    str | None, typer.Option(help="Rerank server to ask instead; --model is then the name to ask it for.")
]
Dialect = Annotated[
    str | None, typer.Option(help="Of the server: jina (the default), cohere, voyage, vllm, tei, infinity.")
]
Offline = Annotated[bool, typer.Option("--local-files-only", help="Never ask the hub.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _remote(url: str | None, dialect: str | None) -> dict[str, str] | None:
    """Return the settings of a server, if one is wanted; its URL may come from the environment."""
    given = {"base_urls": url, "dialect": dialect}
    return {name: value for name, value in given.items() if value is not None} or None


def _show_version(wanted: bool) -> None:
    if wanted:
        from rerank_plugins import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Rerank passages with a cross-encoder."""


@app.command()
def rank(
    passages: Annotated[
        Path | None,
        typer.Argument(help="Passages: JSONL, TSV, plain lines, or top-100 JSON. Default: stdin."),
    ] = None,
    query: Annotated[str | None, typer.Option("--query", "-q", help="The query.")] = None,
    input_format: Annotated[
        InputFormat, typer.Option("--format", help="Format of the passages.")
    ] = InputFormat.auto,
    queries: Annotated[
        Path | None, typer.Option(help="Queries of a run: TSV or JSONL of id and text.")
    ] = None,
    passages_file: Annotated[
        Path | None,
        typer.Option("--passages", help="Passages of a run: TSV or JSONL of id and text."),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run to rerank.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: stdout.")] = None,
    to: Annotated[
        OutputFormat | None,
        typer.Option(help="Default: table on a terminal, else jsonl."),
    ] = None,
    run_name: Annotated[str, typer.Option(help="Last column of a TREC run.")] = "rerank-plugins",
    top_k: Annotated[int | None, typer.Option(help="Documents to keep a query.")] = None,
    min_score: Annotated[float | None, typer.Option(help="Lowest score to keep, inclusive.")] = None,
    scale: Annotated[str | None, typer.Option(help="probability, logit or calibrated.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="File for --scale calibrated.")] = None,
    fusion: Annotated[
        str | None,
        typer.Option(help="rrf, or the reranker's weight, 0 to 1: the input's order or scores count too."),
    ] = None,
    model: Model = None,
    url: Url = None,
    dialect: Dialect = None,
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = None,
    passage_tokens: PassageTokens = None,
    max_passages: MaxPassages = None,
    local_files_only: Offline = False,
) -> None:
    """Rerank passages for a query, or a whole run."""
    from rerank_plugins.cli import formats
    from rerank_plugins.cli.rank import rerank_topics

    if run is None and queries is None and passages_file is None:
        topics = formats.read_topics(passages, query, input_format)
    elif passages is None and query is None:
        topics = formats.read_run(queries, passages_file, run)
    else:
        raise InvalidInputError(
            "--run, --queries and --passages bring all that is needed: leave --query and the argument out"
        )
    rerank_topics(
        topics,
        output=output,
        to=to,
        run_name=run_name,
        scorer_options={
            "model": model,
            "revision": revision,
            "device": device,
            "dtype": dtype,
            "engine": engine,
            "max_length": max_length,
            "local_files_only": local_files_only or None,
            "remote": _remote(url, dialect),
        },
        rerank_options={
            "top_k": top_k,
            "min_score": min_score,
            "scale": scale,
            "calibration": calibration,
            "fusion": fusion,
            "long_documents": long_documents,
            "passage_tokens": passage_tokens,
            "max_passages": max_passages,
        },
    )


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the family and the bundled model: size, published quality and speed, and what for."""
    from rerank_plugins.cli.models import show_models

    show_models(as_json=as_json)


@app.command()
def doctor(
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    local_files_only: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Say what would run here and why, what is missing, and try it."""
    from rerank_plugins.cli.doctor import examine

    options = {
        "model": model,
        "device": device,
        "dtype": dtype,
        "engine": engine,
        "local_files_only": local_files_only or None,
    }
    if not examine({k: v for k, v in options.items() if v is not None}, as_json=as_json):
        raise typer.Exit(3)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="Where to write the graph, tokenizer and config.")],
    model: Model = None,
    revision: Revision = None,
    graph_format: Annotated[GraphFormat, typer.Option("--format", help="What to write.")] = GraphFormat.onnx,
    dtype: Annotated[
        ExportDtype, typer.Option(help="int8 is calibrated and quantised.")
    ] = ExportDtype.float32,
    local_files_only: Offline = False,
) -> None:
    """Write the model for other runtimes: Vespa, OpenSearch, Triton, browsers."""
    from rerank_plugins.cli.export import export as write
    from rerank_plugins.settings import ScorerSettings

    options: dict[str, Any] = {
        "model": model,
        "revision": revision,
        "local_files_only": local_files_only or None,
    }
    settings = ScorerSettings(**{k: v for k, v in options.items() if v is not None})
    write(settings, folder, graph_format.value, dtype.value)


@app.command()
def label(
    inputs: Annotated[
        list[str],
        typer.Option(
            "--input", "-i", help="File, folder or 'pattern*.parquet'; path or s3://..., repeatable."
        ),
    ],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder of the labels; path or s3://...")],
    query_column: Annotated[str, typer.Option(help="Column of the queries.")] = "query",
    document_column: Annotated[str, typer.Option(help="Column of the documents.")] = "document",
    prefix: Annotated[str, typer.Option(help="What the names of the new columns begin with.")] = "",
    to: Annotated[LabelFormat | None, typer.Option(help="Default: as the input.")] = None,
    on_bad: Annotated[
        OnBad, typer.Option(help="Rows without text: stop, or give them null labels.")
    ] = OnBad.raise_,
    rows_per_shard: Annotated[
        int | None, typer.Option(min=1, help="Rows of an output file. Default: 10,000.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Default: as many as fit.")] = None,
    max_workers: Annotated[int | None, typer.Option(min=1, help="Grow up to so many.")] = None,
    cpus: Annotated[float, typer.Option(help="CPUs of a worker, and its threads.")] = 1,
    gpus: Annotated[
        float | None, typer.Option(help="GPUs of a worker. Default: 1 where there are some.")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster. Default: RAY_ADDRESS, or a local one for this job.")
    ] = None,
    model: Model = None,
    revision: Revision = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    max_length: MaxLength = None,
    local_files_only: Offline = False,
) -> None:
    """Score millions of (query, document) pairs with Ray Data; run it again to continue."""
    from rerank_plugins.cli.label import label as run

    run(
        inputs,
        output,
        {
            "query_column": query_column,
            "document_column": document_column,
            "prefix": prefix,
            "to": to and to.value,
            "on_bad": on_bad.value,
            "rows_per_shard": rows_per_shard,
            "workers": workers,
            "max_workers": max_workers,
            "cpus": cpus,
            "gpus": gpus,
            "address": address,
            "model": model,
            "revision": revision,
            "device": device,
            "dtype": dtype,
            "engine": engine,
            "max_length": max_length,
            "local_files_only": local_files_only or None,
        },
    )


@app.command()
def demo(
    queries: Annotated[int | None, typer.Option(help="Show only the first N queries.", min=1)] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="Model to rerank with.")] = "bundled",
    top_k: Annotated[int, typer.Option(help="Passages to show a side.", min=1)] = 3,
) -> None:
    """Retrieve with BM25, rerank, and show before and after. Works offline."""
    from rerank_plugins.cli.demo import run_demo

    run_demo(queries=queries, model=model, top_k=top_k)


@app.command()
def bench(
    model: Annotated[str, typer.Option("--model", "-m", help="Model to measure.")] = "bundled",
    ours: Annotated[
        list[str] | None, typer.Option(help="engine:dtype of ours, repeatable. Default: all that run.")
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="A peer's name, 'all' or 'none', repeatable. Default: sentence-transformers."),
    ] = None,
    lengths: Annotated[str, typer.Option(help="msmarco, rag, or JSONL of query and documents.")] = "msmarco",
    candidates: Annotated[
        list[int] | None, typer.Option(min=1, help="Documents a query, repeatable. Default: 100.")
    ] = None,
    queries: Annotated[int, typer.Option(min=1, help="Queries a round.")] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 7,
    callers: Annotated[list[int] | None, typer.Option(min=1, help="Callers at once, repeatable.")] = None,
    background: Annotated[int, typer.Option(min=0, help="A long request beside the callers.")] = 0,
    repeat_documents: Annotated[
        bool, typer.Option("--repeat-documents", help="Same documents, new queries.")
    ] = False,
    random_weights: Annotated[bool, typer.Option("--random-weights", help="Only the model's shape.")] = False,
    baseline: Annotated[str | None, typer.Option(help="Whom ratios compare with.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:N: what is measured.")] = "auto",
    seed: Annotated[int, typer.Option(help="Of the texts.")] = 0,
    json_path: Annotated[Path | None, typer.Option("--json", help="Where to write JSON.")] = None,
    plot_path: Annotated[Path | None, typer.Option("--plot", help="Where to write a PNG.")] = None,
) -> None:
    """Measure speed, latency under load and agreement of scores, against what else is installed."""
    from rerank_plugins.bench.contestants import PEERS
    from rerank_plugins.bench.run import Plan
    from rerank_plugins.cli.bench import bench as measure
    from rerank_plugins.scoring.registry import default_device

    named = {"all": tuple(PEERS), "none": ()}
    peers = [name for given in peer or ["sentence-transformers"] for name in named.get(given, (given,))]
    plan = Plan(
        model=model,
        ours=tuple(ours or ()),
        peers=tuple(peers),
        lengths=lengths,
        candidates=tuple(candidates or (100,)),
        queries=queries,
        rounds=rounds,
        callers=tuple(callers or ()),
        background=background,
        repeat_documents=repeat_documents,
        random_weights=random_weights,
        baseline=baseline,
        device=default_device() if device == "auto" else device,
        seed=seed,
    )
    measure(plan, json_path=json_path, plot_path=plot_path)


@app.command("eval")
def evaluate(
    source: Annotated[
        str,
        typer.Argument(help="JSONL, BEIR folder, top-100 JSON, TREC run, ir_datasets id, or 'demo'."),
    ] = "demo",
    source_format: Annotated[EvalFormat, typer.Option("--format", help="Format of the source.")] = (
        EvalFormat.auto
    ),
    qrels: Annotated[Path | None, typer.Option(help="Judgements, for top-100 JSON and TREC runs.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries of a run: TSV or JSONL.")] = None,
    passages: Annotated[Path | None, typer.Option(help="Passages of a run: TSV or JSONL.")] = None,
    split: Annotated[str, typer.Option(help="Judgements of a BEIR folder.")] = "test",
    first_stage: Annotated[
        str | None,
        typer.Option(
            help="given, bm25s, or module:name of a LangChain, LlamaIndex or Haystack retriever. "
            "Default: given where the source has candidates, else bm25s."
        ),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model to evaluate, repeatable.")
    ] = None,
    other_run: Annotated[
        list[Path] | None, typer.Option(help="TREC run of another system to compare, repeatable.")
    ] = None,
    depth: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Candidates to rerank, repeatable. Default: 10, 20, 50, 100."),
    ] = None,
    relevant_from: Annotated[
        int, typer.Option(min=1, help="Lowest grade that counts as relevant in binary measures.")
    ] = 1,
    fusion: Annotated[
        list[str] | None,
        typer.Option(
            help="Measure fused with the first stage, too: rrf, the reranker's weight from 0 to 1, or fit to "
            "choose one; repeatable."
        ),
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Fit probabilities and a threshold to the judgements.")
    ] = False,
    precision: Annotated[
        float, typer.Option(min=0, max=1, help="Of what the threshold keeps, with --calibrate.")
    ] = 0.9,
    count_tokens: Annotated[
        str | None,
        typer.Option(
            help="module:name of a function from a text to its tokens in a prompt. "
            "Default: words and punctuation marks."
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N queries.")] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals.")] = 0.95,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for report.json, .md and .html.")
    ] = None,
    url: Url = None,
    dialect: Dialect = None,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = None,
    passage_tokens: PassageTokens = None,
    max_passages: MaxPassages = None,
    local_files_only: Offline = False,
    as_json: AsJson = False,
) -> None:
    """Say whether reranking helps on your data, with which model, how deep, and at what cost."""
    from rerank_plugins.cli import eval as command

    counter = command.token_counter(count_tokens)
    topics = command.load(source, source_format, qrels, queries, passages, split).limit(limit)
    depths = tuple(sorted(set(depth or (10, 20, 50, 100))))
    options = {
        "device": device,
        "dtype": dtype,
        "engine": engine,
        "max_length": max_length,
        "long_documents": long_documents,
        "passage_tokens": passage_tokens,
        "max_passages": max_passages,
        "local_files_only": local_files_only or None,
        "remote": _remote(url, dialect),
    }
    command.run(
        command.with_candidates(topics, first_stage, depths[-1]),
        models=model,
        runs=other_run or [],
        options=options,
        arguments={
            "depths": depths,
            "relevant_from": relevant_from,
            "fusions": command.fusions(fusion or ()),
            "calibrate": calibrate,
            "precision": precision,
            "confidence": confidence,
            "count_tokens": counter,
        },
        output=output,
        as_json=as_json,
    )


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to bind. Default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind, 0 for a free one. Default: 8000.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model to serve, repeatable; the first is the default."),
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(help="ASKED=SERVED: another name of a model, repeatable; *=SERVED is every other name."),
    ] = None,
    load: Annotated[str | None, typer.Option(help="first, all or lazy: what to load at the start.")] = None,
    keys_file: Annotated[Path | None, typer.Option(help="Keys that may call, made by new-key.")] = None,
    allow_unauthenticated: Annotated[
        bool, typer.Option("--allow-unauthenticated", help="Serve other machines without keys.")
    ] = False,
    scale: Annotated[str | None, typer.Option(help="probability, logit or calibrated.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="File for --scale calibrated.")] = None,
    max_body_bytes: Annotated[int | None, typer.Option(help="Bytes of a request.")] = None,
    max_documents: Annotated[int | None, typer.Option(help="Documents of a request.")] = None,
    max_queue_tokens: Annotated[int | None, typer.Option(help="Tokens that may wait for a model.")] = None,
    max_wait_ms: Annotated[int | None, typer.Option(help="Refuse what would wait longer.")] = None,
    deadline_ms: Annotated[int | None, typer.Option(help="When to give up on a request.")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="How long stopping may take.")] = None,
    root_path: Annotated[str | None, typer.Option(help="Path that a proxy strips.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log no line a request.")] = False,
    device: Device = None,
    dtype: Dtype = None,
    engine: Engine = None,
    max_length: MaxLength = None,
    long_documents: LongDocuments = None,
    max_passages: MaxPassages = None,
    local_files_only: Offline = False,
) -> None:
    """Serve rerank requests over HTTP: Cohere, Jina, vLLM, Voyage and TEI. RERANK_SERVER_* sets defaults."""
    from rerank_plugins.cli.serve import serve as run

    run(
        server_options={
            "host": host,
            "port": port,
            "models": model,
            "aliases": alias,
            "load": load,
            "keys_file": keys_file,
            "allow_unauthenticated": allow_unauthenticated or None,
            "scale": scale,
            "max_body_bytes": max_body_bytes,
            "max_documents": max_documents,
            "max_queue_tokens": max_queue_tokens,
            "max_wait_ms": max_wait_ms,
            "deadline_ms": deadline_ms,
            "drain_seconds": drain_seconds,
            "root_path": root_path,
            "request_log": False if quiet else None,
        },
        scorer_options={
            "device": device,
            "dtype": dtype,
            "engine": engine,
            "max_length": max_length,
            "local_files_only": local_files_only or None,
        },
        rerank_options={
            "calibration": calibration,
            "long_documents": long_documents,
            "max_passages": max_passages,
        },
    )


@app.command("new-key")
def new_key(
    name: Annotated[str, typer.Argument(help="Who gets it: letters, digits and . _ @ -")],
    keys_file: Annotated[
        Path | None, typer.Option(help="Where its hash goes; made if need be. Default: stderr.")
    ] = None,
) -> None:
    """Make a key for `serve --keys-file`, and print it: only its hash is kept."""
    from rerank_plugins.cli.serve import add_key

    add_key(name, keys_file)
