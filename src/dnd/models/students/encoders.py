"""Students by name, ENCODER folders with all that they keep, and the encoders that ship.

Over 500 lines because heads, limits and the list of molecules belong to the folder that is read and written here."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor, nn

from dnd.common.config import from_dict, nearest
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import MANIFEST
from dnd.common.model_folder import load_strictly, read_model, write_model
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import Pooling, Student, StudentConfig, StudentOutput, pool
from dnd.store.batches import plan_batches
from dnd.store.reader import Store
from dnd.store.schema import hydrogens_of

# Limits of representations: what an encoder says of any molecule stays where it says things of molecules it knows.
#
# A sum over atoms grows with the molecule: of 200 atoms `dnd-base` says hundreds of times what it says of a drug, and
# one such row decides a regression on representations. So each component of a pooled representation is kept within
#
# .. math:: m_d \pm 10\, s_d,
#
# m the median over molecules that the encoder was trained on and s their robust deviation (the distance of the
# quartiles over 1.349). Both are stored with the encoder, for each pooling; an older encoder has none and stays as it
# was. A MODEL has those of its own representation, from the molecules that it learned from. The limits are of what
# `embed` gives; finetuning and its classical members, which have limits of their own, see the representation itself.

LIMITS = "limits"
"""Stem of the file in an ENCODER folder."""
WHOLE = "whole"
"""Name of the limits of a MODEL folder."""
DEVIATIONS = 10.0
MOST_MOLECULES = 4_000
_QUARTILES = 1.349  # distance of the quartiles of a normal distribution, in its deviations
_BATCH = 256
_POOLINGS: tuple[Pooling, ...] = ("mean", "virtual_node", "min_max_mean_sum")


@dataclass(frozen=True)
class RepresentationLimits:
    """Where the components of representations lie.

    Attributes:
        tensors: `<name>.centre` and `<name>.deviation`, a number per component; of an encoder for each pooling, of a
            model for `whole`, the representations of all its members side by side.
    """

    tensors: Mapping[str, Tensor]

    @classmethod
    def measured(cls, student: Student, store: Store, rows: np.ndarray) -> RepresentationLimits:
        """The limits from molecules that the encoder was trained on, at most 4,000 of them, evenly spread.

        Args:
            student: student in evaluation mode.
            store: with the student's graphs.
            rows: row numbers of the molecules, at least one.
        """
        rows = rows[:: -(-len(rows) // MOST_MOLECULES)]
        parts: dict[Pooling, list[Tensor]] = {}
        device = next(student.parameters()).device
        student.reset_sampling(0)
        with torch.no_grad():
            for batch in plan_batches(store.atom_counts[rows], batch_size=_BATCH, seed=0, epoch=0):
                graph: GraphBatch = store.read(rows[batch]).graph.to(device)
                output = student(graph)
                for pooling in _POOLINGS:
                    if pooling != "virtual_node" or output.virtual_BD is not None:
                        parts.setdefault(pooling, []).append(pool(output, graph, pooling).double().cpu())
        return cls.of_values({pooling: torch.cat(values) for pooling, values in parts.items()})

    @classmethod
    def of_values(cls, values: Mapping[str, Tensor]) -> RepresentationLimits:
        """The limits from representations [molecules, dim], by their names."""
        found: dict[str, Tensor] = {}
        for name, values_BD in values.items():
            quarters = torch.tensor([0.25, 0.5, 0.75]).double()
            low_D, centre_D, high_D = torch.quantile(values_BD.double(), quarters, dim=0)
            found[f"{name}.centre"] = centre_D.float()
            found[f"{name}.deviation"] = ((high_D - low_D) / _QUARTILES).float()
        return cls(found)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], what: str) -> RepresentationLimits:
        """The limits of an ENCODER folder.

        Raises:
            CorruptFileError: they are not finite, or a deviation is negative.
        """
        for name, values in tensors.items():
            wrong = not bool(torch.isfinite(values).all()) or (name.endswith(".deviation") and bool((values < 0).any()))
            if wrong or values.ndim != 1:
                raise CorruptFileError(f"{what}: {name} are not limits of representations")
        return cls(dict(tensors))

    def require_width(self, name: str, width: int, folder: Path) -> None:
        """Refuse limits of other representations, before any molecule is embedded.

        Raises:
            CorruptFileError: they are of another width.
        """
        for one in (f"{name}.centre", f"{name}.deviation"):
            if one in self.tensors and len(self.tensors[one]) != width:
                raise CorruptFileError(
                    f"{folder}/{LIMITS}.safetensors has limits of other representations",
                    found=f"{len(self.tensors[one])} numbers", expected=f"{width}",
                    next_step="Copy the whole folder again from where it was made",
                )  # fmt: skip

    def bounded(self, values_BD: Float[np.ndarray, "molecules dim"], name: str) -> Float[np.ndarray, "molecules dim"]:
        """Representations within the limits, which are of their width; as they are where a component has none."""
        centre = self.tensors.get(f"{name}.centre")
        deviation = self.tensors.get(f"{name}.deviation")
        if centre is None or deviation is None:
            return values_BD
        reach_D = DEVIATIONS * deviation.double().numpy()
        centre_D = centre.double().numpy()
        kept_BD: np.ndarray = values_BD.clip(centre_D - reach_D, centre_D + reach_D)
        return kept_BD


# Ready-made properties: heads that stay with an encoder, from a molecule's representation to values with units.

HEADS = "heads"
"""Stem of the file in an ENCODER folder, and key in its configuration."""


@dataclass(frozen=True)
class Property:
    """One number of a molecule.

    Attributes:
        name: name of the property; for a measured one `SET/TARGET`.
        term: term of the distillation that trained it.
        unit: unit of the value; empty for a class.
        kind: a value, or the probability of a class.
        mean: mean of the training values, in the unit; 0 for a class.
        deviation: standard deviation of the training values, in the unit; 1 for a class.
        scores: held-out scores by name, with the number of molecules; empty until they are measured.
    """

    name: str
    term: str
    unit: str = ""
    kind: Literal["value", "class"] = "value"
    mean: float = 0.0
    deviation: float = 1.0
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def data_set(self) -> str:
        """The data set that a measured one is of, empty for what was calculated."""
        return data_set_of(self.name)


def data_set_of(column: str) -> str:
    """What a column's name has before its first `/`: the data set it is of; empty where there is none."""
    return column.partition("/")[0] if "/" in column else ""


