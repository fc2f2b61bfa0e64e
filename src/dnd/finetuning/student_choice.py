"""What finetuning starts from: `--encoder`, and `--student`, the architecture of random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError
from dnd.common.model_folder import read_model
from dnd.common.registry import nearest
from dnd.student.config import OPTIONAL_SETTINGS, PRESETS, StudentConfig
from dnd.student.shipped import DEFAULT_ENCODER, RANDOM, encoder_folder, shipped_encoders


def encoder_choice(encoder: str | Path | None, words: Sequence[str]) -> str:
    """The encoder that was named; else random weights where `words` describe a student, and what ships where not.

    Args:
        encoder: `random`, a shipped encoder or a folder; None where nothing was said.
        words: settings, `key=value`.

    Raises:
        ConfigError: an encoder, which brings its own student, and settings of another.
    """
    described = [word for word in words if word.startswith("student.")]
    if encoder is None:
        return RANDOM if described else DEFAULT_ENCODER
    if described and str(encoder) != RANDOM:
        raise ConfigError(
            f"{described[0]} is for --encoder random",
            found=f"encoder {encoder}",
            next_step="An encoder brings its own student",
        )
    return str(encoder)


def student_settings(choice: str | None, encoder: str) -> list[str]:
    """`--student` as `student.key=value` words, so that later words can change single settings.

    Args:
        choice: a preset, the name of a student, or an encoder, by name or folder, whose architecture is to be copied.
        encoder: `random`, else a folder that brings its own student.

    Raises:
        ConfigError: no such student, or an encoder that brings its own.
    """
    if choice is None:
        return []
    if encoder != RANDOM:
        raise ConfigError("--student is for --encoder random", found=encoder, next_step="An encoder brings its own")
    if choice in PRESETS:
        config = PRESETS[choice]
    elif choice in OPTIONAL_SETTINGS:
        config = StudentConfig(choice)
    elif Path(choice).is_dir() or choice in shipped_encoders():
        config = from_dict(StudentConfig, read_model(encoder_folder(choice), kind="encoder").config["student"])
    else:
        raise ConfigError(f"unknown student {choice!r}", next_step=nearest(choice, {*PRESETS, *OPTIONAL_SETTINGS}))
    return [f"student.{key}={value}" for key, value in asdict(config).items() if value is not None]
