"""What stands before every request: who may ask, how much, and how slowly."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from flowgen.errors import UsageError

Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_DRAIN_BYTES, _DRAIN_S = 8_000_000, 2.0
OPEN_PATHS = ("/health",)
"""For who asks only whether the server lives."""


class Refused(Exception):
    """A body that is too large, or takes too long: raised where the application reads it, which answers with its status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass
class Gate:
    """ASGI middleware. Refuses with one sentence, as JSON {"error": ...}.

    Args:
        app: what stands behind it.
        token: that requests carry as `Authorization: Bearer TOKEN`; None: of this machine alone, by loopback.
        most_bytes: of a body.
        most_s: for a body to come.
    """

    app: Callable[[Scope, Receive, Send], Awaitable[None]]
    token: str | None
    most_bytes: int
    most_s: float = 60.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        if (refused := self._refused(scope["path"], headers)) is not None:
            await _answer(receive, send, *refused)
            return
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.most_bytes:
            await _answer(receive, send, 413, self._too_large)
            return
        await self.app(scope, self._metered(receive), send)

    @property
    def _too_large(self) -> str:
        return f"the request is larger than {self.most_bytes / 1e6:g} MB, the most that this server takes"

    def _refused(self, path: str, headers: MutableMapping[str, str]) -> tuple[int, str] | None:
        if path in OPEN_PATHS:
            return None
        if self.token is not None:
            kind, _, given = headers.get("authorization", "").partition(" ")
            if kind.lower() == "bearer" and hmac.compare_digest(given.encode(), self.token.encode()):
                return None
            return 401, "give the token of this server: Authorization: Bearer TOKEN"
        # without a token, pages of other sites in a browser on this machine must be kept out
        if not _local(_host(f"//{headers.get('host', '')}")):
            return (
                403,
                "this server answers under the names of the loopback alone; start it with --token-file to reach it by others",
            )
        if (origin := headers.get("origin")) is not None and not _local(_host(origin)):
            return 403, "pages of other sites may not ask this server; start it with --token-file"
        return None

    def _metered(self, receive: Receive) -> Receive:
        got, loop = 0, asyncio.get_running_loop()
        until, over = loop.time() + self.most_s, False

        async def metered() -> MutableMapping[str, Any]:
            nonlocal got, over
            if over:  # the body is there; what comes now is the disconnect, whenever
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - loop.time()))
            except asyncio.TimeoutError:
                raise Refused(408, f"the request took longer than {self.most_s:g} s to come") from None
            got += len(message.get("body", b""))
            if got > self.most_bytes:
                raise Refused(413, self._too_large)
            over = not message.get("more_body", False)
            return message

        return metered


def check_open(host: str, token: str | None) -> None:
    """UsageError: a server at this name would be open to other machines."""
    if token is None and not _local(host):
        raise UsageError(f"--host {host} is reached from other machines; give --token-file, or listen at 127.0.0.1")


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


async def _answer(receive: Receive, send: Send, status: int, sentence: str) -> None:
    """Refuse, and take what is still being sent: a connection that is closed before that loses the answer."""
    body = json.dumps({"error": sentence}).encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    headers += [(b"content-length", str(len(body)).encode())]
    headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    with suppress(asyncio.TimeoutError):
        await asyncio.wait_for(_drain(receive), _DRAIN_S)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    left, more = _DRAIN_BYTES, True
    while more and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        more = message.get("more_body", False)
