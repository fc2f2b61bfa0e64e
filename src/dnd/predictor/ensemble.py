"""What answers in a model: one network, or a blend of members with weights and spread; and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor, nn

from dnd.chemistry.descriptors import DESCRIPTOR_NAMES
from dnd.common.compute import derive_seed
from dnd.common.config import from_dict
from dnd.common.errors import CorruptFileError
from dnd.common.model_folder import ModelFolder, load_strictly
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import (
    Pooling,
    Student,
    StudentConfig,
    StudentOutput,
    fixed_weights,
    pool,
    pooled_width,
)
from dnd.models.students.encoders import build_student
from dnd.predictor.classical.array_models import Kernel, Linear, Trees
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, EMBEDDING, FIRST_SETS, Features, Layout, features_of
from dnd.predictor.targets import Target, groups_of, softmax
from dnd.store.batches import MoleculeSource, plan_batches
from dnd.store.reader import Store

if TYPE_CHECKING:
    from dnd.models.students.encoders import PropertyHeads


# From the pooled vector of a molecule to its targets.


HeadName = Literal["mlp", "linear", "pna"]


def build_head(
    name: HeadName, inputs: int, num_targets: int, *, width: int | None = None, batch_norm_momentum: float | None = None
) -> nn.Module:
    r"""A new prediction head `(B, D) -> (B, C)`.

    .. math:: \text{mlp}: \hat y = W_2\, \mathrm{LN}(\mathrm{GELU}(W_1 h + b_1)) + b_2, \qquad
              \text{linear}: \hat y = W h + b

    Source: D&D does not state its head; `mlp` is the head of TokenGT's reference code, `pna` that of 3DInfomax on QM9.
    But for `pna` the last layer starts small and without bias, so that training starts from the mean of the
    standardised targets.

    Args:
        name: `mlp`, `linear` or `pna`.
        inputs: I, the width of the pooled vector.
        num_targets: C.
        width: inner width; I when None.
        batch_norm_momentum: momentum of `pna`'s batch norm; 0.1 when None.
    """
    width = width or inputs
    if name == "pna":
        from dnd.models.students.pna import PNAHead  # no other head needs it

        return PNAHead(inputs, width, num_targets, 0.1 if batch_norm_momentum is None else batch_norm_momentum)
    last = nn.Linear(inputs if name == "linear" else width, num_targets)
    nn.init.normal_(last.weight, std=0.02)
    nn.init.zeros_(last.bias)
    if name == "linear":
        return last
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.LayerNorm(width), last)


# The network that is finetuned: prediction = head(pooling(student(graph))).


PREDICTION_TOKENS = {"cpu": 4_096, "cuda": 16_384}
"""Of a batch. On a CPU larger tensors are pages that the C library asks the system for each time, which costs up to a
quarter of a prediction; on a GPU smaller ones are bound by launches."""


class PropertyNetwork(nn.Module):
    """A student, a pooling and a head.

    Args:
        student: pretrained or random.
        pooling: see `pool`.
        head: see `build_head`.
        num_targets: C.
        seed: random seed of the head's initial weights.
    """

    def __init__(self, student: Student, pooling: Pooling, head: HeadName, num_targets: int, seed: int = 0) -> None:
        super().__init__()
        self.student, self.pooling = student, pooling
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_seed(seed, "head"))
            self.head = build_head(
                head,
                pooled_width(student.width, pooling),
                num_targets,
                width=student.width,
                batch_norm_momentum=student.config.batch_norm_momentum,
            )

    @property
    def width(self) -> int:
        """Numbers per molecule that `embed` makes."""
        return pooled_width(self.student.width, self.pooling)

    def embed(self, graph: GraphBatch) -> Float[Tensor, "molecules dim"]:
        """The pooled representation of every molecule."""
        return pool(self.student(graph), graph, self.pooling)

    def forward(self, graph: GraphBatch) -> Float[Tensor, "molecules targets"]:
        """Standardised values, or logits for classes."""
        prediction_BC: Tensor = self.head(self.embed(graph))
        return prediction_BC


def run_over(
    compute: Callable[[GraphBatch], Tensor], student: Student, source: MoleculeSource, rows: np.ndarray
) -> Float[np.ndarray, "molecules outputs"]:
    """`compute` for `rows` of `source`, in that order, in batches of similar size; no gradient.

    Args:
        compute: a network or its `embed`, in evaluation mode.
        student: the student inside it.
        source: graphs of the molecules.
        rows: positions in `source`, at least one.

    Returns:
        `(len(rows), C or D)` float64.
    """
    device = next(student.parameters()).device
    atoms, bonds = source.atom_counts[rows], source.bond_counts[rows]
    parts: list[np.ndarray] = []
    order: list[np.ndarray] = []
    student.reset_sampling(0)
    with torch.no_grad(), fixed_weights():
        tokens = PREDICTION_TOKENS.get(device.type, PREDICTION_TOKENS["cuda"])
        for batch in plan_batches(atoms + 2 * bonds + 2, max_tokens=tokens, seed=0, epoch=0):
            parts.append(compute(source.read(rows[batch]).graph.to(device)).double().cpu().numpy())
            order.append(batch)
    outputs = np.empty((len(rows), parts[0].shape[1]))
    outputs[np.concatenate(order)] = np.concatenate(parts)
    return outputs


def to_raw_units(
    outputs_BC: Float[np.ndarray, "molecules targets"], targets: Sequence[Target]
) -> Float[np.ndarray, "molecules targets"]:
    """Values in the targets' units, or probabilities of class 1 (sigmoid in float64, so that no two scores tie).

    The classes of one target get the softmax of their scores.
    """
    means_C = np.array([target.mean for target in targets])
    raw_BC: np.ndarray = outputs_BC * np.array([target.std for target in targets]) + means_C
    for column, target in enumerate(targets):
        if target.transform.name != "none":
            raw_BC[:, column] = target.transform.predicted(raw_BC[:, column])
    classes = [column for column, target in enumerate(targets) if target.kind == "classification"]
    raw_BC[:, classes] = 1.0 / (1.0 + np.exp(-outputs_BC[:, classes]))
    for group in groups_of(targets):
        raw_BC[:, group.span] = softmax(outputs_BC[:, group.span])
    return raw_BC


# How far the members of a blend disagree about a molecule.
#
# .. math:: s = \sqrt{\sum_g w_g (\hat y_g - \bar y)^2}, \qquad \bar y = \sum_g w_g \hat y_g
#
# Members of one name count as one, by their mean: out of fold a molecule is predicted by one student, later by the mean
# of all, and widths that are learned from the one kind of spread must not meet another.


STUDENTS = "students"  # the name that all networks share
_SMALLEST = 1e-12


def weighted_spread(
    values_GBC: Float[np.ndarray, "names molecules targets"], weights_GC: Float[np.ndarray, "names targets"]
) -> Float[np.ndarray, "molecules targets"]:
    """The weighted deviation between values; those that are NaN take no part, and NaN where all are."""
    known_GBC = np.isfinite(values_GBC)
    share_GBC = np.where(known_GBC, weights_GC[:, None, :], 0.0)
    total_BC = share_GBC.sum(axis=0)
    share_GBC = share_GBC / total_BC.clip(_SMALLEST, None)
    filled_GBC = np.where(known_GBC, values_GBC, 0.0)
    away_GBC = filled_GBC - (share_GBC * filled_GBC).sum(axis=0)
    return np.where(total_BC > 0, np.sqrt((share_GBC * away_GBC**2).sum(axis=0)), np.nan)


def spread_by_name(
    members_MBC: Float[np.ndarray, "members molecules targets"],
    weights_MC: Float[np.ndarray, "members targets"],
    names: Sequence[str],
) -> Float[np.ndarray, "molecules targets"]:
    """`weighted_spread` of the means of the members of each name."""
    values, weights = [], []
    for name in dict.fromkeys(names):
        own = [place for place, other in enumerate(names) if other == name]
        total_C = weights_MC[own].sum(axis=0)
        share_MC = weights_MC[own] / total_C.clip(_SMALLEST, None)
        values.append(np.einsum("mc,mnc->nc", share_MC, members_MBC[own]))
        weights.append(total_C)
    return weighted_spread(np.stack(values), np.stack(weights))


# The classical part of a predictor: members that are no networks, their weights, and their files in a MODEL folder.
#
# `config.json` names the members under `blend`; their arrays lie in `classical.safetensors`. A frozen encoder that
# gives them features lies in `embedding.safetensors`, its heads in `embedding_heads.safetensors`. All are sealed by
# the manifest like every other file.
#


BLEND_VERSION = 2
_READABLE = (1, BLEND_VERSION)  # 1 had no sets but `FIRST_SETS`
CLASSICAL, FROZEN, FROZEN_HEADS = "classical", "embedding", "embedding_heads"
ArrayModel = Trees | Linear | Kernel
_KINDS: dict[str, type[Trees] | type[Linear] | type[Kernel]] = {kind.kind: kind for kind in (Trees, Linear, Kernel)}


@dataclass(frozen=True)
class ClassicalMember:
    """A classical model per target.

    Attributes:
        name: see `finetuning.classical.MEMBERS`.
        models: one per target, in their order.
        targets: the scale that the models' values are in.
        weights: share of each target's prediction.
    """

    name: str
    models: tuple[ArrayModel, ...]
    targets: tuple[Target, ...]
    weights: tuple[float, ...]

    def predict(self, x_BF: Float32[np.ndarray, "molecules features"]) -> Float[np.ndarray, "molecules targets"]:
        """Values in the targets' units, or probabilities of class 1."""
        columns = [target.raw(model.predict(x_BF)) for model, target in zip(self.models, self.targets, strict=True)]
        return np.stack(columns, axis=1)


