"""Settings of distillation and of the further baselines; a system of the papers is a choice of terms and weights."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Literal

from dnd.common.errors import ConfigError
from dnd.models.students.base import PRESETS, StudentConfig
from dnd.pretraining.distill_losses import SizeFactor
from dnd.pretraining.heads import Readout
from dnd.training.settings import LoopConfig

# Settings of distillation; a system of the papers is a choice of terms and weights, not a class.


def require_holdout_fraction(fraction: float) -> None:
    """Refuse a share that leaves nothing to judge by, or nothing to train on.

    Raises:
        ConfigError: it is not above 0 and below 1.
    """
    if not 0 < fraction < 1:
        raise ConfigError("holdout_fraction is out of range", found=fraction, expected="above 0, below 1")


Level = Literal["node", "graph", "coordinated", "custom"]


@dataclass(frozen=True)
class TermWeights:
    """Weight of each term in the loss; 0 leaves it out.

    Attributes:
        node: Eq. 7 of D&D.
        graph: Eq. 6 of D&D.
        global_tokens: CCMD's alignment of the molecule's token at every layer.
        local_atoms: CCMD's alignment of the atoms at every layer.
        task: L1 on a column of the store's targets; part of CCMD, not of D&D.
        descriptors: RDKit's 2D descriptors; these and the following are further teachers, see `auxiliary`.
        fingerprints: Morgan counts, folded.
        avalon: counts of Avalon's features, folded.
        charges: Gasteiger charges of the atoms.
        surface: solvent-accessible surface of the atoms.
        distances: bins of the pair distances.
        radii: principal radii of the conformer.
        labels: all target columns of the store, where present: values in deviations, classes by cross-entropy.
        quantum: GFN2-xTB values of the molecule: solvation, orbitals, moments, energy.
        quantum_atoms: charge and share of the energy of the atoms, by the same calculation.
        quantum_bonds: Wiberg orders of the bonds, by the same.
    """

    node: float = 0.0
    graph: float = 0.0
    global_tokens: float = 0.0
    local_atoms: float = 0.0
    task: float = 0.0
    descriptors: float = 0.0
    fingerprints: float = 0.0
    avalon: float = 0.0
    charges: float = 0.0
    surface: float = 0.0
    distances: float = 0.0
    radii: float = 0.0
    labels: float = 0.0
    quantum: float = 0.0
    quantum_atoms: float = 0.0
    quantum_bonds: float = 0.0


ALIGNMENT = frozenset({"node", "graph", "global_tokens", "local_atoms"})
"""Terms that compare the student with a 3D teacher; without any of them none is needed."""

AUXILIARY = frozenset(entry.name for entry in fields(TermWeights)) - ALIGNMENT - {"task"}

OF_CONFORMERS = ALIGNMENT | {"surface", "distances", "radii", "quantum", "quantum_atoms", "quantum_bonds"}
"""Terms that a molecule without a conformer has nothing for."""

SHIPPABLE = ("labels", "quantum", "descriptors")
"""Terms whose heads are properties of a molecule that a user may want."""

LEVELS: dict[str, TermWeights] = {
    "node": TermWeights(node=1.0),
    "graph": TermWeights(graph=1.0),
    "coordinated": TermWeights(global_tokens=1.0, local_atoms=1.0),
    "custom": TermWeights(),
}


@dataclass(frozen=True)
class DistillConfig:
    """Settings of `distill`.

    Attributes:
        level: which terms have weight 1: `node`, `graph`, `coordinated` (global tokens and local atoms), or `custom`
            (no term).
        terms: weights that replace those of the level where they are not 0.
        layers: which layers the coordinated terms align.
        size_factor: weight of a molecule of N atoms in the local term: 1, 1/N or 1/N².
        task_target: column of the store for the task term.
        task_readout: representation that the task term reads: the `mean` over atoms, or the `virtual_node`, which CCMD
            aligns.
        select_by: criterion that chooses the epoch on the held-out part: the whole `loss`, or the `task` term alone.
        pool_h: whether the teacher's mean includes hydrogens if the student has none.
        conformers: `first`, or `mean` for the mean of the teacher's outputs over all conformers of a molecule. For a
            squared distance the mean target has the same expected gradient as a random conformer each epoch, without
            its noise.
        num_conformers: number of conformers of each molecule that are averaged, the first ones; none = all.
        cache: place where the teacher's outputs are kept. `auto` keeps them in memory up to `cache_memory_mb`, and on
            disk if there are more or `loop.stop_after_s` is set. For a single epoch it keeps none: each is used once.
        cache_memory_mb: largest cache in memory, in MiB.
        holdout_fraction: share of the molecules that is held out.
        heads: terms whose heads are kept in the encoder, as ready-made molecular properties.
        student: the student.
        loop: the training loop.
    """

    level: Level = "node"
    terms: TermWeights = field(default_factory=TermWeights)
    layers: Literal["all", "last"] = "all"
    size_factor: SizeFactor = "coordinated"
    task_target: str | None = None
    task_readout: Literal["mean", "virtual_node"] = "mean"
    select_by: Literal["loss", "task"] = "loss"
    pool_h: bool = False
    conformers: Literal["first", "mean"] = "first"
    num_conformers: int | None = None
    cache: Literal["auto", "memory", "disk", "off"] = "auto"
    cache_memory_mb: int = 512
    holdout_fraction: float = 0.02
    heads: tuple[str, ...] = ()
    student: StudentConfig = field(default_factory=StudentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        weights = self.weights()
        if not all(0 <= weight < math.inf for weight in weights.values()):
            raise ConfigError("a term has a weight that is negative or not finite", found=weights)
        if not weights.keys() - {"task"}:
            raise ConfigError(
                "there is no term to learn from",
                next_step="Set terms.node=1 or terms.descriptors=1, or a level other than custom",
            )
        if ("task" in weights) != (self.task_target is not None):
            raise ConfigError(
                "terms.task and task_target must be given together", found=f"{weights}, {self.task_target}"
            )
        if self.select_by == "task" and "task" not in weights:
            raise ConfigError("select_by=task needs the task term", next_step="Set terms.task=1 and task_target=NAME")
        if self.num_conformers is not None and (self.num_conformers < 1 or self.conformers != "mean"):
            raise ConfigError(
                "num_conformers is for conformers=mean only", found=(self.num_conformers, self.conformers)
            )
        if self.conformers == "mean" and self.cache == "off":
            raise ConfigError("conformers=mean needs the cache", next_step="Leave out cache=off")
        require_holdout_fraction(self.holdout_fraction)
        for name in self.heads:
            if name not in SHIPPABLE or name not in weights:
                raise ConfigError(
                    f"the head of {name} can't be kept with the encoder",
                    found=f"terms: {', '.join(weights)}",
                    expected=f"one of {', '.join(SHIPPABLE)}, with a weight",
                )

    @property
    def needs_teacher(self) -> bool:
        """Whether a term aligns the student with a 3D teacher."""
        return bool(self.weights().keys() & ALIGNMENT)

    @property
    def needs_only_conformers(self) -> bool:
        """Whether every term needs a conformer, so that molecules without one teach nothing."""
        return self.weights().keys() <= OF_CONFORMERS

    def weights(self) -> dict[str, float]:
        """Weight by name of every term that takes part."""
        given = {entry.name: getattr(self.terms, entry.name) for entry in fields(self.terms)}
        chosen = replace(LEVELS[self.level], **{name: weight for name, weight in given.items() if weight})
        return {entry.name: weight for entry in fields(chosen) if (weight := getattr(chosen, entry.name))}


def student_words(name: str) -> list[str]:
    """`key=value` words that choose a student by preset or by name, whatever the recipe says about another one.

    Args:
        name: a preset such as `tokengt-small`, which sets everything, or a student such as `gine`, which keeps the
            recipe's width and depth and takes the student's own defaults for the rest.
    """
    if name in PRESETS:
        settings = asdict(PRESETS[name])
    else:
        own = ("width", "num_layers", "dropout")
        settings = {entry.name: None for entry in fields(StudentConfig) if entry.name not in own} | {"name": name}
    return [f"student.{key}={'none' if value is None else value}" for key, value in settings.items()]


# Settings that the further baselines share.


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
        require_holdout_fraction(self.holdout_fraction)
        if self.out_width < 1:
            raise ConfigError("out_width is out of range", found=self.out_width, expected="at least 1")
        if self.method == "propred" and self.target is None:
            raise ConfigError("propred needs a column to learn", next_step="Set target=NAME, a column of the store")
        if self.method == "dispred" and self.student.width % 2:
            raise ConfigError("dispred needs a student of even width", found=self.student.width)
        if not 1 <= self.num_generated <= 5 or not 1 <= self.num_references <= self.num_generated:
            raise ConfigError(
                "confgen compares 1 to 5 generated conformers with at most as many references",
                found=f"{self.num_generated} generated, {self.num_references} references",
            )
        if self.method == "graphcl" and (self.loop.batch_size < 2 or self.loop.max_tokens is not None):
            raise ConfigError("a contrastive loss needs batches of a fixed batch_size, at least 2")
