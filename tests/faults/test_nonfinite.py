"""3.4: a loss or gradient that is not finite is stopped before the step, in any step; the run goes on without it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from children import Toy, training
from outcomes import outcome
from torch import nn

from dnd.common.errors import NonFiniteError
from dnd.graphs.batch import MoleculeBatch
from dnd.training.logs import read_log
from dnd.training.loop import Buffers, TrainResult
from dnd.training.settings import StepLoss


class Poisoned(Toy):
    """In training step `at`, one thing is not finite."""

    def __init__(self, what: str, at: int) -> None:
        super().__init__()
        self.what, self.at, self.step = what, at, 0

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        self.step += self.training
        if not self.training or self.step != self.at:
            return super().forward(batch, seed)
        if self.what == "huge label":
            batch.targets_BC[0] = 1e38
        result = super().forward(batch, seed)
        if self.what == "NaN loss":
            result.loss = result.loss * math.nan
        elif self.what == "infinite loss":
            result.loss = result.loss + math.inf
        elif self.what == "NaN gradient":
            result.loss.register_hook(lambda gradient: gradient * math.nan)
        elif self.what == "infinite gradient":
            result.loss = result.loss + torch.sqrt(self.network[0].weight.sum() * 0)
        return result


@pytest.mark.parametrize("what", ["NaN loss", "infinite loss", "NaN gradient", "infinite gradient", "huge label"])
@pytest.mark.parametrize("at", [1, 2, 4, 5, 12])
def test_nothing_not_finite_reaches_the_weights(
    scratch: Path, uninterrupted: dict[str, str], what: str, at: int
) -> None:
    objective = Poisoned(what, at)
    with pytest.raises(NonFiniteError, match=f"step {at - 1} was not taken") as caught:
        training(scratch, objective=objective)
    assert caught.value.exit_code == 3
    record = json.loads((scratch / f"nonfinite-step-{at - 1}.json").read_text())
    assert len(record["molecules"]) == 8
    assert ("nan" in record["loss"] or "inf" in record["loss"]) == ("loss" in what or "label" in what)
    steps = [line["step"] for line in read_log(scratch / "metrics.jsonl") if line["kind"] == "step"]
    assert steps == list(range(1, at))
    checkpoints = [path.name for path in (scratch / "checkpoints").glob("*")] if at > 1 else []
    assert max(checkpoints, default="step-00000000") == f"step-{at - 1:08d}"
    reference = Toy()
    training(scratch / "reference", objective=reference, stop_after_s=0.0) if at == 2 else None
    if at in (1, 2):
        expected = Toy() if at == 1 else reference
        for name, tensor in expected.state_dict().items():
            assert torch.equal(tensor, objective.state_dict()[name]), name
    training(scratch)
    assert outcome(scratch) == uninterrupted


class Undefined(Toy):
    """Its metrics are not numbers at first, as ROC-AUC is where there is one class only."""

    evaluations = 0

    def evaluate(self) -> dict[str, float]:
        self.evaluations += 1
        value = super().evaluate()["valid_loss"]
        return {"valid_loss": math.nan if self.evaluations == 1 else value, "other": math.inf, "third": -math.inf}


def undefined(folder: Path) -> TrainResult:
    return training(folder, objective=Undefined())


def test_metrics_that_are_not_numbers_are_kept_and_never_win(scratch: Path) -> None:
    result = undefined(scratch)
    assert result.best_step > 4
    assert math.isfinite(result.best["valid_loss"])
    assert result.last["other"] == math.inf
    again = undefined(scratch)
    assert again.best == result.best
    assert again.last == result.last


class NeverANumber(Toy):
    def evaluate(self) -> dict[str, float]:
        return {"valid_loss": math.nan}


def test_a_run_whose_metric_is_never_a_number_keeps_its_first_evaluation(scratch: Path) -> None:
    result = training(scratch, objective=NeverANumber())
    assert result.finished
    assert result.best_step == 4
    assert math.isnan(training(scratch, objective=NeverANumber()).best["valid_loss"])


@pytest.mark.parametrize("at", [1, 3, 4, 12])
def test_a_batch_that_may_be_skipped_is_named_counted_and_leaves_no_trace(
    scratch: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    objective = Poisoned("NaN gradient", at)
    result = training(scratch, objective=objective, skip_nonfinite=1)
    assert result.finished
    assert (result.steps, result.skipped) == (12, 1)
    said = caplog.text
    assert f"a batch is skipped (1 of at most 1): step {at - 1} was not taken" in said
    assert "row " in said
    assert "1 batches were skipped" in said
    assert len(json.loads((scratch / f"nonfinite-step-{at - 1}.json").read_text())["molecules"]) == 8
    lines = [line for line in read_log(scratch / "metrics.jsonl") if line["kind"] == "step"]
    assert [line["step"] for line in lines] == list(range(1, 13))
    assert [line["step"] for line in lines if line.get("skipped")] == [at]
    assert all(torch.isfinite(tensor).all() for tensor in objective.state_dict().values())


def test_skipping_resumes_to_the_same_bits_and_ends_at_its_limit(scratch: Path) -> None:
    training(scratch / "whole", objective=Poisoned("infinite loss", 6), skip_nonfinite=1)
    for _ in range(4):
        training(scratch / "run", stop_after_s=0.0, checkpoint_every=None)
    with pytest.raises(NonFiniteError, match=r"step 5 was not taken.*--skip-nonfinite N"):
        training(scratch / "run", objective=Poisoned("infinite loss", 2))
    resumed = training(scratch / "run", objective=Poisoned("infinite loss", 1), skip_nonfinite=1)
    assert resumed.skipped == 1
    assert outcome(scratch / "run") == outcome(scratch / "whole")


def test_running_statistics_are_those_of_before_a_skipped_batch() -> None:
    module = nn.BatchNorm1d(3)
    module(torch.randn(8, 3))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    buffers = Buffers(module)
    module(torch.full((8, 3), math.nan))
    assert torch.isnan(module.running_mean).all()
    buffers.restore()
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, before[name]), name
