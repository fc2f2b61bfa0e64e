"""The content of `metrics.json` and `test_predictions.csv`: parts, targets, folds, and the baselines beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.finetuning.class_labels import group_at, user_names
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.finetuning.splits import PARTS, compare_folds
from dnd.predictor.metrics import LARGER_IS_BETTER, ClassGroup, TaskKind, judge, normalised
from dnd.tables.writers import csv_text

# What `metrics.json` says: each part and target, the last epoch, the folds, and the baselines beside them.


Array = Float[np.ndarray, "molecules targets"]


def part_metrics(
    partition: Split,
    targets_NC: Array,
    predictions_NC: Array,
    kinds: Sequence[TaskKind],
    names: Sequence[str],
    groups: Sequence[ClassGroup] = (),
) -> dict[str, dict[str, Any]]:
    """Metrics of each part, all molecules of the part at once: never a mean over batches."""
    found: dict[str, dict[str, Any]] = {}
    predictions_NC = normalised(predictions_NC, groups)  # members that see one class against the rest do not sum to 1
    for part in PARTS:
        rows = getattr(partition, part)
        found[part] = {
            "molecules": len(rows),
            **judge(names, kinds, targets_NC[rows], predictions_NC[rows], groups),
        }
    return found


def comparison_table(metrics: Mapping[str, Any]) -> list[str]:
    """The model beside its baselines, test and validation part, as lines of text; with folds, mean ± half width.

    Targets that are judged one by one get a table each: a mean over several units would say nothing.
    """
    systems = {"blend" if "blend" in metrics else "finetuned student": metrics["parts"]}
    systems |= {name.replace("_", " "): values["parts"] for name, values in metrics["baselines"].items()}
    if not metrics.get("per_target"):
        return _table("", systems, metrics["metrics"])
    lines: list[str] = []
    for name, own in metrics["parts"]["test"]["targets"].items():
        of_target = {
            system: {part: parts[part]["targets"][name] for part in PARTS} for system, parts in systems.items()
        }
        lines += _table(name, of_target, list(own))
    return lines


def _table(title: str, systems: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    width = max(map(len, [title, *systems]))
    heads = [f"{part} {name}" for part in ("valid", "test") for name in names]
    cell = 18 if any(f"{names[0]}_half_width" in parts["test"] for parts in systems.values()) else 12
    cell = max(cell, *map(len, heads))
    lines = [f"{title:{width}}  " + "  ".join(f"{head:>{cell}}" for head in heads)]
    for label, parts in systems.items():
        numbers = [_number(parts[part], name) for part in ("valid", "test") for name in names]
        lines.append(f"{label:{width}}  " + "  ".join(f"{number:>{cell}}" for number in numbers))
    return lines


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """One true sentence, or one per target: is the model better on the test part than the best baseline?"""
    test = metrics["parts"]["test"]
    baselines = {name: values["parts"]["test"] for name, values in metrics["baselines"].items()}
    if not metrics.get("per_target"):
        return [_verdict(metrics["metric"], test, baselines), *_over_folds(metrics, baselines)]
    return [
        f"{name}: {_verdict(next(iter(own)), own, {base: part['targets'][name] for base, part in baselines.items()})}"
        for name, own in test["targets"].items()
    ]


def _verdict(main: str, test: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> str:
    larger_is_better = main in LARGER_IS_BETTER
    own = test[main]
    others = {name: values[main] for name, values in baselines.items()}
    known = {name: value for name, value in others.items() if value is not None}
    if own is None or not known:
        return f"The test part has no {main} to compare: too few labels or one class only."
    best = _best(known, larger_is_better)
    better = own > known[best] if larger_is_better else own < known[best]
    relation = "better than" if better else "NOT better than"
    return f"Test {main} {own:.4g}: {relation} the best baseline, {best.replace('_', ' ')} ({known[best]:.4g})."


def _best(known: Mapping[str, float], larger_is_better: bool) -> str:
    return (max if larger_is_better else min)(known, key=lambda name: known[name])


def _over_folds(metrics: Mapping[str, Any], baselines: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """With folds, one sentence: how often, and by how much, the model is better than the best baseline."""
    main = metrics["metric"]
    known = {name: values[main] for name, values in baselines.items() if values[main] is not None}
    if "folds" not in metrics or not known:
        return []
    larger_is_better = main in LARGER_IS_BETTER
    best = _best(known, larger_is_better)
    compared = compare_folds(
        metrics["folds"], metrics["baselines"][best]["folds"], main, larger_is_better=larger_is_better
    )
    if compared is None:
        return []
    better, folds, difference, half = compared
    interval = "" if half is None else f" ± {half:.2g} (95 % interval over folds, corrected for their overlap)"
    return [
        f"It is better in {better} of {folds} folds; mean difference of test {main} to that baseline "
        f"{difference:+.3g}{interval}."
    ]


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """`card.md` of a predictor."""
    targets = ", ".join(map(_target_words, metrics["targets"]))
    counts = metrics["counts"]
    encoder = config["training"]["encoder"]
    start = "random weights" if encoder == "random" else f"the encoder `{encoder}`"
    files = f" from {', '.join(metrics['files'])}" if len(metrics["files"]) > 1 else ""
    loss = "; the loss is the mean over targets, each in its own scale" if metrics.get("per_target") else ""
    table = "\n".join(comparison_table(metrics))
    data = f"{counts['molecules']} molecules of {counts['rows']} rows{files}"
    return f"""# Predictor of {targets}

