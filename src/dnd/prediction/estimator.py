"""scikit-learn estimators on SMILES: `DndRegressor`, `DndClassifier`, and `DndEmbedder` as a transformer.

`X` is a list, an array, a Series, or one column of a table, with a SMILES per row. Nothing here computes: fitting is
`dnd finetune` on a table in a temporary folder, so an estimator and the command line give the same model. `save` writes
that model as a MODEL folder, which every verb and `from_folder` open.
"""

from __future__ import annotations

import csv
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, cast

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

from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, read_json, read_manifest, write_bytes, write_json, write_manifest
from dnd.common.model_folder import FORMAT_VERSION
from dnd.common.randomness import derive_seed
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.students import encoder_choice
from dnd.finetuning.time_limit import read_duration
from dnd.models.students.encoders import DEFAULT_ENCODER
from dnd.prediction.embedder import load_embedder
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import groups_of
from dnd.tables.labels import MOST_CLASSES

FEWEST = 10
ESTIMATOR = "estimator.json"  # of a MODEL folder that an estimator saved
_SETTING = "settings__"  # before the name of one of `settings`, as in `settings__loop.epochs`
_DIRECT = {  # parameters that are settings of a finetuning
    "epochs": "loop.epochs",
    "learning_rate": "loop.learning_rate",
    "batch_size": "loop.batch_size",
    "loss": "loss",
    "transform": "transform",
    "class_weight": "class_weights",
    "ensemble": "ensemble",
    "random_state": "loop.seed",
    "device": "loop.device",
    "jobs": "jobs",
}


def smiles_list(X: Any) -> list[str]:
    """The SMILES of `X`, in order; what is not text becomes an empty SMILES, which is no molecule.

    Raises:
        ValueError: `X` is a single text, or has more than one column.
    """
    if isinstance(X, str):
        raise ValueError("X is a single text; expected a list of SMILES, such as ['CCO']")
    values = np.asarray(X, dtype=object)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise ValueError(f"X has the shape {values.shape}; expected one SMILES per row. Select the SMILES column")
    return [_text(value) for value in values]


