"""Memory-mapped shards as flat NumPy arrays and offsets, and several stores read as one.

Batches are gathered without a loop over molecules. RDKit is never imported here: a training machine needs none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int

from dnd.chemistry.molecule import (
    ATOM_FEATURE_SIZES,
    BOND_FEATURE_SIZES,
    FEATURE_VERSION,
    NUM_ATOM_FEATURES,
    NUM_BOND_FEATURES,
    MolecularGraph,
)
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import verify_folder
from dnd.common.ragged import Missing, RaggedColumn, RaggedCounts, Selection, offsets_of, pick, ragged_range
from dnd.graphs.batch import ConformerBatch, GraphBatch, MoleculeBatch
from dnd.store.schema import (
    FINGERPRINT_PLACES,
    FURTHER_FIELDS,
    ITEM_WIDTH,
    NUM_QUANTUM,
    NUM_QUANTUM_ATOM,
    QUANTUM_FIELDS,
    SCHEMA_VERSION,
    StoreRow,
    record_batch,
    schema_with,
)

if TYPE_CHECKING:
    from dnd.common.runs import MappedFile


class Store:
    """Molecules that are read by row number; a `MoleculeSource` of the training loop.

    Args:
        target_places: for each shard, the indices of its targets among those of the store; None = all, in order.
        files: files that the shards are mapped from; none in memory.

    Attributes:
        path: the folder, None for a store in memory.
        manifest: content of `manifest.json`; in memory only `hydrogens` and `target_columns`.
        auxiliary: names of the further columns that one of the shards has. In the others they are NaN, as for a
            molecule whose calculation failed; lists of places are empty there.

    Example:
        >>> store = Store.open("qm9-store")  # doctest: +SKIP
        >>> batch = store.read(np.array([0, 7, 3]))  # doctest: +SKIP
    """

    def __init__(
        self,
        batches: Sequence[pa.RecordBatch],
        manifest: dict[str, Any],
        path: Path | None = None,
        *,
        target_places: Sequence[np.ndarray] | None = None,
        files: Sequence[MappedFile] = (),
    ) -> None:
        self.path, self.manifest = path, manifest
        self._batches, self.files = list(batches), list(files)
        self._first_rows = offsets_of(np.array([batch.num_rows for batch in self._batches], dtype=np.int64))
        have = frozenset[str]().union(*(batch.schema.names for batch in self._batches))
        self.auxiliary = tuple(name for name in FURTHER_FIELDS if name in have)
        self._columns = {
            name: RaggedColumn(_columns_of(self._batches, name), width)
            for name, width in {**ITEM_WIDTH, **dict.fromkeys(self.auxiliary, 1)}.items()
        }
        every = np.arange(len(self.target_columns))
        self._target_places = [every] * len(self._batches) if target_places is None else list(target_places)
        self._targets = [
            np.from_dlpack(batch.column("targets").values).reshape(batch.num_rows, len(places))
            for batch, places in zip(self._batches, self._target_places, strict=True)
        ]
        self._num_conformers = [np.from_dlpack(batch.column("num_conformers")) for batch in self._batches]

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open a store on disk; every shard is compared with its SHA-256 first.

        Args:
            path: the folder that `dnd prepare` wrote.

        Raises:
            InputError: there is no such folder.
            CorruptFileError: the store is unfinished, damaged, or of a newer format.
        """
        from dnd.common.runs import MappedFile  # a store in memory, as predictions have it, needs none

        folder = Path(path)
        before = {path.name: MappedFile(path) for path in folder.glob("shard-*")}
        manifest = verify_folder(folder, kind="store", format_version=SCHEMA_VERSION)
        if manifest.get("feature_version") != FEATURE_VERSION:
            raise CorruptFileError(
                f"{folder} contains features of another version",
                found=manifest.get("feature_version"),
                expected=FEATURE_VERSION,
                next_step="Make it again with `dnd prepare`",
            )
        names = sorted(name for name in manifest["files"] if name.startswith("shard-"))
        num_targets, files = len(manifest["target_columns"]), [before[name] for name in names]
        batches = [_map_shard(folder / name, num_targets) for name in names]
        for file in files:
            file.require_mapped()
        return cls(batches, manifest, folder, files=files)

    @classmethod
    def from_rows(
        cls, rows: Sequence[StoreRow], *, hydrogens: str = "heavy_both", target_columns: Sequence[str] = ()
    ) -> Store:
        """The same object in memory, for finetuning and prediction."""
        manifest = {"settings": {"hydrogens": hydrogens}, "target_columns": list(target_columns)}
        return cls([record_batch(rows, rows[0].auxiliary if rows else ())], manifest)

    def __len__(self) -> int:
        """Number of molecules."""
        return int(self._first_rows[-1])

    @property
    def hydrogens(self) -> str:
        """The hydrogen setting that the store was made with."""
        return str(self.manifest["settings"]["hydrogens"])

    @property
    def target_columns(self) -> list[str]:
        """Names of the C targets."""
        return list(self.manifest["target_columns"])

    @cached_property
    def has_conformers(self) -> bool:
        """Whether every molecule has at least one conformer."""
        self._require_unchanged()
        return len(self) > 0 and all(bool((counts > 0).all()) for counts in self._num_conformers)

    @cached_property
    def some_conformers(self) -> bool:
        """Whether some molecule has a conformer."""
        self._require_unchanged()
        return any(bool((counts > 0).any()) for counts in self._num_conformers)

    def with_conformers(self) -> Store:
        """The molecules that have conformers, as a store of their own, in the same order.

        A shard has conformers for all of its molecules or for none, so no molecule is copied. If all molecules have
        conformers it is the store itself.
        """
        if self.has_conformers:
            return self
        self._require_unchanged()
        solid = [number for number, counts in enumerate(self._num_conformers) if len(counts) and bool(counts.all())]
        names = sorted(name for name in self.manifest.get("files", {}) if name.startswith("shard-"))
        files = {names[number]: self.manifest["files"][names[number]] for number in solid} if names else {}
        return Store(
            [self._batches[number] for number in solid],
            {**self.manifest, "files": files},
            self.path,
            target_places=[self._target_places[number] for number in solid],
            files=[self.files[number] for number in solid] if self.files else (),
        )

    def places_with_conformers(self, rows: Int[np.ndarray, "batch"]) -> Int[np.ndarray, "batch"]:
        """Row numbers of molecules in `with_conformers()`, -1 where a molecule has no conformer."""
        self._require_unchanged()
        solid = np.array([len(counts) > 0 and bool(counts.all()) for counts in self._num_conformers])
        first_places = offsets_of(np.diff(self._first_rows) * solid)
        shards = np.searchsorted(self._first_rows, rows, side="right") - 1
        places: np.ndarray = np.where(solid[shards], rows - self._first_rows[shards] + first_places[shards], -1)
        return places

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over the shards: equal for equal content, so a resumed run can tell that it has the same data."""
        files = self.manifest.get("files", {})
        digests = [entry["sha256"] for name, entry in sorted(files.items()) if name.startswith("shard-")]
        digests = digests or [hashlib.sha256(batch.serialize()).hexdigest() for batch in self._batches]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    @property
    def atom_counts(self) -> RaggedCounts:
        """Graph atoms of each molecule."""
        return RaggedCounts(self._columns["node_features"], self._first_rows, self._require_unchanged)

    @property
    def bond_counts(self) -> RaggedCounts:
        """Bonds of each molecule, counted once."""
        return RaggedCounts(self._columns["bonds"], self._first_rows, self._require_unchanged)

    @property
    def conformer_atom_counts(self) -> RaggedCounts:
        """Atoms of each molecule's conformers, 0 where there is none."""
        return RaggedCounts(self._columns["atomic_numbers"], self._first_rows, self._require_unchanged)

    @property
    def targets(self) -> Float[np.ndarray, "molecules targets"]:
        """Labels of all molecules."""
        return self.targets_of(np.arange(len(self)))

    def targets_of(self, rows: Int[np.ndarray, "batch"]) -> Float[np.ndarray, "batch targets"]:
        """`(len(rows), C)` float32, NaN = missing."""
        return self._targets_of(self._select(rows))

    def _targets_of(self, selection: Selection) -> Float[np.ndarray, "batch targets"]:
        targets_BC = np.full((len(selection.local), len(self.target_columns)), np.nan, dtype=np.float32)
        for shard, local, place in selection.parts():
            own = np.arange(len(targets_BC))[place]
            targets_BC[own[:, None], self._target_places[shard]] = self._targets[shard][local]
        return targets_BC

    @property
    def batches(self) -> list[pa.RecordBatch]:
        """The shards as Arrow record batches, in order."""
        self._require_unchanged()
        return list(self._batches)

    def num_conformers_of(self, rows: Int[np.ndarray, "batch"]) -> Int[np.ndarray, "batch"]:
        """J of each of `rows`."""
        return pick(self._num_conformers, self._select(rows))

    def read(self, rows: np.ndarray, *, conformer: int = 0) -> MoleculeBatch:
        """The molecules at `rows`, in that order, each with its conformer number `conformer` modulo J.

        The batch has conformers only if each of these molecules has some.

        Raises:
            IndexError: a row that the store does not have.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} asked of a store of {len(self)} molecules")
        selection = self._select(rows)
        graph = self._read_graph(selection)
        solid = self.has_conformers or (
            self.some_conformers and len(rows) > 0 and bool((pick(self._num_conformers, selection) > 0).all())
        )
        conformers = self._read_conformers(selection, conformer, graph) if solid else None
        return MoleculeBatch(graph, conformers, torch.from_numpy(self._targets_of(selection)), torch.from_numpy(rows))

    def read_auxiliary(self, name: str, rows: np.ndarray) -> tuple[np.ndarray, Int[np.ndarray, "boundaries"]]:
        """Flat values of an auxiliary column at `rows`, in that order, and where each molecule's begin.

        Raises:
            InputError: the store does not have the column.
        """
        if name not in self.auxiliary:
            raise InputError(
                f"{self.path or 'the store'} has no column {name}",
                found=", ".join(self.auxiliary) or "no auxiliary columns",
                next_step="Make it again with `dnd prepare "
                + ("--quantum gfn2`" if name in QUANTUM_FIELDS else f"--auxiliary {name}`"),
            )
        selection = self._select(rows)
        values, counts = self._all(name, selection)
        return values, offsets_of(counts)

    def describe(self, rows: np.ndarray) -> list[str]:
        """One line per molecule (SMILES and source row) for messages."""
        lines = []
        for shard, local in map(self._locate, rows):
            batch = self._batches[shard]
            source, number, smiles = (batch.column(name)[local].as_py() for name in ("source", "row", "smiles"))
            lines.append(f"{smiles} ({source} row {number})")
        return lines

    def sources(self, rows: np.ndarray) -> list[str]:
        """File name of the source of each of `rows`."""
        return [self._batches[shard].column("source")[local].as_py() for shard, local in map(self._locate, rows)]

    def smiles(self, rows: np.ndarray | None = None) -> list[str]:
        """Canonical SMILES of `rows`, of all molecules when None."""
        if rows is None:
            self._require_unchanged()
            return [text for batch in self._batches for text in batch.column("smiles").to_pylist()]
        return [self._batches[shard].column("smiles")[local].as_py() for shard, local in map(self._locate, rows)]

    def molecule_codes(self, rows: Int[np.ndarray, "batch"]) -> Int[np.ndarray, "batch"]:
        """A number for each of `rows`, of its canonical SMILES: equal for copies and conformers of a molecule."""
        selection = self._select(rows)
        codes = np.empty(len(selection.local), dtype=np.int64)
        for shard, local, place in selection.parts():
            texts = self._batches[shard].column("smiles").take(pa.array(local)).to_pylist()
            codes[place] = [_code_of(text) for text in texts]
        return codes

    def graphs(self) -> list[MolecularGraph]:
        """The graphs of all molecules, for a store in memory; their arrays have the types of the columns."""
        selection = self._select(np.arange(len(self)))
        (nodes, atoms), (bonds, pairs), (features, _) = (
            self._all(name, selection) for name in ("node_features", "bonds", "bond_features")
        )
        atom_ends, bond_ends = np.cumsum(atoms)[:-1], np.cumsum(pairs)[:-1]
        parts = (np.split(nodes, atom_ends), np.split(bonds, bond_ends), np.split(features, bond_ends))
        return [MolecularGraph(*arrays) for arrays in zip(*parts, strict=True)]

    def _select(self, rows: Int[np.ndarray, "batch"]) -> Selection:
        """Where the rows are, in shards that nobody has written to since they were verified."""
        selection = Selection.of(np.asarray(rows, dtype=np.int64), self._first_rows)
        self._require_unchanged(selection.shards.tolist())
        return selection

    def _require_unchanged(self, shards: Iterable[int] | None = None) -> None:
        """Raise `CorruptFileError` where one of the shards, of all when None, was written to."""
        for file in self.files if shards is None else [self.files[shard] for shard in shards if self.files]:
            file.require_unchanged()

    def _locate(self, row: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        self._require_unchanged([shard])
        return shard, int(row - self._first_rows[shard])

    def _all(self, name: str, selection: Selection) -> tuple[np.ndarray, np.ndarray]:
        """Every item of a column at the selected rows, and how many each row has."""
        starts, counts = self._columns[name].spans(selection)
        return self._columns[name].gather(selection, starts, counts), counts

    def _read_graph(self, selection: Selection) -> GraphBatch:
        nodes, atom_counts = self._all("node_features", selection)
        bonds, bond_counts = self._all("bonds", selection)
        features, _ = self._all("bond_features", selection)
        atom_offsets = offsets_of(atom_counts)
        ends_U2 = bonds.astype(np.int64)
        ends_U2 += np.repeat(atom_offsets[:-1], bond_counts)[:, None]
        edges_2E = np.empty((2, 2 * len(ends_U2)), dtype=np.int64)
        edges_2E[0, 0::2], edges_2E[0, 1::2] = ends_U2[:, 0], ends_U2[:, 1]
        edges_2E[1, 0::2], edges_2E[1, 1::2] = ends_U2[:, 1], ends_U2[:, 0]
        return GraphBatch(
            torch.from_numpy(nodes.astype(np.int64)),
            torch.from_numpy(edges_2E),
            torch.from_numpy(np.repeat(features.astype(np.int64), 2, axis=0)),
            torch.from_numpy(atom_offsets),
            torch.from_numpy(2 * offsets_of(bond_counts)),
        )

    def _read_conformers(self, selection: Selection, conformer: int, graph: GraphBatch) -> ConformerBatch:
        numbers, counts = self._all("atomic_numbers", selection)
        first_points, _ = self._columns["positions"].spans(selection)
        starts = first_points + conformer % pick(self._num_conformers, selection) * counts
        positions = self._columns["positions"].gather(selection, starts, counts)
        offsets, atom_counts = offsets_of(counts), np.diff(graph.atom_offsets.numpy())
        return ConformerBatch(
            torch.from_numpy(numbers.astype(np.int64)),
            torch.from_numpy(positions),
            torch.from_numpy(offsets),
            torch.from_numpy(ragged_range(offsets[:-1], atom_counts)),
        )


def _code_of(smiles: str) -> int:
    return int.from_bytes(hashlib.blake2b(smiles.encode(), digest_size=8).digest(), "big", signed=True)


def require_hydrogens(store: Store, setting: str, *, wanted_by: str = "the model") -> None:
    """Raise an error for a store with another hydrogen setting.

    Raises:
        ConfigError: the settings differ.
    """
    if store.hydrogens != setting:
        raise ConfigError(
            f"{store.path or 'the molecules'} and {wanted_by} differ in hydrogens",
            found=store.hydrogens,
            expected=setting,
            next_step=f"Make the store again with `dnd prepare --hydrogens {setting}`",
        )


def _columns_of(batches: Sequence[pa.RecordBatch], name: str) -> list[pa.ListArray | Missing]:
    """A list column of every shard; `Missing` for a further column where a shard does not have it."""
    having = [batch.column(name) for batch in batches if name in batch.schema.names]
    wide = next((column for column in having if len(column)), None)
    width = 0 if wide is None else int(np.from_dlpack(wide.offsets)[1])  # of a column that is as long in every row
    return [batch.column(name) if name in batch.schema.names else _missing(batch, name, width) for batch in batches]


def _missing(batch: pa.RecordBatch, name: str, width: int) -> Missing:
    lengths_B = _lengths_of_further(batch, name, width)
    offsets = offsets_of(np.zeros(batch.num_rows, np.int64) if lengths_B is None else lengths_B)
    return Missing(offsets, FURTHER_FIELDS[name].type.value_type.to_pandas_dtype())


def _lengths_of_further(batch: pa.RecordBatch, name: str, width: int) -> Int[np.ndarray, "rows"] | None:
    """How many values each row of a shard must have in a further column; None for fingerprints, which may have any.

    Args:
        batch: the shard.
        name: name of the column.
        width: values per row of a column in which all rows are equally long.
    """
    if name in ("charges", "surface"):
        return _lengths(batch, "node_features") // NUM_ATOM_FEATURES
    if name == "quantum_atoms":
        return _lengths(batch, "node_features") // NUM_ATOM_FEATURES * NUM_QUANTUM_ATOM
    if name == "quantum_bonds":
        return _lengths(batch, "bonds") // ITEM_WIDTH["bonds"]
    return np.full(batch.num_rows, width) if name in ("descriptors", "quantum") else None


def _lengths(batch: pa.RecordBatch, name: str) -> Int[np.ndarray, "rows"]:
    """Number of flat values in each row of a list column."""
    return np.diff(np.from_dlpack(batch.column(name).offsets)).astype(np.int64)


def _map_shard(path: Path, num_targets: int) -> pa.RecordBatch:
    try:
        with pa.memory_map(str(path)) as stream:
            reader = pa.ipc.open_file(stream)
            schema = reader.schema.remove_metadata()
            if schema != schema_with(schema.names) or reader.num_record_batches != 1:
                raise CorruptFileError(f"{path} has other columns than a store", found=reader.schema.names)
            batch = reader.get_batch(0)
            batch.validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptFileError(f"{path} is not a readable Arrow file", found=str(error)) from error
    problem = _shard_problem(batch, num_targets)
    if problem is not None:
        raise CorruptFileError(f"{path} holds what no molecule has", found=problem, next_step="Make the store again")
    return batch


def _shard_problem(batch: pa.RecordBatch, num_targets: int) -> str | None:
    """Why the rows of a shard, whoever wrote it, are no graphs with their conformers; None where they are."""
    if any(column.null_count for column in batch.columns):
        return "a row without a value"
    names = ("node_features", "bonds", "bond_features", "atomic_numbers", "positions")
    lengths = {name: _lengths(batch, name) for name in names}
    values = {name: batch.column(name).flatten().to_numpy() for name in names}
    conformers_B = batch.column("num_conformers").to_numpy().astype(np.int64)
    atoms_B, bonds_B = lengths["node_features"] // NUM_ATOM_FEATURES, lengths["bonds"] // 2
    expected = {
        "node_features": atoms_B * NUM_ATOM_FEATURES,
        "bonds": bonds_B * 2,
        "bond_features": bonds_B * NUM_BOND_FEATURES,
        "positions": lengths["atomic_numbers"] * conformers_B * 3,
    }
    for name, wanted_B in expected.items():
        if not np.array_equal(lengths[name], wanted_B):
            return f"{name} of the wrong length for its molecule"
    if (_lengths(batch, "targets") != num_targets).any():
        return "a row with another number of targets than the store"
    if (atoms_B < 1).any():
        return "a row without atoms"
    if (values["bonds"] >= np.repeat(atoms_B, lengths["bonds"])).any():
        return "a bond to an atom that does not exist"
    for name, sizes in (("node_features", ATOM_FEATURE_SIZES), ("bond_features", BOND_FEATURE_SIZES)):
        if (values[name].reshape(-1, len(sizes)) >= np.array(sizes)).any():
            return f"{name} out of range"
    if not np.isfinite(values["positions"]).all():
        return "a position that is not finite"
    return next(
        filter(None, (_further_problem(batch, name) for name in FURTHER_FIELDS if name in batch.schema.names)), None
    )


def _further_problem(batch: pa.RecordBatch, name: str) -> str | None:
    """Why a further column can't belong to the rows of a shard."""
    own_B = _lengths(batch, name)
    width = NUM_QUANTUM if name == "quantum" else int(own_B[0]) if len(own_B) else 0
    wanted_B = _lengths_of_further(batch, name, width)
    if wanted_B is not None:
        return None if np.array_equal(own_B, wanted_B) else f"{name} of the wrong length for its molecule"
    is_outside = (batch.column(name).flatten().to_numpy() >= FINGERPRINT_PLACES).any()
    return f"{name} out of range" if is_outside else None


