"""The MODEL folder: what finetuning leaves and prediction opens.

`config.json`, `card.md`, `metrics.json`, `splits.json`, `test_predictions.csv`, `rejects.csv`,
`known_molecules.txt`, and one `model.safetensors` per network (`model-1.safetensors` for the second); with a blend also
`classical.safetensors`, see `ensemble.py`. A predictor is a list of members whose predictions are averaged with their
weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from dnd.chemistry.molecule import FEATURE_VERSION
from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import write_json, write_text
from dnd.common.model_folder import ModelFolder, load_strictly, write_model
from dnd.models.students.base import StudentConfig, pooling_named
from dnd.models.students.encoders import LIMITS, WHOLE, RepresentationLimits, build_student, half_precision
from dnd.predictor.ensemble import Blend, HeadName, PropertyNetwork, blend_config, blend_tensors, read_blend
from dnd.predictor.targets import Target, TaskName, task_name
from dnd.store.schema import HydrogenSetting, hydrogens_of

KIND, METRICS = "predictor", "metrics.json"
MOST_ATOMS = "most_atoms"
"""Key in `config.json`: target → heavy atoms of the largest molecule that it is predicted for."""
_NO_LIMIT = 2**31
LIMIT_TARGETS, LIMIT_MEMBERS = 4096, 256  # of a model that is loaded; ToxCast has 617 targets


@dataclass(frozen=True)
class Member:
    """One network of a predictor.

    Attributes:
        network: network in evaluation mode.
        targets: names, units and kinds, and the scale its outputs are in.
        seed: random seed of its training.
        weight: its share of the prediction; the shares sum to 1.
        student: settings of its student.
        head: head of its network.
    """

    network: PropertyNetwork
    targets: tuple[Target, ...]
    seed: int
    weight: float
    student: StudentConfig
    head: HeadName


@dataclass(frozen=True)
class PredictorParts:
    """Everything of a MODEL folder that prediction needs.

    Attributes:
        members: the networks; all predict the same targets in the same order.
        targets: names, units and kinds of them.
        task: the kind of all targets, or `mixed`.
        hydrogens: as the students saw molecules in training.
        config: the content of `config.json`.
        blend: the classical part and the weights of all members; None = the networks' own weights.
        limits: limits of its representations; None = an older model without limits.
    """

    members: tuple[Member, ...]
    targets: tuple[Target, ...]
    task: TaskName
    hydrogens: HydrogenSetting
    config: Mapping[str, Any]
    blend: Blend | None = None
    limits: RepresentationLimits | None = None

    @property
    def standardize(self) -> bool:
        """Whether the model sees the largest organic part of a molecule, neutral; see `chemistry/identity.py`."""
        return bool(self.config.get("standardize", False))

    @property
    def most_atoms_C(self) -> Int64[np.ndarray, "targets"] | None:
        """Heavy atoms of the largest molecule that each target is predicted for; None = no target has such a limit."""
        limits = self.config.get(MOST_ATOMS) or {}
        if not limits:
            return None
        return np.array([limits.get(target.name, _NO_LIMIT) for target in self.targets], np.int64)

    @property
    def measured_width(self) -> int:
        """Numbers of the representation by which the domain measures distance."""
        if self.members:
            return self.members[0].network.width
        return self.blend.measured_width if self.blend else 0

    @property
    def embedded_width(self) -> int:
        """Numbers of what `embed` gives: the members' representations side by side, else the frozen encoder's."""
        own = sum(member.network.width for member in self.members)
        return own or (self.blend.encoder.width if self.blend and self.blend.encoder else 0)


def predictor_config(
    members: Sequence[Member],
    targets: Sequence[Target],
    hydrogens: HydrogenSetting,
    training: Mapping[str, Any],
    blend: Blend | None = None,
) -> dict[str, Any]:
    """`config.json` of a predictor; `training` says how it was made."""
    standardize = bool(training.get("settings", {}).get("standardize", False))
    return {
        "task": task_name([target.kind for target in targets]),
        "hydrogens": hydrogens,
        **({"standardize": True} if standardize else {}),
        "feature_version": FEATURE_VERSION,
        "targets": [asdict(target) for target in targets],
        "members": [
            {
                "kind": "network",
                "weights": _stem(number),
                "student": asdict(member.student),
                "pooling": member.network.pooling,
                "head": member.head,
                "scale": [target.scale() for target in member.targets],
                "seed": member.seed,
                "weight": member.weight,
            }
            for number, member in enumerate(members)
        ],
        **({"blend": blend_config(blend)} if blend else {}),
        "training": dict(training),
    }


def write_predictor(
    folder: Path,
    members: Sequence[Member],
    config: Mapping[str, Any],
    *,
    blend: Blend | None = None,
    limits: RepresentationLimits | None = None,
    card: str,
    metrics: Mapping[str, Any],
    splits: Mapping[str, Any],
    tables: Mapping[str, str],
    half: bool = False,
) -> None:
    """Write a MODEL folder and seal it; the manifest comes last.

    Args:
        folder: may hold the run's logs.
        members: the networks.
        config: see `predictor_config`.
        blend: the classical part.
        limits: limits of its representations, within which `embed` keeps them.
        card: Markdown.
        metrics: plain values for `metrics.json`.
        splits: plain values for `splits.json`.
        tables: file name to its text.
        half: keep matrices of the networks in half precision; they are float32 again when loaded.
    """
    write_json(folder / METRICS, metrics)
    write_json(folder / "splits.json", splits)
    for name, text in tables.items():
        write_text(folder / name, text)
    states = [member.network.state_dict() for member in members]
    tensors = {_stem(number): half_precision(one) if half else one for number, one in enumerate(states)}
    if blend is not None:
        tensors |= blend_tensors(blend)
    if limits is not None:
        tensors[LIMITS] = dict(limits.tensors)
    write_model(folder, kind=KIND, config=config, tensors=tensors, card=card)


# Which molecules a model has learned from, so that an evaluation can say how many of its own it knows.


KNOWN = "known_molecules.txt"
_DIGITS = 16  # of a SHA-256: two of a million molecules are the same by chance once in 37 million models


def known_molecules(identities: Iterable[str]) -> str:
    """The file of the molecules that were learned from or chose the weights: a digest of each identity a line.

    Digests rather than structures, so that a model can be handed on without the molecules it was made of.
    """
    return "".join(f"{digest}\n" for digest in sorted(set(map(molecule_digest, identities))))


def molecule_digest(identity: str) -> str:
    """By which a model knows a molecule, from its identity: a canonical SMILES."""
    return hashlib.sha256(identity.encode()).hexdigest()[:_DIGITS]


def read_known(model: ModelFolder) -> frozenset[str] | None:
    """Digests of the molecules that a model learned from; None where it was made without them."""
    return frozenset(model.text(KNOWN).split()) if model.holds(KNOWN) else None


def read_predictor(model: ModelFolder) -> PredictorParts:
    """The members and settings of a MODEL folder.

    Raises:
        CorruptFileError: it is damaged, too large, or made with other features.
    """
    config, folder = model.config, model.path
    if config.get("feature_version") != FEATURE_VERSION:
        raise CorruptFileError(
            f"{folder} was trained on other molecular features",
            found=f"version {config.get('feature_version')}",
            expected=f"version {FEATURE_VERSION}",
            next_step="Finetune it again",
        )
    training_of(config, folder)
    try:
        # Models older than mixed tasks have one kind for all targets.
        _require_size(config)
        targets = [from_dict(Target, {"kind": config["task"], **target}) for target in config["targets"]]
        _require_limits(config, targets)
        members = tuple(
            _read_member(entry, targets, model.tensors(entry["weights"]), f"{folder}, member {number}")
            for number, entry in enumerate(config["members"])
        )
        blend = read_blend(model, targets)
        if len(blend.network_weights if blend else members) != len(members) or not (members or blend):
            raise CorruptFileError(f"{folder}/config.json lists a different number of members than of weights")
        if blend is None and not np.isclose(sum(member.weight for member in members), 1, atol=1e-6):
            raise CorruptFileError(f"the weights of the members of {folder} do not sum to 1")
        limits = None
        if model.holds(f"{LIMITS}.safetensors"):
            limits = RepresentationLimits.of_tensors(model.tensors(LIMITS), f"{folder}/{LIMITS}.safetensors")
        hydrogens = hydrogens_of(config, folder)
        parts = PredictorParts(members, tuple(targets), config["task"], hydrogens, config, blend, limits)
        if limits is not None:
            limits.require_width(WHOLE, parts.embedded_width, folder)
        return parts
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError, ConfigError) as error:
        raise CorruptFileError(f"{folder}/config.json does not describe a predictor", found=repr(error)) from error


def training_of(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What the configuration of a model says of its training; empty where it says nothing.

    Raises:
        CorruptFileError: it is no object, or its settings or their labels are none.
    """
    training = config.get("training", {})
    settings = training.get("settings", {}) if isinstance(training, dict) else None
    if isinstance(training, dict) and isinstance(settings, dict) and isinstance(settings.get("labels", {}), dict):
        return training
    raise CorruptFileError(f"{folder}/config.json does not describe a predictor", found="a training that is no object")


