"""Settings of `dnd finetune`, and the clock of `--time-limit`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from dnd.common.config import load_config, look_up
from dnd.common.errors import ConfigError
from dnd.finetuning.blend_weights import Metric
from dnd.finetuning.objective import ValueLoss
from dnd.finetuning.prepared_labels import Aggregation
from dnd.finetuning.splits import TableSettings
from dnd.finetuning.tasks import TaskChoice, TransformChoice
from dnd.finetuning.unused_settings import Made, refuse_unused
from dnd.models.students.base import Pooling, StudentConfig
from dnd.predictor.classical.features import FURTHER
from dnd.predictor.ensemble import HeadName
from dnd.store.schema import HydrogenSetting
from dnd.training.settings import LoopConfig

# `--time-limit`: how much of it is left, and what fits into that.


class Clock:
    """Counts a time limit down from when it is made.

    Args:
        limit_s: seconds; None = no limit.
    """

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._started = time.monotonic()

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self.limit_s is not None

    def spent(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def left(self) -> float:
        """Seconds until the limit, infinite without one; negative once it is over."""
        return math.inf if self.limit_s is None else self.limit_s - self.spent()

    def share(self, fraction: float) -> float:
        """A fraction of what is left, at least nothing."""
        return max(0.0, fraction * self.left())


RECIPE = "finetune-small"
PROPERTY_TERMS = ("quantum", "labels")
# In the order in which a time limit keeps them; see `classical.py`.
CLASSICAL_MEMBERS = ("ridge", "forest_descriptors", "gaussian_process", "boosting", "forest_counts", "forest")


@dataclass(frozen=True)
class Regularization:
    """Dropout and batch-norm momentum of the student during finetuning.

    None is the default of the student's architecture (no dropout except 0.2 on Laplacian identifiers, momentum 0.1), or
    the value in `student` for a student with random weights. The values used in pretraining are ignored, so students
    from different pretrainings are finetuned alike.

    Attributes:
        dropout: on the output of each layer's blocks.
        identifier_dropout: on entries of TokenGT's Laplacian identifiers.
        attention_dropout: on attention weights.
        activation_dropout: inside the feed-forward block.
        drop_path: chance of skipping a block for a molecule.
        batch_norm_momentum: weight of the newest batch in the running statistics.
    """

    dropout: float | None = None
    identifier_dropout: float | None = None
    attention_dropout: float | None = None
    activation_dropout: float | None = None
    drop_path: float | None = None
    batch_norm_momentum: float | None = None

    def given(self) -> dict[str, float]:
        """The settings that are set."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True)
class BlendConfig:
    """Classical members beside the students.

    Attributes:
        classical: members, of `CLASSICAL_MEMBERS`; none = students only.
        students: whether the blend has students; `ensemble` is their number.
        second: another architecture for every second student, with `--encoder random`; none = all are alike.
        fingerprints: fingerprints that the members use beside Morgan counts: `avalon`, `erg`, `atom_pairs`, `torsions`.
        properties: terms of the encoder's ready-made heads, of `quantum` and `labels`, whose values join the
            representation; an encoder without heads has none to give. Left out are classes that it predicts badly, and
            measured properties that it learned of the molecules at hand.
        boosting_seeds: number of boosting fits that are averaged.
        folds: number of scaffold folds for the out-of-fold predictions.
        trees: largest number of trees in a forest; many targets get fewer.
        classical_rows: largest number of molecules that a classical member is fitted on; more are subsampled at random.
        passes: largest number of molecules that pass through the students' training in all; larger tables get fewer
            epochs.
        most_rows: largest number of labelled rows. Larger tables are subsampled at random, to bound memory and time.
        time_limit_s: seconds for everything, from reading to writing; work that does not fit is left out and logged.
    """

    classical: tuple[str, ...] = ()
    students: bool = True
    second: StudentConfig | None = None
    fingerprints: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    boosting_seeds: int = 1
    folds: int = 5
    trees: int = 100
    classical_rows: int = 20_000
    passes: int = 2_000_000
    most_rows: int = 250_000
    time_limit_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        for name in self.classical:
            look_up(dict.fromkeys(CLASSICAL_MEMBERS), name, "classical member")
        for name in self.fingerprints:
            look_up(dict.fromkeys(FURTHER), name, "fingerprint")
        for name in self.properties:
            look_up(dict.fromkeys(PROPERTY_TERMS), name, "term of the encoder's heads")
        if self.trees < 1 or self.boosting_seeds < 1:
            found = (self.trees, self.boosting_seeds)
            raise ConfigError("blend.trees and boosting_seeds must be at least 1", found=found)
        if self.folds < 2 or self.classical_rows < 100 or self.passes < 1:
            raise ConfigError(
                "blend.folds must be at least 2, classical_rows at least 100, passes at least 1",
                found=(self.folds, self.classical_rows, self.passes),
            )
        if self.most_rows < 100:
            raise ConfigError("blend.most_rows must be at least 100", found=self.most_rows)
        if not self.classical and not self.students:
            raise ConfigError("the blend has no members", next_step="Name some in blend.classical")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ConfigError("blend.time_limit_s must be above 0", found=self.time_limit_s)
        if self.time_limit_s is not None and not self.classical:
            raise ConfigError(
                "a time limit needs classical members to fall back on", next_step="Use --recipe best or fast"
            )


