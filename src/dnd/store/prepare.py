"""Files to a store: read, parse, match or generate conformers, check, featurise, in worker processes, shard by shard.

Shard s holds the outcome of records s·S to (s+1)·S of the inputs, so it is a pure function of inputs and settings: a
killed run resumes at its first missing shard and ends with the same bytes.
"""

from __future__ import annotations

import collections
import itertools
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from dnd.chemistry.molecule import FEATURE_VERSION
from dnd.common.cluster import RayCluster, machines
from dnd.common.compute import numpy_generator
from dnd.common.errors import ConfigError, InputError, note_rows
from dnd.common.files import MANIFEST, folder_lock, read_json, write_manifest
from dnd.common.log import Progress
from dnd.common.runs import RUN_RECORD, WatchedInputs, already_finished, begin_or_go_on, require_free, require_same_run
from dnd.common.workers import Here
from dnd.conformers.formats import have_smiles_column, open_sources, refuse_unused_column
from dnd.conformers.generate import with_conformers
from dnd.conformers.quantum import QuantumLabel
from dnd.conformers.records import Record, RecordSource
from dnd.store.auxiliary import CALCULATE, describe_quantum, with_labels
from dnd.store.convert import Conversion, keys_of_records
from dnd.store.schema import SCHEMA_VERSION, Reject, StoreRow, format_version
from dnd.store.settings import SHARD_SIZE, PrepareConfig, describe_run, identity, resolve
from dnd.store.writer import REJECTS, StoreJournal, count_reasons, write_rejects
from dnd.tables.molecules import is_key_list, key_digest, read_key_list
from dnd.tables.streams import STANDARD_INPUT


@dataclass(frozen=True)
class PrepareSummary:
    """Summary of a finished `prepare`.

    Attributes:
        store: the folder.
        molecules: rows in the store.
        conformers: conformers of all rows.
        rejected: number of rejects by reason.
        quantum_failures: molecules in the store without quantum values, by reason.
        seconds: wall time of this call.
        store_bytes: size of the shards.
    """

    store: Path
    molecules: int
    conformers: int
    rejected: dict[str, int]
    seconds: float
    store_bytes: int
    quantum_failures: dict[str, int] = field(default_factory=dict)


def prepare(
    inputs: Sequence[str | Path],
    out: Path | str,
    config: PrepareConfig | None = None,
    *,
    resume: bool = False,
    ray: str | None = None,
) -> PrepareSummary:
    """Make a store of molecules.

    Args:
        inputs: files; see `conformers.formats.open_sources`.
        out: folder of the store.
        config: settings.
        resume: continue an interrupted run; its finished shards are kept.
        ray: address of a Ray cluster that runs the work instead of local processes; see `RayCluster`.

    Raises:
        InputError: an input can't be read, nothing in it is a molecule, a requested column is in no input, `out` holds
            something else, or a run to resume was begun from standard input.
        ConfigError: settings that contradict each other or the inputs.
        StorageError: the disk is full or read-only; finished shards stay.

    Example:
        >>> prepare(["qm9_3d.npz"], "store", PrepareConfig(hydrogens="all_both", jobs=2))  # doctest: +SKIP
    """
    started, folder, config = time.monotonic(), Path(out), config or PrepareConfig()
    where = machines(config.jobs, ray, usual_jobs=PrepareConfig.jobs)
    if not inputs:
        raise ConfigError("no input to prepare", expected="at least one file")
    refuse_unused_column([*inputs, *config.exclude], config.smiles_column)
    labels = [word for word in config.quantum if word != CALCULATE]
    watched = WatchedInputs([Path(path) for path in [*inputs, *config.exclude, *labels]], identity)
    sources = open_sources(inputs, smiles_column=config.smiles_column, target_columns=config.target_columns)
    _sources_to_exclude(inputs, config)  # one of an unknown kind is refused before the folder holds a run
    config = resolve(config, sources)
    settings = describe_run(watched.descriptions, config)
    require_free(folder, kind="store", resume=resume, beside=frozenset({REJECTS}))
    with folder_lock(folder):
        if not already_finished(folder, kind="store", format_version=SCHEMA_VERSION, resume=resume):
            is_new = not (folder / RUN_RECORD).is_file()
            begin_or_go_on(folder, settings, resume=resume)
            try:
                excluded = _keys_to_exclude(inputs, config, where)
            except InputError:  # the file has to change, so this run could never go on
                if is_new:
                    (folder / RUN_RECORD).unlink(missing_ok=True)
                raise
            journal = StoreJournal(folder, config.further_columns)
            if journal.entries and STANDARD_INPUT in map(str, inputs):
                raise InputError(
                    f"{folder} was begun from standard input, so --resume can't check that the input is the same",
                    expected="a file",
                    next_step="Save the input to a file, then start in another folder",
                )
            _make_shards(journal, inputs, sources, config, excluded, where)
            watched.require_unchanged()
            _seal(folder, journal, settings, config)
        else:
            require_same_run(folder, settings)
    return _summary(folder, time.monotonic() - started)


