"""The protocol of everything that says how sure a model is: fit, apply, evaluate, describe.

A calibrator is a frozen dataclass of numbers. It learns from molecules that the model was not trained on, it is applied
to the model's predictions for any molecules, it is evaluated on labelled molecules, and it describes itself in words.
Conformal intervals are in this file, calibrated probabilities and sets of likely classes in `classes.py`; which of
them suits given molecules is decided in `fitting.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, Int

from dnd.common.config import from_dict
from dnd.predictor.targets import AS_IT_IS, Transform

COVERAGE = 0.9  # that intervals and sets are made for
C = TypeVar("C", bound="Calibrator")


@dataclass(frozen=True)
class Predicted:
    """Predictions of a model for one target.

    Attributes:
        values: values in the target's unit or probabilities of class 1, (B,); or probabilities of each class, (B, K).
        spread_B: deviation between the members of the model, in the target's unit; None = not known.
        transform: transform of the target; errors are measured in its scale.
        similarity_B: Tanimoto similarity to the nearest molecule that the model learned from, as the applicability
            domain measures it; None = not known.
    """

    values: Float[np.ndarray, "molecules *classes"]
    spread_B: Float[np.ndarray, "molecules"] | None = None
    transform: Transform = AS_IT_IS
    similarity_B: Float[np.ndarray, "molecules"] | None = None

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.values)

    @property
    def by_class_BK(self) -> Float[np.ndarray, "molecules classes"]:
        """Probabilities of each class; of class 0 and class 1 where the values are those of class 1."""
        return self.values if self.values.ndim == 2 else np.stack([1 - self.values, self.values], axis=1)


@dataclass(frozen=True)
class HeldOut:
    """Labelled molecules that the model was not trained on.

    Attributes:
        labels_B: values in the target's unit, or the place of the true class; none is NaN.
        predicted: the model's predictions for them.
        weights_B: weight of each label, with the sum 1; None = equal weights.
        molecule_B: number of the molecule of each row, the same for replicates; None = every row is a molecule.
    """

    labels_B: Float[np.ndarray, "molecules"]
    predicted: Predicted
    weights_B: Float[np.ndarray, "molecules"] | None = None
    molecule_B: Int[np.ndarray, "molecules"] | None = None

    def __len__(self) -> int:
        """Number of molecules."""
        return len(self.labels_B)

    @property
    def places_B(self) -> np.ndarray:
        """Places of the true classes as integers."""
        return self.labels_B.astype(int)

    @property
    def residuals_B(self) -> Float[np.ndarray, "molecules"]:
        """Absolute errors, in the scale of the transform."""
        forward = self.predicted.transform.forward
        return np.asarray(np.abs(forward(self.labels_B) - forward(self.predicted.values)))

    def __getitem__(self, rows: np.ndarray) -> HeldOut:
        """Some of the molecules, without weights: those of a part would not sum to 1."""
        own, spread_B, similarity_B = self.predicted, self.predicted.spread_B, self.predicted.similarity_B
        part = replace(
            own,
            values=own.values[rows],
            spread_B=None if spread_B is None else spread_B[rows],
            similarity_B=None if similarity_B is None else similarity_B[rows],
        )
        molecule_B = None if self.molecule_B is None else self.molecule_B[rows]
        return HeldOut(self.labels_B[rows], part, molecule_B=molecule_B)


class Calibrator(ABC):
    """Uncertainty of a model for one target, learned from held-out molecules.

    Subclasses are frozen dataclasses whose fields are numbers and tuples of numbers; the fields are what
    `calibration.json` holds.
    """

    optional: ClassVar[frozenset[str]] = frozenset()  # fields that the first files did not have: absent where None

    @classmethod
    @abstractmethod
    def fit(cls, data: HeldOut) -> Calibrator | None:
        """Fit to held-out molecules; None if they are too few or do not suit the calibrator."""

    @abstractmethod
    def apply(self, predicted: Predicted) -> np.ndarray:
        """The calibrated predictions, one row per molecule; NaN rows stay NaN or empty."""

    @abstractmethod
    def scores(self, data: HeldOut) -> Mapping[str, np.ndarray]:
        """Scores of the calibrator on each molecule, (B,) per measure."""

    @abstractmethod
    def describe(self) -> str:
        """What was learned, in a few words that fit into a sentence."""

    def evaluate(self, data: HeldOut) -> dict[str, float]:
        """Means of `scores` over molecules it was not fitted on, and measures of all molecules together.

        Args:
            data: at least one molecule.
        """
        return {name: float(values_B.mean()) for name, values_B in self.scores(data).items()}

    def to_dict(self) -> dict[str, Any]:
        """Its fields, ready for JSON."""
        entry: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {name: value for name, value in entry.items() if value is not None or name not in self.optional}

    @classmethod
    def from_dict(cls: type[C], entry: Mapping[str, Any]) -> C:
        """The inverse of `to_dict`.

        Raises:
            ConfigError: an unknown field, or a value of the wrong kind.
            TypeError: a field is missing.
        """
        return from_dict(cls, entry)

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(field.name for field in fields(cls))  # type: ignore[arg-type]


def pooled_scores(tests: Sequence[tuple[Calibrator | None, HeldOut]]) -> dict[str, np.ndarray]:
    """The concatenated scores of several calibrators, each on its own molecules; None has none."""
    found = [own.scores(data) for own, data in tests if own is not None]
    names = found[0].keys() if found else ()
    return {name: np.concatenate([scores[name] for scores in found]) for name in names}
