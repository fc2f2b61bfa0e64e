"""Encoders that ship with the package: `--encoder dnd-base` instead of a folder. Matrices are in half precision."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import MANIFEST
from dnd.common.registry import nearest

RANDOM = "random"
"""In place of an encoder: random weights (RandInit)."""

DEFAULT_ENCODER = "dnd-base"
"""What finetuning starts from, and what embeds, where nothing is said."""

FOLDER = Path(str(resources.files("dnd") / "data" / "encoders"))


def shipped_encoders() -> list[str]:
    """Names of the encoders that ship with the package."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{MANIFEST}"))


def encoder_folder(choice: str | Path) -> Path:
    """The folder of an encoder that is named, or given as a folder.

    Args:
        choice: the name of a shipped encoder, or a folder.

    Raises:
        InputError: there is neither; or there are both, and the word could mean either.
    """
    names, path = shipped_encoders(), Path(choice)
    if str(choice) in names:
        if path.is_dir():
            raise InputError(
                f"{choice} is an encoder that ships with dnd, and a folder here",
                next_step=f"Write ./{choice} for the folder, or work elsewhere",
            )
        return FOLDER / str(choice)
    if not path.exists():
        raise InputError(
            f"{choice} is not a folder and not an encoder that ships with dnd",
            expected=f"a folder that `dnd distill` made, or one of: {', '.join(names) or 'none ships yet'}",
            next_step=nearest(str(choice), names) if names else "Check the name",
        )
    return path


def half_precision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices in half precision, all else as it is: norms and biases are small, and running variances may be tiny.

    Raises:
        CorruptFileError: a weight is beyond the range of half precision.
    """
    halved = {}
    for name, tensor in tensors.items():
        matrix = tensor.is_floating_point() and tensor.ndim > 1
        halved[name] = tensor.detach().to(torch.float16) if matrix else tensor.detach()
        if matrix and not bool(torch.isfinite(halved[name]).all()):
            raise CorruptFileError(f"weight {name} does not fit half precision", found=float(tensor.abs().max()))
    return halved
