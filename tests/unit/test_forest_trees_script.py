"""`benchmarks/forest_trees.py`: a page that is drawn from its lines, and a recipe that follows it."""

from __future__ import annotations

from types import ModuleType

import pytest

from benchmark_scripts import load_script, require_page_of_lines


@pytest.fixture(scope="module")
def forest_trees() -> ModuleType:
    return load_script("forest_trees")


def test_the_page_shows_its_lines(forest_trees: ModuleType) -> None:
    require_page_of_lines(forest_trees, 12 * (3 + 3 * 4 + 8))


def test_the_recipe_has_what_was_decided(forest_trees: ModuleType) -> None:
    trees, forests = forest_trees.BLENDS[forest_trees.CHOSEN_BLEND]
    recipe = forest_trees.blend_of_best()
    assert recipe.trees == trees
    assert set(recipe.classical) == {*forest_trees.OTHERS, *forests}
