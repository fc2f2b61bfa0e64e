"""Learning rates against those of the published schedules, and their ends."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dnd.common.errors import ConfigError
from dnd.training.settings import LoopConfig, learning_rate, stepwise_warmup_cosine, warmup_cosine

RECORDED = np.load(Path(__file__).parents[2] / "reference" / "schedules.npz", allow_pickle=False)


def test_warmup_and_cosine_equal_the_published_finetuning_recipe() -> None:
    settings = {"peak": "peak", "floor": "floor", "warmup": "warmup_epochs", "total": "epochs"}
    numbers = {name: float(RECORDED[f"in.{key}"]) for name, key in settings.items()}
    rates = [warmup_cosine(float(epoch), **numbers) for epoch in RECORDED["in.epoch_position"]]
    np.testing.assert_allclose(rates, RECORDED["out.base_lr"], rtol=1e-12, atol=0)


def test_the_stepwise_cosine_equals_the_denoising_reference() -> None:
    peak, warmup, total = (RECORDED[f"in.teacher.{name}"].item() for name in ("peak", "warmup_steps", "cosine_length"))
    expected = RECORDED["out.teacher.lr_used_at_step"]
    rates = [
        stepwise_warmup_cosine(step, peak=peak, warmup_steps=warmup, total_steps=total) for step in range(len(expected))
    ]
    np.testing.assert_allclose(rates, expected, rtol=1e-12, atol=1e-18)


def rate(config: LoopConfig, step: int) -> float:
    return learning_rate(config, epoch=step / 10, step=step, steps_per_epoch=10)


@pytest.mark.parametrize("schedule", ["cosine", "stepwise_cosine", "constant"])
def test_every_rate_of_a_run_is_finite_and_between_0_and_the_peak(schedule: str) -> None:
    config = LoopConfig(epochs=4, warmup_epochs=1, learning_rate=1e-3, min_learning_rate=1e-5, schedule=schedule)
    rates = [rate(config, step) for step in range(40)]
    assert all(math.isfinite(value) and 0 <= value <= 1e-3 for value in rates)
    assert max(rates) == pytest.approx(1e-3, rel=1e-9)
    if schedule == "constant":
        assert set(rates) == {1e-3}
    else:
        assert rates[:10] == sorted(rates[:10])
        assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(("warmup", "epochs"), [(0.0, 1), (1.0, 1), (5.0, 2), (0.5, 1)])
@pytest.mark.parametrize("schedule", ["cosine", "stepwise_cosine"])
def test_a_warmup_of_nothing_or_of_everything_is_no_division_by_zero(schedule: str, warmup: float, epochs: int) -> None:
    config = LoopConfig(epochs=epochs, warmup_epochs=warmup, learning_rate=1e-3, schedule=schedule)
    assert all(0 <= rate(config, step) <= 1e-3 for step in range(10 * epochs))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *((name, 0, "at least 1") for name in ("epochs", "batch_size", "evaluate_every", "log_every")),
        *((name, 0, "at least 1, or none") for name in ("max_tokens", "patience", "checkpoint_every", "threads")),
        *((name, -0.1, "at least 0") for name in ("learning_rate", "min_learning_rate", "warmup_epochs")),
        ("weight_decay", -0.1, "at least 0"),  # weights would grow
        ("learning_rate", math.nan, "at least 0"),
        ("learning_rate", math.inf, "at least 0, finite"),
        ("min_learning_rate", 1e-3, "at most loop.learning_rate, 0.0005"),  # the rate would rise to it
        ("checkpoint_seconds", math.nan, "at least 0"),  # nothing would be saved
        ("stop_after_s", math.nan, "at least 0, or none"),  # the run would never stop
        ("clip_norm", -1.0, "above 0, or none"),  # the loss would be climbed
        ("clip_norm", 0.0, "above 0, or none"),
        ("betas", (0.9,), "two numbers from 0 to below 1"),
        ("betas", (0.9, 1.0), "two numbers from 0 to below 1"),
        ("plateau_factor", 1.0, "above 0, below 1"),
        ("plateau_patience", -1, "at least 0"),
    ],
)
def test_settings_that_cannot_train_are_refused_before_any_work(name: str, value: object, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"loop\.{name} is out of range: found .*, expected {expected}"):
        LoopConfig(**{name: value})  # type: ignore[arg-type]
