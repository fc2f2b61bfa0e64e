"""The systems that the tables compare, by their names on the command line and in the paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dnd.common.registry import look_up

Upstream = Literal["none", "contrast", "distill", "pretrain", "classical"]
PAPER_LAYER_DECAY = 0.65


@dataclass(frozen=True)
class System:
    """One system.

    Attributes:
        name: as on the command line.
        label: as in our tables.
        paper: its name in the paper's tables; empty = not there.
        upstream: the stage that makes its encoder; `none` = random weights, `classical` = no network at all.
        variant: level of the distillation, objective of the pretraining, or kind of classical model.
        layer_decay: learning rate multiplier per layer in finetuning.
        words: settings of the pretraining, `key=value`, beside those that `variant` stands for.
    """

    name: str
    label: str
    paper: str
    upstream: Upstream
    variant: str = ""
    layer_decay: float = PAPER_LAYER_DECAY
    words: tuple[str, ...] = ()


_ENTRIES = (
    System("randinit-0.65", "RandInit, layer decay 0.65", "RandInit", "none"),
    System("randinit-1.0", "RandInit, layer decay 1.0", "RandInit", "none", layer_decay=1.0),
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
    System("rf-counts", "random forest, count fingerprints", "", "classical", "rf-counts"),
    System("rf-descriptors", "random forest, RDKit descriptors", "", "classical", "rf-descriptors"),
    System("rf-both", "random forest, both", "", "classical", "rf-both"),
    System("gb-both", "gradient boosting, both", "", "classical", "gb-both"),
)
SYSTEMS: dict[str, System] = {entry.name: entry for entry in _ENTRIES}
CLASSICAL = tuple(entry.name for entry in _ENTRIES if entry.upstream == "classical")
TABLE_1 = ("randinit-0.65", "randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node", "coordinated", *CLASSICAL)
TABLE_2 = ("randinit-0.65", "randinit-1.0", "3dinfomax", "dnd-graph", "dnd-node", *CLASSICAL)
TABLE_6 = ("graphcl", "propred", "dispred", "confgen", *TABLE_2)


def system(name: str) -> System:
    """The system of that name.

    Raises:
        ConfigError: there is none; the message holds the nearest names.
    """
    return look_up(SYSTEMS, name, "system")
