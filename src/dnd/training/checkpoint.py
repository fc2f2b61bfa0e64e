"""Checkpoints: one sealed folder per step, complete or not there at all.

`checkpoints/step-00001234/` holds `model.safetensors`, `optimizer.safetensors`, `state.json`, `manifest.json` and,
where the best weights so far are those of another step, `best.safetensors`. So each folder is enough by itself, and
damage to one costs the steps since the one before. The newest is found by looking, never by a pointer file.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import (
    building_folder,
    parse_json,
    read_sealed,
    verify_folder,
    write_bytes,
    write_json,
    write_manifest,
)
from dnd.common.model_folder import parse_tensors

FORMAT_VERSION = 1
_KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """What a resumed run starts from.

    Attributes:
        state: plain values, as `Checkpoints.save` got them.
        weights: weights of the objective.
        moments: state of the optimizer.
        best: the best weights so far; None where they are `weights` or nothing was evaluated yet.
    """

    state: dict[str, Any]
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    best: dict[str, Tensor] | None


class Checkpoints:
    """The checkpoints of one run.

    Args:
        run_folder: they lie in its `checkpoints/`.
        run_id: written into each, so that a checkpoint of another run is refused.
    """

    def __init__(self, run_folder: Path, run_id: str) -> None:
        self.folder, self.run_id = run_folder / "checkpoints", run_id

    def save(
        self, module: nn.Module, optimizer: Optimizer, state: dict[str, Any], best: Mapping[str, Tensor] | None
    ) -> None:
        """Seal everything a resumed run needs; then drop all but the last two.

        Args:
            module: the objective.
            optimizer: AdamW.
            state: plain values; `step` names the folder, `best_step` the step of the best weights.
            best: those weights; they are stored where `best_step` is another step.
        """
        target = self.folder / f"step-{state['step']:08d}"
        if not target.exists():  # it is there if nothing happened since the checkpoint this run went on from
            with building_folder(target) as folder:
                write_bytes(folder / "model.safetensors", save(tensors_on_cpu(module.state_dict())))
                write_bytes(folder / "optimizer.safetensors", save(_optimizer_tensors(optimizer)))
                if best is not None and state["best_step"] != state["step"]:
                    write_bytes(folder / "best.safetensors", save(dict(best)))
                write_json(folder / "state.json", state)
                write_manifest(folder, kind="checkpoint", format_version=FORMAT_VERSION, extra={"run": self.run_id})
        kept = self._steps()[-_KEEP:]
        for path in self.folder.iterdir():
            if path not in kept:
                _remove(path)

    def newest(self) -> tuple[Checkpoint, list[str]]:
        """The newest intact checkpoint and a line for each newer one, all of which are damaged.

        Raises:
            CorruptFileError: none is intact.
        """
        damage: list[str] = []
        for folder in reversed(self._steps()):
            try:
                return self._read(folder), damage
            except InputError as error:
                damage.append(f"checkpoint {folder.name} is not used: {error}")
        raise CorruptFileError(
            f"no intact checkpoint in {self.folder}",
            found="; ".join(damage) or "none at all",
            next_step="Start again in a new folder",
        )

    def drop_after(self, step: int) -> None:
        """Delete what is newer than `step`: damaged checkpoints, whose steps will be taken again."""
        for folder in self._steps():
            if folder.name > f"step-{step:08d}":
                _remove(folder)

    def exist(self) -> bool:
        """Whether there is any checkpoint."""
        return bool(self._steps())

    def _read(self, folder: Path) -> Checkpoint:
        manifest = verify_folder(folder, kind="checkpoint", format_version=FORMAT_VERSION)
        if manifest.get("run") != self.run_id:
            raise CorruptFileError(f"{folder} belongs to another run", found=manifest.get("run"), expected=self.run_id)
        state = parse_json(read_sealed(folder, manifest, "state.json"), folder / "state.json")
        if folder.name != f"step-{state['step']:08d}":
            raise CorruptFileError(f"{folder} was renamed", expected=f"step-{state['step']:08d}")
        stored = state["best_step"] not in (None, state["step"])

        def tensors(name: str) -> dict[str, Tensor]:
            return parse_tensors(read_sealed(folder, manifest, name), folder / name)

        best = tensors("best.safetensors") if stored else None
        return Checkpoint(state, tensors("model.safetensors"), tensors("optimizer.safetensors"), best)

    def _steps(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        found = (path for path in self.folder.iterdir() if path.name.startswith("step-") and ".tmp-" not in path.name)
        return sorted(found)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def load_optimizer(optimizer: Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put the moments saved by `Checkpoints.save` back into `optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    return tensors_on_cpu(
        {
            f"{index}.{key}": value if isinstance(value, Tensor) else torch.tensor(float(value))
            for index, entry in optimizer.state_dict()["state"].items()
            for key, value in entry.items()
        }
    )


def tensors_on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A copy of `tensors` that no later step changes."""
    return {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
