"""Graph distillation, Eq. 6 of D&D."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dnd.distillation.node_loss import require_same_shape


def graph_distillation_loss(
    student_BD: Float[Tensor, "molecules student_dim"], teacher_BD: Float[Tensor, "teacher_molecules teacher_dim"]
) -> Float[Tensor, ""]:
    r"""Squared distance between the mean atom representations, averaged over features and molecules.

    .. math:: L = \frac{1}{B D} \sum_b \Bigl\lVert \frac{1}{N_b} \sum_{i \in b} s_i -
              \frac{1}{N_b} \sum_{i \in b} t_i \Bigr\rVert_2^2

    Source: Cho et al., "3D Denoisers are Good 2D Teachers" (D&D), Eq. 6. The paper does not state the reduction; see
    `node_loss.py` for the mean over features. Each encoder is averaged over its own atoms, so the teacher's mean may
    run over hydrogens that the student does not have (setting `pool_h`). A linear projection of the student commutes
    with the mean, so it does not matter which comes first.

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
