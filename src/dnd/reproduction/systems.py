"""The systems that the tables compare, by their names on the command line and in the paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from dnd.common.config import look_up

Upstream = Literal["random", "contrast", "distill", "pretrain", "shipped", "classical"]
PAPER_LAYER_DECAY = 0.65


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: as on the command line.
        label: as in our tables.
        paper: its name in the paper's tables; empty = not there.
        upstream: the stage that makes its encoder; `random` = random weights, `shipped` = the encoder of that name
            that comes with the package, `classical` = no network at all.
        variant: level of the distillation, objective of the pretraining, or name of the shipped encoder.
        layer_decay: learning rate multiplier per layer in the finetuning of Table 1; that of QM9 has none.
        words: settings of the pretraining, `key=value`, beside those that `variant` stands for.
        student: name of its student; empty = the table's.
        teacher: name of its teacher; empty = the equivariant transformer.
        num_conformers: number of the `MOST_CONFORMERS` generated ones of each pretraining molecule that are used; 0 =
            what the file has.
        passes: times as many epochs of denoising and distillation as the budget has.
        control: the system that it is compared with first.
    """

    name: str
    label: str
    paper: str
    upstream: Upstream
    variant: str = ""
    layer_decay: float = PAPER_LAYER_DECAY
    words: tuple[str, ...] = ()
    student: str = ""
    teacher: str = ""
    num_conformers: int = 0
    passes: int = 1
    control: str = "randinit-1.0"


_STUDENTS = ("tokengt", "gine", "gcn", "graphsage", "gatv2", "gps", "pna")
_NUMBERS_OF_CONFORMERS = (1, 2, 5, 10)
MOST_CONFORMERS = max(_NUMBERS_OF_CONFORMERS)


def _conformer_systems() -> Iterator[System]:
    """D&D-NODE from K generated conformers of the same molecules, at equal steps and at K times the steps.

    A single conformer with the steps of the most tells what these are worth without further conformers.
    """
    for number in _NUMBERS_OF_CONFORMERS:
        conformers = f"{number} conformer{'s' if number > 1 else ''}"
        yield _of_conformers(f"conformers-{number}", f"D&D-NODE, {conformers}", number)
        if number > 1:
            label = f"D&D-NODE, {conformers}, each as often as a single one"
            yield _of_conformers(f"conformers-{number}-all", label, number, number)
    label = f"D&D-NODE, 1 conformer, {MOST_CONFORMERS} times as often"
    yield _of_conformers(f"conformers-1-passes-{MOST_CONFORMERS}", label, 1, MOST_CONFORMERS)


def _of_conformers(name: str, label: str, number: int, passes: int = 1) -> System:
    return System(
        name, label, "", "distill", "node",
        layer_decay=1.0,
        words=("conformers=mean", f"num_conformers={number}"),
        num_conformers=number,
        passes=passes,
        control="conformers-1",
    )  # fmt: skip


def _student_systems() -> Iterator[System]:
    """Every student with random weights and distilled from the same teacher, with one rate for all layers."""
    for name in _STUDENTS:
        yield System(f"{name}-random", f"{name}, random weights", "", "random", layer_decay=1.0, student=name)
        yield System(
            f"{name}-node", f"{name}, D&D-NODE", "", "distill", "node", layer_decay=1.0, student=name,
            control=f"{name}-random",
        )  # fmt: skip


_TEACHERS = (
    System("gine-node-painn", "gine, D&D-NODE, PaiNN as teacher", "", "distill", "node", layer_decay=1.0,
           student="gine", teacher="painn", control="gine-node"),
)  # fmt: skip

_ENTRIES = (
    System("randinit-0.65", "RandInit, layer decay 0.65", "RandInit", "random"),
    System("randinit-1.0", "RandInit, layer decay 1.0", "RandInit", "random", layer_decay=1.0),
    System("3dinfomax", "3DInfomax", "3DInfomax", "contrast"),
    # The temperature that D&D states; the default is that of 3DInfomax's own files.
    System("3dinfomax-0.01", "3DInfomax, τ = 0.01", "3DInfomax", "contrast", words=("temperature=0.01",)),
    System("dnd-graph", "D&D-GRAPH", "D&D-Graph", "distill", "graph"),
    System("dnd-node", "D&D-NODE", "D&D-Node", "distill", "node"),
    System("coordinated", "coordinated (CCMD)", "", "distill", "coordinated"),
    # CCMD's ablation; "coordinated" is its third line.
    System("ccmd-global", "CCMD, global only", "", "distill", "custom", words=("terms.global_tokens=1",)),
    System("ccmd-mean", "CCMD, global + local mean", "", "distill", "coordinated", words=("size_factor=mean",)),
    System("graphcl", "GraphCL", "GraphCL", "pretrain", "graphcl"),
    System("propred", "ProPred", "ProPred", "pretrain", "propred"),
    System("dispred", "DisPred", "DisPred", "pretrain", "dispred"),
    System("confgen", "ConfGen", "ConfGen", "pretrain", "confgen"),
    *_conformer_systems(),
    *_student_systems(),
    *_TEACHERS,
    System("dnd-base", "dnd-base, as it ships", "", "shipped", "dnd-base", layer_decay=1.0, student="gine"),
    System("rf-counts", "random forest, count fingerprints", "", "classical", "rf-counts"),
    System("rf-descriptors", "random forest, RDKit descriptors", "", "classical", "rf-descriptors"),
    System("rf-both", "random forest, both", "", "classical", "rf-both"),
    System("gb-both", "gradient boosting, both", "", "classical", "gb-both"),
)
SYSTEMS: dict[str, System] = {entry.name: entry for entry in _ENTRIES}
CLASSICAL = tuple(entry.name for entry in _ENTRIES if entry.upstream == "classical")
TABLE_1 = ("randinit-0.65", "randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node", "coordinated", *CLASSICAL)
TABLE_2 = ("randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node", *CLASSICAL)
CONFORMERS = tuple(entry.name for entry in _conformer_systems())
STUDENTS = tuple(entry.name for entry in _student_systems())
TEACHERS = ("gine-random", "gine-node", "gine-node-painn")
LOCALITY = ("dnd-graph", "dnd-node")
TABLE_6 = ("graphcl", "propred", "dispred", "confgen", *TABLE_2)


def system(name: str) -> System:
    """The system of that name.

    Raises:
        ConfigError: there is no such name; the message lists the nearest ones.
    """
    return look_up(SYSTEMS, name, "system")
