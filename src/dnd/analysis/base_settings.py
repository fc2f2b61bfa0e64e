"""Settings of `dnd pretrain-base`: what is learned from, by which teacher, and by which students."""

from __future__ import annotations

from dataclasses import dataclass, field

from dnd.analysis.benchmark_list import BENCHMARKS
from dnd.common.errors import ConfigError
from dnd.common.registry import look_up
from dnd.distillation.settings import DistillConfig
from dnd.store.schema import FURTHER_FIELDS, QUANTUM_FIELDS, HydrogenSetting
from dnd.teacher.denoising import DenoiseConfig

NO_BENCHMARKS = "none"


@dataclass(frozen=True)
class BaseConfig:
    """Settings of the pretraining of the shipped encoders.

    Attributes:
        hydrogens: of all stores.
        auxiliary: auxiliary columns of the stores.
        quantum: `gfn2`, files of quantum labels, or both; see `PrepareConfig`. A file concerns the input that it names.
        labels: target columns, taken from the inputs that have them.
        most_molecules: largest number of molecules of one input; none = all.
        benchmarks: data sets whose validation and test molecules are left out; `none` for none of them.
        conformer_backend: of inputs without coordinates: `rdkit`, `nvmolkit` or `auto`.
        jobs: processes of `prepare`.
        seed: of the drawing of molecules and of generated conformers.
        denoise: the teacher.
        base: the student `dnd-base`.
        tokengt: the student `dnd-tokengt`.
    """

    hydrogens: HydrogenSetting = "teacher_all_student_heavy"
    auxiliary: tuple[str, ...] = ("descriptors", "fingerprints", "charges", "surface")
    quantum: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    most_molecules: int | None = None
    benchmarks: tuple[str, ...] = tuple(BENCHMARKS)
    conformer_backend: str = "auto"
    jobs: int = 2
    seed: int = 0
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    base: DistillConfig = field(default_factory=DistillConfig)
    tokengt: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse names that there are not, before any work starts."""
        for name in self.excluded_benchmarks():
            look_up(BENCHMARKS, name, "data set")
        columns = {*self.auxiliary, *(QUANTUM_FIELDS if self.quantum else ())}
        for student, config in self.students().items():
            for name in config.weights().keys() & FURTHER_FIELDS.keys() - columns:
                setting = "quantum" if name in QUANTUM_FIELDS else "auxiliary"
                raise ConfigError(
                    f"the term {name} of {student} has a weight and the stores will have no such column",
                    found=f"{setting} = {list(getattr(self, setting))}",
                    next_step=f"Add it to {setting}, or set its weight to 0",
                )

    def excluded_benchmarks(self) -> tuple[str, ...]:
        """The data sets whose validation and test molecules are left out."""
        return () if self.benchmarks == (NO_BENCHMARKS,) else self.benchmarks

    def students(self) -> dict[str, DistillConfig]:
        """Settings of each student by the name it ships under."""
        return {"dnd-base": self.base, "dnd-tokengt": self.tokengt}
