"""Every row is kept or has a reason, settings are kept and checked, and a killed run ends with equal bytes."""

from __future__ import annotations

import csv
import io
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from dnd.common.errors import ConfigError, InputError, StorageError
from dnd.conformers.records import Record
from dnd.store.convert import key_of_record, make_converter
from dnd.store.featurize import featurize_smiles
from dnd.store.prepare import _keys_to_exclude, prepare
from dnd.store.reader import Store
from dnd.store.schema import Reject, StoreRow
from dnd.store.settings import PrepareConfig
from dnd.store.writer import StoreJournal

SMALL = PrepareConfig(hydrogens="teacher_all_student_heavy", target_columns=("gap",), shard_size=40, limit=150)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.arrow"))}


def rejects(folder: Path) -> list[dict[str, str]]:
    with open(folder / "rejects.csv", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, qm9_path: Path) -> Path:
    folder = tmp_path_factory.mktemp("store") / "reference"
    prepare([qm9_path], folder, SMALL)
    return folder


def test_a_store_of_qm9(reference: Path, qm9_arrays: dict[str, np.ndarray]) -> None:
    store = Store.open(reference)
    assert len(store) == 150
    assert len(shards(reference)) == 4
    assert store.hydrogens == "teacher_all_student_heavy"
    assert store.target_columns == ["gap"]
    assert np.array_equal(store.conformer_atom_counts, qm9_arrays["n_atoms"][:150])
    gaps = qm9_arrays["props"][:150, list(qm9_arrays["names"]).index("gap")]
    assert np.array_equal(store.targets[:, 0], gaps, equal_nan=True)
    assert store.manifest["counts"]["molecules"] == store.manifest["counts"]["conformers"] == 150
    assert not (reference / ".progress").exists()
    batch = store.read(np.arange(150))
    assert batch.conformers is not None
    elements = batch.conformers.atomic_numbers_A[batch.conformers.graph_atoms_N]
    assert bool((elements - 1 == batch.graph.node_features_NF[:, 0]).all())


class KeysAtOnce:
    """In place of the processes that compute keys."""

    def run(self, work: object, records: Iterable[Record]) -> Generator[str, None, None]:
        yield from (record.smiles[0] for record in records)


def test_the_time_to_read_molecules_to_exclude_grows_with_their_number_alone(tmp_path: Path) -> None:
    """One more costs as much as the first, where a copy of all before made 40,000 of them cost a minute."""
    many = 40_000
    (tmp_path / "many.smi").write_text("".join(f"{'C' * (row % 50 + 1)}{row}\n" for row in range(many)))
    config = PrepareConfig(exclude=(str(tmp_path / "many.smi"),))
    started = time.process_time()
    found = _keys_to_exclude([tmp_path / "new.smi"], config, KeysAtOnce())  # type: ignore[arg-type]
    assert time.process_time() - started < 10
    assert len(found) == many


LABELLED = {"[2H]OC": "CO", "[13CH3]C[18OH]": "CCO", "[2H]O[2H]": "O", "[3H]c1ccccc1": "c1ccccc1", "[2H]/C=C/F": "C=CF"}


@pytest.mark.parametrize(
    ("conformers", "hydrogens"),
    [("none", "heavy_both"), ("etkdg", "all_both"), ("file", "teacher_all_student_heavy"), ("file", "heavy_both")],
)
def test_isotopes_are_what_models_see_of_them(tmp_path: Path, hydrogens: str, conformers: str) -> None:
    """A store of labelled molecules has the graphs of the plain ones, atom by atom under its conformers."""
    source = tmp_path / "labelled.smi"
    source.write_text("\n".join(LABELLED) + "\n")
    if conformers == "file":
        source = tmp_path / "labelled.sdf"
        with Chem.SDWriter(str(source)) as writer:
            for text in LABELLED:
                mol = Chem.AddHs(Chem.MolFromSmiles(text))
                assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
                writer.write(Chem.RenumberAtoms(mol, list(reversed(range(mol.GetNumAtoms())))))
    config = PrepareConfig(hydrogens=hydrogens, conformers=conformers)  # type: ignore[arg-type]
    assert prepare([source], tmp_path / "store", config).rejected == {}
    store = Store.open(tmp_path / "store")
    assert store.smiles() == list(LABELLED.values())
    expected = featurize_smiles(list(LABELLED), hydrogens)  # type: ignore[arg-type]
    for graph, seen in zip(store.graphs(), expected, strict=True):
        assert seen.graph is not None
        assert np.array_equal(graph.node_features_NF, seen.graph.node_features_NF)
    if conformers != "none" and hydrogens != "heavy_both":
        assert store.conformer_atom_counts[:].tolist() == [6, 9, 3, 12, 6]