def _text(value: Any) -> str:
    if hasattr(value, "GetNumAtoms"):  # a molecule of RDKit
        from rdkit import Chem

        return str(Chem.MolToSmiles(value))
    return value if isinstance(value, str) else ""


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
        recipe: str = "best",
        settings: Mapping[str, object] | None = None,
        ensemble: int | None = None,
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        time_limit: str | float | None = None,
        validation_fraction: float = 0.1,
        random_state: int = 0,
        device: str = "auto",
        jobs: int | None = None,
        verbose: int = 0,
    ) -> None:
        self.encoder = encoder
        self.recipe = recipe
        self.settings = settings
        self.ensemble = ensemble
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.time_limit = time_limit
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.jobs = jobs
        self.verbose = verbose

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name; `settings__NAME` sets one of `settings`, so that a search can have a grid of it.

        Raises:
            ValueError: there is no such parameter.
        """
        single = {name.removeprefix(_SETTING): params[name] for name in params if name.startswith(_SETTING)}
        super().set_params(**{name: value for name, value in params.items() if not name.startswith(_SETTING)})
        if single:
            self.settings = {**(self.settings or {}), **single}
        return self

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with `deep` each of `settings` too, as `settings__NAME`."""
        found: dict[str, Any] = super().get_params(deep=deep)
        return found | {f"{_SETTING}{name}": value for name, value in (self.settings or {}).items() if deep}

    def _finetune(
        self,
        X: Any,
        labels_NC: Float[np.ndarray, "molecules targets"],
        names: Sequence[str],
        sample_weight: Any,
    ) -> None:
        smiles = smiles_list(X)
        if len(smiles) != len(labels_NC):
            raise ValueError(f"X and y differ in length: {len(smiles)} and {len(labels_NC)}")
        kept = _kept_rows(sample_weight, len(smiles))
        smiles, labels_NC = [smiles[row] for row in kept], labels_NC[kept]
        if len(smiles) < FEWEST:
            raise ValueError(f"there are too few molecules: found {len(smiles)}, expected at least {FEWEST}")
        encoder, config = self._choices()
        say: Callable[[str], None] = print if self.verbose else _silent
        parts = _parts(len(smiles), self.validation_fraction, self.random_state)
        with tempfile.TemporaryDirectory(prefix="dnd-") as temporary:
            table, folder = Path(temporary) / "table.csv", Path(temporary) / "model"
            _write_table(table, smiles, labels_NC, names, parts)
            finetune(
                table, folder, names, config,
                smiles_column=_SMILES, encoder=encoder, say=say, quiet=self.verbose < 2,
            )  # fmt: skip
            self._open(folder, self.device)
        self.n_features_in_ = 1
        if _feature_name(X) is not None:
            self.feature_names_in_ = np.array([_feature_name(X)], dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_  # of an earlier fit

    def _choices(self) -> tuple[str, FinetuneConfig]:
        """The encoder, and the settings of the finetuning that the parameters stand for."""
        words = [f"{name}={value}" for name, value in (self.settings or {}).items()]
        own = [f"task={self._task}", f"split=column:{_SPLIT}", "baselines=false"]
        for name, setting in _DIRECT.items():
            value = getattr(self, name, None)
            own += [f"{setting}={value}"] if value is not None else []
        if self.time_limit is not None:
            own.append(f"blend.time_limit_s={read_duration(str(self.time_limit))}")
        config = load_config(FinetuneConfig, self.recipe, [*own, *words], stage="finetune")
        return encoder_choice(self.encoder, words), config

    def _open(self, folder: Path, device: str) -> None:
        """Load a MODEL folder and keep the bytes of its files, from which `save` writes it again."""
        self.predictor_ = Predictor.load(folder, device=device)
        self._files = {name: (folder / name).read_bytes() for name in read_manifest(folder)["files"]}

    def save(self, folder: Path | str) -> Path:
        """Write the fitted model as a MODEL folder, which `from_folder`, `dnd.load` and every verb open.

        Args:
            folder: to be made.

        Raises:
            NotFittedError: it is not fitted.
            InputError: the folder holds something already.
        """
        check_is_fitted(self, "predictor_")
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} holds something already", next_step="Choose another folder")
        for name, data in self._files.items():
            write_bytes(folder / name, data)
        write_json(folder / ESTIMATOR, self._record())
        write_manifest(folder, kind=KIND, format_version=FORMAT_VERSION)
        return folder

    @classmethod
    def from_folder(cls, folder: Path | str, *, device: str = "auto") -> Self:
        """A fitted estimator from what `save` wrote, or from any MODEL folder of `dnd finetune`.

        Args:
            folder: the MODEL folder.
            device: `cpu`, `cuda` or `auto`.

        Raises:
            InputError, CorruptFileError: the folder is missing, damaged, or a model of another kind.
        """
        folder, estimator = Path(folder), cls()
        estimator._open(folder, device)
        record = read_json(folder / ESTIMATOR) if ESTIMATOR in estimator._files else {}
        known = cls().get_params(deep=False)
        given = {name: value for name, value in record.get("parameters", {}).items() if name in known}
        estimator.set_params(**{**given, "device": device})
        estimator._restore(record)
        estimator.n_features_in_ = 1
        if "feature_names" in record:
            estimator.feature_names_in_ = np.array(record["feature_names"], dtype=object)
        return estimator

    def _record(self) -> dict[str, Any]:
        """What the estimator knows and the model does not, as plain values."""
        parameters = {name: _plain(value) for name, value in self.get_params(deep=False).items()}
        names = list(getattr(self, "feature_names_in_", []))
        return {"estimator": type(self).__name__, "parameters": parameters, **({"feature_names": names} if names else {})}

    def _restore(self, record: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _require_kind(self, record: Mapping[str, Any], *tasks: str) -> None:
        name, task = record.get("estimator", type(self).__name__), self.predictor_.kind
        if name != type(self).__name__ or task not in tasks:
            raise InputError(f"the model is not one of a {type(self).__name__}", found=f"{name}, {task}")

    def _smiles(self, X: Any) -> list[str]:
        check_is_fitted(self, "predictor_")
        known, name = getattr(self, "feature_names_in_", None), _feature_name(X)
        if known is not None and name is not None and name != known[0]:
            raise ValueError(f"the column is called {name!r}; it was {known[0]!r} when the estimator was fitted")
        return smiles_list(X)

    def _values(self, X: Any) -> tuple[Float[np.ndarray, "molecules targets"], list[str]]:
        smiles = self._smiles(X)
        return cast(Predictor, self.predictor_).predict_values(smiles)


class DndRegressor(RegressorMixin, _Finetuned):  # type: ignore[misc]
    """A finetuned model that predicts numbers from SMILES.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or `random`; None = the one that ships, or random
            weights where `settings` describe a student.
        recipe: `best`, `fast`, `small`, `paper`, or a TOML file, as of `dnd finetune`.
        settings: further settings of a finetuning by name, such as `{"blend.trees": 100}`; each is a parameter of its
            own in a search, as `settings__blend.trees`.
        ensemble: number of students; the recipe's own when None, as are all the following.
        epochs: passes over the training molecules.
        learning_rate: peak rate.
        batch_size: molecules per step.
        loss: `l1`, `huber` or `mse`.
        transform: `auto`, `log` or `yeo-johnson`, of skewed labels.
        time_limit: seconds, or a text such as `10m`; for the recipes `best` and `fast`.
        validation_fraction: share of the molecules that choose the epoch and calibrate the uncertainty.
        random_state: seed of the training and of the choice of the validation molecules.
        device: `cpu`, `cuda` or `auto`.
        jobs: number of processes for parsing and descriptors.
        verbose: 0 prints nothing, 1 the lines of `dnd finetune`, 2 the progress of the training too.

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
        recipe: str = "best",
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Finetune on SMILES and labels; a row that is no molecule is left out.

        Args:
            X: SMILES, one per row.
            y: labels, `(N,)` or `(N, C)`; NaN = missing. The names of a Series or a DataFrame name the targets.
            sample_weight: 0 leaves a row out; all others must be equal, as not every member of a model can weigh.

        Raises:
            ValueError: too few molecules, other lengths, infinite labels, unequal weights.
            InputError: labels that can't be learned, such as constant ones.
        """
        labels = np.asarray(y, dtype=np.float64)
        if labels.ndim not in (1, 2) or np.isinf(labels).any():
            raise ValueError("y must be one or two axes of finite numbers, NaN where a label is missing")
        self._is_vector = labels.ndim == 1
        labels_NC = labels.reshape(len(labels), -1)
        self._finetune(X, labels_NC, _target_names(y, labels_NC.shape[1]), sample_weight)
        return self

    def predict(self, X: Any, return_std: bool = False, return_interval: bool = False) -> Any:
        """Predict the labels.

        Args:
            X: SMILES, one per row.
            return_std: return the deviation between the members of the model too, in the shape of `y`.
            return_interval: return the ends of the interval made for 90 % coverage too, `(..., 2)`.

        Returns:
            The values in the shape of `y`, NaN where there is no molecule; with the others a tuple in this order.

        Raises:
            NotFittedError: it is not fitted.
            ValueError: the model has one member, or learned no interval.
        """
        if not (return_std or return_interval):
            return self._in_shape(self._values(X)[0])
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
                "the model has one member, so nothing deviates. Fit with ensemble=3, or recipe='best'"
                if what == "std"
                else "the model learned no interval: a target has fewer than 9 held-out labels. Fit on more molecules, "
                "or raise validation_fraction"
            )
        return self._in_shape(np.stack([np.asarray(columns[name], dtype=np.float64) for name in names], axis=1))

    def _in_shape(self, values_NC: Float[np.ndarray, "molecules targets"]) -> Float[np.ndarray, "molecules ..."]:
        return values_NC[:, 0] if self._is_vector else values_NC

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


