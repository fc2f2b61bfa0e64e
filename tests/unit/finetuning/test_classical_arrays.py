"""Classical models as arrays: scikit-learn's predictions, through a file; arrays that lead nowhere are refused."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import torch
from rdkit import Chem
from safetensors.torch import load, save
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel

from dnd.common.errors import CorruptFileError
from dnd.finetuning.classical import (
    SMALLEST_FOREST,
    FitOptions,
    Training,
    fit_member,
    trees_of,
    with_smaller_forests,
)
from dnd.predictor.classical import array_models
from dnd.predictor.classical.array_models import (
    Kernel,
    Linear,
    Scaling,
    Trees,
    Unary,
    constant,
    fit_kernel,
    from_forest,
    from_lightgbm,
    mean_of,
    squared_distance,
    tanimoto,
)
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, EMBEDDING, FIRST_SETS, FURTHER, Layout, features_of

ESOL = Path(__file__).parents[3] / "data/ogb/ogbg_molesol/mapping/mol.csv.gz"
LAYOUT = Layout()


@pytest.fixture(scope="module")
def esol() -> tuple[np.ndarray, np.ndarray]:
    """Features and standardised labels of every sixth molecule."""
    with gzip.open(ESOL, "rt", newline="") as stream:
        rows = list(csv.DictReader(stream))[::6]
    smiles = [Chem.CanonSmiles(row["smiles"]) for row in rows]
    labels = np.array([float(row["measured log solubility in mols per litre"]) for row in rows])
    return features_of(smiles, None).x_BF, (labels - labels.mean()) / labels.std()


def through_a_file(model):
    """What is left of a model after it was stored and read."""
    stored = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in model.arrays().items()}
    arrays = {name: tensor.numpy() for name, tensor in load(save(stored)).items()}
    return type(model).from_arrays(arrays, model.link, LAYOUT.width)


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestRegressor(15, random_state=0),
        ExtraTreesRegressor(15, max_features=0.3, min_samples_leaf=2, random_state=0),
        RandomForestClassifier(15, random_state=0),
        ExtraTreesClassifier(15, class_weight="balanced", random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.parametrize("missing", [False, True])
def test_trees_predict_what_scikit_learn_predicts(esol, estimator, missing: bool):
    x, y = esol
    columns = LAYOUT.columns(DESCRIPTORS)
    if missing:
        x = np.where(np.random.default_rng(0).random(x.shape) < 0.05, np.float32(np.nan), x)
    classes = hasattr(estimator, "classes_") or "Classifier" in type(estimator).__name__
    train = np.arange(len(y)) % 2 == 0
    estimator.fit(x[train][:, columns], (y > 0)[train] if classes else y[train])
    own = x[:, columns]
    expected = estimator.predict_proba(own)[:, 1] if classes else estimator.predict(own)
    trees = through_a_file(from_forest(estimator, columns, classes=classes))
    np.testing.assert_allclose(trees.predict(x), expected, atol=1e-6, rtol=0)
    assert trees.predict(x[:0]).shape == (0,)


LIGHT = {"num_leaves": 8, "min_data_in_leaf": 3, "num_threads": 1, "deterministic": True, "force_row_wise": True}


def boosted(x: np.ndarray, y: np.ndarray, objective: str, seed: int = 0) -> lightgbm.Booster:
    settings = {**LIGHT, "objective": objective, "seed": seed, "feature_fraction": 0.5, "verbose": -1}
    return lightgbm.train(settings, lightgbm.Dataset(x, y, params=settings), num_boost_round=20)


@pytest.mark.parametrize("objective", ["regression", "regression_l1", "binary"])
@pytest.mark.parametrize("missing", ["never", "in training", "later"])
def test_boosted_trees_predict_what_lightgbm_predicts(esol, objective: str, missing: str):
    x, y = esol
    columns = LAYOUT.columns(DESCRIPTORS)
    holed = np.where(np.random.default_rng(0).random(x.shape) < 0.05, np.float32(np.nan), x)
    train = np.arange(len(y)) % 2 == 0
    seen = (holed if missing == "in training" else x)[train][:, columns]
    booster = boosted(seen, (y > 0)[train].astype(float) if objective == "binary" else y[train], objective)
    asked = x if missing == "never" else holed
    trees = through_a_file(from_lightgbm(booster.model_to_string(), columns))
    np.testing.assert_allclose(trees.predict(asked), booster.predict(asked[:, columns]), atol=1e-6, rtol=0)
    assert len(np.unique(trees.predict(asked))) > 20


def test_boosted_trees_send_values_at_a_threshold_where_lightgbm_sends_them(esol):
    x, y = esol
    column = LAYOUT.columns(DESCRIPTORS)[:1]
    booster = boosted(x[:, column], y, "regression")
    trees = from_lightgbm(booster.model_to_string(), np.array([0]))
    at = np.unique(trees.number_X[trees.feature_X >= 0])
    near = np.concatenate([at, np.nextafter(at, np.float32(-9)), np.nextafter(at, np.float32(9))])[:, None]
    np.testing.assert_allclose(trees.predict(near), booster.predict(near), atol=1e-6)


def test_the_mean_over_seeds_is_that_of_the_raw_sums_and_keeps_every_tree(esol):
    x, y = esol
    columns = LAYOUT.columns(DESCRIPTORS)
    boosters = [boosted(x[:, columns], y, "regression", seed) for seed in range(3)]
    both = through_a_file(mean_of([from_lightgbm(booster.model_to_string(), columns) for booster in boosters]))
    expected = np.mean([booster.predict(x[:, columns]) for booster in boosters], axis=0)
    np.testing.assert_allclose(both.predict(x), expected, atol=1e-6)
    assert not both.is_mean


def test_a_value_on_a_threshold_goes_where_scikit_learn_sends_it():
    x = np.float32([[0.1], [0.2], [0.3], [0.4]]).repeat(2, axis=0)
    forest = RandomForestRegressor(20, random_state=0).fit(x, np.arange(8.0))
    thresholds = np.unique(np.concatenate([tree.tree_.threshold for tree in forest.estimators_]))
    at = thresholds.astype(np.float32)
    near = np.concatenate([at, np.nextafter(at, np.float32(-9)), np.nextafter(at, np.float32(9))])[:, None]
    trees = from_forest(forest, np.array([0]), classes=False)
    np.testing.assert_allclose(trees.predict(near), forest.predict(near), atol=1e-6)


def test_fewer_trees_are_the_mean_of_those_that_are_left(esol):
    x, y = esol
    columns = LAYOUT.columns(DESCRIPTORS)
    forest = ExtraTreesRegressor(6, random_state=0).fit(x[:, columns], y)
    expected = np.mean([tree.predict(x[:, columns]) for tree in forest.estimators_[:2]], axis=0)
    np.testing.assert_allclose(from_forest(forest, columns, classes=False).first(2).predict(x), expected, atol=1e-6)


def test_a_linear_model_predicts_what_scikit_learn_predicts(esol):
    x, y = esol
    scaling = Scaling.fit(x)
    z = scaling.apply(x).astype(np.float64)
    ridge = Ridge(50.0).fit(z, y)
    linear = through_a_file(Linear(scaling, ridge.coef_, float(ridge.intercept_), "identity"))
    np.testing.assert_allclose(linear.predict(x), ridge.predict(z), atol=1e-6)
    logistic = LogisticRegression(C=0.01, max_iter=50, tol=0.1).fit(z, y > 0)
    linear = through_a_file(Linear(scaling, logistic.coef_[0], float(logistic.intercept_[0]), "logit"))
    np.testing.assert_allclose(linear.predict(x), logistic.predict_proba(z)[:, 1], atol=1e-6)


def test_an_outlier_in_a_descriptor_moves_a_linear_model_by_five_deviations_at_most(esol):
    x, y = esol
    linear = fit_member("ridge", Training(x, y, LAYOUT, False, 1, 0))
    wild = x[:1].copy()
    wild[:, LAYOUT.columns(DESCRIPTORS)] = 1e6
    assert abs(linear.predict(wild)[0]) < 1e3


def test_the_gaussian_process_is_kernel_ridge_with_its_kernel(esol):
    x, y = esol
    counts, others = LAYOUT.columns(COUNTS), LAYOUT.columns(DESCRIPTORS)
    fitted = fit_kernel(x[:100], y[:100], counts, others, classes=False, seed=0)
    z = fitted.scaling.apply(x).astype(np.float64)
    gamma = 1 / (2 * fitted.length**2 * z.shape[1])
    bits = fitted.unary.bits(x)
    kernel = fitted.share * tanimoto(bits, bits) + (1 - fitted.share) * rbf_kernel(z, z, gamma=gamma)
    train = kernel[:100, :100]
    # alpha = scale (scale K + noise)^-1 (y - m) = (K + noise / scale)^-1 (y - m)
    strength = float(np.median((y[:100] - fitted.mean - train @ fitted.alpha_V) / fitted.alpha_V))
    ridge = KernelRidge(alpha=strength, kernel="precomputed").fit(train, y[:100] - fitted.mean)
    predicted = through_a_file(fitted).predict(x)
    np.testing.assert_allclose(predicted, ridge.predict(kernel[:, :100]) + fitted.mean, atol=1e-6)
    assert np.corrcoef(predicted[100:], y[100:])[0, 1] > 0.8


def test_beyond_a_limit_some_molecules_have_a_weight_and_all_fit_it(esol, monkeypatch):
    x, y = esol
    counts, others = LAYOUT.columns(COUNTS), LAYOUT.columns(DESCRIPTORS)
    exact = fit_kernel(x[:100], y[:100], counts, others, classes=False, seed=0)
    monkeypatch.setattr(array_models, "MOST_EXACT", 99)
    monkeypatch.setattr(array_models, "_BLOCK", 33)
    monkeypatch.setattr(array_models, "WEIGHTED", 100)  # with a weight for each it is the exact process again
    every = fit_kernel(x[:100], y[:100], counts, others, classes=False, seed=0)
    np.testing.assert_allclose(every.predict(x), exact.predict(x), atol=1e-3)
    monkeypatch.setattr(array_models, "WEIGHTED", 40)
    few = through_a_file(fit_kernel(x[:100], y[:100], counts, others, classes=False, seed=0))
    assert len(few.alpha_V) == 40
    kernel_MB = few.similarity(x[:100]).T
    own = few.similarity(x[np.flatnonzero((kernel_MB > 1 - 1e-6).any(axis=0))])  # the weighted molecules themselves
    assert own.shape == (40, 40)
    errors = [np.sqrt(np.mean((model.predict(x[100:]) - y[100:]) ** 2)) for model in (exact, few)]
    alone = fit_kernel(x[:40], y[:40], counts, others, classes=False, seed=0).predict(x[100:])
    assert errors[0] < errors[1] < np.sqrt(np.mean((alone - y[100:]) ** 2))


def test_the_similarity_of_counts_is_min_over_max():
    counts = np.random.default_rng(0).poisson(0.7, (12, 40)).clip(0, 4).astype(np.float32)
    unary = Unary(np.tile(np.arange(40), 4), np.repeat(np.arange(1, 5), 40).astype(np.float32))
    bits = unary.bits(counts)
    expected = np.minimum(counts[:, None], counts).sum(-1) / np.maximum(counts[:, None], counts).sum(-1)
    np.testing.assert_allclose(tanimoto(bits, bits), expected)
    np.testing.assert_allclose(np.diag(squared_distance(counts, counts)), 0, atol=1e-9)


def test_classes_stay_between_0_and_1_and_keep_their_order(esol):
    x, y = esol
    fitted = fit_kernel(
        x[:100], (y[:100] > 1).astype(float), LAYOUT.columns(COUNTS), LAYOUT.columns(DESCRIPTORS), classes=True, seed=0
    )
    predicted = fitted.predict(x)
    assert ((predicted > 0) & (predicted < 1)).all()
    assert len(np.unique(predicted)) > 150


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(
    "name", ["ridge", "forest_descriptors", "gaussian_process", "boosting", "forest_counts", "forest"]
)
def test_every_member_fits_a_handful_of_molecules_and_a_single_label_value(esol, name: str, classes: bool):
    x, y = esol
    few = (y[:6] > np.median(y[:6])).astype(float) if classes else y[:6]
    model = through_a_file(fit_member(name, Training(x[:6], few, LAYOUT, classes, 1, 0, FitOptions(trees=10))))
    assert np.isfinite(model.predict(x)).all()
    single = fit_member(name, Training(x[:6], np.ones(6), LAYOUT, classes, 1, 0, FitOptions(trees=10)))
    assert (single.predict(x) == 1).all()


def test_arrays_that_lead_nowhere_are_refused(esol):
    x, y = esol
    columns = LAYOUT.columns(DESCRIPTORS)
    trees = from_forest(ExtraTreesRegressor(3, random_state=0).fit(x[:, columns], y), columns, classes=False)
    arrays = trees.arrays()
    inner = int(np.flatnonzero(trees.feature_X >= 0)[0])
    far, none, wide = arrays["skip"].copy(), arrays["skip"].copy(), arrays["feature"].copy()
    far[inner], none[inner], wide[inner] = 60_000, 0, LAYOUT.width
    broken = [{"skip": far}, {"skip": none}, {"feature": wide}, {"starts": arrays["starts"] + 1}]
    for change in [*broken, {"number": arrays["number"][1:]}]:
        with pytest.raises(CorruptFileError):
            Trees.from_arrays({**arrays, **change}, "identity", LAYOUT.width)
    linear = constant(1.0).arrays()
    with pytest.raises(CorruptFileError):
        Linear.from_arrays({**linear, "columns": np.array([LAYOUT.width])}, "identity", LAYOUT.width)
    kernel = fit_kernel(x[:20], y[:20], LAYOUT.columns(COUNTS), columns, classes=False, seed=0).arrays()
    wrong = np.full_like(kernel["bit_columns"], LAYOUT.width)
    with pytest.raises(CorruptFileError):
        Kernel.from_arrays({**kernel, "bit_columns": wrong}, "identity", LAYOUT.width)


def test_the_layout_says_where_each_set_is():
    layout = Layout(16, FIRST_SETS + FURTHER)
    every = np.concatenate([layout.columns(name) for name in (EMBEDDING, DESCRIPTORS, COUNTS, *FURTHER)])
    assert (every == np.arange(layout.width)).all()
    assert layout.sets_of(np.array([3, layout.columns("erg")[-1], layout.columns("torsions")[0]])) == {
        EMBEDDING, "erg", "torsions",
    }  # fmt: skip
    assert Layout().sets_of(np.array([0])) == {DESCRIPTORS}
    wanted = (COUNTS, "avalon")
    x = features_of(["CCO", "c1ccccc1"], np.ones((2, 16), np.float32), layout, wanted=wanted).x_BF
    assert x.shape == (2, layout.width)
    assert (x[:, layout.columns(DESCRIPTORS)] == 0).all()
    for name in wanted:
        assert (x[:, layout.columns(name)].sum(axis=1) > 0).all()
    assert (x[:, :16] == 1).all()


def test_a_molecule_that_a_feature_is_refused_for_has_a_reason_and_the_others_have_their_features():
    crowded = "[U]" + "(C)" * 22  # more neighbours than Avalon's tables hold; descriptors and counts are fine
    layout = Layout(0, (*FIRST_SETS, "avalon"))
    found = features_of(["CCO", crowded, "CCN"], None, layout)
    assert list(found.refused) == [1]
    assert "Avalon" in found.refused[1]
    assert (found.x_BF[1] == 0).all()
    np.testing.assert_array_equal(found.x_BF[[0, 2]], features_of(["CCO", "CCN"], None, layout).x_BF)
    assert not features_of([crowded], None, layout, wanted=FIRST_SETS).refused


def test_forests_shrink_to_their_limit_whatever_the_other_members_take(esol):
    x_BF, y_B = esol
    training = Training(x_BF, y_B, LAYOUT, False, 1, 1, FitOptions(trees=40))
    names = ("forest_descriptors", "gaussian_process", "boosting", "forest_counts")
    members = [(fit_member(name, training),) for name in names]
    forests = [members[0][0], members[3][0]]
    whole = sum(model.num_bytes for model in forests)

    same, none_left_out = with_smaller_forests(members, whole)
    assert [models[0] for models in same] == [models[0] for models in members]
    assert none_left_out == 0

    halved, left_out = with_smaller_forests(members, whole // 2)
    assert halved[1][0] is members[1][0]  # the process, larger than the limit or not
    assert halved[2][0] is members[2][0]
    assert [halved[place][0].num_trees for place in (0, 3)] == [20, 20]
    assert left_out == 40
    assert np.allclose(halved[0][0].predict(x_BF), forests[0].first(20).predict(x_BF))

    smallest, _ = with_smaller_forests(members, 1)
    assert [smallest[place][0].num_trees for place in (0, 3)] == [SMALLEST_FOREST] * 2


def test_a_process_predicts_in_blocks_what_it_predicts_at_once(esol, monkeypatch: pytest.MonkeyPatch):
    x, y = esol
    counts, others = LAYOUT.columns(COUNTS), LAYOUT.columns(DESCRIPTORS)
    fitted = fit_kernel(x[:100], y[:100], counts, others, classes=False, seed=0)
    whole, seen = fitted.predict(x), []
    monkeypatch.setattr(array_models, "_BLOCK", 32)
    own = array_models.tanimoto
    monkeypatch.setattr(array_models, "tanimoto", lambda a, b: (seen.append(len(a)), own(a, b))[1])
    assert np.array_equal(fitted.predict(x), whole)
    assert max(seen) == 32
    assert sum(seen) == len(x)
    assert fitted.predict(x[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("trees", "targets", "expected"), [(5, 1, 5), (300, 1, 300), (300, 100, 30), (300, 1000, 10), (5, 1000, 5)]
)
def test_no_forest_has_more_trees_than_were_asked_for(trees: int, targets: int, expected: int):
    assert trees_of(FitOptions(trees=trees), targets) == expected
