"""Losses that leave missing labels out before anything is computed from them.

Where classes are weighted, `weights_2C` has the weight of label 0 in its first row and of label 1 in its second, and a
loss is the weighted mean of its terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from dnd.predictor.targets import ClassGroup
from dnd.training.objective import Terms

ValueLoss = Literal["l1", "huber", "mse"]
DEFAULT_LOSS: ValueLoss = "l1"  # of D&D, §5
# Of differences, elementwise. Huber's goes from squares to absolute values at one standard deviation of the labels.
_OF_DIFFERENCE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "l1": torch.abs,
    "huber": lambda difference: F.huber_loss(difference, torch.zeros_like(difference), reduction="none"),
    "mse": torch.square,
}
_SMALLEST = 1e-12  # keeps the loss of a batch without labels at 0


def masked_values(
    predictions_BC: Float[Tensor, "molecules targets"],
    targets_BC: Float[Tensor, "molecules targets"],
    loss: ValueLoss = DEFAULT_LOSS,
) -> Float[Tensor, ""]:
    r"""Mean loss of values over the labelled entries of a batch.

    .. math:: L = \frac{1}{|M|} \sum_{(b, c) \in M} \ell(\hat y_{bc} - y_{bc}), \qquad M = \{ y_{bc} \text{ is known} \}

    .. math:: \ell_1(d) = |d|, \qquad \ell_\text{mse}(d) = d^2, \qquad
              \ell_\text{Huber}(d) = \tfrac12 d^2 \ (|d| \le 1), \quad |d| - \tfrac12 \ (|d| > 1)

    Source: D&D §5 (L1 for regression); Huber, Ann. Math. Stat. 35 (1964) 73. NaN never enters the arithmetic (NaN · 0
    is NaN, in the gradient too); a batch without labels gives 0 with zero gradient.

    Args:
        predictions_BC: in the unit of the targets, usually standard deviations.
        targets_BC: NaN = missing.
        loss: ℓ.

    Returns:
        Scalar loss.
    """
    known_BC = ~targets_BC.isnan()
    difference_BC = predictions_BC - torch.where(known_BC, targets_BC, predictions_BC.detach())
    return _OF_DIFFERENCE[loss](difference_BC).sum() / known_BC.sum().clamp(min=1)


def beyond_limits(
    outputs_BC: Float[Tensor, "molecules targets"],
    targets_BC: Float[Tensor, "molecules targets"],
    sides_BC: Int[Tensor, "molecules targets"],
) -> Float[Tensor, "molecules targets"]:
    r"""Targets for the losses above, of which limits that an output keeps to are that output, so that it costs nothing.

    .. math:: \ell(\hat y, y, s) = \ell\bigl(\min(s (\hat y - y), 0)\bigr) \quad (s = \pm 1), \qquad
              \ell(\hat y - y) \quad (s = 0)

    A hinge: of a label such as `>10` all that is known is that the truth is above. Unlike the Tobit likelihood it needs
    no deviation of the errors, and it goes with every loss of values.

    Args:
        outputs_BC: predictions in the unit of the targets.
        targets_BC: values or limits; NaN = missing.
        sides_BC: 1 where the truth is above the limit, -1 where it's below, 0 where the target is the truth.
    """
    keeps_BC = (outputs_BC.detach() - targets_BC) * sides_BC > 0  # false where a label is missing or exact
    return torch.where(keeps_BC, outputs_BC.detach(), targets_BC)


def balanced_terms(
    outputs_BC: Float[Tensor, "molecules targets"],
    targets_BC: Float[Tensor, "molecules targets"],
    is_class_C: Bool[Tensor, "targets"],
    groups: Sequence[ClassGroup] = (),
    weights_2C: Float[Tensor, "2 targets"] | None = None,
    value_loss: ValueLoss = DEFAULT_LOSS,
) -> Terms:
    r"""Mean over the targets of each target's own mean loss: of values, or binary cross-entropy for classes.

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
        groups: columns that are the classes of one target; each group counts as one target, by its cross-entropy.
        weights_2C: weights of the two labels of each column; None = 1.
        value_loss: loss for values; see `masked_values`.

    Returns:
        A term for each column and for each group; columns of a group have weight 0. Their mean is L.
    """
    filled_BC = torch.where(targets_BC.isnan(), torch.zeros_like(targets_BC), targets_BC)
    error_BC = _OF_DIFFERENCE[value_loss](outputs_BC - filled_BC)
    entropy_BC = F.binary_cross_entropy_with_logits(outputs_BC, filled_BC, reduction="none")
    weight_BC = label_weights(targets_BC, weights_2C)
    for group in groups:
        weight_BC[:, group.span] = 0.0
    loss_BC = torch.where(is_class_C, entropy_BC, error_BC) * weight_BC
    weight_C = weight_BC.sum(dim=0)
    losses, weights = [loss_BC.sum(dim=0) / weight_C.clamp(min=_SMALLEST)], [weight_C]
    for group in groups:
        own_K, truth_BK = None if weights_2C is None else weights_2C[1, group.span], targets_BC[:, group.span]
        losses.append(cross_entropy(outputs_BC[:, group.span], truth_BK, own_K)[None])
        weights.append(class_weights(truth_BK, own_K).sum()[None])
    return Terms(torch.cat(losses), torch.cat(weights), averaged=True)


def cross_entropy(
    scores_BK: Float[Tensor, "molecules classes"],
    targets_BK: Float[Tensor, "molecules classes"],
    weights_K: Float[Tensor, "classes"] | None = None,
) -> Float[Tensor, ""]:
    r"""Cross-entropy of one target of several classes, mean over its labelled molecules.

    .. math:: L = -\frac{1}{\sum_{b \in M} w_{y_b}} \sum_{b \in M} w_{y_b} \log \mathrm{softmax}(z_b)_{y_b}

    Args:
        scores_BK: z, before the softmax.
        targets_BK: 0 and 1, a row of NaN = missing.
        weights_K: w of each class; None = 1.

    Returns:
        Scalar loss; 0 with zero gradient for a batch without labels.
    """
    weight_BK = class_weights(targets_BK, weights_K)
    loss = -(weight_BK * F.log_softmax(scores_BK, dim=1)).sum()
    return loss / weight_BK.sum().clamp(min=_SMALLEST)


def balanced_weights(targets_BC: Float[Tensor, "molecules targets"]) -> Float[Tensor, "2 targets"]:
    """Weights that let both labels of a column weigh the same in the training part: n / (2 n_label), 1 where n is 0.

    The weights of the second row are, up to a factor, those that let the classes of a group weigh the same. They are
    scikit-learn's `class_weight="balanced"`.

    Args:
        targets_BC: labels of the training part; NaN = missing.
    """
    known_BC = ~targets_BC.isnan()
    counts_2C = torch.stack([(known_BC & (targets_BC == label)).sum(dim=0) for label in (0, 1)])
    weights_2C = known_BC.sum(dim=0) / (2.0 * counts_2C.clamp(min=1))
    return torch.where(counts_2C > 0, weights_2C, torch.ones_like(weights_2C))


def label_weights(
    targets_BC: Float[Tensor, "molecules targets"], weights_2C: Float[Tensor, "2 targets"] | None = None
) -> Float[Tensor, "molecules targets"]:
    """Weight of each label; 0 where it is missing."""
    if weights_2C is None:
        return (~targets_BC.isnan()).to(targets_BC)
    own_BC = torch.where(targets_BC > 0.5, weights_2C[1], weights_2C[0]).to(targets_BC)
    return torch.where(targets_BC.isnan(), torch.zeros_like(own_BC), own_BC)


def class_weights(
    targets_BK: Float[Tensor, "molecules classes"], weights_K: Float[Tensor, "classes"] | None = None
) -> Float[Tensor, "molecules classes"]:
    """Weight of the class that each molecule has, 0 for the others and where it is missing."""
    truth_BK = torch.where(targets_BK.isnan(), torch.zeros_like(targets_BK), targets_BK)
    return truth_BK if weights_K is None else truth_BK * weights_K


def masked_bce(
    logits_BC: Float[Tensor, "molecules targets"],
    targets_BC: Float[Tensor, "molecules targets"],
    weights_2C: Float[Tensor, "2 targets"] | None = None,
) -> Float[Tensor, ""]:
    r"""Binary cross-entropy, mean over the labelled entries of a batch.

    .. math:: L = -\frac{1}{|M|} \sum_{(b, c) \in M} y \log \sigma(z) + (1 - y) \log (1 - \sigma(z))

    Source: D&D §5 (BCE for classification), averaged over the batch's labelled entries as OGB's examples do.

    Args:
        logits_BC: z, before the sigmoid.
        targets_BC: 0, 1 or NaN = missing.
        weights_2C: weights of the two labels of each column; None = 1.

    Returns:
        Scalar loss; 0 with zero gradient for a batch without labels.
    """
    filled_BC = torch.where(targets_BC.isnan(), torch.zeros_like(targets_BC), targets_BC)
    loss_BC = F.binary_cross_entropy_with_logits(logits_BC, filled_BC, reduction="none")
    weight_BC = label_weights(targets_BC, weights_2C)
    return (loss_BC * weight_BC).sum() / weight_BC.sum().clamp(min=_SMALLEST)
