"""Weights of rows: a label of weight 2 counts as two rows, in every fit, loss, blend and metric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from dnd import DndClassifier, DndRegressor
from dnd.common.config import load_config
from dnd.common.errors import ConfigError
from dnd.finetuning.blend_weights import blend_loss, fit_weights
from dnd.finetuning.classical import MEMBERS, FitOptions, Training, fit_member
from dnd.finetuning.finetune import finetune
from dnd.finetuning.objective import balanced_terms, balanced_weights, cross_entropy, masked_bce, masked_values
from dnd.finetuning.settings import FinetuneConfig
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, Layout
from dnd.predictor.metrics import class_scores, score
from dnd.predictor.targets import ClassGroup
from finetuning_toys import TINY, heavy_atoms, molecules

LAYOUT = Layout()
SETTINGS = dict(word.split("=") for word in TINY if word.split("=")[0] not in ("split", "baselines", "loop.device"))
SMILES = molecules()
SIZES = np.array([heavy_atoms(text) for text in SMILES], dtype=float)
TIMES = np.array([1, 2, 1, 3, 1, 1, 2, 1] * 5)  # whole weights, the median 1


def repeated(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Every row as often as it weighs, the copies behind all first rows."""
    return np.concatenate([values, *(values[weights > more] for more in range(1, int(weights.max())))])


def features(rows: int, seed: int = 0) -> np.ndarray:
    """Counts and descriptors, in the places that they have."""
    rng = np.random.default_rng(seed)
    x_BF = np.zeros((rows, LAYOUT.width), np.float32)
    counts, others = LAYOUT.columns(COUNTS), LAYOUT.columns(DESCRIPTORS)
    x_BF[:, counts[:60]] = rng.poisson(0.5, (rows, 60))
    x_BF[:, others[:12]] = rng.normal(size=(rows, 12))
    return x_BF


def labels_of(x_BF: np.ndarray, *, classes: bool) -> np.ndarray:
    others = LAYOUT.columns(DESCRIPTORS)
    values_B = x_BF[:, others[:4]].sum(axis=1).astype(np.float64) + np.random.default_rng(9).normal(size=len(x_BF)) / 2
    return (values_B > 0).astype(np.float64) if classes else values_B / values_B.std()


def training_of(x_BF: np.ndarray, y_B: np.ndarray, ids: np.ndarray, weight_B: np.ndarray | None) -> Training:
    classes = set(y_B) == {0.0, 1.0}
    return Training(x_BF, y_B, LAYOUT, classes, 1, 0, FitOptions(trees=20), ids, weight_B)


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("name", ["ridge", "gaussian_process"])
def test_a_member_without_chance_learns_from_weight_2_what_it_learns_from_two_rows(name: str, classes: bool):
    x_BF, ids = features(40), np.arange(40)
    y_B = labels_of(x_BF, classes=classes)
    heavy = fit_member(name, training_of(x_BF, y_B, ids, TIMES.astype(float)))
    twice = fit_member(name, training_of(*(repeated(own, TIMES) for own in (x_BF, y_B, ids)), None))
    plain = fit_member(name, training_of(x_BF, y_B, ids, None))
    of_heavy, of_twice, of_plain = (own.predict(features(30, seed=1)) for own in (heavy, twice, plain))
    near = 1e-2 if name == "ridge" and classes else 1e-8  # a logistic regression is left after a hundred steps
    assert np.abs(of_heavy - of_twice).max() < near
    assert np.abs(of_heavy - of_plain).max() > 2 * near


