"""The stages that train, as two gloo processes on this machine: one sealed result, each step taken once."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from stage_runs import Stage, result, stages

from dnd.common.about import diagnose
from dnd.training.logs import read_log
from nursery import Child, Nursery

pytestmark = pytest.mark.timeout(900)
PLAIN = ("student.name=gine", "student.width=16", "student.num_layers=2", "student.num_heads=none")


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(Path(__file__).parent / "stage_runs.py", tmp_path_factory.mktemp("ranks"))
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def alone(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Stage]]:
    """Each stage as one process."""
    folder = tmp_path_factory.mktemp("alone")
    found = {stage.name: stage for stage in stages(folder, PLAIN) if stage.name in ("prepare", "denoise", "distill")}
    store = found["denoise"].words[0]
    loop = ("--recipe", "tiny", "loop.epochs=2", "loop.checkpoint_every=1", "loop.device=cpu", *PLAIN)
    found["contrast"] = Stage("contrast", "contrast", (store, *loop))
    for stage in found.values():
        stage.finish(nursery, folder / stage.name)
    found["finetune"] = next(stage for stage in stages(folder, PLAIN) if stage.name == "finetune")
    found["finetune"].finish(nursery, folder / "finetune")
    return folder, found


def two_ranks(nursery: Nursery, stage: Stage, out: Path, *more: str) -> list[Child]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    words = [stage.verb, *stage.words, "-o", str(out), "--resume", *more]
    return [nursery.start("command", variables={**common, "RANK": str(rank)}, words=words) for rank in range(2)]


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(line["step"], line["loss"]) for line in read_log(folder / "metrics.jsonl") if line["kind"] == "step"]


@pytest.mark.parametrize("name", ["denoise", "distill", "contrast", "finetune"])
def test_two_ranks(name: str, nursery: Nursery, alone: tuple[Path, dict[str, Stage]], scratch: Path) -> None:
    folder, found = alone
    out = scratch / name
    children = two_ranks(nursery, found[name], out)
    for child in children:
        assert child.wait() == 0, child.output
    assert str(out) in children[0].output
    assert str(out) not in children[1].output  # what is done is said once
    assert diagnose(out)[1] == []
    assert set(result(out)) == set(result(folder / name))
    one, two = losses(folder / name), losses(out)
    assert [step for step, _ in two] == [step for step, _ in one] == list(range(1, len(one) + 1))
    if name == "denoise":  # its noise goes by molecule; dropout and batch norm go by rank
        assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-3)
        assert two[0][1] == pytest.approx(one[0][1], rel=1e-5)


def test_a_stage_stopped_on_two_ranks_goes_on_alone_and_says_so(
    nursery: Nursery, alone: tuple[Path, dict[str, Stage]], scratch: Path
) -> None:
    stage = alone[1]["denoise"]
    for child in two_ranks(nursery, stage, scratch / "out", "loop.stop_after_s=0.0"):
        assert child.wait() == 0, child.output
    child = stage.start(nursery, scratch / "out")
    assert child.wait() == 0, child.output
    assert "ran on 2 ranks, now on 1" in child.output
    assert [step for step, _ in losses(scratch / "out")] == [step for step, _ in losses(alone[0] / "denoise")]
