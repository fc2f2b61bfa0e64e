"""Students by name, ENCODER folders, and the encoders that ship."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dnd.common.config import from_dict, nearest
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import MANIFEST
from dnd.common.model_folder import load_strictly, read_model, write_model
from dnd.models.students.base import Student, StudentConfig

if TYPE_CHECKING:
    from dnd.models.students.limits import RepresentationLimits
    from dnd.models.students.property_heads import PropertyHeads

# Encoders that ship with the package: `--encoder dnd-base` instead of a folder. Matrices are in half precision.


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
        InputError: there is neither, or both exist, so that the name is ambiguous.
    """
    names, path = shipped_encoders(), Path(choice)
    if str(choice) in names:
        if path.is_dir():
            raise InputError(
                f"{choice} is both an encoder that ships with dnd and a folder here",
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
    """Matrices in half precision, all else unchanged: norms and biases are small, and running variances may be tiny.

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


# Students by name, and the ENCODER folder.


LIMIT_PARAMETERS = 1_000_000_000

# Where each student's class lives; imported when asked for, since four of them need torch-geometric.
_CLASSES = {
    "tokengt": ("dnd.models.students.tokengt", "TokenGT"),
    "pna": ("dnd.models.students.pna", "PNA"),
    "gine": ("dnd.models.students.gine", "Gine"),
    "gcn": ("dnd.models.students.geometric", "GCN"),
    "graphsage": ("dnd.models.students.geometric", "GraphSAGE"),
    "gatv2": ("dnd.models.students.geometric", "GATv2"),
    "gps": ("dnd.models.students.geometric", "GPS"),
}


def build_student(config: StudentConfig) -> Student:
    """A student with fresh weights, drawn from torch's global generator.

    Raises:
        ConfigError: the student would have over a billion parameters (nothing is allocated), or needs a package that
            is not installed.
    """
    module, name = _CLASSES[config.name]
    cls: Callable[[StudentConfig], Student] = getattr(import_module(module), name)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in cls(config).parameters())
    if count > LIMIT_PARAMETERS:
        raise ConfigError(
            f"student {config.name} is too large", found=count, expected=f"up to {LIMIT_PARAMETERS} weights"
        )
    return cls(config)


def save_encoder(
    folder: Path,
    student: Student,
    config: Mapping[str, Any],
    card: str,
    *,
    half: bool = False,
    heads: PropertyHeads | None = None,
    limits: RepresentationLimits | None = None,
) -> None:
    """Write an ENCODER folder; `config` is the record of the stage, to which the student's own settings are added.

    Args:
        folder: created if missing.
        student: its weights and buffers are saved, nothing else.
        config: plain values such as `hydrogens`, `level` and `teacher`.
        card: the model card, Markdown.
        half: keep matrices in half precision; they are float32 again when loaded.
        heads: ready-made properties that are stored with the encoder; see `load_heads`.
        limits: limits of its representations, which are stored with it; see `load_limits`.
    """
    config = {**config, "student": dataclasses.asdict(student.config)}
    networks: dict[str, nn.Module] = {"model": student}
    if heads is not None:
        from dnd.models.students.property_heads import HEADS

        config["heads"], networks[HEADS] = heads.description(), heads
    tensors = {
        name: half_precision(network.state_dict()) if half else network.state_dict()
        for name, network in networks.items()
    }
    if limits is not None:
        from dnd.models.students.limits import LIMITS

        tensors[LIMITS] = dict(limits.tensors)
    write_model(folder, kind="encoder", config=config, tensors=tensors, card=card)


def load_encoder(
    folder: Path | str, *, as_pretrained: bool = True, **training_settings: Any
) -> tuple[Student, dict[str, Any]]:
    """The student of an ENCODER folder, in evaluation mode, and the folder's whole configuration.

    Args:
        folder: what `save_encoder` wrote, or the name of an encoder that ships with the package.
        as_pretrained: whether dropout rates and batch norm momentum are those of the pretraining; else they are the
            defaults of the architecture.
        training_settings: dropout rates or batch norm momentum that override both.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged or of another kind.
        ConfigError: a setting that would change the shape of the weights.
    """
    model = read_model(encoder_folder(folder), kind="encoder")
    settings = model.config.get("student")
    if not isinstance(settings, dict):
        raise CorruptFileError(f"{folder}/config.json names no student")
    config = from_dict(StudentConfig, settings)
    config = config if as_pretrained else config.without_training_settings()
    student = build_student(config.with_training_settings(**training_settings))
    load_strictly(student, model.tensors(), f"encoder {folder}")
    return student.eval(), model.config


def load_limits(folder: Path | str) -> RepresentationLimits | None:
    """The limits of the representations of an ENCODER folder; None if it has none, as older ones.

    Args:
        folder: as `load_encoder` takes it.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged or of another kind.
    """
    from dnd.models.students.limits import LIMITS, RepresentationLimits  # a finetuning has no use for them

    model = read_model(encoder_folder(folder), kind="encoder")
    if not model.holds(f"{LIMITS}.safetensors"):
        return None
    return RepresentationLimits.of_tensors(model.tensors(LIMITS), f"{model.path}/{LIMITS}.safetensors")


def load_heads(folder: Path | str) -> PropertyHeads | None:
    """The ready-made properties of an ENCODER folder, in evaluation mode; None if it has none.

    Args:
        folder: as `load_encoder` takes it, which reads the same folder without them.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged or of another kind.
    """
    from dnd.models.students.property_heads import HEADS, PropertyHeads  # few encoders have them

    model = read_model(encoder_folder(folder), kind="encoder")
    if model.config.get("heads") is None:
        return None
    heads = PropertyHeads.of_description(model.config["heads"], int(model.config["student"]["width"]))
    load_strictly(heads, model.tensors(HEADS), f"heads of {folder}")
    return heads.eval()
