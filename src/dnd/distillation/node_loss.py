"""Node distillation, Eq. 7 of D&D."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from dnd.common.errors import ShapeError


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
        teacher_ND: frozen teacher representations of the same atoms in the same order; see `alignment.py`.

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