class PropertyHeads(nn.Module):
    r"""Mean over atoms → two layers → :math:`\mu + s\,y` of a value, :math:`\sigma(y)` of a class.

    Args:
        width: D of the encoder.
        properties: in order; those of a term follow each other, and share its network.
    """

    mean_C: Tensor
    deviation_C: Tensor
    class_C: Tensor

    def __init__(self, width: int, properties: Sequence[Property]) -> None:
        super().__init__()
        self.properties = tuple(properties)
        terms = [one.term for one in self.properties]
        self.networks = nn.ModuleDict(
            {
                term: nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, terms.count(term)))
                for term in dict.fromkeys(terms)
            }
        )
        for name in ("mean", "deviation"):
            values = torch.tensor([getattr(one, name) for one in self.properties], dtype=torch.float32)
            self.register_buffer(f"{name}_C", values, persistent=False)
        classes = torch.tensor([one.kind == "class" for one in self.properties])
        self.register_buffer("class_C", classes, persistent=False)

    @property
    def names(self) -> list[str]:
        """Names of the properties, in order."""
        return [one.name for one in self.properties]

    def standardised(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "molecules properties"]:
        """Values in training deviations from the training mean, and logits of classes."""
        pooled_BD = pool(output, graph, "mean").float()
        return torch.cat([network(pooled_BD) for network in self.networks.values()], dim=1)

    def forward(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "molecules properties"]:
        """Values in their units, and probabilities of classes."""
        raw_BC = self.standardised(output, graph)
        return torch.where(self.class_C, raw_BC.sigmoid(), raw_BC * self.deviation_C + self.mean_C)

    def of_terms(self, terms: Collection[str]) -> PropertyHeads | None:
        """The heads of some terms, with the same weights; None where there are none."""
        return self.kept([place for place, one in enumerate(self.properties) if one.term in terms])

    def kept(self, places: Sequence[int]) -> PropertyHeads | None:
        """The heads of the properties at some places, ascending, with the same weights; None for none."""
        if not places:
            return None
        width: int = next(iter(self.networks.values()))[0].in_features  # type: ignore[index]
        heads = PropertyHeads(width, [self.properties[place] for place in places])
        for term, network in heads.networks.items():
            of_term = [place for place, one in enumerate(self.properties) if one.term == term]
            rows = torch.tensor([number for number, place in enumerate(of_term) if place in set(places)])
            weights = self.networks[term].state_dict()
            network.load_state_dict({key: own[rows] if key.startswith("2.") else own for key, own in weights.items()})
        return heads.eval()

    def description(self) -> list[dict[str, Any]]:
        """The properties as plain values, for `config.json`."""
        return [asdict(one) for one in self.properties]

    @classmethod
    def of_description(cls, description: object, width: int) -> PropertyHeads:
        """The inverse of `description`, with fresh weights.

        Raises:
            CorruptFileError: it's not such a description.
        """
        try:
            assert isinstance(description, list)
            return cls(width, [_property(one) for one in description])
        except (AssertionError, ConfigError, TypeError, ValueError) as error:
            raise CorruptFileError("the encoder's heads are not described as they should be", found=error) from error


