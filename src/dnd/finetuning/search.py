"""`dnd finetune --search N`: a few settings of the training chosen by Optuna, by the validation part alone.

Each trial is a finetuning of one student on the same split; only its validation score is used. The search is kept in
`search.jsonl` of the MODEL folder, a sealed line per finished trial, so that it can be resumed: an unfinished trial
continues from its checkpoint. The result is in `search.json`. Trial k is proposed by a sampler whose seed is a function
of the run's seed and k, so an interrupted search and a whole one make the same proposals.

Source: Bergstra et al., "Algorithms for Hyper-Parameter Optimization" (NIPS 2011), as Optuna's `TPESampler` has it.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnd.common.compute import derive_seed
from dnd.common.config import from_dict, to_dict
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import write_bytes
from dnd.common.log import LOGGER
from dnd.common.runs import append_line, lines_of, read_lines, read_record, write_record
from dnd.finetuning.settings import Clock, FinetuneConfig
from dnd.finetuning.splits import has_folds
from dnd.finetuning.students import Plan, objective_of, seconds_per_epoch
from dnd.models.students.encoders import RANDOM
from dnd.predictor.metrics import LARGER_IS_BETTER
from dnd.training.loop import train

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

JOURNAL, TRIALS, RESULT = "search.jsonl", "search", "search.json"
_SHARE = 0.5  # of a time limit
_FEWEST_RANDOM = 5  # trials before the sampler learns from the others


@dataclass(frozen=True)
class Score:
    """What a trial says of itself.

    Attributes:
        metric: that chose the epoch, such as `valid_rmse`.
        value: value of the best epoch.
        epoch_scores: all validation scores of that epoch.
        seconds: duration of the training.
    """

    metric: str
    value: float
    epoch_scores: dict[str, float]
    seconds: float


Run = Callable[[FinetuneConfig, Path], Score | None]


def search_settings(
    config: FinetuneConfig,
    trials: int,
    out: Path,
    run: Run,
    *,
    digest: str,
    seconds: float = math.inf,
    encoder: str = RANDOM,
) -> tuple[FinetuneConfig, dict[str, Any]] | None:
    """The settings with the best validation score, and the record of all trials for `metrics.json`.

    The first trial is `config` as it is, so that the search never ends behind it on the validation part.

    Args:
        config: what is not searched.
        trials: N, finished ones of an earlier call included.
        out: the MODEL folder; not sealed yet.
        run: trains one student and scores it; None when its own time limit stopped it.
        digest: of data and encoder, by which a resumed search recognises its trials.
        seconds: no trial is started that would end after them, by the longest so far; the first one always is.
        encoder: what the trials start from.

    Returns:
        None when a trial was stopped, to be gone on with.

    Raises:
        ConfigError: Optuna is missing, a split with folds, or no trial at all.
        InputError: the folder holds the search of other data or settings, or from another encoder.
    """
    _require_possible(config, trials)
    started, longest, study = time.monotonic(), 0.0, _study(out, config, digest, encoder)
    for number in range(len(_finished(study)), trials):
        if number and time.monotonic() - started + longest > seconds:
            LOGGER.info(f"search: time is up after {number} of {trials} trials")
            break
        trial = _proposed(study, number, config, encoder)
        score = run(_with(config, trial.params), out / TRIALS / f"trial-{number:03d}")
        if score is None:
            return None
        longest = max(longest, score.seconds)
        trial.set_user_attr("score", asdict(score))
        value = -score.value if _larger_is_better(score.metric) else score.value
        study.tell(trial.number, value)
        append_line(out / JOURNAL, {"trial": number, "settings": trial.params, "value": value, "score": asdict(score)})
        shutil.rmtree(out / TRIALS / f"trial-{number:03d}", ignore_errors=True)
        LOGGER.info(
            f"search, trial {number + 1} of {trials}: {score.metric} {score.value:.4g} with {_words(trial.params)}"
        )
    record = _record(study)
    best = record["trials"][record["best"]]
    LOGGER.info(f"search: trial {record['best'] + 1} is the best, {record['metric']} {best['value']:.4g}")
    shutil.rmtree(out / TRIALS, ignore_errors=True)
    return _with(config, best["settings"]), record


def searched(plan: Plan, trials: int, out: Path, clock: Clock) -> Plan | None:
    """The plan with the settings that a search chose, and its record; None when `loop.stop_after_s` stopped a trial.

    A search that ended is not repeated: its result is read.

    Raises:
        ConfigError, InputError: see `search_settings`.
    """
    inputs = f"{plan.record['data_digest']}, encoder {plan.record['encoder_sha256']}"
    asked = _plain({"data": inputs, "settings": to_dict(plan.config), "trials": trials})
    done = _result(out)
    if clock.is_limited and not done:
        cost = seconds_per_epoch(plan, plan.parts[0]) * plan.config.loop.epochs
        if cost > clock.share(_SHARE):
            LOGGER.info(f"plan: left out the search: a trial takes about {cost:.0f} s (time limit)")
            return plan
    if done.get("asked") == asked:
        config, record = (
            _with(plan.config, done["search"]["trials"][done["search"]["best"]]["settings"]),
            done["search"],
        )
        LOGGER.info(f"search: done already, trial {record['best'] + 1} of {len(record['trials'])} is the best")
    else:
        found = search_settings(
            plan.config,
            trials,
            out,
            trial_runner(plan),
            digest=inputs,
            seconds=clock.share(_SHARE),
            encoder=plan.encoder,
        )
        if found is None:
            return None
        config, record = found
        write_record(out / RESULT, {"asked": asked, "search": record})
    return replace(plan, config=config, record={**plan.record, "settings": to_dict(config), "search": record})


def _result(out: Path) -> dict[str, Any]:
    """What a search that ended found; nothing where there was none, or where what it wrote is damaged."""
    try:
        return read_record(out / RESULT) if (out / RESULT).is_file() else {}
    except CorruptFileError as error:
        LOGGER.info(f"search: the result is read from the trials again, because {error}")
        return {}


def trial_runner(plan: Plan) -> Run:
    """A trial as one finetuning of `plan`: its first seed, its only partition."""

    def run(config: FinetuneConfig, folder: Path) -> Score | None:
        own = replace(plan, config=config, record={**plan.record, "settings": to_dict(config)})
        seed = config.loop.seed
        objective = objective_of(own, seed, plan.parts[0])
        result = train(
            objective,
            objective.loop,
            folder,
            resume=True,
            settings=own.settings_of(seed, 0),
            title=f"search, {folder.name}",
        )
        if not result.finished:
            return None
        metric = objective.best_metric or "valid_loss"
        scores = {name: value for name, value in result.best.items() if name.startswith("valid_")}
        return Score(metric, scores[metric], scores, round(result.seconds, 1))

    return run


def _require_possible(config: FinetuneConfig, trials: int) -> None:
    if trials < 1:
        raise ConfigError("--search needs a number of trials", found=trials, expected="1 or more")
    if config.blend.classical and not config.blend.students:
        raise ConfigError("--search is for the settings of students", next_step="Use --recipe best or small")
    if has_folds(config.split):
        raise ConfigError(
            "--search needs one split: the validation part of a fold is the test part of another",
            found=f"split={config.split}",
            next_step="Search with --split scaffold, then run the folds with the settings that it found",
        )
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise ConfigError("--search needs Optuna", next_step="Install it: pip install 'dnd-mol[search]'") from error


def _study(out: Path, config: FinetuneConfig, digest: str, encoder: str) -> Study:
    """A study in memory with the trials of `search.jsonl` up to the first that is missing or damaged.

    A line has its own checksum: a flipped bit must not become another score, on which all later proposals depend.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    asked = _plain({"data": digest, "settings": to_dict(config)})
    records, damaged = read_lines(out / JOURNAL)
    first = records[0] if records else {}
    if first.get("asked", asked) != asked:
        raise InputError(
            f"{out} contains a search with other data or settings, or from another encoder",
            next_step="Use those it was started with, or another folder",
        )
    trials = records[1:] if "asked" in first else []
    sound = [record for number, record in enumerate(trials) if record.get("trial") == number]
    if damaged or len(sound) < len(records) - 1 or (records and "asked" not in first):
        LOGGER.info(f"search: {out / JOURNAL} is damaged; trials from {len(sound) + 1} on are run again")
    study = optuna.create_study()
    for record in sound:
        study.add_trial(
            optuna.trial.create_trial(
                params=record["settings"], distributions=_space(config, encoder), value=record["value"],
                user_attrs={"score": record["score"]},
            )
        )  # fmt: skip
    write_bytes(out / JOURNAL, lines_of([{"asked": asked}, *sound]))
    return study


