"""Checkpoints: one sealed folder per step, complete or not there at all.

`checkpoints/step-00001234/` holds `model.safetensors`, `optimizer.safetensors`, `state.json` and `manifest.json`;
`checkpoints/best-00001234/` the best weights so far. The newest is found by looking, never by a pointer file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from dnd.common.errors import CorruptFileError
from dnd.common.files import building_folder, read_json, verify_folder, write_bytes, write_json, write_manifest
from dnd.common.model_folder import read_tensors

FORMAT_VERSION = 1
_KEEP = 2


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_folder: Path) -> None:
        self.folder = run_folder / "checkpoints"

    def save(self, module: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
        """Seal everything a resumed run needs; then drop all but the last two and the best they name.

        Args:
            module: the objective.
            optimizer: AdamW.
            state: plain values; `step` names the folder and `best_step` (or None) the best weights.
        """
        target = self._path("step", state["step"])
        if not target.exists():
            with building_folder(target) as folder:
                write_bytes(folder / "model.safetensors", save(_on_cpu(module.state_dict())))
                write_bytes(folder / "optimizer.safetensors", save(_optimizer_tensors(optimizer)))
                write_json(folder / "state.json", state)
                write_manifest(folder, kind="checkpoint", format_version=FORMAT_VERSION)
        self._drop_old(state["best_step"])

    def save_best(self, module: nn.Module, step: int) -> None:
        """Seal the weights of `step` as the best so far."""
        target = self._path("best", step)
        shutil.rmtree(target, ignore_errors=True)  # left by a run killed before the checkpoint that names it
        with building_folder(target) as folder:
            write_bytes(folder / "model.safetensors", save(_on_cpu(module.state_dict())))
            write_manifest(folder, kind="checkpoint", format_version=FORMAT_VERSION)

    def best(self, step: int) -> dict[str, Tensor]:
        """The weights sealed as best at `step`.

        Raises:
            CorruptFileError: they are damaged or missing.
        """
        folder = self._path("best", step)
        verify_folder(folder, kind="checkpoint", format_version=FORMAT_VERSION)
        return read_tensors(folder / "model.safetensors")

    def newest(self) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor], list[str]] | None:
        """State, weights and optimizer tensors of the newest intact checkpoint, and a line per damaged one.

        Returns:
            None where there is no checkpoint at all.

        Raises:
            CorruptFileError: there are checkpoints and none is intact.
        """
        damage: list[str] = []
        for folder in reversed(self._folders("step")):
            try:
                verify_folder(folder, kind="checkpoint", format_version=FORMAT_VERSION)
                state = read_json(folder / "state.json")
                if state["best_step"] is not None:
                    verify_folder(
                        self._path("best", state["best_step"]), kind="checkpoint", format_version=FORMAT_VERSION
                    )
                return (
                    state,
                    read_tensors(folder / "model.safetensors"),
                    read_tensors(folder / "optimizer.safetensors"),
                    damage,
                )
            except (CorruptFileError, KeyError) as error:
                damage.append(f"checkpoint {folder.name} is not used: {error}")
        if damage:
            raise CorruptFileError(
                f"no intact checkpoint in {self.folder}",
                found="; ".join(damage),
                next_step="Start again in a new folder",
            )
        return None

    def exist(self) -> bool:
        """Whether there is any checkpoint."""
        return bool(self._folders("step"))

    def remove(self) -> None:
        """Delete all checkpoints; the run is complete and its result sealed."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, kind: str, step: int) -> Path:
        return self.folder / f"{kind}-{step:08d}"

    def _folders(self, kind: str) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            path for path in self.folder.iterdir() if path.name.startswith(f"{kind}-") and ".tmp-" not in path.name
        )

    def _drop_old(self, best_step: int | None) -> None:
        kept = self._folders("step")[-_KEEP:]
        named = {read_json(path / "state.json")["best_step"] for path in kept} | {best_step}
        best = {self._path("best", step) for step in named if step is not None}
        for path in self.folder.iterdir():
            if path not in kept and path not in best:
                shutil.rmtree(path, ignore_errors=True)


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the moments saved by `Checkpoints.save` back into `optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    return _on_cpu(
        {
            f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(float(value))
            for index, entry in optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
    )


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
