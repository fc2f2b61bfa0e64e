"""Models are folders: `config.json`, `model.safetensors`, `card.md`, `manifest.json`. No pickle, nothing executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from dnd.common.errors import CorruptFileError
from dnd.common.files import (
    parse_json,
    read_plain_file,
    read_sealed,
    verify_folder,
    write_bytes,
    write_json,
    write_manifest,
    write_text,
)
from dnd.common.log import markdown_safe

FORMAT_VERSION = 1
LIMIT_TENSOR_BYTES = 16 * 2**30
_COPY_AGAIN = "Copy the whole folder again from where it was made"


@dataclass(frozen=True)
class ModelFolder:
    """A verified model folder.

    Attributes:
        path: its folder; later changes of the folder have no effect here.
        config: the content of `config.json`.
        manifest: the content of `manifest.json`.
    """

    path: Path
    config: dict[str, Any]
    manifest: dict[str, Any]

    def holds(self, name: str) -> bool:
        """Whether the file `name` is part of the sealed folder."""
        return name in self.manifest["files"]

    def json(self, name: str) -> dict[str, Any]:
        """The JSON object of the file `name`.

        Raises:
            CorruptFileError: the file is missing, no JSON, or not what the manifest vouches for.
        """
        return parse_json(read_sealed(self.path, self.manifest, name), self.path / name)

    def text(self, name: str) -> str:
        """The text of the file `name`.

        Raises:
            CorruptFileError: the file is missing, or not what the manifest vouches for.
        """
        return read_sealed(self.path, self.manifest, name).decode()

    def tensors(self, name: str = "model") -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`, in memory of their own: a mapped file would change under them.

        Raises:
            CorruptFileError: the file is missing, no safetensors file, or not what the manifest vouches for.
        """
        file = f"{name}.safetensors"
        return parse_tensors(read_sealed(self.path, self.manifest, file), self.path / file)


def write_model(
    folder: Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    card: str,
    extra: Mapping[str, object] | None = None,
) -> None:
    """Write a model into `folder` and seal it; the manifest comes last, so a torn write is never taken for a model.

    Args:
        folder: created if missing; may hold the run's logs and checkpoints.
        kind: `teacher`, `encoder` or `predictor`.
        config: plain values.
        tensors: file stem to tensors by name; `{"model": module.state_dict()}` for one network.
        card: the model card, Markdown.
        extra: further entries of the manifest.
    """
    for stem, values in tensors.items():
        plain = {name: value.detach().to("cpu").contiguous().clone() for name, value in values.items()}
        write_bytes(folder / f"{stem}.safetensors", save(plain))
    write_json(folder / "config.json", dict(config))
    write_text(folder / "card.md", markdown_safe(card))
    write_manifest(folder, kind=kind, format_version=FORMAT_VERSION, extra=extra)


def read_model(folder: Path | str, *, kind: str) -> ModelFolder:
    """Open and verify a model folder of `kind`.

    Raises:
        InputError, CorruptFileError: see `verify_folder`.
    """
    path = Path(folder)
    manifest = verify_folder(path, kind=kind, format_version=FORMAT_VERSION)
    return ModelFolder(path, parse_json(read_sealed(path, manifest, "config.json"), path / "config.json"), manifest)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file that no manifest vouches for, on the CPU.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    return parse_tensors(read_plain_file(path, LIMIT_TENSOR_BYTES), path)


def parse_tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    """Tensors of the content of a safetensors file, copied out of it.

    Raises:
        CorruptFileError: it is damaged.
    """
    try:
        return dict(load(content))
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptFileError(
            f"{path} is not a readable safetensors file", found=str(error), next_step=_COPY_AGAIN
        ) from error


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Load `tensors` into `module`; names and shapes must match exactly and values must be finite.

    Raises:
        CorruptFileError: a tensor is missing, unexpected, of another shape or not finite.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    if missing or unexpected:
        raise CorruptFileError(
            f"weights of {what} do not fit its configuration",
            found="; ".join(
                f"{len(names)} {what} ({', '.join(names[:3])})"
                for what, names in (("that it has no place for", unexpected), ("missing", missing))
                if names
            ),
            next_step=_COPY_AGAIN,
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CorruptFileError(
                f"weight {name} of {what} does not have the shape in its configuration",
                found=tuple(tensor.shape),
                expected=tuple(own[name].shape),
                next_step=_COPY_AGAIN,
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorruptFileError(f"weight {name} of {what} is not finite", next_step=_COPY_AGAIN)
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})


# The arrays of a classical model, the same check for every kind of model: which there are, type and shape.


Expected = tuple[str, tuple[str | int, ...]]  # kind of the numbers (i, u or f), and the length or name of each axis
_WORDS = {"i": "integers", "u": "unsigned integers", "f": "floating-point numbers"}


def check_arrays(arrays: Mapping[str, np.ndarray], expected: Mapping[str, Expected]) -> dict[str, int]:
    """Lengths of the named axes, each the same in all arrays.

    Raises:
        CorruptFileError: an array is missing, or has another type or shape.

    Example:
        >>> check_arrays({"mean": np.zeros(3)}, {"mean": ("f", ("columns",))})
        {'columns': 3}
    """
    sizes: dict[str, int] = {}
    for name, (kind, axes) in expected.items():
        found = arrays.get(name)
        lengths = () if found is None else found.shape
        agrees = found is not None and found.dtype.kind == kind and len(lengths) == len(axes)
        for axis, length in zip(axes, lengths, strict=False):
            agrees = agrees and length == (axis if isinstance(axis, int) else sizes.setdefault(axis, length))
        if not agrees:
            known = " × ".join(str(sizes.get(axis, axis)) if isinstance(axis, str) else str(axis) for axis in axes)
            raise CorruptFileError(
                f"array {name} of a classical model is missing or has the wrong shape or type",
                found="nothing" if found is None else f"{' × '.join(map(str, lengths))} {found.dtype}",
                expected=f"{known} {_WORDS[kind]}",
                next_step="Finetune the model again",
            )
    return sizes


def packed_size(bits: int) -> int:
    """Number of bytes that hold this number of bits."""
    return -(-bits // 8)
