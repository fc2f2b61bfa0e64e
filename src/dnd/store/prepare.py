"""Files to a store: read, parse, match or generate conformers, check, featurise, in worker processes, shard by shard.

Shard s holds the outcome of records s·S to (s+1)·S of the inputs, so it is a pure function of inputs and settings: a
killed run resumes at its first missing shard and ends with the same bytes.
"""

from __future__ import annotations

import collections
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, folder_lock, read_json, write_manifest
from dnd.common.randomness import numpy_generator
from dnd.common.runs import RUN_RECORD, already_finished, begin_or_go_on, require_free, require_same_run
from dnd.common.workers import Failure, WorkerPool
from dnd.conformers import nvmolkit_backend
from dnd.conformers.formats import open_sources, refuse_unused_column
from dnd.conformers.records import Record, RecordSource
from dnd.graphs.molecular_graph import FEATURE_VERSION
from dnd.store.schema import PLAIN_SCHEMA_VERSION, SCHEMA_VERSION, StoreRow
from dnd.store.settings import SHARD_SIZE, PrepareConfig, describe_run, resolve
from dnd.store.writer import REJECTS, Journal, Reject, count_reasons, write_rejects

# How far a long run is: a bar on a terminal, a plain line every ten seconds elsewhere.


_LINE_EVERY_S = 10.0


class Progress:
    """Counts records on standard error.

    Args:
        title: names the work.
        total: number of records where it's known.
        first: records done before.
        quiet: show nothing.
    """

    def __init__(self, title: str, *, total: int | None, first: int = 0, quiet: bool = False) -> None:
        self._title, self._total, self._quiet = title, total, quiet
        self._first = self._count = first
        terminal = not quiet and sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=first, desc=title, unit="record") if terminal else None
        self._started = self._said = time.monotonic()

    def advance(self) -> None:
        """One more record is done."""
        self._count += 1
        if self._bar is not None:
            self._bar.update()
        elif not self._quiet and time.monotonic() - self._said > _LINE_EVERY_S:
            self._say()

    def close(self) -> None:
        """End the bar, or say where the count stands."""
        if self._bar is not None:
            self._bar.close()
        elif not self._quiet:
            self._say()

    def _say(self) -> None:
        self._said = time.monotonic()
        rate = (self._count - self._first) / max(self._said - self._started, 1e-3)
        of_all = f" of {self._total:,}" if self._total else ""
        print(f"{self._title}  {self._count:,}{of_all} records  {rate:,.0f} per second", file=sys.stderr, flush=True)


# Files to a store: read, parse, match or generate conformers, check, featurise, in worker processes, shard by shard.
#
# Shard s holds what came of records s·S to (s+1)·S of the inputs, so it's a pure function of inputs and settings: a run
# that was killed goes on at its first missing shard and ends with the same bytes.


@dataclass(frozen=True)
class PrepareSummary:
    """What a finished `prepare` did.

    Attributes:
        store: the folder.
        molecules: rows in the store.
        conformers: conformers of all rows.
        rejected: number of rejects by reason.
        seconds: wall time of this call.
        store_bytes: size of the shards.
    """

    store: Path
    molecules: int
    conformers: int
    rejected: dict[str, int]
    seconds: float
    store_bytes: int


