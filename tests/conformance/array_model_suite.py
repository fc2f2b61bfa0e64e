"""What every classical model of arrays must hold. A new kind inherits `ArrayModelSuite` and fits itself in `fitted`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from dnd.common.errors import CorruptFileError, DndError
from dnd.predictor.classical.array_models import constant
from dnd.predictor.ensemble import ArrayModel

COUNTS, OTHERS = 24, 16
WIDTH = COUNTS + OTHERS
Predict = Callable[[np.ndarray], np.ndarray]


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, counts first, some constant, and labels of about unit deviation."""
    generator = np.random.default_rng(seed)
    counts, others = generator.poisson(0.8, (count, COUNTS)), generator.normal(size=(count, OTHERS))
    x = np.hstack([counts, others]).astype(np.float32)
    x[:, [3, WIDTH - 2]] = 1.0
    y = 0.4 * x[:, 0] - 0.3 * x[:, 1] + 0.6 * x[:, COUNTS] + 0.5 * (x[:, COUNTS + 1] > 0)
    return x, (y + 0.2 * generator.normal(size=count)).astype(np.float64)


def through_bytes(model: ArrayModel) -> dict[str, np.ndarray]:
    """The arrays of a model after they were stored and read as a MODEL folder does it."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in model.arrays().items()}
    return {name: tensor.numpy() for name, tensor in load(save(tensors)).items()}


class ArrayModelSuite:
    """Inherit and define `fitted`."""

    tolerance = 1e-6  # of predictions against the library's, which sums in another order or precision

    @abstractmethod
    def fitted(self, x: np.ndarray, y: np.ndarray) -> tuple[ArrayModel, Predict]:
        """The model of arrays, and the prediction of the library that it must equal."""

    @pytest.fixture(scope="class")
    def pair(self) -> tuple[ArrayModel, Predict]:
        return type(self)().fitted(*drawn(120, 0))

    @pytest.fixture
    def model(self, pair: tuple[ArrayModel, Predict]) -> ArrayModel:
        return pair[0]

    @pytest.fixture
    def x(self) -> np.ndarray:
        return drawn(700, 1)[0]

    def test_it_predicts_what_the_library_predicts(self, pair: tuple[ArrayModel, Predict], x: np.ndarray) -> None:
        model, library = pair
        found = model.predict(x)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, library(x), atol=self.tolerance, rtol=0)
        assert np.ptp(found) > 0.1

    def test_a_file_gives_it_back_bit_for_bit(self, model: ArrayModel, x: np.ndarray) -> None:
        again = type(model).from_arrays(through_bytes(model), model.link, WIDTH)
        assert np.array_equal(again.predict(x), model.predict(x))
        assert again.arrays().keys() == model.arrays().keys()
        for name, values in model.arrays().items():
            assert np.array_equal(again.arrays()[name], values)
            assert again.arrays()[name].dtype == values.dtype

    def test_its_arrays_are_numbers_that_need_no_pickle(self, model: ArrayModel) -> None:
        for values in model.arrays().values():
            assert isinstance(values, np.ndarray)
            assert values.dtype.kind in "iuf"
        assert model.num_bytes > 0

    def test_one_row_is_as_in_many(self, model: ArrayModel, x: np.ndarray) -> None:
        every = model.predict(x)
        alone = np.concatenate([model.predict(x[row : row + 1]) for row in (0, 511, 512, 699)])
        np.testing.assert_allclose(alone, every[[0, 511, 512, 699]], rtol=1e-9, atol=1e-12)
        order = np.random.default_rng(2).permutation(len(x))
        np.testing.assert_allclose(model.predict(x[order]), every[order], rtol=1e-9, atol=1e-12)
        assert model.predict(x[:0]).shape == (0,)

    def test_the_same_data_give_the_same_model(self, model: ArrayModel, x: np.ndarray) -> None:
        again, _ = self.fitted(*drawn(120, 0))
        for name, values in model.arrays().items():
            assert np.array_equal(again.arrays()[name], values), name
        assert np.array_equal(model.predict(x), model.predict(x))

    def test_corrupt_arrays_are_refused_with_what_was_found(self, model: ArrayModel) -> None:
        arrays = through_bytes(model)
        for name, values in arrays.items():
            wrong = {
                "missing": {key: own for key, own in arrays.items() if key != name},
                "short": {**arrays, name: values[:-1]},
                "long": {**arrays, name: np.concatenate([values, values[-1:]])},
                "deep": {**arrays, name: values[None]},
                "other numbers": {**arrays, name: values.astype(complex)},
            }
            for damage, changed in wrong.items():
                with pytest.raises(CorruptFileError) as caught:
                    type(model).from_arrays(changed, model.link, WIDTH)
                assert isinstance(caught.value, DndError), (name, damage)
                assert "Finetune the model again" in str(caught.value), (name, damage)

    def test_a_feature_that_there_is_not_is_refused(self, model: ArrayModel) -> None:
        with pytest.raises(CorruptFileError, match=r"feature|invalid index"):
            type(model).from_arrays(through_bytes(model), model.link, 2)

    def test_it_can_be_told_from_a_constant(self, x: np.ndarray) -> None:
        nothing = constant(0.25)
        again = type(nothing).from_arrays(through_bytes(nothing), nothing.link, WIDTH)
        assert (again.predict(x) == 0.25).all()
