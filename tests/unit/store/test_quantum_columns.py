"""Quantum columns of a store: calculated or taken from files, NaN with a counted reason where there are none."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from typer.testing import CliRunner

pytest.importorskip("tblite", reason="needs the extra `quantum`")

from dnd.cli.main import build_app
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.conformers.formats import open_arrays
from dnd.conformers.quantum import (
    ATOM_QUANTITIES,
    QUANTITIES,
    QuantumLabel,
    QuantumLabels,
    joined,
    make_labeller,
    quantum_values,
)
from dnd.store.auxiliary import NO_LABEL
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.schema import NUM_QUANTUM, NUM_QUANTUM_ATOM, QUANTUM_FIELDS, format_version
from dnd.store.settings import PrepareConfig

FEW = PrepareConfig(hydrogens="teacher_all_student_heavy", limit=12, shard_size=5, quantum=("gfn2",))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, qm9_path: Path) -> Store:
    out = tmp_path_factory.mktemp("quantum") / "store"
    prepare([qm9_path], out, FEW)
    return Store.open(out)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory, qm9_path: Path) -> Path:
    """Labels of the first ten molecules; the fourth is said to have failed."""
    label, source = make_labeller(), open_arrays(qm9_path)
    outcomes = {record.row: label(record) for record, _ in zip(source.records, range(10), strict=False)}
    path = tmp_path_factory.mktemp("labels") / "labels.npz"
    QuantumLabels.of(qm9_path.name, source.total or 0, {**outcomes, 3: "it was a Friday"}).write(path)
    return path


def columns_of(store: Store, row: int) -> dict[str, np.ndarray]:
    return {name: store.read_auxiliary(name, np.array([row]))[0].astype(np.float64) for name in QUANTUM_FIELDS}


def test_values_come_back_in_the_order_of_the_graph(store: Store) -> None:
    assert store.auxiliary == tuple(QUANTUM_FIELDS)
    batch = store.read(np.arange(len(store)))
    assert batch.conformers is not None
    offsets = batch.conformers.atom_offsets.numpy()
    for row in (2, 7, 11):
        mol = Chem.MolFromSmiles(store.smiles(np.array([row]))[0])
        positions = batch.conformers.positions_A3[offsets[row] : offsets[row + 1]].numpy()
        found, expected = columns_of(store, row), quantum_values(mol, positions)
        assert not isinstance(expected, str)
        assert found["quantum"] == pytest.approx(expected.molecule(), rel=1e-5, abs=1e-4)
        assert found["quantum_atoms"].reshape(-1, 2) == pytest.approx(expected.atoms(), abs=1e-3)
        assert found["quantum_bonds"] == pytest.approx(expected.bond_orders_U, abs=2e-3)


def test_the_manifest_has_names_units_and_version(store: Store) -> None:
    described = store.manifest["quantum"]
    assert dict(described["quantum"]) == QUANTITIES
    assert described["quantum_atoms"] == [["charge", "e"], ["energy_share", "kcal/mol"]]
    assert described["method"] == "GFN2-xTB"
    assert store.manifest["counts"]["quantum_failures"] == {}
    assert store.manifest["settings"]["tblite"]
    assert store.manifest["format_version"] == format_version(QUANTUM_FIELDS) == 3
    assert (format_version(["charges"]), format_version([])) == (2, 1)


def test_labels_give_the_columns_that_a_calculation_gives(
    store: Store, labels: Path, qm9_path: Path, tmp_path: Path
) -> None:
    config = replace(FEW, quantum=(str(labels),))
    summary = prepare([qm9_path], tmp_path / "s", config)
    assert summary.quantum_failures == {NO_LABEL: 2, "it was a Friday": 1}
    found = Store.open(tmp_path / "s")
    assert len(found) == 12
    for row in range(12):
        for name, values in columns_of(found, row).items():
            expected = columns_of(store, row)[name]
            assert values.shape == expected.shape
            if row in (3, 10, 11):
                assert np.isnan(values).all()
            else:
                assert values == pytest.approx(expected, abs=0.011)
    both = prepare([qm9_path], tmp_path / "both", replace(FEW, quantum=(str(labels), "gfn2")))
    assert both.quantum_failures == {"it was a Friday": 1}


def test_labels_of_another_molecule_are_not_believed(labels: Path, qm9_path: Path, tmp_path: Path) -> None:
    read = QuantumLabels.read(labels)
    arrays = {**read.arrays, "smiles_crc": read.arrays["smiles_crc"] + np.uint32(1)}
    QuantumLabels(read.about, arrays, read.failures).write(tmp_path / "other.npz")
    config = replace(FEW, limit=5, quantum=(str(tmp_path / "other.npz"),))
    assert prepare([qm9_path], tmp_path / "s", config).quantum_failures == {
        "the label is of another molecule": 4,
        "it was a Friday": 1,
    }


def test_files_of_labels_join_and_damage_is_said(labels: Path, tmp_path: Path) -> None:
    read = QuantumLabels.read(labels)
    items = dict(read.items())
    parts = [
        QuantumLabels.of("qm9_300.npz", read.about["source_molecules"], part)
        for part in ({5: items[5], 3: "it was a Friday"}, {row: items[row] for row in (0, 9)})
    ]
    whole = joined(parts)
    assert whole.arrays["rows"].tolist() == [0, 5, 9]
    assert whole.failures == {3: "it was a Friday"}
    for row, label in whole.items():
        assert isinstance(label, QuantumLabel)
        assert np.array_equal(label.atoms_N2, items[row].atoms_N2)
        assert np.array_equal(label.bonds_U, items[row].bonds_U)
    with pytest.raises(InputError, match="differ in how they were made"):
        joined([parts[0], QuantumLabels.of("another.npz", 3, {})])
    (tmp_path / "torn.npz").write_bytes(labels.read_bytes()[:-300])
    with pytest.raises(CorruptFileError):
        QuantumLabels.read(tmp_path / "torn.npz")
    arrays = {**read.arrays, "bonds": read.arrays["bonds"][1:]}
    QuantumLabels(read.about, arrays, read.failures).write(tmp_path / "odd.npz")
    with pytest.raises(CorruptFileError, match="do not fit"):
        QuantumLabels.read(tmp_path / "odd.npz")
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    with pytest.raises(InputError, match="no quantum labels"):
        QuantumLabels.read(tmp_path / "foreign.npz")


@pytest.mark.parametrize(
    "changed",
    [
        {"rows": np.array(3)},
        {"rows": np.array([0.0])},
        {"atoms": np.full((1, 2), np.nan)},
        {"molecules": np.full((1, 9), "1.0")},
        {"failed_reasons": np.array([3]), "failed_rows": np.array([3])},
        {"about": np.array('{"kind": "dnd quantum labels 1"}')},
        {"about": np.array('{"kind": "dnd quantum labels 1", "source": ["a.npz"]}')},
    ],
)
def test_arrays_of_other_kinds_are_refused_as_those_of_other_lengths(
    tmp_path: Path, changed: dict[str, np.ndarray]
) -> None:
    one = QuantumLabel(np.zeros(9), np.zeros((1, 2)), np.zeros(0), 0)
    QuantumLabels.of("a.npz", 1, {0: one}).write(tmp_path / "labels.npz")
    assert [row for row, _ in QuantumLabels.read(tmp_path / "labels.npz").items()] == [0]
    with np.load(tmp_path / "labels.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(tmp_path / "other.npz", **{**arrays, **changed})
    with pytest.raises((CorruptFileError, InputError), match=r"do not fit together|no quantum labels"):
        QuantumLabels.read(tmp_path / "other.npz")


def long_chain(path: Path, carbons: int) -> Path:
    """An .npz with methane and one long stretched alkane, which takes seconds to calculate."""
    where = np.arange(carbons)
    side = np.where(where % 2, 1.0, -1.0)
    chain = np.stack([1.27 * where, 0.42 * side, 0 * side], axis=1)
    hydrogens = []
    for index in range(carbons):
        hydrogens += [chain[index] + [0, 0.6 * side[index], up] for up in (0.88, -0.88)]
        if index in (0, carbons - 1):
            hydrogens.append(chain[index] + [-0.9 if index == 0 else 0.9, -0.6 * side[index], 0])
    methane = np.concatenate([np.zeros((1, 3)), 0.63 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])])
    counts = [5, carbons + len(hydrogens)]
    np.savez(
        path,
        Z=np.array([6, 1, 1, 1, 1, *[6] * carbons, *[1] * len(hydrogens)], dtype=np.uint8),
        R=np.concatenate([methane, chain, hydrogens]).astype(np.float32),
        n_atoms=np.array(counts, dtype=np.uint16),
        smiles=np.array([b"C", b"C" * carbons]),
    )
    return path


def test_a_calculation_that_takes_too_long_is_a_reason_and_no_lost_molecule(tmp_path: Path) -> None:
    source = long_chain(tmp_path / "chain.npz", 150)
    config = PrepareConfig(hydrogens="teacher_all_student_heavy", timeout_s=2.0, quantum=("gfn2",))
    summary = prepare([source], tmp_path / "s", config)
    assert (summary.molecules, summary.rejected, summary.quantum_failures) == (2, {}, {"over # s": 1})
    store = Store.open(tmp_path / "s")
    assert np.isfinite(columns_of(store, 0)["quantum"]).all()
    assert all(np.isnan(values).all() for values in columns_of(store, 1).values())


def test_what_can_not_work_is_refused_before_any_work(
    tmp_path: Path, qm9_path: Path, labels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m.csv").write_text("smiles\nCCO\n")
    cases = [
        (tmp_path / "m.csv", replace(FEW, conformers="auto"), "there are none.*--conformers etkdg"),
        (tmp_path / "m.csv", replace(FEW, conformers="etkdg", quantum=(str(labels),)), "file's conformers"),
        (qm9_path, replace(FEW, hydrogens="all_both", quantum=(str(labels),)), "file's conformers"),
    ]
    for source, config, message in cases:
        with pytest.raises(ConfigError, match=message):
            prepare([source], tmp_path / "s", config)
    with pytest.raises(InputError, match="none of the inputs"):
        prepare([long_chain(tmp_path / "chain.npz", 3)], tmp_path / "s", replace(FEW, quantum=(str(labels),)))
    with pytest.raises(ConfigError, match="unknown --quantum: found gfn1"):
        PrepareConfig(quantum=("gfn1",))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'needs tblite.*pip install "dnd-mol\[quantum\]"'):
        prepare([qm9_path], tmp_path / "s", FEW)
    assert not (tmp_path / "s").exists()


def test_the_command_says_how_many_have_values(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("smiles\nCCO\n[U+4]\n")
    arguments = ["prepare", str(tmp_path / "m.csv"), "-o", str(tmp_path / "s"), "--conformers", "etkdg_raw"]
    result = CliRunner().invoke(build_app("prepare"), [*arguments, "--hydrogens", "all_both", "--quantum", "gfn2"])
    assert result.exit_code == 0, result.output
    assert "quantum values for 1 molecules, none for 1" in result.output
    assert "1  GFN2-xTB has no parameters for atomic number #" in result.output
    assert len(columns_of(Store.open(tmp_path / "s"), 0)["quantum_atoms"]) == 2 * 9


def test_the_schema_counts_the_values_that_a_calculation_names():
    assert (len(QUANTITIES), len(ATOM_QUANTITIES)) == (NUM_QUANTUM, NUM_QUANTUM_ATOM)


def test_molecules_with_labels_are_drawn_first(labels: Path, qm9_path: Path, tmp_path: Path) -> None:
    """A sample of a large file has the few molecules that hours were spent on."""
    known = len(QuantumLabels.read(labels).arrays["rows"])
    config = PrepareConfig(
        sample=known + 5, quantum=(str(labels),), conformers="file", hydrogens="teacher_all_student_heavy", seed=4
    )
    summary = prepare([qm9_path], tmp_path / "s", config)
    assert summary.molecules == known + 5
    assert sum(summary.quantum_failures.values()) == 5