@dataclass(frozen=True)
class FrozenEncoder:
    """A pretrained student as it was before finetuning, whose representation classical members look at.

    Attributes:
        student: student in evaluation mode.
        pooling: pooling of its atoms.
        heads: ready-made properties whose values follow the pooled atoms; None = the representation is these alone.
    """

    student: Student
    pooling: Pooling
    heads: PropertyHeads | None = None

    @property
    def width(self) -> int:
        """Numbers per molecule that `embed` makes."""
        return pooled_width(self.student.width, self.pooling) + (len(self.heads.properties) if self.heads else 0)

    def to(self, device: torch.device | str) -> FrozenEncoder:
        """The same encoder, with its student and its heads moved to `device`."""
        for part in (self.student, self.heads):
            if part is not None:
                part.to(device)
        return self

    def embed(self, store: Store, rows: np.ndarray | None = None) -> Float32[np.ndarray, "molecules dim"]:
        """Representations of `rows`, of all molecules when None."""

        def represented(graph: GraphBatch) -> Tensor:
            output = self.student(graph)
            return self.represented(output, graph, pool(output, graph, self.pooling))

        places = np.arange(len(store)) if rows is None else rows
        return run_over(represented, self.student, store, places).astype(np.float32)

    def represented(self, output: StudentOutput, graph: GraphBatch, pooled_BD: Tensor) -> Tensor:
        """What `embed` makes of the student's output and its pooled atoms."""
        if self.heads is None:
            return pooled_BD
        return torch.cat([pooled_BD.float(), self.heads.standardised(output, graph)], dim=1)


