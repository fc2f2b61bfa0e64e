"""Distances between student and teacher: node (Eq. 7 of D&D), graph (Eq. 6) and coordinated (CCMD); with the part of a
batch that has conformers, which is all they see."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dnd.common.errors import ConfigError, ShapeError
from dnd.graphs.batch import MoleculeBatch, PackedBatch, molecule_index
from dnd.models.students.base import StudentOutput
from dnd.store.reader import Store

# Molecules with and without conformers in one batch: what asks for a conformer sees the part that has one.


@dataclass(frozen=True)
class SolidPart(PackedBatch):
    """The molecules of a batch that have a conformer.

    Attributes:
        molecules: they alone, in the order of the batch, S of them.
        molecule_B: which molecules of the batch they are.
        atom_N: which atoms of the batch are theirs.
    """

    molecules: MoleculeBatch
    molecule_B: Bool[Tensor, "molecules"]
    atom_N: Bool[Tensor, "atoms"]

    @property
    def atom_places(self) -> Int[Tensor, "solid_atoms"]:
        """Place in the batch of each of their atoms."""
        return self.atom_N.nonzero()[:, 0]

    def select(self, output: StudentOutput) -> StudentOutput:
        """Their share of what a student says of the batch."""
        return StudentOutput(
            output.atoms_ND[self.atom_N],
            None if output.virtual_BD is None else output.virtual_BD[self.molecule_B],
            [
                (atoms_ND[self.atom_N], None if virtual_BD is None else virtual_BD[self.molecule_B])
                for atoms_ND, virtual_BD in output.layers
            ],
        )

    def without_conformers(self) -> SolidPart:
        """The same without the geometries, once nobody needs them any more."""
        return replace(self, molecules=replace(self.molecules, conformers=None))


def solid_part(store: Store, batch: MoleculeBatch) -> SolidPart | None:
    """The part of a batch that has conformers; None where that is the whole, or where the store has none at all."""
    if batch.conformers is not None:
        return None
    rows = batch.rows_B.numpy()
    has_B = store.places_with_conformers(rows) >= 0
    if not has_B.any() and not store.some_conformers:
        return None
    molecule_B = torch.from_numpy(has_B)
    return SolidPart(store.read(rows[np.flatnonzero(has_B)]), molecule_B, molecule_B[batch.graph.batch_N])


def with_conformers(store: Store, rows: np.ndarray) -> np.ndarray:
    """Those of `rows` whose molecules have a conformer."""
    return rows if store.has_conformers else rows[store.places_with_conformers(rows) >= 0]


# Node distillation, Eq. 7 of D&D.


def node_distillation_loss(
    student_ND: Float[Tensor, "atoms student_dim"], teacher_ND: Float[Tensor, "teacher_atoms teacher_dim"]
) -> Float[Tensor, ""]:
    r"""Squared distance between matching atoms, averaged over features and over all atoms of the batch.

    .. math:: L = \frac{1}{N D} \sum_{i=1}^{N} \lVert s_i - t_i \rVert_2^2

    Source: Cho et al., "3D Denoisers are Good 2D Teachers" (D&D), Eq. 7. The paper does not state the average. Its
    Fig. 3 shows values near 1e-2, and the teacher's output is layer-normalised (variance about 1 per feature), so it
    must be the mean over features. We average over all atoms of the batch, not per molecule first: every atom is one
    example of the regression, the value does not depend on how atoms are spread over molecules, and R² against the
    variance of all atoms is then exact.

    Args:
        student_ND: student atom representations, after the projection where widths differ.
        teacher_ND: frozen teacher representations of the same atoms in the same order.

    Returns:
        Scalar loss, same dtype as `student_ND`.

    Raises:
        ShapeError: the two representations differ in atoms or in width.
    """
    require_same_shape(student_ND, teacher_ND, "atom representations")
    return (student_ND - teacher_ND).square().mean()


def require_same_shape(student: Tensor, teacher: Tensor, what: str) -> None:
    """Refuse pairs that broadcasting would silently accept.

    Raises:
        ShapeError: the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ShapeError(
            f"{what} of student and teacher differ", found=tuple(student.shape), expected=tuple(teacher.shape)
        )


# Graph distillation, Eq. 6 of D&D.


def graph_distillation_loss(
    student_BD: Float[Tensor, "molecules student_dim"], teacher_BD: Float[Tensor, "teacher_molecules teacher_dim"]
) -> Float[Tensor, ""]:
    r"""Squared distance between the mean atom representations, averaged over features and molecules.

    .. math:: L = \frac{1}{B D} \sum_b \Bigl\lVert \frac{1}{N_b} \sum_{i \in b} s_i -
              \frac{1}{N_b} \sum_{i \in b} t_i \Bigr\rVert_2^2

    Source: Cho et al., "3D Denoisers are Good 2D Teachers" (D&D), Eq. 6. The paper does not state the reduction; see
    `node_distillation_loss` for the mean over features. Each encoder is averaged over its own atoms, so the teacher's
    mean may run over hydrogens that the student does not have (setting `pool_h`). A linear projection of the student
    commutes with the mean, so it does not matter which comes first.

    By Jensen's inequality the loss is at most the node loss of a molecule with the same atoms, so a smaller value than
    the node loss says nothing: compare R², not losses.

    Args:
        student_BD: mean of the student's atom representations per molecule, after the projection where widths differ.
        teacher_BD: mean of the frozen teacher's atom representations per molecule.

    Returns:
        Scalar loss, same dtype as `student_BD`.

    Raises:
        ShapeError: the two differ in molecules or in width.
    """
    require_same_shape(student_BD, teacher_BD, "pooled representations")
    return (student_BD - teacher_BD).square().mean()