def test_beyond_the_exact_gaussian_process_weight_2_is_two_rows_too(monkeypatch: pytest.MonkeyPatch):
    x_BF, y_B = features(40), labels_of(features(40), classes=False)
    monkeypatch.setattr("dnd.predictor.classical.array_models.MOST_EXACT", 30)
    weighted, plain = (fit_member("gaussian_process", training_of(x_BF, y_B, np.arange(40), own)).predict(x_BF)
                       for own in (TIMES.astype(float), None))  # fmt: skip
    heavy_B = TIMES > 1
    assert np.square(weighted - y_B)[heavy_B].mean() < np.square(plain - y_B)[heavy_B].mean()


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("name", MEMBERS)
def test_every_member_follows_the_heavier_of_two_labels(name: str, classes: bool):
    """Each molecule is there twice, with opposite labels."""
    x_BF = features(60)
    y_B = labels_of(x_BF, classes=classes)
    both_B = np.concatenate([y_B, 1 - y_B if classes else -y_B])
    ids, both_BF = np.tile(np.arange(60), 2), np.concatenate([x_BF, x_BF])
    first, second = (
        fit_member(name, training_of(both_BF, both_B, ids, np.repeat(own, 60))).predict(x_BF)
        for own in ([10.0, 0.1], [0.1, 10.0])
    )
    truth = y_B - 0.5 if classes else y_B
    centre = 0.5 if classes else 0.0
    assert np.corrcoef(first - centre, truth)[0, 1] > 0.5
    assert np.corrcoef(second - centre, truth)[0, 1] < -0.5


def test_classes_that_shall_weigh_the_same_do_so_with_weights():
    x_BF, y_B = features(40), (np.arange(40) < 10).astype(float)
    options = FitOptions(trees=20, balanced=True)
    weight_B = TIMES.astype(float)
    own = Training(x_BF, y_B, LAYOUT, True, 1, 0, options, None, weight_B).row_weights
    assert own is not None
    assert own[y_B == 1].sum() == pytest.approx(own[y_B == 0].sum())
    assert own.sum() == pytest.approx(weight_B.sum())
    assert own[3] / own[0] == 3


TARGETS = torch.from_numpy(np.random.default_rng(3).normal(size=(40, 2))).where(
    torch.arange(80).view(40, 2) % 7 > 0, torch.nan
)
OUTPUTS = torch.from_numpy(np.random.default_rng(4).normal(size=(40, 2)))
WEIGHTS = torch.from_numpy(TIMES.astype(float))
TWICE = torch.from_numpy(repeated(np.arange(40), TIMES))
CLASSES = (TARGETS > 0).double().where(~TARGETS.isnan(), torch.nan)


@pytest.mark.parametrize("loss", ["l1", "huber", "mse"])
def test_losses_of_values_take_a_weight_as_so_many_rows(loss: str):
    weighted = masked_values(OUTPUTS, TARGETS, loss, WEIGHTS)  # type: ignore[arg-type]
    torch.testing.assert_close(weighted, masked_values(OUTPUTS[TWICE], TARGETS[TWICE], loss))  # type: ignore[arg-type]
    assert weighted != masked_values(OUTPUTS, TARGETS, loss)  # type: ignore[arg-type]


def test_losses_of_classes_take_a_weight_as_so_many_rows():
    weights_2C = balanced_weights(CLASSES, WEIGHTS)
    torch.testing.assert_close(weights_2C, balanced_weights(CLASSES[TWICE]), check_dtype=False)
    torch.testing.assert_close(
        masked_bce(OUTPUTS, CLASSES, weights_2C, WEIGHTS), masked_bce(OUTPUTS[TWICE], CLASSES[TWICE], weights_2C)
    )
    one_hot = torch.nn.functional.one_hot(torch.arange(40) % 2, 2).double()
    torch.testing.assert_close(
        cross_entropy(OUTPUTS, one_hot, None, WEIGHTS), cross_entropy(OUTPUTS[TWICE], one_hot[TWICE])
    )
    several = torch.hstack([TARGETS, one_hot]), torch.hstack([OUTPUTS, OUTPUTS])
    groups, is_class = [ClassGroup("g", ("a", "b"), 2)], torch.tensor([False, False, True, True])
    weighted = balanced_terms(several[1], several[0], is_class, groups, weight_B=WEIGHTS)
    twice = balanced_terms(several[1][TWICE], several[0][TWICE], is_class, groups)
    torch.testing.assert_close(weighted.loss, twice.loss)