@dataclass(frozen=True)
class Blend:
    """What a predictor has beside its networks.

    Attributes:
        classical: the members; may be none.
        network_weights: for each network its share of each target's prediction.
        encoder: gives the members a representation; None = they see descriptors and counts only.
        sets: further sets of features.
    """

    classical: tuple[ClassicalMember, ...]
    network_weights: tuple[tuple[float, ...], ...]
    encoder: FrozenEncoder | None = None
    sets: tuple[str, ...] = FIRST_SETS

    @property
    def layout(self) -> Layout:
        """The columns that the members see."""
        return Layout(self.encoder.width if self.encoder else 0, self.sets)

    @cached_property
    def weights_MC(self) -> Float[np.ndarray, "members targets"]:
        """Shares of all members, the networks first; those of a target sum to 1."""
        return np.array([*self.network_weights, *(member.weights for member in self.classical)], dtype=np.float64)

    @cached_property
    def used_sets(self) -> set[str]:
        """The feature sets that a member uses, or that replace a representation."""
        used = self.layout.sets_of(self._columns)
        return used if self.network_weights or self.encoder else {*used, DESCRIPTORS}

    @cached_property
    def used_descriptors(self) -> tuple[str, ...]:
        """The descriptors that a member uses; all if they replace a representation."""
        if not (self.network_weights or self.encoder):
            return DESCRIPTOR_NAMES
        used = np.isin(self.layout.columns(DESCRIPTORS), self._columns)
        return tuple(name for name, is_used in zip(DESCRIPTOR_NAMES, used.tolist(), strict=True) if is_used)

    @cached_property
    def _columns(self) -> Int64[np.ndarray, "columns"]:
        """The features that a member looks at."""
        columns = [columns_of(model) for member in self.classical for model in member.models]
        return np.unique(np.concatenate([np.empty(0, np.int64), *columns]).astype(np.int64))

    def representation(self, x_BF: Float32[np.ndarray, "molecules features"]) -> Float32[np.ndarray, "molecules dim"]:
        """What measures distance where there is no network: the frozen encoder's, else the descriptors."""
        return x_BF[:, self._measured]

    @property
    def measured_width(self) -> int:
        """Numbers of `representation`."""
        return len(self._measured)

    @property
    def _measured(self) -> Int64[np.ndarray, "columns"]:
        return self.layout.columns(EMBEDDING if self.encoder else DESCRIPTORS)

    def morgan_bits(self, features: Features) -> Bool[np.ndarray, "molecules bits"] | None:
        """Which atom environments each molecule has, where the members count them; None where they do not."""
        return features.x_BF[:, self.layout.columns(COUNTS)] > 0 if COUNTS in self.used_sets else None

    def features(
        self, store: Store, jobs: int = 1, embedding: Float32[np.ndarray, "molecules dim"] | None = None
    ) -> Features:
        """What the members see of featurised molecules; `embedding` is the encoder's, if it is computed already."""
        if self.encoder and embedding is None:
            embedding = self.encoder.embed(store)
        return features_of(
            store.smiles(), embedding, self.layout,
            graphs=store.graphs(), jobs=jobs, wanted=self.used_sets, descriptors=self.used_descriptors,
        )  # fmt: skip

    def predict(self, features: Features) -> list[Float[np.ndarray, "molecules targets"]]:
        """The values of each classical member; NaN of molecules without features."""
        values = [member.predict(features.x_BF) for member in self.classical]
        for values_BC in values:
            values_BC[list(features.refused)] = np.nan
        return values