# Coordinated distillation of CCMD: align the whole molecule and its atoms, layer by layer, without a tug of war.


SizeFactor = Literal["sum", "mean", "coordinated"]


def global_alignment_loss(
    student_LBD: Float[Tensor, "layers molecules student_dim"],
    teacher_LBD: Float[Tensor, "teacher_layers teacher_molecules teacher_dim"],
) -> Float[Tensor, ""]:
    r"""Distance of the molecule-level tokens, averaged over features, molecules and aligned layers.

    .. math:: L_g = \frac{1}{B} \sum_b \frac{1}{K} \sum_k \frac{1}{D} \lVert s_{bk} - t_{bk} \rVert_2^2

    Source: CCMD (arXiv 2211.16712), global molecular distillation at every layer. Its primary text was not at hand
    and its exact factors are reconstructed. CCMD's teacher has a virtual token; so has ours where it is supervised
    (`supervised_teacher.py`), and the target of a denoiser is the mean over its atoms.

    Args:
        student_LBD: state of the student's graph token (the mean over atoms where it has none) after each aligned
            layer, projected where widths differ.
        teacher_LBD: the teacher's token, or mean over atoms, after each aligned layer.

    Raises:
        ShapeError: the two differ in layers, molecules or width.
    """
    require_same_shape(student_LBD, teacher_LBD, "global states")
    return (student_LBD - teacher_LBD).square().mean()


def local_alignment_loss(
    student_LND: Float[Tensor, "layers atoms student_dim"],
    teacher_LND: Float[Tensor, "teacher_layers teacher_atoms teacher_dim"],
    atom_offsets: Int[Tensor, "offsets"],
    size_factor: SizeFactor = "coordinated",
) -> Float[Tensor, ""]:
    r"""Distance of the atoms, summed per molecule and weighted by a function of the molecule's size.

    .. math:: L_l = \frac{1}{B} \sum_b w(N_b) \frac{1}{K} \sum_k \sum_{i \in b} \frac{1}{D}
              \lVert s_{ki} - t_{ki} \rVert_2^2, \qquad w(N) \in \{1, 1/N, 1/N^2\}

    Source: CCMD (arXiv 2211.16712), local atom distillation with the coordinating factor :math:`1/N^2`; factors
    reconstructed. Why the size matters: with :math:`\delta_i = s_i - t_i`, the gradient of the mean-pooled global
    loss is :math:`2 \bar\delta / N` per atom, that of the local sum :math:`2 \delta_i`, of the local mean
    :math:`2 \delta_i / N`, and with :math:`1/N^2` it is :math:`2 \delta_i / N^2` (each over D). So a summed local
    term drowns the global one as N grows and the coordinated one steps back for large molecules.

    Args:
        student_LND: atom states after each aligned layer, projected where widths differ.
        teacher_LND: the teacher's states of the same atoms.
        atom_offsets: `(B + 1,)` offsets of the molecules' atoms.
        size_factor: w: `sum` 1, `mean` 1/N, `coordinated` 1/N².

    Raises:
        ShapeError: the two differ in layers, atoms or width.
    """
    require_same_shape(student_LND, teacher_LND, "atom states")
    distance_N = (student_LND - teacher_LND).square().mean(dim=(0, 2))
    weight_N = atom_weights(atom_offsets, len(distance_N), size_factor, distance_N.dtype)
    return (weight_N * distance_N).sum() / (len(atom_offsets) - 1)


def atom_weights(
    atom_offsets: Int[Tensor, "offsets"], num_atoms: int, size_factor: SizeFactor, dtype: torch.dtype
) -> Float[Tensor, "atoms"]:
    """w(N) of the molecule of each atom: 1, 1/N or 1/N²."""
    size_B = atom_offsets.diff().to(dtype)
    power = {"sum": 0, "mean": 1, "coordinated": 2}[size_factor]
    return (1 / size_B**power)[molecule_index(atom_offsets, num_atoms)]


def aligned_layers(student_layers: int, teacher_layers: int, which: Literal["all", "last"]) -> list[tuple[int, int]]:
    """Pairs (student layer, teacher layer), counted from 0, evenly spaced over the deeper of the two.

    With equal depths layer `k` meets layer `k`. Otherwise each layer of the shallower network meets the layer of the
    deeper one at the same relative depth; the two last layers always meet.

    Raises:
        ConfigError: a network has no layers.
    """
    if student_layers < 1 or teacher_layers < 1:
        raise ConfigError("alignment needs at least one layer", found=(student_layers, teacher_layers))
    if which == "last":
        return [(student_layers - 1, teacher_layers - 1)]
    count = min(student_layers, teacher_layers)
    return [
        (-(-student_layers * (k + 1) // count) - 1, -(-teacher_layers * (k + 1) // count) - 1) for k in range(count)
    ]
