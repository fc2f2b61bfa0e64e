"""What every request passes before it is read, and every answer on its way out: sizes, names, origins, headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from starlette.responses import JSONResponse

from dnd.serve.limits import Limits

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

# Nothing is loaded from elsewhere, no script or style but our own files, no page may frame ours. Drawings are images.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
DRAWING_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"  # of an SVG that is opened by itself
_HEADERS = {
    b"content-security-policy": PAGE_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    b"cache-control": b"no-store",
}
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BODIES = 16  # of the largest size, that are held in memory at a time
_CHANGES = ("POST", "PUT", "PATCH", "DELETE")


class Guard:
    """Refuses what is too large, too slow to arrive, or sent by a page of another site; sets the headers of safety.

    Args:
        app: what lies behind.
        limits: limits on the size of a request.
        hosts: names under which the server answers, so that another site's name can't be pointed at it; empty = any.
    """

    def __init__(self, app: App, limits: Limits, hosts: Sequence[str] = ()) -> None:
        self._app, self._limits, self._hosts = app, limits, frozenset(hosts)
        self._held = 0  # bytes of the bodies of all requests

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in _HEADERS.items() if pair[0] not in own)]
            await send(message)

        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        parts: list[bytes] = []
        try:
            answer = self._refusal(scope["method"], headers) or await self._read(headers, receive, parts)
            await (answer or self._replaying(parts, self._app))(scope, receive, with_headers)
        finally:
            self._held -= sum(map(len, parts))

    def _refusal(self, method: str, headers: dict[bytes, str]) -> JSONResponse | None:
        if self._hosts and _name_of(headers.get(b"host", "")) not in self._hosts:
            return problem(421, "this server does not answer to that name")
        if method in _CHANGES and headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin"):
            return problem(403, "a page of another site may not send requests here")
        return None

    async def _read(self, headers: dict[bytes, str], receive: Receive, parts: list[bytes]) -> JSONResponse | None:
        """Read the body into `parts`; an answer where that is not to be."""
        limit = self._limits.body_bytes
        too_large = problem(413, f"a request may have {limit:,} bytes; split the file, or use `dnd predict`")
        announced = headers.get(b"content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            return too_large
        size, more = 0, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), self._limits.body_seconds)
            except TimeoutError:
                return problem(408, "the request did not arrive in time")
            if message["type"] == "http.disconnect":
                return problem(400, "the request was cut off")
            part, more = message.get("body", b""), message.get("more_body", False)
            parts.append(part)
            self._held += len(part)
            size += len(part)
            if size > limit:
                return too_large
            if self._held > _BODIES * limit:
                return problem(503, "too much is being sent", {"retry-after": "5"})
        return None

    @staticmethod
    def _replaying(parts: list[bytes], app: App) -> App:
        """`app` with a body that has been read already."""

        async def replaying(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
            waiting = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

            async def replayed() -> Message:
                return waiting.pop() if waiting else await receive()

            await app(scope, replayed, send)

        return replaying


def _name_of(host: str) -> str:
    """A host without its port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def problem(status: int, what: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says in one line what is wrong."""
    return JSONResponse({"error": what}, status_code=status, headers=headers)
