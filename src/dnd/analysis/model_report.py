"""`report.html` of a MODEL folder: what went in, what came out, where it errs, and how it was made."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnd.analysis.figures import loss_curves, parity_plot
from dnd.analysis.model_figures import calibration_plot, roc_plot
from dnd.analysis.report import Code, Figure, Molecules, Report, Section, Table, Text, write_report
from dnd.common.files import read_json, write_manifest
from dnd.common.model_folder import FORMAT_VERSION, read_model
from dnd.common.seeds import derive_seed
from dnd.finetuning.evaluation import verdicts
from dnd.finetuning.metrics import TaskKind, metric_names, score
from dnd.finetuning.partition import PARTS
from dnd.finetuning.predictor_folder import KIND
from dnd.training.logs import LOG, read_log

REPORT = "report.html"
WORST = 8
LIMIT_DRAWN_TARGETS = 4
LIMIT_RESAMPLED_TARGETS = 12
RESAMPLES = 400
_Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class _Model:
    """What the files of a MODEL folder say."""

    folder: Path
    config: Mapping[str, Any]
    metrics: Mapping[str, Any]
    smiles: list[str]
    labels_NC: np.ndarray
    predictions_NC: np.ndarray

    @property
    def names(self) -> list[str]:
        return [target["name"] for target in self.metrics["targets"]]

    @property
    def kinds(self) -> list[TaskKind]:
        return [target.get("kind", self.metrics["task"]) for target in self.metrics["targets"]]

    def columns_of(self, kind: TaskKind) -> list[int]:
        return [column for column, own in enumerate(self.kinds) if own == kind]

    def runs(self) -> list[Path]:
        """Folders with the logs of the members, in their order."""
        count = len(self.config["members"])
        own = [self.folder / f"member-{number}" for number in range(count)]
        return [run for run in own if run.is_dir()] or [self.folder]


def write_model_report(folder: Path | str) -> Path:
    """Write `report.html` into a MODEL folder and seal the folder again with it.

    Everything in it comes from the folder's own files, so a report can be drawn again at any time and is the same.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged, or no finished model.
    """
    model = _read(Path(folder))
    sections: list[Section] = [
        Text("\n\n".join(verdicts(model.metrics)), title="What came out"),
        *_metrics(model),
        *_class_plots(model),
        *_value_plots(model),
        *_trust(model),
        *_audit(model),
        *_worst(model),
        *_curves(model),
        *_making(model),
    ]
    title = "Predictor of " + ", ".join(model.names[:3]) + (" …" if len(model.names) > 3 else "")
    path = write_report(model.folder / REPORT, Report(title, sections, f"Task: {model.metrics['task_reason']}."))
    write_manifest(model.folder, kind=KIND, format_version=FORMAT_VERSION)
    return path


def _read(folder: Path) -> _Model:
    saved = read_model(folder, kind=KIND)
    metrics = read_json(folder / "metrics.json")
    rows = _table(folder / "test_predictions.csv")
    names = [target["name"] for target in metrics["targets"]]

    def numbers(end: str) -> np.ndarray:
        return np.array([[float(row[f"{name}{end}"] or "nan") for name in names] for row in rows])

    return _Model(folder, saved.config, metrics, [row["smiles"] for row in rows], numbers(""), numbers("_pred"))


def _table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _metrics(model: _Model) -> list[Section]:
    metrics = model.metrics
    names = metrics["metrics"]
    systems = {"this model": metrics["parts"]}
    systems |= {name.replace("_", " "): values["parts"] for name, values in metrics["baselines"].items()}
    if metrics.get("per_target"):
        return _metrics_of_each(model, systems)
    rows = [
        [label, *(parts[part][name] for part in ("test", "valid") for name in names)]
        for label, parts in systems.items()
    ]
    columns = ["system", *(f"{part} {name}" for part in ("test", "validation") for name in names)]
    note = "The validation part chose the epoch; the test part chose nothing."
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
    return found


def _metrics_of_each(model: _Model, systems: Mapping[str, Mapping[str, Any]]) -> list[Section]:
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


def _interval(model: _Model) -> tuple[float | None, float | None]:
    """Percentile bootstrap of the main test metric over molecules (Efron 1979); None where it can't be had."""
    if len(model.names) > LIMIT_RESAMPLED_TARGETS or len(model.smiles) < 10 or "folds" in model.metrics:
        return None, None
    generator = np.random.default_rng(derive_seed(0, "report-bootstrap"))
    values = []
    for _ in range(RESAMPLES):
        rows = generator.integers(len(model.smiles), size=len(model.smiles))
        value = score(model.metrics["metric"], model.labels_NC[rows], model.predictions_NC[rows]).value
        values += [value] if value is not None else []
    if len(values) < RESAMPLES // 2:
        return None, None
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _class_plots(model: _Model) -> list[Section]:
    pairs = {name: pair for name, pair in _pairs(model, "classification").items() if len(np.unique(pair[0])) == 2}
    if not pairs:
        return []
    drawn, cut = _first(pairs)
    points = "Points on the dotted line are calibrated; their size is the number of molecules."
    return [
        Figure(roc_plot(drawn), title="ROC, test part", caption=f"The dotted line is chance.{cut}"),
        Figure(calibration_plot(drawn), title="Calibration, test part", caption=points + cut),
    ]


def _value_plots(model: _Model) -> list[Section]:
    drawn, cut = _first(_pairs(model, "regression"))
    units = {target["name"]: target["unit"] for target in model.metrics["targets"]}
    return [
        Figure(
            parity_plot(labels, {name: predictions}, unit=units[name]),
            title=f"Test part: {name}" if len(model.names) > 1 else "Test part",
            caption=f"{len(labels)} molecules; on the dotted line the prediction is the measurement.{cut}",
        )
        for name, (labels, predictions) in drawn.items()
    ]


