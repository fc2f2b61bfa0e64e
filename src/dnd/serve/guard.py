"""What every request passes before it is read, and every answer on its way out: sizes, counts, origins, headers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.responses import JSONResponse

from dnd.common.log import LOGGER

# What one visitor may ask for, and how requests take turns at the models.
#
# A model is asked by `running` threads at a time. Further requests wait in line, and beyond the length of the line they
# are told to come again; so neither memory nor the number of threads grows with the number of visitors.

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """Bounds on what is asked.

    Attributes:
        body_bytes: largest size of a request, including an uploaded file.
        body_seconds: between two parts of a request that is being sent.
        smiles: number of SMILES in one request that is answered at once.
        rows: largest number of rows in a file.
        seconds: that a request may take once its turn has come.
        job_seconds: that a file may take.
        running: requests that are computed at the same time.
        waiting: requests in line.
        queued: files in line.
        kept: files that are done and whose results are kept.
        kept_seconds: seconds for which they are kept.
        page_rows: rows of a file's results in one answer.
    """

    body_bytes: int = 8 * 2**20
    body_seconds: float = 20.0
    smiles: int = 1_000
    rows: int = 20_000
    seconds: float = 60.0
    job_seconds: float = 1_800.0
    running: int = 2
    waiting: int = 256
    queued: int = 16
    kept: int = 32
    kept_seconds: float = 3_600.0
    page_rows: int = 200


class BusyError(Exception):
    """The line is full."""


class TooSlowError(Exception):
    """The time for one request is over."""


class Turns:
    """The line in front of the models.

    Args:
        limits: `running`, `waiting` and `seconds` of them.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits, self._slots, self._waiting = limits, asyncio.Semaphore(limits.running), 0

    async def take(self, work: Callable[[], T]) -> T:
        """`work()` in a thread, when its turn has come.

        A thread can't be ended, so one that takes too long keeps its slot until it is done.

        Raises:
            BusyError: too many wait already.
            TooSlowError: it takes too long.
        """
        if self._slots.locked() and self._waiting >= self._limits.waiting:
            raise BusyError
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        task = asyncio.ensure_future(asyncio.to_thread(work))
        task.add_done_callback(self._free)
        done, _ = await asyncio.wait([task], timeout=self._limits.seconds)
        if not done:
            raise TooSlowError
        return task.result()

    def _free(self, task: asyncio.Future[T]) -> None:
        self._slots.release()
        if not task.cancelled():
            task.exception()  # an error after the time is over has been answered as being too slow


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
        app: the application behind it.
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

        begun = False

        async def with_headers(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                own = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(pair for pair in _HEADERS.items() if pair[0] not in own)]
            await send(message)

        headers = _joined(scope["headers"])
        parts: list[bytes] = []
        try:
            answer = self._refusal(scope["method"], headers) or await self._read(headers, receive, parts)
            await (answer or self._replaying(parts, self._app))(scope, receive, with_headers)
        except Exception as error:  # a request never ends the others, and what it raised is a line of the log
            LOGGER.error(f"internal error of {scope['method']} {scope['path']}: {type(error).__name__}: {error}")
            if begun:
                raise
            await problem(500, f"internal error: {type(error).__name__}")(scope, receive, with_headers)
        finally:
            self._held -= sum(map(len, parts))

    def _refusal(self, method: str, headers: dict[bytes, str]) -> JSONResponse | None:
        if self._hosts and _name_of(headers.get(b"host", "")) not in self._hosts:
            return problem(421, "this server does not answer to that name")
        if method in _CHANGES and not _is_own(headers):
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


def _joined(headers: Iterable[tuple[bytes, bytes]]) -> dict[bytes, str]:
    """Headers by their names; of one that is there twice all values, with a comma between them."""
    joined: dict[bytes, str] = {}
    for name, value in headers:
        text = value.decode("latin-1")
        joined[name.lower()] = f"{joined[name.lower()]}, {text}" if name.lower() in joined else text
    return joined


def _is_own(headers: dict[bytes, str]) -> bool:
    """Whether a request comes from a page of ours, or from no page.

    Browsers say so in `Sec-Fetch-Site`, but to plain HTTP only where it is this machine, and older ones nowhere. All
    of them send `Origin`, which must name the host that is asked.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    if site is not None or origin is None:
        return site in (None, "none", "same-origin")
    return origin.partition("://")[2].lower() == headers.get(b"host", "").lower()


def _name_of(host: str) -> str:
    """A host without its port, in lower case."""
    return (host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]).lower()


def problem(status: int, what: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer that says in one line what is wrong."""
    return JSONResponse({"error": what}, status_code=status, headers=headers)
