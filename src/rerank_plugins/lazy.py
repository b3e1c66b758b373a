"""`LazyReranker`: how adapters hold a reranker. Settings now, the model on first use, once."""

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.reranker import Reranker
from rerank_plugins.scoring import family
from rerank_plugins.scoring.protocol import Scorer, info_of
from rerank_plugins.scoring.remote.settings import RemoteSettings
from rerank_plugins.settings import RerankSettings, ScorerSettings

__all__ = ["LazyReranker"]


class LazyReranker:
    """A reranker from settings, from a ready scorer, or from a ready reranker.

    Settings are checked here; the model loads on first use, in one thread, however many ask. Copies
    (pickle, deepcopy) share nothing but the settings and the loaded weights.

    Args:
        scorer: A scorer that is ready; then no scorer option may be given.
        reranker: A reranker that is ready; `rerank_options` win over its settings.
        scorer_options: Fields of `ScorerSettings`, the model among them, that were given. Or `remote`, fields
            of `RemoteSettings` or just the base URL, for a server; then only `model` may stand beside it.
        rerank_options: Fields of `RerankSettings` that were given.

    Raises:
        InvalidInputError: If a setting is invalid, two of model, scorer and reranker are given, or documents
            are to be read in windows by a server.
    """

    def __init__(
        self,
        *,
        scorer: Scorer | None = None,
        reranker: Reranker | None = None,
        scorer_options: dict[str, Any] | None = None,
        rerank_options: dict[str, Any] | None = None,
    ) -> None:
        if scorer is not None and reranker is not None:
            raise InvalidInputError("give either scorer or reranker, but got both")
        if scorer_options and (scorer is not None or reranker is not None):
            msg = (
                f"{', '.join(sorted(scorer_options))} cannot change a scorer that is ready; "
                "give these settings to the scorer, or leave scorer and reranker out"
            )
            raise InvalidInputError(msg)
        options = rerank_options or {}
        self._lock = threading.Lock()
        self._ready: Reranker | None = None
        self._owned = scorer is None and reranker is None
        self.scorer_settings = _scorer_settings(**(scorer_options or {}))
        if reranker is not None:
            self._ready = reranker.with_settings(**options) if options else reranker
        elif scorer is not None:
            self._ready = Reranker(scorer, **options)
        self.settings = self._ready.settings if self._ready else RerankSettings(**options)
        remote = self._owned and isinstance(self.scorer_settings, RemoteSettings)
        if remote and self.settings.long_documents == "max_passage":
            raise InvalidInputError(
                'long_documents must be "truncate" with remote, as a server does not tell windows, but '
                'got "max_passage"; set it where the model runs (RERANK_LONG_DOCUMENTS of our server)'
            )

    @property
    def loaded(self) -> bool:
        """Whether the model is loaded."""
        return self._usable() is not None

    @property
    def model(self) -> str:
        """The model's name; of a ready scorer that does not say, its type."""
        ready = self._ready  # once, as another thread may let go of it
        if ready is not None:
            info = info_of(ready.scorer)
            return type(ready.scorer).__name__ if info is None else info.model
        name = self.scorer_settings.model or "unknown"
        # As the loaded model will say.
        known = family.find(name) if isinstance(self.scorer_settings, ScorerSettings) else None
        return known.id if known else name

    def get(self) -> Reranker:
        """Return the reranker, loading its model first if need be.

        Raises:
            ModelError: If the model cannot be loaded.
        """
        with self._lock:
            ready = self._usable()
            if ready is None:
                ready = self._ready = Reranker.from_settings(self.scorer_settings, self.settings)
            return ready

    def share(self, scorer: Scorer) -> None:
        """Ask a server through a scorer that was made from equal settings, instead of connecting anew.

        Models that run here are shared in any case, and in a forked child they are not.
        """
        if not isinstance(self.scorer_settings, RemoteSettings):
            return  # nor wait for one that is being loaded
        with self._lock:
            if self._usable() is None:
                self._ready = Reranker(scorer, settings=self.settings)

    async def aget(self) -> Reranker:
        """Return the reranker like `get`, loading in a thread so that the event loop runs on."""
        ready = self._usable()
        return ready if ready is not None else await asyncio.to_thread(self.get)

    def close(self) -> None:
        """Let go of a model loaded here; the next use loads it again. Ready ones are not touched."""
        with self._lock:
            if self._owned and self._ready is not None:
                self._ready.close()
                self._ready = None

    def _usable(self) -> Reranker | None:
        """Return the reranker, unless whoever shares its connections to a server closed them."""
        ready = self._ready
        closed = self._owned and ready is not None and getattr(ready.scorer, "closed", False)
        return None if closed else ready

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LazyReranker):
            return NotImplemented
        return self._identity() == other._identity()

    def __hash__(self) -> int:
        return hash(self._identity())

    def _identity(self) -> tuple[Any, ...]:
        given = None if self._owned or self._ready is None else id(self._ready.scorer)
        return self.scorer_settings, self.settings, given

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__ | {"_ready": None if self._owned else self._ready}
        del state["_lock"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def _scorer_settings(remote: Any = None, **options: Any) -> ScorerSettings | RemoteSettings:
    """Return settings of a model here, or of a server."""
    if remote is None:
        return ScorerSettings(**options)
    given = dict(remote) if isinstance(remote, Mapping) else {"base_urls": remote}
    if "model" in options:
        model = options.pop("model")
        if given.setdefault("model", model) != model:
            msg = f"model must be one name, but got {model!r}, and {given['model']!r} in remote; give one"
            raise InvalidInputError(msg)
    if options:
        msg = f"{', '.join(sorted(options))} cannot be set for a server; set it there, or leave remote out"
        raise InvalidInputError(msg)
    return RemoteSettings(**given)