def _property(values: Mapping[str, Any]) -> Property:
    scores = {str(name): float(value) for name, value in values.get("scores", {}).items()}
    plain: Property = from_dict(Property, {name: value for name, value in values.items() if name != "scores"})
    return Property(**{**vars(plain), "scores": scores})


# Which molecules' measured labels an encoder learned: of these its heads know the answer, of others they predict it.

LEARNED = "learned_labels"
"""Stem of the file in an ENCODER folder."""
LEARNED_SETS = "learned_label_sets"
"""Key in its configuration."""
_MOST_SETS = 31  # bits of an int32


@dataclass(frozen=True)
class LearnedLabels:
    """The molecules of the data sets whose measured labels an encoder learned, by digest.

    Attributes:
        sets: names of the data sets.
        digest_K: first 8 bytes of the SHA-256 of each molecule's identity, as a number; ascending.
        sets_K: bit i is set where data set i has a label of the molecule.
    """

    sets: tuple[str, ...]
    digest_K: Int64[np.ndarray, "learned"]
    sets_K: Int32[np.ndarray, "learned"]

    @classmethod
    def of_sets(cls, identities: Mapping[str, Iterable[str]]) -> LearnedLabels:
        """From the identities (`chemistry.identity`) of the molecules of each data set, 31 sets at most."""
        assert len(identities) <= _MOST_SETS, "a set has a bit"
        bits: dict[int, int] = {}
        for place, own in enumerate(identities.values()):
            for digest in map(_digest, own):
                bits[digest] = bits.get(digest, 0) | 1 << place
        digests = sorted(bits)
        sets_K = np.array([bits[digest] for digest in digests], np.int32)
        return cls(tuple(identities), np.array(digests, np.int64), sets_K)

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor], sets: Sequence[str], what: str) -> LearnedLabels:
        """The inverse of `tensors`.

        Raises:
            CorruptFileError: they are not ascending digests with sets that there are.
        """
        digest_K, sets_K = (tensors.get(name, torch.zeros(0)).numpy() for name in ("digest", "sets"))
        sound = digest_K.dtype == np.int64 and sets_K.dtype == np.int32 and digest_K.shape == sets_K.shape
        if not (sound and digest_K.ndim == 1 and (np.diff(digest_K) > 0).all() and (sets_K >> len(sets) == 0).all()):
            raise CorruptFileError(f"{what} does not list the molecules of data sets")
        return cls(tuple(sets), digest_K, sets_K)

    def tensors(self) -> dict[str, Tensor]:
        """What is stored beside the names of the sets."""
        return {"digest": torch.from_numpy(self.digest_K), "sets": torch.from_numpy(self.sets_K)}

    def card_line(self) -> str:
        """What the card of the encoder says of the list."""
        return (
            f"- `{LEARNED}.safetensors` has a digest of each of the {len(self.digest_K):,} molecules whose measured "
            f"labels it learned ({', '.join(self.sets)}): of these the heads may know the answer\n"
        )

    def share(self, identities: Collection[str]) -> dict[str, float]:
        """For each data set the share of some molecules, at least one, that it has a label of."""
        sets_B = self._sets_of(sorted(set(identities)))
        return {name: float((sets_B >> place & 1).mean()) for place, name in enumerate(self.sets)}

    def knows(self, identities: Sequence[str], sets: Collection[str]) -> Bool[np.ndarray, "molecules"]:
        """Which molecules one of these data sets has a label of."""
        wanted = sum(1 << place for place, name in enumerate(self.sets) if name in sets)
        return np.asarray(self._sets_of(identities) & wanted, bool)

    def _sets_of(self, identities: Sequence[str]) -> Int32[np.ndarray, "molecules"]:
        """The bits of the data sets that have a label of each molecule."""
        digest_B = np.array([_digest(one) for one in identities], np.int64)
        if not len(self.digest_K):
            return np.zeros(len(digest_B), np.int32)
        place_B = np.searchsorted(self.digest_K, digest_B).clip(max=len(self.digest_K) - 1)
        return np.where(self.digest_K[place_B] == digest_B, self.sets_K[place_B], 0).astype(np.int32)


