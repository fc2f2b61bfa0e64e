"""Systems of the demo side by side, and what paired seeds say of their difference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class System:
    """What one way to a model reached on ESOL.

    Attributes:
        name: as in the paper.
        valid: RMSE on the validation part, one value per seed.
        test: RMSE on the test part, one value per seed.
    """

    name: str
    valid: list[float]
    test: list[float]


def compare(systems: list[System]) -> str:
    """What the test part says of D&D against RandInit (paired over seeds) and the best classical baseline."""
    distilled, random, *classical = systems
    best = min(classical, key=lambda system: float(np.mean(system.valid)))  # chosen on validation, never on test
    ours, forest = float(np.mean(distilled.test)), float(np.mean(best.test))
    change, half_width = paired_change(distilled.test, random.test)
    clear = "lowers" if change < 0 else "RAISES"
    effect = clear if abs(change) > half_width else "makes no clear difference to"
    return (
        f"Distillation {effect} the test RMSE against random weights (change {change:+.3f} ± {half_width:.3f}, 95 % "
        f"interval of {len(distilled.test)} paired seeds). The distilled student "
        f"{'beats' if ours < forest else 'does NOT beat'} the classical baseline that validation prefers "
        f"({ours:.3f} against {forest:.3f}, {best.name}). This is a small run: 2,500 molecules of pretraining, not "
        f"millions."
    )


def paired_change(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Mean of the paired differences and the half-width of its 95 % interval (Student's t)."""
    differences = np.subtract(ours, theirs)
    error = float(np.std(differences, ddof=1)) / np.sqrt(len(differences))
    return float(np.mean(differences)), float(stats.t.ppf(0.975, len(differences) - 1) * error)


def table_lines(systems: list[System]) -> Iterator[str]:
    """The systems side by side as lines of text."""
    yield f"   {'ESOL, RMSE in log mol/L':34}{'validation':>12}{'test':>16}"
    for system in systems:
        spread = f" ± {np.std(system.test, ddof=1):.3f}" if len(system.test) > 1 else ""
        yield f"   {system.name:34}{np.mean(system.valid):>12.3f}{f'{np.mean(system.test):.3f}{spread}':>16}"
