"""Every classical model of arrays against the one contract, beside the library that it comes from."""

from __future__ import annotations

import lightgbm
import numpy as np
import pytest
from array_model_suite import COUNTS, WIDTH, ArrayModelSuite, Predict, drawn, through_bytes
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    RandomForestRegressor,
)
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics.pairwise import rbf_kernel

from dnd.common.errors import CorruptFileError
from dnd.predictor.classical.array_models import (
    LIMIT_LEVELS,
    Linear,
    Scaling,
    Trees,
    fit_kernel,
    from_forest,
    from_lightgbm,
)

COLUMNS = np.arange(WIDTH)


class TreesSuite(ArrayModelSuite):
    """What holds for trees of every origin."""

    def test_nodes_that_lead_nowhere_are_refused(self, model: Trees) -> None:
        arrays = through_bytes(model)
        inner = int(np.flatnonzero(model.feature_X >= 0)[0])
        far, back = arrays["skip"].copy(), arrays["skip"].copy()
        far[inner], back[inner] = 60_000, 0
        leaf = arrays["feature"].copy()
        leaf[inner] = -1  # what is below it belongs to no tree
        broken = [{"skip": far}, {"skip": back}, {"feature": leaf}, {"starts": arrays["starts"] + 1}]
        for change in broken:
            with pytest.raises(CorruptFileError, match="contains an invalid index"):
                Trees.from_arrays({**arrays, **change}, model.link, WIDTH)


class TestRandomForest(TreesSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[Trees, Predict]:
        forest = RandomForestRegressor(12, random_state=0).fit(x, y)
        return from_forest(forest, COLUMNS, classes=False), forest.predict


class TestExtraTrees(TreesSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[Trees, Predict]:
        forest = ExtraTreesRegressor(12, max_features=0.3, min_samples_leaf=2, random_state=0).fit(x, y)
        return from_forest(forest, COLUMNS, classes=False), forest.predict


class TestForestOfClasses(TreesSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[Trees, Predict]:
        forest = ExtraTreesClassifier(12, random_state=0).fit(x, y > 0)
        return from_forest(forest, COLUMNS, classes=True), lambda rows: forest.predict_proba(rows)[:, 1]


def boosted(x: np.ndarray, y: np.ndarray, objective: str) -> lightgbm.Booster:
    settings = {"objective": objective, "num_leaves": 8, "min_data_in_leaf": 3, "verbose": -1, "num_threads": 1}
    return lightgbm.train(settings, lightgbm.Dataset(x, y), num_boost_round=15)


class TestBoosting(TreesSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[Trees, Predict]:
        booster = boosted(x, y, "regression")
        return from_lightgbm(booster.model_to_string(), COLUMNS), booster.predict


class TestBoostingOfClasses(TreesSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[Trees, Predict]:
        booster = boosted(x, (y > 0).astype(float), "binary")
        return from_lightgbm(booster.model_to_string(), COLUMNS), booster.predict


class TestRidge(ArrayModelSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[Linear, Predict]:
        scaling = Scaling.fit(x)
        ridge = Ridge(5.0).fit(scaling.apply(x).astype(np.float64), y)
        model = Linear(scaling, ridge.coef_, float(ridge.intercept_), "identity")
        return model, lambda rows: ridge.predict(scaling.apply(rows).astype(np.float64))


class TestLogistic(ArrayModelSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[Linear, Predict]:
        scaling = Scaling.fit(x)
        logistic = LogisticRegression(C=0.1).fit(scaling.apply(x).astype(np.float64), y > 0.5)
        model = Linear(scaling, logistic.coef_[0], float(logistic.intercept_[0]), "logit")
        return model, lambda rows: logistic.predict_proba(scaling.apply(rows).astype(np.float64))[:, 1]


class TestGaussianProcess(ArrayModelSuite):
    """Beside scikit-learn's kernel ridge with the kernel's formula, Σ min / Σ max over counts as they are."""

    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[object, Predict]:
        model = fit_kernel(x, y, COLUMNS[:COUNTS], COLUMNS[COUNTS:], classes=False, seed=0)
        highest = np.array([self._highest(x[:, column]) for column in range(COUNTS)])

        def kernel(rows: np.ndarray) -> np.ndarray:
            a, b = (np.minimum(own[:, :COUNTS], highest) for own in (rows, x))
            similar = np.minimum(a[:, None], b).sum(-1) / np.maximum(a[:, None], b).sum(-1)
            a, b = (model.scaling.apply(own).astype(np.float64) for own in (rows, x))
            near = rbf_kernel(a, b, gamma=1 / (2 * model.length**2 * a.shape[1]))
            return model.share * similar + (1 - model.share) * near

        train, rest = kernel(x), y - model.mean
        strength = float(np.median((rest - train @ model.alpha_V) / model.alpha_V))  # noise over scale
        ridge = KernelRidge(alpha=strength, kernel="precomputed").fit(train, rest)
        return model, lambda rows: ridge.predict(kernel(rows)) + model.mean

    @staticmethod
    def _highest(counts: np.ndarray) -> int:
        """The largest count up to the limit that two training molecules reach."""
        return max((level for level in range(1, LIMIT_LEVELS + 1) if (counts >= level).sum() >= 2), default=0)


class TestGaussianProcessOfClasses(ArrayModelSuite):
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[object, Predict]:
        classes = (y > 0.5).astype(np.float64)
        model = fit_kernel(x, classes, COLUMNS[:COUNTS], COLUMNS[COUNTS:], classes=True, seed=0)
        plain = fit_kernel(x, classes, COLUMNS[:COUNTS], COLUMNS[COUNTS:], classes=False, seed=0)
        return model, lambda rows: 1 / (1 + np.exp(-6 * (plain.predict(rows) - 0.5)))


def test_the_data_of_the_suite_have_what_models_trip_over() -> None:
    x, y = drawn(200, 3)
    assert (x.std(axis=0) == 0).sum() == 2
    assert x[:, :COUNTS].max() > LIMIT_LEVELS
    assert 0.5 < y.std() < 2