def _digest(identity: str) -> int:
    return int.from_bytes(hashlib.sha256(identity.encode()).digest()[:8], "big", signed=True)


# Encoders that ship with the package: `--encoder dnd-base` instead of a folder. Matrices are in half precision.


RANDOM = "random"
"""In place of an encoder: random weights (RandInit)."""

DEFAULT_ENCODER = "dnd-base"
"""Default encoder of finetuning and of `embed`."""

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
    learned: LearnedLabels | None = None,
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
        learned: molecules whose measured labels it learned; see `load_learned_labels`.
    """
    config = {**config, "student": dataclasses.asdict(student.config)}
    networks: dict[str, nn.Module] = {"model": student}
    if heads is not None:
        config["heads"], networks[HEADS] = heads.description(), heads
    tensors = {
        name: half_precision(network.state_dict()) if half else network.state_dict()
        for name, network in networks.items()
    }
    if limits is not None:
        tensors[LIMITS] = dict(limits.tensors)
    if learned is not None:
        config[LEARNED_SETS], tensors[LEARNED] = list(learned.sets), learned.tensors()
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
    hydrogens_of(model.config, model.path)
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

    model = read_model(encoder_folder(folder), kind="encoder")
    if not model.holds(f"{LIMITS}.safetensors"):
        return None
    return RepresentationLimits.of_tensors(model.tensors(LIMITS), f"{model.path}/{LIMITS}.safetensors")


def load_learned_labels(folder: Path | str) -> LearnedLabels | None:
    """The molecules whose measured labels an encoder learned; None if its folder does not list them, as older ones.

    Args:
        folder: as `load_encoder` takes it.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged or of another kind.
    """

    model = read_model(encoder_folder(folder), kind="encoder")
    if not model.holds(f"{LEARNED}.safetensors"):
        return None
    sets, what = model.config.get(LEARNED_SETS), f"{model.path}/{LEARNED}.safetensors"
    if not isinstance(sets, list) or len(sets) > _MOST_SETS:
        raise CorruptFileError(f"{model.path}/config.json does not name the data sets of {what}")
    return LearnedLabels.of_tensors(model.tensors(LEARNED), [str(name) for name in sets], what)


def load_heads(folder: Path | str) -> PropertyHeads | None:
    """The ready-made properties of an ENCODER folder, in evaluation mode; None if it has none.

    Args:
        folder: as `load_encoder` takes it, which reads the same folder without them.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged or of another kind.
    """

    model = read_model(encoder_folder(folder), kind="encoder")
    if model.config.get("heads") is None:
        return None
    heads = PropertyHeads.of_description(model.config["heads"], int(model.config["student"]["width"]))
    load_strictly(heads, model.tensors(HEADS), f"heads of {folder}")
    return heads.eval()
