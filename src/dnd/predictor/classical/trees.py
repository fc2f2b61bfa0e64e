"""Forests of scikit-learn and boosted trees of LightGBM as plain arrays: nothing is pickled, NumPy alone predicts.

A node is three numbers: the column it looks at, its threshold (a leaf: its value), and how far the next node is when
the column's value is larger; when it is not, the next node is the one that follows. So trees lie one behind the other,
each in the order in which a depth-first walk that goes left first meets its nodes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int16, Int64, UInt16

from dnd.common.errors import CorruptFileError
from dnd.common.model_folder import Expected, check_arrays, packed_size

Link = Literal["identity", "logit"]
_LEAF = -1
_ROWS_AT_ONCE, _WALKS_AT_ONCE = 512, 2**20  # a walk is a row in a tree and takes 43 bytes
LIMIT_TREES = 20_000  # of one model that is loaded
_LEFT, _RIGHT = 3, 4  # where a node that is read has the places of its children
_LARGEST = float(np.finfo(np.float32).max)
_NODE_BYTES = 9
_STORED: dict[str, Expected] = {
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
        sizes = check_arrays(arrays, _STORED)
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
    return _laid_out(trees, columns, scale=1 / len(trees), base=0.0, link="identity")


def from_lightgbm(dump: Mapping[str, Any], columns: np.ndarray) -> Trees:
    """A booster of LightGBM with a value or two classes as its target, from `booster.dump_model()`.

    Source of the meaning of each entry: LightGBM's documentation of `dump_model` and of its handling of missing
    values. Leaves hold the starting value already: LightGBM adds it to the first tree.

    Args:
        dump: without categorical features, fitted without `zero_as_missing`.
        columns: for each column of the model, its index in the features.
    """
    objective = str(dump["objective"]).split()
    link: Link = "logit" if objective[0] == "binary" else "identity"
    assert link == "identity" or "sigmoid:1" in objective, "the logistic function as it is"
    trees = [_lightgbm_tree(tree["tree_structure"]) for tree in dump["tree_info"]]
    return _laid_out(trees, columns, scale=1.0, base=0.0, link=link)


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


def _lightgbm_tree(root: Mapping[str, Any]) -> tuple[np.ndarray, ...]:
    """Nodes as columns (feature, threshold, value, left, right, missing goes left) of a tree of nested nodes."""
    nodes: list[list[float]] = []
    waiting: list[tuple[Mapping[str, Any], int, int]] = [(root, -1, 0)]
    while waiting:
        node, parent, side = waiting.pop()
        place = len(nodes)
        if parent >= 0:
            nodes[parent][side] = place
        if "leaf_value" in node:
            nodes.append([_LEAF, 0.0, node["leaf_value"], 0, 0, False])
            continue
        assert node["decision_type"] == "<=", "no feature is categorical"
        assert node["missing_type"] != "Zero", "zero is a value"
        # Where training met no missing value, LightGBM takes one for zero.
        left = node["default_left"] if node["missing_type"] == "NaN" else node["threshold"] >= 0.0
        nodes.append([node["split_feature"], node["threshold"], 0.0, 0, 0, left])
        waiting += [(node["right_child"], place, _RIGHT), (node["left_child"], place, _LEFT)]
    feature, threshold, value, left_of, right_of, missing = map(np.array, zip(*nodes, strict=True))
    threshold = threshold.clip(-_LARGEST, _LARGEST)  # all numbers go left of 1e300, missing values need not
    return feature.astype(int), threshold, value, left_of.astype(int), right_of.astype(int), missing.astype(bool)


def _laid_out(
    trees: Sequence[tuple[np.ndarray, ...]], columns: np.ndarray, scale: float, base: float, link: Link
) -> Trees:
    features, numbers, skips, missings, sizes = [], [], [], [], []
    for feature, threshold, value, left, right, missing in trees:
        order = _depth_first(feature, left, right)
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        feature, threshold, value, right, missing = (
            array[order] for array in (feature, threshold, value, right, missing)
        )
        inner = feature >= 0
        skip = np.zeros(len(order), np.int64)
        skip[inner] = place[right[inner]] - np.flatnonzero(inner)
        assert skip.max(initial=0) < 2**16, "the sizes of the fits keep trees below 65,536 nodes"
        features.append(np.where(inner, columns[np.where(inner, feature, 0)], _LEAF).astype(np.int16))
        numbers.append(np.where(inner, _rounded_down(threshold), value.astype(np.float32)).astype(np.float32))
        skips.append(skip.astype(np.uint16))
        missings.append(missing)
        sizes.append(len(order))
    starts = np.cumsum([0, *sizes[:-1]]).astype(np.int64)
    return Trees(
        np.concatenate(features),
        np.concatenate(numbers),
        np.concatenate(skips),
        np.concatenate(missings),
        starts,
        scale,
        base,
        link,
    )


def _depth_first(feature: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Nodes in the order of a walk that goes left first; scikit-learn's forests have it already."""
    inner = np.flatnonzero(feature >= 0)
    if (left[inner] == inner + 1).all():
        return np.arange(len(feature))
    order, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        order.append(node)
        if feature[node] >= 0:
            waiting += [int(right[node]), int(left[node])]
    return np.array(order)


def _rounded_down(threshold: np.ndarray) -> np.ndarray:
    """The largest float32 up to each threshold: for a float32 value the comparison stays the same."""
    rounded = threshold.astype(np.float32)
    return np.where(rounded > threshold, np.nextafter(rounded, np.float32(-np.inf)), rounded)
