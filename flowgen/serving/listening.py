"""Listening: a server that says when it can be reached, and closes connections that say nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0
"""For the head of a request to come."""


class Patient(H11Protocol):
    """uvicorn's protocol with an end to its patience for the first head; later ones have `timeout_keep_alive`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEADERS_S, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def listen(app: Any, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve an ASGI application until SIGINT or SIGTERM. ready: told the address as soon as it may be asked."""
    config = uvicorn.Config(
        app, host, port, http=Patient, log_level="warning", limit_concurrency=1024, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    socket.listen(2048)  # who reads the address may connect
    ready(f"http://{host}:{socket.getsockname()[1]}")
    server.run(sockets=[socket])
