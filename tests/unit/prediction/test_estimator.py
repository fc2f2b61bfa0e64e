"""Estimators on SMILES: scikit-learn's own checks where input may be text, pipelines, folds, clones, bad rows."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
from rdkit import Chem
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks

import dnd
from dnd import DndClassifier, DndEmbedder, DndRegressor
from dnd.common.errors import InputError
from dnd.common.files import write_manifest
from dnd.common.model_folder import FORMAT_VERSION
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student, save_encoder
from dnd.prediction.estimator_base import _parts, class_words
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import Predictor
from finetuning_toys import TINY, heavy_atoms, molecules, tiny_model

SETTINGS = dict(word.split("=") for word in TINY if word.split("=")[0] not in ("split", "baselines", "loop.device"))
SMILES = molecules()
SIZES = np.array([heavy_atoms(text) for text in SMILES], dtype=float)
RINGS = np.array(["aromatic" if "c1" in text else "other" for text in SMILES])

# The checks of scikit-learn that don't fit on random numbers; the others can't apply, as a SMILES is a text.
CHECKS = (
    "check_estimator_cloneable",
    "check_estimator_tags_renamed",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
    "check_estimators_unfitted",
    "check_do_not_raise_errors_in_init_or_set_params",
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("estimator") / "encoder"
    save_encoder(folder, build_student(StudentConfig("gine", 16, 2)).eval(), {"hydrogens": "heavy_both"}, "card")
    return folder


@pytest.fixture(scope="module")
def regressor() -> DndRegressor:
    return DndRegressor(recipe="small", settings=SETTINGS, device="cpu").fit(SMILES, SIZES)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("estimator", [DndRegressor(), DndClassifier(), DndEmbedder()], ids=lambda e: type(e).__name__)
def test_checks_of_scikit_learn(estimator: object, check: str):
    getattr(estimator_checks, check)(type(estimator).__name__, clone(estimator))


def test_predictions_keep_rows_and_bad_ones_are_nan(regressor: DndRegressor):
    values = regressor.predict([*SMILES[:3], "no molecule", None])
    assert values.shape == (5,)
    assert np.isnan(values).tolist() == [False] * 3 + [True] * 2
    assert np.isfinite(regressor.score(SMILES, SIZES))


def test_a_fit_is_repeatable_and_forms_of_x_are_one(regressor: DndRegressor):
    again = clone(regressor).fit(np.array(SMILES, dtype=object)[:, None], SIZES)
    assert np.array_equal(again.predict(np.array(SMILES)), regressor.predict(SMILES))


def test_it_survives_a_process_boundary(regressor: DndRegressor):
    copy = pickle.loads(pickle.dumps(regressor))  # as joblib sends estimators to workers
    assert np.array_equal(copy.predict(SMILES[:4]), regressor.predict(SMILES[:4]))


def test_many_targets_with_missing_labels():
    labels = np.stack([SIZES, np.where(np.arange(len(SIZES)) % 3, SIZES**2, np.nan)], axis=1)
    assert DndRegressor(recipe="small", settings=SETTINGS).fit(SMILES, labels).predict(SMILES[:2]).shape == (2, 2)


def test_classes_of_any_type():
    model = DndClassifier(recipe="small", settings=SETTINGS).fit(SMILES, RINGS)
    assert model.classes_.tolist() == ["aromatic", "other"]
    probabilities = model.predict_proba([*SMILES[:4], "x"])
    assert np.allclose(probabilities[:4].sum(axis=1), 1)
    assert np.isnan(probabilities[4]).all()
    assert set(model.predict(SMILES)) <= {"aromatic", "other"}
    with pytest.raises(ValueError, match="row 1 is not a valid molecule"):
        model.predict(["C", "x"])


def test_cross_validation():
    scores = cross_val_score(
        DndRegressor(recipe="small", settings={**SETTINGS, "loop.epochs": 1}), np.array(SMILES), SIZES, cv=2
    )
    assert np.isfinite(scores).all()


def test_embeddings_feed_a_pipeline(encoder: Path):
    pipeline = make_pipeline(DndEmbedder(encoder, device="cpu"), SimpleImputer(), Ridge(1e-3)).fit(SMILES, SIZES)
    assert pipeline.score(SMILES, SIZES) > 0.5
    embedder = pipeline[0]
    assert len(embedder.get_feature_names_out()) == 16
    vectors = embedder.transform(["CCO", "x"])
    assert vectors.shape == (2, 16)
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True]
    # With an imputer, which would make a number of it, a text that is no molecule must stop the pipeline.
    strict = make_pipeline(DndEmbedder(encoder, device="cpu", on_error="raise"), SimpleImputer(), Ridge(1e-3))
    with pytest.raises(ValueError, match="row 1 is not a valid molecule"):
        strict.fit(SMILES, SIZES).predict(["CCO", "junk"])


def test_what_a_fit_prints_is_about_the_data_and_not_about_its_own_table(capsys: pytest.CaptureFixture[str]):
    """The one molecule in the test part of its table is not evaluated, and its folder is gone afterwards."""
    model = DndRegressor(recipe="small", settings={**SETTINGS, "loop.epochs": "2"}, device="cpu", verbose=2)
    model.fit(SMILES, SIZES)
    said = capsys.readouterr()
    assert "epoch 1" in said.err
    assert "epoch 2" in said.err
    assert "test_" not in said.err
    assert "finetuned student" in said.out
    assert "typical error" not in said.out
    assert not any(line.startswith("model: ") for line in said.out.splitlines())
    assert model.predictor_.metrics["parts"]["test"]["rmse"] is None


@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        ("CCO", [1.0], "too few"),
        ([], [], "too few molecules: found 0"),
        (SMILES, SIZES[:-1], "differ in length"),
        (["C"] * 3, [1.0, 2.0, 3.0], "too few"),
        (["C"] * 20, [1.0, 2.0] * 10, "too few different molecules: found 1"),
        (SMILES, np.where(SIZES > 5, np.inf, 0), "finite"),
    ],
)
def test_bad_input_is_an_error_of_its_value_or_type(X: object, y: object, message: str):
    with pytest.raises((ValueError, TypeError), match=message):
        DndRegressor(recipe="small", settings=SETTINGS).fit(X, y)


def test_a_row_that_is_no_molecule_is_never_the_one_that_a_fit_sets_aside():
    """It was for one seed in so many, and the fit then spoke of a split column."""
    texts = [*SMILES[:20], "no molecule", "C1CC("]
    for seed in range(40):
        parts = _parts(texts, 0.1, seed, standardize=False)
        assert parts[20:] == ["train"] * 2
        assert {part: parts.count(part) for part in set(parts)} == {"train": 20, "valid": 1, "test": 1}


def test_what_holds_no_molecules_is_a_type_error_and_a_missing_class_is_named():
    for X, message in (
        ([["C", "C"]] * 20, "one SMILES per row"),
        (None, "expected one SMILES; the path"),
        ({}, "dict"),
    ):
        with pytest.raises(TypeError, match=message):
            DndRegressor(settings=SETTINGS).fit(X, [1.0] * 20)
    for missing in (float("nan"), None):
        with pytest.raises(ValueError, match="missing label in row 3"):
            DndClassifier(settings=SETTINGS).fit(SMILES[:20], ["low", "high", "low", missing, *["high"] * 16])


def test_the_words_of_classes_are_in_the_model(tmp_path: Path):
    labels = np.where(np.median(SIZES) < SIZES, "active", "inactive")
    model = DndClassifier(recipe="small", settings=SETTINGS, device="cpu").fit(SMILES, labels)
    assert model.classes_.tolist() == ["active", "inactive"]  # by the alphabet, the model has inactive first
    table = Predictor.load(model.save(tmp_path / "model")).predict(SMILES[:5])
    assert table["y_pred"] == model.predict(SMILES[:5]).tolist()
    assert np.allclose(table["y_prob_active"], model.predict_proba(SMILES[:5])[:, 0])
    (tmp_path / "model" / "estimator.json").unlink()
    write_manifest(tmp_path / "model", kind=KIND, format_version=FORMAT_VERSION)
    again = DndClassifier.from_folder(tmp_path / "model")  # as one that the command made
    assert again.classes_.tolist() == ["active", "inactive"]
    assert np.array_equal(again.predict_proba(SMILES[:5]), model.predict_proba(SMILES[:5]))


def test_words_that_a_table_would_change_stay_places():
    assert class_words(["high", "low"]) == ("high", "low")
    changed = (["high", "High"], ["none", "some"], ["1", "2"], [" a", "b"], [0, 1], [">5", "b"])
    for classes in (*changed, ["2024-01-01", "2024-02-01"], ["1 nM", "2 nM"], ["a", "b|c"]):
        assert class_words(classes) == (), classes


def test_more_than_two_classes():
    rings = np.array([text[-4:] for text in SMILES])
    settings = {**SETTINGS, "loop.epochs": 25, "loop.learning_rate": 1e-2}
    model = DndClassifier(recipe="small", settings=settings, device="cpu").fit(SMILES, rings)
    assert model.classes_.tolist() == sorted(set(rings))
    probabilities = model.predict_proba([*SMILES, "x"])
    assert probabilities.shape == (55, len(set(rings)))
    assert np.allclose(probabilities[:-1].sum(axis=1), 1)
    assert np.isnan(probabilities[-1]).all()
    assert model.score(SMILES, rings) > 0.5


def test_other_numbers_of_classes_are_refused():
    for labels in (["a"] * 54, [f"class {place % 51}" for place in range(54)]):
        with pytest.raises(ValueError, match="expected 2 to 50"):
            DndClassifier(recipe="small", settings=SETTINGS).fit(SMILES, labels)


def test_nothing_is_predicted_before_a_fit():
    for estimator, method in ((DndRegressor(), "predict"), (DndClassifier(), "predict"), (DndEmbedder(), "transform")):
        with pytest.raises(NotFittedError):
            getattr(estimator, method)(["C"])
    for more in ("return_std", "return_interval"):
        with pytest.raises(NotFittedError):
            DndRegressor().predict(["C"], **{more: True})


@pytest.mark.parametrize("settings", [["loop.epochs=1"], "loop.epochs=1", 3])
def test_settings_of_another_form_are_refused_by_name(settings: object, tmp_path: Path):
    said = r"settings is a (list|str|int); expected a mapping from names to values, such as {'loop\.epochs': 30}"
    with pytest.raises(TypeError, match=said):
        DndRegressor(recipe="small", settings=settings).fit(SMILES, np.arange(len(SMILES), dtype=float))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=said):
        dnd.finetune({"smiles": SMILES, "y": range(len(SMILES))}, "y", tmp_path / "m", settings=settings)  # type: ignore[arg-type]


def test_parameters_are_those_of_the_command():
    """The defaults are those of `dnd finetune`; every parameter reaches the settings."""
    assert DndRegressor().get_params()["recipe"] == DndClassifier().get_params()["recipe"] == "fast"
    model = DndRegressor(
        recipe="best", epochs=3, learning_rate=0.01, batch_size=8, loss="mse", transform="log", ensemble=2,
        time_limit="2m", jobs=1, random_state=7, settings={"blend.trees": 20},
    )  # fmt: skip
    encoder, config = model._choices()
    assert encoder == "dnd-base"
    loop = config.loop
    assert (loop.epochs, loop.learning_rate, loop.batch_size, loop.seed) == (3, 0.01, 8, 7)
    assert (config.loss, config.transform, config.ensemble, config.jobs) == ("mse", "log", 2, 1)
    assert (config.blend.time_limit_s, config.blend.trees) == (120.0, 20)
    assert DndClassifier(class_weight="balanced")._choices()[1].class_weights == "balanced"


def test_any_setting_can_have_a_grid():
    model = DndRegressor(recipe="small", settings=SETTINGS).set_params(**{"settings__loop.epochs": 1, "epochs": 2})
    assert model.get_params()["settings__loop.epochs"] == 1
    assert model.settings["student.width"] == SETTINGS["student.width"]
    assert clone(model).get_params() == model.get_params()
    search = GridSearchCV(model, {"settings__loop.epochs": [1, 2]}, cv=2).fit(SMILES, SIZES)
    assert search.best_params_["settings__loop.epochs"] in (1, 2)
    with pytest.raises(ValueError, match="Invalid parameter"):
        model.set_params(epoch=1)


def test_a_saved_regressor_is_a_model_folder(regressor: DndRegressor, tmp_path: Path):
    folder = regressor.save(tmp_path / "saved")
    again = DndRegressor.from_folder(folder, device="cpu")
    assert again.get_params() == regressor.get_params()
    assert np.array_equal(again.predict(SMILES), regressor.predict(SMILES))
    assert np.array_equal(dnd.load(folder, device="cpu").predict(SMILES)["y_pred"], regressor.predict(SMILES))
    assert np.array_equal(
        DndRegressor.from_folder(again.save(tmp_path / "twice")).predict(SMILES), again.predict(SMILES)
    )
    with pytest.raises(InputError, match="is not empty"):
        regressor.save(folder)
    with pytest.raises(InputError, match="does not fit a DndClassifier"):
        DndClassifier.from_folder(folder)
    with pytest.raises(InputError, match="does not fit a DndRegressor"):  # it ships, and is of values and classes
        DndRegressor.from_folder("dnd-properties", device="cpu")
    with pytest.raises(NotFittedError):
        DndRegressor().save(tmp_path / "unfitted")


def test_a_model_of_the_command_opens_as_an_estimator(tmp_path: Path):
    folder = tiny_model(tmp_path)
    found = DndRegressor.from_folder(folder, device="cpu").predict(SMILES)
    assert np.array_equal(found, dnd.load(folder, device="cpu").predict(SMILES)["size_pred"])


@pytest.mark.parametrize("labels", [RINGS, np.array([text[-4:] for text in SMILES])], ids=["two", "six"])
def test_a_saved_classifier_has_its_classes(labels: np.ndarray, tmp_path: Path):
    model = DndClassifier(recipe="small", settings=SETTINGS, device="cpu").fit(SMILES, labels)
    again = DndClassifier.from_folder(model.save(tmp_path / "saved"), device="cpu")
    assert again.classes_.tolist() == model.classes_.tolist()
    assert np.array_equal(again.predict_proba(SMILES), model.predict_proba(SMILES))
    assert np.array_equal(again.predict(SMILES), model.predict(SMILES))


def test_std_and_interval_are_those_of_the_model():
    model = DndRegressor(recipe="small", settings=SETTINGS, ensemble=2, validation_fraction=0.3, device="cpu")
    values, std, interval = model.fit(SMILES, SIZES).predict(["CCO", "x"], return_std=True, return_interval=True)
    assert np.array_equal(values, model.predict(["CCO", "x"]), equal_nan=True)
    assert interval[0, 0] <= values[0] <= interval[0, 1]
    assert std[0] > 0
    assert np.isnan([std[1], *interval[1]]).all()


def test_what_a_model_has_not_learned_is_refused(regressor: DndRegressor):
    with pytest.raises(ValueError, match=r"single member.*ensemble=3"):
        regressor.predict(["C"], return_std=True)
    with pytest.raises(ValueError, match="no interval"):
        regressor.predict(["C"], return_interval=True)


def test_a_weight_of_0_leaves_a_row_out_and_wrong_weights_are_refused(regressor: DndRegressor):
    weights = np.r_[np.full(len(SMILES) - 5, 2.0), np.zeros(5)]
    weighted = clone(regressor).fit(SMILES, SIZES, sample_weight=weights)
    without = clone(regressor).fit(SMILES[:-5], SIZES[:-5])
    assert np.array_equal(weighted.predict(SMILES), without.predict(SMILES))
    for wrong, message in ((-weights, "at least 0"), ([1.0], "per row"), (weights * np.nan, "finite")):
        with pytest.raises(ValueError, match=message):
            clone(regressor).fit(SMILES, SIZES, sample_weight=wrong)


def test_a_placeholder_is_refused_in_words_for_arrays():
    y = [float(heavy_atoms(text)) for text in SMILES]
    y[3] = -999.0
    one = DndRegressor(encoder="random", recipe="small", settings=SETTINGS)
    said = r"-999.0 at index 3, .*NaN where a label is missing, or settings={'labels.measured': '-999.0'}"
    with pytest.raises(InputError, match=said):
        one.fit(SMILES, y, sample_weight=[0, *[1] * (len(y) - 1)])
    one.set_params(**{"settings__labels.measured": "-999.0"}).fit(SMILES, y)


def test_names_of_columns_are_kept(tmp_path: Path):
    table = pandas.DataFrame({"structure": SMILES, "size": SIZES, "double": 2 * SIZES})
    model = DndRegressor(recipe="small", settings=SETTINGS, device="cpu").fit(
        table[["structure"]], table[["size", "double"]]
    )
    assert model.feature_names_in_.tolist() == ["structure"]
    assert [target.name for target in model.predictor_.targets] == ["size", "double"]
    assert DndRegressor.from_folder(model.save(tmp_path / "m")).feature_names_in_.tolist() == ["structure"]
    with pytest.raises(ValueError, match="'other'; it was 'structure'"):
        model.predict(pandas.DataFrame({"other": SMILES}))
    with pytest.raises(ValueError, match="different names"):
        model.fit(SMILES, pandas.DataFrame({"smiles": SIZES, "b": SIZES}))


def test_rdkit_molecules_are_molecules(regressor: DndRegressor):
    assert np.array_equal(regressor.predict([Chem.MolFromSmiles(text) for text in SMILES]), regressor.predict(SMILES))


def test_an_embedder_may_refuse_bad_rows(encoder: Path):
    with pytest.raises(ValueError, match="row 1 is not a valid molecule"):
        DndEmbedder(encoder, on_error="raise").fit(SMILES).transform(["C", "x"])
    with pytest.raises(ValueError, match="'nan' or 'raise'"):
        DndEmbedder(encoder, on_error="drop").fit(SMILES)


def test_load_is_the_predictor(tmp_path: Path):
    assert dnd.load(tiny_model(tmp_path)).predict(["CCO"]).to_pandas()["size_pred"].notna().all()


def test_windows_is_told_where_it_runs():
    code = "import sys; sys.platform = 'win32'; import dnd"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stderr.splitlines()[-1].startswith("ImportError: dnd runs on Linux and macOS; on Windows")


def test_the_import_stays_light():
    code = "import dnd, sys; assert not {'torch', 'sklearn', 'rdkit'} & set(sys.modules); dir(dnd)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
