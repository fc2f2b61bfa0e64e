"""How much of a reproduction a machine can do: sizes, epochs and seeds of `--budget tiny|small|cpu|gpu|paper`.

A result always carries these numbers; results of different budgets are never put into one table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from dnd.common.config import look_up


@dataclass(frozen=True)
class Budget:
    """Settings of a reproduction.

    Attributes:
        name: as on the command line.
        cost: what it takes, measured or, where it says so, estimated.
        pretraining_molecules: drawn at random from the pretraining file; None = all.
        conformer_molecules: the same where several conformers of each are generated.
        denoise: settings of the teacher's training, `key=value`.
        pretrain: settings of the loops of distillation, 3DInfomax and the other pretrainings.
        tokengt: settings of the student of Table 1 and the figures.
        pna: settings of the student of Tables 2 and 6.
        finetune_recipe: recipe that finetuning starts from, for Table 1 and the figures.
        finetune: settings on top of it.
        qm9_finetune_recipe: the same for Tables 2 and 6.
        qm9_finetune: settings on top of it.
        regularization: dropout rates and batch norm momentum of finetuning, the same for every system; each student
            takes those that it has.
        most_molecules: largest number of molecules of a data set, over all parts; None = all.
        poolings: +MP and +VN, as far as the student has them.
        upstream_seeds: pretrainings, seeds 1, 2, …: teacher, student and, for RandInit, random weights. The molecules
            are the same for all.
        seeds: finetuning seeds 1, 2, … of each pretraining.
        qm9_pretraining: molecules of QM9, drawn at random, to pretrain on for Tables 2 and 6.
        qm9_molecules: training, validation and test molecules of Tables 2 and 6.
        fractions: fractions of the training labels, for Figure 5.
        attention_molecules: held-out molecules of Figure 4.
        upstream_recipes: recipe that a training starts from, by stage, or by `stage/track` where tracks differ.
    """

    name: str
    cost: str
    pretraining_molecules: int | None
    conformer_molecules: int
    denoise: tuple[str, ...]
    pretrain: tuple[str, ...]
    tokengt: tuple[str, ...]
    pna: tuple[str, ...]
    finetune_recipe: str
    finetune: tuple[str, ...]
    qm9_finetune_recipe: str
    qm9_finetune: tuple[str, ...]
    regularization: Mapping[str, float]
    most_molecules: int | None
    poolings: tuple[str, ...]
    upstream_seeds: int
    seeds: int
    qm9_pretraining: int
    qm9_molecules: tuple[int, int, int]
    fractions: tuple[float, ...]
    attention_molecules: int
    upstream_recipes: Mapping[str, str] = field(default_factory=dict)

    def recipe(self, stage: str, track: str) -> str | None:
        """Recipe of a pretraining stage; None = the stage's defaults."""
        return self.upstream_recipes.get(f"{stage}/{track}", self.upstream_recipes.get(stage))


_FRACTIONS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
_NO_TOKENGT = tuple(  # where a recipe has settings of a TokenGT and the student is another one
    f"student.{name}=none"
    for name in ("num_heads", "num_identifiers", "attention_dropout", "activation_dropout", "drop_path")
)
_PLAIN = {  # what students have by default
    "dropout": 0.0,
    "identifier_dropout": 0.2,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "drop_path": 0.0,
    "batch_norm_momentum": 0.1,
}