class DndClassifier(ClassifierMixin, _Finetuned):  # type: ignore[misc]
    """A finetuned model that predicts one of two or more classes from SMILES.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or `random`; None = the one that ships, or random
            weights where `settings` describe a student.
        recipe: `best`, `fast`, `small`, `paper`, or a TOML file, as of `dnd finetune`.
        settings: further settings of a finetuning by name, such as `{"blend.trees": 100}`; each is a parameter of its
            own in a search, as `settings__blend.trees`.
        ensemble: number of students; the recipe's own when None, as are all the following.
        epochs: passes over the training molecules.
        learning_rate: peak rate.
        batch_size: molecules per step.
        class_weight: `balanced` lets the classes weigh the same, however rare they are.
        time_limit: seconds, or a text such as `10m`; for the recipes `best` and `fast`.
        validation_fraction: share of the molecules that choose the epoch and calibrate the probabilities.
        random_state: seed of the training and of the choice of the validation molecules.
        device: `cpu`, `cuda` or `auto`.
        jobs: number of processes for parsing and descriptors.
        verbose: 0 prints nothing, 1 the lines of `dnd finetune`, 2 the progress of the training too.

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
        recipe: str = "best",
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Finetune on SMILES and two or more classes of any type; a row that is no molecule is left out.

        Args:
            X: SMILES, one per row.
            y: classes, `(N,)`; the name of a Series names the target.
            sample_weight: 0 leaves a row out; all others must be equal, as not every member of a model can weigh.

        Raises:
            ValueError: too few molecules, other lengths, missing labels, one class, more than 50, unequal weights.
        """
        labels = np.asarray(y)
        if labels.ndim != 1 or any(isinstance(label, float) and math.isnan(label) for label in labels.tolist()):
            raise ValueError("y must have one axis and no missing label")
        self.classes_, places = np.unique(labels, return_inverse=True)
        if not 2 <= len(self.classes_) <= MOST_CLASSES:
            raise ValueError(f"found {len(self.classes_)} classes, expected 2 to {MOST_CLASSES}")
        self._task = "classification" if len(self.classes_) == 2 else "multiclass"
        self._finetune(X, places.astype(np.float64)[:, None], _target_names(y, 1), sample_weight)
        return self

    def predict_proba(self, X: Any) -> Float[np.ndarray, "molecules classes"]:
        """The probabilities of the classes in the order of `classes_`; NaN where there is no molecule."""
        return self._probabilities(X)[0]

    def _probabilities(self, X: Any) -> tuple[Float[np.ndarray, "molecules classes"], list[str]]:
        values_NC, errors = self._values(X)
        if len(self.classes_) > 2:
            # A class whose rows are all no molecules is unknown to the model.
            found = np.where(np.isnan(values_NC[:, :1]), np.nan, np.zeros((len(values_NC), len(self.classes_))))
            found[:, self._places()] = values_NC
            return found, errors
        return np.stack([1 - values_NC[:, 0], values_NC[:, 0]], axis=1), errors

    def _places(self) -> list[int]:
        """The place in `classes_` of each class that the model knows."""
        names = [target.class_name for target in self.predictor_.targets]
        return list(range(len(names))) if self._is_named else [int(name) for name in names]

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

    _is_named = False  # whether the model has the classes by their names: one of the command, not of an estimator

    def _record(self) -> dict[str, Any]:
        classes = [_plain(label) for label in self.classes_.tolist()]
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
        self.classes_ = np.array(groups[0].classes) if groups else np.array([0, 1])
        self._is_named = True