def _pairs(model: _Model, kind: TaskKind) -> _Pairs:
    """Known labels and their predictions by target, for the targets of a kind that have any."""
    found: _Pairs = {}
    for column in model.columns_of(kind):
        known_N = ~np.isnan(model.labels_NC[:, column])
        if known_N.any():
            found[model.names[column]] = (model.labels_NC[known_N, column], model.predictions_NC[known_N, column])
    return found


def _first(pairs: _Pairs) -> tuple[_Pairs, str]:
    drawn = dict(list(pairs.items())[:LIMIT_DRAWN_TARGETS])
    return drawn, f" The first {len(drawn)} of {len(pairs)} targets." if len(drawn) < len(pairs) else ""


def _trust(model: _Model) -> list[Section]:
    """How sure the model is and where it may be used, as far as it was stored with it."""
    found: list[Section] = []
    for name, title in (("calibration.json", "Uncertainty"), ("domain.json", "Applicability domain")):
        if (model.folder / name).is_file():
            found.append(Text("\n\n".join(read_json(model.folder / name)["sentences"]), title=title))
    return found


def _audit(model: _Model) -> list[Section]:
    counts, metrics = model.metrics["counts"], model.metrics
    facts: list[list[object]] = [
        ["rows of the table", counts["rows"]],
        ["molecules used", counts["molecules"]],
        ["rows left out", counts["rejected"]],
        ["labels", counts["labels"]],
        ["split", metrics["split"]],
        *([f"molecules of the {part} part", metrics["parts"][part]["molecules"]] for part in PARTS),
        ["molecules in more than one part", metrics["duplicates_across_parts"]],
    ]
    found: list[Section] = [Table(["", ""], facts, title="Data and split", note="Row numbers: splits.json.")]
    reasons = Counter(row["reason"][:100] for row in _table(model.folder / "rejects.csv"))
    if reasons:
        rows = [[reason, count] for reason, count in reasons.most_common(10)]
        found.append(Table(["reason", "rows"], rows, title="Why rows were left out", note="All: rejects.csv."))
    return found


def _worst(model: _Model) -> list[Section]:
    """The largest errors; with several targets in units of each target's deviation, so that they compare."""
    errors_NC = np.abs(model.predictions_NC - model.labels_NC)
    errors_NC = errors_NC / np.array([target["std"] or 1.0 for target in model.config["targets"]])  # 1 for classes
    known = np.argwhere(~np.isnan(errors_NC))
    worst = known[np.argsort([-errors_NC[row, column] for row, column in known], kind="stable")][:WORST]
    captions = []
    for row, column in worst:
        name = f"{model.names[column]}: " if len(model.names) > 1 else ""
        label, value = model.labels_NC[row, column], model.predictions_NC[row, column]
        captions.append(f"{name}measured {label:.3g}, predicted {value:.3g}")
    smiles = [model.smiles[row] for row, _ in worst]
    return [Molecules(smiles, captions, title="Worst errors of the test part", note="All: test_predictions.csv.")]


def _curves(model: _Model) -> list[Section]:
    shown = [run for run in model.runs() if (run / LOG).is_file()][:LIMIT_DRAWN_TARGETS]
    curves: dict[str, Sequence[tuple[float, float]]] = {}
    for number, run in enumerate(shown):
        records = read_log(run / LOG)
        steps = [record for record in records if record["kind"] == "step" and record.get("loss") is not None]
        width = max(1, len(steps) // 60)
        chunks = [steps[start : start + width] for start in range(0, len(steps), width)]
        name = f", member {number}" if len(shown) > 1 else ""
        curves[f"training{name}"] = [
            (chunk[-1]["step"], float(np.mean([record["loss"] for record in chunk]))) for chunk in chunks
        ]
        held_out = [record for record in records if record["kind"] == "evaluation" and record.get("valid_loss")]
        curves[f"validation{name}"] = [(record["step"], record["valid_loss"]) for record in held_out]
    if not any(curves.values()):
        return []
    best = ", ".join(str(member["best_step"]) for member in model.metrics["members"][:LIMIT_DRAWN_TARGETS])
    return [Figure(loss_curves(curves), title="Training", caption=f"The weights are those of step {best}.")]


def _making(model: _Model) -> list[Section]:
    training = model.config["training"]
    run = model.runs()[0] / "run.json"
    record = read_json(run) if run.is_file() else {}
    lines = [
        f"command: {' '.join(map(str, record.get('command', ['not recorded'])))}",
        f"data: {training['data']}, SHA-256 of molecules and labels {training['data_digest'][:16]}…",
        f"encoder: {training['encoder']}",
        f"hydrogens: {model.config['hydrogens']}",
    ]
    versions = record.get("versions", {})
    environment = "\n".join(f"{name} {version}" for name, version in versions.items())
    return [
        Text("\n\n".join(lines), title="How it was made"),
        Code("\n".join(_assignments(training["settings"])), title="Configuration"),
        Code(environment or "not recorded", title="Environment of the training"),
        Code((model.folder / "card.md").read_text(encoding="utf-8"), title="Model card"),
    ]


def _assignments(settings: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Settings as the `key=value` words of the command line; those that are not set are left out."""
    for key, value in sorted(settings.items()):
        if isinstance(value, Mapping):
            yield from _assignments(value, f"{path}{key}.")
        elif value is not None:
            texts = [item if isinstance(item, str) else json.dumps(item) for item in _listed(value)]
            yield f"{path}{key}={','.join(texts)}"


def _listed(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else [value]
