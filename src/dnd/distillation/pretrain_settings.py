"""Settings that the further baselines share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dnd.common.errors import ConfigError
from dnd.distillation.readout import Readout
from dnd.student.config import StudentConfig
from dnd.training.settings import LoopConfig

Method = Literal["graphcl", "propred", "dispred", "confgen"]


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of `pretrain`.

    Attributes:
        method: the baseline.
        target: column to learn, for `propred`.
        out_width: width of the compared vectors, for `graphcl`.
        readout: from the student's atoms to a molecule, for `graphcl` and `propred`.
        num_generated: conformers generated per molecule, for `confgen`, 1 to 5.
        num_references: conformers of the store they are compared with, for `confgen`.
        holdout_fraction: share of the molecules that is held out.
        student: the student.
        loop: the training loop.
    """

    method: Method = "graphcl"
    target: str | None = None
    out_width: int = 256
    readout: Readout = "mean"
    num_generated: int = 4
    num_references: int = 4
    holdout_fraction: float = 0.02
    student: StudentConfig = field(default_factory=StudentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        if not 0 < self.holdout_fraction < 1:
            raise ConfigError("the held-out fraction is out of range", found=self.holdout_fraction, expected="0 to 1")
        if not 1 <= self.num_generated <= 5 or not 1 <= self.num_references <= self.num_generated:
            raise ConfigError(
                "confgen compares 1 to 5 generated conformers with at most as many references",
                found=f"{self.num_generated} generated, {self.num_references} references",
            )
        if self.method == "graphcl" and (self.loop.batch_size < 2 or self.loop.max_tokens is not None):
            raise ConfigError("a contrastive loss needs batches of a fixed batch_size, at least 2")
