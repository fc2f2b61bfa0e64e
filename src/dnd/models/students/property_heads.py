"""Ready-made properties: heads that stay with an encoder, from a molecule's representation to values with units."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import StudentOutput
from dnd.models.students.layers import pool

HEADS = "heads"
"""Stem of the file in an ENCODER folder, and key in its configuration."""


@dataclass(frozen=True)
class Property:
    """One number of a molecule.

    Attributes:
        name: name of the property; for a measured one `SET/TARGET`.
        term: term of the distillation that trained it.
        unit: unit of the value; empty for a class.
        kind: a value, or the probability of a class.
        mean: mean of the training values, in the unit; 0 for a class.
        deviation: standard deviation of the training values, in the unit; 1 for a class.
        scores: held-out scores by name, with the number of molecules; empty until they are measured.
    """

    name: str
    term: str
    unit: str = ""
    kind: Literal["value", "class"] = "value"
    mean: float = 0.0
    deviation: float = 1.0
    scores: Mapping[str, float] = field(default_factory=dict)


class PropertyHeads(nn.Module):
    r"""Mean over atoms → two layers → :math:`\mu + s\,y` of a value, :math:`\sigma(y)` of a class.

    Args:
        width: D of the encoder.
        properties: in order; those of a term follow each other, and share its network.
    """

    mean_C: Tensor
    deviation_C: Tensor
    class_C: Tensor

    def __init__(self, width: int, properties: Sequence[Property]) -> None:
        super().__init__()
        self.properties = tuple(properties)
        terms = [one.term for one in self.properties]
        self.networks = nn.ModuleDict(
            {
                term: nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, terms.count(term)))
                for term in dict.fromkeys(terms)
            }
        )
        for name in ("mean", "deviation"):
            values = torch.tensor([getattr(one, name) for one in self.properties], dtype=torch.float32)
            self.register_buffer(f"{name}_C", values, persistent=False)
        classes = torch.tensor([one.kind == "class" for one in self.properties])
        self.register_buffer("class_C", classes, persistent=False)

    @property
    def names(self) -> list[str]:
        """Names of the properties, in order."""
        return [one.name for one in self.properties]

    def standardised(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "molecules properties"]:
        """Values in training deviations from the training mean, and logits of classes."""
        pooled_BD = pool(output, graph, "mean").float()
        return torch.cat([network(pooled_BD) for network in self.networks.values()], dim=1)

    def forward(self, output: StudentOutput, graph: GraphBatch) -> Float[Tensor, "molecules properties"]:
        """Values in their units, and probabilities of classes."""
        raw_BC = self.standardised(output, graph)
        return torch.where(self.class_C, raw_BC.sigmoid(), raw_BC * self.deviation_C + self.mean_C)

    def of_terms(self, terms: Collection[str]) -> PropertyHeads | None:
        """The heads of some terms, with the same weights; None where there are none."""
        kept = [one for one in self.properties if one.term in terms]
        if not kept:
            return None
        width: int = next(iter(self.networks.values()))[0].in_features  # type: ignore[index]
        heads = PropertyHeads(width, kept)
        heads.networks.load_state_dict(
            {key: value for key, value in self.networks.state_dict().items() if key.partition(".")[0] in terms}
        )
        return heads.eval()

    def description(self) -> list[dict[str, Any]]:
        """The properties as plain values, for `config.json`."""
        return [asdict(one) for one in self.properties]

    @classmethod
    def of_description(cls, description: object, width: int) -> PropertyHeads:
        """The inverse of `description`, with fresh weights.

        Raises:
            CorruptFileError: it's not such a description.
        """
        try:
            assert isinstance(description, list)
            return cls(width, [_property(one) for one in description])
        except (AssertionError, ConfigError, TypeError, ValueError) as error:
            raise CorruptFileError("the encoder's heads are not described as they should be", found=error) from error


def _property(values: Mapping[str, Any]) -> Property:
    scores = {str(name): float(value) for name, value in values.get("scores", {}).items()}
    plain: Property = from_dict(Property, {name: value for name, value in values.items() if name != "scores"})
    return Property(**{**vars(plain), "scores": scores})
