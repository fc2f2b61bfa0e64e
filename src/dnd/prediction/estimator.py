"""scikit-learn estimators on SMILES: `DndRegressor`, `DndClassifier`, and `DndEmbedder` as a transformer.

`X` is a list, an array, a Series, or one column of a table, with a SMILES per row. Nothing here computes: fitting is
`dnd finetune` on a table in a temporary folder, so an estimator and the command line give the same model. `save` writes
that model as a MODEL folder, which every verb and `from_folder` open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, RegressorMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from dnd.common.errors import InputError, named_as_arguments
from dnd.models.students.encoders import DEFAULT_ENCODER
from dnd.prediction.embedder import load_embedder
from dnd.prediction.estimator_base import (
    FinetunedEstimator,
    SmilesEstimator,
    class_words,
    plain_value,
    smiles_of,
    target_names,
)
from dnd.predictor.targets import Target, groups_of
from dnd.tables.labels import MOST_CLASSES
from dnd.tables.molecules import is_no_value


class DndRegressor(RegressorMixin, FinetunedEstimator):  # type: ignore[misc]
    """A finetuned model that predicts numbers from SMILES.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or `random`; None = the one that ships, or random
            weights where `settings` describe a student.
        recipe: `fast`, `best`, `small`, `paper`, or a TOML file, as of `dnd finetune`.
        settings: further settings of a finetuning by name, such as `{"blend.trees": 100}`; in a search
            each is a parameter such as `settings__blend.trees`.
        ensemble: number of students, for the recipes `small` and `best`; the recipe's when None, which holds for the
            following parameters too.
        epochs: passes of a student over the training molecules, for the same recipes.
        learning_rate: peak learning rate of a student.
        batch_size: molecules per step of a student.
        loss: `l1`, `huber` or `mse`, of students.
        transform: transform of skewed labels: `auto`, `log` or `yeo-johnson`.
        time_limit: seconds, or a text such as `10m`; for the recipes `best` and `fast`.
        validation_fraction: share of the molecules that choose a student's epoch and calibrate the uncertainty;
            `fast` and `best` calibrate on all molecules, predicted out of fold.
        random_state: seed of the training and of the choice of the validation molecules.
        device: `cpu`, `cuda` or `auto`.
        jobs: number of processes for parsing and descriptors.
        verbose: 0 prints nothing, 1 the lines and the progress of `dnd finetune`, 2 each epoch too.

    Attributes:
        predictor_: the fitted model.
        feature_names_in_: name of the column, where `X` was a DataFrame.

    Example:
        >>> DndRegressor(encoder="encoder").fit(smiles, y).predict(["CCO"])  # doctest: +SKIP
    """

    _task = "regression"

    def __init__(
        self,
        encoder: str | Path | None = None,
        recipe: str = "fast",
        settings: Mapping[str, object] | None = None,
        ensemble: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        loss: str | None = None,
        transform: str | None = None,
        time_limit: str | float | None = None,
        validation_fraction: float = 0.1,
        random_state: int = 0,
        device: str = "auto",
        jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            encoder, recipe, settings, ensemble, epochs, learning_rate, batch_size, time_limit, validation_fraction,
            random_state, device, jobs, verbose,
        )  # fmt: skip
        self.loss = loss
        self.transform = transform

    @named_as_arguments()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Finetune on SMILES and labels; rows without a valid molecule are left out.

        Args:
            X: SMILES, one per row.
            y: labels, `(B,)` or `(B, C)`; NaN = missing. The names of a Series or a DataFrame name the targets.
            sample_weight: how much the label of each row counts, in any unit; 0 leaves a row out. Every member of the
                model learns with it, and epochs, blend and metrics are chosen and computed with it; the calibration of
                intervals is not.

        Raises:
            ValueError: too few molecules, `X` and `y` of different length, infinite labels, wrong weights.
            InputError: labels that can't be learned, such as constant ones.
        """
        if np.asarray(y).dtype.kind in "mMc":  # NumPy would take nanoseconds since 1970, or the real part
            raise ValueError(f"y must be numbers, not {np.asarray(y).dtype}")
        try:
            labels = np.asarray(y, dtype=np.float64)
        except ValueError as error:  # words, or limits such as >10
            raise ValueError(
                f"y must be numbers, NaN where a label is missing: {error}. Limits such as >10 and words for missing "
                "labels are read by dnd.finetune"
            ) from error
        if labels.ndim not in (1, 2) or np.isinf(labels).any():
            raise ValueError("y must be one or two axes of finite numbers, NaN where a label is missing")
        self._is_vector = labels.ndim == 1
        labels_BC = labels[:, None] if self._is_vector else labels
        self._finetune(X, labels_BC, target_names(y, labels_BC.shape[1]), sample_weight)
        return self

    @named_as_arguments()
    def predict(self, X: Any, return_std: bool = False, return_interval: bool = False) -> Any:
        """Predict the labels.

        Args:
            X: SMILES, one per row.
            return_std: whether to return the standard deviation between the members too, in the shape of `y`.
            return_interval: whether to return the ends of the interval made for 90 % coverage too, `(..., 2)`.

        Returns:
            The values in the shape of `y`, NaN where there is no molecule; a tuple in this order if more is asked for.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: the model has one member, or learned no interval.
        """
        if not (return_std or return_interval):
            return self._in_shape(self._values(X)[0])
        check_is_fitted(self, "predictor_")
        columns, _ = self.predictor_.describe(self._smiles(X))
        found = [self._column(columns, "pred")]
        if return_std:
            found.append(self._column(columns, "std"))
        if return_interval:
            found.append(np.stack([self._column(columns, "low"), self._column(columns, "high")], axis=-1))
        return tuple(found)

    def _column(self, columns: Mapping[str, Any], what: str) -> Float[np.ndarray, "molecules ..."]:
        names = [f"{target.name}_{what}" for target in self.predictor_.targets]
        if any(name not in columns for name in names):
            raise ValueError(
                "the model has a single member, so there is no deviation between members. "
                "Fit with recipe='fast' and all its members, or with recipe='small' and ensemble=3"
                if what == "std"
                else "the model learned no interval: a target has fewer than 9 held-out labels. Fit on more molecules, "
                "or raise validation_fraction"
            )
        return self._in_shape(np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1))

    def _in_shape(self, values_BC: Float[np.ndarray, "molecules targets"]) -> Float[np.ndarray, "molecules ..."]:
        return values_BC[:, 0] if self._is_vector else values_BC

    def _record(self) -> dict[str, Any]:
        return {**super()._record(), "vector": self._is_vector}

    def _restore(self, record: Mapping[str, Any]) -> None:
        self._require_kind(record, "regression")
        self._is_vector = bool(record.get("vector", len(self.predictor_.targets) == 1))

    def __sklearn_tags__(self) -> Any:
        """One SMILES per row; one or more targets."""
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class DndClassifier(ClassifierMixin, FinetunedEstimator):  # type: ignore[misc]
    """A finetuned model that predicts one of two or more classes from SMILES.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or `random`; None = the one that ships, or random
            weights where `settings` describe a student.
        recipe: `fast`, `best`, `small`, `paper`, or a TOML file, as of `dnd finetune`.
        settings: further settings of a finetuning by name, such as `{"blend.trees": 100}`; in a search
            each is a parameter such as `settings__blend.trees`.
        ensemble: number of students, for the recipes `small` and `best`; the recipe's when None, which holds for the
            following parameters too.
        epochs: passes of a student over the training molecules, for the same recipes.
        learning_rate: peak learning rate of a student.
        batch_size: molecules per step of a student.
        class_weight: `balanced` gives all classes the same total weight, however rare they are.
        time_limit: seconds, or a text such as `10m`; for the recipes `best` and `fast`.
        validation_fraction: share of the molecules that choose a student's epoch and calibrate the probabilities;
            `fast` and `best` calibrate on all molecules, predicted out of fold.
        random_state: seed of the training and of the choice of the validation molecules.
        device: `cpu`, `cuda` or `auto`.
        jobs: number of processes for parsing and descriptors.
        verbose: 0 prints nothing, 1 the lines and the progress of `dnd finetune`, 2 each epoch too.

    Attributes:
        predictor_: the fitted model.
        classes_: the classes, ascending.
        feature_names_in_: name of the column, where `X` was a DataFrame.

    Example:
        >>> DndClassifier(encoder="encoder").fit(smiles, y).predict_proba(["CCO"])  # doctest: +SKIP
    """

    _task = "classification"

    def __init__(
        self,
        encoder: str | Path | None = None,
        recipe: str = "fast",
        settings: Mapping[str, object] | None = None,
        ensemble: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        class_weight: str | None = None,
        time_limit: str | float | None = None,
        validation_fraction: float = 0.1,
        random_state: int = 0,
        device: str = "auto",
        jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            encoder, recipe, settings, ensemble, epochs, learning_rate, batch_size, time_limit, validation_fraction,
            random_state, device, jobs, verbose,
        )  # fmt: skip
        self.class_weight = class_weight

    @named_as_arguments()
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Finetune on SMILES and two or more classes of any type; rows without a valid molecule are left out.

        Args:
            X: SMILES, one per row.
            y: classes, `(N,)`; the name of a Series names the target.
            sample_weight: how much the label of each row counts, in any unit; 0 leaves a row out. Every member of the
                model learns with it, and epochs, blend and metrics are chosen and computed with it; the calibration of
                probabilities is not.

        Raises:
            ValueError: too few molecules, `X` and `y` of different length, missing labels, one class, more than 50,
                wrong weights.
        """
        # An array of words turns NaN into the word nan: missing labels are looked for before.
        missing = next((row for row, label in enumerate(y) if is_no_value(label)), None)
        if missing is not None:
            raise ValueError(f"y has a missing label in row {missing}; leave such rows out")
        labels = np.asarray(y)
        if labels.ndim != 1:
            raise ValueError(f"y has {labels.ndim} axes; expected one, with a class per row")
        self.classes_, places = np.unique(labels, return_inverse=True)
        if not 2 <= len(self.classes_) <= MOST_CLASSES:
            raise ValueError(f"found {len(self.classes_)} classes, expected 2 to {MOST_CLASSES}")
        self._task = "classification" if len(self.classes_) == 2 else "multiclass"
        words = class_words(self.classes_.tolist())
        self._is_named = bool(words)
        self._finetune(X, places.astype(np.float64)[:, None], target_names(y, 1), sample_weight, words)
        return self

    @named_as_arguments()
    def predict_proba(self, X: Any) -> Float[np.ndarray, "molecules classes"]:
        """The probabilities of the classes in the order of `classes_`; NaN where there is no molecule."""
        return self._probabilities(X)[0]

    def _probabilities(self, X: Any) -> tuple[Float[np.ndarray, "molecules classes"], list[str]]:
        values_BC, errors = self._values(X)
        known_BK = values_BC if values_BC.shape[1] > 1 else np.hstack([1 - values_BC, values_BC])
        # A class whose rows are all no molecules is unknown to the model.
        found = np.where(np.isnan(known_BK[:, :1]), np.nan, np.zeros((len(known_BK), len(self.classes_))))
        found[:, self._places()] = known_BK
        return found, errors

    def _places(self) -> list[int]:
        """The place in `classes_` of each class that the model knows, in the model's order."""
        names = _classes_of(self.predictor_.targets)
        own = [str(label) for label in self.classes_.tolist()]
        return [own.index(name) if self._is_named else int(name) for name in names]

    @named_as_arguments()
    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each molecule.

        Raises:
            ValueError: a row is not a valid molecule, and a class has no missing value. `predict_proba` has NaN there.
        """
        values_BK, errors = self._probabilities(X)
        bad = next((row for row, reason in enumerate(errors) if reason), None)
        if bad is not None:
            raise ValueError(f"row {bad} is not a valid molecule: {errors[bad]}. predict_proba has NaN for such rows")
        found: np.ndarray = self.classes_[values_BK.argmax(axis=1)]
        return found

    _is_named = False  # whether the model has the classes by their names, or by their places in `classes_`

    def _record(self) -> dict[str, Any]:
        classes = [plain_value(label) for label in self.classes_.tolist()]
        return {**super()._record(), "classes": classes, "dtype": self.classes_.dtype.str, "named": self._is_named}

    def _restore(self, record: Mapping[str, Any]) -> None:
        self._require_kind(record, "classification", "multiclass")
        targets = self.predictor_.targets
        groups = groups_of(targets)
        if len(groups) > 1 or (not groups and len(targets) > 1):
            raise InputError("the model has several targets", expected="one", next_step="Open it with dnd.load")
        self._task = self.predictor_.kind
        if "classes" in record:
            self.classes_ = np.array(record["classes"], dtype=np.dtype(record["dtype"]))
            self._is_named = bool(record["named"])
            return
        names = _classes_of(targets)
        self.classes_ = np.array(sorted(names) if groups or targets[0].classes else [0, 1])
        self._is_named = True


def _classes_of(targets: Sequence[Target]) -> list[str]:
    """Names of the classes of a model of one target, in its order."""
    if len(targets) > 1:
        return [target.class_name for target in targets]
    return list(targets[0].classes) or ["0", "1"]


class DndEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, SmilesEstimator):  # type: ignore[misc]
    """Representations of an ENCODER or MODEL folder as features; nothing is learned from the data.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or a MODEL folder.
        pooling: `mean` (+MP) or `virtual_node` (+VN) of an encoder; +MP when None.
        device: `cpu`, `cuda` or `auto`.
        jobs: processes for parsing many molecules; 0 = one per processor.
        on_error: `nan` gives a row without a valid molecule NaN, which an imputer would fill; `raise` raises an error.

    Example:
        >>> make_pipeline(DndEmbedder("encoder", on_error="raise"), Ridge()).fit(smiles, y)  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: str | Path = DEFAULT_ENCODER,
        pooling: str | None = None,
        device: str = "auto",
        jobs: int = 1,
        on_error: str = "nan",
    ) -> None:
        self.encoder = encoder
        self.pooling = pooling
        self.device = device
        self.jobs = jobs
        self.on_error = on_error

    @named_as_arguments()
    def fit(self, X: Any, y: Any = None) -> Self:
        """Open the folder; only the form of `X` is checked, and `y` is ignored.

        Raises:
            ValueError: `on_error` is neither `nan` nor `raise`.
        """
        if self.on_error not in ("nan", "raise"):
            raise ValueError(f"on_error is {self.on_error!r}; expected 'nan' or 'raise'")
        smiles_of(X)
        self.embedder_ = load_embedder(
            self.encoder,
            pooling=self.pooling,  # type: ignore[arg-type]
            device=self.device,
            jobs=self.jobs,
        )
        self.n_features_in_ = 1
        self._n_features_out = self.embedder_.embed_with_errors(["C"])[0].shape[1]
        return self

    @named_as_arguments()
    def transform(self, X: Any) -> Float[np.ndarray, "molecules dim"]:
        """One vector per row, float32; NaN rows where there is no molecule.

        Raises:
            NotFittedError: the estimator is not fitted.
            ValueError: a row is not a valid molecule, with `on_error="raise"`.
        """
        check_is_fitted(self, "embedder_")
        values_BD, errors = self.embedder_.embed_with_errors(smiles_of(X))
        bad = next((row for row, reason in enumerate(errors) if reason), None)
        if bad is not None and self.on_error == "raise":
            raise ValueError(f"row {bad} is not a valid molecule: {errors[bad]}")
        return values_BD
