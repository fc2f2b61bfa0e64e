"""Models are folders: `config.json`, `model.safetensors`, `card.md`, `manifest.json`. No pickle, nothing executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dnd.common.errors import CorruptFileError
from dnd.common.files import read_json, safe_join, verify_folder, write_bytes, write_json, write_manifest, write_text

FORMAT_VERSION = 1
_COPY_AGAIN = "Copy the whole folder again from where it was made"


@dataclass(frozen=True)
class ModelFolder:
    """A verified model folder.

    Attributes:
        path: where it lies.
        config: the content of `config.json`.
        manifest: the content of `manifest.json`.
    """

    path: Path
    config: dict[str, Any]
    manifest: dict[str, Any]

    def tensors(self, name: str = "model") -> dict[str, Tensor]:
        """The tensors of `<name>.safetensors`.

        Raises:
            CorruptFileError: the file is missing, no safetensors file, or not one that the manifest vouches for.
        """
        if f"{name}.safetensors" not in self.manifest["files"]:
            raise CorruptFileError(f"{self.path} holds no sealed {name}.safetensors")
        return read_tensors(safe_join(self.path, f"{name}.safetensors"))


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
    write_text(folder / "card.md", card)
    write_manifest(folder, kind=kind, format_version=FORMAT_VERSION, extra=extra)


def read_model(folder: Path | str, *, kind: str) -> ModelFolder:
    """Open and verify a model folder of `kind`.

    Raises:
        InputError, CorruptFileError: see `verify_folder`.
    """
    path = Path(folder)
    manifest = verify_folder(path, kind=kind, format_version=FORMAT_VERSION)
    return ModelFolder(path, read_json(path / "config.json"), manifest)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, on the CPU.

    Raises:
        CorruptFileError: the file is missing or damaged.
    """
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError, ValueError) as error:
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
            found=f"{len(unexpected)} unexpected {unexpected[:3]}",
            expected=f"{len(missing)} missing {missing[:3]}",
            next_step=_COPY_AGAIN,
        )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CorruptFileError(
                f"weight {name} of {what} has another shape than its configuration says",
                found=tuple(tensor.shape),
                expected=tuple(own[name].shape),
                next_step=_COPY_AGAIN,
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CorruptFileError(f"weight {name} of {what} is not finite", next_step=_COPY_AGAIN)
    module.load_state_dict({name: tensor.to(own[name].dtype) for name, tensor in tensors.items()})
