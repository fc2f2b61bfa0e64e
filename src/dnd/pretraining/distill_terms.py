"""The terms of a distillation loss: which states of student and teacher meet, and at what weight."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.common.config import look_up
from dnd.common.errors import ConfigError, InputError
from dnd.graphs.batch import GraphBatch, mean_per_molecule
from dnd.models.students.base import Student, StudentOutput
from dnd.models.teachers.base import Teacher
from dnd.pretraining.distill_losses import (
    aligned_layers,
    atom_weights,
    global_alignment_loss,
    graph_distillation_loss,
    local_alignment_loss,
    node_distillation_loss,
)
from dnd.pretraining.objective import require_conformers
from dnd.pretraining.settings import ALIGNMENT, DistillConfig
from dnd.pretraining.teacher_outputs import DistillationBatch, TargetRequest
from dnd.store.reader import Store, require_hydrogens

# What has to agree before student and teacher can be compared: hydrogens, conformers, elements, widths.


_CHUNK = 4096


def projection(student_width: int, teacher_width: int) -> nn.Module:
    """Nothing where the widths agree, which is the paper's case; else one linear map on the student's side.

    It is trained with the student and dropped when the encoder is saved. The teacher's target is never transformed by
    learnt weights, or both could agree on a constant.
    """
    return nn.Identity() if student_width == teacher_width else nn.Linear(student_width, teacher_width)


def require_suitable(store: Store, config: Mapping[str, Any], name: str) -> None:
    """Raise an error if the teacher was trained for another kind of store; molecules without conformers are allowed.

    Which student atom is which teacher atom needs no map: the store's writer checks that conformer atom `i` is graph
    atom `i`, and `ConformerBatch.graph_atoms_N` numbers them over a batch.

    Args:
        store: the molecules.
        config: the teacher's configuration, with `hydrogens` and the table's size under `teacher`.
        name: name of the teacher, for messages.

    Raises:
        InputError: the store has no conformers, another hydrogen setting, or elements that the teacher's table lacks.
    """
    if not store.some_conformers:
        require_conformers(store)
    store = store.with_conformers()
    require_hydrogens(store, str(config["hydrogens"]), wanted_by=f"teacher {name}")
    limit = config.get("teacher", {}).get("max_atomic_number")
    if limit is None:
        return
    for first in range(0, len(store), _CHUNK):
        rows = np.arange(first, min(first + _CHUNK, len(store)))
        conformers = store.read(rows).conformers
        assert conformers is not None
        unknown_A = conformers.atomic_numbers_A >= limit
        if bool(unknown_A.any()):
            atom = int(unknown_A.nonzero()[0, 0])
            row = rows[int(conformers.batch_A[atom])]
            raise InputError(
                f"teacher {name} does not know an element of {store.describe(np.array([row]))[0]}",
                found=f"atomic number {int(conformers.atomic_numbers_A[atom])}",
                expected=f"below {limit}",
            )


# The terms of a distillation loss: which states of student and teacher meet, and at what weight.
#
# Each term is a squared distance :math:`\frac{1}{M} \sum_x w_x \frac{1}{LD} \sum_k \lVert s_{kx} - t_{kx} \rVert^2`
# over items x (atoms or molecules), so the loss of the best constant prediction, and with it R², follows from three
# sums.


class DistillationTerm(nn.Module, ABC):
    """One term: student states, teacher states, and their distance.

    Args:
        student: gives width and depth.
        teacher: gives width and depth; it is not kept.
        config: settings of the run.

    Attributes:
        pairs: aligned (student layer, teacher layer).
        of_atoms: whether the items are atoms, else molecules.
    """

    of_atoms: bool = True

    def __init__(self, student: Student, teacher: Teacher, config: DistillConfig) -> None:
        super().__init__()
        layers = config.layers if self.uses_layers() else "last"
        self.pairs = aligned_layers(student.num_layers, teacher.num_layers, layers)
        self.last_layer = student.num_layers - 1
        self.size_factor = config.size_factor
        self.projections = nn.ModuleList(projection(student.width, teacher.width) for _ in self.pairs)

    @classmethod
    def uses_layers(cls) -> bool:
        """Whether the term aligns several layers."""
        return False

    @property
    def teacher_layers(self) -> tuple[int, ...]:
        """Teacher layers whose states the term needs."""
        return tuple(teacher for _, teacher in self.pairs)

    @abstractmethod
    def states(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "layers items dim"]:
        """The student's projected states."""

    @abstractmethod
    def distance(
        self,
        states_LXD: Float[Tensor, "layers items dim"],
        targets_LXD: Float[Tensor, "layers items dim"],
        graph: GraphBatch,
    ) -> Float[Tensor, ""]:
        """The loss."""

    def item_weights(self, targets_LXD: Float[Tensor, "layers items dim"], graph: GraphBatch) -> Float[Tensor, "items"]:
        """w of each item."""
        return torch.ones(targets_LXD.shape[1], device=targets_LXD.device)

    def normaliser(self, graph: GraphBatch) -> int:
        """M of the batch: what the sum is divided by."""
        return graph.num_molecules

    def targets(self, batch: DistillationBatch, request: TargetRequest) -> Float[Tensor, "layers items dim"]:
        """The teacher's states of this term, float32."""
        assert batch.teacher_LND is not None
        assert batch.teacher_LBD is not None
        if self.of_atoms:
            held, wanted = batch.teacher_LND, request.atom_layers
        else:
            held, wanted = batch.teacher_LBD, request.pooled_layers
        return held[[wanted.index(layer) for layer in self.teacher_layers]].float()

    def _atoms(self, output: StudentOutput, layer: int) -> Tensor:
        return output.atoms_ND if layer == self.last_layer else output.layers[layer][0]

    def _project(self, states: list[Tensor]) -> Tensor:
        return torch.stack([project(state) for project, state in zip(self.projections, states, strict=True)]).float()


