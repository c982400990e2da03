"""Connections that say nothing are closed: a slow client may not hold one for ever."""

from __future__ import annotations

import asyncio

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