class DndEmbedder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, _SmilesEstimator):  # type: ignore[misc]
    """Representations of an ENCODER or MODEL folder as features; nothing is learned from the data.

    Args:
        encoder: the name of a shipped encoder, an ENCODER folder, or a MODEL folder.
        pooling: `mean` (+MP) or `virtual_node` (+VN) of an encoder; +MP when None.
        device: `cpu`, `cuda` or `auto`.
        jobs: processes for parsing many molecules; 0 = one per processor.
        on_error: `nan` gives a row that is no molecule NaN, which an imputer would fill; `raise` refuses it.

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

    def fit(self, X: Any, y: Any = None) -> Self:
        """Open the folder; `X` is looked at only for its form, `y` not at all.

        Raises:
            ValueError: `on_error` is neither `nan` nor `raise`.
        """
        if self.on_error not in ("nan", "raise"):
            raise ValueError(f"on_error is {self.on_error!r}; expected 'nan' or 'raise'")
        smiles_list(X)
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
        """One vector per row, float32; NaN rows where there is no molecule.

        Raises:
            NotFittedError: it is not fitted.
            ValueError: a row is no molecule, with `on_error="raise"`.
        """
        check_is_fitted(self, "embedder_")
        values_ND, errors = self.embedder_.embed_with_errors(smiles_list(X))
        bad = next((row for row, reason in enumerate(errors) if reason), None)
        if bad is not None and self.on_error == "raise":
            raise ValueError(f"row {bad} is no molecule: {errors[bad]}")
        return cast(np.ndarray, values_ND)


def _parts(count: int, validation_fraction: float, seed: int) -> list[str]:
    """A part per row. A finetuning wants a test part; one validation molecule serves, as its scores are not used."""
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; expected a number between 0 and 1")
    held_out = min(max(2, round(count * validation_fraction)), count - 1)
    order = np.random.default_rng(derive_seed(seed, "estimator-validation")).permutation(count)
    parts = np.full(count, "train", dtype=object)
    parts[order[: held_out - 1]], parts[order[held_out - 1]] = "valid", "test"
    return [str(part) for part in parts]


_SMILES, _SPLIT = "smiles", "split"  # columns of the table that a fit writes


def _kept_rows(sample_weight: Any, count: int) -> list[int]:
    """Rows to learn from: those whose weight is not 0.

    Ridge regression, the Gaussian process and the students' loss take no weights, so a weight that counts in some
    members only would be a promise half kept. Weights that are all alike change nothing, and 0 is a row left out.

    Raises:
        ValueError: the weights differ, or are not one finite number of at least 0 per row.
    """
    if sample_weight is None:
        return list(range(count))
    weights_N = np.asarray(sample_weight, dtype=np.float64)
    if weights_N.shape != (count,) or not np.isfinite(weights_N).all() or (weights_N < 0).any():
        raise ValueError("sample_weight must be one finite number, at least 0, per row of X")
    kept = np.flatnonzero(weights_N)
    if len(kept) and not np.allclose(weights_N[kept], weights_N[kept[0]]):
        raise ValueError(
            f"sample_weight differs between rows, from {weights_N[kept].min():g} to {weights_N[kept].max():g}, and not "
            "every member of a model can weigh rows. Pass equal weights, or 0 to leave a row out"
        )
    return [int(row) for row in kept]


def _target_names(y: Any, count: int) -> list[str]:
    """Names of a Series or a DataFrame, else `y`, or `y0`, `y1` …

    Raises:
        ValueError: two columns have one name, or the name of a column that a fit needs.
    """
    columns = list(y.columns) if hasattr(y, "columns") else [getattr(y, "name", None)]
    if len(columns) != count or any(not isinstance(name, str) or not name.strip() for name in columns):
        return ["y"] if count == 1 else [f"y{column}" for column in range(count)]
    if len(set(columns)) < count or {_SMILES, _SPLIT} & set(columns):
        raise ValueError(f"y has the columns {columns}; expected different names, none of them {_SMILES} or {_SPLIT}")
    return columns


def _feature_name(X: Any) -> str | None:
    """The name of the column, where `X` is a DataFrame."""
    columns = list(X.columns) if hasattr(X, "columns") else []
    return columns[0] if len(columns) == 1 and isinstance(columns[0], str) else None


def _plain(value: Any) -> Any:
    """A parameter or a class as JSON has it.

    Raises:
        ConfigError: it has no such form.
    """
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, Path | np.generic):
        return str(value) if isinstance(value, Path) else value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError("a value can't be saved", found=repr(value)[:80], expected="text, a number, true or false")


def _write_table(
    path: Path, smiles: Sequence[str], labels_NC: np.ndarray, names: Sequence[str], parts: Sequence[str]
) -> None:
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([_SMILES, _SPLIT, *names])
        for text, part, labels in zip(smiles, parts, labels_NC.tolist(), strict=True):
            writer.writerow([text, part, *("" if math.isnan(label) else repr(label) for label in labels)])


def _silent(line: str) -> None:
    """An estimator in a search would print thousands of lines."""
