"""The Arrow schema of a store: one row per molecule, every column with its shape, type and unit.

List columns are flat values and offsets, so a memory-mapped shard is a handful of NumPy arrays, and pandas, polars or
DuckDB read it as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from dnd.chemistry.molecule import NUM_ATOM_FEATURES, NUM_BOND_FEATURES, Conformers, MolecularGraph
from dnd.common.errors import CorruptFileError
from dnd.common.ragged import offsets_of

SCHEMA_VERSION = 4
"""The newest format version of a store's manifest that can be read."""

PLAIN_SCHEMA_VERSION = 1
"""The format version of a store without further columns, which earlier versions of the package read too."""

HydrogenSetting = Literal["heavy_both", "all_both", "teacher_all_student_heavy"]
"""Which atoms are explicit: none of the hydrogens, all of them, or all in the conformer and none in the graph."""


def hydrogens_of(config: Mapping[str, Any], folder: Path) -> HydrogenSetting:
    """The hydrogens that the model or encoder of a folder was trained with.

    Raises:
        CorruptFileError: its configuration names none of the settings; any other would be taken for `heavy_both`.
    """
    found: Any = config.get("hydrogens")
    known = get_args(HydrogenSetting)
    if found not in known:
        raise CorruptFileError(
            f"{folder}/config.json names no setting of hydrogens", found=repr(found)[:100], expected=", ".join(known)
        )
    setting: HydrogenSetting = found
    return setting


ConformerSource = Literal["none", "file", "etkdg", "etkdg_raw"]
"""Where the conformers of a store come from; `etkdg` relaxes what it embeds, `etkdg_raw` does not."""

ConformerBackend = Literal["rdkit", "nvmolkit"]
"""What generates conformers: RDKit on the CPU, or nvMolKit on an NVIDIA GPU and RDKit for what fails there."""

SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # number of the record in its source, from 0
        pa.field("source", pa.string(), nullable=False),  # file name of the source
        pa.field("smiles", pa.string(), nullable=False),  # canonical SMILES
        pa.field("node_features", pa.list_(pa.uint8()), nullable=False),  # (n, 9) flat, OGB's atom features
        pa.field("bonds", pa.list_(pa.uint16()), nullable=False),  # (u, 2) flat, atom indices, each bond once
        pa.field("bond_features", pa.list_(pa.uint8()), nullable=False),  # (u, 3) flat, OGB's bond features
        pa.field("atomic_numbers", pa.list_(pa.uint8()), nullable=False),  # (A,); atom i < n is graph atom i
        pa.field("positions", pa.list_(pa.float32()), nullable=False),  # (J, A, 3) flat, angstrom
        pa.field("num_conformers", pa.uint8(), nullable=False),  # J
        pa.field("conformer_method", pa.string(), nullable=False),  # as in StoreRow
        pa.field("targets", pa.list_(pa.float32()), nullable=False),  # (C,), NaN = missing
    ]
)


FINGERPRINT_PLACES = 1024
"""Places that Morgan environments, and Avalon's features, are folded to."""

# Columns that a store may have after those of SCHEMA, in this order: what a student can learn beside its teacher.
AUXILIARY_FIELDS: dict[str, pa.Field] = {
    # (F,), RDKit's 2D descriptors; the manifest has their names
    "descriptors": pa.field("descriptors", pa.list_(pa.float16()), nullable=False),
    # folded place of every Morgan environment of radius up to 2, as often as it occurs
    "fingerprints": pa.field("fingerprints", pa.list_(pa.uint16()), nullable=False),
    # folded place of every feature of Avalon's fingerprint, as often as it occurs; none = unknown
    "avalon": pa.field("avalon", pa.list_(pa.uint16()), nullable=False),
    # (n,), Gasteiger charges of the graph's atoms, elementary charges; NaN = no parameters
    "charges": pa.field("charges", pa.list_(pa.float16()), nullable=False),
    # (n,), solvent-accessible area of the graph's atoms with the hydrogens it leaves out, square angstrom; NaN unknown
    "surface": pa.field("surface", pa.list_(pa.float16()), nullable=False),
}

# Columns that come after those, all three or none: one GFN2-xTB calculation of the first conformer. Names and units of
# their values stand in the manifest; NaN where there is no calculation.
QUANTUM_FIELDS: dict[str, pa.Field] = {
    # (9,), values of the molecule in the order of `conformers.quantum.QUANTITIES`
    "quantum": pa.field("quantum", pa.list_(pa.float32()), nullable=False),
    # (n, 2) flat, charge and share of the energy of the graph's atoms with the hydrogens it leaves out
    "quantum_atoms": pa.field("quantum_atoms", pa.list_(pa.float32()), nullable=False),
    # (m,), Wiberg orders of the graph's bonds
    "quantum_bonds": pa.field("quantum_bonds", pa.list_(pa.float16()), nullable=False),
}

NUM_QUANTUM, NUM_QUANTUM_ATOM = 9, 2
"""Values of a molecule and of an atom in the quantum columns; `conformers.quantum`, which a reader of stores does not
load, has their names."""