def test_a_file_of_heavy_atoms_has_no_place_for_deuterium(tmp_path: Path) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("[2H]OC"))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    with Chem.SDWriter(str(tmp_path / "heavy.sdf")) as writer:
        writer.write(Chem.RemoveHs(mol))
    prepare([tmp_path / "heavy.sdf"], tmp_path / "store", PrepareConfig(conformers="file"))
    store = Store.open(tmp_path / "store")
    assert (store.smiles(), store.conformer_atom_counts[:].tolist()) == (["CO"], [2])


@pytest.mark.parametrize("hydrogens", ["heavy_both", "all_both"])
def test_hydrogen_settings(tmp_path: Path, qm9_path: Path, reference: Path, hydrogens: str) -> None:
    prepare([qm9_path], tmp_path / "s", PrepareConfig(hydrogens=hydrogens, limit=30))  # type: ignore[arg-type]
    store, mixed = Store.open(tmp_path / "s"), Store.open(reference)
    assert store.hydrogens == hydrogens
    assert np.array_equal(store.atom_counts, store.conformer_atom_counts)
    expected = mixed.conformer_atom_counts if hydrogens == "all_both" else mixed.atom_counts
    assert np.array_equal(store.atom_counts, expected[:30])


def test_an_interrupted_run_ends_with_equal_bytes(
    tmp_path: Path, qm9_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seal, calls = StoreJournal.seal, []

    def stop_at_third(self: StoreJournal, *arguments: object) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        seal(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(StoreJournal, "seal", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        prepare([qm9_path], tmp_path / "s", SMALL)
    monkeypatch.undo()
    finished = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("shard-*")}
    assert len(finished) == 2
    with pytest.raises(InputError, match="unfinished store"):
        prepare([qm9_path], tmp_path / "s", SMALL)
    other = PrepareConfig(**{**SMALL.__dict__, "hydrogens": "all_both"})
    with pytest.raises(InputError, match=r"hydrogens 'teacher_all_student_heavy' → 'all_both'"):
        prepare([qm9_path], tmp_path / "s", other, resume=True)
    prepare([qm9_path], tmp_path / "s", PrepareConfig(**{**SMALL.__dict__, "jobs": 2}), resume=True)
    assert shards(tmp_path / "s") == shards(reference)
    assert {name: (tmp_path / "s" / name).stat().st_mtime_ns for name in finished} == finished
    assert (tmp_path / "s" / "rejects.csv").read_bytes() == (reference / "rejects.csv").read_bytes()


def test_a_killed_process_leaves_what_resume_needs(tmp_path: Path, qm9_path: Path, reference: Path) -> None:
    folder = tmp_path / "s"
    code = (
        "import sys; from dnd.store.prepare import prepare; from dnd.store.settings import PrepareConfig;"
        f"prepare([{str(qm9_path)!r}], {str(folder)!r}, PrepareConfig(hydrogens='teacher_all_student_heavy',"
        "target_columns=('gap',), shard_size=40, limit=150), resume=True)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    for _ in range(2000):
        if (folder / ".progress" / "00000.json").is_file() or process.poll() is not None:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    prepare([qm9_path], folder, SMALL, resume=True)
    assert shards(folder) == shards(reference)


@pytest.mark.parametrize("source", ["folder", "standard input"])
def test_a_run_goes_on_with_its_own_input_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A folder that changed, and what can't be compared, would give some molecules twice and others not at all."""
    lines = [f"{'C' * length}O" for length in range(1, 5)]

    def give(first: str) -> Path:
        if source == "folder":
            (tmp_path / "xyz").mkdir(exist_ok=True)
            for number, text in enumerate([first, *lines]):
                (tmp_path / "xyz" / f"{number}.xyz").write_text(f"1\nsmiles={text}\nC 0 0 0\n")
            return tmp_path / "xyz"
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join([first, *lines]).encode())))
        return Path("-")

    seal, config = StoreJournal.seal, PrepareConfig(conformers="none", shard_size=2)

    def stopped(journal: StoreJournal, *content: list[Any]) -> None:
        seal(journal, *content)
        raise KeyboardInterrupt

    monkeypatch.setattr(StoreJournal, "seal", stopped)
    with pytest.raises(KeyboardInterrupt):
        prepare([give("C")], tmp_path / "store", config)
    monkeypatch.setattr(StoreJournal, "seal", seal)
    with pytest.raises(InputError, match=r"other settings: found inputs|begun from standard input"):
        prepare([give("N")], tmp_path / "store", config, resume=True)
    if source == "folder":
        prepare([give("C")], tmp_path / "store", config, resume=True)
        assert Store.open(tmp_path / "store").smiles() == ["C", *lines]