def _make_shards(
    journal: StoreJournal,
    inputs: Sequence[str | Path],
    sources: Sequence[RecordSource],
    config: PrepareConfig,
    excluded: frozenset[str],
    where: Here | RayCluster,
) -> None:
    shard_size = config.shard_size or SHARD_SIZE
    total, records = _chosen(inputs, sources, config, excluded, where)
    if journal.entries and journal.entries[-1].records < shard_size:
        return  # the last shard is there; only the seal was missing
    done = shard_size * len(journal.entries)
    rows: list[StoreRow] = []
    rejects: list[Reject] = []
    progress = Progress("prepare", unit="record", total=total, first=done)
    with closing(_converted(itertools.islice(records, done, None), config, excluded, where)) as outcomes:
        for outcome in outcomes:
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


def _chosen(
    inputs: Sequence[str | Path],
    sources: Sequence[RecordSource],
    config: PrepareConfig,
    excluded: frozenset[str],
    where: Here | RayCluster,
) -> tuple[int | None, Iterator[Record]]:
    """The records to use, and how many they are where that is known."""
    total = _total(sources)
    records: Iterator[Record] = itertools.chain.from_iterable(source.records for source in sources)
    if config.sample is not None:
        wanted = _drawn(inputs, config, excluded, total, where)
        records, total = itertools.compress(records, wanted), int(wanted.sum())
    if config.limit is not None:
        records = itertools.islice(records, config.limit)
        total = None if total is None else min(total, config.limit)
    return total, records


def _total(sources: Sequence[RecordSource]) -> int | None:
    lengths = [source.total for source in sources if source.total is not None]
    return sum(lengths) if len(lengths) == len(sources) else None


def _drawn(
    inputs: Sequence[str | Path],
    config: PrepareConfig,
    excluded: frozenset[str],
    total: int | None,
    where: Here | RayCluster,
) -> Bool[np.ndarray, "records"]:
    """Which records are the first `sample` of a random order that are of no excluded molecule.

    Records that a file of quantum labels knows come first in that order. Where molecules are excluded, keys are
    computed for as many records of that order as are needed, since each costs about a millisecond; records that are
    no molecule do not count then.
    """
    if STANDARD_INPUT in map(str, inputs):
        raise ConfigError("--sample reads its inputs twice", found="standard input", next_step="Use --limit")
    if total is None:
        total = sum(1 for _ in _records_again(inputs, config))
    assert config.sample is not None
    order = numpy_generator(config.seed, "sample").permutation(total)
    if any(word != CALCULATE for word in config.quantum):
        order = np.concatenate((order[(known := _labelled(inputs, config, total))[order]], order[~known[order]]))
    looked_at, free = min(total, config.sample + len(excluded)), order
    while excluded:
        free = order[:looked_at][_usable(inputs, config, excluded, order[:looked_at], total, where)]
        if len(free) >= config.sample or looked_at == total:
            break
        looked_at = min(total, 2 * looked_at)
    wanted = np.zeros(total, dtype=bool)
    wanted[free[: config.sample]] = True
    return wanted


def _labelled(inputs: Sequence[str | Path], config: PrepareConfig, total: int) -> Bool[np.ndarray, "records"]:
    """Which records the files of quantum labels know."""
    known = with_labels(_records_again(inputs, config), config.quantum)
    return np.fromiter((isinstance(record.quantum, QuantumLabel) for record in known), dtype=bool, count=total)


def _usable(
    inputs: Sequence[str | Path],
    config: PrepareConfig,
    excluded: frozenset[str],
    rows: np.ndarray,
    total: int,
    where: Here | RayCluster,
) -> Bool[np.ndarray, "rows"]:
    """Whether the records at `rows` are molecules, and none that is excluded."""
    candidate = np.zeros(total, dtype=bool)
    candidate[rows] = True
    found = np.zeros(total, dtype=bool)
    records = itertools.compress(_records_again(inputs, config), candidate)
    with closing(where.run(keys_of_records(config.timeout_s), records)) as keys:
        for row, key in zip(np.flatnonzero(candidate), keys, strict=True):
            found[row] = isinstance(key, str) and key_digest(key) not in excluded
    usable: np.ndarray = found[rows]
    return usable


def _records_again(inputs: Sequence[str | Path], config: PrepareConfig) -> Iterator[Record]:
    sources = open_sources(inputs, smiles_column=config.smiles_column, target_columns=config.target_columns)
    return itertools.chain.from_iterable(source.records for source in sources)


