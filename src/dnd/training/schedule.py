"""Learning rate as a pure function of the position in the run."""

from __future__ import annotations

import math

from dnd.training.settings import LoopConfig


def warmup_cosine(position: float, *, peak: float, floor: float, warmup: float, total: float) -> float:
    r"""Linear warm-up from 0, then a half cosine from `peak` to `floor`, by fractional epoch `e`.

    .. math:: \eta(e) = \eta_{peak}\, e / w \ (e < w), \qquad
              \eta(e) = f + (\eta_{peak} - f)\, \tfrac12 (1 + \cos \pi \tfrac{e - w}{T - w})

    Source: the public MAE finetuning recipe (He et al. 2022), whose six numbers D&D's Table 5(c) repeats.

    Args:
        position: fractional epoch, 0 to `total`.
        peak: highest rate.
        floor: rate at the end.
        warmup: epochs of linear growth.
        total: epochs in all.
    """
    if position < warmup:
        return peak * position / warmup
    share = min(1.0, (position - warmup) / max(total - warmup, 1e-12))
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * share))


def stepwise_warmup_cosine(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    r"""The denoising reference's schedule: a warm-up written over a running cosine that ends at 0.

    .. math:: \eta_t = \eta_{peak} \tfrac{t + 1}{w} \ (t < w), \qquad
              \eta_t = \eta_{peak} \frac{1 + \cos(\pi t / T)}{1 + \cos(\pi (w - 1) / T)}

    Source: public code of Zaidi et al. (ICLR 2023), which D&D's Table 5(a) follows.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    start = 1 + math.cos(math.pi * max(warmup_steps - 1, 0) / total_steps)
    return peak * (1 + math.cos(math.pi * min(step, total_steps) / total_steps)) / start


def warmup_plateau(epoch: float, cuts: int, *, peak: float, floor: float, factor: float, warmup: float) -> float:
    r"""Linear warm-up from 0, then a rate that falls by a factor with each plateau.

    .. math:: \eta = \min(1, e / w) \max(f, \eta_{peak}\, q^{c})

    Source: 3DInfomax's finetuning on QM9, :math:`q = 0.5` after 25 evaluations without a better one.

    Args:
        epoch: e, fractional.
        cuts: c, plateaus so far.
        peak: highest rate.
        floor: f, the lowest after the warm-up.
        factor: q.
        warmup: w, epochs of linear growth.
    """
    return (min(1.0, epoch / warmup) if warmup > 0 else 1.0) * max(floor, peak * factor**cuts)


def learning_rate(config: LoopConfig, *, epoch: float, step: int, steps_per_epoch: int, cuts: int = 0) -> float:
    """The rate of a step, by the schedule that `config` names.

    Args:
        config: the loop's settings.
        epoch: fractional epoch at the step.
        step: optimizer steps taken before.
        steps_per_epoch: of the first epoch; the stepwise schedule counts with it.
        cuts: plateaus so far, for `plateau`.
    """
    if config.schedule == "plateau":
        return warmup_plateau(
            epoch,
            cuts,
            peak=config.learning_rate,
            floor=config.min_learning_rate,
            factor=config.plateau_factor,
            warmup=config.warmup_epochs,
        )
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "stepwise_cosine":
        return stepwise_warmup_cosine(
            step,
            peak=config.learning_rate,
            warmup_steps=max(1, round(config.warmup_epochs * steps_per_epoch)),
            total_steps=config.epochs * steps_per_epoch,
        )
    return warmup_cosine(
        epoch,
        peak=config.learning_rate,
        floor=config.min_learning_rate,
        warmup=config.warmup_epochs,
        total=config.epochs,
    )
