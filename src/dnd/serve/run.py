"""Start the server, and stop it when asked: requests that run are answered first."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from dnd.common.log import LOGGER, RESULT
from dnd.common.randomness import set_threads
from dnd.serve.app import build_app
from dnd.serve.guard import LOOPBACK
from dnd.serve.limits import Limits
from dnd.serve.models import ServedModels

_SECONDS_TO_STOP = 30


def serve(folders: Sequence[Path], host: str, port: int, limits: Limits, device: str = "auto") -> None:
    """Serve models until the process is told to stop (SIGTERM, or Ctrl-C).

    Args:
        folders: MODEL folders.
        host: address to listen at.
        port: likewise; 0 = one that is free.
        limits: limits that every request must keep.
        device: `cpu`, `cuda` or `auto`.

    Raises:
        ConfigError, InputError, CorruptFileError: a model can't be opened.
    """
    set_threads()
    models = ServedModels.load(folders, device)
    local = host in LOOPBACK
    app = build_app(models, limits, LOOPBACK if local else ())
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=limits.waiting + 64,
        timeout_keep_alive=10,
        timeout_graceful_shutdown=_SECONDS_TO_STOP,
    )
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # which uvicorn raises again once it has stopped
    if not local:
        LOGGER.warning(
            f"{host} is not a loopback address: anyone who can reach this machine can use the models without a password"
        )
    LOGGER.info(f"serving {', '.join(model.name for model in models)}; Ctrl-C stops")
    _Server(config).run()
    LOGGER.info("stopped")


class _Server(uvicorn.Server):
    """A server that says where it listens once it does."""

    async def startup(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        await super().startup(sockets)  # type: ignore[arg-type]
        for listening in [socket for server in getattr(self, "servers", []) for socket in server.sockets]:
            host, port = listening.getsockname()[:2]
            LOGGER.log(RESULT, f"http://{f'[{host}]' if ':' in host else host}:{port}/")
