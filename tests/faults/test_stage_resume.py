"""K1 and K4 for the real stages: killed at random moments, the same command goes on to the same bytes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage_runs import Stage, kill_and_resume, result, stages

from nursery import Nursery

pytestmark = pytest.mark.timeout(600)
STAGES = ("prepare", "denoise", "distill", "finetune", "ensemble", "screen", "reproduce")


@pytest.fixture(scope="module")
def stage_nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(Path(__file__).parent / "stage_runs.py", tmp_path_factory.mktemp("stages"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def whole(
    stage_nursery: Nursery, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, tuple[Stage, float]]]:
    """A folder with the results that nothing disturbed, and for each name its stage and seconds."""
    folder = tmp_path_factory.mktemp("whole")
    done = {stage.name: (stage, stage.finish(stage_nursery, folder / stage.name)) for stage in stages(folder)}
    return folder, done


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_killed_a_few_times_ends_with_the_same_bytes(
    name: str, stage_nursery: Nursery, whole: tuple[Path, dict[str, tuple[Stage, float]]], scratch: Path
) -> None:
    folder, done = whole
    stage, seconds = done[name]
    kill_and_resume(stage_nursery, stage, scratch / "out", kills=3, seconds=seconds, seed=1)
    assert result(scratch / "out") == result(folder / name)
    assert not [path for path in (scratch / "out").rglob("*") if ".tmp-" in path.name]


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", STAGES)
def test_a_stage_killed_50_times_ends_with_the_same_bytes(
    name: str, stage_nursery: Nursery, whole: tuple[Path, dict[str, tuple[Stage, float]]], scratch: Path
) -> None:
    folder, done = whole
    stage, seconds = done[name]
    landed = number = 0
    while landed < 50:
        number += 1
        out = scratch / f"out-{number}"
        landed += kill_and_resume(stage_nursery, stage, out, kills=8, seconds=seconds, seed=number)
        assert result(out) == result(folder / name)
        shutil.rmtree(out)
