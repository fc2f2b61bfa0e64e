"""Transforms of skewed targets: as in scikit-learn, undone exactly, chosen by training labels, kept with a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.preprocessing import PowerTransformer

import dnd
from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import read_json
from dnd.finetuning import tasks
from dnd.finetuning.tasks import choose_transforms, fit_targets, fit_transform
from dnd.predictor.metrics import significant
from dnd.predictor.targets import Target, Transform
from dnd.predictor.uncertainty.calibration import sentences
from dnd.predictor.uncertainty.fitting import calibrate
from dnd.predictor.uncertainty.intervals import Predicted
from finetuning_toys import heavy_atoms, molecules, quietly, tiny_config, write_csv

GENERATOR = np.random.default_rng(0)
LOGNORMAL = np.exp(GENERATOR.normal(size=500))
BOTH_SIGNS = LOGNORMAL - 1.0
EVERY = [np.arange(500)]


def test_yeo_johnson_is_that_of_scikit_learn_on_scaled_labels():
    found = fit_transform("yeo-johnson", BOTH_SIGNS)
    scaled = ((BOTH_SIGNS - BOTH_SIGNS.mean()) / BOTH_SIGNS.std())[:, None]
    reference = PowerTransformer(standardize=False).fit(scaled)
    assert found.power == pytest.approx(max(0.0, float(reference.lambdas_[0])))
    if reference.lambdas_[0] > 0:
        np.testing.assert_allclose(found.forward(BOTH_SIGNS), reference.transform(scaled)[:, 0])
    other = Transform("yeo-johnson", 2.0, 3.0, 0.7)
    reference.lambdas_ = np.array([0.7])
    np.testing.assert_allclose(other.forward(BOTH_SIGNS), reference.transform((BOTH_SIGNS[:, None] - 2) / 3)[:, 0])


@pytest.mark.parametrize("power", [0.0, 0.3, 1.0, 1.8, 2.0])
def test_a_map_is_monotone_and_its_inverse_undoes_it_on_the_whole_line(power: float):
    one = Transform("yeo-johnson", centre=5.0, width=2.0, power=power)
    values = np.linspace(-300, 300, 1001)
    mapped = one.forward(values)
    assert (np.diff(mapped) > 0).all()
    np.testing.assert_allclose(one.inverse(mapped), values, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("factor", [1e-9, 1e6])
@pytest.mark.parametrize("name", ["log", "yeo-johnson"])
def test_the_unit_does_not_matter(name: str, factor: float):
    one, other = (fit_targets(y[:, None], ["y"], [], ["regression"], standardise=True, transforms=[name])[0]
                  for y in (LOGNORMAL, factor * LOGNORMAL))  # fmt: skip
    np.testing.assert_allclose(one.scaled(LOGNORMAL), other.scaled(factor * LOGNORMAL), rtol=1e-3, atol=1e-3)


def test_labels_are_learned_in_deviations_and_a_prediction_stays_near_the_training_range():
    (target,) = fit_targets(LOGNORMAL[:, None], ["y"], ["mM"], ["regression"], standardise=True, transforms=["log"])
    scaled = target.scaled(LOGNORMAL)
    assert (scaled.mean(), scaled.std()) == pytest.approx((0, 1))
    np.testing.assert_allclose(target.raw(scaled), LOGNORMAL)
    assert np.isnan(target.scaled(np.array([np.nan]))).all()
    deviation = np.log(LOGNORMAL).std()
    low, high = target.raw(np.array([-100.0, 100.0]))
    assert (low, high) == pytest.approx((LOGNORMAL.min() / np.exp(deviation), LOGNORMAL.max() * np.exp(deviation)))
    assert Target("y", "mM").with_scale(target.scale()) == target


def test_auto_maps_skewed_targets_only_and_says_so():
    symmetric, classes = GENERATOR.normal(size=500), np.tile([0.0, 1.0], 250)
    outliers = np.where(np.arange(500) < 3, 1e9, symmetric)  # no map helps
    labels = np.stack([LOGNORMAL, BOTH_SIGNS - 0.1, symmetric, outliers, classes], axis=1)
    kinds = ["regression"] * 4 + ["classification"]
    found, lines = choose_transforms("auto", labels, ["a", "b", "c", "d", "e"], kinds, EVERY)
    assert found == ("log", "yeo-johnson", "none", "none", "none")
    assert "target a: learned as its logarithm" in lines[0]
    assert "transform=none overrules this" in lines[0]
    assert "no transform of d: its skewness is 12.8, but a logarithm needs labels above 0 (found -" in lines[2]
    assert lines[2].endswith("and its Yeo-Johnson map leaves a skewness of 12.8")
    assert lines[3].startswith("no transform of c (skewness")
    assert lines[3].endswith("): the skewness is below 2")
    positive = np.where(np.arange(500) < 3, 1e9, 10 + symmetric)[:, None]
    (said,) = choose_transforms("auto", positive, ["y"], ["regression"], EVERY)[1]
    assert "but its logarithm leaves a skewness of" in said
    assert choose_transforms(None, labels, list("abcde"), kinds, EVERY) == (("none",) * 5, [])


def test_a_skewness_just_below_the_limit_is_not_said_to_be_the_limit():
    normal = stats.norm.ppf(np.linspace(0.001, 0.999, 500))
    curves = (np.exp(width * normal) for width in np.linspace(0.3, 0.7, 400))
    labels = next(one for one in curves if 1.96 < stats.skew(one) < 2)[:, None]
    (said,) = choose_transforms("auto", labels, ["y"], ["regression"], EVERY)[1]
    assert said.startswith("no transform of y (skewness 1.9): the skewness is below 2")


def test_labels_over_a_decade_that_are_a_bit_skewed_come_with_the_setting_that_takes_their_logarithm():
    few, fifty = [np.arange(50)], np.arange(50)
    labels = np.geomspace(5, 200, 50)[:, None]
    (said,) = choose_transforms("auto", labels, ["CLint"], ["regression"], few)[1]
    assert said.endswith("below 2; transform=log overrules this for CLint, whose labels span a factor of 40.0")
    found, (said,) = choose_transforms("auto", labels, ["CLint"], ["regression"], few, "mae")
    assert found == ("log",)
    assert "learned as its logarithm, skewness -0.0 of 50 training labels instead of 1.2" in said
    (said,) = choose_transforms("auto", 5.0 + 4 * fifty[:, None], ["CLint"], ["regression"], few)[1]
    assert said.endswith("the skewness is below 2")
    (said,) = choose_transforms("auto", 5.0 + 4 * fifty[:, None], ["CLint"], ["regression"], few, "mae")[1]
    assert said.endswith("the skewness is below 1")


def test_no_map_is_fitted_to_labels_that_are_hardly_skewed(monkeypatch: pytest.MonkeyPatch):
    labels = GENERATOR.normal(size=(500, 1))
    fitted = list[str]()
    monkeypatch.setattr(
        tasks, "fit_transform", lambda name, labels_B: fitted.append(name) or fit_transform(name, labels_B)
    )
    found, (line,) = choose_transforms("auto", labels, ["y"], ["regression"], EVERY)
    assert (found, fitted) == (("none",), [])
    assert "no transform of y (skewness" in line
    found, (line,) = choose_transforms("yeo-johnson", labels, ["y"], ["regression"], EVERY)
    assert (found, fitted) == (("yeo-johnson",), ["yeo-johnson"])
    assert line.endswith("(as asked for)")


def test_only_training_labels_choose_and_every_fold_must_agree():
    labels = np.concatenate([GENERATOR.normal(10, 1, size=500), LOGNORMAL])[:, None]
    plain, skewed = np.arange(500), np.arange(500, 1000)
    assert choose_transforms("auto", labels, ["y"], ["regression"], [plain])[0] == ("none",)
    assert choose_transforms("auto", labels, ["y"], ["regression"], [skewed])[0] == ("log",)
    assert choose_transforms("auto", labels, ["y"], ["regression"], [skewed, plain])[0] == ("none",)


def test_what_has_no_logarithm_is_refused():
    with pytest.raises(InputError, match=r"target y can't be log-transformed.*yeo-johnson"):
        choose_transforms("log", BOTH_SIGNS[:, None], ["y"], ["regression"], EVERY)
    with pytest.raises(ConfigError, match="targets=raw can't be combined with a transform"):
        tiny_config("targets=raw", "transform=log")


def test_an_interval_is_learned_in_the_scale_of_the_map_and_covers_in_the_unit_of_the_target():
    noisy = (LOGNORMAL * np.exp(0.3 * GENERATOR.normal(size=500)))[:, None]
    log = fit_transform("log", LOGNORMAL)
    _, found = calibrate(
        [(Split(*np.split(np.arange(500), [50, 300])), noisy)], LOGNORMAL[:, None], ["regression"], transforms=[log]
    )
    low, high = found.targets[0].chosen.intervals.apply(Predicted(noisy[300:, 0], transform=log)).T
    inside = (low <= LOGNORMAL[300:]) & (LOGNORMAL[300:] <= high)
    assert found.targets[0].judged.measured == pytest.approx(inside.mean())
    assert 0.84 < inside.mean() < 0.96
    assert (low > 0).all()
    factor = high / noisy[300:, 0]
    assert np.allclose(factor, factor[0])
    width = significant(float(factor[0]))
    (line,) = sentences(found, ["y"], ["regression"], "somewhere", [log])
    assert line.startswith(
        f"y: interval from the prediction / {width} to the prediction × {width}, made for 90% coverage"
    )


@pytest.mark.parametrize("recipe", [(), ("blend.classical=ridge", "blend.students=false", "blend.folds=3")])
def test_a_model_of_a_mapped_target_predicts_in_its_unit_after_loading(tmp_path: Path, recipe: tuple[str, ...]):
    smiles = molecules()
    noise = np.random.default_rng(1).normal(size=len(smiles))
    labels = [float(np.exp(heavy_atoms(text) + extra)) for text, extra in zip(smiles, noise, strict=True)]
    data = write_csv(tmp_path / "skewed.csv", {"smiles": smiles, "y": labels})
    quietly(data, tmp_path / "model", ["y"], "transform=auto", "fractions=0.4,0.4,0.2", "units=nM", *recipe)
    config, target = read_json(tmp_path / "model" / "config.json"), read_json(tmp_path / "model" / "metrics.json")
    assert config["targets"][0]["transform"]["name"] == "log"
    assert target["targets"][0]["transform"] == "log"
    table = dnd.load(tmp_path / "model", device="cpu").predict([*smiles, "x"])
    values, low, high = (np.asarray(table[f"y_{end}"])[:-1] for end in ("pred", "low", "high"))
    assert (values > 0).all() and (low > 0).all()  # noqa: PT018
    np.testing.assert_allclose(values / low, high / values, rtol=1e-6)
    assert np.isnan(table["y_pred"][-1])
    saved = np.genfromtxt(
        tmp_path / "model" / "test_predictions.csv", delimiter=",", names=True, dtype=None, encoding=None
    )
    places = [smiles.index(row) for row in np.atleast_1d(saved["smiles"])]
    np.testing.assert_allclose(np.atleast_1d(saved["y_pred"]), values[places], rtol=1e-4)
