"""What the three adapters share: flat options in, a lazy reranker out."""

from collections.abc import Mapping
from typing import Any

from rerank_plugins.errors import MissingExtraError
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring.protocol import Scorer
from rerank_plugins.settings import RerankSettings, ScorerSettings

__all__ = ["lazy_reranker", "missing_extra"]


def missing_extra(extra: str, error: ImportError) -> MissingExtraError:
    """Return the error to raise when an extra's package cannot be imported."""
    return MissingExtraError(
        f"rerank_plugins.{extra.replace('-', '_')} needs a package that is not installed ({error}); "
        f'install it with: pip install "rerank-plugins[{extra}]"'
    )


def lazy_reranker(
    fields: Mapping[str, Any],
    *,
    scorer: Scorer | None = None,
    reranker: Reranker | None = None,
) -> LazyReranker:
    """Build a lazy reranker from an adapter's fields; those that are no settings of ours are left out.

    None means "not given" in every adapter: then `RERANK_*` variables and our defaults apply. 0 and 0.0
    mean what they say. `top_n`, as two of the frameworks call it, is our `top_k`.

    Raises:
        InvalidInputError: If a setting is invalid, or two of model, scorer and reranker are given.
    """
    given = {name: value for name, value in fields.items() if value is not None}
    if "top_n" in given:
        given["top_k"] = given["top_n"]
    return LazyReranker(
        scorer=scorer,
        reranker=reranker,
        scorer_options={k: v for k, v in given.items() if k in ScorerSettings.model_fields},
        rerank_options={k: v for k, v in given.items() if k in RerankSettings.model_fields},
    )
