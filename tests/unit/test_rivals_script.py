"""The rivals of `benchmarks/rivals.py`: the features as published, and that they learn."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from rdkit.Chem import Descriptors

from benchmark_scripts import load_script

SMILES = ["C" * length + tail for length in range(1, 13) for tail in ("", "O", "N", "Cl", "C(=O)O")]
SIZE_B = np.array([float(len(smiles)) for smiles in SMILES])
HAS_OXYGEN_B = np.array([float("O" in smiles) for smiles in SMILES])


@pytest.fixture(scope="module")
def rivals() -> ModuleType:
    return load_script("rivals")


def test_maplight_sees_2563_features_as_published(rivals: ModuleType) -> None:
    assert len(Descriptors.descList) - len(rivals.NEWER) == 200
    assert rivals._maplight_features("CC(=O)Oc1ccccc1C(=O)O").shape == (1024 + 1024 + 315 + 200,)
    assert not rivals._maplight_features("not a molecule")[:2048].any()


def learns(predict: Callable[..., np.ndarray]) -> None:
    test = np.arange(0, len(SMILES), 3)
    train = np.setdiff1d(np.arange(len(SMILES)), test)
    sizes = predict(SMILES, SIZE_B[:, None], train, test, "regression", 0)
    assert sizes.shape == (len(test), 1)
    assert np.abs(sizes[:, 0] - SIZE_B[test]).mean() < 0.5 * np.abs(SIZE_B[train].mean() - SIZE_B[test]).mean()
    chances = predict(SMILES, HAS_OXYGEN_B[:, None], train, test, "classification", 0)[:, 0]
    assert chances[HAS_OXYGEN_B[test] == 1].min() > chances[HAS_OXYGEN_B[test] == 0].max()


def test_support_vectors_learn(rivals: ModuleType) -> None:
    learns(rivals.support_vectors)


def test_maplight_learns(rivals: ModuleType) -> None:
    pytest.importorskip("catboost", reason="the package catboost is not installed")
    learns(rivals.maplight)
