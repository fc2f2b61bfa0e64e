"""The Dockerfile and the conda recipe say what the package says; neither is built here, which needs a network."""

from __future__ import annotations

import tomllib
from pathlib import Path

import dnd

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CONDA_NAMES = {"torch": "pytorch", "matplotlib": "matplotlib-base"}


def lines(name: str) -> list[str]:
    return [line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()]


def test_the_recipe_has_the_ranges_of_the_package() -> None:
    recipe = lines("packaging/conda/recipe.yaml")
    run = recipe[recipe.index("run:") + 1 : recipe.index("tests:")]
    asked = dict(line.removeprefix("- ").split(" ", 1) for line in run if line)
    wanted = {"python": PROJECT["project"]["requires-python"]}
    for requirement in PROJECT["project"]["dependencies"]:
        name = requirement.partition(">=")[0]
        wanted[CONDA_NAMES.get(name, name)] = requirement.removeprefix(name)
    assert asked == wanted
    assert f'version: "{dnd.__version__}"' in recipe
    assert "- dnd = dnd.cli.main:main" in recipe
    assert PROJECT["project"]["scripts"] == {"dnd": "dnd.cli.main:main"}


def test_the_image_is_built_from_files_that_are_there_with_the_tested_torch() -> None:
    steps = lines("Dockerfile")
    copied = [
        name for step in steps if step.startswith("COPY ") and "--from" not in step for name in step.split()[1:-1]
    ]
    let_through = [line.removeprefix("!") for line in lines(".dockerignore") if line.startswith("!")]
    assert sorted(copied) == sorted(let_through)
    assert all((ROOT / name).exists() for name in copied)
    (torch,) = [line for line in lines("constraints.txt") if line.startswith("torch==")]
    assert any(torch in step.split() for step in steps)
    assert 'RUN pip install --no-cache-dir -c /source/constraints.txt "/source[serve]" \\' in steps
    assert "serve" in PROJECT["project"]["optional-dependencies"]
    assert steps[-2:] == ['ENTRYPOINT ["dnd"]', 'CMD ["--help"]']
