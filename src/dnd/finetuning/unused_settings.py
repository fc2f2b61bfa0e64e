"""Settings that nothing would come of; apart from the other settings, since it is asked before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dnd.common.errors import ConfigError

_OF_STUDENTS = (
    "ensemble", "student", "regularization", "head", "batch_norm", "select_by", "targets", "probe_steps", "layer_decay",
    "loss", "loop", "blend.second", "blend.passes", "search",
)  # fmt: skip
_NO_TRAINING = frozenset(f"loop.{name}" for name in ("seed", "device", "threads", "skip_nonfinite", "allow_change"))
"""Settings of the loop that hold without a training too, or that do no harm there."""
_FOR_ALL = frozenset({"blend", "blend.classical", "blend.students", "blend.time_limit_s"})
"""Settings of a blend that say that there is none, or that are refused without one."""
_NEVER_DRAWN = ("scaffold", "time", "index")
"""Splits without chance; a column of parts may leave the validation part to be drawn."""
_DRAWN_BY_FRACTIONS = ("scaffold", "scaffold-balanced", "random", "cluster", "time")


@dataclass(frozen=True)
class Made:
    """What a finetuning makes.

    Attributes:
        students: whether any are trained.
        classical: whether there are classical members, and so a blend.
        split: as `--split` names it.
    """

    students: bool
    classical: bool
    split: str


def is_unused(name: str, made: Made) -> bool:
    """Whether nothing comes of a setting, by its dotted name."""
    return _problem(name, made) is not None


def refuse_unused(recipe: str | Path, words: Sequence[str], made: Made) -> None:
    """Refuse `key=value` words that nothing would come of; what the recipe itself says is left alone.

    Args:
        recipe: as the user named it.
        words: on top of the recipe.
        made: what recipe and words make.

    Raises:
        ConfigError: the first such word.
    """
    for word in words:
        name = word.partition("=")[0].strip()
        if problem := _problem(name, made, recipe):
            said, choice = problem
            raise ConfigError(f"{name} {said}", found=word, next_step=f"{choice}, or leave {name} out")


def _problem(name: str, made: Made, recipe: str | Path = "") -> tuple[str, str] | None:
    """What is said of a setting that nothing comes of, and what to choose for it; None where it has an effect."""
    if not made.students and name not in _NO_TRAINING and _belongs(name, _OF_STUDENTS):
        return (
            f"is a setting of students (networks), and recipe {recipe} trains none",
            "Choose recipe small for one student, best for students and classical models",
        )
    if not made.classical and name not in _FOR_ALL and _belongs(name, ("blend",)):
        return (
            f"is a setting of a blend of classical models, and recipe {recipe} makes none",
            "Choose recipe fast or best",
        )
    if name == "folds" and made.split != "kfold":
        return f"is for --split kfold, and the split is {made.split}", "Use --split kfold:5 for five folds"
    if name == "fractions" and made.split.partition(":")[0] not in _DRAWN_BY_FRACTIONS:
        drawn = ", ".join(_DRAWN_BY_FRACTIONS[:-1])
        return (
            f"is for a split that draws three parts, and the split is {made.split}",
            f"Use --split {drawn} or time:NAME",
        )
    if name == "split_seed" and not made.classical and made.split.partition(":")[0] in _NEVER_DRAWN:
        return f"is for a split that is drawn, and the split is {made.split}", "Use --split scaffold-balanced or random"
    return None


def _belongs(name: str, tables: Sequence[str]) -> bool:
    """Whether a setting is one of these or in one of these tables."""
    return any(f"{name}.".startswith(f"{own}.") for own in tables)
