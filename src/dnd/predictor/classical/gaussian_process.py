r"""Models of scaled features as arrays: a Gaussian process, and the weighted sum of ridge and logistic regression.

The process has the training molecules and a weight for each:

.. math:: k(a, b) = s \Big( w\, T(a, b) + (1 - w) \exp\big(-\tfrac{d(a, b)^2}{2 \ell^2}\big) \Big), \qquad
          \hat y(x) = m + \sum_i \alpha_i k(x, x_i), \quad \alpha = (K + \sigma^2 I)^{-1} (y - m)

T is the Tanimoto similarity of count fingerprints, Σ min(aᵢ, bᵢ) / Σ max(aᵢ, bᵢ) (Ralaivola et al., Neural Networks 18
(2005) 1093), d the root mean square distance of scaled descriptors. s, w, ℓ and σ² maximise the likelihood of the
training labels (Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), eq. 5.8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32, Int64

from dnd.common.errors import CorruptFileError
from dnd.common.model_folder import Expected, check_arrays, packed_size
from dnd.predictor.classical.trees import Link, linked

LIMIT_LEVELS = 4  # a count above 4 is taken as 4, which keeps the bits few
_LIKELIHOOD_MOLECULES = 400  # the four numbers are found on so many, the weights on all
_STEEPNESS = 6.0
_STORED: dict[str, Expected] = {
    "bit_columns": ("i", ("bits",)),
    "bit_levels": ("f", ("bits",)),
    "columns": ("i", ("columns",)),
    "scaled": ("f", ("training", "columns")),
    "alpha": ("f", ("training",)),
    "numbers": ("f", (3,)),
}
_START = np.array([0.0, 0.0, 0.0, -2.0])  # log s, logit w, log ℓ, log σ²


@dataclass(frozen=True)
class Unary:
    """Counts as bits: one bit for each place of the fingerprint and each level that a training molecule reaches.

    Attributes:
        columns_X: feature of each bit.
        levels_X: the bit is set when the count is at least this.
    """

    columns_X: Int64[np.ndarray, "bits"]
    levels_X: Float32[np.ndarray, "bits"]

    @classmethod
    def fit(cls, x_BF: np.ndarray, columns: np.ndarray) -> Unary:
        """Bits that two training molecules or more have."""
        pairs = [
            (column, level)
            for level in range(1, LIMIT_LEVELS + 1)
            for column in columns[(x_BF[:, columns] >= level).sum(axis=0) >= 2]
        ]
        return cls(np.array([c for c, _ in pairs], np.int64), np.array([level for _, level in pairs], np.float32))

    def bits(self, x_BF: np.ndarray) -> Float32[np.ndarray, "molecules bits"]:
        """0 and 1 as float32, ready for a matrix product."""
        found: np.ndarray = (x_BF[:, self.columns_X] >= self.levels_X).astype(np.float32)
        return found


def tanimoto(a_BX: Float32[np.ndarray, "molecules bits"], b_VX: Float32[np.ndarray, "training bits"]) -> np.ndarray:
    """Σ min / Σ max of counts, from their bits; 1 for two molecules without any."""
    common_BV = (a_BX @ b_VX.T).astype(np.float64)
    either_BV = a_BX.sum(axis=1, dtype=np.float64)[:, None] + b_VX.sum(axis=1, dtype=np.float64) - common_BV
    return np.where(either_BV > 0, common_BV / np.maximum(either_BV, 1.0), 1.0)


def squared_distance(a_BS: np.ndarray, b_VS: np.ndarray) -> np.ndarray:
    """Mean over columns of squared differences.

    A matrix product rounds by the order in memory. Selected columns lie one behind the other, those that come from a
    file do not; with one order for both, a model predicts the same bits before and after it was stored.
    """
    a, b = (np.asfortranarray(own, np.float64) for own in (a_BS, b_VS))
    total = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    found: np.ndarray = np.maximum(total, 0.0) / max(1, a.shape[1])
    return found


@dataclass(frozen=True)
class Kernel:
    """A fitted Gaussian process.

    Attributes:
        unary: unary encoding of the fingerprints.
        scaling: scaling of the descriptors.
        bits_VX: fingerprint bits of the training molecules.
        scaled_VS: descriptors of the training molecules.
        alpha_V: weights, with s in them.
        share: w.
        length: ℓ.
        mean: m.
        link: link function of the prediction.
    """

    kind: ClassVar[str] = "kernel"

    unary: Unary
    scaling: Scaling
    bits_VX: Float32[np.ndarray, "training bits"]
    scaled_VS: Float32[np.ndarray, "training columns"]
    alpha_V: Float[np.ndarray, "training"]
    share: float
    length: float
    mean: float
    link: Link

    @property
    def num_bytes(self) -> int:
        """Of the arrays, the bits packed."""
        return self.bits_VX.size // 8 + 4 * self.scaled_VS.size + 8 * len(self.alpha_V)

    def predict(self, x_BF: Float32[np.ndarray, "molecules features"]) -> Float[np.ndarray, "molecules"]:
        """The mean of the process for each row."""
        similar_BV = tanimoto(self.unary.bits(x_BF), self.bits_VX)
        near_BV = np.exp(-squared_distance(self.scaling.apply(x_BF), self.scaled_VS) / (2 * self.length**2))
        kernel_BV = self.share * similar_BV + (1 - self.share) * near_BV
        return linked(kernel_BV @ self.alpha_V + self.mean, self.link)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored; the inverse of `from_arrays`."""
        return {
            **self.scaling.arrays(),
            "bit_columns": self.unary.columns_X,
            "bit_levels": self.unary.levels_X,
            "bits": np.packbits(self.bits_VX.astype(bool), axis=1),
            "scaled": self.scaled_VS,
            "alpha": self.alpha_V,
            "numbers": np.array([self.share, self.length, self.mean]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], link: Link, width: int) -> Kernel:
        """See `Scaling.from_arrays`."""
        sizes = check_arrays(arrays, _STORED)
        check_arrays(arrays, {"bits": ("u", (sizes["training"], packed_size(sizes["bits"])))})
        unary = Unary(arrays["bit_columns"], arrays["bit_levels"])
        if len(unary.columns_X) and not 0 <= unary.columns_X.min() <= unary.columns_X.max() < width:
            raise CorruptFileError(
                "a classical model uses a feature that does not exist",
                found=f"columns {int(unary.columns_X.min())} to {int(unary.columns_X.max())}",
                expected=f"0 to {width - 1}",
                next_step="Finetune the model again",
            )
        bits = np.unpackbits(arrays["bits"], axis=1, count=len(unary.columns_X)).astype(np.float32)
        share, length, mean = map(float, arrays["numbers"])
        scaling = Scaling.from_arrays(arrays, width)
        return cls(unary, scaling, bits, arrays["scaled"], arrays["alpha"], share, length, mean, link)


