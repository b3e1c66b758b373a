"""What the three adapters share: flat options in, a lazy reranker out."""

from collections.abc import Mapping
from typing import Any

from rerank_plugins.errors import MissingExtraError
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Scorer
from rerank_plugins.settings import RerankSettings, ScorerSettings

__all__ = ["lazy_reranker", "missing_extra", "options_given"]


def missing_extra(extra: str, error: ImportError) -> MissingExtraError:
    """Return the error to raise when an extra's package cannot be imported."""
    return MissingExtraError(
        f"rerank_plugins.{extra.replace('-', '_')} needs a package that is not installed ({error}); "
        f'install it with: pip install "rerank-plugins[{extra}]"'
    )


def options_given(fields: Mapping[str, Any], given: set[str]) -> dict[str, Any]:
    """Return the settings among an adapter's fields that the caller gave.

    What was not given stays out, so that `RERANK_*` variables and defaults apply to it, and None,
    0 and 0.0 mean what they say. `top_n`, as two of the frameworks call it, is our `top_k`.
    """
    known = {*ScorerSettings.model_fields, *RerankSettings.model_fields, "top_n"}
    options = {name: fields[name] for name in known & given}
    if "top_n" in options:
        options["top_k"] = options.pop("top_n")
    return options


def lazy_reranker(
    options: Mapping[str, Any],
    *,
    scorer: Scorer | None = None,
    reranker: Reranker | None = None,
) -> LazyReranker:
    """Build a lazy reranker from settings of both kinds.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.
    """
    policy = {name: value for name, value in options.items() if name in RerankSettings.model_fields}
    model = {name: value for name, value in options.items() if name not in policy}
    return LazyReranker(
        scorer=scorer, reranker=reranker, scorer_options=model, rerank_options=policy
    )
