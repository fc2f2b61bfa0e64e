"""Ridge and logistic regression as arrays: which columns, how they are scaled, and a weight for each.

Legend: N molecules, F features, K used columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from dnd.common.errors import CorruptFileError
from dnd.common.model_folder import Expected, check_arrays
from dnd.predictor.classical.trees import Link, linked

CLIP = 5.0
_STORED_SCALING: dict[str, Expected] = {
    "columns": ("i", ("columns",)),
    "mean": ("f", ("columns",)),
    "std": ("f", ("columns",)),
}
_STORED: dict[str, Expected] = {"weights": ("f", ("columns",)), "intercept": ("f", (1,))}


@dataclass(frozen=True)
class Scaling:
    """Standardised columns, cut off at five training deviations.

    A linear model extrapolates: without the cut one descriptor that is a hundred deviations out (Ipc of a large
    molecule) would decide a prediction alone.

    Attributes:
        columns_K: that are used.
        mean_K: of the training molecules.
        std_K: of the training molecules.
    """

    columns_K: Int64[np.ndarray, "columns"]
    mean_K: Float32[np.ndarray, "columns"]
    std_K: Float32[np.ndarray, "columns"]

    @classmethod
    def fit(cls, x_NF: Float32[np.ndarray, "molecules features"]) -> Scaling:
        """Columns that are not constant."""
        mean_F, std_F = x_NF.mean(axis=0, dtype=np.float64), x_NF.std(axis=0, dtype=np.float64)
        columns_K = np.flatnonzero(std_F > 1e-6 * (1 + np.abs(mean_F)))
        return cls(columns_K, mean_F[columns_K].astype(np.float32), std_F[columns_K].astype(np.float32))

    def apply(self, x_NF: Float32[np.ndarray, "molecules features"]) -> Float32[np.ndarray, "molecules columns"]:
        """`(x - mean) / std`, between -5 and 5."""
        scaled_NK: np.ndarray = (x_NF[:, self.columns_K] - self.mean_K) / self.std_K
        return scaled_NK.clip(-CLIP, CLIP)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored."""
        return {"columns": self.columns_K, "mean": self.mean_K, "std": self.std_K}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], width: int) -> Scaling:
        """The inverse of `arrays`.

        Raises:
            CorruptFileError: an array is missing or of the wrong kind, or a column that there is not.
        """
        check_arrays(arrays, _STORED_SCALING)
        columns_K = arrays["columns"]
        if len(columns_K) and not 0 <= columns_K.min() <= columns_K.max() < width:
            raise CorruptFileError(
                "a classical model uses a feature that there is not",
                found=f"columns {int(columns_K.min())} to {int(columns_K.max())}",
                expected=f"0 to {width - 1}",
                next_step="Finetune the model again",
            )
        return cls(columns_K, arrays["mean"], arrays["std"])


@dataclass(frozen=True)
class Linear:
    r"""A linear model of scaled columns; without columns it is a constant.

    .. math:: \hat y(x) = g(w^\top z(x) + b)

    Attributes:
        scaling: z.
        weights_K: w.
        intercept: b.
        link: g.
    """

    kind: ClassVar[str] = "linear"

    scaling: Scaling
    weights_K: Float[np.ndarray, "columns"]
    intercept: float
    link: Link

    @property
    def num_bytes(self) -> int:
        """Of the arrays."""
        return 24 * len(self.weights_K)

    def predict(self, x_NF: Float32[np.ndarray, "molecules features"]) -> Float[np.ndarray, "molecules"]:
        """The prediction for each row."""
        return linked(self.scaling.apply(x_NF).astype(np.float64) @ self.weights_K + self.intercept, self.link)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored; the inverse of `from_arrays`."""
        return {**self.scaling.arrays(), "weights": self.weights_K, "intercept": np.array([self.intercept])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], link: Link, width: int) -> Linear:
        """See `Scaling.from_arrays`."""
        check_arrays(arrays, _STORED_SCALING | _STORED)
        scaling = Scaling.from_arrays(arrays, width)
        return cls(scaling, arrays["weights"], float(arrays["intercept"][0]), link)


def constant(value: float) -> Linear:
    """The same prediction for every molecule, for a target with one label value."""
    nothing = np.empty(0, np.float32)
    return Linear(Scaling(np.empty(0, np.int64), nothing, nothing), np.empty(0), value, "identity")
