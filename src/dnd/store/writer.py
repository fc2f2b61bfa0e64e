"""Sealed shards, the records that are not in them, and the journal from which a killed run resumes."""

from __future__ import annotations

import collections
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int

from dnd.chemistry.geometry import impossible_bonds
from dnd.chemistry.molecule import ATOM_FEATURE_NAMES, ATOM_FEATURE_SIZES, CLOSEST_APPROACH
from dnd.common.errors import StorageError
from dnd.common.files import replacing, sha256_file, write_text
from dnd.common.runs import Journal, SealedFile
from dnd.store.schema import Reject, StoreRow, record_batch, schema_with
from dnd.tables.writers import csv_text

# Records that are not in the store: `rejects.csv`, and their reasons counted.


REJECTS = "rejects.csv"
COLUMNS = ("row", "source", "smiles", "stage", "reason")

_NUMBER = re.compile(r"\b\d+(\.\d+)?\b")  # the 3 of "3D" is no number


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write one line per reject, as `csv_text` does."""
    write_text(path, csv_text(COLUMNS, [[getattr(reject, name) for name in COLUMNS] for reject in rejects]))


def count_reasons(rejects: Iterable[Reject]) -> collections.Counter[str]:
    """How often each kind of reason came, as `stage: reason` with its numbers and its details left out."""
    return collections.Counter(f"{reject.stage}: {_kind_of_reason(reject.reason)}" for reject in rejects)


def without_numbers(reason: str) -> str:
    """The reason with `#` for each number, so that equal kinds count together."""
    return _NUMBER.sub("#", reason)


def _kind_of_reason(reason: str) -> str:
    return without_numbers(re.split(r": | for input", reason, maxsplit=1)[0])


# Sealed shards: packed rows in one Arrow record batch, written beside their place and renamed.


_SHARD = "shard-{:05d}.arrow"
_UNKNOWN_ELEMENT = ATOM_FEATURE_SIZES[0] - 1
_NUM_HYDROGENS = ATOM_FEATURE_NAMES.index("num_hydrogens")


def shard_name(number: int) -> str:
    """File name of a shard; sorted by name is sorted by number."""
    return _SHARD.format(number)


def write_shard(path: Path, rows: Sequence[StoreRow], auxiliary: Iterable[str] = ()) -> None:
    """Write `rows`, with these auxiliary columns, as one shard; equal rows give equal bytes.

    Raises:
        StorageError: the disk is full, read-only or failing; no partial shard is left.
    """
    auxiliary = tuple(auxiliary)
    try:
        with (
            replacing(path) as temporary,
            pa.OSFile(str(temporary), "wb") as stream,
            pa.ipc.new_file(stream, schema_with(auxiliary)) as writer,
        ):
            writer.write_batch(record_batch(rows, auxiliary))
    except pa.ArrowException as error:
        # A full disk is an OSError, which `replacing` names; these are values that Arrow can't hold.
        raise StorageError(f"cannot write {path}", found=str(error), next_step="Report it with the input") from error


def row_problem(row: StoreRow, hydrogens: str) -> str | None:
    """Why `row` does not hold together, None when it does.

    Checked: conformer atom i is graph atom i, the others are the graph's implicit hydrogens, no more and no fewer,
    all coordinates are finite, bonds are 0.6 to 1.3 times the sum of their covalent radii and no two atoms within
    0.3 angstrom.

    Args:
        row: the molecule.
        hydrogens: the store's setting.
    """
    conformers, graph = row.conformers, row.graph
    if graph.num_atoms == 0:
        return "no atom"
    if conformers is None:
        return None
    element_problem = _element_problem(row, hydrogens)
    if element_problem:
        return element_problem
    if not np.isfinite(conformers.positions_JA3).all():
        return "a coordinate is not finite"
    bonds_U2 = _with_hidden_bonds(row) if hydrogens != "heavy_both" else graph.bonds_U2
    for number, positions_A3 in enumerate(conformers.positions_JA3):
        problem = geometry_problem(positions_A3, conformers.atomic_numbers_A, bonds_U2)
        if problem:
            return problem if len(conformers.positions_JA3) == 1 else f"conformer {number}: {problem}"
    return None


def _element_problem(row: StoreRow, hydrogens: str) -> str | None:
    assert row.conformers is not None
    numbers_A, positions_JA3 = row.conformers.atomic_numbers_A, row.conformers.positions_JA3
    elements_N, num_atoms = row.graph.node_features_NF[:, 0], row.graph.num_atoms
    if positions_JA3.ndim != 3 or positions_JA3.shape[1:] != (len(numbers_A), 3) or not len(positions_JA3):
        return f"{len(numbers_A)} atoms but positions of shape {positions_JA3.shape}"
    extra = len(numbers_A) - num_atoms
    hidden = int(row.graph.node_features_NF[:, _NUM_HYDROGENS].sum()) if hydrogens != "heavy_both" else 0
    if extra != hidden:
        return f"conformer has {extra} atoms beyond the graph's {num_atoms}, expected {hidden} hydrogens"
    if (numbers_A[num_atoms:] != 1).any():
        return "an extra atom of the conformer is not a hydrogen"
    differs = (elements_N + 1 != numbers_A[:num_atoms]) & (elements_N != _UNKNOWN_ELEMENT)
    if differs.any():
        atom = int(differs.argmax())
        element = int(elements_N[atom]) + 1
        return f"atom {atom} is element {element} in the graph, {int(numbers_A[atom])} in the conformer"
    return None


def _with_hidden_bonds(row: StoreRow) -> Int[np.ndarray, "bonds 2"]:
    """The bonds of the graph, then those of the hydrogens that it leaves out, which stand behind its atoms."""
    parents_X = np.repeat(
        np.arange(row.graph.num_atoms), row.graph.node_features_NF[:, _NUM_HYDROGENS].astype(np.int64)
    )
    hidden_X2 = np.stack([parents_X, row.graph.num_atoms + np.arange(len(parents_X))], axis=1)
    return np.concatenate([row.graph.bonds_U2.astype(np.int64), hidden_X2])


def geometry_problem(
    positions_A3: Float[np.ndarray, "atoms 3"],
    numbers_A: Int[np.ndarray, "atoms"],
    bonds_U2: Int[np.ndarray, "bonds 2"],
) -> str | None:
    """Why one geometry can't be right for these elements and bonds, None when it can; angstrom."""
    begin, end = bonds_U2.T.astype(np.int64)
    lengths = np.linalg.norm(positions_A3[begin] - positions_A3[end], axis=1)
    wrong = impossible_bonds(lengths, numbers_A.astype(np.int64)[np.stack([begin, end], axis=1)])
    if wrong.any():
        bond = int(wrong.argmax())
        return f"bonded atoms {begin[bond]} and {end[bond]} are {lengths[bond]:.2f} angstrom apart"
    num_atoms = len(positions_A3)
    squared = ((positions_A3[:, None] - positions_A3[None]) ** 2).sum(-1)
    squared[np.arange(num_atoms), np.arange(num_atoms)] = np.inf
    if num_atoms > 1 and squared.min() < CLOSEST_APPROACH**2:
        first, second = divmod(int(squared.argmin()), num_atoms)
        return f"atoms {first} and {second} are {np.sqrt(squared.min()):.2f} angstrom apart"
    return None


