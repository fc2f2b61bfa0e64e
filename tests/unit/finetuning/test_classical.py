from __future__ import annotations

import math

import numpy as np
import pytest
from rdkit import Chem

from dnd.finetuning import evaluation
from dnd.finetuning.evaluation import LIMIT_FOREST_WORK, Features, baselines, fit_forests
from dnd.predictor.classical.features import LIMIT_DESCRIPTOR, NUM_BITS, count_fingerprints, descriptors_2d
from dnd.predictor.metrics import score
from dnd.predictor.targets import Target, groups_of
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


def test_forests_learn_each_label_beside_its_own_features_where_a_row_in_between_was_refused():
    place_B = np.where(ROWS == 1, -1, ROWS)
    features = Features({"descriptors": descriptors_2d(MOLS)}, place_B)
    found = baselines(features, [Target("size")], SIZE, TRAIN)["random_forest_descriptors"]
    without = np.delete(ROWS, 1)
    own = Features({"descriptors": descriptors_2d([MOLS[row] for row in without])}, np.arange(len(without)))
    fewer = baselines(own, [Target("size")], SIZE[without], np.flatnonzero(np.isin(without, TRAIN)))
    expected_BC = fewer["random_forest_descriptors"].predictions_BC
    assert np.isnan(found.predictions_BC[1]).all()
    assert np.array_equal(found.predictions_BC[without], expected_BC)


@pytest.mark.parametrize("labelled", [0, 1, 20])
def test_a_target_of_several_classes_has_a_forest_only_where_there_are_two_of_them(labelled: int):
    names = ("low", "middle", "high")
    targets = [Target(f"size={name}", kind="multiclass", group="size", class_name=name) for name in names]
    labels = np.eye(3)[np.digitize(SIZE[:, 0], [6.5, 8.5])]
    labels[TRAIN[labelled:]] = math.nan
    found = fit_forests(descriptors_2d(MOLS), labels, TRAIN, "multiclass", groups=groups_of(targets)).predictions_BC
    assert np.isfinite(found).all()
    assert labelled == 20 or (found == found[0]).all()


def test_the_pilot_of_the_forests_sees_labelled_rows_from_all_over_the_table():
    labels = SIZE.repeat(10, axis=0)
    labels[:300] = math.nan  # as of a target of the second file
    features = Features({"descriptors": descriptors_2d(MOLS).repeat(10, axis=0)}, np.arange(len(labels)))
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        own = evaluation.fit_forests
        patch.setattr(evaluation, "fit_forests", lambda *given, **kept: (seen.append(given[2]), own(*given, **kept))[1])
        baselines(features, [Target("size")], labels, np.arange(len(labels)), budget_s=1000.0)
    pilot, whole = seen
    assert len(pilot) == 100
    assert pilot.min() >= 300
    assert np.ptp(pilot) > 200
    assert len(whole) == len(labels)
