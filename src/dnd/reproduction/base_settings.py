"""Settings of `dnd pretrain-base`: what is learned from, by which teacher, and by which students."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dnd.common.config import look_up
from dnd.common.errors import ConfigError
from dnd.pretraining.denoise import DenoiseConfig
from dnd.pretraining.settings import DistillConfig
from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.store.schema import FURTHER_FIELDS, QUANTUM_FIELDS, HydrogenSetting

NO_BENCHMARKS = "none"


@dataclass(frozen=True)
class BaseConfig:
    """Settings of the pretraining of the shipped encoders.

    Attributes:
        hydrogens: hydrogen setting of all stores.
        auxiliary: auxiliary columns of the stores.
        quantum: `gfn2`, files of quantum labels (or their names in the folder of the data sets), or both; see
            `PrepareConfig`. A file concerns the input that it names.
        labels: target columns, taken from the inputs that have them.
        measured: data sets whose training molecules and measured labels are one more input.
        held_out: lists of digests (`tables.key_lists`), files or names in the folder of the data sets: these molecules
            are left out of every input that has labels.
        most_molecules: largest number of molecules of one input file; none = all.
        most_smiles: the same of a table of SMILES, which costs less; none = as `most_molecules`.
        benchmarks: data sets whose validation and test molecules are left out; `none` for none of them.
        table_conformers: conformers of inputs without coordinates: `etkdg` generates some, with `none` they teach
            nothing in 3D.
        conformer_backend: what generates them: `rdkit`, `nvmolkit` or `auto`.
        teacher_first: the teacher learns from stores of conformers alone, so that it need not wait for slow columns.
        jobs: processes of `prepare`.
        seed: random seed of the drawn molecules and of generated conformers.
        encoders: the students that are made.
        denoise: the teacher.
        base: the student `dnd-base`.
        large: the student `dnd-large`.
        tokengt: the student `dnd-tokengt`.
    """

    hydrogens: HydrogenSetting = "teacher_all_student_heavy"
    auxiliary: tuple[str, ...] = ("descriptors", "fingerprints", "charges", "surface")
    quantum: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    most_molecules: int | None = None
    most_smiles: int | None = None
    benchmarks: tuple[str, ...] = tuple(BENCHMARKS)
    table_conformers: Literal["etkdg", "none"] = "etkdg"
    conformer_backend: str = "auto"
    teacher_first: bool = False
    jobs: int = 2
    seed: int = 0
    encoders: tuple[str, ...] = ("dnd-base", "dnd-tokengt")
    denoise: DenoiseConfig = field(default_factory=DenoiseConfig)
    base: DistillConfig = field(default_factory=DistillConfig)
    large: DistillConfig = field(default_factory=DistillConfig)
    tokengt: DistillConfig = field(default_factory=DistillConfig)

    def __post_init__(self) -> None:
        """Refuse names that there are not, before any work starts."""
        for name in (*self.excluded_benchmarks(), *self.measured):
            look_up(BENCHMARKS, name, "data set")
        known = {"dnd-base": self.base, "dnd-large": self.large, "dnd-tokengt": self.tokengt}
        for name in self.encoders:
            look_up(known, name, "encoder")
        if tested := sorted(set(self.measured) - set(self.excluded_benchmarks())):
            raise ConfigError(
                "measured labels of a data set are learned, but its validation and test molecules are not left out",
                found=", ".join(tested),
                next_step="Add it to benchmarks",
            )
        columns = {*self.auxiliary, *(QUANTUM_FIELDS if self.quantum else ())}
        for student, config in self.students().items():
            for name in config.weights().keys() & FURTHER_FIELDS.keys() - columns:
                setting = "quantum" if name in QUANTUM_FIELDS else "auxiliary"
                raise ConfigError(
                    f"the term {name} of {student} has a weight, but the stores will have no such column",
                    found=f"{setting} = {list(getattr(self, setting))}",
                    next_step=f"Add it to {setting}, or set its weight to 0",
                )

    def excluded_benchmarks(self) -> tuple[str, ...]:
        """The data sets whose validation and test molecules are left out."""
        return () if self.benchmarks == (NO_BENCHMARKS,) else self.benchmarks

    def students(self) -> dict[str, DistillConfig]:
        """Settings of each student that is made by the name it ships under."""
        known = {"dnd-base": self.base, "dnd-large": self.large, "dnd-tokengt": self.tokengt}
        return {name: known[name] for name in self.encoders}