@pytest.mark.parametrize("metric", ["rmse", "mae", "r2", "rocauc", "ap"])
def test_metrics_take_a_weight_as_so_many_rows(metric: str):
    labels = (CLASSES if metric in ("rocauc", "ap") else TARGETS).numpy()
    values = OUTPUTS.numpy().round(1)  # with ties
    rows, weight_B = TWICE.numpy(), WEIGHTS.numpy()
    assert score(metric, labels, values, weight_B).per_target == pytest.approx(
        score(metric, labels[rows], values[rows]).per_target
    )
    assert score(metric, labels, values, np.ones(40)).per_target == pytest.approx(
        score(metric, labels, values).per_target
    )


def test_metrics_of_several_classes_take_a_weight_as_so_many_rows():
    truth = np.eye(3)[np.arange(40) % 3]
    likely = np.random.default_rng(5).dirichlet([1, 1, 1], 40)
    rows = TWICE.numpy()
    assert class_scores(truth, likely, WEIGHTS.numpy()) == pytest.approx(class_scores(truth[rows], likely[rows]))


@pytest.mark.parametrize("metric", [None, "mae", "spearman", "auroc", "auprc"])
def test_a_blend_takes_a_weight_as_so_many_rows(metric: str | None):
    kind = "classification" if metric in ("auroc", "auprc") else "regression"
    rng = np.random.default_rng(6)
    labels = rng.normal(size=(40, 1))
    members = np.stack([labels + scale * rng.normal(size=(40, 1)) for scale in (0.7, 1.0, 1.3)])
    if kind == "classification":
        labels, members = (labels > 0).astype(float), 1 / (1 + np.exp(-members))
    rows, ones = TWICE.numpy(), np.ones(1)
    found = fit_weights(members, labels, [kind], ones, metric, WEIGHTS.numpy())  # type: ignore[arg-type, list-item]
    twice = fit_weights(members[:, rows], labels[rows], [kind], ones, metric)  # type: ignore[arg-type, list-item]
    plain = fit_weights(members, labels, [kind], ones, metric)  # type: ignore[arg-type, list-item]
    np.testing.assert_allclose(found, twice, atol=1e-4)
    assert np.abs(found - plain).max() > 1e-3
    losses = [
        blend_loss(members[0], labels, [kind], ones, WEIGHTS.numpy()),
        blend_loss(members[0][rows], labels[rows], [kind], ones),
    ]  # type: ignore[list-item]
    assert losses[0] == pytest.approx(losses[1])


# Whole models, through the estimators.

ALONE = {"blend.classical": "ridge", "blend.folds": "3", "jobs": "1"}
MANY = np.arange(len(SMILES)) % 5 == 0


@pytest.mark.parametrize("member", ["ridge", "gaussian_process"])
def test_an_estimator_learns_from_weight_2_what_it_learns_from_two_rows(member: str):
    model = DndRegressor(encoder="random", recipe="fast", settings={**ALONE, "blend.classical": member}, device="cpu")
    y = SIZES + np.random.default_rng(0).normal(size=len(SIZES))
    heavy = clone(model).fit(SMILES, y, sample_weight=np.where(MANY, 6.0, 3.0)).predict(SMILES)
    more = [text for text, own in zip(SMILES, MANY, strict=True) if own]
    twice = clone(model).fit([*SMILES, *more], [*y, *y[MANY]]).predict(SMILES)
    plain = clone(model).fit(SMILES, y).predict(SMILES)
    np.testing.assert_allclose(heavy, twice, atol=1e-6)
    assert np.abs(heavy - plain).max() > 1e-3


