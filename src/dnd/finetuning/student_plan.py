"""How many students of a blend are trained and for how long: what was asked for, less what does not fit.

Two things limit it: the time limit, against what an epoch was measured to take; and, for large tables, the number of
molecules that go through the students in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from dnd.chemistry.splits import Split
from dnd.finetuning.student_training import Plan, seconds_per_epoch
from dnd.finetuning.time_limit import Clock

FEWEST_EPOCHS = 8  # a student trained for fewer is not worth its time
_USED = 0.75  # of the time that is left; judging and writing take the rest
_MARGIN = 1.3  # a student is stopped, as it is, when it takes so much longer than planned


@dataclass(frozen=True)
class StudentPlan:
    """The students of one partition.

    Attributes:
        count: of them; may be 0.
        epochs: of each.
        limit_s: seconds after which each is stopped; None = never.
        is_cut: whether one that was stopped is used as it is.
    """

    count: int
    epochs: int
    limit_s: float | None
    is_cut: bool


def plan_students(plan: Plan, partition: Split, clock: Clock, share: float, say: Callable[[str], None]) -> StudentPlan:
    """Students that fit; fewer epochs first, then fewer students, then none, and each cut is said.

    Args:
        plan: what was asked for.
        partition: that of the first of them.
        clock: counts down the time limit.
        share: of the time left that this partition may have.
        say: receives a line for each cut.
    """
    config = plan.config
    asked = config.ensemble if config.blend.students else 0
    if not asked:
        return StudentPlan(0, config.loop.epochs, None, False)
    count, epochs = asked, config.loop.epochs
    molecules = len(partition.train) + len(partition.valid)
    if molecules * epochs * count > config.blend.passes:
        epochs = max(1, min(epochs, max(FEWEST_EPOCHS, config.blend.passes // (molecules * count))))
        count = max(1, min(count, config.blend.passes // (molecules * epochs)))
        instead = f"instead of {asked} of {config.loop.epochs}"
        say(f"plan: {count} students of {epochs} epochs {instead} ({molecules} molecules)")
    if not clock.is_limited:
        return StudentPlan(count, epochs, config.loop.stop_after_s, False)
    budget = clock.share(_USED * share)
    if budget == 0:
        say("plan: no students: the time limit is over")
        return StudentPlan(0, epochs, None, False)
    epoch_s = seconds_per_epoch(plan, partition)
    budget = clock.share(_USED * share)
    fewest = min(epochs, FEWEST_EPOCHS)
    affordable = budget / max(epoch_s, 1e-6)
    wanted = count, epochs
    while count and affordable / count < min(epochs, 2 * FEWEST_EPOCHS if count > 1 else fewest):
        count -= 1
    if not count:
        say(f"plan: no students: {fewest} epochs of {epoch_s:.1f} s do not fit into the time limit")
        return StudentPlan(0, epochs, None, False)
    epochs = min(epochs, math.floor(affordable / count))
    if (count, epochs) != wanted:
        say(f"plan: {count} students of {epochs} epochs instead of {wanted[0]} of {wanted[1]} (time limit)")
    return StudentPlan(count, epochs, _MARGIN * budget / count, True)
