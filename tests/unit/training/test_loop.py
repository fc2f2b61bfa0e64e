"""The training loop: exact resume, best weights, non-finite guard, refusals."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dnd.common.errors import CorruptFileError, InputError, NonFiniteError
from dnd.training.logs import read_log
from dnd.training.loop import LoopConfig, StopRequests, train
from toy import ToyObjective

CONFIG = LoopConfig(epochs=4, batch_size=8, checkpoint_every=3, warmup_epochs=1, learning_rate=1e-2, device="cpu")


def run(folder: Path, *, resume: bool = False, config: LoopConfig = CONFIG, objective: ToyObjective | None = None):
    objective = objective or ToyObjective()
    result = train(objective, config, folder, resume=resume, settings={"seed": config.seed})
    return objective, result


def weights(objective: ToyObjective) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in objective.state_dict().items()}


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def steps_of(folder: Path) -> list[dict]:
    return [record for record in read_log(folder / "metrics.jsonl") if record["kind"] == "step"]


def test_training_lowers_the_loss_and_logs_each_step_once(tmp_path: Path) -> None:
    _, result = run(tmp_path)
    steps = steps_of(tmp_path)
    assert [record["step"] for record in steps] == list(range(1, 33))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert result.finished
    assert result.steps == 32


@pytest.mark.parametrize("stop_at", [1, 3, 7, 8, 9, 20, 31])
def test_a_run_stopped_anywhere_resumes_to_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    whole, whole_result = run(tmp_path / "whole")
    broken = ToyObjective()
    broken.poison_at = stop_at + 1 + (stop_at // 8)  # an evaluation is one more call a epoch
    with pytest.raises(NonFiniteError):
        run(tmp_path / "broken", objective=broken)
    resumed, resumed_result = run(tmp_path / "broken", resume=True)
    assert_same(weights(whole), weights(resumed))
    assert resumed_result.best == whole_result.best
    assert steps_of(tmp_path / "broken") == steps_of(tmp_path / "whole")


def test_a_non_finite_loss_changes_nothing_and_names_the_molecules(tmp_path: Path) -> None:
    objective = ToyObjective()
    objective.poison_at = 1
    before = weights(objective)
    with pytest.raises(NonFiniteError, match="step 0 was not taken"):
        run(tmp_path, objective=objective)
    assert_same(before, weights(objective))
    record = json.loads((tmp_path / "nonfinite-step-0.json").read_text())
    assert len(record["molecules"]) == 8
    assert not (tmp_path / "checkpoints").exists()


def test_the_best_weights_are_the_ones_left(tmp_path: Path) -> None:
    objective, result = run(tmp_path)
    evaluations = [r for r in read_log(tmp_path / "metrics.jsonl") if r["kind"] == "evaluation"]
    assert result.best["valid_loss"] == min(record["valid_loss"] for record in evaluations)
    assert objective.evaluate()["valid_loss"] == pytest.approx(result.best["valid_loss"], abs=0)


class Counting(ToyObjective):
    """Worse with every evaluation, and counts them: a buffer of the run, not of an epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("evaluations", torch.zeros(()))

    def evaluate(self) -> dict[str, float]:
        self.evaluations += 1
        return {"valid_loss": float(self.evaluations)}

    def of_the_run(self) -> dict[str, torch.Tensor]:
        return {"evaluations": self.evaluations}


def test_what_belongs_to_the_run_stays_when_the_best_weights_come_back(tmp_path: Path) -> None:
    whole, result = run(tmp_path / "whole", objective=Counting())
    assert result.best_step == 8
    assert float(whole.evaluations) == CONFIG.epochs
    broken = Counting()
    broken.poison_at = 20
    with pytest.raises(NonFiniteError):
        run(tmp_path / "broken", objective=broken)
    resumed, _ = run(tmp_path / "broken", resume=True, objective=Counting())
    assert_same(weights(whole), weights(resumed))


def test_a_handler_that_is_not_pythons_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Python is embedded; its place was taken, and to put it back was a TypeError after the last step."""
    own, installed = {signal.SIGINT: None, signal.SIGTERM: signal.SIG_DFL}, []
    monkeypatch.setattr(signal, "getsignal", own.get)
    monkeypatch.setattr(signal, "signal", lambda number, handler: installed.append((number, handler)) or own[number])
    with StopRequests(None):
        assert [number for number, _ in installed] == [signal.SIGTERM]
    assert installed[1:] == [(signal.SIGTERM, signal.SIG_DFL)]


def test_seconds_before_the_training_count(tmp_path: Path) -> None:
    config = replace(CONFIG, stop_after_s=60.0)
    result = train(ToyObjective(), config, tmp_path, resume=False, settings={}, started=time.monotonic() - 61)
    assert (result.finished, result.steps) == (False, 1)


def test_patience_stops_early(tmp_path: Path) -> None:
    config = LoopConfig(epochs=50, batch_size=8, learning_rate=0.0, min_learning_rate=0.0, patience=2, device="cpu")
    _, result = run(tmp_path, config=config)
    assert result.finished
    assert result.steps == 3 * 8


def test_a_folder_with_a_run_is_refused_without_resume(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match="--resume"):
        run(tmp_path)


def test_resume_under_other_settings_lists_the_differences(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(InputError, match=r"seed 1 → 2"):
        run(tmp_path, resume=True, config=LoopConfig(seed=2, device="cpu"))


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, _ = run(tmp_path)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"))[-1]
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[-3] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    resumed, _ = run(tmp_path, resume=True)
    assert f"checkpoint {newest.name} is not used" in caplog.text
    assert_same(weights(whole), weights(resumed))


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    run(tmp_path)
    for folder in (tmp_path / "checkpoints").glob("step-*"):
        (folder / "state.json").write_text("{")
    with pytest.raises(CorruptFileError, match="no intact checkpoint"):
        run(tmp_path, resume=True)


def test_a_finished_run_resumes_to_its_result(tmp_path: Path) -> None:
    first, result = run(tmp_path)
    again, second = run(tmp_path, resume=True)
    assert_same(weights(first), weights(again))
    assert (second.steps, second.best) == (result.steps, result.best)