FURTHER_FIELDS = AUXILIARY_FIELDS | QUANTUM_FIELDS
"""Every column that a store may have beyond SCHEMA, in order."""


def schema_with(further: Iterable[str]) -> pa.Schema:
    """The schema of a store with these further columns."""
    wanted = set(further)
    return pa.schema([*SCHEMA, *(field for name, field in FURTHER_FIELDS.items() if name in wanted)])


def format_version(further: Iterable[str]) -> int:
    """The format version of a store with these further columns: the oldest that knows them."""
    wanted = set(further)
    if "avalon" in wanted:
        return SCHEMA_VERSION
    return 3 if wanted & QUANTUM_FIELDS.keys() else 2 if wanted else PLAIN_SCHEMA_VERSION


@dataclass(frozen=True)
class Reject:
    """A row or record of an input that is left out.

    Attributes:
        row: its number in its source, from 0.
        source: file name of the source; empty where there is one only.
        smiles: its text or canonical SMILES, as far as it came.
        stage: `read`, `parse`, `labels`, `match`, `conformer`, `check`, `exclude`, `worker`, or where parsing failed.
        reason: what is wrong.
        place: the row as messages say it; see `tables`.
    """

    row: int
    source: str
    smiles: str
    stage: str
    reason: str
    place: int = 0


@dataclass(frozen=True)
class StoreRow:
    """One molecule before it is packed.

    Attributes:
        row: number of the record in its source, from 0.
        source: file name of the source.
        smiles: canonical SMILES.
        graph: the 2D graph; its atoms are all atoms or the heavy ones, as the store's hydrogen setting says.
        conformers: J geometries whose first `graph.num_atoms` atoms are the graph's, or None.
        conformer_method: `dft`, `etkdg+mmff94s`, `etkdg+uff`, `etkdg`, `nvmolkit+mmff94s`, `nvmolkit`, `file`, `none`.
        targets: C values, NaN = missing.
        auxiliary: values of further columns by name; all rows of a store have the same ones.
        quantum_failure: why the quantum columns are NaN; None if they are not, or are missing. Not packed.
    """

    row: int
    source: str
    smiles: str
    graph: MolecularGraph
    conformers: Conformers | None = None
    conformer_method: str = "none"
    targets: Float[np.ndarray, "targets"] = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    auxiliary: Mapping[str, np.ndarray] = field(default_factory=dict)
    quantum_failure: str | None = None


def record_batch(rows: Sequence[StoreRow], auxiliary: Iterable[str] = ()) -> pa.RecordBatch:
    """Pack rows, all with the same number of targets and these further columns, into one Arrow record batch."""
    schema = schema_with(auxiliary)
    conformers = [row.conformers for row in rows]
    columns = [
        _numbers(np.array([row.row for row in rows], dtype=np.int64)),
        _texts([row.source for row in rows]),
        _texts([row.smiles for row in rows]),
        _lists([row.graph.node_features_NF for row in rows], np.uint8, pa.uint8()),
        _lists([row.graph.bonds_U2 for row in rows], np.uint16, pa.uint16()),
        _lists([row.graph.bond_features_UF for row in rows], np.uint8, pa.uint8()),
        _lists([_NO_ATOMS if c is None else c.atomic_numbers_A for c in conformers], np.uint8, pa.uint8()),
        _lists([_NO_ATOMS if c is None else c.positions_JA3 for c in conformers], np.float32, pa.float32()),
        _numbers(np.array([0 if c is None else len(c.positions_JA3) for c in conformers], dtype=np.uint8)),
        _texts([row.conformer_method for row in rows]),
        _lists([row.targets for row in rows], np.float32, pa.float32()),
    ]
    for entry in list(schema)[len(columns) :]:
        kind = entry.type.value_type
        columns.append(_lists([row.auxiliary[entry.name] for row in rows], kind.to_pandas_dtype(), kind))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


_NO_ATOMS = np.empty(0, dtype=np.uint8)
# How many flat values of a list column make one item: an atom, a bond, a point in space.
ITEM_WIDTH = {
    "node_features": NUM_ATOM_FEATURES,
    "bonds": 2,
    "bond_features": NUM_BOND_FEATURES,
    "atomic_numbers": 1,
    "positions": 3,
}


# Arrays are made of buffers, and read by DLPack (`RaggedColumn`): `pa.array`, `pa.scalar` and `to_numpy` import pandas,
# a sixth of the start of a prediction.


def _numbers(values: np.ndarray) -> pa.Array:
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, pa.py_buffer(values)])


def _texts(values: Sequence[str]) -> pa.Array:
    encoded = [value.encode() for value in values]
    offsets = offsets_of(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded))).astype(np.int32)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


def _lists(arrays: Sequence[np.ndarray], dtype: type[np.generic], kind: pa.DataType) -> pa.ListArray:
    flat = [np.asarray(array).reshape(-1) for array in arrays]
    values = np.concatenate(flat).astype(dtype) if flat else np.empty(0, dtype=dtype)
    offsets = offsets_of(np.array([len(array) for array in flat], dtype=np.int64)).astype(np.int32)
    return pa.ListArray.from_arrays(_numbers(offsets), _numbers(values), type=pa.list_(kind))
