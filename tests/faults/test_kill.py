"""K1, K3, K6, K8: kill -9 at random, polite signals at every step, two trainers in one folder, threads."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from children import Toy, training
from outcomes import outcome, scraps

from dnd.common.errors import InputError, Interrupted
from dnd.graphs.batch import MoleculeBatch
from nursery import Nursery

pytestmark = pytest.mark.timeout(600)  # thousands of small waits: a busy machine may stretch them

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def killed_runs(nursery: Nursery, scratch: Path, kills: int, seed: int) -> Iterator[Path]:
    """Folders of trainings, each killed at random and resumed until it ended, until `kills` landed in all."""
    draw = random.Random(seed)
    begin = time.monotonic()
    nursery.run("toy_run", folder=str(scratch / "timed"))
    duration = time.monotonic() - begin
    landed = run = 0
    while landed < kills:
        run += 1
        folder, code = scratch / f"run-{run}", -1
        while code != 0:
            child = nursery.start("toy_run", folder=str(folder))
            time.sleep(draw.uniform(0, duration / 2))
            code = child.kill()
            assert code in (0, -signal.SIGKILL), child.output
            landed += code != 0
        yield folder


def test_25_random_kills_change_no_bit(nursery: Nursery, scratch: Path, uninterrupted: dict[str, str]) -> None:
    for folder in killed_runs(nursery, scratch, 25, seed=1):
        assert outcome(folder) == uninterrupted, folder.name
        assert not scraps(folder)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_500_random_kills_change_no_bit(nursery: Nursery, scratch: Path, uninterrupted: dict[str, str]) -> None:
    for folder in killed_runs(nursery, scratch, 500, seed=2):
        assert outcome(folder) == uninterrupted, folder.name
        assert not scraps(folder)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_saves_and_exits_with_its_code(
    nursery: Nursery, scratch: Path, uninterrupted: dict[str, str], number: int
) -> None:
    child = nursery.start("toy_run", folder=str(scratch), pause_s=0.05, checkpoint_every=None)
    deadline = time.monotonic() + 30
    while not (scratch / "metrics.jsonl").exists():  # it is opened just before the handlers are in place
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(0.1)
    child.send(number)
    assert child.wait() == EXIT_CODES[number], child.output
    assert f"stopped by {signal.Signals(number).name}; the state is saved" in child.output
    training(scratch)
    assert outcome(scratch) == uninterrupted


class SignalsItself(Toy):
    """Sends itself a signal in its forward pass or evaluation number `at`."""

    def __init__(self, at: int, number: int) -> None:
        super().__init__()
        self.at, self.number, self.calls = at, number, 0

    def forward(self, batch: MoleculeBatch, seed: int):
        self.calls += 1
        if self.calls == self.at:
            os.kill(os.getpid(), self.number)
        return super().forward(batch, seed)


@pytest.mark.parametrize("number", EXIT_CODES)
def test_a_signal_in_any_step_or_evaluation_loses_nothing(
    scratch: Path, uninterrupted: dict[str, str], number: int
) -> None:
    handler = signal.getsignal(number)
    for at in range(1, 16):  # 12 steps and 3 evaluations
        folder = scratch / f"run-{at}"
        with pytest.raises(Interrupted) as caught:
            training(folder, objective=SignalsItself(at, number), checkpoint_every=None)
        assert caught.value.exit_code == EXIT_CODES[number]
        assert signal.getsignal(number) is handler
        training(folder)
        assert outcome(folder) == uninterrupted, f"call {at}"


def test_a_time_limit_stops_after_at_least_one_step_and_resumes_to_the_same_bits(
    scratch: Path, uninterrupted: dict[str, str]
) -> None:
    calls = 0
    while not training(scratch, stop_after_s=0.0, checkpoint_every=None).finished:
        calls += 1
    assert calls == 11
    assert outcome(scratch) == uninterrupted


def test_a_second_trainer_is_told_who_holds_the_folder(nursery: Nursery, scratch: Path) -> None:
    child = nursery.start("toy_run", folder=str(scratch), pause_s=0.2)
    deadline = time.monotonic() + 30
    while not (scratch / "run.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    with pytest.raises(InputError, match=f"in use by process {child.pid}"):
        training(scratch)
    child.kill()
    training(scratch)


def test_one_and_two_threads_give_the_same_bits(nursery: Nursery, scratch: Path) -> None:
    for threads in (1, 2):
        nursery.run("toy_run", folder=str(scratch / f"{threads}"), threads=threads, width=512)
    assert outcome(scratch / "1") == outcome(scratch / "2")


class SlowReader(Toy):
    """Reads each batch at another pace."""

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        time.sleep(float(np.random.default_rng().uniform(0, 0.01)))
        torch.empty(3)
        return super().load_batch(rows, epoch)


def test_the_pace_of_the_reading_thread_changes_no_bit(scratch: Path, uninterrupted: dict[str, str]) -> None:
    training(scratch, objective=SlowReader())
    assert outcome(scratch) == uninterrupted
