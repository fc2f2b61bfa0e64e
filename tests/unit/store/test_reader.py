"""A batch read from a store is the rows that were written, whatever the shards and the order."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.chemistry.molecule import FEATURE_VERSION, Conformers, MolecularGraph
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import write_manifest
from dnd.graphs.batch import MoleculeBatch
from dnd.store.reader import Store, require_hydrogens, union
from dnd.store.schema import SCHEMA_VERSION, StoreRow
from dnd.store.writer import shard_name, write_shard

HYDROGENS = "teacher_all_student_heavy"


def write_store(folder: Path, rows: list[StoreRow], shard_size: int) -> Store:
    folder.mkdir()
    for number, start in enumerate(range(0, len(rows), shard_size)):
        write_shard(folder / shard_name(number), rows[start : start + shard_size])
    extra = {
        "settings": {"hydrogens": HYDROGENS},
        "target_columns": ["gap"],
        "feature_version": FEATURE_VERSION,
    }
    write_manifest(folder, kind="store", format_version=SCHEMA_VERSION, extra=extra)
    return Store.open(folder)


def assert_equal(one: MoleculeBatch, other: MoleculeBatch) -> None:
    pairs = [(one.graph, other.graph), (one.conformers, other.conformers)]
    for left, right in pairs:
        assert left is not None
        assert right is not None
        for field in dataclasses.fields(left):
            assert torch.equal(getattr(left, field.name), getattr(right, field.name)), field.name
    assert torch.equal(one.targets_BC.nan_to_num(7e7), other.targets_BC.nan_to_num(7e7))
    assert torch.equal(one.rows_B, other.rows_B)


def test_a_batch_holds_its_rows(qm9_rows: list[StoreRow]) -> None:
    store = Store.from_rows(qm9_rows, hydrogens=HYDROGENS, target_columns=["gap"])
    wanted = np.array([7, 3, 59, 3, 0])
    batch = store.read(wanted)
    assert batch.conformers is not None
    for place, row in enumerate(qm9_rows[index] for index in wanted):
        assert row.conformers is not None
        begin, end = batch.graph.atom_offsets[place : place + 2].tolist()
        assert np.array_equal(batch.graph.node_features_NF[begin:end], row.graph.node_features_NF)
        edges = slice(*batch.graph.edge_offsets[place : place + 2].tolist())
        both_ways = np.stack([row.graph.bonds_U2, row.graph.bonds_U2[:, ::-1]], axis=1).reshape(-1, 2)
        assert np.array_equal(batch.graph.edge_index_2E[:, edges].T - begin, both_ways)
        assert np.array_equal(batch.graph.edge_features_EF[edges], np.repeat(row.graph.bond_features_UF, 2, axis=0))
        first, last = batch.conformers.atom_offsets[place : place + 2].tolist()
        assert np.array_equal(batch.conformers.positions_A3[first:last], row.conformers.positions_JA3[0])
        assert np.array_equal(batch.conformers.atomic_numbers_A[first:last], row.conformers.atomic_numbers_A)
        assert np.array_equal(batch.conformers.graph_atoms_N[begin:end], first + np.arange(end - begin))
    elements = batch.conformers.atomic_numbers_A[batch.conformers.graph_atoms_N]
    assert torch.equal(elements - 1, batch.graph.node_features_NF[:, 0])
    assert torch.equal(batch.rows_B, torch.from_numpy(wanted))


@pytest.mark.parametrize("shard_size", [60, 17, 1])
def test_shards_do_not_show(tmp_path: Path, qm9_rows: list[StoreRow], shard_size: int) -> None:
    store = write_store(tmp_path / "store", qm9_rows, shard_size)
    memory = Store.from_rows(qm9_rows, hydrogens=HYDROGENS, target_columns=["gap"])
    generator = np.random.default_rng(shard_size)
    for rows in (generator.permutation(60), generator.integers(0, 60, 9), np.array([59]), np.array([], dtype=int)):
        assert_equal(store.read(rows), memory.read(rows))
    assert store.smiles() == memory.smiles() == [row.smiles for row in qm9_rows]
    assert store.describe(np.array([58, 2])) == memory.describe(np.array([58, 2]))
    assert np.array_equal(store.atom_counts, [row.graph.num_atoms for row in qm9_rows])
    assert np.array_equal(store.bond_counts, [row.graph.num_bonds for row in qm9_rows])
    assert np.array_equal(store.targets, memory.targets, equal_nan=True)


def test_conformers_are_taken_modulo_their_number(qm9_rows: list[StoreRow]) -> None:
    def with_conformers(row: StoreRow, count: int) -> StoreRow:
        assert row.conformers is not None
        positions = np.concatenate([row.conformers.positions_JA3 + 10 * number for number in range(count)])
        return dataclasses.replace(row, conformers=Conformers(row.conformers.atomic_numbers_A, positions))

    counts = [3, 1, 2]
    rows = [with_conformers(row, count) for row, count in zip(qm9_rows, counts, strict=False)]
    store = Store.from_rows(rows, target_columns=["gap"])
    assert store.num_conformers_of(np.arange(3)).tolist() == counts
    base = store.read(np.arange(3)).conformers
    moved = store.read(np.arange(3), conformer=5).conformers
    assert base is not None
    assert moved is not None
    shift = (moved.positions_A3 - base.positions_A3)[moved.atom_offsets[:-1], 0]
    assert shift.round().tolist() == [20.0, 0.0, 10.0]


def test_single_atoms_without_bonds_conformers_or_targets() -> None:
    nodes = np.array([[5, 0, 4, 5, 4, 0, 2, 0, 0]])
    methane = MolecularGraph(nodes, np.empty((0, 2), dtype=np.int64), np.empty((0, 3), dtype=np.int64))
    store = Store.from_rows([StoreRow(0, "table", "C", methane)] * 2)
    batch = store.read(np.array([0, 1]))
    assert not store.has_conformers
    assert batch.conformers is None
    assert batch.graph.edge_index_2E.shape == (2, 0)
    assert batch.graph.edge_features_EF.shape == (0, 3)
    assert batch.targets_BC.shape == (2, 0)
    assert Store.from_rows([]).atom_counts[:].shape == (0,)


def test_rows_outside_are_refused(qm9_rows: list[StoreRow]) -> None:
    store = Store.from_rows(qm9_rows, target_columns=["gap"])
    for row in (-1, 60):
        with pytest.raises(IndexError, match="store of 60"):
            store.read(np.array([row]))


def test_damage_is_found_before_the_first_use(tmp_path: Path, qm9_rows: list[StoreRow]) -> None:
    store = write_store(tmp_path / "store", qm9_rows, 30)
    path = tmp_path / "store" / shard_name(1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptFileError, match="altered"):
        Store.open(tmp_path / "store")
    with pytest.raises(InputError, match="not a folder"):
        Store.open(tmp_path / "nowhere")
    assert store.fingerprint == store.fingerprint


def test_another_hydrogen_setting_is_refused(qm9_rows: list[StoreRow]) -> None:
    store = Store.from_rows(qm9_rows, hydrogens=HYDROGENS, target_columns=["gap"])
    require_hydrogens(store, HYDROGENS)
    with pytest.raises(ConfigError, match="found teacher_all_student_heavy, expected all_both"):
        require_hydrogens(store, "all_both", wanted_by="the teacher")


def test_fingerprints_follow_the_content(qm9_rows: list[StoreRow]) -> None:
    one, same, other = (
        Store.from_rows(rows, target_columns=["gap"]) for rows in (qm9_rows, list(qm9_rows), qm9_rows[1:])
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint


def test_copies_of_a_molecule_have_one_code(qm9_rows: list[StoreRow]) -> None:
    rows = [*qm9_rows[:5], dataclasses.replace(qm9_rows[2], row=99), *qm9_rows[5:9]]
    store = union([Store.from_rows(part, target_columns=["gap"]) for part in (rows[:4], rows[4:])])
    codes = store.molecule_codes(np.array([5, 0, 2, 9]))
    assert codes[0] == codes[2]
    assert len(set(codes.tolist())) == 3
    assert np.array_equal(store.molecule_codes(np.arange(10))[[5, 0, 2, 9]], codes)
