"""NT-Xent as 3DInfomax and its GraphCL baseline use it, over the molecules of all ranks."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dnd.common.errors import ConfigError, ShapeError
from dnd.training.distributed import gather_rows
from dnd.training.objective import StepLoss


def ntxent_loss(
    anchors_BD: Float[Tensor, "molecules dim"], positives_BD: Float[Tensor, "positives dim2"], temperature: float
) -> Float[Tensor, ""]:
    r"""One-directional NT-Xent whose denominator leaves the positive out, by log-sum-exp.

    .. math:: L = -\frac{1}{B} \sum_i \log \frac{\exp(c_{ii} / \tau)}{\sum_{j \neq i} \exp(c_{ij} / \tau)}
              = \frac{1}{B} \sum_i \Bigl[ \operatorname{logsumexp}_{j \neq i} \frac{c_{ij}}{\tau} -
              \frac{c_{ii}}{\tau} \Bigr]

    .. math:: c_{ij} = \frac{a_i \cdot p_j}{\lVert a_i \rVert \lVert p_j \rVert + 10^{-8}}

    Source: Stärk et al., "3D Infomax improves GNNs for Molecular Property Prediction" (ICML 2022), public code. Two
    facts of that code are kept: the 2D vectors are the only anchors, and the positive is not in the denominator, so
    the loss may be negative. The code exponentiates first, which overflows at :math:`\tau = 0.01` as soon as a cosine
    exceeds 0.887; this form does not.

    Args:
        anchors_BD: 2D vectors, one per molecule.
        positives_BD: vectors of the other view of the same molecules, same order.
        temperature: τ, 0.1 in every file of that repository, 0.01 in D&D's text.

    Raises:
        ShapeError: the two differ in shape, or there are fewer than two molecules, so there is no negative.
        ConfigError: the temperature is not positive.
    """
    if anchors_BD.shape != positives_BD.shape or len(anchors_BD) < 2:
        raise ShapeError(
            "a contrastive loss needs two views of at least two molecules",
            found=(tuple(anchors_BD.shape), tuple(positives_BD.shape)),
        )
    if not temperature > 0:
        raise ConfigError("the temperature must be positive", found=temperature)
    norm_BB = anchors_BD.norm(dim=1)[:, None] * positives_BD.norm(dim=1)[None, :]
    scaled_BB = anchors_BD @ positives_BD.T / (norm_BB + 1e-8) / temperature
    own = torch.eye(len(anchors_BD), dtype=torch.bool, device=anchors_BD.device)
    negatives_B = scaled_BB.masked_fill(own, -torch.inf).logsumexp(dim=1)
    loss: Tensor = (negatives_B - scaled_BB.diagonal()).mean()
    return loss


def contrastive_accuracy(
    anchors_BD: Float[Tensor, "molecules dim"], positives_BD: Float[Tensor, "molecules dim"]
) -> Float[Tensor, ""]:
    """Share of anchors whose own positive is the most similar one; 1/B by chance."""
    similarity_BB = F.normalize(anchors_BD, dim=1) @ F.normalize(positives_BD, dim=1).T
    own_B = torch.arange(len(anchors_BD), device=anchors_BD.device)
    hits_B = similarity_BB.argmax(dim=1).eq(own_B).float()
    return hits_B.mean()


def contrastive_step(
    anchors_BD: Float[Tensor, "molecules dim"],
    positives_BD: Float[Tensor, "molecules dim"],
    temperature: float,
    *,
    gather: bool,
) -> StepLoss:
    """NT-Xent of a batch, and how often the own positive is the most similar one.

    Args:
        anchors_BD: vectors of one view, one per molecule of this rank.
        positives_BD: vectors of the other view of the same molecules.
        temperature: τ.
        gather: with the molecules of all ranks, which all must call this; False in an evaluation, which one rank does.

    Raises:
        ShapeError, ConfigError: see `ntxent_loss`.
    """
    if gather:
        anchors_BD, positives_BD = gather_rows(anchors_BD), gather_rows(positives_BD)
    loss = ntxent_loss(anchors_BD, positives_BD, temperature)
    accuracy = contrastive_accuracy(anchors_BD.detach(), positives_BD.detach())
    return StepLoss(loss, {"accuracy": accuracy}, torch.tensor(float(len(anchors_BD))))
