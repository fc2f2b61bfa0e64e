"""`report.html` of a MODEL folder: what went in, what came out, where it errs, and how it was made."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.errors import DndError
from dnd.common.files import folder_lock, read_json, read_manifest, write_manifest
from dnd.common.model_folder import FORMAT_VERSION
from dnd.common.runs import read_record
from dnd.finetuning.splits import PARTS
from dnd.finetuning.unused_settings import Made, is_unused
from dnd.finetuning.verdict import METRIC_WORDS
from dnd.predictor.metrics import significant
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import IN_DOMAIN, PredictionTable
from dnd.predictor.targets import TaskKind
from dnd.report.html import Code, Figure, Report, Section, Table, Text, write_report
from dnd.report.model_metrics import (
    ModelFiles,
    confusion_sections,
    metric_sections,
    read_model_files,
    search_sections,
    verdict_sections,
    worst_sections,
)
from dnd.report.plots import CLASSES, calibration_plot, label_histogram, parity_plot, roc_plot
from dnd.tables.writers import csv_rows
from dnd.training.logs import LOG, read_log

# Parts of a model's report that are words and tables only: who is in the blend, how sure, and for what molecules.


_NOTE = "Weights were fitted out of fold over scaffold folds; means over targets and partitions."


def blend_sections(metrics: Mapping[str, Any]) -> list[Section]:
    """A table of the members with their weights, and what was left out; nothing for a model without a blend."""
    if "blend" not in metrics:
        return []
    parts = metrics["blend"]
    rows: list[list[object]] = []
    for name in dict.fromkeys(name for part in parts for name in part["members"]):
        own = [part["members"][name] for part in parts if name in part["members"]]
        weight = sum(float(np.mean(one["weights"])) for one in own) / len(parts)
        alone = metrics.get("alone", {}).get(name, {}).get("parts", {}).get("test", {}).get(metrics["metric"])
        rows.append([name.replace("_", " "), weight, alone, sum(one["seconds"] for one in own)])
    rows.sort(key=lambda row: -float(str(row[1])))
    left_out = dict.fromkeys(line for part in parts for line in part["left_out"])
    note = _NOTE + (f" Left out: {'; '.join(left_out)}." if left_out else "")
    metric = METRIC_WORDS.get(metrics["metric"], metrics["metric"])
    columns = ["member", "weight", f"test {metric} alone", "seconds"]
    return [Table(columns, rows, title="Members of the blend", note=note), *_leaderboards(metrics)]


def _leaderboards(metrics: Mapping[str, Any]) -> list[Section]:
    """Each member alone, and how far the blend is from it; older models do not record it."""
    found: list[Section] = []
    for one in metrics.get("leaderboard", [])[:LIMIT_DRAWN_TARGETS]:
        metric = METRIC_WORDS[one["metric"]]
        rows: list[list[object]] = []
        for member in one["members"]:
            low, high = member["difference"]["low"], member["difference"]["high"]
            interval = None if low is None else f"{significant(low)} to {significant(high)}"
            name = str(member["member"]).replace("_", " ")
            rows.append([name, member["value"], member["difference"]["value"], interval])
        title = f"Members alone: {one['target']}" if one["target"] else "Members alone"
        note = f"On {one['molecules']} test molecules. The difference is the blend's {metric} minus the member's."
        columns = ["member", f"test {metric}", "difference", "95 % interval"]
        found += [Table(columns, rows, title=title, note=note)] if rows else []
    return found


def trust_sections(folder: Path) -> list[Section]:
    """How sure the model is and where it may be used, as far as it was stored with it."""
    found: list[Section] = []
    for name, title in (("calibration.json", "Uncertainty"), ("domain.json", "Applicability domain")):
        if (folder / name).is_file():
            found.append(Text("\n\n".join(read_json(folder / name)["sentences"]), title=title))
    return found


# `report.html` of a MODEL folder: what went in, what came out, where it errs, and how it was made.


REPORT = "report.html"
LIMIT_DRAWN_TARGETS = 4
LIMIT_DUPLICATES = 20
LIMIT_REASON = 150  # characters of why a row was left out
LIMIT_ANSWERS = 2_000  # test molecules that the model is asked about again, for their intervals
_HAPPENED = {
    "merged": "rows merged into another row of their molecule",
    "in_no_part": "rows in no part of the split, which are not used",
    "not_drawn": "rows beyond the most that are learned, left out at random",
    "censored_labels": "labels that are limits, such as >10",
    "standardized": "rows changed to their largest organic part, neutral",
}
_PART_WORDS = {"train": "training", "valid": "validation"}
_Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def write_model_report(folder: Path | str) -> Path:
    """Write `report.html` into a MODEL folder and seal the folder again with it.

    Everything in it comes from the folder's own files, so a report can be drawn again at any time and is the same.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged, in use, or no finished model.
    """
    model = read_model_files(Path(folder))
    with folder_lock(model.folder):
        return _write_report(model)


def write_missing_report(folder: Path | str) -> Path | None:
    """`write_model_report` unless the folder is sealed with a report, which a kill may have come before or within.

    Raises:
        InputError, CorruptFileError: see `write_model_report`.
    """
    return None if REPORT in read_manifest(Path(folder))["files"] else write_model_report(folder)


def _write_report(model: ModelFiles) -> Path:
    sections: list[Section] = [
        *verdict_sections(model),
        *metric_sections(model),
        *blend_sections(model.metrics),
        *confusion_sections(model),
        *_class_plots(model),
        *_value_plots(model),
        *_label_plots(model),
        *trust_sections(model.folder),
        *_audit(model),
        *worst_sections(model),
        *search_sections(model),
        *_curves(model),
        *_making(model),
    ]
    title = "Predictor of " + ", ".join(model.names[:3]) + (" …" if len(model.names) > 3 else "")
    path = write_report(model.folder / REPORT, Report(title, sections, f"Task: {model.metrics['task_reason']}."))
    write_manifest(model.folder, kind=KIND, format_version=FORMAT_VERSION)
    return path


def _class_plots(model: ModelFiles) -> list[Section]:
    every = {**_pairs(model, "classification"), **_class_pairs(model)}
    pairs = {name: pair for name, pair in every.items() if len(np.unique(pair[0])) == 2}
    if not pairs:
        return []
    drawn, cut = _first(pairs)
    words = _two_classes(model, list(drawn))
    points = f"Points on the dotted line are calibrated; their size is the number of molecules.{cut}"
    return [
        Figure(roc_plot(drawn, words), title="ROC, test part", caption=f"The dotted line is chance.{cut}"),
        Figure(calibration_plot(drawn, words[1]), title="Calibration, test part", caption=points),
    ]


def _two_classes(model: ModelFiles, drawn: Sequence[str]) -> tuple[str, str]:
    """How the axes call the classes 0 and 1: as the user does where all curves have the same two."""
    of = {target["name"]: tuple(target.get("class_names") or ()) for target in model.metrics["targets"]}
    if not any(name in of for name in drawn):
        return "the rest", "the class"  # each class of several against the others
    found = {of.get(name, ()) for name in drawn}
    words = found.pop() if len(found) == 1 else ()
    return (words[0], words[1]) if words else CLASSES


def _value_plots(model: ModelFiles) -> list[Section]:
    drawn, cut = _first(_pairs(model, "regression"))
    units = {target["name"]: target["unit"] for target in model.metrics["targets"]}
    logarithmic = {name: own.name == "log" for name, own in zip(model.names, model.transforms(), strict=True)}
    answers = _answers(model) if drawn else None
    found: list[Section] = []
    for name, (labels, predictions) in drawn.items():
        known_B = ~np.isnan(model.labels_BC[:, model.names.index(name)])
        ends_2B, outside_B = _interval(answers, name, known_B), _outside(answers, known_B)
        said = [f"{len(labels)} molecules; on the dotted line prediction and measurement are equal."]
        said += ["Bars are the intervals."] if ends_2B is not None else []
        said += ["Squares are outside the domain."] if outside_B is not None and outside_B.any() else []
        plot = parity_plot(
            labels, {name: predictions}, unit=units[name], logarithmic=logarithmic[name],
            ends_2B=ends_2B, outside_B=outside_B,
        )  # fmt: skip
        title = f"Test part: {name}" if len(model.names) > 1 else "Test part"
        found.append(Figure(plot, title=title, caption=" ".join(said) + cut))
    return found


def _answers(model: ModelFiles) -> PredictionTable | None:
    """The model's predictions for its test molecules; None if it was fitted on some of them, or can't be opened."""
    if "folds" in model.metrics or len(model.smiles) > LIMIT_ANSWERS or model.predictor is None:
        return None
    try:
        return model.predictor.predict(model.smiles)
    except DndError:
        return None


def _interval(answers: PredictionTable | None, name: str, known_B: np.ndarray) -> np.ndarray | None:
    if answers is None or f"{name}_low" not in answers:
        return None
    return np.stack([np.asarray(answers[f"{name}_{end}"], dtype=float)[known_B] for end in ("low", "high")])


def _outside(answers: PredictionTable | None, known_B: np.ndarray) -> np.ndarray | None:
    if answers is None or IN_DOMAIN not in answers:
        return None
    outside_B: np.ndarray = np.array([word == "no" for word in answers[IN_DOMAIN]])
    return np.asarray(outside_B[known_B])


def _label_plots(model: ModelFiles) -> list[Section]:
    """How the labels are distributed; older models do not record it."""
    logarithmic = {name: own.name == "log" for name, own in zip(model.names, model.transforms(), strict=True)}
    units = {target["name"]: target["unit"] for target in model.metrics["targets"]}
    found: list[Section] = []
    for one in model.metrics.get("label_counts", [])[:LIMIT_DRAWN_TARGETS]:
        name = one["target"]
        counts = {_PART_WORDS.get(part, part): own for part, own in one["counts"].items()}
        plot = label_histogram(one["edges"], counts, unit=units[name], logarithmic=logarithmic[name])
        title = f"Labels: {name}" if len(model.names) > 1 else "Labels"
        found.append(Figure(plot, title=title, caption="Limits and missing labels are not counted."))
    return found


def _pairs(model: ModelFiles, kind: TaskKind) -> _Pairs:
    """Known labels and their predictions by target, for the targets of a kind that have any."""
    found: _Pairs = {}
    for column in model.columns_of(kind):
        known_B = ~np.isnan(model.labels_BC[:, column])
        if known_B.any():
            found[model.names[column]] = (model.labels_BC[known_B, column], model.predictions_BC[known_B, column])
    return found


def _class_pairs(model: ModelFiles) -> _Pairs:
    """Each class of a target of several against the rest."""
    found: _Pairs = {}
    for name, own in model.classes.items():
        known_B = ~np.isnan(own.labels_BK).any(axis=1)
        for place, one in enumerate(own.classes):
            title = one if len(model.classes) == 1 else f"{name}: {one}"
            found[title] = (own.labels_BK[known_B, place], own.probabilities_BK[known_B, place])
    return found


def _first(pairs: _Pairs) -> tuple[_Pairs, str]:
    drawn = dict(list(pairs.items())[:LIMIT_DRAWN_TARGETS])
    return drawn, f" The first {len(drawn)} of {len(pairs)} targets." if len(drawn) < len(pairs) else ""


def _audit(model: ModelFiles) -> list[Section]:
    counts, metrics = model.metrics["counts"], model.metrics
    facts: list[list[object]] = [
        ["rows of the table", counts["rows"]],
        ["molecules used", counts["molecules"]],
        ["rows left out", counts["rejected"]],
        ["labels", counts["labels"]],
        *([label, counts[name]] for name, label in _HAPPENED.items() if name in counts),
        ["split", metrics["split"]],
        *(
            [f"molecules of the {_PART_WORDS.get(part, part)} part", metrics["parts"][part]["molecules"]]
            for part in PARTS
        ),
        ["molecules in more than one part", metrics["duplicates_across_parts"]],
        ["of them in training and test", metrics.get("duplicates_in_training_and_test")],
        *(
            [f"molecules measured more than once: {one['target']}", one["molecules"]]
            for one in metrics.get("replicates", ())
        ),
    ]
    found: list[Section] = [
        Table(
            ["", ""],
            facts,
            title="Data and split",
            note="Which row is in which part: splits.json, where rows count from 0.",
        )
    ]
    if metrics.get("notes"):
        found.append(Text("\n\n".join(f"{note}." for note in metrics["notes"]), title="How the labels were read"))
    found += _duplicates(model)
    reasons = Counter(_shortened(row["reason"]) for row in csv_rows(model.folder / "rejects.csv"))
    if reasons:
        rows = [[reason, count] for reason, count in reasons.most_common(10)]
        found.append(Table(["reason", "rows"], rows, title="Why rows were left out", note="All: rejects.csv."))
    return found


def _shortened(reason: str) -> str:
    return reason if len(reason) <= LIMIT_REASON else f"{reason[: LIMIT_REASON - 1]}…"


def _duplicates(model: ModelFiles) -> list[Section]:
    """Molecules that are in more than one part, whatever their spelling."""
    listed = model.metrics.get("duplicates", [])
    if not listed:
        return []
    rows: list[list[object]] = [
        [
            one["smiles"],
            *(", ".join(str(model.place_of(row)) for row in one["rows"].get(part, [])[:5]) for part in PARTS),
        ]
        for one in listed
    ]
    note = "Row numbers of the table. A molecule that was trained on makes the test easier than it looks."
    columns = ["molecule", "training", "validation", "test"]
    return [Table(columns, rows[:LIMIT_DUPLICATES], title="Molecules in more than one part", note=note)]


def _curves(model: ModelFiles) -> list[Section]:
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
    from dnd.report.figures import loss_curves  # Matplotlib, which a model without a training does not need

    best = ", ".join(str(member["best_step"]) for member in model.metrics["members"][:LIMIT_DRAWN_TARGETS])
    return [Figure(loss_curves(curves), title="Training", caption=f"The weights are those of step {best}.")]


def _making(model: ModelFiles) -> list[Section]:
    training = model.config["training"]
    run = model.runs()[0] / "run.json"
    record = read_record(run) if run.is_file() else {}
    lines = [
        f"command: {shlex.join(map(str, record['command'])) if record.get('command') else 'not recorded'}",
        f"data: {training['data']}, SHA-256 of what was read {training['data_digest'][:16]}…",
        f"encoder: {training['encoder']}",
        f"hydrogens: {model.config['hydrogens']}",
    ]
    versions = record.get("versions", {})
    environment = "\n".join(f"{name} {version}" for name, version in versions.items())
    return [
        Text("\n\n".join(lines), title="How it was made"),
        Code("\n".join(_configuration(training.get("compressed", training)["settings"])), title="Configuration"),
        Code(environment or "not recorded", title="Environment of the training"),
        Code((model.folder / "card.md").read_text(encoding="utf-8"), title="Model card"),
    ]


def _configuration(settings: Mapping[str, Any]) -> Iterator[str]:
    """The assignments without those that nothing came of, such as the epochs of a model that trained no network."""
    blend = settings.get("blend") or {}
    made = Made(blend.get("students", True), bool(blend.get("classical")), str(settings.get("split", "")))
    yield from (line for line in _assignments(settings) if not is_unused(line.partition("=")[0], made))


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
