"""Settings that nothing would come of; apart from the other settings, since it is asked before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dnd.common.errors import ConfigError

_OF_STUDENTS = (
    "ensemble", "student", "regularization", "head", "batch_norm", "select_by", "probe_steps", "layer_decay", "loss",
    "loop", "blend.second", "blend.passes", "search",
)  # fmt: skip
_NO_TRAINING = frozenset(f"loop.{name}" for name in ("seed", "device", "threads", "skip_nonfinite", "allow_change"))
"""Settings of the loop that hold without a training too, or that do no harm there."""
_OF_A_BLEND = tuple(
    f"blend.{name}"
    for name in ("fingerprints", "properties", "boosting_seeds", "folds", "trees", "classical_rows", "most_rows")
)


def is_unused(name: str, *, students: bool, classical: bool) -> bool:
    """Whether nothing comes of a setting.

    Args:
        name: dotted, as on the command line.
        students: whether any are trained.
        classical: whether there are classical members.
    """
    return (not students and _is_of_students(name)) or (not classical and _belongs(name, _OF_A_BLEND))


def refuse_unused(recipe: str | Path, words: Sequence[str], *, students: bool, classical: bool) -> None:
    """Refuse `key=value` words that nothing would come of; what the recipe itself says is left alone.

    Args:
        recipe: as the user named it.
        words: on top of the recipe.
        students: whether any are trained.
        classical: whether there are classical members.

    Raises:
        ConfigError: the first such word.
    """
    for word in words:
        name = word.partition("=")[0].strip()
        if not is_unused(name, students=students, classical=classical):
            continue
        if not students and _is_of_students(name):
            what, lack = "students (networks)", "trains none"
            choice = "Choose recipe small for one student, best for students and classical models"
        else:
            what, lack = "a blend of classical models", "makes none"
            choice = "Choose recipe fast or best"
        raise ConfigError(
            f"{name} is a setting of {what}, and recipe {recipe} {lack}",
            found=word,
            next_step=f"{choice}, or leave {name} out",
        )


def _is_of_students(name: str) -> bool:
    return name not in _NO_TRAINING and _belongs(name, _OF_STUDENTS)


def _belongs(name: str, tables: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{own}.") for own in tables)