@pytest.mark.parametrize("recipe", ["small", pytest.param("best", marks=pytest.mark.slow)])
def test_equal_weights_change_nothing_and_their_unit_does_not_matter(recipe: str):
    settings = {**SETTINGS, **({"blend.trees": "10", "blend.folds": "2", "ensemble": "2"} if recipe == "best" else {})}
    model = DndRegressor(encoder="random", recipe=recipe, settings=settings, device="cpu")
    plain = clone(model).fit(SMILES, SIZES).predict(SMILES)
    equal = clone(model).fit(SMILES, SIZES, sample_weight=np.full(len(SMILES), 0.3)).predict(SMILES)
    assert np.array_equal(plain, equal)
    weights = np.where(MANY, 5.0, 1.0)
    one, other = (clone(model).fit(SMILES, SIZES, sample_weight=unit * weights) for unit in (1.0, 256.0))
    assert np.array_equal(one.predict(SMILES), other.predict(SMILES))
    assert not np.array_equal(one.predict(SMILES), plain)
    assert any("weights of the rows: 1.00 to 5.00" in note for note in one.predictor_.metrics["notes"])


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("recipe", ["small", pytest.param("best", marks=pytest.mark.slow)])
def test_a_classifier_follows_the_heavier_labels(recipe: str, classes: int):
    """Every molecule is there twice: its class by its size, light, and the next class, heavy."""
    # Of four validation molecules a ROC-AUC chooses any epoch.
    settings = {**SETTINGS, "loop.epochs": "30", "loop.warmup_epochs": "1", "select_by": "loss"}
    settings |= {"blend.trees": "10", "blend.folds": "2", "ensemble": "1"} if recipe == "best" else {}
    place = np.searchsorted(np.quantile(SIZES, np.arange(1, classes) / classes), SIZES)
    y = np.array(["low", "mid", "top"])[np.concatenate([place, (place + 1) % classes])]
    model = DndClassifier(encoder="random", recipe=recipe, settings=settings, device="cpu")
    said = model.fit([*SMILES, *SMILES], y, sample_weight=np.repeat([0.05, 1.0], len(SMILES))).predict(SMILES)
    light, heavy = ((said == own).mean() for own in np.split(y, 2))
    assert heavy > 0.5 > 0.3 > light


def test_weights_of_very_different_sizes_are_fitted():
    """Copies of a molecule with hardly any noise, and rows that weigh next to nothing."""
    x_BF = np.concatenate([features(20), features(20)])
    y_B = labels_of(x_BF, classes=False)
    weight_B = np.where(np.arange(40) % 3, 1.0, 1e14)
    weight_B[1::6] = 1e-14
    for name in MEMBERS:
        fitted = fit_member(name, training_of(x_BF, y_B, np.tile(np.arange(20), 2), weight_B))
        assert np.isfinite(fitted.predict(x_BF)).all(), name


def test_out_of_fold_metrics_are_weighted():
    """Labels that can't be learned weigh next to nothing, so the error out of fold is that of the others."""
    y = np.where(MANY, SIZES + 50 * np.random.default_rng(1).normal(size=len(SIZES)), SIZES)
    model = DndRegressor(encoder="random", recipe="fast", settings=ALONE, device="cpu")
    light, plain = (
        clone(model).fit(SMILES, y, sample_weight=own).predictor_.metrics["parts"]["train"]["rmse"]
        for own in (np.where(MANY, 1e-3, 1.0), None)
    )
    assert light < 0.2 * plain


@pytest.mark.parametrize("word", ["replicates=mean"])
def test_weights_of_merged_rows_are_refused_in_one_line(tmp_path: Path, word: str):
    (tmp_path / "t.csv").write_text("smiles,y\n" + "".join(f"{text},{i}\n" for i, text in enumerate(SMILES)))
    config = load_config(FinetuneConfig, "small", [*TINY, word], stage="finetune")
    with pytest.raises(ConfigError, match="weights are for the rows of one table"):
        finetune(tmp_path / "t.csv", tmp_path / "m", ["y"], config, encoder="random", weights=np.ones(len(SMILES)))
