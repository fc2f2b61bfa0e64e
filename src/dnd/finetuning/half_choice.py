"""What a part that stops a training says of it without flattery.

The epoch with the best score on a part has that score partly by luck, so predictions of the part at that epoch look
better than those of other molecules will be. Here each half of the part is predicted at the epoch that the other half
prefers: cross-fitting, as for nuisance parameters in Chernozhukov et al., Econometrics Journal 21 (2018) C1. How much
it matters is in `docs/results/predictor.md`.

Legend: V molecules of the part, C targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_WORST = torch.finfo(torch.float64).min  # a checkpoint holds finite numbers only


class HalfChoice(nn.Module):
    """Two halves of a part, drawn at random, and for each the predictions at the epoch that the other one prefers.

    What it holds are buffers, so that a checkpoint has them.

    Args:
        molecules: V.
        targets: C.
        seed: of the halving.
    """

    predictions_VC: Tensor
    best_2: Tensor

    def __init__(self, molecules: int, targets: int, seed: int) -> None:
        super().__init__()
        self.halves = np.array_split(np.random.default_rng(seed).permutation(molecules), 2)
        self.register_buffer("predictions_VC", torch.zeros(molecules, targets, dtype=torch.float64))
        self.register_buffer("best_2", torch.full((2,), _WORST, dtype=torch.float64))

    def note(
        self,
        predictions_VC: Float[np.ndarray, "molecules targets"],
        goodness: Callable[[Int[np.ndarray, "half"]], float],
    ) -> None:
        """Look at an epoch.

        Args:
            predictions_VC: of the part after it.
            goodness: of given molecules of the part, larger is better; NaN = can't be said, and then the last epoch
                is taken.
        """
        for number, half in enumerate(self.halves):
            value = goodness(half)
            if math.isnan(value) or value > float(self.best_2[number]):
                other = self.halves[1 - number]
                self.best_2[number] = _WORST if math.isnan(value) else value
                self.predictions_VC[torch.from_numpy(other)] = torch.from_numpy(predictions_VC[other]).to(
                    self.predictions_VC
                )
