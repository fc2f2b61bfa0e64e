"""Losses that leave missing labels out before anything is computed from them.

Legend: B molecules, C targets.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def masked_l1(
    predictions_BC: Float[Tensor, "molecules targets"], targets_BC: Float[Tensor, "molecules targets"]
) -> Float[Tensor, ""]:
    r"""Mean absolute error over the labelled entries of a batch.

    .. math:: L = \frac{1}{|M|} \sum_{(b, c) \in M} | \hat y_{bc} - y_{bc} |, \qquad M = \{ y_{bc} \text{ is known} \}

    Source: D&D §5 (L1 for regression). NaN never enters the arithmetic (NaN · 0 is NaN, in the gradient too); a batch
    without labels gives 0 with zero gradient.

    Args:
        predictions_BC: in the unit of the targets, usually standard deviations.
        targets_BC: NaN = missing.

    Returns:
        Scalar loss.
    """
    known_BC = ~targets_BC.isnan()
    difference_BC = predictions_BC - torch.where(known_BC, targets_BC, predictions_BC.detach())
    return difference_BC.abs().sum() / known_BC.sum().clamp(min=1)


def balanced_loss(
    outputs_BC: Float[Tensor, "molecules targets"],
    targets_BC: Float[Tensor, "molecules targets"],
    is_class_C: Bool[Tensor, "targets"],
) -> Float[Tensor, ""]:
    r"""Mean over the targets of each target's own mean loss: L1 for values, binary cross-entropy for classes.

    .. math:: L = \frac{1}{|T|} \sum_{c \in T} \frac{1}{|M_c|} \sum_{b \in M_c} \ell_c(\hat y_{bc}, y_{bc}),
              \qquad T = \{ c : |M_c| > 0 \}

    Source: ours, for targets of several files or kinds (multitask finetuning, which D&D leaves to future work).
    Values are in standard deviations of the training labels, so an untrained network has about 0.8 for a value and
    0.7 for a class, and no target outweighs another by its unit or its number of labels. A target without a label in
    the batch takes no part; a batch without labels gives 0 with zero gradient.

    Args:
        outputs_BC: standardised values, or logits for classes.
        targets_BC: standardised values, or 0 and 1; NaN = missing.
        is_class_C: which targets are classes.

    Returns:
        Scalar loss.
    """
    known_BC = ~targets_BC.isnan()
    filled_BC = torch.where(known_BC, targets_BC, torch.zeros_like(targets_BC))
    error_BC = (outputs_BC - filled_BC).abs()
    entropy_BC = F.binary_cross_entropy_with_logits(outputs_BC, filled_BC, reduction="none")
    loss_BC = torch.where(is_class_C, entropy_BC, error_BC)
    loss_C = torch.where(known_BC, loss_BC, torch.zeros_like(loss_BC)).sum(dim=0) / known_BC.sum(dim=0).clamp(min=1)
    return loss_C.sum() / known_BC.any(dim=0).sum().clamp(min=1)


def masked_bce(
    logits_BC: Float[Tensor, "molecules targets"], targets_BC: Float[Tensor, "molecules targets"]
) -> Float[Tensor, ""]:
    r"""Binary cross-entropy, mean over the labelled entries of a batch.

    .. math:: L = -\frac{1}{|M|} \sum_{(b, c) \in M} y \log \sigma(z) + (1 - y) \log (1 - \sigma(z))

    Source: D&D §5 (BCE for classification), averaged over the batch's labelled entries as OGB's examples do.

    Args:
        logits_BC: z, before the sigmoid.
        targets_BC: 0, 1 or NaN = missing.

    Returns:
        Scalar loss; 0 with zero gradient for a batch without labels.
    """
    known_BC = ~targets_BC.isnan()
    filled_BC = torch.where(known_BC, targets_BC, torch.zeros_like(targets_BC))
    loss_BC = F.binary_cross_entropy_with_logits(logits_BC, filled_BC, reduction="none")
    return torch.where(known_BC, loss_BC, torch.zeros_like(loss_BC)).sum() / known_BC.sum().clamp(min=1)