def _require_limits(config: Mapping[str, Any], targets: Sequence[Target]) -> None:
    """Refuse a limit that is not a number of atoms, or is of no target."""
    limits, names = config.get(MOST_ATOMS) or {}, {target.name for target in targets}
    for name, value in limits.items():
        if name not in names or isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{MOST_ATOMS} of {name}: {value}")


def _require_size(config: Mapping[str, Any]) -> None:
    """Refuse what would take hours and gigabytes: a network costs kilobytes here and seconds when it is built."""
    if not config["targets"]:
        raise CorruptFileError("a model has no target")
    classical = (config.get("blend") or {}).get("classical", [])
    for name, found, limit in (
        ("targets", len(config["targets"]), LIMIT_TARGETS),
        ("members", len(config["members"]) + len(classical), LIMIT_MEMBERS),
    ):
        if found > limit:
            raise CorruptFileError(f"a model has too many {name}", found=found, expected=f"at most {limit}")


def _read_member(
    entry: Mapping[str, Any], targets: Sequence[Target], tensors: Mapping[str, torch.Tensor], what: str
) -> Member:
    student = from_dict(StudentConfig, entry["student"])
    network = PropertyNetwork(build_student(student), pooling_named(entry["pooling"]), entry["head"], len(targets))
    load_strictly(network, tensors, what)
    network.eval()
    scaled = tuple(target.with_scale(scale) for target, scale in zip(targets, entry["scale"], strict=True))
    return Member(network, scaled, int(entry["seed"]), float(entry["weight"]), student, entry["head"])


def _stem(number: int) -> str:
    return f"model-{number}" if number else "model"
