"""A stopped finetuning of classical members resumes with what they have learned, to the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dnd.finetuning import classical, fold_data, stacking, students
from dnd.finetuning.classical import FOLDER, FoldData, KeptFeatures, KeptWork
from dnd.finetuning.finetune import _plan
from dnd.finetuning.fold_data import rows_with_features
from dnd.finetuning.labelled_data import LabelledFile
from dnd.finetuning.settings import Clock
from dnd.finetuning.students import StudentPlan
from dnd.predictor.classical import features as features_module
from dnd.predictor.classical.features import FIRST_SETS, Features, features_of
from dnd.predictor.ensemble import ArrayModel, models_to_store, stored_models
from finetuning_toys import molecules, quietly, tiny_config, write_regression

FAST = (
    "blend.students=false",
    "blend.classical=ridge,gaussian_process,forest_counts",
    "blend.folds=3",
    "blend.trees=20",
    "loop.threads=1",
)


class Counted:
    """`FoldData.fit`, counted, stopped at one of its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls, self.stop_at, self._fit = 0, -1, FoldData.fit
        monkeypatch.setattr(FoldData, "fit", lambda *given: self(*given))

    def __call__(self, *given: Any) -> tuple[ArrayModel, ...]:
        self.calls += 1
        if self.calls == self.stop_at:
            raise KeyboardInterrupt
        return self._fit(*given)


@pytest.fixture
def kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classical, "KEEP_FROM_S", 0.0)


@pytest.mark.usefixtures("kept_at_once")
def test_a_resumed_run_ends_with_the_same_bytes_and_fits_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, counted, parsed = write_regression(tmp_path), Counted(monkeypatch), []
    compute = features_module._computed
    monkeypatch.setattr(
        features_module, "_computed", lambda chunk, **named: (parsed.append(chunk), compute(chunk, **named))[1]
    )
    quietly(table, tmp_path / "whole", ["size"], *FAST)
    whole, counted.calls = counted.calls, 0
    assert whole == 3 * (3 + 1)
    for stop_at in (6, 5):  # five fits are kept, then four more
        counted.calls, counted.stop_at = 0, stop_at
        with pytest.raises(KeyboardInterrupt):
            quietly(table, tmp_path / "model", ["size"], *FAST, resume=True)
    damaged = next((tmp_path / "model" / FOLDER).glob("ridge-1-*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    counted.calls, counted.stop_at = 0, -1
    parsed.clear()
    quietly(table, tmp_path / "model", ["size"], *FAST, resume=True)
    assert counted.calls == whole - 9 + 1  # the damaged one once more
    assert not parsed, "features are kept too"
    for name in ("classical.safetensors", "test_predictions.csv", "calibration.json", "domain.safetensors"):
        assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not (tmp_path / "model" / FOLDER).exists()


def test_what_took_no_time_is_not_kept(tmp_path: Path) -> None:
    KeptWork(tmp_path).put("short", {"x": np.zeros(2)}, {}, 0.5)
    KeptWork(None).put("nowhere", {"x": np.zeros(2)}, {}, 5.0)
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.usefixtures("kept_at_once")
def test_features_come_back_bit_for_bit_by_molecule(tmp_path: Path) -> None:
    smiles = molecules()[:20]
    cache = KeptFeatures(KeptWork(tmp_path), FIRST_SETS)
    expected = features_of(smiles, None, cache=cache).x_BF
    cache.put(["odd"], Features(np.full((1, expected.shape[1]), -0.0, np.float32), {0: "too dense"}))
    cache.keep()
    again = KeptFeatures(KeptWork(tmp_path), FIRST_SETS)
    found = again.get([*reversed(smiles), "odd"])
    assert found is not None
    assert found.x_BF.view(np.uint32).tolist()[:20] == expected.view(np.uint32)[::-1].tolist()
    assert np.signbit(found.x_BF[20]).all()
    assert found.refused == {20: "too dense"}
    assert again.get(["CCCCCCCC"]) is None
    assert KeptFeatures(KeptWork(tmp_path), ("counts",)).get(smiles) is None
    shutil.rmtree(tmp_path / FOLDER)
    assert KeptFeatures(KeptWork(tmp_path), FIRST_SETS).get(smiles) is None


def test_models_come_back_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[FoldData, tuple[ArrayModel, ...]]] = []
    fit = FoldData.fit

    def kept(data: FoldData, *given: Any) -> tuple[ArrayModel, ...]:
        seen.append((data, fit(data, *given)))
        return seen[-1][1]

    monkeypatch.setattr(FoldData, "fit", kept)
    every = "blend.classical=ridge,gaussian_process,boosting,forest_counts"
    quietly(write_regression(tmp_path), tmp_path / "model", ["size"], *FAST, every, "blend.folds=2")
    for data, models in seen[2::3]:
        again = stored_models(*models_to_store(models), data.layout.width)
        assert np.array_equal(data.predict(models, data.rows), data.predict(again, data.rows))


class Left(Clock):
    """A time limit of which `seconds` are left whatever happens."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def left(self) -> float:
        return self.seconds


def test_a_resumed_run_draws_the_molecules_that_it_drew_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_data, "_FEWEST_ROWS", 5)
    plan = _plan([LabelledFile(write_regression(tmp_path), ("size",))], tiny_config(*FAST), "random")
    drawn = rows_with_features(plan, Left(1e-9), KeptWork(tmp_path / "model"))
    assert drawn.sum() == 10
    assert np.array_equal(rows_with_features(plan, Left(1e6), KeptWork(tmp_path / "model")), drawn)
    assert rows_with_features(plan, Left(1e6), KeptWork(tmp_path / "other")).all()


def test_students_of_a_resumed_run_go_on_as_they_were_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("blend.classical=ridge", "blend.folds=2", "ensemble=3", "loop.epochs=20", "blend.time_limit_s=3600")
    costs, plans = iter([40.0, 1e-9]), []
    monkeypatch.setattr(students, "seconds_per_epoch", lambda plan, part: next(costs))

    def stopped(plan: Any, data: Any, partition: Any, number: int, fits: Any, asked: StudentPlan, *_: Any, **__: Any):
        plans.append((asked.count, asked.epochs))
        raise KeyboardInterrupt

    monkeypatch.setattr(stacking, "train_students", stopped)
    table = write_regression(tmp_path)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            quietly(table, tmp_path / "model", ["size"], *words, resume=True)
    assert plans[0] == plans[1]
    assert plans[0] < (3, 20)


def test_students_that_have_no_epoch_within_the_time_limit_leave_a_classical_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacking, "plan_students", lambda *_: StudentPlan(2, 3, 1e-9, True))
    words = ("blend.classical=ridge", "blend.folds=2", "ensemble=2", "blend.time_limit_s=3600", "loop.batch_size=4")
    done = quietly(write_regression(tmp_path), tmp_path / "model", ["size"], *words)
    assert done.finished
    assert "students: the first one had no epoch within the time limit" in done.metrics["blend"][0]["left_out"]