class NodeTerm(DistillationTerm):
    """Eq. 7 of D&D: the atoms after the last layer."""

    def states(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "layers items dim"]:  # noqa: D102
        return self._project([output.atoms_ND])

    def distance(  # noqa: D102
        self,
        states_LXD: Float[Tensor, "layers items dim"],
        targets_LXD: Float[Tensor, "layers items dim"],
        graph: GraphBatch,
    ) -> Float[Tensor, ""]:
        return node_distillation_loss(states_LXD[0], targets_LXD[0])

    def normaliser(self, graph: GraphBatch) -> int:  # noqa: D102
        return len(graph.node_features_NF)


class GraphTerm(DistillationTerm):
    """Eq. 6 of D&D: the means over atoms after the last layer."""

    of_atoms = False

    def states(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "layers items dim"]:  # noqa: D102
        return self._project([mean_per_molecule(output.atoms_ND.float(), graph.atom_offsets)])

    def distance(  # noqa: D102
        self,
        states_LXD: Float[Tensor, "layers items dim"],
        targets_LXD: Float[Tensor, "layers items dim"],
        graph: GraphBatch,
    ) -> Float[Tensor, ""]:
        return graph_distillation_loss(states_LXD[0], targets_LXD[0])


class GlobalTerm(DistillationTerm):
    """CCMD: the student's molecule token (the mean over atoms where it has none) after each aligned layer."""

    of_atoms = False

    @classmethod
    def uses_layers(cls) -> bool:  # noqa: D102
        return True

    def states(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "layers items dim"]:  # noqa: D102
        tokens = []
        for layer, _ in self.pairs:
            token_BD = output.virtual_BD if layer == self.last_layer else output.layers[layer][1]
            if token_BD is None:
                token_BD = mean_per_molecule(self._atoms(output, layer).float(), graph.atom_offsets)
            tokens.append(token_BD)
        return self._project(tokens)

    def distance(  # noqa: D102
        self,
        states_LXD: Float[Tensor, "layers items dim"],
        targets_LXD: Float[Tensor, "layers items dim"],
        graph: GraphBatch,
    ) -> Float[Tensor, ""]:
        return global_alignment_loss(states_LXD, targets_LXD)


class LocalTerm(DistillationTerm):
    """CCMD: the atoms after each aligned layer, weighed by the size of their molecule."""

    @classmethod
    def uses_layers(cls) -> bool:  # noqa: D102
        return True

    def states(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "layers items dim"]:  # noqa: D102
        return self._project([self._atoms(output, layer) for layer, _ in self.pairs])

    def distance(  # noqa: D102
        self,
        states_LXD: Float[Tensor, "layers items dim"],
        targets_LXD: Float[Tensor, "layers items dim"],
        graph: GraphBatch,
    ) -> Float[Tensor, ""]:
        return local_alignment_loss(states_LXD, targets_LXD, graph.atom_offsets, self.size_factor)

    def item_weights(self, targets_LXD: Float[Tensor, "layers items dim"], graph: GraphBatch) -> Float[Tensor, "items"]:  # noqa: D102
        return atom_weights(graph.atom_offsets, targets_LXD.shape[1], self.size_factor, torch.float32)


TERMS: dict[str, type[DistillationTerm]] = {
    "node": NodeTerm,
    "graph": GraphTerm,
    "global_tokens": GlobalTerm,
    "local_atoms": LocalTerm,
}


def build_terms(student: Student, teacher: Teacher | None, config: DistillConfig) -> dict[str, DistillationTerm]:
    """The alignment terms that have a weight, by name.

    Raises:
        ConfigError: some terms need a teacher and there is none.
    """
    wanted = [name for name in config.weights() if name in ALIGNMENT]
    if wanted and teacher is None:
        raise ConfigError(f"the term {wanted[0]} needs a teacher", next_step="Name one with --teacher")
    return {} if teacher is None else {name: look_up(TERMS, name, "term")(student, teacher, config) for name in wanted}


def request_of(terms: dict[str, DistillationTerm], config: DistillConfig) -> TargetRequest:
    """Which of the teacher's outputs `terms` need together."""
    layers: dict[bool, set[int]] = {True: set(), False: set()}
    for term in terms.values():
        layers[term.of_atoms] |= set(term.teacher_layers)
    return TargetRequest(
        tuple(sorted(layers[True])),
        tuple(sorted(layers[False])),
        config.pool_h,
        config.conformers,
        config.num_conformers,
    )
