"""Tables of a model's report: metrics beside the baselines, by target, by fold, and the trials of a search."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dnd.analysis.model_files import ModelFiles
from dnd.analysis.report import Section, Table
from dnd.common.seeds import derive_seed
from dnd.finetuning.metrics import metric_names

LIMIT_RESAMPLED_TARGETS = 12
LIMIT_FOLDS, LIMIT_TRIALS = 50, 30
RESAMPLES = 400


def metric_sections(model: ModelFiles) -> list[Section]:
    """The model beside its baselines: all targets together or one by one, and each fold."""
    metrics = model.metrics
    names = metrics["metrics"]
    systems = {"this model": metrics["parts"]}
    systems |= {name.replace("_", " "): values["parts"] for name, values in metrics["baselines"].items()}
    if metrics.get("per_target"):
        return _metrics_of_each(model, systems)
    rows = [
        [label, *(_cell(parts[part], name) for part in ("test", "valid") for name in names)]
        for label, parts in systems.items()
    ]
    columns = ["system", *(f"{part} {name}" for part in ("test", "validation") for name in names)]
    chosen = "The validation part chose the epoch"
    out_of_fold = "Validation numbers of a blend and of its members are out of fold"
    note = f"{out_of_fold if 'blend' in metrics else chosen}; the test part chose nothing."
    if "folds" in metrics:
        note += f" Mean ± half a 95 % interval over {len(metrics['folds'])} folds, corrected for their overlap."
    low, high = _interval(model)
    if low is not None and high is not None:
        main = metrics["metric"]
        note += f" 95 % bootstrap interval of this model's test {main} over molecules: {low:.4g} to {high:.4g}."
    found: list[Section] = [Table(columns, rows, title="Metrics beside the baselines", note=note, best=[0])]
    if len(model.names) > 1:
        own = metrics["parts"]["test"]["targets"]
        per_target = [[name, *(own[name][metric] for metric in names)] for name in model.names[:50]]
        cut = f"The first 50 of {len(model.names)} targets." if len(model.names) > 50 else ""
        found.append(Table(["target", *(f"test {name}" for name in names)], per_target, title="By target", note=cut))
    return [*found, *_folds(model)]


def _cell(values: Mapping[str, Any], name: str) -> object:
    value, half = values[name], values.get(f"{name}_half_width")
    return value if value is None or half is None else f"{value:.4g} ± {half:.2g}"


def _folds(model: ModelFiles) -> list[Section]:
    """The main test metric of each fold, the model beside its baselines."""
    if "folds" not in model.metrics:
        return []
    main = model.metrics["metric"]
    systems = {"this model": model.metrics["folds"]}
    systems |= {name.replace("_", " "): values["folds"] for name, values in model.metrics["baselines"].items()}
    rows = [
        [fold, *(folds[fold]["test"][main] for folds in systems.values())]
        for fold in range(len(model.metrics["folds"]))
    ]
    return [Table(["fold", *systems], rows[:LIMIT_FOLDS], title=f"Test {main} of each fold")]


def search_sections(model: ModelFiles) -> list[Section]:
    """The trials of `--search`, the best first."""
    search = model.metrics.get("search")
    if not search:
        return []
    names = list(search["trials"][0]["settings"])
    ordered = sorted(enumerate(search["trials"]), key=lambda pair: pair[1]["value"], reverse=search["larger_is_better"])
    rows = [[number + 1, trial["value"], *(trial["settings"][name] for name in names)] for number, trial in ordered]
    note = f"Chosen by {search['chosen_by']}. Trial 1 has the settings that the search started from."
    return [Table(["trial", search["metric"], *names], rows[:LIMIT_TRIALS], title="Search", note=note, best=[0])]


def _metrics_of_each(model: ModelFiles, systems: Mapping[str, Mapping[str, Any]]) -> list[Section]:
    """A table per kind of target, every target beside its own baselines."""
    found: list[Section] = []
    for kind in dict.fromkeys(model.kinds):
        metrics, names = metric_names([kind]), [model.names[column] for column in model.columns_of(kind)]
        rows = [
            [name, label, *(parts[part]["targets"][name][metric] for part in ("test", "valid") for metric in metrics)]
            for name in names[:50]
            for label, parts in systems.items()
        ]
        columns = ["target", "system", *(f"{part} {metric}" for part in ("test", "validation") for metric in metrics)]
        cut = f" The first 50 of {len(names)} targets." if len(names) > 50 else ""
        note = f"The validation loss, a mean over targets, chose the epoch.{cut}"
        found.append(Table(columns, rows, title=f"Metrics beside the baselines: {kind}", note=note))
    return found


def _interval(model: ModelFiles) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the main test metric over molecules (Efron 1979); None where it can't be had."""
    if len(model.names) > LIMIT_RESAMPLED_TARGETS or len(model.smiles) < 10 or "folds" in model.metrics:
        return None, None
    generator = np.random.default_rng(derive_seed(0, "report-bootstrap"))
    values = []
    for _ in range(RESAMPLES):
        rows = generator.integers(len(model.smiles), size=len(model.smiles))
        value = model.main_score(rows)
        values += [value] if value is not None else []
    if len(values) < RESAMPLES // 2:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
