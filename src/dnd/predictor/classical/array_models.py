"""Models that are arrays alone: trees, Gaussian processes, linear models; read, checked and applied without pickle.

Over 500 lines because all of them share one protocol and one way of being stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, Int64, UInt16

from dnd.common.errors import CorruptFileError
from dnd.common.model_folder import Expected, check_arrays, packed_size
from dnd.predictor.targets import Weights, weighted_count, weighted_moments

# Forests of scikit-learn and boosted trees of LightGBM as plain arrays: nothing is pickled, NumPy alone predicts.
#
# A node is three numbers: the column it looks at, its threshold (a leaf: its value), and how far the next node is when
# the column's value is larger; when it is not, the next node is the one that follows. So trees lie one behind the
# other, each in the order in which a depth-first walk that goes left first meets its nodes.

Link = Literal["identity", "logit"]
_LEAF = -1
_ROWS_AT_ONCE, _WALKS_AT_ONCE = 512, 2**20  # a walk is a row in a tree and takes 43 bytes
LIMIT_TREES = 20_000  # of one model that is loaded
_CATEGORICAL, _MISSING_GOES_LEFT, _MISSING = 1, 2, 12  # bits of LightGBM's `decision_type`
_MISSING_IS_ZERO, _MISSING_IS_NAN = 4, 8
_LARGEST = float(np.finfo(np.float32).max)
_NODE_BYTES = 9
_Columns = tuple[np.ndarray, ...]
"""The nodes of a tree: feature, threshold, value, left and right child, whether a missing value goes left."""
_STORED_TREES: dict[str, Expected] = {
    "feature": ("i", ("nodes",)),
    "number": ("f", ("nodes",)),
    "skip": ("u", ("nodes",)),
    "starts": ("i", ("trees",)),
    "affine": ("f", (2,)),
}


def linked(raw_B: Float[np.ndarray, "molecules"], link: Link) -> Float[np.ndarray, "molecules"]:
    """From a model's raw sum to its prediction: as it is, or through the logistic function."""
    if link == "identity":
        return raw_B
    from scipy.special import expit  # not every prediction has to load it

    found: np.ndarray = expit(raw_B)
    return found