# What an unfinished store already has: one sealed entry per shard, so that a killed run continues where it stopped.


@dataclass(frozen=True, kw_only=True)
class ShardEntry(SealedFile):
    """A sealed shard.

    Attributes:
        records: records it was made of, rejected ones included.
        molecules: rows it has.
        conformers: conformers of all rows.
        atoms: graph atoms of all rows.
        rejects: the records that gave no row.
        quantum_failures: rows whose quantum columns are NaN, by reason.
    """

    records: int
    molecules: int
    conformers: int
    atoms: int
    rejects: list[Reject]
    quantum_failures: dict[str, int] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """As of the base class, with its rejects."""
        return cls(**{**record, "rejects": [Reject(**reject) for reject in record["rejects"]]})


class StoreJournal(Journal[ShardEntry]):
    """The journal of a store's shards.

    Args:
        store: its folder.
        further: names of its further columns.
    """

    def __init__(self, store: Path, further: Sequence[str] = ()) -> None:
        super().__init__(store, ShardEntry, file=_SHARD)
        self._further = further

    def seal(self, rows: Sequence[StoreRow], rejects: list[Reject]) -> None:
        """Write the next shard and its entry."""
        path = self.next_file
        write_shard(path, rows, self._further)
        entry = ShardEntry(
            records=len(rows) + len(rejects),
            molecules=len(rows),
            conformers=sum(len(row.conformers.positions_JA3) for row in rows if row.conformers is not None),
            atoms=sum(row.graph.num_atoms for row in rows),
            sha256=sha256_file(path),
            rejects=rejects,
            quantum_failures=dict(
                Counter(without_numbers(row.quantum_failure) for row in rows if row.quantum_failure is not None)
            ),
        )
        self.append(entry)