def _converted(
    records: Iterator[Record], config: PrepareConfig, excluded: frozenset[str], where: Here | RayCluster
) -> Generator[StoreRow | Reject, None, None]:
    """Rows and rejects in the order of the records, made in worker processes."""
    if config.conformer_backend == "nvmolkit":
        records = with_conformers(
            records,
            num_conformers=config.num_conformers,
            seed=config.seed,
            relax=config.conformers == "etkdg",
            chunk=config.shard_size or SHARD_SIZE,
        )
    if config.quantum:
        records = with_labels(records, config.quantum)
    sent, kept = itertools.tee(records)  # what is between the two waits for its outcome
    work = Conversion.of(config, connectivity=bool(excluded))
    with closing(where.run(work, sent)) as outcomes:
        for (outcome, connectivity), record in zip(outcomes, kept, strict=False):
            if isinstance(outcome, Reject) and outcome.stage == "worker":
                note_rows([outcome.reason])
            if connectivity and key_digest(connectivity) in excluded:
                smiles = "".join(record.smiles[:1])
                yield Reject(record.row, record.source, smiles, "exclude", "molecule is in an --exclude file")
            else:
                yield outcome


def _sources_to_exclude(inputs: Sequence[str | Path], config: PrepareConfig) -> list[RecordSource]:
    """The files of molecules to leave out, but for lists of keys.

    A column of SMILES that is asked for is that of the inputs, and of these files only where they have it.
    """
    tables = [path for path in map(Path, config.exclude) if not is_key_list(path)]
    column = config.smiles_column
    asked, remembered = (None, column) if have_smiles_column(inputs) else (column, None)
    return open_sources(tables, smiles_column=asked, remembered=remembered)


def _keys_to_exclude(inputs: Sequence[str | Path], config: PrepareConfig, where: Here | RayCluster) -> frozenset[str]:
    """Digests of the molecules to leave out: of lists as they are, of files of molecules computed."""
    digests = set[str]().union(*map(read_key_list, filter(is_key_list, map(Path, config.exclude))))
    sources = _sources_to_exclude(inputs, config)
    if not sources:
        return frozenset(digests)
    records = itertools.chain.from_iterable(source.records for source in sources)
    problems, rows = list[str](), itertools.count()
    with closing(where.run(keys_of_records(config.timeout_s), records)) as keys:
        for row, key in zip(rows, keys, strict=False):
            if isinstance(key, str):
                digests.add(key_digest(key))
            elif isinstance(key, Reject):
                problems.append(f"row {key.row} of {key.source}: {key.reason}")
            else:
                problems.append(f"record {row}: {key.reason}")
    if problems:
        raise InputError(
            "molecules to exclude can't be read, so they would stay in the store",
            found=f"{len(problems)} of them, the first in {problems[0]}",
            expected="a molecule in every row",
            next_step="Correct or remove these rows",
        )  # fmt: skip
    return frozenset(digests)


def key_digests(records: Iterable[Record], *, jobs: int = 1, timeout_s: float = 30.0) -> Iterator[str]:
    """`key_digest` of every record, in order, made in worker processes; empty where a molecule has no key."""
    with closing(Here(jobs).run(keys_of_records(timeout_s), records)) as keys:
        for key in keys:
            yield key_digest(key) if isinstance(key, str) and key else ""


def _shown(rejects: Sequence[Reject], kind: str, count: int) -> str:
    """A kind of rejects by its first one, as it stands in the file: `2 x read: number of atoms is '-3' …`."""
    first = next(reject for reject in rejects if kind in count_reasons([reject]))
    return f"{count} x {first.stage}: {first.reason[:200]}"


def _seal(folder: Path, journal: StoreJournal, settings: dict[str, Any], config: PrepareConfig) -> None:
    rejects = [reject for entry in journal.entries for reject in entry.rejects]
    reasons = dict(count_reasons(rejects).most_common())
    write_rejects(folder / REJECTS, rejects)
    molecules = sum(entry.molecules for entry in journal.entries)
    if molecules == 0:
        for path in [*folder.glob("shard-*.arrow"), folder / RUN_RECORD]:
            path.unlink(missing_ok=True)
        journal.remove()
        common = "; ".join(_shown(rejects, kind, count) for kind, count in list(reasons.items())[:3]) or "no record"
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
    if config.quantum:
        failures = sum(
            (collections.Counter(entry.quantum_failures) for entry in journal.entries), collections.Counter()
        )
        counts["quantum_failures"] = dict(failures.most_common())
        extra["quantum"] = describe_quantum()
    if "descriptors" in config.auxiliary:
        from dnd.store.auxiliary import DESCRIPTOR_NAMES  # imports RDKit

        extra["descriptor_names"] = list(DESCRIPTOR_NAMES)
    version = format_version(config.further_columns)
    write_manifest(folder, kind="store", format_version=version, extra=extra)
    journal.remove()


def _summary(folder: Path, seconds: float) -> PrepareSummary:
    manifest = read_json(folder / MANIFEST)
    counts = manifest["counts"]
    size = sum(entry["bytes"] for name, entry in manifest["files"].items() if name.startswith("shard-"))
    return PrepareSummary(
        folder,
        counts["molecules"],
        counts["conformers"],
        counts["rejected"],
        seconds,
        size,
        counts.get("quantum_failures", {}),
    )
