"""`--level auto`: distil both at the level of atoms and of molecules, finetune both briefly, keep the better encoder.

Source: D&D leaves open when GRAPH is better and when NODE (its open question 3), and no rule is known; so the data at
hand decides. Only the validation part is used. The test part of the same split stays unseen, so that a model
finetuned from the kept encoder can still be judged by it.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from dnd.common.config import load_config, to_dict
from dnd.common.errors import ConfigError
from dnd.common.files import replacing, sha256_file
from dnd.common.log import LOGGER, RESULT, muted
from dnd.common.model_folder import FORMAT_VERSION, read_model
from dnd.common.runs import already_finished, begin_or_go_on, drop_scaffolding, require_same_run
from dnd.finetuning.finetune import check_before_training, finetune
from dnd.finetuning.labelled_data import LabelledFile
from dnd.finetuning.settings import FinetuneConfig, finetune_config
from dnd.finetuning.splits import has_folds
from dnd.models.students.encoders import load_encoder, load_limits, save_encoder
from dnd.models.teachers.teachers import load_teacher
from dnd.predictor.metrics import LARGER_IS_BETTER
from dnd.pretraining.distill import distill
from dnd.pretraining.distill_terms import require_suitable
from dnd.pretraining.encoder_folder import HOLDOUT, KIND
from dnd.pretraining.settings import DistillConfig
from dnd.pretraining.teacher_outputs import weights_digest
from dnd.store.reader import Store
from dnd.training.distributed import num_ranks, run_lock

BRIEF_RECIPE = "finetune-brief"
LEVELS: tuple[Literal["node"], Literal["graph"]] = ("node", "graph")
LOSS = "loss"
WORK = "levels"
CONFIDENCE = 0.95
_PREFIX = "finetune."


@dataclass(frozen=True)
class ChoiceConfig:
    """Settings of the choice between the levels.

    Attributes:
        finetune: the brief finetuning; its `loop.seed` is the first seed.
        seeds: finetunings of each level; two or more, or no interval could be given.
    """

    finetune: FinetuneConfig = field(default_factory=lambda: load_config(FinetuneConfig, BRIEF_RECIPE))
    seeds: int = 3

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        if self.seeds < 2:
            raise ConfigError("too few seeds to tell a difference from chance", found=self.seeds, expected="2 or more")
        if self.finetune.blend.classical:
            raise ConfigError(
                "the choice between levels compares students alone",
                found=f"finetune.blend.classical={','.join(self.finetune.blend.classical)}",
                next_step="Leave it out",
            )
        if has_folds(self.finetune.split) or self.finetune.ensemble > 1:
            raise ConfigError(
                "the choice between levels needs one partition and one member", next_step="Leave out kfold and ensemble"
            )


def choice_config(overrides: Sequence[str]) -> ChoiceConfig:
    """The recipe `finetune-brief` with `finetune.key=value` and `seeds=n` words on top."""
    own = [word for word in overrides if not word.startswith(_PREFIX)]
    words = [word.removeprefix(_PREFIX) for word in overrides if word.startswith(_PREFIX)]
    brief = finetune_config(BRIEF_RECIPE, words)
    return replace(load_config(ChoiceConfig, None, own), finetune=brief)


@dataclass(frozen=True)
class LevelChoice:
    """What the validation part said about the two levels.

    Attributes:
        metric: metric on the validation part, at the best epoch.
        seeds: random seeds of the finetunings.
        scores: per level one value per seed.
        kept: the level with the better mean.
        margin: difference by which its mean is better.
        half_width: half-width of the 95 % interval of the margin over the seeds (paired, Student's t).
        data: name of the labelled file.
        split: name of the split.
    """

    metric: str
    seeds: tuple[int, ...]
    scores: dict[str, list[float]]
    kept: Literal["node", "graph"]
    margin: float
    half_width: float
    data: str
    split: str

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.margin > self.half_width

    def lines(self) -> list[str]:
        """The same in words."""
        found = []
        for level, values in self.scores.items():
            each = ", ".join(f"{value:.4g}" for value in values)
            found.append(f"{level}: validation {self.metric} {np.mean(values):.4g} (seeds {self._seeds()}: {each})")
        other = next(level for level in LEVELS if level != self.kept)
        interval = f"{self.margin:.3g} ± {self.half_width:.2g}, 95 % interval of {len(self.seeds)} paired seeds"
        found.append(
            f"{self.kept} is better than {other} by {interval}"
            if self.clear
            else f"no clear difference: {self.kept} is ahead of {other} by {interval}; it is kept for its mean alone"
        )
        return found

    def _seeds(self) -> str:
        return f"{self.seeds[0]} to {self.seeds[-1]}"


def distill_best_level(
    store: Store | Path | str,
    teacher: Path | str,
    out: Path | str,
    data: LabelledFile,
    config: DistillConfig | None = None,
    choice: ChoiceConfig | None = None,
    *,
    resume: bool = False,
) -> LevelChoice | None:
    """Distil at both levels, compare them on labelled molecules, and write the better encoder to `out`.

    Args:
        store: a store with conformers, or its folder.
        teacher: the TEACHER folder.
        out: the ENCODER folder.
        data: labelled molecules; `choice.finetune.split` cuts them, and only the validation part is compared.
        config: settings of both distillations; their `level` is not used.
        choice: settings of the comparison.
        resume: continue an interrupted run with the same settings.

    Returns:
        What the choice was; None when a training was stopped by `loop.stop_after_s`.

    Raises:
        InputError: see `distill` and `finetune`, said before any training; or `out` holds something else.
        ConfigError: weights of terms, which would be the same at both levels; or several processes.
    """
    config, choice, out = config or DistillConfig(), choice or ChoiceConfig(), Path(out)
    _refuse_unsuited(config)
    opened = store if isinstance(store, Store) else Store.open(store)
    network, teacher_config = load_teacher(teacher)
    require_suitable(opened, teacher_config, str(teacher))
    check_before_training([data], replace(choice.finetune, student=config.student))
    settings = _settings(opened, weights_digest(network), data, config, choice)
    if already_finished(out, kind=KIND, format_version=FORMAT_VERSION, resume=resume):
        require_same_run(out, settings)
        LOGGER.log(RESULT, f"{out} is finished already")
        record = read_model(out, kind=KIND).config["choice"]
        return LevelChoice(**{**record, "seeds": tuple(record["seeds"])})
    with run_lock(out):
        begin_or_go_on(out, settings, resume=resume)
        return _distill_both(opened, teacher, out, data, config, choice)


def _distill_both(
    store: Store,
    teacher: Path | str,
    out: Path,
    data: LabelledFile,
    config: DistillConfig,
    choice: ChoiceConfig,
) -> LevelChoice | None:
    """`distill_best_level` in a folder that is ours alone."""
    for level in LEVELS:
        LOGGER.info(f"distilling at level {level}")
        of_level = replace(config, level=level)
        if not distill(store, teacher, out / WORK / level, of_level, resume=True).finished:
            return None
    found = _compare(out / WORK, data, choice)
    if found is not None:
        for line in found.lines():
            LOGGER.log(RESULT, line)
        _seal(out, found)
    return found


def _refuse_unsuited(config: DistillConfig) -> None:
    """Refuse what the two levels can't be compared under."""
    if num_ranks() > 1:
        raise ConfigError("--level auto runs in one process", next_step="Distil each level by itself, then finetune")
    terms = asdict(config.terms)
    if any(terms[name] for name in terms if name != "task"):
        raise ConfigError(
            "weights of terms can't be combined with --level auto", found=terms, next_step="Leave terms.* out"
        )


def _settings(
    store: Store, teacher: str, data: LabelledFile, config: DistillConfig, choice: ChoiceConfig
) -> dict[str, Any]:
    """By which a resumed choice knows itself."""
    return {
        "store": store.fingerprint,
        "teacher": teacher,
        "data": {"sha256": sha256_file(Path(data.path)), "columns": list(data.target_columns)},
        "distill": {**to_dict(config), "level": "auto"},
        "choice": to_dict(choice),
    }


def choose(
    metric: str, scores: dict[str, list[float]], seeds: Sequence[int], *, data: str = "", split: str = ""
) -> LevelChoice:
    r"""The level with the better mean, and whether the seeds tell it from chance.

    .. math:: \bar d \pm t_{0.975,\,n-1} \frac{s_d}{\sqrt n}, \qquad d_i = \pm (y^\text{node}_i - y^\text{graph}_i)

    Args:
        metric: metric of the validation part.
        scores: per level one value per seed.
        seeds: random seeds of the values.
        data: name of the labelled file.
        split: name of the split.
    """
    sign = 1.0 if metric in LARGER_IS_BETTER else -1.0
    gains = sign * (np.array(scores["node"]) - np.array(scores["graph"]))
    mean, count = float(gains.mean()), len(gains)
    half_width = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * gains.std(ddof=1) / math.sqrt(count))
    kept: Literal["node", "graph"] = "node" if mean >= 0 else "graph"
    return LevelChoice(metric, tuple(seeds), scores, kept, abs(mean), half_width, data, split)


