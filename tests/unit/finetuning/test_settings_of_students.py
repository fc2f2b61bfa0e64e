"""A setting that nothing would come of is refused: of students, of a blend, of parts, of another kind of target."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dnd import DndRegressor
from dnd.common.config import RECIPES
from dnd.common.errors import ConfigError
from dnd.finetuning.settings import finetune_config
from finetuning_toys import quietly, write_classes, write_regression

OF_STUDENTS = (
    "ensemble=2", "loop.epochs=3", "student.width=32", "regularization.dropout=0.1", "head=linear", "layer_decay=0.9",
    "loss=mse", "probe_steps=10", "targets=raw",
)  # fmt: skip
OF_A_BLEND = (
    "blend.folds=2", "blend.trees=20", "blend.fingerprints=erg", "blend.properties=", "blend.classical_rows=100",
    "blend.most_rows=1000", "blend.boosting_seeds=2",
)  # fmt: skip
OF_BOTH = ("blend.passes=1000", "blend.second.name=gine")
OF_ALL = (
    "loop.seed=3", "loop.device=cpu", "loop.allow_change=true", "transform=none", "class_weights=balanced",
    "pooling=mean", "jobs=1", "split=kfold:3", "split=random",
)  # fmt: skip


@pytest.mark.parametrize("word", OF_STUDENTS)
def test_a_recipe_without_students_refuses_it(word: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{name} is a setting of students .*, and recipe fast .*recipe small"):
        finetune_config("fast", ["blend.folds=2", word])
    assert finetune_config("best", [word])
    assert finetune_config("small", [word])
    assert finetune_config("fast", ["blend.students=true", word])


@pytest.mark.parametrize("recipe", ["small", "paper"])
@pytest.mark.parametrize("word", [*OF_A_BLEND, *OF_BOTH])
def test_a_recipe_without_a_blend_refuses_its_settings(recipe: str, word: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(
        ConfigError, match=rf"{name} is a setting of a blend .*, and recipe {recipe} .*recipe fast or best"
    ):
        finetune_config(recipe, [word])
    assert finetune_config("best", [word])
    assert finetune_config(recipe, ["blend.classical=ridge", word])


@pytest.mark.parametrize("word", OF_BOTH)
def test_settings_of_the_students_of_a_blend_need_both(word: str) -> None:
    with pytest.raises(ConfigError, match="is a setting of students"):
        finetune_config("fast", [word])


@pytest.mark.parametrize(
    ("split", "refused"),
    [
        ("scaffold", "folds"), ("random", "folds"), ("column:part", "folds"), ("kfold:5", "folds"),
        ("kfold:5x2", "fractions"), ("kfold", "fractions"), ("column:part", "fractions"), ("index:a,b,c", "fractions"),
        ("column:{x}", "fractions"),
    ],
)  # fmt: skip
def test_sizes_of_parts_that_a_split_does_not_draw_are_refused(split: str, refused: str) -> None:
    words = {"folds": "folds=4", "fractions": "fractions=0.5,0.2,0.3"}
    with pytest.raises(ConfigError, match=rf"^{refused} is for .*split is {re.escape(split)}"):
        finetune_config("fast", [words[refused], f"split={split}"])


@pytest.mark.parametrize("split", ["scaffold", "time:day", "index:a,b,c"])
def test_a_seed_of_a_split_without_chance_is_refused(split: str) -> None:
    """Several seeds were several times the same parts."""
    words = [f"split={split}", "split_seed=1"]
    with pytest.raises(ConfigError, match=rf"^split_seed is for a split that is drawn, and the split is {split}"):
        finetune_config("small", words)
    assert finetune_config("fast", words).split_seed == 1  # of the folds of a blend
    for drawn in ("random", "cluster", "kfold:3", "column:part"):
        assert finetune_config("small", [f"split={drawn}", "split_seed=1"]).split_seed == 1


@pytest.mark.parametrize("split", ["scaffold", "scaffold-balanced", "random", "cluster", "time:day"])
def test_sizes_of_parts_that_a_split_draws_are_taken(split: str) -> None:
    assert finetune_config("small", [f"split={split}", "fractions=0.5,0.2,0.3"]).fractions == (0.5, 0.2, 0.3)
    assert finetune_config("small", ["folds=4", "split=kfold"]).folds == 4


@pytest.mark.parametrize(
    ("word", "said"), [("class_weights=balanced", "class_weights is for classes"), ("transform=log", "is for values")]
)
def test_what_no_target_is_suited_for_is_refused(tmp_path: Path, word: str, said: str) -> None:
    table, target = (write_regression, "size") if word.startswith("class") else (write_classes, "ring")
    with pytest.raises(ConfigError, match=said):
        quietly(table(tmp_path), tmp_path / "model", [target], word)


@pytest.mark.parametrize("word", OF_ALL)
@pytest.mark.parametrize("recipe", RECIPES["finetune"])
def test_every_recipe_accepts_what_holds_for_all(recipe: str, word: str) -> None:
    assert finetune_config(recipe, [word])


def test_an_estimator_refuses_it_too() -> None:
    with pytest.raises(ConfigError, match=r"^epochs is a setting of students.*or leave epochs out"):
        DndRegressor(epochs=3).fit(["CCO", "CCN", "CCC", "CCCC"] * 5, list(range(20)))


@pytest.mark.parametrize("fractions", ["nan,0.5,0.5", "nan,nan,nan", "0.5,0.5,0", "0.5,0.5", "0.6,0.6,-0.2"])
def test_fractions_that_are_no_fractions_are_refused(fractions: str) -> None:
    with pytest.raises(ConfigError, match="fractions are three positive numbers"):
        finetune_config("fast", [f"fractions={fractions}"])


@pytest.mark.parametrize("seconds", ["0", "-5", "nan"])
def test_a_time_limit_that_is_none_is_called_that(seconds: str) -> None:
    with pytest.raises(ConfigError, match=r"blend\.time_limit_s must be above 0"):
        finetune_config("fast", [f"blend.time_limit_s={seconds}"])
