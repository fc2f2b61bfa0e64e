"""`--student`: which architecture a random student has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError
from dnd.common.model_folder import read_model
from dnd.common.registry import nearest
from dnd.student.config import OPTIONAL_SETTINGS, PRESETS, StudentConfig
from dnd.student.shipped import RANDOM, encoder_folder, shipped_encoders


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