@dataclass(frozen=True)
class Trees:
    r"""A sum of decision trees.

    .. math:: \hat y(x) = g\Big(b + s \sum_t \mathrm{leaf}_t(x)\Big)

    Attributes:
        feature_X: column of an inner node, -1 of a leaf.
        number_X: threshold of an inner node, value of a leaf.
        skip_X: nodes from an inner node to its right child.
        missing_left_X: where a missing value goes.
        starts_M: first node of each tree.
        scale: s.
        base: b.
        link: g.
    """

    kind: ClassVar[str] = "trees"

    feature_X: Int16[np.ndarray, "nodes"]
    number_X: Float32[np.ndarray, "nodes"]
    skip_X: UInt16[np.ndarray, "nodes"]
    missing_left_X: Bool[np.ndarray, "nodes"]
    starts_M: Int64[np.ndarray, "trees"]
    scale: float
    base: float
    link: Link

    @property
    def num_trees(self) -> int:
        """M."""
        return len(self.starts_M)

    @property
    def is_mean(self) -> bool:
        """Whether it is a forest, so that fewer trees would do."""
        return self.base == 0.0 and self.link == "identity" and self.scale < 1.0

    @property
    def num_bytes(self) -> int:
        """Of the arrays."""
        return _NODE_BYTES * len(self.feature_X)

    def predict(self, x_BF: Float32[np.ndarray, "molecules features"]) -> Float[np.ndarray, "molecules"]:
        """The prediction for each row; NaN is a missing value."""
        rows = min(_ROWS_AT_ONCE, max(1, _WALKS_AT_ONCE // max(1, self.num_trees)))
        raw = [self._sum(x_BF[start : start + rows]) for start in range(0, len(x_BF), rows)]
        return linked(self.base + self.scale * np.concatenate([np.zeros(0), *raw]), self.link)

    def _sum(self, x_BF: np.ndarray) -> np.ndarray:
        """Walk all rows down all trees at once, a level per pass; who has reached a leaf is done."""
        count, width = x_BF.shape
        flat, has_missing = np.ascontiguousarray(x_BF).ravel(), bool(np.isnan(x_BF).any())
        node = np.repeat(self.starts_M, count)
        row = np.tile(np.arange(count), len(self.starts_M))
        total = np.zeros(count)
        while len(node):
            feature, number = self.feature_X[node], self.number_X[node]
            inner = feature >= 0
            if not inner.all():
                done = ~inner
                total += np.bincount(row[done], number[done].astype(np.float64), minlength=count)
                node, row, feature, number = node[inner], row[inner], feature[inner], number[inner]
            value = flat[row * width + feature]
            left = value <= number
            if has_missing:
                left |= np.isnan(value) & self.missing_left_X[node]
            node = node + np.where(left, 1, self.skip_X[node])
        return total

    def first(self, count: int) -> Trees:
        """The first `count` trees of a forest, at least one, instead of all."""
        end = int(self.starts_M[count]) if count < len(self.starts_M) else len(self.feature_X)
        scale = self.scale * len(self.starts_M) / count
        parts = (self.feature_X[:end], self.number_X[:end], self.skip_X[:end], self.missing_left_X[:end])
        return Trees(*parts, self.starts_M[:count], scale, self.base, self.link)

    def arrays(self) -> dict[str, np.ndarray]:
        """What is stored; the inverse of `from_arrays`."""
        return {
            "feature": self.feature_X,
            "number": self.number_X,
            "skip": self.skip_X,
            "missing_left": np.packbits(self.missing_left_X),
            "starts": self.starts_M,
            "affine": np.array([self.scale, self.base]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], link: Link, width: int) -> Trees:
        """Trees over `width` features from stored arrays.

        Raises:
            CorruptFileError: an array is missing or of the wrong kind, a node leads out of its tree or names a feature
                that there is not, a tree has another number of leaves than its inner nodes ask for, or there are too
                many trees.
        """
        sizes = check_arrays(arrays, _STORED_TREES)
        check_arrays(arrays, {"missing_left": ("u", (packed_size(sizes["nodes"]),))})
        feature, skip, starts = arrays["feature"], arrays["skip"], arrays["starts"]
        if len(starts) > LIMIT_TREES:
            raise CorruptFileError("a classical model has too many trees", found=len(starts), expected=LIMIT_TREES)
        ends = np.append(starts[1:], len(feature))
        places, inner = np.arange(len(feature)), feature >= 0
        end_of = np.repeat(ends, ends - starts) if len(starts) and starts[0] == 0 and (ends > starts).all() else None
        sound = (
            end_of is not None
            and bool((feature < width).all())
            and bool((np.add.reduceat(np.where(inner, 1, -1), starts) == -1).all())
            and bool((skip[inner] > 1).all())
            and bool((places[inner] + skip[inner] < end_of[inner]).all())
        )
        if not sound:
            raise CorruptFileError(
                "a tree of a classical model contains an invalid index", next_step="Finetune the model again"
            )
        missing = np.unpackbits(arrays["missing_left"], count=len(feature)).astype(bool)
        scale, base = map(float, arrays["affine"])
        return cls(feature, arrays["number"], skip, missing, starts, scale, base, link)


def from_forest(forest: Any, columns: np.ndarray, *, classes: bool) -> Trees:
    """A fitted random forest or extra trees of scikit-learn; its prediction is the mean over trees.

    Args:
        forest: fitted on one target, or on two classes.
        columns: for each column of the model, its index in the features.
        classes: the value is the share of class 1 in a leaf.
    """
    trees = []
    for estimator in forest.estimators_:
        tree = estimator.tree_
        value = tree.value[:, 0, 1] / tree.value[:, 0].sum(axis=1) if classes else tree.value[:, 0, 0]
        missing = tree.missing_go_to_left.astype(bool)
        trees.append((tree.feature, tree.threshold, value, tree.children_left, tree.children_right, missing))
        assert (tree.children_left[tree.feature >= 0] == np.flatnonzero(tree.feature >= 0) + 1).all(), "depth first"
    return _laid_out(trees, columns, scale=1 / len(trees), link="identity")


def from_lightgbm(text: str, columns: np.ndarray) -> Trees:
    """A booster of LightGBM with a value or two classes as its target, from `booster.model_to_string()`.

    Source of the meaning of each entry: LightGBM's `Tree::ToString`, and its documentation of the handling of missing
    values. Leaves hold the starting value already: LightGBM adds it to the first tree.

    Args:
        text: without categorical features, fitted without `zero_as_missing`.
        columns: for each column of the model, its index in the features.
    """
    head, *trees = text.partition("end of trees")[0].split("\nTree=")
    objective = _entries(head)["objective"].split()
    link: Link = "logit" if objective[0] == "binary" else "identity"
    assert link == "identity" or "sigmoid:1" in objective, "the logistic function as it is"
    return _laid_out([_depth_first(_lightgbm_tree(_entries(tree))) for tree in trees], columns, scale=1.0, link=link)


def mean_of(boosted: Sequence[Trees]) -> Trees:
    """The mean of the raw sums of several boosted models; the leaves hold it, so that no tree can be left out."""
    first = boosted[0]
    assert all((one.scale, one.base, one.link) == (1.0, 0.0, first.link) for one in boosted)
    ends = np.cumsum([0, *(len(one.feature_X) for one in boosted)])
    feature_X = np.concatenate([one.feature_X for one in boosted])
    number_X = np.concatenate([one.number_X for one in boosted])
    return Trees(
        feature_X,
        np.where(feature_X < 0, number_X / len(boosted), number_X).astype(np.float32),
        np.concatenate([one.skip_X for one in boosted]),
        np.concatenate([one.missing_left_X for one in boosted]),
        np.concatenate([one.starts_M + start for one, start in zip(boosted, ends[:-1], strict=True)]),
        scale=1.0,
        base=0.0,
        link=first.link,
    )


def _entries(text: str) -> dict[str, str]:
    """The lines `name=value` of a part of LightGBM's text."""
    return {name: value for name, _, value in (line.partition("=") for line in text.splitlines())}


def _lightgbm_tree(entries: Mapping[str, str]) -> _Columns:
    """The inner nodes, then the leaves."""
    value = np.array(entries["leaf_value"].split(), np.float64)
    inner, leaves = len(value) - 1, np.zeros(len(value))

    def of_inner(name: str, kind: type) -> np.ndarray:
        return np.array(entries[name].split(), kind) if inner else np.empty(0, kind)

    def child(name: str) -> np.ndarray:
        place = of_inner(name, np.int64)
        return np.concatenate([np.where(place < 0, inner + ~place, place), leaves.astype(np.int64)])

    threshold, decision = of_inner("threshold", np.float64), of_inner("decision_type", np.int64)
    assert not (decision & _CATEGORICAL).any(), "no feature is categorical"
    missing = decision & _MISSING
    assert not (missing == _MISSING_IS_ZERO).any(), "zero is a value"
    # Where training met no missing value, LightGBM takes one for zero.
    to_left = np.where(missing == _MISSING_IS_NAN, (decision & _MISSING_GOES_LEFT) > 0, threshold >= 0.0)
    return (
        np.concatenate([of_inner("split_feature", np.int64), np.full(len(value), _LEAF)]),
        np.concatenate([threshold.clip(-_LARGEST, _LARGEST), leaves]),  # all numbers go left of 1e300
        np.concatenate([np.zeros(inner), value]),
        child("left_child"),
        child("right_child"),
        np.concatenate([to_left, leaves.astype(bool)]),
    )


def _laid_out(trees: Sequence[_Columns], columns: np.ndarray, scale: float, link: Link) -> Trees:
    """Trees one behind the other; the nodes of each are in the order of a walk that goes left first."""
    features, numbers, skips, missings, sizes = [], [], [], [], []
    for feature, threshold, value, _, right, missing in trees:
        inner = feature >= 0
        skip = np.zeros(len(feature), np.int64)
        skip[inner] = right[inner] - np.flatnonzero(inner)
        assert skip.max(initial=0) < 2**16, "the sizes of the fits keep trees below 65,536 nodes"
        features.append(np.where(inner, columns[np.where(inner, feature, 0)], _LEAF).astype(np.int16))
        numbers.append(np.where(inner, _rounded_down(threshold), value.astype(np.float32)).astype(np.float32))
        skips.append(skip.astype(np.uint16))
        missings.append(missing)
        sizes.append(len(feature))
    starts = np.cumsum([0, *sizes[:-1]]).astype(np.int64)
    return Trees(
        np.concatenate(features),
        np.concatenate(numbers),
        np.concatenate(skips),
        np.concatenate(missings),
        starts,
        scale,
        base=0.0,
        link=link,
    )


def _depth_first(tree: _Columns) -> _Columns:
    """The tree with its nodes in the order of a walk that goes left first."""
    feature, threshold, value, left, right, missing = tree
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if feature[node] >= 0:
            waiting += [int(right[node]), int(left[node])]
    place = np.argsort(order)
    return feature[order], threshold[order], value[order], place[left[order]], place[right[order]], missing[order]


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 up to each threshold: for a float32 value the comparison stays the same."""
    rounded = threshold.astype(np.float32)
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)


# Models of scaled features as arrays: a Gaussian process, and the weighted sum of ridge and logistic regression.
#
# The process has the training molecules and a weight for each:
#
# .. math:: k(a, b) = s \Big( w\, T(a, b) + (1 - w) \exp\big(-\tfrac{d(a, b)^2}{2 \ell^2}\big) \Big), \qquad
#           \hat y(x) = m + \sum_i \alpha_i k(x, x_i), \quad \alpha = (K + \sigma^2 I)^{-1} (y - m)
#
# T is the Tanimoto similarity of count fingerprints, Σ min(aᵢ, bᵢ) / Σ max(aᵢ, bᵢ) (Ralaivola et al., Neural Networks
# 18 (2005) 1093), d the root mean square distance of scaled descriptors. s, w, ℓ and σ² maximise the likelihood of the
# training labels (Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), eq. 5.8).

MOST_EXACT = 5_000  # the Cholesky factor of that many takes two seconds
WEIGHTED = 3_000  # molecules with a weight beyond that
_BLOCK = 2_000  # rows of the kernel that are in memory at once
_JITTER = 1e-8
LIMIT_LEVELS = 4  # a count above 4 is taken as 4, which keeps the bits few
_LIKELIHOOD_MOLECULES = 400  # the four numbers are fitted on these, the weights on all
_LEAST_NOISE = 1e-6  # of a label of weight 1; with less, copies of a molecule would leave no Cholesky factor
_STEEPNESS = 6.0
_STORED_PROCESS: dict[str, Expected] = {
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
    def fit(cls, x_BF: np.ndarray, columns: np.ndarray, weight_B: Weights = None) -> Unary:
        """Bits that two training molecules or more have; weights count as so many molecules."""
        pairs = [
            (column, level)
            for level in range(1, LIMIT_LEVELS + 1)
            for column in columns[weighted_count(x_BF[:, columns] >= level, weight_B) >= 2]
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
        mean_B = np.empty(len(x_BF))
        for first in range(0, len(x_BF), _BLOCK):
            own = slice(first, first + _BLOCK)
            mean_B[own] = self.similarity(x_BF[own]) @ self.alpha_V + self.mean
        return linked(mean_B, self.link)

    def similarity(self, x_BF: Float32[np.ndarray, "molecules features"]) -> Float[np.ndarray, "molecules training"]:
        """k / s between rows and the molecules that have a weight."""
        similar_BV = tanimoto(self.unary.bits(x_BF), self.bits_VX)
        near_BV = np.exp(-squared_distance(self.scaling.apply(x_BF), self.scaled_VS) / (2 * self.length**2))
        kernel_BV: np.ndarray = self.share * similar_BV + (1 - self.share) * near_BV
        return kernel_BV

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
        sizes = check_arrays(arrays, _STORED_PROCESS)
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
    weight_B: Weights = None,
) -> Kernel:
    r"""Fit a Gaussian process.

    Classes are fitted as the numbers 0 and 1, and the mean f of the process becomes the probability σ(6 (f - ½)): close
    to f, but it never leaves 0 to 1 and keeps every order.

    A label of weight w counts as w measurements that are equal: its noise is :math:`\sigma^2 / w`, and each of these
    w factors of the likelihood has its own :math:`1 / \sigma`.

    Args:
        x_BF: features of the training molecules.
        y_B: their labels, of about unit deviation.
        counts: columns that are counts of fingerprints.
        others: columns of descriptors and representations.
        classes: whether the labels are 0 and 1.
        seed: random seed of the molecules that the likelihood is computed on, and of those that get a weight.
        weight_B: weight of each label; None = 1.
    """
    unary, scaling = Unary.fit(x_BF, counts, weight_B), Scaling.fit(x_BF[:, others], weight_B)
    scaling = Scaling(others[scaling.columns_S], scaling.mean_S, scaling.std_S)
    order = np.random.default_rng(seed).permutation(len(y_B))
    mean, few = float(np.average(y_B, weights=weight_B)), order[:_LIKELIHOOD_MOLECULES]
    few_weights = None if weight_B is None else weight_B[few]
    numbers = _numbers_of(x_BF[few], y_B[few] - mean, unary, scaling, few_weights)
    weighted = np.arange(len(y_B)) if len(y_B) <= MOST_EXACT else np.sort(order[:WEIGHTED])
    bits_VX, scaled_VS = unary.bits(x_BF[weighted]), scaling.apply(x_BF[weighted])
    start = Kernel(
        unary, scaling, bits_VX, scaled_VS, np.zeros(len(weighted)), numbers.share, numbers.length, mean, "identity"
    )
    alpha_V = _weights_of(start, x_BF, y_B - mean, weighted, numbers.scale, numbers.noise, weight_B)
    if classes:
        alpha_V, mean = _STEEPNESS * alpha_V, _STEEPNESS * (mean - 0.5)
    return replace(start, alpha_V=alpha_V, mean=mean, link="logit" if classes else "identity")


def _weights_of(
    start: Kernel,
    x_BF: np.ndarray,
    rest_B: np.ndarray,
    weighted: np.ndarray,
    scale: float,
    noise: float,
    weight_B: Weights,
) -> Float[np.ndarray, "training"]:
    """α, with s in it: exact where all molecules have a weight, else by the subset of regressors."""
    from scipy.linalg import cho_factor, cho_solve  # prediction need not load SciPy

    if len(weighted) == len(rest_B):
        system_VV, right_V = scale * start.similarity(x_BF) + noise * _inverse(weight_B, len(rest_B)), rest_B
    else:
        system_VV = noise * scale * start.similarity(x_BF[weighted])
        right_V = np.zeros(len(weighted))
        for first in range(0, len(rest_B), _BLOCK):
            kernel_BV = scale * start.similarity(x_BF[first : first + _BLOCK])
            heavy_BV = kernel_BV
            if weight_B is not None:
                heavy_BV = weight_B[first : first + _BLOCK, None] * kernel_BV
            system_VV += heavy_BV.T @ kernel_BV
            right_V += heavy_BV.T @ rest_B[first : first + _BLOCK]
        system_VV += _JITTER * np.trace(system_VV) / len(weighted) * np.eye(len(weighted))
    alpha_V: np.ndarray = scale * cho_solve(cho_factor(system_VV, lower=True, overwrite_a=True), right_V)
    return alpha_V


def _inverse(weight_B: Weights, count: int) -> np.ndarray:
    """The diagonal matrix that noise is multiplied by: a label of weight w has 1/w of it, a millionth at least."""
    return np.eye(count) if weight_B is None else np.diag(np.maximum(1 / weight_B, _LEAST_NOISE))


class _Numbers(NamedTuple):
    """s, w, ℓ and σ² of the process."""

    scale: float
    share: float
    length: float
    noise: float

    @classmethod
    def decoded(cls, free: np.ndarray) -> _Numbers:
        """Of log s, logit w, log ℓ and log σ², over which the likelihood is maximised."""
        from scipy.special import expit

        return cls(*map(float, (np.exp(free[0]), expit(free[1]), np.exp(free[2]), np.exp(free[3]))))


def _numbers_of(x_BF: np.ndarray, rest_B: np.ndarray, unary: Unary, scaling: Scaling, weight_B: Weights) -> _Numbers:
    bits_BX, scaled_BS = unary.bits(x_BF), scaling.apply(x_BF)
    return _most_likely(tanimoto(bits_BX, bits_BX), squared_distance(scaled_BS, scaled_BS), rest_B, weight_B)


def _most_likely(similar: np.ndarray, distance: np.ndarray, y: np.ndarray, weight_B: Weights) -> _Numbers:
    """The four numbers that maximise the likelihood, each within a sane range."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve
    from scipy.optimize import minimize

    inverse = _inverse(weight_B, len(y))
    further = 0.0 if weight_B is None else float(weight_B.sum()) - len(y)  # factors 1/σ beyond one per label

    def loss(free: np.ndarray) -> float:
        scale, share, length, noise = _Numbers.decoded(free)
        kernel = scale * (share * similar + (1 - share) * np.exp(-distance / (2 * length**2)))
        try:
            lower, flag = cho_factor(kernel + noise * inverse, lower=True)
        except LinAlgError:
            return 1e12
        likelihood = float(0.5 * y @ cho_solve((lower, flag), y) + np.log(np.diag(lower)).sum())
        return likelihood if weight_B is None else likelihood + 0.5 * further * float(np.log(noise))

    bounds = [(-3.0, 4.0), (-6.0, 6.0), (-2.5, 2.5), (-6.0, 1.0)]
    options = {"maxfev": 120, "xatol": 0.05, "fatol": 0.05}
    return _Numbers.decoded(minimize(loss, _START, method="Nelder-Mead", bounds=bounds, options=options).x)


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
    def fit(cls, x_BF: Float32[np.ndarray, "molecules features"], weight_B: Weights = None) -> Scaling:
        """Columns that are not constant; see `weighted_moments`."""
        mean_F, std_F = weighted_moments(x_BF, weight_B)
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
