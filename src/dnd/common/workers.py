"""Native code in child processes with a time and a memory limit: a hang or a crash costs one item, not the run.

A child is a fresh interpreter that talks over a socket, so nothing of the parent's threads or `__main__` leaks into it
and it ends when the parent does. For short work it may be a copy of the parent, which starts at once. `Work` says what
children do with an item, `Here` runs it on this machine, `common.cluster` on the machines of a cluster.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import multiprocessing
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import TracebackType
from typing import Any

from dnd.common.errors import DndError, end_at_once, internal_reason
from dnd.common.processes import child_environment, code_command

START_LIMIT_S = 300.0  # imports that take seconds take minutes on a machine with ten times more work than cores
MAX_DEATHS_IN_A_ROW = 3
# Items wait in a child, so that it never idles while the parent writes; as many as the socket holds, so that the parent
# never blocks on a child that hangs.
_AHEAD_ITEMS, _AHEAD_BYTES = 8, 64 * 1024
_COPY_BYTES = 4 * 2**30
_REORDERED = 1024  # results that wait for a slow one before them


@dataclass(frozen=True)
class Failure:
    """An item that has no result.

    Attributes:
        reason: `over 30 s`, `over 1 GiB`, `worker died: signal 11`, or what the function raised.
    """

    reason: str


class _Copy:
    """A copy of this process that serves, with the calls of `subprocess.Popen` that a pool makes."""

    def __init__(self, parent_end: Connection, descriptor: int) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_serve_in_copy, args=(parent_end, descriptor), daemon=True)
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()

    def wait(self) -> int:
        self._process.join()
        return self._process.exitcode or 0


@dataclass
class _Item:
    number: int
    message: bytes
    deaths: int = 0


@dataclass
class _Child:
    process: subprocess.Popen[bytes] | _Copy
    connection: Connection
    pending: deque[_Item] = field(default_factory=deque)
    ready: bool = False
    since: float = field(default_factory=time.monotonic)

    def has_room(self, item: _Item) -> bool:
        ahead = sum(len(other.message) for other in self.pending)
        return not self.pending or (
            len(self.pending) < _AHEAD_ITEMS and ahead + len(item.message) <= _AHEAD_BYTES and self.ready
        )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.connection.close()


class WorkerPool:
    """Runs one function over items in child processes and yields results in the order of the items.

    A child that dies is replaced and its item tried once more; if that one dies too, the item fails.

    Args:
        function: `"module:name"` of a function of one item; with `settings`, of a function that takes them as keywords
            and returns that function.
        jobs: number of children.
        settings: see `function`; sent to each child once.
        timeout_s: seconds that one item may take.
        limit_bytes: memory that a child may take on top of what it has after its imports.
        reordered: results that may wait for a slow one before them; fewer where a result is large.
        copies: children are copies of this process where it can be forked safely; they may use RDKit and NumPy only.
    """

    def __init__(
        self,
        function: str,
        *,
        jobs: int = 1,
        settings: Mapping[str, Any] | None = None,
        timeout_s: float = 30.0,
        limit_bytes: int = 2**30,
        reordered: int = _REORDERED,
        copies: bool = False,
    ) -> None:
        self.function, self.settings, self.reordered = function, settings, reordered
        self.jobs, self.timeout_s, self.limit_bytes = jobs, timeout_s, limit_bytes
        self.copies = copies and sys.platform == "linux"
        self._children: list[_Child] = []
        self._queue: deque[_Item] = deque()
        self._failed_in_a_row = 0

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the children."""
        for child in self._children:
            child.stop()
        self._children.clear()
        self._queue.clear()

    def map(self, items: Iterable[Any]) -> Iterator[Any]:
        """Yield `function(item)` or a `Failure` for every item, in order; reads only a little ahead.

        Raises:
            DndError: three items in a row killed their worker, or a worker could not start.
        """
        source, ended = enumerate(items), False
        results: dict[int, Any] = {}
        next_number = 0
        while True:
            while not ended and not self._queue and len(results) < self.reordered:
                ended = not self._take(source)
                self._send()
            self._send()
            busy = [child for child in self._children if child.pending]
            if not busy and not self._queue:
                return
            results.update(self._collect(busy))
            while next_number in results:
                yield results.pop(next_number)
                next_number += 1

    def _take(self, source: Iterator[tuple[int, Any]]) -> bool:
        for number, value in source:
            self._queue.append(_Item(number, bytes(ForkingPickler.dumps(value))))
            return True
        return False

    def _send(self) -> None:
        """Hand queued items to children with room, the emptiest first."""
        while len(self._children) < self.jobs and self._queue:
            self._children.append(self._start())
        while self._queue:
            child = min(self._children, key=lambda child: len(child.pending))
            if not child.has_room(self._queue[0]):
                return
            item = self._queue.popleft()
            if child.ready and not child.pending:
                child.since = time.monotonic()
            child.pending.append(item)
            with contextlib.suppress(OSError):  # a dead child is found, and its items queued again, in `_receive`
                child.connection.send_bytes(item.message)

    def _collect(self, busy: list[_Child]) -> Iterator[tuple[int, Any]]:
        """Wait for a message or a deadline and yield the results that came."""
        deadlines = {id(child): child.since + (self.timeout_s if child.ready else START_LIMIT_S) for child in busy}
        children = {child.connection: child for child in busy}
        for connection in wait(list(children), timeout=max(0.0, min(deadlines.values()) - time.monotonic())):
            assert isinstance(connection, Connection)
            child = children.pop(connection)
            yield from self._receive(child)
        for child in children.values():
            if time.monotonic() > deadlines[id(child)]:
                reason = f"over {self.timeout_s if child.ready else START_LIMIT_S:g} s"
                item = self._remove(child, reason)
                yield item.number, Failure(reason)

    def _receive(self, child: _Child) -> Iterator[tuple[int, Any]]:
        try:
            message = child.connection.recv()
        except (EOFError, OSError):
            code = child.process.wait()
            yield from self._bury(
                child, f"worker died: signal {-code}" if code < 0 else f"worker died: exit code {code}"
            )
            return
        child.since = time.monotonic()
        if child.ready:
            self._failed_in_a_row = 0
            yield child.pending.popleft().number, message
        elif isinstance(message, Failure):
            raise DndError("a worker process could not start", found=message.reason)
        child.ready = True

    def _bury(self, child: _Child, reason: str) -> Iterator[tuple[int, Any]]:
        item = self._remove(child, reason)
        item.deaths += 1
        if item.deaths == 1:  # perhaps not the item's fault: another process may have killed the worker
            self._queue.appendleft(item)
            return
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= MAX_DEATHS_IN_A_ROW:
            raise DndError(
                f"{self._failed_in_a_row} items in a row killed their worker process",
                found=reason,
                next_step="Check the memory of the machine; use fewer --jobs",
            )
        yield item.number, Failure(reason)

    def _remove(self, child: _Child, reason: str) -> _Item:
        """Stop a child and queue what waited behind the item it was at, which is returned."""
        child.stop()
        self._children.remove(child)
        if not child.ready:
            raise DndError("a worker process could not start", found=reason)
        item = child.pending.popleft()
        self._queue.extendleft(reversed(child.pending))
        return item

    def _start(self) -> _Child:
        parent_end, child_end = socket.socketpair()
        connection = Connection(parent_end.detach())
        process: subprocess.Popen[bytes] | _Copy
        if self.copies:
            process = _Copy(connection, child_end.fileno())
        else:
            process = subprocess.Popen(
                code_command(f"from dnd.common.workers import serve; serve({child_end.fileno()})"),
                pass_fds=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=child_environment(OMP_NUM_THREADS="1"),  # the cores belong to the children, one each
            )
        child_end.close()
        with contextlib.suppress(OSError):  # as in `_send`
            connection.send((self.function, self.settings, self.limit_bytes))
        return _Child(process, connection)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What worker processes do with each item of a run, and what stands for an item that they fail at.

    It is pure: every process of every machine gives the same result for an item, so a run has the same results, in the
    order of its items, wherever it is done. A verb that needs more than a `Failure` for a bad item overrides
    `recovered`.

    Attributes:
        function: see `WorkerPool`.
        settings: see `WorkerPool`.
        folders: settings that are sealed folders, such as a MODEL; the function is given a path, and a machine that
            does not have the folder is sent its files.
        timeout_s: seconds that one item may take.
        limit_bytes: memory that a process may take on top of what it has after its imports.
        ahead: for each process, items done that may wait for a slow one before them.
        block: items that are sent to another machine together; one that dies costs at most a block for each process.
        packages: packages whose versions shape a result; another machine must have the same.
    """

    function: str
    settings: Mapping[str, Any] | None = None
    folders: Mapping[str, Path] = field(default_factory=dict)
    timeout_s: float = 30.0
    limit_bytes: int = 2**30
    ahead: int = 256
    block: int = 1
    packages: tuple[str, ...] = ("rdkit",)

    def pool(self, jobs: int = 1, *, timeout_s: float | None = None) -> WorkerPool:
        """Processes of this machine for such items; to be closed."""
        paths = {name: str(path) for name, path in self.folders.items()}
        return WorkerPool(
            self.function,
            jobs=jobs,
            settings=None if self.settings is None else {**self.settings, **paths},
            timeout_s=self.timeout_s if timeout_s is None else timeout_s,
            limit_bytes=self.limit_bytes,
            reordered=self.ahead * jobs,
        )

    def recovered(self, item: Any, failure: Failure) -> Any:
        """The result of an item that a worker died of, hung at or raised for; called on the machine where it did."""
        return failure

    def results(self, pool: WorkerPool, items: Iterable[Any]) -> Iterator[Any]:
        """The result of every item, in order, from the workers of `pool`.

        Raises:
            DndError: see `WorkerPool.map`.
        """
        sent, kept = itertools.tee(items)  # what is between the two waits for its result
        for result in pool.map(sent):
            item = next(kept)
            yield self.recovered(item, result) if isinstance(result, Failure) else result


@dataclass(frozen=True)
class Here:
    """Worker processes of this machine; see `cluster.RayCluster` for others.

    Attributes:
        jobs: number of processes.
    """

    jobs: int = 1

    def run(self, work: Work, items: Iterable[Any]) -> Generator[Any, None, None]:
        """The result of every item, in order; reads only a little ahead.

        Raises:
            DndError: a worker can't start, or three items in a row killed theirs, which is the machine's doing.
        """
        with work.pool(self.jobs) as pool:
            yield from work.results(pool, items)


@dataclass(frozen=True)
class Rows:
    """How a chunk is taken apart where a worker fails at it, so that a bad row costs nothing but itself.

    Attributes:
        apart: the rows of a chunk, each as a chunk.
        failed: the result of such a row that a worker fails at, and the reason.
        together: the result of a chunk from those of its rows.
        timeout_s: seconds that a row may take.
    """

    apart: Callable[[Any], Sequence[Any]]
    failed: Callable[[Any, str], Any]
    together: Callable[[Sequence[Any]], Any]
    timeout_s: float = 30.0


def compute_in_copies(
    function: str,
    chunks: Sequence[Any],
    *,
    jobs: int,
    settings: Mapping[str, Any],
    rows: Rows,
    timeout_s: float = 600.0,
) -> Iterator[Any]:
    """The result of each chunk of short and harmless work, in order, from copies of this process.

    Args:
        function: see `WorkerPool`.
        chunks: what the function takes.
        jobs: number of copies.
        settings: see `WorkerPool`.
        rows: what becomes of a chunk that kills its process, hangs or raises.
        timeout_s: seconds that a chunk may take.

    Raises:
        DndError: see `WorkerPool.map`.
    """
    pools = partial(WorkerPool, function, settings=settings, limit_bytes=_COPY_BYTES, copies=True)
    with pools(jobs=jobs, timeout_s=timeout_s) as pool:
        for chunk, result in zip(chunks, pool.map(chunks), strict=True):
            yield _row_by_row(pools, chunk, rows) if isinstance(result, Failure) else result


def _row_by_row(pools: Callable[..., WorkerPool], chunk: Any, rows: Rows) -> Any:
    """The result of a chunk that a worker failed at."""
    apart = rows.apart(chunk)
    with pools(jobs=1, timeout_s=rows.timeout_s) as pool:
        found = [
            rows.failed(row, result.reason) if isinstance(result, Failure) else result
            for row, result in zip(apart, pool.map(apart), strict=True)
        ]
    return rows.together(found)


def _serve_in_copy(parent_end: Connection, descriptor: int) -> None:
    parent_end.close()  # so that the child sees the parent's end
    end_at_once()
    serve(descriptor)


def serve(descriptor: int) -> None:
    """The child: load the function, then answer one message per item until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    connection = Connection(descriptor)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        name, settings, limit_bytes = connection.recv()
        try:
            function = load_function(name, settings)
        except Exception as error:
            connection.send(Failure(f"{type(error).__name__}: {error}"))
            return
        _limit_memory(limit_bytes)
        connection.send(None)
        while True:
            connection.send(_outcome(function, connection.recv(), limit_bytes))


def load_function(name: str, settings: Mapping[str, Any] | None) -> Callable[[Any], Any]:
    """The function of one item that a `WorkerPool` names."""
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    loaded: Callable[[Any], Any] = function if settings is None else function(**settings)
    return loaded


def _limit_memory(limit_bytes: int) -> None:
    if sys.platform == "linux":  # elsewhere the address space can't be limited; the time limit still holds
        with open("/proc/self/statm") as stream:
            used_bytes = int(stream.read().split()[0]) * resource.getpagesize()
        wanted, own = used_bytes + limit_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]
        if own == resource.RLIM_INFINITY or wanted < own:  # `ulimit -v` may have set a smaller one, which holds
            resource.setrlimit(resource.RLIMIT_AS, (wanted, wanted))


def _outcome(function: Callable[[Any], Any], item: Any, limit_bytes: int) -> Any:
    try:
        return function(item)
    except MemoryError:
        return Failure(f"over {limit_bytes / 2**30:g} GiB")
    except Exception as error:  # one bad item never stops a run; its row carries the reason
        return Failure(internal_reason(error))