def prepare(
    inputs: Sequence[str | Path],
    out: Path | str,
    config: PrepareConfig | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> PrepareSummary:
    """Make a store of molecules.

    Args:
        inputs: files; see `conformers.datasets.open_sources`.
        out: folder of the store.
        config: settings.
        resume: go on with a run that stopped; its finished shards are not made again.
        quiet: show no progress.

    Raises:
        InputError: an input can't be read, nothing in it is a molecule, a column is asked for that no input can have,
            or `out` holds something else.
        ConfigError: settings that are at odds with each other or with the inputs.
        StorageError: the disk is full or read-only; finished shards stay.

    Example:
        >>> prepare(["qm9_3d.npz"], "store", PrepareConfig(hydrogens="all_both", jobs=2))  # doctest: +SKIP
    """
    started, folder, config = time.monotonic(), Path(out), config or PrepareConfig()
    if not inputs:
        raise ConfigError("no input to prepare", expected="at least one file")
    refuse_unused_column([*inputs, *config.exclude], config.smiles_column)
    sources = open_sources(inputs, smiles_column=config.smiles_column, target_columns=config.target_columns)
    config = resolve(config, sources)
    settings = describe_run(inputs, config)
    require_free(folder, kind="store", resume=resume, beside=frozenset({REJECTS}))
    with folder_lock(folder):
        if not already_finished(folder, kind="store", format_version=SCHEMA_VERSION, resume=resume):
            begin_or_go_on(folder, settings, resume=resume)
            journal = Journal(folder, config.auxiliary)
            _make_shards(journal, sources, config, quiet)
            _seal(folder, journal, settings, config)
        else:
            require_same_run(folder, settings)
    return _summary(folder, time.monotonic() - started)


def _make_shards(journal: Journal, sources: Sequence[RecordSource], config: PrepareConfig, quiet: bool) -> None:
    shard_size = config.shard_size or SHARD_SIZE
    total, records = _chosen(sources, config)
    if journal.entries and journal.entries[-1].records < shard_size:
        return  # the last shard is there; only the seal was missing
    done = shard_size * len(journal.entries)
    excluded = _keys_to_exclude(config)
    rows: list[StoreRow] = []
    rejects: list[Reject] = []
    progress = Progress("prepare", total=total, first=done, quiet=quiet)
    for outcome in _converted(itertools.islice(records, done, None), config, excluded):
        if isinstance(outcome, Reject):
            rejects.append(outcome)
        else:
            rows.append(outcome)
        progress.advance()
        if len(rows) + len(rejects) == shard_size:
            journal.seal(rows, rejects)
            rows, rejects = [], []
    if rows or rejects:
        journal.seal(rows, rejects)
    progress.close()


def _chosen(sources: Sequence[RecordSource], config: PrepareConfig) -> tuple[int | None, Iterator[Record]]:
    """The records to use, and how many they are where that is known."""
    lengths = [source.total for source in sources if source.total is not None]
    total = sum(lengths) if len(lengths) == len(sources) else None
    records: Iterator[Record] = itertools.chain.from_iterable(source.records for source in sources)
    if config.sample is not None:
        if total is None:
            raise ConfigError("--sample needs inputs that know their length", expected=".npz", next_step="Use --limit")
        drawn = numpy_generator(config.seed, "sample").permutation(total)[: config.sample]
        wanted = np.zeros(total, dtype=bool)
        wanted[drawn] = True
        records, total = itertools.compress(records, wanted), len(drawn)
    if config.limit is not None:
        records = itertools.islice(records, config.limit)
        total = None if total is None else min(total, config.limit)
    return total, records


def _converted(
    records: Iterator[Record], config: PrepareConfig, excluded: frozenset[str]
) -> Iterator[StoreRow | Reject]:
    """Rows and rejects in the order of the records, made in worker processes."""
    settings = {
        "hydrogens": config.hydrogens,
        "conformers": config.conformers,
        "num_conformers": config.num_conformers,
        "seed": config.seed,
        "connectivity": bool(excluded),
        "auxiliary": config.auxiliary,
    }
    if config.conformer_backend == "nvmolkit":
        records = nvmolkit_backend.with_conformers(
            records,
            num_conformers=config.num_conformers,
            seed=config.seed,
            relax=config.conformers == "etkdg",
            chunk=config.shard_size or SHARD_SIZE,
        )
    waiting: collections.deque[Record] = collections.deque()

    def remembered() -> Iterator[Record]:
        for record in records:
            waiting.append(record)
            yield record

    with WorkerPool(
        "dnd.store.convert:make_converter", jobs=config.jobs, settings=settings, timeout_s=config.timeout_s
    ) as pool:
        for result in pool.map(remembered()):
            record = waiting.popleft()
            smiles = "".join(record.smiles[:1])
            if isinstance(result, Failure):
                yield Reject(record.row, record.source, smiles, "worker", result.reason)
                continue
            outcome, connectivity = result
            if connectivity and connectivity in excluded:
                yield Reject(record.row, record.source, smiles, "exclude", "molecule is in an --exclude file")
            else:
                yield outcome


def _keys_to_exclude(config: PrepareConfig) -> frozenset[str]:
    if not config.exclude:
        return frozenset()
    sources = open_sources(config.exclude, smiles_column=config.smiles_column)
    records = itertools.chain.from_iterable(source.records for source in sources)
    with WorkerPool("dnd.store.convert:key_of_record", jobs=config.jobs, timeout_s=config.timeout_s) as pool:
        return frozenset(key for key in pool.map(records) if isinstance(key, str) and key)


def _seal(folder: Path, journal: Journal, settings: dict[str, Any], config: PrepareConfig) -> None:
    rejects = [reject for entry in journal.entries for reject in entry.rejects]
    reasons = dict(count_reasons(rejects).most_common())
    write_rejects(folder / REJECTS, rejects)
    molecules = sum(entry.molecules for entry in journal.entries)
    if molecules == 0:
        for path in [*folder.glob("shard-*.arrow"), folder / RUN_RECORD]:
            path.unlink(missing_ok=True)
        journal.remove()
        common = "; ".join(f"{count} x {reason}" for reason, count in list(reasons.items())[:3]) or "no record"
        raise InputError("no valid molecule in the input", found=common, next_step=f"See {folder / REJECTS}")
    counts = {
        "molecules": molecules,
        "conformers": sum(entry.conformers for entry in journal.entries),
        "atoms": sum(entry.atoms for entry in journal.entries),
        "records": sum(entry.records for entry in journal.entries),
        "rejected": reasons,
    }
    extra: dict[str, Any] = {
        "settings": settings,
        "target_columns": list(config.target_columns),
        "counts": counts,
        "feature_version": FEATURE_VERSION,
    }
    if "descriptors" in config.auxiliary:
        from dnd.store.auxiliary import DESCRIPTOR_NAMES  # imports RDKit

        extra["descriptor_names"] = list(DESCRIPTOR_NAMES)
    version = SCHEMA_VERSION if config.auxiliary else PLAIN_SCHEMA_VERSION
    write_manifest(folder, kind="store", format_version=version, extra=extra)
    journal.remove()


def _summary(folder: Path, seconds: float) -> PrepareSummary:
    manifest = read_json(folder / MANIFEST)
    counts = manifest["counts"]
    size = sum(entry["bytes"] for name, entry in manifest["files"].items() if name.startswith("shard-"))
    return PrepareSummary(folder, counts["molecules"], counts["conformers"], counts["rejected"], seconds, size)
