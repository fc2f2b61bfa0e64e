"""`benchmarks/handedness.py`: labels of mirror images, and a page that is drawn from its lines."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from benchmark_scripts import load_script, require_page_of_lines


@pytest.fixture(scope="module")
def handedness() -> ModuleType:
    return load_script("handedness")


def test_a_reflection_exchanges_r_and_s(handedness: ModuleType) -> None:
    molecules = list(handedness.read_molecules(40))
    assert sum(len(molecule.centres) for molecule in molecules) > 20
    for molecule in molecules:
        centres, is_r = handedness.cip_labels(molecule.smiles.decode(), molecule.positions * handedness.MIRROR)
        assert np.array_equal(centres, molecule.centres)
        assert np.array_equal(is_r, ~molecule.is_r)


@pytest.mark.parametrize("chiral", [False, True])
def test_only_a_chiral_teacher_sees_the_mirror_image(handedness: ModuleType, chiral: bool) -> None:
    molecules = [molecule for molecule in handedness.read_molecules(30) if len(molecule.centres)]
    features, is_r = handedness.centres_of(handedness.random_teacher(chiral, 1), molecules)
    hand, other = np.split(features, 2)
    assert np.array_equal(np.split(is_r, 2)[0], ~np.split(is_r, 2)[1])
    difference = np.abs(hand - other).max(axis=1)
    assert (difference > 1e-3).all() if chiral else (difference < 1e-5).all()


def test_the_parts_share_no_constitution(handedness: ModuleType) -> None:
    chem = pytest.importorskip("rdkit.Chem")
    flat = [
        {chem.MolToSmiles(chem.MolFromSmiles(molecule.smiles.decode()), isomericSmiles=False) for molecule in part}
        for part in handedness.parts(handedness.read_molecules(1250))
    ]
    assert len(flat[0]) == 875
    assert len(flat[1]) == 375
    assert not flat[0] & flat[1]


def test_the_page_shows_its_lines(handedness: ModuleType) -> None:
    require_page_of_lines(handedness, 3 * len(handedness.TEACHERS) * len(handedness.PROBES))
