"""The same work on the machines of a Ray cluster: the results of `Here`, in the same order, whatever machine dies.

One way for every verb that has `--ray`. This machine reads the inputs and writes the outputs, so journals, shards and
resuming know nothing of it: they see results in the order of the items. A block of items is one Ray task. The process
of Ray that has it keeps one worker, a child with limits on time and memory as here, so an item that kills costs itself
only. A machine that dies costs nothing: Ray gives its blocks to the others. Machines need the same versions of what
shapes a result; they need no common disk, since the files of `Work.folders` are sent along.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from dnd import __version__
from dnd.common.errors import ConfigError, DndError, InputError
from dnd.common.files import MANIFEST, read_manifest, read_sealed, safe_join, version_of
from dnd.common.processes import process_count
from dnd.common.workers import Here, Work, WorkerPool, load_function

_RETRIES = 5  # of a block whose process or machine died
_LOOK_S = 10.0  # between two looks at whether any machine is left
_AGAIN = "then run the command again, with --resume where it has that"

_open: dict[str, tuple[Work, WorkerPool]] = {}
"""In a process of Ray: the work that its last block was of, by the name of the run."""


def machines(jobs: int, ray: str | None, *, usual_jobs: int) -> Here | RayCluster:
    """Where a verb works: `jobs` processes of this machine, or a Ray cluster.

    Args:
        jobs: the verb's `--jobs`; 0 = one per processor.
        ray: its `--ray`; see `RayCluster`.
        usual_jobs: value of `jobs` when the user gave none.

    Raises:
        ConfigError: both were given, or the package `ray` is not installed.
    """
    if ray is None:
        return Here(process_count(jobs))
    if jobs != usual_jobs:
        raise ConfigError("--jobs counts processes of this machine", next_step="Leave it out with --ray")
    require_ray()
    return RayCluster(ray)


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
class RayCluster:
    """The processors of a Ray cluster; takes the place of `Here`.

    Attributes:
        address: as `ray.init` takes it: `auto`, `HOST:PORT`, `ray://HOST:PORT`; `local` starts a cluster here.
    """

    address: str

    def run(self, work: Work, items: Iterable[Any]) -> Generator[Any, None, None]:
        """The result of every item, in order; `work.ahead` items per processor are under way.

        Raises:
            InputError: there is no cluster at `address`, or it refuses.
            DndError: a machine has other versions, no machine is left, or a block was lost six times.
        """
        ray = require_ray()
        try:
            # Ray hands the current folder to its processes as a place to import from; nobody else writes to the root.
            with contextlib.chdir(os.sep):
                ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise InputError(
                f"can't join a Ray cluster at {self.address}", found=" ".join(str(error).split())[:200],
                next_step="Start one with `ray start --head` and give its address, or see why it refuses",
            ) from error  # fmt: skip
        try:
            yield from _results(ray, work, items)
        finally:
            ray.shutdown()


def _results(ray: Any, work: Work, items: Iterable[Any]) -> Iterator[Any]:
    run = {
        "name": uuid.uuid4().hex,
        "work": replace(work, folders={}),
        # In a list, so that a task whose process has the files already does not fetch them.
        "files": [ray.put({name: _files_of(folder) for name, folder in work.folders.items()})],
        "versions": _versions(work),
    }
    task = ray.remote(num_cpus=1, max_retries=_RETRIES)(work_on_node)
    run_at, waiting = ray.put(run), collections.deque[Any]()
    blocks_per_processor = max(1, work.ahead // work.block)
    for block in _blocks(items, work.block):
        waiting.append(task.remote(run_at, block))
        while len(waiting) >= blocks_per_processor * max(1, _processors(ray)):
            yield from _result(ray, waiting.popleft())
    while waiting:
        yield from _result(ray, waiting.popleft())


def _blocks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while block := list(itertools.islice(remaining, size)):
        yield block


def work_on_node(run: Mapping[str, Any], block: list[Any]) -> list[Any]:
    """The results of one block of items, in a process of Ray.

    Args:
        run: `name` of the run, its `work`, the `files` of its folders (a list of one reference) and `versions`.
        block: the items.

    Raises:
        DndError: this machine has other versions than the one that asks, or see `WorkerPool.map`.
    """
    work: Work = run["work"]
    if (found := _versions(work)) != run["versions"]:
        raise DndError(
            "a machine of the Ray cluster has other versions", found=found, expected=run["versions"],
            next_step="Install the same ones everywhere",
        )  # fmt: skip
    if run["name"] not in _open:
        close()
        files = require_ray().get(run["files"][0])
        if files:
            wrapped = {"function": work.function, "settings": work.settings, "files": files}
            work = replace(work, function=f"{__name__}:function_of_files", settings=wrapped)
        _open[run["name"]] = (work, work.pool())
    work, pool = _open[run["name"]]
    try:
        return list(work.results(pool, block))
    except DndError:
        close()
        raise


def function_of_files(
    function: str, settings: Mapping[str, Any], files: Mapping[str, Mapping[str, bytes]]
) -> Callable[[Any], Any]:
    """The function of one item, loaded with folders that hold these files; they are there while it loads."""
    with contextlib.ExitStack() as stack:
        folders = {}
        for name, contents in files.items():
            folders[name] = stack.enter_context(tempfile.TemporaryDirectory(prefix="dnd-"))
            for file, content in contents.items():
                safe_join(Path(folders[name]), file).write_bytes(content)
        return load_function(function, {**settings, **folders})


def close() -> None:
    """End the worker of this process of Ray."""
    for _, pool in _open.values():
        pool.close()
    _open.clear()


def _files_of(folder: Path) -> dict[str, bytes]:
    manifest = read_manifest(folder)
    sealed = {name: read_sealed(folder, manifest, name) for name in manifest["files"]}
    return {**sealed, MANIFEST: (folder / MANIFEST).read_bytes()}


def _versions(work: Work) -> dict[str, str]:
    return {"dnd": __version__, **{name: version_of(name) for name in work.packages}}


def _processors(ray: Any) -> int:
    return int(ray.cluster_resources().get("CPU", 0))


def _result(ray: Any, reference: Any) -> list[Any]:
    """Wait for a block, as long as there is a machine to work on it."""
    while not ray.wait([reference], timeout=_LOOK_S)[0]:
        if _processors(ray) == 0:
            raise DndError("no machine of the Ray cluster is left", next_step=f"Start some, {_AGAIN}")
    try:
        results: list[Any] = ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, DndError):
            raise error.cause from None
        raise DndError("work on Ray failed", found=f"{type(error.cause).__name__}: {error.cause}") from error
    except ray.exceptions.RayError as error:
        raise DndError(
            f"a piece of work was lost {_RETRIES + 1} times on Ray", found=" ".join(str(error).split())[:200],
            next_step=f"Check the machines' memory, {_AGAIN}",
        ) from error  # fmt: skip
    return results
