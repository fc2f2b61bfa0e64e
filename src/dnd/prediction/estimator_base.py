"""What the estimators on SMILES share: parameters, a finetuning in a temporary folder, the MODEL folder they save."""

from __future__ import annotations

import csv
import math
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from dnd.chemistry.identity import molecule_for_model, molecule_identity
from dnd.common.compute import derive_seed
from dnd.common.config import model_folder, read_duration, setting_words
from dnd.common.errors import ConfigError, InputError, named_as, named_as_arguments
from dnd.common.files import read_json, read_manifest, write_bytes, write_json, write_manifest
from dnd.common.log import level_of, told
from dnd.common.model_folder import FORMAT_VERSION
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig, finetune_config
from dnd.finetuning.students import encoder_choice
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import SEPARATOR
from dnd.tables.labels import MISSING_WORDS, LabelRules, class_key, column_cells, is_number, read_column
from dnd.tables.molecules import as_molecules

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
_TIME_LIMIT = "blend.time_limit_s"


class SmilesEstimator(BaseEstimator):  # type: ignore[misc]
    """An estimator whose `X` is one text per row, as its tags say."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.non_deterministic = False
        return tags


class FinetunedEstimator(SmilesEstimator, ABC):
    """What the regressor and the classifier share; see their arguments."""

    _task = ""

    def __init__(
        self,
        encoder: str | Path | None = None,
        recipe: str = "fast",
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
        known = self.settings if deep and isinstance(self.settings, Mapping) else {}  # `fit` reports what is wrong
        return found | {f"{_SETTING}{name}": value for name, value in known.items()}

    def _finetune(
        self,
        X: Any,
        labels_BC: Float[np.ndarray, "molecules targets"],
        names: Sequence[str],
        sample_weight: Any,
        words: Sequence[str] = (),
    ) -> None:
        smiles = smiles_of(X)
        if len(smiles) != len(labels_BC):
            raise ValueError(f"X and y differ in length: {len(smiles)} and {len(labels_BC)}")
        kept, weights = _weighted_rows(sample_weight, len(smiles))
        smiles, labels_BC = [smiles[row] for row in kept], labels_BC[kept]
        if len(smiles) < FEWEST:
            raise ValueError(f"there are too few molecules: found {len(smiles)}, expected at least {FEWEST}")
        encoder, config = self._choices()
        if not words:
            _require_no_placeholder(labels_BC, names, config.labels, kept)
        parts = _parts(smiles, self.validation_fraction, self.random_state, config.standardize)
        with told(level_of(self.verbose)), tempfile.TemporaryDirectory(prefix="dnd-") as temporary:
            table, folder = Path(temporary) / "table.csv", Path(temporary) / "model"
            _write_table(table, smiles, labels_BC, names, parts, words)
            with named_as({str(table): "the table"}):  # the caller knows of no file
                finetune(
                    table, folder, names, config,
                    smiles_column=_SMILES, encoder=encoder, weights=weights,
                )  # fmt: skip
            self._open(folder, self.device)
        self.n_features_in_ = 1
        if _feature_name(X) is not None:
            self.feature_names_in_ = np.array([_feature_name(X)], dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_  # of an earlier fit

    def _choices(self) -> tuple[str, FinetuneConfig]:
        """The encoder, and the settings of the finetuning that correspond to the parameters."""
        words = setting_words(self.settings)
        own = [f"task={self._task}", f"split=column:{_SPLIT}", "baselines=false"]
        for name, setting in _DIRECT.items():
            value = getattr(self, name, None)
            own += [f"{setting}={value}"] if value is not None else []
        if self.time_limit is not None:
            own.append(f"{_TIME_LIMIT}={read_duration(str(self.time_limit))}")
        given = {**_DIRECT, "time_limit": _TIME_LIMIT}
        by_settings = {word.partition("=")[0] for word in words}
        called = {setting: name for name, setting in given.items() if getattr(self, name, None) is not None}
        with named_as({setting: name for setting, name in called.items() if setting not in by_settings}):
            config = finetune_config(self.recipe, [*own, *words])
        return encoder_choice(self.encoder, words), config

    def _open(self, folder: Path, device: str) -> None:
        """Load a MODEL folder and keep the bytes of its files, from which `save` writes it again."""
        self.predictor_ = Predictor.load(folder, device=device)
        self._files = {name: (folder / name).read_bytes() for name in read_manifest(folder)["files"]}

    def save(self, folder: Path | str) -> Path:
        """Write the fitted model as a MODEL folder, which `from_folder`, `dnd.load` and every verb open.

        Args:
            folder: folder to write.

        Raises:
            NotFittedError: the estimator is not fitted.
            InputError: the folder holds something already.
        """
        check_is_fitted(self, "predictor_")
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"{folder} is not empty", next_step="Choose another folder")
        for name, data in self._files.items():
            write_bytes(folder / name, data)
        write_json(folder / ESTIMATOR, self._record())
        write_manifest(folder, kind=KIND, format_version=FORMAT_VERSION)
        return folder

    @classmethod
    @named_as_arguments()
    def from_folder(cls, folder: Path | str, *, device: str = "auto") -> Self:
        """A fitted estimator from what `save` wrote, or from any MODEL folder of `dnd finetune`.

        Args:
            folder: the MODEL folder, or the name of a model that ships.
            device: `cpu`, `cuda` or `auto`.

        Raises:
            InputError, CorruptFileError: the folder is missing, damaged, or a model of another kind.
        """
        folder, estimator = model_folder(folder), cls()
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
        parameters = {name: plain_value(value) for name, value in self.get_params(deep=False).items()}
        names = list(getattr(self, "feature_names_in_", []))
        return {
            "estimator": type(self).__name__,
            "parameters": parameters,
            **({"feature_names": names} if names else {}),
        }

    @abstractmethod
    def _restore(self, record: Mapping[str, Any]) -> None:
        """Set what `fit` sets besides the model, from what `save` wrote."""

    def _require_kind(self, record: Mapping[str, Any], *tasks: str) -> None:
        name, task = record.get("estimator", type(self).__name__), self.predictor_.kind
        if name != type(self).__name__ or task not in tasks:
            raise InputError(f"the model does not fit a {type(self).__name__}", found=f"{name}, {task}")

    def _smiles(self, X: Any) -> list[str]:
        check_is_fitted(self, "predictor_")
        known, name = getattr(self, "feature_names_in_", None), _feature_name(X)
        if known is not None and name is not None and name != known[0]:
            raise ValueError(f"the column is called {name!r}; it was {known[0]!r} when the estimator was fitted")
        return smiles_of(X)

    def _values(self, X: Any) -> tuple[Float[np.ndarray, "molecules targets"], list[str]]:
        smiles = self._smiles(X)
        predictor: Predictor = self.predictor_
        return predictor.predict_values(smiles)


def _parts(smiles: Sequence[str], validation_fraction: float, seed: int, standardize: bool) -> list[str]:
    """A part per row, the rows of a molecule in one part; rows that are no molecule are left out of the draw.

    A finetuning wants a test part; one validation molecule serves, without its label, as one alone says nothing.
    """
    if not 0 < validation_fraction < 1:
        raise ValueError(f"validation_fraction is {validation_fraction}; expected a number between 0 and 1")
    rows_of: dict[str, list[int]] = {}
    for row, text in enumerate(smiles):
        outcome = molecule_for_model(text, standardize)
        if outcome.ok:
            rows_of.setdefault(molecule_identity(outcome.smiles), []).append(row)
    groups = list(rows_of.values())
    if len(groups) < 3:
        raise ValueError(f"there are too few different molecules: found {len(groups)}, expected at least 3")
    held_out = min(max(2, round(len(groups) * validation_fraction)), len(groups) - 1)
    order = np.random.default_rng(derive_seed(seed, "estimator-validation")).permutation(len(groups))
    parts = ["train"] * len(smiles)
    for place in order[:held_out]:
        for row in groups[place]:
            parts[row] = "test" if place == order[held_out - 1] else "valid"
    return parts


_SMILES, _SPLIT = "smiles", "split"  # columns of the table that a fit writes


def _weighted_rows(sample_weight: Any, count: int) -> tuple[list[int], Float[np.ndarray, "rows"] | None]:
    """Rows to learn from, those whose weight is not 0, and their weights.

    Raises:
        ValueError: the weights are not one finite number of at least 0 per row, or the smallest counts for nothing
            beside the largest.
    """
    if sample_weight is None:
        return list(range(count)), None
    given, what = np.asarray(sample_weight), "sample_weight must be one finite number, at least 0, per row of X"
    if given.dtype.kind not in "biufO":
        raise ValueError(f"{what}: found {given.dtype}")
    try:
        weights_B = given.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error
    if weights_B.shape != (count,) or not np.isfinite(weights_B).all() or (weights_B < 0).any():
        raise ValueError(what)
    kept = np.flatnonzero(weights_B)
    least, most = (weights_B[kept].min(), weights_B.max()) if len(kept) else (1.0, 1.0)
    if least < np.finfo(np.float64).eps * most:
        raise ValueError(
            f"sample_weight is from {least:.3g} to {most:.3g}, expected at most 15 orders of magnitude, or 0"
        )
    return kept.tolist(), weights_B[kept]


def target_names(y: Any, count: int) -> list[str]:
    """Names of a Series or a DataFrame, else `y`, or `y0`, `y1` …

    Raises:
        ValueError: two columns have one name, or the name of a column that a fit needs.
    """
    columns = list(y.columns) if hasattr(y, "columns") else [getattr(y, "name", None)]
    if len(columns) != count or any(not isinstance(name, str) or not name.strip() for name in columns):
        return ["y"] if count == 1 else [f"y{column}" for column in range(count)]
    names = [str(name).strip() for name in columns]
    if len(set(names)) < count or {_SMILES, _SPLIT} & set(names):
        raise ValueError(f"y has the columns {names}; expected different names, none of them {_SMILES} or {_SPLIT}")
    return names


def smiles_of(X: Any) -> list[str]:
    """The SMILES of `X`, one per row.

    Raises:
        TypeError, InputError: see `as_molecules`; the message says what to do without `smiles_column=`.
    """
    with named_as({"Name the column of SMILES with smiles_column=": "Pass that column alone, such as X['Structure']"}):
        return as_molecules(X).texts


def _feature_name(X: Any) -> str | None:
    """The name of the column, where `X` is a DataFrame."""
    columns = list(X.columns) if hasattr(X, "columns") else []
    return columns[0] if len(columns) == 1 and isinstance(columns[0], str) else None


def plain_value(value: Any) -> Any:
    """A parameter or a class as JSON has it.

    Raises:
        ConfigError: it has no such form.
    """
    if isinstance(value, Mapping):
        return {str(name): plain_value(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_value(entry) for entry in value]
    if isinstance(value, Path | np.generic):
        return str(value) if isinstance(value, Path) else value.item()
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise ConfigError("a value can't be saved", found=repr(value)[:80], expected="text, a number, true or false")


def class_words(classes: Sequence[Any]) -> tuple[str, ...]:
    """Classes as the cells of a table, so that a model keeps the user's words; empty where they'd be read otherwise."""
    if not all(isinstance(label, str) and label == " ".join(label.split()) for label in classes):
        return ()
    keys = {class_key(label) for label in classes}
    if len(keys) < len(classes) or keys & MISSING_WORDS or any(map(is_number, classes)):
        return ()
    if any(SEPARATOR in label for label in classes):  # which a table refuses, as no set of classes could be read
        return ()
    try:
        read_column([*classes, *classes], places=range(2 * len(classes)), column="y", rules=LabelRules())
    except InputError:  # such as dates
        return ()
    return tuple(classes)


def _require_no_placeholder(
    labels_BC: Float[np.ndarray, "molecules targets"], names: Sequence[str], rules: LabelRules, kept: Sequence[int]
) -> None:
    """Refuse labels such as -999 far outside the others, as a table with them is, in words for arrays."""
    for name, column_B in zip(names, labels_BC.T, strict=True):
        found = column_cells([_number_cell(label) for label in column_B.tolist()], column=name, rules=rules)
        for word in found.placeholder_words[:1]:
            first = kept[int(np.flatnonzero(column_B == float(word))[0])]
            raise InputError(
                f"{name}: a value looks like a placeholder for a missing label",
                found=f"{word} at index {first}, far outside the others",
                next_step="Pass NaN where a label is missing, "
                f"or settings={{'labels.measured': '{word}'}} if that was measured",
            )


def _number_cell(label: float) -> str:
    return "" if math.isnan(label) else repr(label)


def _write_table(
    path: Path,
    smiles: Sequence[str],
    labels_BC: np.ndarray,
    names: Sequence[str],
    parts: Sequence[str],
    words: Sequence[str],
) -> None:
    def cell(label: float, part: str) -> str:
        if part == "test":
            return ""
        return words[int(label)] if words and not math.isnan(label) else _number_cell(label)

    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([_SMILES, _SPLIT, *names])
        for text, part, labels in zip(smiles, parts, labels_BC.tolist(), strict=True):
            writer.writerow([text, part, *(cell(label, part) for label in labels)])