_STEPS = ("loop.batch_size=64", "loop.learning_rate=1e-3")  # of every pretraining on a CPU
_SMALL = Budget(
    name="small",
    cost="about half an hour on one core for table1 with four networks and three sets (estimated from `cpu`)",
    pretraining_molecules=4_000,
    conformer_molecules=500,
    denoise=(
        "teacher.width=64",
        "teacher.num_layers=4",
        "teacher.num_rbf=32",
        "loop.epochs=10",
        *_STEPS,
        "loop.weight_decay=0.0",
    ),
    pretrain=("loop.epochs=10", *_STEPS, "loop.warmup_epochs=1", "holdout_fraction=0.05"),
    tokengt=("student.width=64", "student.num_layers=4", "student.num_heads=4", "student.num_identifiers=16"),
    pna=("student.name=pna", "student.width=64", "student.num_layers=4"),
    finetune_recipe="finetune-paper",
    finetune=("loop.epochs=16", "loop.batch_size=32", "loop.learning_rate=1e-3", "loop.warmup_epochs=2"),
    qm9_finetune_recipe="finetune-qm9",
    # 800 molecules (`cpu`) are 25 steps an epoch: shorter patience and a larger rate stand for fewer, smaller epochs.
    # With 60 epochs a random PNA has a validation MAE of 284 meV for the gap after 30 and of 265 at its best.
    qm9_finetune=(
        "loop.epochs=30",
        "loop.batch_size=32",
        "loop.learning_rate=1e-3",
        "loop.warmup_epochs=2",
        "loop.patience=10",
        "loop.plateau_patience=3",
    ),
    regularization=_PLAIN,
    most_molecules=500,
    poolings=("mean", "virtual_node"),
    upstream_seeds=3,
    seeds=1,
    qm9_pretraining=2_000,
    qm9_molecules=(400, 100, 200),
    fractions=(0.2, 1.0),
    attention_molecules=100,
)
_BUDGETS = (
    Budget(
        name="tiny",
        cost="a few minutes on one core; shows that everything runs, its numbers mean nothing",
        pretraining_molecules=200,
        conformer_molecules=60,
        denoise=(
            "teacher.width=16",
            "teacher.num_layers=2",
            "teacher.num_rbf=16",
            "loop.epochs=2",
            "loop.batch_size=32",
        ),
        pretrain=("loop.epochs=2", "loop.batch_size=32", "holdout_fraction=0.1"),
        tokengt=("student.width=16", "student.num_layers=2", "student.num_heads=2", "student.num_identifiers=4"),
        pna=("student.name=pna", "student.width=16", "student.num_layers=2"),
        finetune_recipe="finetune-small",
        finetune=("loop.epochs=2", "loop.warmup_epochs=1"),
        qm9_finetune_recipe="finetune-qm9",
        qm9_finetune=("loop.epochs=2", "loop.warmup_epochs=1", "loop.batch_size=32", "loop.learning_rate=1e-3"),
        regularization=_PLAIN,
        most_molecules=150,
        poolings=("mean",),
        upstream_seeds=1,
        seeds=2,
        qm9_pretraining=200,
        qm9_molecules=(80, 20, 20),
        fractions=(0.25, 1.0),
        attention_molecules=20,
    ),
    _SMALL,
    replace(
        _SMALL,
        name="cpu",
        cost="about six process hours for table1 on ten sets, five for table6 (estimated from half as many cells)",
        pretraining_molecules=24_000,
        conformer_molecules=3_000,
        denoise=(
            "teacher.width=64",
            "teacher.num_layers=5",
            "teacher.num_rbf=32",
            "loop.epochs=8",
            *_STEPS,
            "loop.weight_decay=0.0",
        ),
        pretrain=("loop.epochs=8", *_STEPS, "loop.warmup_epochs=1", "holdout_fraction=0.02"),
        most_molecules=1000,
        poolings=("mean",),
        seeds=2,
        qm9_pretraining=10_000,
        qm9_molecules=(800, 150, 400),
        fractions=(0.1, 0.4, 1.0),
        attention_molecules=300,
    ),
    Budget(
        name="gpu",
        cost="about a day on one data-centre GPU with --jobs 8 (estimated)",
        pretraining_molecules=None,
        conformer_molecules=50_000,
        denoise=("teacher.width=256", "teacher.num_layers=8", "loop.epochs=40", "loop.batch_size=128"),
        pretrain=("loop.epochs=50", "loop.batch_size=128", "loop.warmup_epochs=2"),
        tokengt=("student.width=256", "student.num_layers=8", "student.num_heads=8", "student.num_identifiers=16"),
        pna=("student.name=pna", "student.width=200", "student.num_layers=7"),
        finetune_recipe="finetune-paper",
        finetune=("loop.epochs=100",),
        qm9_finetune_recipe="finetune-qm9",
        qm9_finetune=("loop.epochs=300",),
        regularization=_PLAIN,
        most_molecules=None,
        poolings=("mean", "virtual_node"),
        upstream_seeds=3,
        seeds=3,
        qm9_pretraining=50_000,
        qm9_molecules=(18_000, 2_000, 3_000),
        fractions=_FRACTIONS,
        attention_molecules=1000,
    ),
    Budget(
        name="paper",
        cost="weeks on several data-centre GPUs (estimated): the sizes of the paper, PCQM4Mv2 and QM9 in full",
        pretraining_molecules=None,
        conformer_molecules=50_000,
        denoise=(),
        pretrain=(),
        tokengt=("student.width=768", "student.num_layers=12", "student.num_heads=32", "student.num_identifiers=16"),
        pna=("student.name=pna", "student.width=200", "student.num_layers=7", *_NO_TOKENGT),
        finetune_recipe="finetune-paper",
        finetune=(),
        qm9_finetune_recipe="finetune-qm9",
        qm9_finetune=(),
        # The paper does not state any. TokenGT's own run on PCQM4Mv2 and the recipe that Table 5(c) repeats have 0.1.
        regularization={**_PLAIN, "attention_dropout": 0.1, "activation_dropout": 0.1, "drop_path": 0.1},
        most_molecules=None,
        poolings=("mean", "virtual_node"),
        upstream_seeds=1,
        seeds=3,
        qm9_pretraining=50_000,
        qm9_molecules=(50_000, 17_748, 13_083),
        fractions=_FRACTIONS,
        attention_molecules=5000,
        upstream_recipes={
            "denoise": "denoise-paper",
            "distill": "distill-paper",
            "contrast": "contrast-paper",
            "contrast/qm9": "contrast-qm9",
            "pretrain": "pretrain-paper",
        },
    ),
)
BUDGETS: dict[str, Budget] = {entry.name: entry for entry in _BUDGETS}


def budget(name: str) -> Budget:
    """The budget of that name.

    Raises:
        ConfigError: there is no such name; the message lists the nearest ones.
    """
    return look_up(BUDGETS, name, "budget")
