"""`ModelPool`: the models that clients may ask for, each loaded once, off the event loop."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.lazy import LazyReranker
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring import family
from rerank_plugins.serving.errors import RequestError
from rerank_plugins.serving.settings import ServerSettings

__all__ = ["ModelPool"]

# Stands for every name that is not known otherwise.
_ANY = "*"
# A client must see a failure: the order it sent is no ranking; and it need not be that of a first stage.
_SERVED: dict[str, Any] = {"on_error": "raise", "fusion": None}


class ModelPool:
    """Models by name; the first is the default. Safe to share between threads and event loops.

    Args:
        models: What clients may ask for.
        aliases: Other names for them; `"*"` is every other name.

    Raises:
        InvalidInputError: If an alias is another model's name.
    """

    def __init__(self, models: Mapping[str, LazyReranker], aliases: Mapping[str, str] | None = None) -> None:
        self._models = dict(models)
        self._names = {_spelling(name): name for name in self._models}
        for asked, served in (aliases or {}).items():
            stands = self._names.setdefault(_spelling(asked), served)
            if stands != served:
                msg = f"alias {asked!r} must stand for one model, but stands for {stands!r} and {served!r}"
                raise InvalidInputError(msg)
        self._loads: dict[str, Future[Reranker]] = {}
        # One at a time: loading fills memory and cores by itself.
        self._loader = _one_thread()

    @classmethod
    def of(cls, rerankers: Mapping[str, Reranker], aliases: Mapping[str, str] | None = None) -> Self:
        """Serve rerankers that are ready; what they say of `on_error` and `fusion` does not count here."""
        models = {
            name: LazyReranker(reranker=reranker, rerank_options=_SERVED)
            for name, reranker in rerankers.items()
        }
        return cls(models, aliases)

    @classmethod
    def from_settings(
        cls,
        settings: ServerSettings,
        *,
        scorer_options: Mapping[str, Any] | None = None,
        rerank_options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Serve the models that settings name.

        Args:
            settings: Names, aliases, scale and queue of the server.
            scorer_options: Fields of `ScorerSettings` for all models.
            rerank_options: Fields of `RerankSettings` for all models; not `on_error` and `fusion`.

        Raises:
            InvalidInputError: If a setting is invalid.
        """
        scorer = dict(scorer_options or {})
        if settings.max_queue_tokens is not None:
            scorer["max_queue_tokens"] = settings.max_queue_tokens
        rerank = {"scale": settings.scale} | dict(rerank_options or {}) | _SERVED
        models = {
            name: LazyReranker(scorer_options=scorer | {"model": name}, rerank_options=rerank)
            for name in settings.models
        }
        return cls(models, settings.aliases)

    @property
    def default(self) -> str:
        """The model that a request without a name gets."""
        return next(iter(self._models))

    @property
    def names(self) -> list[str]:
        """What may be asked for, aliases aside."""
        return list(self._models)

    def loaded(self) -> dict[str, Reranker]:
        """Return the models that are loaded now."""
        return {name: lazy.get() for name, lazy in self._models.items() if lazy.loaded}

    def resolve(self, name: str | None) -> str:
        """Return the served model that a request's name stands for.

        Raises:
            RequestError: 404, if it stands for none.
        """
        if not name:
            return self.default
        served = self._names.get(_spelling(name)) or self._names.get(_ANY)
        if served is None:
            msg = (
                f"model must be one of {self.names}, but got {name[:200]!r}; another has to be added to the "
                "server's models or aliases"
            )
            raise RequestError(404, "unknown_model", msg)
        return served

    async def get(self, name: str | None = None) -> Reranker:
        """Return a model, loading it first if need be; others who ask meanwhile wait for the same load.

        Raises:
            RequestError: 404, if no model has this name.
            ModelError: If it cannot be loaded.
        """
        name = self.resolve(name)
        lazy = self._models[name]
        if lazy.loaded:
            return lazy.get()
        load = self._loads.get(name)
        if load is None or load.done():  # one that failed is tried again
            load = self._loads[name] = self._loader.submit(lazy.get)
        # Whoever stops waiting does not stop the load.
        return await asyncio.shield(asyncio.wrap_future(load))

    def close(self) -> None:
        """Let go of the models that were loaded here, until the next use; ready ones are not touched."""
        self._loader.shutdown(wait=True, cancel_futures=True)
        self._loader = _one_thread()  # an application may be started again
        for lazy in self._models.values():
            lazy.close()


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="rerank-loader")


def _spelling(name: str) -> str:
    """Return the one spelling under which a model is looked up."""
    known = family.find(name)
    if known is not None:
        return known.id
    try:
        folder = Path(name).expanduser()
    except RuntimeError:  # a home of nobody whom this machine knows
        return name
    return str(folder) if folder.is_absolute() else name
