"""Chunks of a screen on the machines of a Ray cluster: the same columns as the local pool, whatever machine dies.

A chunk is one Ray task. Its process keeps the model in a child with limits on time and memory, as the local pool does,
so a molecule that kills costs its row only; a machine that dies costs nothing: Ray gives its tasks to the others.
"""

from __future__ import annotations

import collections
import contextlib
import os
import tempfile
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dnd.common.errors import ConfigError, DndError, InputError
from dnd.common.files import MANIFEST, package_versions, read_manifest
from dnd.common.workers import WorkerPool
from dnd.prediction.screen.source import Candidate
from dnd.prediction.screen.workers import WORKER, Screener
from dnd.predictor.predictor import Column

_RETRIES = 5  # of a task whose process or machine died
_WAITING_PER_CPU = 4
_LOOK_S = 10.0  # between two looks at whether any machine is left
_DECISIVE = ("dnd", "torch", "rdkit")  # packages whose version shapes a prediction

_open: dict[str, tuple[Screener, WorkerPool]] = {}
"""In a process of Ray: the model that its last task used, by digest."""


def require_ray() -> Any:
    """The package `ray`.

    Raises:
        ConfigError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports its use to its makers unless told not to
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise ConfigError("--ray needs the package ray", next_step="pip install 'dnd-mol[ray]'") from error


@dataclass(frozen=True)
class RayScreener:
    """Predicts chunks in order on a Ray cluster; takes the place of `Screener`.

    Attributes:
        model: MODEL folder; its files are sent to the machines, which need `dnd` but no common disk.
        digest: digest of its manifest, which names the model.
        address: as `ray.init` takes it: `auto`, `HOST:PORT`, `ray://HOST:PORT`; `local` starts a cluster here.
        worker: as `Screener.worker`.
    """

    model: Path
    digest: str
    address: str
    worker: str = WORKER

    def run(self, chunks: Iterator[list[Candidate]], rows: int) -> Generator[dict[str, Column], None, None]:
        """As `Screener.run`: the columns of every chunk, in order, some chunks per processor under way.

        Raises:
            InputError: there is no cluster at `address`.
            DndError: a machine has other versions, no machine is left, or a chunk failed on six of them.
        """
        ray = require_ray()
        try:
            # Ray hands the current folder to its processes as a place to import from; nobody else writes to the root.
            with contextlib.chdir(os.sep):
                ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"no Ray cluster at {self.address}", found=" ".join(str(error).split())[:200],
                next_step="Start one with `ray start --head` and give its address",
            ) from error  # fmt: skip
        try:
            yield from self._run(ray, chunks, rows)
        finally:
            ray.shutdown()

    def _run(self, ray: Any, chunks: Iterator[list[Candidate]], rows: int) -> Iterator[dict[str, Column]]:
        job = {
            "digest": self.digest,
            "files": [ray.put(_files_of(self.model))],  # in a list, so that a task that has the model does not fetch it
            "worker": self.worker,
            "versions": {name: package_versions()[name] for name in _DECISIVE},
        }
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(screen_on_node)
        job_at, waiting = ray.put(job), collections.deque[Any]()
        for chunk in chunks:
            waiting.append(task.remote(job_at, chunk, rows))
            while len(waiting) >= _WAITING_PER_CPU * max(1, _processors(ray)):
                yield _result(ray, waiting.popleft())
        while waiting:
            yield _result(ray, waiting.popleft())


def screen_on_node(job: Mapping[str, Any], chunk: list[Candidate], rows: int) -> dict[str, Column]:
    """Predict one chunk in a process of Ray.

    Args:
        job: `digest` of the model, `files` (a list of one reference to `{name: bytes}`), `worker`, `versions`.
        chunk: the candidates.
        rows: the most that a chunk has.

    Raises:
        DndError: this machine has other versions than the one that asks, or the chunk can't be screened.
    """
    found = {name: package_versions()[name] for name in _DECISIVE}
    if found != job["versions"]:
        raise DndError(
            "a machine of the Ray cluster has other versions", found=found, expected=job["versions"],
            next_step="Install the same ones everywhere",
        )  # fmt: skip
    if job["digest"] not in _open:
        _close()
        files = require_ray().get(job["files"][0])
        settings = {"files": files, "worker": job["worker"], "digest": job["digest"]}
        screener = Screener(settings, 1, f"{__name__}:make_from_files")
        _open[job["digest"]] = (screener, screener.pool(rows))
    screener, pool = _open[job["digest"]]
    try:
        return screener.predict(pool, chunk)
    except DndError:
        _close()
        raise


def make_from_files(
    files: Mapping[str, bytes], worker: str, digest: str
) -> Callable[[Sequence[Candidate]], dict[str, Column]]:
    """Load the model whose files these are with the function `worker`; see `WorkerPool`."""
    module, _, name = worker.partition(":")
    with tempfile.TemporaryDirectory(prefix="dnd-model-") as folder:
        for file, content in files.items():
            Path(folder, file).write_bytes(content)
        made: Callable[[Sequence[Candidate]], dict[str, Column]] = getattr(import_module(module), name)(
            model=folder, digest=digest
        )
    return made


def _close() -> None:
    for _, pool in _open.values():
        pool.close()
    _open.clear()


def _files_of(model: Path) -> dict[str, bytes]:
    return {name: (model / name).read_bytes() for name in [*read_manifest(model)["files"], MANIFEST]}


def _processors(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


def _result(ray: Any, reference: Any) -> dict[str, Column]:
    """Wait for a chunk, as long as there is a machine to work on it."""
    while not ray.wait([reference], timeout=_LOOK_S)[0]:
        if _processors(ray) == 0:
            raise DndError("no machine of the Ray cluster is left", next_step="Start some, then --resume")
    try:
        columns: dict[str, Column] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DndError):
            raise error.cause from None
        raise DndError("a chunk can't be screened", found=f"{type(error.cause).__name__}: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise DndError(
            f"a chunk was lost {_RETRIES + 1} times on Ray", found=" ".join(str(error).split())[:200],
            next_step="Check the machines' memory, then --resume",
        ) from error  # fmt: skip
    return columns
