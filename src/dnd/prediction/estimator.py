"""scikit-learn estimators on SMILES: `DndRegressor`, `DndClassifier`, and `DndEmbedder` as a transformer.

`X` is whatever `as_molecules` takes: a list, an array, a Series or a table, with a SMILES or an RDKit molecule per row.
Nothing here computes: fitting is `dnd finetune` on a table in a temporary folder, so an estimator and the command line
give the same model.
"""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import (
    BaseEstimator,
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted

from dnd.chemistry.parse import parse_smiles
from dnd.chemistry.splits import rows_of_molecules
from dnd.common.config import load_config, recipe_names
from dnd.common.randomness import derive_seed
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.students import encoder_choice
from dnd.models.students.encoders import DEFAULT_ENCODER
from dnd.prediction.embedder import load_embedder
from dnd.predictor.predictor import Predictor
from dnd.tables.from_python import as_molecules
from dnd.tables.labels import MOST_CLASSES

FEWEST = 10


class _SmilesEstimator(BaseEstimator):  # type: ignore[misc]
    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.non_deterministic = False
        return tags


class _Finetuned(_SmilesEstimator):
    """What the regressor and the classifier share; see their arguments."""

    _task = ""

    def __init__(
        self,
        encoder: str | Path | None = None,
        recipe: str = "small",
        settings: Mapping[str, object] | None = None,
        ensemble: int | None = None,
        validation_fraction: float = 0.1,
        random_state: int = 0,
        device: str = "auto",
    ) -> None:
        self.encoder = encoder
        self.recipe = recipe
        self.settings = settings
        self.ensemble = ensemble
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device

    def _finetune(self, smiles: Sequence[str], labels_NC: Float[np.ndarray, "molecules targets"]) -> None:
        if len(smiles) != len(labels_NC):
            raise ValueError(f"X and y differ in length: {len(smiles)} and {len(labels_NC)}")
        if len(smiles) < FEWEST:
            raise ValueError(f"there are too few molecules: found {len(smiles)}, expected at least {FEWEST}")
        words = [f"{name}={value}" for name, value in (self.settings or {}).items()]
        encoder = encoder_choice(self.encoder, words)
        own = [f"task={self._task}", "split=column:split", "baselines=false"]
        own += [f"ensemble={self.ensemble}"] if self.ensemble is not None else []
        own += [f"loop.seed={self.random_state}", f"loop.device={self.device}"]
        recipe = f"finetune-{self.recipe}"
        config = load_config(FinetuneConfig, recipe if recipe in recipe_names() else self.recipe, [*own, *words])
        names = [f"y{column}" for column in range(labels_NC.shape[1])]
        with tempfile.TemporaryDirectory(prefix="dnd-") as temporary:
            table = Path(temporary) / "table.csv"
            parts = _parts(smiles, self.validation_fraction, self.random_state)
            _write_table(table, smiles, labels_NC, names, parts)
            finetune(table, table.with_name("model"), names, config, encoder=encoder, say=_silent, quiet=True)
            self.predictor_ = Predictor.load(table.with_name("model"), device=self.device)
        self.n_features_in_ = 1

    def _values(self, X: Any) -> tuple[Float[np.ndarray, "molecules targets"], list[str]]:
        check_is_fitted(self, "predictor_")
        predictor: Predictor = self.predictor_
        return predictor.predict_values(X)


class DndRegressor(RegressorMixin, _Finetuned):  # type: ignore[misc]
    """A finetuned student that predicts numbers from SMILES.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or `random`; None = the one that ships, or random
            weights where `settings` describe a student.
        recipe: `best`, `fast`, `small`, `paper`, or a TOML file, as of `dnd finetune`.
        settings: further settings of a finetuning by name, such as `{"loop.epochs": 30}`.
        ensemble: number of students; the recipe's own when None.
        validation_fraction: share of the molecules that choose the epoch and calibrate the uncertainty.
        random_state: seed of the training and of the choice of the validation molecules.
        device: `cpu`, `cuda` or `auto`.

    Example:
        >>> DndRegressor(encoder="encoder").fit(smiles, y).predict(["CCO"])  # doctest: +SKIP
    """

    _task = "regression"

    def fit(self, X: Any, y: Any) -> Self:
        """Finetune on SMILES and labels `(N,)` or `(N, C)`; NaN = missing, a row that is no molecule is left out.

        Raises:
            ValueError: too few molecules, other lengths, infinite labels.
            InputError: labels that can't be learned, such as constant ones.
        """
        smiles, labels = as_molecules(X).texts, np.asarray(y, dtype=np.float64)
        if labels.ndim not in (1, 2) or np.isinf(labels).any():
            raise ValueError("y must be one or two axes of finite numbers, NaN where a label is missing")
        self._finetune(smiles, labels.reshape(len(labels), -1))
        self._is_vector = labels.ndim == 1
        return self

    def predict(self, X: Any) -> Float[np.ndarray, "molecules ..."]:
        """The predicted values in the shape of `y`; NaN where there is no molecule."""
        values_NC = self._values(X)[0]
        return values_NC[:, 0] if self._is_vector else values_NC

    def __sklearn_tags__(self) -> Any:
        """One SMILES per row; one or more targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class DndClassifier(ClassifierMixin, _Finetuned):  # type: ignore[misc]
    """A finetuned student that predicts one of two or more classes from SMILES.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or `random`; None = the one that ships, or random
            weights where `settings` describe a student.
        recipe: `best`, `fast`, `small`, `paper`, or a TOML file, as of `dnd finetune`.
        settings: further settings of a finetuning by name, such as `{"loop.epochs": 30}`.
        ensemble: number of students; the recipe's own when None.
        validation_fraction: share of the molecules that choose the epoch and calibrate the uncertainty.
        random_state: seed of the training and of the choice of the validation molecules.
        device: `cpu`, `cuda` or `auto`.

    Example:
        >>> DndClassifier(encoder="encoder").fit(smiles, y).predict_proba(["CCO"])  # doctest: +SKIP
    """

    _task = "classification"

    def fit(self, X: Any, y: Any) -> Self:
        """Finetune on SMILES and two or more classes of any type; a row that is no molecule is left out.

        Raises:
            ValueError: too few molecules, other lengths, missing labels, one class, or more than 50.
        """
        smiles = as_molecules(X).texts
        # An array of words turns NaN into the word nan: missing labels are looked for before.
        missing = next((row for row, label in enumerate(y) if _is_no_label(label)), None)
        if missing is not None:
            raise ValueError(f"y has a missing label in row {missing}; leave such rows out")
        labels = np.asarray(y)
        if labels.ndim != 1:
            raise ValueError(f"y has {labels.ndim} axes; expected one, with a class per row")
        self.classes_, places = np.unique(labels, return_inverse=True)
        if not 2 <= len(self.classes_) <= MOST_CLASSES:
            raise ValueError(f"found {len(self.classes_)} classes, expected 2 to {MOST_CLASSES}")
        self._task = "classification" if len(self.classes_) == 2 else "multiclass"
        self._finetune(smiles, places.astype(np.float64)[:, None])
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "molecules classes"]:
        """The probabilities of the classes in the order of `classes_`; NaN where there is no molecule."""
        return self._probabilities(X)[0]

    def _probabilities(self, X: Any) -> tuple[Float[np.ndarray, "molecules classes"], list[str]]:
        values_NC, errors = self._values(X)
        if len(self.classes_) > 2:
            # A class whose rows are all no molecules is unknown to the model.
            found = np.where(np.isnan(values_NC[:, :1]), np.nan, np.zeros((len(values_NC), len(self.classes_))))
            found[:, [int(target.class_name) for target in self.predictor_.targets]] = values_NC
            return found, errors
        return np.stack([1 - values_NC[:, 0], values_NC[:, 0]], axis=1), errors

    def predict(self, X: Any) -> np.ndarray:
        """The more probable class.

        Raises:
            ValueError: a row is no molecule; a class has no missing value. `predict_proba` has NaN there.
        """
        values_NK, errors = self._probabilities(X)
        bad = next((row for row, reason in enumerate(errors) if reason), None)
        if bad is not None:
            raise ValueError(f"row {bad} is no molecule: {errors[bad]}. predict_proba has NaN for such rows")
        found: np.ndarray = self.classes_[values_NK.argmax(axis=1)]
        return found


class DndEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _SmilesEstimator):  # type: ignore[misc]
    """Representations of an ENCODER or MODEL folder as features; nothing is learned from the data.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or a MODEL folder.
        pooling: `mean` (+MP) or `virtual_node` (+VN) of an encoder; +MP when None.
        device: `cpu`, `cuda` or `auto`.
        jobs: processes for parsing many molecules; 0 = one per processor.

    Example:
        >>> make_pipeline(DndEmbedder("encoder"), SimpleImputer(), Ridge()).fit(smiles, y)  # doctest: +SKIP
    """

    def __init__(
        self, encoder: str | Path = DEFAULT_ENCODER, pooling: str | None = None, device: str = "auto", jobs: int = 1
    ) -> None:
        self.encoder = encoder
        self.pooling = pooling
        self.device = device
        self.jobs = jobs

    def fit(self, X: Any, y: Any = None) -> Self:
        """Open the folder; `X` is looked at only for its form, `y` not at all."""
        as_molecules(X)
        self.embedder_ = load_embedder(
            self.encoder,
            pooling=self.pooling,  # type: ignore[arg-type]
            device=self.device,
            jobs=self.jobs,
        )
        self.n_features_in_ = 1
        self._n_features_out = self.embedder_.embed_with_errors(["C"])[0].shape[1]
        return self

    def transform(self, X: Any) -> Float[np.ndarray, "molecules dim"]:
        """One vector per row, float32; NaN rows where there is no molecule."""
        check_is_fitted(self, "embedder_")
        return self.embedder_.embed_with_errors(X)[0]


def _is_no_label(label: object) -> bool:
    is_nan = isinstance(label, float) and math.isnan(label)  # NumPy's float64 too
    return label is None or is_nan or type(label).__name__ in ("NAType", "NaTType")


def _parts(smiles: Sequence[str], validation_fraction: float, seed: int) -> list[str]:
    """A part per row, the rows of a molecule in one part.

    A finetuning wants a test part; one validation molecule serves, as its scores are not used.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; expected a number between 0 and 1")
    read = (parse_smiles(text) for text in smiles)
    groups = rows_of_molecules(one.smiles if one.ok else row for row, one in enumerate(read))
    if len(groups) < 3:
        raise ValueError(f"there are too few different molecules: found {len(groups)}, expected at least 3")
    held_out = min(max(2, round(len(groups) * validation_fraction)), len(groups) - 1)
    order = np.random.default_rng(derive_seed(seed, "estimator-validation")).permutation(len(groups))
    parts = ["train"] * len(smiles)
    for place in order[:held_out]:
        for row in groups[place]:
            parts[row] = "test" if place == order[held_out - 1] else "valid"
    return parts


def _write_table(
    path: Path, smiles: Sequence[str], labels_NC: np.ndarray, names: Sequence[str], parts: Sequence[str]
) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "split", *names])
        for text, part, labels in zip(smiles, parts, labels_NC.tolist(), strict=True):
            writer.writerow([text, part, *("" if math.isnan(label) else repr(label) for label in labels)])


def _silent(line: str) -> None:
    """An estimator in a search would print thousands of lines."""