# Several stores read as one, without a copy: what a pretraining on data of several kinds trains from.


def union(stores: Sequence[Store]) -> Store:
    """The molecules of all stores, one store after the other.

    The union has every target column and every further column of any of the stores, with NaN where a store lacks it.

    Raises:
        InputError: there is no store.
        ConfigError: the stores differ in hydrogens, in their descriptors, or in how quantum values were calculated.
    """
    if not stores:
        raise InputError("there is no store to read from")
    first, columns = stores[0], list(dict.fromkeys(name for store in stores for name in store.target_columns))
    for store in stores[1:]:
        require_hydrogens(store, first.hydrogens, wanted_by=str(first.path or "the first store"))
    files = {
        f"shard-{number:03d}-{name}": entry
        for number, store in enumerate(stores)
        for name, entry in store.manifest.get("files", {}).items()
        if name.startswith("shard-")
    }
    manifest = {"settings": {"hydrogens": first.hydrogens}, "target_columns": columns, "files": files}
    for name in ("descriptor_names", "quantum"):
        having = [store for store in stores if name in store.manifest]
        for store in having[1:]:
            _require_equal_columns(having[0], store, name)
        if having:
            manifest[name] = having[0].manifest[name]
    places = [
        np.array([columns.index(store.target_columns[place]) for place in own], dtype=np.int64)
        for store in stores
        for own in store._target_places
    ]
    batches = [batch for store in stores for batch in store.batches]
    mapped = [file for store in stores for file in store.files]
    return Store(batches, manifest, target_places=places, files=mapped if len(mapped) == len(batches) else ())


def _require_equal_columns(first: Store, other: Store, name: str) -> None:
    """Refuse a further column whose values do not mean the same in two stores.

    Raises:
        ConfigError: the manifests differ in what they say of it.
    """
    ours, theirs = first.manifest[name], other.manifest[name]
    if ours == theirs:
        return
    both = isinstance(ours, list) and isinstance(theirs, list)
    differing = sorted(set(map(str, ours)) ^ set(map(str, theirs)))[:5] if both else []
    raise ConfigError(
        f"{other.path or 'a store'} and {first.path or 'the first store'} differ in their {name.replace('_', ' ')}",
        found=", ".join(differing) or ("another order" if both else theirs),
        expected=None if both else ours,
        next_step="Make both with `dnd prepare` of one version of RDKit and of dnd",
    )