def same_body(one: Student, other: Student) -> bool:
    """Whether two students have the same architecture and weights, as those have whose heads alone were trained."""
    own, others = one.state_dict(), other.state_dict()
    return one.config == other.config and all(
        name in others and values.device == others[name].device and torch.equal(values, others[name])
        for name, values in own.items()
    )


def columns_of(model: ArrayModel) -> np.ndarray:
    """The features that a model looks at."""
    if isinstance(model, Trees):
        return np.unique(model.feature_X[model.feature_X >= 0])
    return np.concatenate([model.scaling.columns_S, model.unary.columns_X if isinstance(model, Kernel) else []])


def blend_config(blend: Blend) -> dict[str, Any]:
    """The entry `blend` of `config.json`."""
    return {
        "version": BLEND_VERSION,
        "network_weights": [list(weights) for weights in blend.network_weights],
        "embedding": asdict(blend.encoder.student.config) if blend.encoder else None,
        "pooling": blend.encoder.pooling if blend.encoder else None,
        **({"heads": blend.encoder.heads.description()} if blend.encoder and blend.encoder.heads else {}),
        "features": [EMBEDDING] * bool(blend.encoder) + list(blend.sets),
        "classical": [
            {
                "name": member.name,
                "weights": list(member.weights),
                "models": [{"kind": model.kind, "link": model.link} for model in member.models],
                "scale": [target.scale() for target in member.targets],
            }
            for member in blend.classical
        ],
    }


