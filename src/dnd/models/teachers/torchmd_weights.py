"""Loads weights of published equivariant transformers: torchmd-net 3.1 and the denoising repository of Zaidi et al."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dnd.common.errors import InputError
from dnd.common.model_folder import load_strictly, read_tensors
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.noise_head import NoiseHead

TEACHER_PREFIX = "representation_model."
HEAD_PREFIX = "output_model_noise."
_UNUSED = re.compile(r"distance\.box$")
_OLD_GATE = re.compile(r"update_net\.(\d)")


def load_torchmd_state(
    teacher: EquivariantTransformer, head: NoiseHead | None, tensors: Mapping[str, Tensor] | Path
) -> None:
    """Load published weights, strictly, into a teacher and its noise head.

    Names start with `representation_model.` and `output_model_noise.`, optionally after Lightning's `model.`. Both
    spellings of the head's gate are known: `update_net.layers.N` (torchmd-net 3) and `update_net.N` (denoising
    repository). The periodic box is dropped, other output models and the running statistics of the noise too.

    Args:
        teacher: built with the checkpoint's architecture.
        head: None leaves the head's weights out.
        tensors: name to tensor, or a `.safetensors` or `.npz` file of them.

    Raises:
        InputError: no weights of an equivariant transformer in `tensors`.
        CorruptFileError: names, shapes or values do not fit; see `load_strictly`.
    """
    values = _read(tensors) if isinstance(tensors, Path) else tensors
    names = {name.removeprefix("model."): tensor for name, tensor in values.items()}
    load_strictly(teacher, _part(names, TEACHER_PREFIX), "the equivariant transformer")
    if head is not None:
        renamed = {
            _OLD_GATE.sub(r"update_net.layers.\1", name): value for name, value in _part(names, HEAD_PREFIX).items()
        }
        load_strictly(head, renamed, "the noise head")


def _part(names: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    part = {
        name.removeprefix(prefix): tensor
        for name, tensor in names.items()
        if name.startswith(prefix) and not _UNUSED.search(name)
    }
    if not part:
        raise InputError(f"no weights named {prefix}*", found=f"{len(names)} tensors such as {sorted(names)[:2]}")
    return part


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix != ".npz":
        return read_tensors(path)
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