def _finished(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.value is not None]


def _proposed(study: Study, number: int, config: FinetuneConfig, encoder: str) -> Trial:
    """The next trial, a function of the finished ones, the seed and its number."""
    import optuna

    seed = derive_seed(config.loop.seed, "search", number) % 2**32
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_FEWEST_RANDOM)
    if number == 0:
        study.enqueue_trial(_now(config, encoder))
    return study.ask(_space(config, encoder))


def _space(config: FinetuneConfig, encoder: str) -> dict[str, BaseDistribution]:
    """What is searched."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    rate, epochs = config.loop.learning_rate, config.loop.epochs
    return {
        "loop.learning_rate": FloatDistribution(rate / 5, rate * 5, log=True),
        "layer_decay": FloatDistribution(min(0.6, config.layer_decay), 1.0),
        "regularization.dropout": CategoricalDistribution(sorted({0.0, 0.1, 0.2, 0.3, _dropout(config, encoder)})),
        "head": CategoricalDistribution(["mlp", "linear", *({config.head} - {"mlp", "linear"})]),
        "loop.batch_size": CategoricalDistribution(sorted({16, 32, 64, 128, config.loop.batch_size})),
        "loop.epochs": IntDistribution(max(1, epochs // 2), 2 * epochs),
    }


def _now(config: FinetuneConfig, encoder: str) -> dict[str, Any]:
    """The settings as they are, which the first trial tries."""
    return {
        "loop.learning_rate": config.loop.learning_rate,
        "layer_decay": config.layer_decay,
        "regularization.dropout": _dropout(config, encoder),
        "head": config.head,
        "loop.batch_size": config.loop.batch_size,
        "loop.epochs": config.loop.epochs,
    }


def _dropout(config: FinetuneConfig, encoder: str) -> float:
    """The dropout of a run with these settings; a pretrained student has none where none is given."""
    given = config.regularization.dropout
    if given is not None:
        return given
    return config.student.dropout if encoder == RANDOM else 0.0


def _with(config: FinetuneConfig, settings: Mapping[str, Any]) -> FinetuneConfig:
    """`config` with single settings by their dotted names."""
    values = to_dict(config)
    for name, value in settings.items():
        *tables, last = name.split(".")
        table = values
        for word in tables:
            table = table[word]
        table[last] = value
    return from_dict(FinetuneConfig, values)


def _record(study: Study) -> dict[str, Any]:
    """What `metrics.json` says of the search."""
    trials = _finished(study)
    scores = [trial.user_attrs["score"] for trial in trials]
    metric: str = scores[0]["metric"]
    larger = _larger_is_better(metric)
    values = [score["value"] for score in scores]
    return {
        "metric": metric,
        "larger_is_better": larger,
        "best": values.index(max(values) if larger else min(values)),
        "chosen_by": "the validation part; no test label was looked at",
        "trials": [{"settings": dict(trial.params), **score} for trial, score in zip(trials, scores, strict=True)],
    }


def _larger_is_better(metric: str) -> bool:
    return metric.removeprefix("valid_") in LARGER_IS_BETTER


def _words(settings: Mapping[str, Any]) -> str:
    return " ".join(
        f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in settings.items()
    )


def _plain(values: Any) -> Any:
    """As JSON hands it back."""
    return json.loads(json.dumps(values))
