"""Two ranks over gloo on one machine: the gradient, the rows, the resume and the end of one process."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rank_tasks import BATCHES, Masked, rank_run
from safetensors.torch import load_file

from dnd.training.distributed import World, is_main_rank
from dnd.training.logs import read_log
from nursery import Child, Nursery

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(Path(__file__).parent / "rank_tasks.py", tmp_path_factory.mktemp("ranks"))
    yield nursery
    nursery.close()


def start(nursery: Nursery, task: str, ranks: int = 2, **arguments: Any) -> list[Child]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["GLOO_SOCKET_IFNAME"] = "lo"
    return [nursery.start(task, variables={**common, "RANK": str(rank)}, **arguments) for rank in range(ranks)]


def finish(children: list[Child], code: int = 0) -> None:
    for child in children:
        assert child.wait() == code, child.output


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def outcome(folder: Path) -> dict[str, str]:
    last = max((folder / "checkpoints").glob("step-*"))
    files = [path for path in last.iterdir() if path.name != "manifest.json"] + [folder / "metrics.jsonl"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wait_for_steps(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(folder.glob("checkpoints/step-0000000[2-9]")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(nursery, "rank_run", folder=str(folder), kind="Dropping"))
    return folder


def test_two_ranks_have_the_gradient_of_one_process_with_the_whole_batch(nursery: Nursery, tmp_path: Path) -> None:
    finish(start(nursery, "gradients", out=str(tmp_path / "rank")))
    ranks = [load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2)]
    for number, rows in enumerate(BATCHES):
        alone = Masked()
        alone(alone.load_batch(np.array(rows), 0), 0).loss.backward()
        for name, parameter in alone.named_parameters():
            for found in ranks:
                assert (found[f"{number}.{name}"] - parameter.grad).abs().max() < 1e-6, (rows, name)


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("size", [1, 2, 6, 7, 64])
def test_every_row_is_trained_on_by_one_rank(ranks: int, size: int) -> None:
    rows = np.random.default_rng(0).permutation(1000)[:size]
    shares = [World(rank, ranks).share(rows) for rank in range(ranks)]
    assert all(len(share) for share in shares)
    own = np.concatenate([share for rank, share in enumerate(shares) if rank < size])
    assert sorted(own) == sorted(rows)


def test_two_ranks_end_where_one_process_does(nursery: Nursery, tmp_path: Path) -> None:
    rank_run(str(tmp_path / "one"))
    finish(start(nursery, "rank_run", folder=str(tmp_path / "two")))
    alone, (first, second) = json.loads((tmp_path / "one" / "rank-0.json").read_text()), records(tmp_path / "two")
    assert first["weights"] == second["weights"]
    assert first["steps"] == second["steps"] == alone["steps"] == 10
    assert first["best"] == second["best"] == pytest.approx(alone["best"], abs=1e-5)
    one, two = (read_log(tmp_path / name / "metrics.jsonl") for name in ("one", "two"))
    assert [line["step"] for line in two] == [line["step"] for line in one]
    for ours, theirs in zip(two, one, strict=True):
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), abs=1e-5)
    for epoch in range(2):  # 33 rows in batches of 8: the last batch has one row, which rank 1 borrows
        read = [record["read"][5 * epoch : 5 * epoch + 5] for record in (first, second)]
        assert read[0][-1] == read[1][-1]
        assert sorted(row for batch in [*read[0], *read[1][:-1]] for row in batch) == list(range(33))


@pytest.mark.parametrize("seconds", [0.0, 0.15, 0.4])
def test_two_killed_ranks_resume_to_the_same_bits(
    nursery: Nursery, tmp_path: Path, whole: Path, seconds: float
) -> None:
    children = start(nursery, "rank_run", folder=str(tmp_path), kind="Dropping", pause_s=0.05)
    wait_for_steps(tmp_path)
    time.sleep(seconds)
    for child in children:
        child.kill()
    finish(start(nursery, "rank_run", folder=str(tmp_path), kind="Dropping"))
    assert outcome(tmp_path) == outcome(whole)
    assert [record["weights"] for record in records(tmp_path)] == [record["weights"] for record in records(whole)]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_both_after_the_same_step(
    nursery: Nursery, tmp_path: Path, whole: Path, rank: int
) -> None:
    children = start(nursery, "rank_run", folder=str(tmp_path), kind="Dropping", pause_s=0.05)
    wait_for_steps(tmp_path)
    children[rank].send(signal.SIGTERM)
    finish(children, 143)
    finish(start(nursery, "rank_run", folder=str(tmp_path), kind="Dropping"))
    assert outcome(tmp_path) == outcome(whole)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_dead_rank_ends_the_other_with_a_message(nursery: Nursery, tmp_path: Path, whole: Path, dead: int) -> None:
    children = start(nursery, "rank_run", folder=str(tmp_path), kind="Dropping", pause_s=0.05)
    wait_for_steps(tmp_path)
    assert children[dead].kill() == -signal.SIGKILL
    begin = time.monotonic()
    assert children[1 - dead].wait() == 1
    assert time.monotonic() - begin < 60
    assert "dnd: another rank of this run ended or does not answer" in children[1 - dead].output
    assert "Traceback" not in children[1 - dead].output
    finish(start(nursery, "rank_run", folder=str(tmp_path), kind="Dropping"))
    assert outcome(tmp_path) == outcome(whole)


def test_resuming_with_another_number_of_ranks_is_said(nursery: Nursery, tmp_path: Path) -> None:
    finish(start(nursery, "rank_run", folder=str(tmp_path), stop_after_s=0.0))
    alone = nursery.start("rank_run", folder=str(tmp_path))
    finish([alone])
    assert "ran on 2 ranks, now on 1" in alone.output
    assert [line["step"] for line in read_log(tmp_path / "metrics.jsonl") if line["kind"] == "step"] == [*range(1, 11)]


def test_ranks_agree_on_patience_and_on_a_loss_that_is_no_number(nursery: Nursery, tmp_path: Path) -> None:
    settings = {"patience": 2, "learning_rate": 0.0, "min_learning_rate": 0.0, "epochs": 20}
    finish(start(nursery, "rank_run", folder=str(tmp_path / "patient"), **settings))
    assert [record["steps"] for record in records(tmp_path / "patient")] == [15, 15]
    children = start(nursery, "rank_run", folder=str(tmp_path / "poisoned"), poison=3)
    finish(children, 3)
    assert len(json.loads((tmp_path / "poisoned" / "nonfinite-step-2.json").read_text())["molecules"]) == 8


def test_a_missing_checkpoint_on_rank_0_ends_both(nursery: Nursery, tmp_path: Path, whole: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("*/state.json"):
        path.write_text("{")
    children = start(nursery, "rank_run", folder=str(tmp_path / "run"), kind="Dropping")
    assert [child.wait() for child in children] == [2, 1]
    assert "no intact checkpoint" in children[0].output
    assert "another rank of this run ended" in children[1].output


def test_a_rank_number_without_other_ranks_is_that_of_the_main_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler may leave RANK in the environment; the training then ended without its folder being sealed."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert is_main_rank()
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert not is_main_rank()
