"""Settings that nothing would come of are refused: those of students, of a blend, and of classes."""

from __future__ import annotations

import pytest

from dnd import DndRegressor
from dnd.common.config import RECIPES
from dnd.common.errors import ConfigError
from dnd.finetuning.settings import finetune_config

OF_STUDENTS = (
    "ensemble=2", "loop.epochs=3", "student.width=32", "regularization.dropout=0.1", "head=linear", "layer_decay=0.9",
    "loss=mse", "probe_steps=10", "blend.passes=1000",
)  # fmt: skip
OF_ALL = (
    "loop.seed=3", "loop.device=cpu", "loop.allow_change=true", "transform=none", "class_weights=balanced",
    "pooling=mean", "jobs=1",
)  # fmt: skip
OF_A_BLEND = (
    "blend.folds=2",
    "blend.trees=20",
    "blend.fingerprints=avalon",
    "blend.properties=",
    "blend.most_rows=500",
)


@pytest.mark.parametrize("word", OF_STUDENTS)
def test_a_recipe_without_students_refuses_it(word: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(
        ConfigError, match=rf"{name} is a setting of students \(networks\), and recipe fast .*recipe small"
    ):
        finetune_config("fast", ["blend.folds=2", word])
    assert finetune_config("best", [word])
    assert finetune_config("small", [word])
    assert finetune_config("fast", ["blend.students=true", word])


@pytest.mark.parametrize("word", OF_A_BLEND)
def test_a_recipe_without_a_blend_refuses_it(word: str) -> None:
    assert finetune_config("fast", [word])
    with pytest.raises(ConfigError, match=r"is a setting of a blend of classical models, and recipe small makes none"):
        finetune_config("small", [word])


@pytest.mark.parametrize("word", OF_ALL)
@pytest.mark.parametrize("recipe", RECIPES["finetune"])
def test_every_recipe_accepts_what_holds_for_all(recipe: str, word: str) -> None:
    assert finetune_config(recipe, [word])


def test_an_estimator_refuses_it_too() -> None:
    with pytest.raises(ConfigError, match=r"loop\.epochs is a setting of students"):
        DndRegressor(epochs=3).fit(["CCO", "CCN", "CCC", "CCCC"] * 5, list(range(20)))
