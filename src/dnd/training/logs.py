"""What a run writes while it trains: a JSON line per step and evaluation, checkpoints, and how far it is."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import (
    building_folder,
    open_own,
    parse_json,
    read_sealed,
    verify_folder,
    write_bytes,
    write_json,
    write_manifest,
)
from dnd.common.log import LOGGER, Progress
from dnd.common.model_folder import parse_tensors
from dnd.common.runs import lines_of, read_lines, sealed_line

# Checkpoints: one sealed folder per step, complete or not there at all.
#
# `checkpoints/step-00001234/` holds `model.safetensors`, `optimizer.safetensors`, `state.json`, `manifest.json` and,
# where the best weights so far are those of another step, `best.safetensors`. So each folder is enough by itself, and
# damage to one costs the steps since the one before. The newest is found by looking, never by a pointer file.

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


# An evaluation in words: what a user reads after each epoch, while `metrics.jsonl` keeps every number.


_PARTS = ("valid", "train")
_MEASURES = {"loss": "loss", "variance": "variance", "r2": "R²"}


def evaluation_text(record: Mapping[str, Any]) -> str:
    """The metrics of a record, with what belongs together side by side.

    A term that has a variance (`valid_node_loss`, `valid_node_variance`, `valid_node_r2`, and the same for `train`) has
    a line with its loss, the teacher's variance and R² of held-out and training molecules. What a lookup table reaches
    is a constant of the run, so only its R² stands there. Other numbers follow by name.
    """
    left = {key: value for key, value in record.items() if isinstance(value, float)}
    terms = [key[len("valid_") : -len("_variance")] for key in left if _is_variance(key)]
    lookup = left.get("valid_lookup_r2")
    lines = [" | ".join(_term(term, left)) for term in terms]
    for key in [key for key in left if key.startswith(("valid_lookup_", "train_lookup_"))]:
        del left[key]
    if len(terms) == 1:  # the sum of one term says the same again
        left = {key: value for key, value in left.items() if key not in ("valid_loss", "train_loss")}
    rest = [f"{key} {value:.4g}" for key, value in left.items()]
    rest += [f"lookup R² {lookup:.3f}"] if lookup is not None else []
    if not lines:
        return "  ".join(rest)
    return "\n    ".join(lines) + (f"; {', '.join(rest)}" if rest else "")


def _is_variance(key: str) -> bool:
    return key.startswith("valid_") and key.endswith("_variance")


def _term(term: str, left: dict[str, float]) -> Iterator[str]:
    """The numbers of one term, each part by itself; they are taken out of `left`."""
    for part in _PARTS:
        names = {measure: f"{part}_{term}_{measure}" for measure in _MEASURES}
        values = {measure: left.pop(name) for measure, name in names.items() if name in left}
        numbers = [
            f"{_MEASURES[measure]} {value:{'.3f' if measure == 'r2' else '.4g'}}" for measure, value in values.items()
        ]
        if numbers:
            yield f"{part} {term}: {' '.join(numbers)}" if part == "valid" else f"{part}: {' '.join(numbers)}"


# Run logs: one JSON line per step and evaluation.


LOG = "metrics.jsonl"


class RunLog:
    """`metrics.jsonl` of a run and what the user sees meanwhile.

    A full log disk or a closed terminal must not stop a training whose checkpoints still fit, so a failing append is
    reported once and nothing more is logged.

    Args:
        folder: the run folder; None on the ranks that write nothing.
        total_steps: number of steps of the whole run.
        first_step: steps taken before; lines of later steps are dropped, as they will be taken again.
        title: names the stage in messages.
    """

    def __init__(self, folder: Path | None, *, total_steps: int, first_step: int, title: str) -> None:
        self._title, self._started = title, time.monotonic()
        self._stream: BinaryIO | None = None
        if folder is not None:
            self.path = folder / LOG
            self._forget_after(first_step)
            self._attempt(self._open)
        self._progress = Progress(title, unit="step", total=total_steps, first=first_step) if folder else None

    def steps(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append step records."""
        for record in records:
            self._append({"kind": "step", **record})
            if self._progress is not None:
                self._progress.advance(note=f"epoch {record['epoch'] + 1}, loss {record['loss']:.4g}")

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """Append an evaluation record and show it, without what the test part has: nothing is to be chosen by that."""
        self._append({"kind": "evaluation", **record})
        elapsed = time.monotonic() - self._started
        text = evaluation_text({key: value for key, value in record.items() if not key.startswith("test_")})
        LOGGER.debug(f"{self._title}  epoch {record['epoch']}  step {record['step']}  [{elapsed:.0f} s]  {text}")

    def flush(self) -> None:
        """Bring the lines so far to the disk: the checkpoint that follows relies on them."""
        if self._stream is not None:
            self._attempt(self._synchronise)

    def close(self) -> None:
        """Flush, and end what is shown of the progress."""
        self.flush()
        self._end()
        if self._progress is not None:
            self._progress.close()

    def _append(self, record: Mapping[str, Any]) -> None:
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in record.items()
        }
        line = sealed_line(finite)
        if (stream := self._stream) is not None:
            self._attempt(lambda: stream.write(line))

    def _open(self) -> None:
        # Without a buffer, so that a run can be followed; closed in _end().
        self._stream = os.fdopen(open_own(self.path, os.O_WRONLY | os.O_APPEND), "ab", buffering=0)

    def _synchronise(self) -> None:
        assert self._stream is not None
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            LOGGER.warning(f"warning: can't write to the log {self.path} any more: {error.strerror}")
            self._end()

    def _end(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with contextlib.suppress(OSError):  # it is tried again what has failed before
                stream.close()

    def _forget_after(self, step: int) -> None:
        """Drop lines of steps that a resumed run repeats, and damaged lines."""
        if not self.path.exists():
            return
        records, damaged = read_lines(self.path)
        if damaged:
            LOGGER.warning(f"warning: {damaged} damaged lines of {self.path} are left out; no result depends on them")
        write_bytes(self.path, lines_of(record for record in records if record["step"] <= step))


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run log; what a kill or a bad disk tore is left out."""
    return [record for record in read_lines(path)[0] if _is_of_a_log(record)]


def _is_of_a_log(record: Mapping[str, Any]) -> bool:
    numbers = [value for name, value in record.items() if name == "loss" or name.endswith("_loss")]
    return (
        record.get("kind") in ("step", "evaluation")
        and isinstance(record.get("step"), int)
        and all(value is None or isinstance(value, (int, float)) for value in numbers)
    )
