"""`serve`: the application behind uvicorn, until a signal; then what is inside is finished first."""

import logging
import time
from types import FrameType

import uvicorn

from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.models import ModelPool
from rerank_plugins.serving.service import Service
from rerank_plugins.serving.settings import ServerSettings

__all__ = ["serve"]

logger = logging.getLogger("rerank_plugins.serving")


class _Server(uvicorn.Server):
    """Lets nobody in after the first signal, and stops when nobody is inside; the second stops it now."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._stop_at = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        door = self._service.door
        if door.closed:
            super().handle_exit(sig, frame)
            return
        door.closed = True
        self._stop_at = time.monotonic() + self._service.settings.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        door = self._service.door
        if door.closed and (not door.inside or time.monotonic() > self._stop_at):
            return True
        return await super().on_tick(counter)


def serve(settings: ServerSettings | None = None, *, pool: ModelPool | None = None) -> None:
    """Serve until SIGINT or SIGTERM, then finish what is inside.

    Args:
        settings: How to serve; None: what `RERANK_SERVER_*` variables say.
        pool: Models to serve instead of those that settings name.

    Raises:
        InvalidInputError: If a setting is invalid, or the host needs keys and there are none.
        ModelError: If a model that is loaded at the start cannot be.
    """
    settings = settings or ServerSettings()
    settings.check_exposure()
    app = create_app(settings, pool=pool)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        root_path=settings.root_path,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        # Longer than clients and balancers keep idle connections, so that they never write to a closed one.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    server = _Server(config, app.state.service)
    try:
        server.run()
    finally:
        # uvicorn exits if the application does not start, and says why in the log only.
        if app.state.failure is not None:
            raise app.state.failure