@dataclass(frozen=True)
class FinetuneConfig(TableSettings):
    """Settings of a finetuning, in addition to those of its table (`TableSettings`).

    Attributes:
        loop: epochs, rates, batch size, seed of the training.
        student: architecture with `--encoder random`; a pretrained encoder brings its own.
        regularization: dropout rates of the student.
        pooling: `mean` (+MP), `virtual_node` (+VN), or `min_max_mean_sum` as in 3DInfomax on QM9.
        head: `mlp`, `linear`, or `pna`, which belongs to the pooling `min_max_mean_sum`.
        batch_norm: `kept` keeps weights and statistics of the encoder's batch norms; `fresh` resets them, as
            3DInfomax does on QM9.
        select_by: criterion that chooses the epoch on the validation part: the `metric`, or the `loss`, which is always
            the criterion of several classes, of targets of two kinds, and of several targets of values.
        targets: train in units of the training standard deviation, or on `raw` labels.
        probe_steps: number of steps that train the head alone before the whole network; for pretrained encoders only.
        layer_decay: learning rate multiplier per layer; 0.65 in the paper, 1 = one rate for all.
        task: task of all targets; `auto` infers it from the labels of each target.
        tasks: one task for each target, in their order; none = `task` for all.
        ensemble: members with seeds `loop.seed`, `loop.seed + 1`, …; their predictions are averaged.
        hydrogens: hydrogen setting of the student's graphs; none = that of the encoder, `heavy_both` for a random one.
        units: units of the targets, in their order; empty = none given.
        class_weights: `balanced` gives the classes of a target the same total weight, however rare they are, in the
            students' loss and in the classical members except the Gaussian process.
        baselines: whether to fit the random forests that the model is compared with.
        jobs: processes for parsing and descriptors; 0 = one per processor.
        blend: classical members beside the students.
        loss: loss for values in the students' training: `l1`, `huber` or `mse`; none = `l1`, as in D&D.
        metric: metric that the blend optimises: `mae`, `rmse` or `spearman` for values, `auroc` or `auprc` for classes;
            none = the squared error and the log loss.
        transform: transform of skewed values before fitting: `log`, `yeo-johnson`, or `auto`, which depends on the
            training labels (see `choose_transforms`); none = values as they are.
        replicates: rows of one molecule: `keep` them, or use their `mean`, `median` or `geometric-mean`.
    """

    loop: LoopConfig = field(default_factory=LoopConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    regularization: Regularization = field(default_factory=Regularization)
    pooling: Pooling = "mean"
    head: HeadName = "mlp"
    batch_norm: Literal["kept", "fresh"] = "kept"
    select_by: Literal["metric", "loss"] = "metric"
    targets: Literal["standardised", "raw"] = "standardised"
    probe_steps: int = 0
    layer_decay: float = 0.65
    task: TaskChoice = "auto"
    ensemble: int = 1
    hydrogens: HydrogenSetting | None = None
    units: tuple[str, ...] = ()
    class_weights: Literal["none", "balanced"] = "none"
    baselines: bool = True
    jobs: int = 0
    tasks: tuple[TaskChoice, ...] | None = None
    blend: BlendConfig = field(default_factory=BlendConfig)
    loss: ValueLoss | None = None
    metric: Metric | None = None
    transform: TransformChoice | None = None
    replicates: Aggregation = "keep"

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        super().__post_init__()
        if self.ensemble < 1:
            raise ConfigError("ensemble must be at least 1", found=self.ensemble)
        if self.probe_steps < 0:
            raise ConfigError("probe_steps must be at least 0", found=self.probe_steps)
        if not 0 < self.layer_decay <= 1:
            raise ConfigError("layer_decay is out of range", found=self.layer_decay, expected="above 0, up to 1")
        if self.batch_norm == "fresh" and self.probe_steps:
            raise ConfigError(
                "probe_steps can't be combined with fresh batch norms, which change the representations",
                found=f"batch_norm=fresh, probe_steps={self.probe_steps}",
                next_step="Use probe_steps=0",
            )
        if self.targets == "raw" and self.transform in ("log", "yeo-johnson"):
            raise ConfigError("targets=raw can't be combined with a transform", found=f"transform={self.transform}")


def finetune_config(recipe: str | Path, words: Sequence[str]) -> FinetuneConfig:
    """The settings of a finetuning; those that nothing would come of are refused.

    Such are settings of a student's training where no student is trained, of a blend where there is none, and of parts
    that the split does not draw.

    Args:
        recipe: see `load_config`.
        words: `key=value`, on top of the recipe.

    Raises:
        ConfigError: as `load_config`; a setting that nothing would come of.
    """
    config = load_config(FinetuneConfig, recipe, words, stage="finetune")
    made = Made(config.blend.students, bool(config.blend.classical), config.split)
    refuse_unused(recipe, words, made)
    return config
