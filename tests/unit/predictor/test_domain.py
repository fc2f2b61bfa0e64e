"""The applicability domain: distances against plain formulas, reasons, training molecules inside, strangers outside."""

from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem import AllChem, rdFingerprintGenerator

from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.predictor.applicability_domain import Domain, fit_domain, similarity_out_of_fold
from finetuning_toys import molecules, other_spelling

SMILES = [parse_smiles(text).smiles for text in molecules()]


def vectors(smiles: list[str]) -> np.ndarray:
    """Something that depends on the molecule alone: atoms, rings, heteroatoms."""
    mols = [Chem.MolFromSmiles(text) for text in smiles]
    return np.array(
        [[m.GetNumAtoms(), m.GetRingInfo().NumRings(), AllChem.CalcNumHeteroatoms(m), 1.0] for m in mols], float
    )


@pytest.fixture(scope="module")
def domain() -> Domain:
    found = fit_domain(SMILES, lambda rows: vectors([SMILES[row] for row in rows]))
    assert found is not None
    return found


def judge(domain: Domain, *smiles: str) -> list[str]:
    canonical = [found.smiles for found in map(parse_smiles, smiles) if isinstance(found, Molecule)]
    return domain.reasons(canonical, vectors(list(smiles)))


def test_training_molecules_are_inside_in_any_spelling(domain: Domain):
    assert judge(domain, *SMILES) == [""] * len(SMILES)
    assert judge(domain, *(other_spelling(text, 1) for text in SMILES)) == [""] * len(SMILES)


def test_thresholds_are_those_of_the_training_molecules(domain: Domain):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in SMILES]
    nearest = [max(DataStructs.TanimotoSimilarity(one, other) for other in bits if other is not one) for one in bits]
    assert domain.limits.least_similarity == pytest.approx(np.quantile(nearest, 0.01))
    scaled = vectors(SMILES)
    scaled /= np.where(scaled.std(axis=0) > 0, scaled.std(axis=0), 1)
    distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=2) + np.diag(np.full(len(SMILES), np.inf))
    assert domain.limits.largest_distance == pytest.approx(np.quantile(distances.min(axis=1), 0.99), abs=1e-3)


def test_a_dimension_that_hardly_varies_leaves_the_distances_of_the_others():
    generator = np.random.default_rng(0)
    own = np.hstack([generator.normal(size=(len(SMILES), 3)), 80.0 + 1e-3 * generator.normal(size=(len(SMILES), 1))])
    rounding = 80.0 + 8e-6 * generator.integers(-1, 2, size=(len(SMILES), 1))  # of a constant in single precision
    own = np.hstack([own, rounding])
    found = fit_domain(SMILES, lambda rows: own[rows].astype(np.float32))
    assert found is not None
    scaled = own[:, :4] / own[:, :4].std(axis=0)
    distances = np.linalg.norm(scaled[:, None] - scaled[None], axis=2)
    nearest = np.quantile((distances + np.diag(np.full(len(SMILES), np.inf))).min(axis=1), 0.99)
    assert found.limits.largest_distance == pytest.approx(nearest, abs=2e-2)  # 80 has digits up to 1e-5 only
    assert found.reasons(SMILES[:1], own[:1]) == [""]
    assert "representation" in found.reasons(SMILES[:1], own[:1] + np.array([0.0, 0.0, 0.0, 0.02, 0.0]))[0]


def test_similarity_out_of_fold_is_that_to_the_molecules_of_other_folds(domain: Domain):
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    bits = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in SMILES]
    folds, others = np.arange(len(SMILES)) % 3, ["CCCCBr", "c1ccccc1I"]
    found, of_others = similarity_out_of_fold(SMILES, folds, others)
    for row, fold in enumerate(folds):
        nearest = max(DataStructs.BulkTanimotoSimilarity(bits[row], [bits[k] for k in np.flatnonzero(folds != fold)]))
        assert found[row] == pytest.approx(nearest)
    assert np.array_equal(of_others, domain.judge(others, vectors(others))[1])  # as a new molecule is compared
    assert np.isnan(similarity_out_of_fold(SMILES[:3], np.zeros(3, int), [])[0]).all()


@pytest.mark.parametrize(
    ("smiles", "reason"),
    [
        ("C[Se]Cc1ccccc1", "no training molecule has Se"),
        ("C" * 60, "60 heavy atoms"),
        ("C" * 60, "representation"),
        ("O=S(=O)(F)N(F)F", "similarity 0."),
    ],
)
def test_strangers_are_outside_with_a_reason(domain: Domain, smiles: str, reason: str):
    assert reason in judge(domain, smiles)[0]


def test_duplicates_count_once_and_too_few_molecules_have_no_domain():
    def embed(rows: np.ndarray) -> np.ndarray:
        return np.ones((len(rows), 2))

    assert fit_domain(["C", "CC", "CCC", "CO"] * 10, embed) is None
    found = fit_domain([*SMILES, *SMILES], embed)
    assert found is not None
    assert found.limits.training_molecules == len(SMILES)
    assert found.limits.largest_distance == 0


def test_nothing_to_judge(domain: Domain):
    assert domain.reasons([], np.empty((0, 4))) == []