def fit_kernel(
    x_BF: Float32[np.ndarray, "molecules features"],
    y_B: Float[np.ndarray, "molecules"],
    counts: Int64[np.ndarray, "counts"],
    others: Int64[np.ndarray, "others"],
    *,
    classes: bool,
    seed: int,
) -> Kernel:
    """Fit a Gaussian process.

    Classes are fitted as the numbers 0 and 1, and the mean f of the process becomes the probability σ(6 (f - ½)): close
    to f, but it never leaves 0 to 1 and keeps every order.

    Args:
        x_BF: features of the training molecules.
        y_B: their labels, of about unit deviation.
        counts: columns that are counts of fingerprints.
        others: columns of descriptors and representations.
        classes: whether the labels are 0 and 1.
        seed: random seed of the molecules that the likelihood is computed on.
    """
    from scipy.linalg import cho_factor, cho_solve  # prediction need not load SciPy
    from scipy.special import expit

    unary, scaling = Unary.fit(x_BF, counts), Scaling.fit(x_BF[:, others])
    scaling = Scaling(others[scaling.columns_S], scaling.mean_S, scaling.std_S)
    bits_VX, scaled_VS = unary.bits(x_BF), scaling.apply(x_BF)
    mean = float(y_B.mean())
    similar, distance = tanimoto(bits_VX, bits_VX), squared_distance(scaled_VS, scaled_VS)
    few = np.random.default_rng(seed).permutation(len(y_B))[:_LIKELIHOOD_MOLECULES]
    found = _most_likely(similar[np.ix_(few, few)], distance[np.ix_(few, few)], y_B[few] - mean)
    scale, share, length, noise = np.exp(found[0]), expit(found[1]), np.exp(found[2]), np.exp(found[3])
    kernel_VV = scale * (share * similar + (1 - share) * np.exp(-distance / (2 * length**2)))
    factor = cho_factor(kernel_VV + noise * np.eye(len(y_B)), lower=True)
    alpha_V = scale * cho_solve(factor, y_B - mean)
    if classes:
        alpha_V, mean = _STEEPNESS * alpha_V, _STEEPNESS * (mean - 0.5)
    link: Link = "logit" if classes else "identity"
    return Kernel(unary, scaling, bits_VX, scaled_VS, alpha_V, float(share), float(length), mean, link)


