"""Typed settings: recipes, overrides, refusals with the nearest name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from dnd.common.config import RECIPES, check_settings, from_dict, load_config, recipe_names, to_dict
from dnd.common.errors import ConfigError
from support.settings_table import STAGES, TABLE, settings_table


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3
    steps: int = 10


@dataclass(frozen=True)
class Outer:
    name: Literal["tokengt", "gine"] = "gine"
    inner: Inner = field(default_factory=Inner)
    limit: float | None = None
    flag: bool = False
    sizes: tuple[int, ...] = (1, 2)


def test_overrides_are_converted_to_the_types_of_the_fields() -> None:
    config = load_config(Outer, overrides=["inner.rate=1e-2", "limit=3", "flag=true", "sizes=4,5,6", "name=tokengt"])
    assert config == Outer("tokengt", Inner(0.01, 10), 3.0, True, (4, 5, 6))


def test_an_empty_text_is_an_empty_list() -> None:
    assert load_config(Outer, overrides=["sizes="]).sizes == ()


def test_none_is_a_value_of_optional_fields_only() -> None:
    assert load_config(Outer, overrides=["limit=none"]).limit is None
    with pytest.raises(ConfigError):
        load_config(Outer, overrides=["inner.steps=none"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("inner.rat=1", r"unknown setting inner\.rat.*Did you mean inner\.rate"),
        ("name=tokengpt", "Did you mean tokengt"),
        ("inner.steps=many", "a whole number"),
        ("inner.steps=1.5", "a whole number"),
        ("flag=maybe", "true or false"),
        ("inner=3", r"inner\.name=value"),
        ("name", "key=value"),
    ],
)
def test_a_bad_setting_says_what_was_expected(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(Outer, overrides=[word])


def test_a_recipe_file_comes_before_the_overrides(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('name = "tokengt"\n[inner]\nrate = 0.5\nsteps = 3\n')
    assert load_config(Outer, recipe, ["inner.steps=4"]) == Outer("tokengt", Inner(0.5, 4))


def test_round_trip_through_plain_values() -> None:
    config = Outer("tokengt", Inner(0.5, 4), 1.0, True, (9,))
    assert from_dict(Outer, to_dict(config)) == config


def test_every_shipped_recipe_fits_the_settings_of_its_stage() -> None:
    from dnd.finetuning.finetune import FinetuneConfig
    from dnd.pretraining.denoise import DenoiseConfig
    from dnd.pretraining.distill import DistillConfig

    stages = {"denoise": DenoiseConfig, "distill": DistillConfig, "finetune": FinetuneConfig}
    checked = [load_config(stages[name.split("-")[0]], name) for name in recipe_names() if name.split("-")[0] in stages]
    assert len(checked) >= 9


def test_recipes_are_called_alike_in_hints_and_in_the_folder() -> None:
    named = {f"{stage}-{name}" for stage, names in RECIPES.items() for name in names}
    assert named <= set(recipe_names())
    others = {"finetune-brief", "finetune-demo", "denoise-demo", "distill-demo"}  # of `distill --level auto` and `demo`
    assert set(recipe_names()) - named == others
    with pytest.raises(ConfigError, match=r"one of fast, best, small, paper, qm9, or a TOML file\. Did you mean fast"):
        load_config(Outer, "fastt", stage="finetune")


def test_the_table_of_settings_is_that_of_the_dataclasses() -> None:
    written = TABLE.read_text(encoding="utf-8")
    assert written == settings_table(), "run: python tests/support/settings_table.py"


def test_every_shipped_recipe_passes_the_early_check() -> None:
    for stage in STAGES:
        for recipe in RECIPES[stage]:
            check_settings(stage, recipe, [])


@pytest.mark.parametrize(
    ("stage", "word"),
    [
        ("finetune", "loop.epoch=3"),
        ("finetune", "blend.trees=1.5"),
        ("finetune", "student=gine"),
        ("denoise", "loop.schedule=cosin"),
        ("distill", "level=nod"),
        ("compress", "loop.clip_norm=some"),
        ("base", "denoise.teacher.widht=96"),
        ("base", "tokengt.terms.descriptors=some"),
    ],
)
def test_the_early_check_says_what_the_settings_themselves_say(stage: str, word: str) -> None:
    def said(check: Callable[[], object]) -> str | None:
        try:
            check()
        except ConfigError as error:
            return str(error)
        return None

    recipe = RECIPES[stage][0]
    late = said(lambda: load_config(STAGES[stage], recipe, [word], stage=stage))
    assert late
    assert said(lambda: check_settings(stage, recipe, [word])) == late
