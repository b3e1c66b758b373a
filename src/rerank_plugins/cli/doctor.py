"""`rerank-plugins doctor`: what would run here and why, what is missing, and does it work."""

import json
import os
import platform
from dataclasses import asdict
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rerank_plugins.errors import InvalidInputError, RerankError
from rerank_plugins.scoring.remote.settings import RemoteSettings
from rerank_plugins.serving.settings import ServerSettings
from rerank_plugins.settings import RerankSettings, ScorerSettings

__all__ = ["examine"]

# Package, and the extra that brings it (None: always installed).
_PACKAGES: dict[str, str | None] = {
    "rerank-plugins": None,
    "torch": None,
    "tokenizers": None,
    "safetensors": None,
    "huggingface-hub": None,
    "openvino": "openvino",
    "onnxruntime": "onnx",
    "nncf": "openvino",
    "transformers": "transformers",
    "langchain-core": "langchain",
    "llama-index-core": "llama-index",
    "haystack-ai": "haystack",
    "bm25s": "demo",
    "ir-measures": "eval",
}
_SETTINGS = (ScorerSettings, RerankSettings, RemoteSettings, ServerSettings)
_QUESTION = "how do I reset my router?"
_PASSAGES = (
    "Bread rises because yeast gives off gas while it feeds on sugar.",
    "Hold the small button on the back of the router for ten seconds to restore factory settings.",
)


def examine(options: dict[str, Any], *, as_json: bool) -> bool:
    """Print a report; return whether the model scores here."""
    report = _report(options)
    console = Console()
    if as_json:
        console.print_json(json.dumps(report))
    else:
        _show(report, console)
    return bool(report["works"])


def _report(options: dict[str, Any]) -> dict[str, Any]:
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "gpus": _gpus(),
        "packages": {name: _installed(name, extra) for name, extra in _PACKAGES.items()},
        "environment": _environment(),
        "hub": _hub(offline=bool(options.get("local_files_only"))),
    }
    bad = _bad_settings()
    # No reranker could be made; who asks no server and runs none need not mind the others.
    failed = {"works": False} if RerankSettings.__name__ in bad else {}
    return report | {"bad_settings": bad} | _try(options) | failed


def _try(options: dict[str, Any]) -> dict[str, Any]:
    """Load the model and score two passages whose order is beyond doubt."""
    from rerank_plugins.scoring.cross_encoder import CrossEncoderScorer

    try:
        with CrossEncoderScorer(**options) as scorer:
            scores = scorer.score(_QUESTION, _PASSAGES).tolist()
            return {"works": True, "model": asdict(scorer.info), "self_check": _judge(scores)}
    except RerankError as error:
        return {"works": False, "error": f"{type(error).__name__}: {error}"}


def _judge(scores: list[float]) -> dict[str, Any]:
    return {
        "wrong_passage": scores[0],
        "right_passage": scores[1],
        "ordered": scores[1] > scores[0],
    }


def _installed(name: str, extra: str | None) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return f'not installed: pip install "rerank-plugins[{extra}]"' if extra else "not installed"


def _environment() -> dict[str, str]:
    """Return what the environment sets; of a secret, and of what is no setting, only that it is there.

    So of a URL with a password in it, which no setting takes.
    """
    may_be_shown = {
        f"{kind.model_config.get('env_prefix')}{name}".upper(): field.repr
        for kind in _SETTINGS
        for name, field in kind.model_fields.items()
    }
    found = {}
    for name, value in sorted(os.environ.items()):
        if not name.upper().startswith("RERANK_"):
            continue
        if name.upper() not in may_be_shown:
            found[name] = "(set, but no setting of this library)"
        else:
            found[name] = value if may_be_shown[name.upper()] and "@" not in value else "(set, not shown)"
    return found


def _bad_settings() -> dict[str, str]:
    """Return what is wrong with settings that come from the environment, by their class."""
    bad = {}
    for kind in _SETTINGS:
        # Its server has to be given, and is by whoever asks one.
        needed: dict[str, Any] = {}
        if kind is RemoteSettings and not os.environ.get("RERANK_REMOTE_BASE_URLS"):
            needed = {"base_urls": "http://127.0.0.1"}
        try:
            kind(**needed)
        except InvalidInputError as error:
            bad[kind.__name__] = str(error)
    return bad


def _hub(*, offline: bool) -> str:
    """Say whether models can be downloaded; any answer of the server will do."""
    from huggingface_hub import constants

    if offline or constants.HF_HUB_OFFLINE:
        return "offline (HF_HUB_OFFLINE or --local-files-only): only what is cached"
    try:
        with urlopen(constants.ENDPOINT, timeout=3):  # noqa: S310 - the endpoint the user configured
            pass
    except HTTPError as error:
        return f"{constants.ENDPOINT} answers (status {error.code})"
    except (OSError, HTTPException, ValueError) as error:
        return f"{constants.ENDPOINT} cannot be reached ({error}): only what is cached"
    return f"{constants.ENDPOINT} answers"


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _show(report: dict[str, Any], console: Console) -> None:
    table = Table(show_header=False, box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")

    def add(name: str, value: object) -> None:
        table.add_row(name, escape(str(value)))

    add("python", f"{report['python']} on {report['platform']}, {report['cores']} cores")
    add("GPUs", ", ".join(report["gpus"]) or "none that torch sees")
    for name, found in report["packages"].items():
        add(name, found)
    add("hub", report["hub"])
    for name, value in report["environment"].items():
        add(name, value)
    for bad in report["bad_settings"].values():
        add("bad setting", bad)
    if "model" in report:
        model = report["model"]
        for name, value in model.items():
            if name != "reasons":
                add(name, f"{value / 1e6:.1f} MB" if name == "memory" else value)
        for name, reason in model["reasons"].items():
            add(f"why {name}", reason)
        check = report["self_check"]
        verdict = "the right passage first" if check["ordered"] else "THE WRONG PASSAGE FIRST"
        logits = f"{check['right_passage']:.2f} against {check['wrong_passage']:.2f}"
        add("self check", f"{verdict} (logits {logits})")
    else:
        add("cannot score", report["error"])
    console.print(table)