def _most_likely(similar: np.ndarray, distance: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The four numbers that maximise the likelihood, each within a sane range."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve
    from scipy.optimize import minimize
    from scipy.special import expit

    def loss(numbers: np.ndarray) -> float:
        scale, share, length, noise = np.exp(numbers[0]), expit(numbers[1]), np.exp(numbers[2]), np.exp(numbers[3])
        kernel = scale * (share * similar + (1 - share) * np.exp(-distance / (2 * length**2)))
        try:
            lower, flag = cho_factor(kernel + noise * np.eye(len(y)), lower=True)
        except LinAlgError:
            return 1e12
        return float(0.5 * y @ cho_solve((lower, flag), y) + np.log(np.diag(lower)).sum())

    bounds = [(-3.0, 4.0), (-6.0, 6.0), (-2.5, 2.5), (-6.0, 1.0)]
    options = {"maxfev": 120, "xatol": 0.05, "fatol": 0.05}
    result: np.ndarray = minimize(loss, _START, method="Nelder-Mead", bounds=bounds, options=options).x
    return result


# Ridge and logistic regression as arrays: which columns, how they are scaled, and a weight for each.
#


CLIP = 5.0
_STORED_SCALING: dict[str, Expected] = {
    "columns": ("i", ("columns",)),
    "mean": ("f", ("columns",)),
    "std": ("f", ("columns",)),
}
_STORED_LINEAR: dict[str, Expected] = {"weights": ("f", ("columns",)), "intercept": ("f", (1,))}


@dataclass(frozen=True)
class Scaling:
    """Standardised columns, cut off at five training deviations.

    A linear model extrapolates: without the cut one descriptor that is a hundred deviations out (Ipc of a large
    molecule) would decide a prediction alone.

    Attributes:
        columns_S: that are used.
        mean_S: means of the training molecules.
        std_S: standard deviations of the training molecules.
    """

    columns_S: Int64[np.ndarray, "columns"]
    mean_S: Float32[np.ndarray, "columns"]
    std_S: Float32[np.ndarray, "columns"]

    @classmethod
    def fit(cls, x_BF: Float32[np.ndarray, "molecules features"]) -> Scaling:
        """Columns that are not constant."""
        mean_F, std_F = x_BF.mean(axis=0, dtype=np.float64), x_BF.std(axis=0, dtype=np.float64)
        columns_S = np.flatnonzero(std_F > 1e-6 * (1 + np.abs(mean_F)))
        return cls(columns_S, mean_F[columns_S].astype(np.float32), std_F[columns_S].astype(np.float32))

    def apply(self, x_BF: Float32[np.ndarray, "molecules features"]) -> Float32[np.ndarray, "molecules columns"]:
        """`(x - mean) / std`, between -5 and 5."""
        scaled_BS: np.ndarray = (x_BF[:, self.columns_S] - self.mean_S) / self.std_S
        return scaled_BS.clip(-CLIP, CLIP)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored."""
        return {"columns": self.columns_S, "mean": self.mean_S, "std": self.std_S}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], width: int) -> Scaling:
        """The inverse of `arrays`.

        Raises:
            CorruptFileError: an array is missing or of the wrong kind, or a column that there is not.
        """
        check_arrays(arrays, _STORED_SCALING)
        columns_S = arrays["columns"]
        if len(columns_S) and not 0 <= columns_S.min() <= columns_S.max() < width:
            raise CorruptFileError(
                "a classical model uses a feature that does not exist",
                found=f"columns {int(columns_S.min())} to {int(columns_S.max())}",
                expected=f"0 to {width - 1}",
                next_step="Finetune the model again",
            )
        return cls(columns_S, arrays["mean"], arrays["std"])


@dataclass(frozen=True)
class Linear:
    r"""A linear model of scaled columns; without columns it is a constant.

    .. math:: \hat y(x) = g(w^\top z(x) + b)

    Attributes:
        scaling: z.
        weights_S: w.
        intercept: b.
        link: g.
    """

    kind: ClassVar[str] = "linear"

    scaling: Scaling
    weights_S: Float[np.ndarray, "columns"]
    intercept: float
    link: Link

    @property
    def num_bytes(self) -> int:
        """Of the arrays."""
        return 24 * len(self.weights_S)

    def predict(self, x_BF: Float32[np.ndarray, "molecules features"]) -> Float[np.ndarray, "molecules"]:
        """The prediction for each row."""
        return linked(self.scaling.apply(x_BF).astype(np.float64) @ self.weights_S + self.intercept, self.link)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored; the inverse of `from_arrays`."""
        return {**self.scaling.arrays(), "weights": self.weights_S, "intercept": np.array([self.intercept])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], link: Link, width: int) -> Linear:
        """See `Scaling.from_arrays`."""
        check_arrays(arrays, _STORED_SCALING | _STORED_LINEAR)
        scaling = Scaling.from_arrays(arrays, width)
        return cls(scaling, arrays["weights"], float(arrays["intercept"][0]), link)


def constant(value: float) -> Linear:
    """The same prediction for every molecule, for a target with one label value."""
    nothing = np.empty(0, np.float32)
    return Linear(Scaling(np.empty(0, np.int64), nothing, nothing), np.empty(0), value, "identity")