def test_the_first_smiles_that_can_be_read_is_the_molecule() -> None:
    """As for the file's own conformers: QM9 has one from before the relaxation and one from after it."""
    record = Record(0, "gdb.xyz", "coordinates", smiles=("C1CC", "OCC"))
    for conformers in ("none", "etkdg"):
        row, _ = make_converter("heavy_both", conformers, 1, 0, False)(record)
        assert isinstance(row, StoreRow)
        assert row.smiles == "CCO"
    assert key_of_record(record) == key_of_record(replace(record, smiles=("CCO",)))
    unread, _ = make_converter("heavy_both", "none", 1, 0, False)(replace(record, smiles=("C1CC", "C2CC")))
    assert isinstance(unread, Reject)
    assert unread.smiles == "C1CC"


def test_a_finished_store_is_not_overwritten(reference: Path, qm9_path: Path, tmp_path: Path) -> None:
    before = shards(reference)
    assert prepare([qm9_path], reference, SMALL, resume=True).molecules == 150
    with pytest.raises(InputError, match="already contains a finished store"):
        prepare([qm9_path], reference, SMALL)
    assert shards(reference) == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty.*notes\.txt"):
        prepare([qm9_path], tmp_path, SMALL)


def test_generated_conformers_and_a_reason_for_each_failure(tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("smiles,y\nCCO,1\nnot a smiles,2\nC#1CC#CC1,3\nc1ccccc1,\nCC,many\n=cmd,5\n[Na+].[Cl-],6\n")
    config = PrepareConfig(
        conformers="etkdg", num_conformers=3, hydrogens="teacher_all_student_heavy", target_columns=("y",), jobs=2
    )
    summary = prepare([table], tmp_path / "s", config)
    store = Store.open(tmp_path / "s")
    assert store.smiles() == ["CCO", "c1ccccc1", "[Cl-].[Na+]"]
    assert store.num_conformers_of(np.arange(3)).tolist() == [3, 3, 3]
    assert summary.conformers == 9
    found = rejects(tmp_path / "s")
    assert [(line["row"], line["stage"]) for line in found] == [
        ("1", "parse"), ("2", "conformer"), ("4", "read"), ("5", "parse"),
    ]  # fmt: skip
    assert "embedding failed" in found[1]["reason"]
    assert "'many'" in found[2]["reason"]
    assert found[3]["smiles"] == "'=cmd"
    assert sum(summary.rejected.values()) == 4
    prepare([table], tmp_path / "again", config)
    assert shards(tmp_path / "again") == shards(tmp_path / "s")


def test_a_molecule_over_its_time_is_a_reject(tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("smiles\nCC\n" + "C1CCCCCCCCCCCCCC1CC" * 1 + "\n" + "CC(C)" * 20 + "CC(=O)NCC(=O)N" * 8 + "\n")
    config = PrepareConfig(conformers="etkdg", num_conformers=200, timeout_s=3)
    prepare([table], tmp_path / "s", config)
    last = rejects(tmp_path / "s")[-1]
    assert (last["row"], last["stage"], last["reason"]) == ("2", "worker", "over 3 s")
    assert Store.open(tmp_path / "s").smiles()[0] == "CC"


def test_excluded_molecules_are_left_out_whatever_their_stereo(tmp_path: Path) -> None:
    (tmp_path / "all.csv").write_text("smiles\nC[C@H](N)C(=O)O\nCCO\nCCN\n")
    (tmp_path / "test.csv").write_text("smiles\nOCC\nC[C@@H](N)C(O)=O\n")
    config = PrepareConfig(exclude=(str(tmp_path / "test.csv"),))
    summary = prepare([tmp_path / "all.csv"], tmp_path / "s", config)
    assert Store.open(tmp_path / "s").smiles() == ["CCN"]
    assert summary.rejected == {"exclude: molecule is in an --exclude file": 2}


def test_an_exclude_file_that_cannot_be_read_leaves_no_folder_behind(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("smiles\nCCO\nCCN\n")
    (tmp_path / "book.xlsx").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"book\.xlsx is a workbook"):
        prepare([tmp_path / "in.csv"], tmp_path / "store", PrepareConfig(exclude=(str(tmp_path / "book.xlsx"),)))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_a_sample_is_as_large_as_asked_for_whatever_is_excluded(tmp_path: Path, qm9_path: Path, kind: str) -> None:
    """Excluded molecules are not drawn, also where the number of records is not known beforehand."""
    prepare([qm9_path], tmp_path / "all", PrepareConfig(conformers="none"))
    smiles = Store.open(tmp_path / "all").smiles()
    (tmp_path / "all.csv").write_text("smiles\n" + "\n".join([*smiles[:50], "broken(", *smiles[50:]]) + "\n")
    (tmp_path / "labelled.csv").write_text("smiles\n" + "\n".join(smiles[:-40]) + "\n")
    source = qm9_path if kind == "npz" else tmp_path / "all.csv"
    config = PrepareConfig(sample=40, exclude=(str(tmp_path / "labelled.csv"),), conformers="none", seed=3)
    summary = prepare([source], tmp_path / "s", config)
    assert (summary.molecules, summary.rejected) == (40, {})
    assert sorted(Store.open(tmp_path / "s").smiles()) == sorted(smiles[-40:])
    fewer = prepare([source], tmp_path / "t", replace(config, sample=10))
    assert fewer.molecules == 10
    assert set(Store.open(tmp_path / "t").smiles()) < set(smiles[-40:])


def test_a_sample_is_drawn_at_random_and_keeps_its_order(tmp_path: Path, qm9_path: Path) -> None:
    for seed in (1, 2):
        config = PrepareConfig(sample=25, seed=seed, conformers="none")
        prepare([qm9_path], tmp_path / str(seed), config)
    one, two = (Store.open(tmp_path / str(seed)) for seed in (1, 2))
    assert len(one) == len(two) == 25
    assert one.smiles() != two.smiles()
    rows = [int(line.rpartition(" ")[2].rstrip(")")) for line in one.describe(np.arange(25))]
    assert rows == sorted(set(rows))
    assert rows != list(range(25))


def test_nothing_valid_is_one_clear_error_and_can_be_tried_again(tmp_path: Path) -> None:
    table = tmp_path / "some.csv"
    table.write_text("smiles\nxyz\nC1CC\n")
    with pytest.raises(InputError, match=r"no valid molecule.*rejects\.csv"):
        prepare([table], tmp_path / "s")
    assert len(rejects(tmp_path / "s")) == 2
    table.write_text("smiles\nCC\n")
    assert prepare([table], tmp_path / "s").molecules == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"conformers": "file"}, "has no coordinates"),
        ({"num_conformers": 2}, "more than one conformer"),
    ],
)
def test_settings_at_odds_with_the_input(tmp_path: Path, values: dict[str, object], message: str) -> None:
    (tmp_path / "some.csv").write_text("smiles\nCC\n")
    with pytest.raises(ConfigError, match=message):
        prepare([tmp_path / "some.csv"], tmp_path / "s", PrepareConfig(**values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"jobs": -1},
        {"limit": -1},
        {"num_conformers": 256},
        *({"timeout_s": limit} for limit in (0, math.nan, math.inf, 1e12)),
    ],
)
def test_settings_out_of_range(values: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        PrepareConfig(**values)  # type: ignore[arg-type]


def test_a_full_disk_keeps_finished_shards(
    tmp_path: Path, qm9_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dnd.store.writer as journal

    write = journal.write_shard

    def full_at_second(path: Path, rows: object, auxiliary: object) -> None:
        if path.name == "shard-00001.arrow":
            raise StorageError(f"cannot write {path}", found="No space left on device")
        write(path, rows, auxiliary)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "write_shard", full_at_second)
    with pytest.raises(StorageError, match="No space left"):
        prepare([qm9_path], tmp_path / "s", SMALL)
    monkeypatch.undo()
    assert list(shards(tmp_path / "s")) == ["shard-00000.arrow"]
    prepare([qm9_path], tmp_path / "s", SMALL, resume=True)
    assert shards(tmp_path / "s") == shards(reference)
