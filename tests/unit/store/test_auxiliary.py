"""Auxiliary columns: values, place in the store, half precision, and stores without them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Descriptors

from dnd.chemistry.fingerprints import fingerprint
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, read_json
from dnd.store.auxiliary import DESCRIPTOR_NAMES, auxiliary_values, fingerprint_places
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.schema import AUXILIARY_FIELDS, StoreRow
from dnd.store.settings import PrepareConfig
from dnd.store.writer import shard_name, write_shard

ALL = tuple(AUXILIARY_FIELDS)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, qm9_path: Path) -> Store:
    out = tmp_path_factory.mktemp("auxiliary") / "store"
    config = PrepareConfig(hydrogens="teacher_all_student_heavy", limit=24, shard_size=10, auxiliary=ALL)
    prepare([qm9_path], out, config)
    return Store.open(out)


def test_columns_come_back_for_any_rows_in_any_order(store: Store) -> None:
    assert store.auxiliary == ALL
    rows = np.array([17, 3, 3, 22])
    for name in ALL:
        values, offsets = store.read_auxiliary(name, rows)
        for place, row in enumerate(rows):
            alone, _ = store.read_auxiliary(name, np.array([row]))
            assert np.array_equal(values[offsets[place] : offsets[place + 1]], alone, equal_nan=True)


def test_values_are_those_of_rdkit(store: Store) -> None:
    row = np.array([11])
    mol = Chem.MolFromSmiles(store.smiles(row)[0])
    descriptors, _ = store.read_auxiliary("descriptors", row)
    names = store.manifest["descriptor_names"]
    assert names == list(DESCRIPTOR_NAMES)
    assert descriptors.dtype == np.float16
    assert descriptors[names.index("HeavyAtomCount")] == mol.GetNumHeavyAtoms()
    assert len(names) == len(Descriptors.descList)
    assert float(descriptors[names.index("log(1 + Ipc)")]) == pytest.approx(np.log1p(Descriptors.Ipc(mol)), rel=1e-3)
    charges, _ = store.read_auxiliary("charges", row)
    assert len(charges) == mol.GetNumAtoms() == store.atom_counts[11:12].item()
    surface, _ = store.read_auxiliary("surface", row)
    assert 80 < surface.sum() < 400  # square angstrom of nine heavy atoms
    places, _ = store.read_auxiliary("fingerprints", row)
    assert np.array_equal(places, fingerprint_places(mol))
    assert np.all(np.diff(places.astype(int)) >= 0)
    avalon, _ = store.read_auxiliary("avalon", row)
    assert np.array_equal(np.bincount(avalon, minlength=1024), fingerprint("avalon", mol))


def test_hydrogens_of_the_graph_have_their_own_values() -> None:
    methane = Chem.MolFromSmiles("C")
    square = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.63
    positions_A3 = np.concatenate([np.zeros((1, 3)), square])
    heavy = auxiliary_values(ALL, methane, positions_A3, explicit_hydrogens=False)
    every = auxiliary_values(ALL, methane, positions_A3, explicit_hydrogens=True)
    assert (len(heavy["charges"]), len(every["charges"])) == (1, 5)
    assert heavy["charges"][0] == every["charges"][0]
    assert abs(float(every["charges"].sum())) < 1e-3
    assert float(heavy["surface"][0]) == pytest.approx(float(every["surface"].astype(float).sum()), rel=2e-3)


def test_what_is_unknown_is_missing() -> None:
    metal = Chem.MolFromSmiles("[Na+].[Cl-]")
    values = auxiliary_values(ALL, metal, None, explicit_hydrogens=False)
    assert np.isnan(values["surface"]).all()
    assert len(values["surface"]) == 2
    huge = auxiliary_values(["descriptors"], Chem.MolFromSmiles("C" * 300), None, explicit_hydrogens=False)
    assert np.isfinite(huge["descriptors"][DESCRIPTOR_NAMES.index("BertzCT")])


def test_a_store_without_them_is_of_the_old_format_and_says_what_is_missing(tmp_path: Path, qm9_path: Path) -> None:
    prepare([qm9_path], tmp_path / "plain", PrepareConfig(limit=5))
    plain = Store.open(tmp_path / "plain")
    assert read_json(tmp_path / "plain" / MANIFEST)["format_version"] == 1
    assert plain.auxiliary == ()
    with pytest.raises(InputError, match="--auxiliary surface"):
        plain.read_auxiliary("surface", np.array([0]))
    with pytest.raises(ConfigError, match="Did you mean surface"):
        PrepareConfig(auxiliary=("surfaces",))


def test_a_shard_of_rejects_only_keeps_the_columns(tmp_path: Path, qm9_rows: list[StoreRow]) -> None:
    write_shard(tmp_path / shard_name(0), [], ALL)
    assert (tmp_path / shard_name(0)).stat().st_size > 0


def test_training_reads_them_without_rdkit(store: Store) -> None:
    code = (
        "import sys; from dnd.store.reader import Store; import numpy as np;"
        f"s = Store.open({str(store.path)!r}); s.read(np.arange(3)); s.read_auxiliary('charges', np.arange(3));"
        "assert not any(name.startswith('rdkit') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