def blend_tensors(blend: Blend) -> dict[str, dict[str, Tensor]]:
    """File stem to tensors, for `write_model`."""
    arrays = {
        f"{number}.{column}.{name}": torch.from_numpy(np.ascontiguousarray(values))
        for number, member in enumerate(blend.classical)
        for column, model in enumerate(member.models)
        for name, values in model.arrays().items()
    }
    frozen: dict[str, dict[str, Tensor]] = {}
    if blend.encoder:
        frozen[FROZEN] = dict(blend.encoder.student.state_dict())
        if blend.encoder.heads:
            frozen[FROZEN_HEADS] = dict(blend.encoder.heads.state_dict())
    return {CLASSICAL: arrays, **frozen}


def read_blend(model: ModelFolder, targets: Sequence[Target]) -> Blend | None:
    """The classical part of a verified MODEL folder; None where there is none.

    Raises:
        CorruptFileError: an unknown version, or arrays that are not those of the configuration.
        KeyError, TypeError: the configuration is not that of a blend.
    """
    config = model.config.get("blend")
    if config is None:
        return None
    if config["version"] not in _READABLE:
        found = config["version"]
        raise CorruptFileError(
            f"{model.path} has an unknown blend", found=found, expected=BLEND_VERSION, next_step="Upgrade dnd"
        )
    encoder = None
    if config["embedding"] is not None:
        student = build_student(from_dict(StudentConfig, config["embedding"]))
        load_strictly(student, model.tensors(FROZEN), f"{model.path}, frozen encoder")
        heads = None
        if config.get("heads") is not None:
            from dnd.models.students.encoders import PropertyHeads  # few encoders have them

            heads = PropertyHeads.of_description(config["heads"], student.width)
            load_strictly(heads, model.tensors(FROZEN_HEADS), f"{model.path}, heads of the frozen encoder")
        encoder = FrozenEncoder(student.eval(), config["pooling"], heads.eval() if heads else None)
    arrays: dict[str, dict[str, np.ndarray]] = {}
    for key, tensor in model.tensors(CLASSICAL).items():
        place, _, name = key.rpartition(".")
        arrays.setdefault(place, {})[name] = _finite(tensor, f"{model.path}, {key}")
    sets = tuple(str(name) for name in config["features"] if name != EMBEDDING)
    width = Layout(encoder.width if encoder else 0, sets).width  # a set that there is not is a KeyError
    members = tuple(
        _read_member(number, entry, arrays, targets, width) for number, entry in enumerate(config["classical"])
    )
    weights = tuple(tuple(map(float, row)) for row in config["network_weights"])
    blend = Blend(members, weights, encoder, sets)
    if blend.weights_MC.shape[1:] != (len(targets),) or not np.allclose(blend.weights_MC.sum(axis=0), 1, atol=1e-6):
        raise CorruptFileError(
            f"the weights of the members of {model.path} are not one for each target, with a sum of 1"
        )
    return blend


def _read_member(
    number: int,
    entry: Mapping[str, Any],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    targets: Sequence[Target],
    width: int,
) -> ClassicalMember:
    models = tuple(
        _KINDS[own["kind"]].from_arrays(arrays[f"{number}.{column}"], own["link"], width)
        for column, own in enumerate(entry["models"])
    )
    scaled = tuple(target.with_scale(scale) for target, scale in zip(targets, entry["scale"], strict=True))
    return ClassicalMember(str(entry["name"]), models, scaled, tuple(map(float, entry["weights"])))


def models_to_store(models: Sequence[ArrayModel]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays of models, and the rest of them as plain values."""
    arrays = {f"{place}.{name}": own for place, model in enumerate(models) for name, own in model.arrays().items()}
    return arrays, {"models": [{"kind": model.kind, "link": model.link} for model in models]}


def stored_models(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], width: int) -> tuple[ArrayModel, ...]:
    """The inverse of `models_to_store`, of models over `width` features.

    Raises:
        CorruptFileError: see `from_arrays` of the models.
    """
    own: list[dict[str, np.ndarray]] = [{} for _ in about["models"]]
    for key, values in arrays.items():
        place, _, name = key.partition(".")
        own[int(place)][name] = values
    return tuple(
        _KINDS[entry["kind"]].from_arrays(one, entry["link"], width)
        for entry, one in zip(about["models"], own, strict=True)
    )


def _finite(tensor: Tensor, what: str) -> np.ndarray:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise CorruptFileError(f"array {what} is not finite", next_step="Finetune the model again")
    return tensor.numpy()
