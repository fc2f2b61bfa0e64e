from __future__ import annotations

import math

import numpy as np
import pytest
from rdkit import Chem

from dnd.finetuning.evaluation import LIMIT_FOREST_WORK, Features, baselines, fit_forests
from dnd.predictor.classical.features import LIMIT_DESCRIPTOR, NUM_BITS, count_fingerprints, descriptors_2d
from dnd.predictor.metrics import score
from dnd.predictor.targets import Target
from finetuning_toys import molecules, other_spelling

MOLS = [Chem.MolFromSmiles(text) for text in molecules()]
SIZE = np.array([[float(mol.GetNumHeavyAtoms())] for mol in MOLS])
ROWS = np.arange(len(MOLS))
TRAIN, TEST = ROWS[ROWS % 4 != 0], ROWS[ROWS % 4 == 0]


def test_counts_count_environments():
    (counts,) = count_fingerprints([Chem.MolFromSmiles("CCCCCC")])
    assert counts.shape == (NUM_BITS,)
    assert counts.max() >= 4  # four equal CH2 groups at radius 0


def test_descriptors_are_finite_and_bounded_for_odd_molecules():
    odd = [Chem.MolFromSmiles(text) for text in ("[Na+].[Cl-]", "[He]", "C" * 200, "[Pt](Cl)(Cl)(N)N")]
    values = descriptors_2d(odd)
    assert np.isfinite(values).all()
    assert np.abs(values).max() <= LIMIT_DESCRIPTOR


@pytest.mark.parametrize("features", [count_fingerprints, descriptors_2d])
def test_features_do_not_depend_on_the_spelling(features):
    spellings = [Chem.MolFromSmiles(other_spelling(text, seed=3)) for text in molecules()[:10]]
    assert np.allclose(features(spellings), features(MOLS[:10]), rtol=1e-4, atol=1e-4)


def test_forest_beats_the_mean_which_has_no_skill():
    features = Features({"descriptors": descriptors_2d(MOLS)}, np.arange(len(MOLS)))
    found = baselines(features, [Target("size")], SIZE, TRAIN)
    mean, forest = (score("rmse", SIZE[TEST], found[name].predictions_BC[TEST]).value for name in found)
    assert list(found) == ["mean", "random_forest_descriptors"]
    assert forest < 0.3 * mean
    assert np.unique(found["mean"].predictions_BC) == pytest.approx(SIZE[TRAIN].mean())


def test_classes_with_missing_labels_and_a_target_of_one_class():
    targets = np.column_stack([SIZE[:, 0] > 7, np.ones(len(SIZE))]).astype(float)
    targets[::5, 0] = math.nan
    found = fit_forests(descriptors_2d(MOLS), targets, TRAIN, "classification")
    assert score("rocauc", targets[TEST], found.predictions_BC[TEST]).per_target[0] > 0.95
    assert (found.predictions_BC[:, 1] == 1).all()


def test_many_targets_get_smaller_forests_and_say_so():
    targets = np.repeat(SIZE, 300, axis=1)
    targets[:, 3:] = math.nan
    found = fit_forests(np.ones((len(SIZE), 2), np.float32), targets, TRAIN, "regression")
    assert found.settings["trees"] == LIMIT_FOREST_WORK // 300
