"""K7: a run is not resumed under settings that change its result, nor by another version; the difference is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import Toy, training
from outcomes import outcome
from torch import Tensor

from dnd.common import runs as run_record
from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import package_versions, read_json
from dnd.finetuning.objective import HalfChoice
from dnd.training import loop
from dnd.training.logs import read_log


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2}, "seed 1 → 2"),
        ({"batch_size": 4}, "batch_size 8 → 4"),
        ({"epochs": 5}, "epochs 3 → 5"),
        ({"rows": 40}, "rows 32 → 40"),
        ({"seed": 2, "batch_size": 4}, "batch_size 8 → 4; seed 1 → 2"),
    ],
)
def test_other_settings_are_refused_and_listed(scratch: Path, changes: dict[str, Any], said: str) -> None:
    training(scratch, stop_after_s=0.0)
    before = outcome(scratch)
    with pytest.raises(InputError, match=f"contains a run with other settings: found {said}"):
        training(scratch, **changes)
    assert outcome(scratch) == before


@pytest.mark.parametrize("package", ["dnd", "torch"])
def test_another_version_is_refused(scratch: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    training(scratch, stop_after_s=0.0)
    newer = {**package_versions(), package: "99.0"}
    monkeypatch.setattr(run_record, "package_versions", lambda: newer)
    with pytest.raises(InputError, match=rf"{package} .* → 99\.0"):
        training(scratch)


def test_settings_that_change_no_bit_may_differ(scratch: Path, uninterrupted: dict[str, str]) -> None:
    training(scratch, stop_after_s=0.0)
    training(scratch, checkpoint_every=None, checkpoint_seconds=1.0, log_every=7, threads=2)
    assert outcome(scratch) == uninterrupted


def test_without_resume_a_folder_that_holds_a_run_is_refused(scratch: Path) -> None:
    training(scratch, stop_after_s=0.0)
    with pytest.raises(InputError, match="Add --resume to continue"):
        training(scratch, resume=False)


def test_an_allowed_change_is_made_recorded_and_said(scratch: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5):
        training(scratch, stop_after_s=0.0)
    result = training(scratch, seed=2, batch_size=4, epochs=4, allow_change=True)
    assert result.finished
    assert result.steps == 5 + 3 * 4  # the second epoch begins again
    said = "batch_size 8 → 4; epochs 3 → 4; seed 1 → 2"
    assert f"continues with other settings: {said}" in caplog.text
    record = read_json(scratch / "run.json")
    assert [change["differences"] for change in record["changes"]] == [said.split("; ")]
    assert record["settings"] == {"seed": 2, "epochs": 4, "batch_size": 4, "rows": 32}
    assert training(scratch, seed=2, batch_size=4, epochs=4).steps == result.steps  # from now on these are its settings
    with pytest.raises(InputError, match="seed 2 → 1"):
        training(scratch)


def test_a_run_may_be_made_longer_or_shorter(scratch: Path) -> None:
    training(scratch / "longer")
    assert training(scratch / "longer", epochs=5, allow_change=True).steps == 20
    for _ in range(9):
        training(scratch / "shorter", stop_after_s=0.0)
    ended = training(scratch / "shorter", epochs=1, allow_change=True)
    assert (ended.finished, ended.steps) == (True, 9)
    assert ended.last


class Scaled(Toy):
    """The toy with another weight of its loss."""

    factor = 100.0

    def evaluate(self) -> dict[str, float]:
        return {"valid_loss": self.factor * super().evaluate()["valid_loss"]}


def test_the_best_weights_are_judged_anew_under_a_change(scratch: Path) -> None:
    """Their old loss could not be reached any more, so all that the change taught was thrown away."""
    for _ in range(6):
        training(scratch, stop_after_s=0.0, learning_rate=1e-3)
    result = training(scratch, objective=Scaled(), seed=2, learning_rate=1e-2, allow_change=True)
    evaluations = [line for line in read_log(scratch / "metrics.jsonl") if line["kind"] == "evaluation"]
    best = min(evaluations[1:], key=lambda line: line["valid_loss"])
    assert best["valid_loss"] < 100 * evaluations[0]["valid_loss"]
    assert (result.best_step, result.best["valid_loss"]) == (best["step"], best["valid_loss"])


def test_without_anything_held_out_any_more_the_last_weights_are_kept(scratch: Path) -> None:
    for _ in range(6):
        training(scratch, stop_after_s=0.0)
    blind = Toy()
    blind.best_metric = None
    result = training(scratch, objective=blind, seed=2, allow_change=True)
    assert result.best_step == result.steps


class Choosing(Scaled):
    """The toy with the halves of a validation part, and losses in a unit of its own."""

    def __init__(self, molecules: int, factor: float) -> None:
        super().__init__()
        self.factor, self.choice = factor, HalfChoice(molecules, 1, seed=0)

    def evaluate(self) -> dict[str, float]:
        found = super().evaluate()
        size = len(self.choice.predictions_VC)
        self.choice.note(np.full((size, 1), found["valid_loss"]), lambda half: -found["valid_loss"])
        return found

    def of_the_run(self) -> dict[str, Tensor]:
        return {f"choice.{name}": value for name, value in self.choice.state_dict().items()}


@pytest.mark.parametrize("molecules", [6, 9])
def test_what_the_halves_of_the_validation_part_chose_before_a_change_is_forgotten(
    scratch: Path, molecules: int
) -> None:
    """Their old scores could not be reached any more, so intervals were learned from the old predictions."""
    for _ in range(5):
        training(scratch, objective=Choosing(6, factor=1.0), stop_after_s=0.0)
    changed = Choosing(molecules, factor=100.0)
    result = training(scratch, objective=changed, seed=2, epochs=2, allow_change=True)
    assert changed.choice.predictions_VC.numpy() == pytest.approx(result.best["valid_loss"])


def killed_at(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, **changes: Any) -> None:
    """A training that ends without a word when it comes to a method of the loop."""

    def die(run: loop._Run, *arguments: object) -> None:
        raise ProcessLookupError

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, name, die)
        with pytest.raises(ProcessLookupError):
            training(folder, **changes)


def test_a_kill_before_the_first_checkpoint_after_a_change_does_not_mix_the_two_plans(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def larger_batches() -> Toy:
        toy = Toy()
        toy.batch_size = 16
        return toy

    for folder in (scratch / "smooth", scratch / "killed"):
        for _ in range(7):  # three batches of the second epoch, which under the new settings has two
            training(folder, stop_after_s=0.0)
    changed = {"batch_size": 16, "allow_change": True}
    killed_at("_step", monkeypatch, scratch / "killed", objective=larger_batches(), **changed)
    smooth = training(scratch / "smooth", objective=larger_batches(), **changed)
    again = training(scratch / "killed", objective=larger_batches(), batch_size=16)
    assert (again.steps, again.best) == (smooth.steps, smooth.best) == (7 + 2 * 2, smooth.best)
    assert outcome(scratch / "killed") == outcome(scratch / "smooth")


def test_a_shortened_run_ends_where_a_kill_came_before_its_end_was_saved(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(8):
        training(scratch, stop_after_s=0.0)
    killed_at("_evaluate", monkeypatch, scratch, epochs=1, allow_change=True)
    ended = training(scratch, epochs=1, stop_after_s=20.0)
    assert (ended.finished, ended.steps) == (True, 8)
    assert ended.last


def test_a_change_that_the_weights_do_not_fit_is_refused_and_not_recorded(scratch: Path) -> None:
    training(scratch, stop_after_s=0.0)
    before = (scratch / "run.json").read_bytes()
    with pytest.raises(CorruptFileError, match="do not fit its configuration"):
        training(scratch, objective=Toy(width=8), seed=2, allow_change=True)
    assert (scratch / "run.json").read_bytes() == before