def _compare(work: Path, data: LabelledFile, choice: ChoiceConfig) -> LevelChoice | None:
    """Finetune from both encoders with each seed; the same seed gives both the same head and the same batches."""
    first = choice.finetune.loop.seed
    seeds = range(first, first + choice.seeds)
    metrics: dict[str, list[dict[str, Any]]] = {level: [] for level in LEVELS}
    for seed in seeds:
        for level in LEVELS:
            LOGGER.info(f"finetuning briefly from {level}, seed {seed}")
            with muted(progress=False):
                summary = finetune(
                    data.path,
                    work / f"{level}-seed-{seed}",
                    data.target_columns,
                    replace(choice.finetune, loop=replace(choice.finetune.loop, seed=seed)),
                    smiles_column=data.smiles_column,
                    encoder=work / level,
                    resume=True,
                )
            if not summary.finished:
                return None
            metrics[level].append(summary.metrics)
    every = [one for of_level in metrics.values() for one in of_level]
    metric = every[0]["metric"]
    if every[0]["per_target"] or any(one["parts"]["valid"][metric] is None for one in every):
        metric = LOSS  # a mean over kinds and units would say nothing, and an undefined metric nothing at all
    scores = {level: [_valid(one, metric) for one in of_level] for level, of_level in metrics.items()}
    return choose(metric, scores, seeds, data=Path(data.path).name, split=choice.finetune.split)


def _valid(metrics: dict[str, Any], metric: str) -> float:
    if metric == LOSS:
        return float(metrics["members"][0]["best_epoch"]["valid_loss"])
    return float(metrics["parts"]["valid"][metric])


def _seal(out: Path, found: LevelChoice) -> None:
    """The kept encoder becomes that of `out`, with the choice in its card and its configuration."""
    source = out / WORK / found.kept
    student, config = load_encoder(source)
    for name in (HOLDOUT, "metrics.jsonl"):
        with replacing(out / name) as path:
            shutil.copyfile(source / name, path)
    lines = "\n".join(f"- {line}" for line in found.lines())
    card = f"""{(source / "card.md").read_text(encoding="utf-8").rstrip()}

## Why level {found.kept}

Both levels were distilled and finetuned briefly on `{found.data}` (split `{found.split}`). Only the validation part was
compared; its epochs were selected on the same part, so the scores flatter both levels alike.

{lines}
"""
    save_encoder(out, student, {**config, "choice": asdict(found)}, card, limits=load_limits(source))
    drop_scaffolding(out)
