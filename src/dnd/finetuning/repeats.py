r"""How far repeated measurements of one molecule are apart.

The repeat deviation of a target is pooled over the molecules with several values,

.. math:: s = \sqrt{\frac{\sum_i \sum_j (y_{ij} - \bar y_i)^2}{\sum_i (n_i - 1)}}

It is the floor of the error: no model can be nearer to a single measurement than a second one is. A target that is
learned as its logarithm has it as a factor, :math:`10^s` of decimal logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.predictor.metrics import significant


@dataclass(frozen=True)
class Repeats:
    """What the repeated measurements of one target say.

    Attributes:
        target: as the user knows it.
        molecules: with two labels or more.
        rows: number of rows of these molecules.
        deviation: pooled; a factor where `is_factor`; None for classes.
        is_factor: whether the logarithm is learned.
        unit: unit of `deviation`.
        contradicting: molecules of several classes at once.
        first: the first of these.
    """

    target: str
    molecules: int
    rows: int
    deviation: float | None = None
    is_factor: bool = False
    unit: str = ""
    contradicting: int = 0
    first: str = ""

    def sentence(self) -> str:
        """In words."""
        many = "molecule was" if self.molecules == 1 else "molecules were"
        start = f"{self.target}: {self.molecules} {many} measured more than once ({self.rows} rows)"
        if self.deviation is None:
            if not self.contradicting:
                return f"{start}, each with one class only."
            said = "contradicts itself" if self.contradicting == 1 else "contradict themselves"
            return f"{start}; {self.contradicting} {said}, such as {self.first[:60]}."
        value = significant(self.deviation)
        said = f"a factor of {value}" if self.is_factor else f"{value} {self.unit}".rstrip()
        return f"{start}; repeat deviation {said}, the floor of the error."

    def as_dict(self) -> dict[str, Any]:
        """Plain values for `metrics.json`, the sentence with them."""
        return {**asdict(self), "sentence": self.sentence()}


def pooled_deviation(values: Sequence[Float[np.ndarray, "rows"]]) -> float:
    """The pooled deviation `s` of the values of several molecules, two or more of each."""
    squares = sum(float(((own - own.mean()) ** 2).sum()) for own in values)
    return float(np.sqrt(squares / sum(len(own) - 1 for own in values)))