- Task: {metrics["task_reason"]}{loss}.
- Made {_made_of(config, start)}.
- Data: {data}; {counts["rejected"]} left out, see `rejects.csv`.
- Split: {metrics["split"]}{"; weights of the best validation epoch" if config["members"] else ""}.
- {metrics["duplicates_across_parts"]} molecule(s) occur in more than one part, \
{metrics["duplicates_in_training_and_test"]} of them in training and test.
- {" ".join(verdicts(metrics))}

```
{table}
```

Input: SMILES without conformers; every spelling of a molecule gives the same prediction.
Hydrogens: `{config["hydrogens"]}`.
Predictions for molecules unlike the training molecules are extrapolations; `dnd predict` marks them in `in_domain`.
"""


def _made_of(config: Mapping[str, Any], start: str) -> str:
    networks = config["members"]
    named = f"{len(networks)} student(s) ({networks[0]['student']['name']}) from {start}" if networks else ""
    made = f"by finetuning {named}" if networks else ""
    if "blend" not in config:
        return made
    names = dict.fromkeys(member["name"] for member in config["blend"]["classical"])
    features = ", ".join(config["blend"]["features"])
    classical = f"classical models ({', '.join(names)}) on {features}" if names else ""
    weights = "; the weights of the members were fitted out of fold, over scaffold folds"
    return " and ".join(part for part in (made, f"of {classical}" if classical else "") if part) + weights


def _target_words(target: Mapping[str, Any]) -> str:
    if target.get("classes"):
        return f"{target['name']} (one of {', '.join(target['classes'])})"
    if target.get("class_names"):
        return f"{target['name']} ({' or '.join(target['class_names'])})"
    unit = f" [{target['unit']}]" if target["unit"] else ""
    mapped = f" (learned through a transform: {target['transform']})" if "transform" in target else ""
    return f"{target['name']}{unit}{mapped}"


def _number(values: Mapping[str, Any], name: str) -> str:
    value, half = values[name], values.get(f"{name}_half_width")
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value:.4g}" if half is None else f"{value:.4g} ± {half:.2g}"


# `test_predictions.csv`: every test molecule with its labels and predictions.


def predictions_table(
    folds: Sequence[tuple[Split, Float[np.ndarray, "molecules targets"]]], molecules: LabelledMolecules
) -> str:
    """A row per test molecule, by input row; with folds, each molecule by the members that did not see it.

    A target has its label and `<target>_pred`; classes with names their names, and `<target>_prob_<class>` too.
    """
    names = user_names(molecules.names, molecules.groups)
    classes = {group.name: group.classes for group in molecules.groups}
    classes |= dict(zip(molecules.names, molecules.class_names, strict=False))
    header = ["row", "smiles"]
    for name in names:
        header += [name, f"{name}_pred", *(f"{name}_prob_{one}" for one in classes.get(name, ()))]
    rows: list[list[object]] = []
    for partition, predictions_NC in folds:
        for place in partition.test:
            cells = _cells(molecules, molecules.exact_NC[place], predictions_NC[place])
            rows.append([int(molecules.rows_N[place]), molecules.texts[place], *cells])
    return csv_text(header, sorted(rows, key=lambda row: row[0]))  # type: ignore[arg-type,return-value]


def _cells(molecules: LabelledMolecules, labels_C: np.ndarray, predictions_C: np.ndarray) -> list[object]:
    found: list[object] = []
    for column, (label, value) in enumerate(zip(labels_C, predictions_C, strict=True)):
        group = group_at(molecules.groups, column)
        names = molecules.class_names[column] if molecules.class_names else ()
        if names:
            found.append(None if np.isnan(label) else names[int(label)])
            found += [names[int(value > 0.5)], 1.0 - float(value), float(value)]
        elif group is None:
            found += [None if np.isnan(label) else float(label), float(value)]
        elif column == group.first:
            labels_K, values_K = labels_C[group.span], predictions_C[group.span]
            found.append(None if np.isnan(label) else group.classes[int(labels_K.argmax())])
            found += [group.classes[int(values_K.argmax())], *map(float, values_K)]
    return found
