"""The content of `metrics.json` and `test_predictions.csv`: parts, targets, folds, and classical baselines."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from dnd.chemistry.splits import Split
from dnd.common.compute import numpy_generator
from dnd.common.log import LOGGER, counted
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.finetuning.prepared_labels import counts_line, group_at, user_names
from dnd.finetuning.splits import PARTS
from dnd.finetuning.verdict import sentences
from dnd.predictor.metrics import RAW, RAW_METRICS, judge_targets, significant
from dnd.predictor.targets import (
    ClassGroup,
    Target,
    TaskKind,
    Transform,
    Weights,
    from_learned_scale,
    groups_of,
    normalised,
    on_learned_scale,
)
from dnd.tables.writers import csv_text

# Classical baselines, printed beside every finetuned model: the training mean and random forests.
#
# An untuned forest beats published deep models on several of these data sets, so a result without it says little.

MEAN = "mean"
TREES = 100  # of 200 the second hundred was a quarter of a whole `fast` finetuning of 2,000 molecules
FEATURE_SHARE = 0.33  # of the features tried per split in regression; classification uses the square root
LIMIT_FOREST_MOLECULES = 10_000  # training molecules; a larger part is thinned at random, and the result says so
_PILOT_ROWS, _GROWTH = 100, 1.2  # under a time limit: cost of a forest ~ molecules to the power of 1.2
LIMIT_FOREST_WORK = 6_000  # trees over all targets; more targets get smaller forests, and the result says so


@dataclass(frozen=True)
class Features:
    """What the forests look at.

    Attributes:
        sets: name of a feature set → rows; one that no molecule has stands for a molecule whose features were refused.
        place_B: the row of each molecule; -1 where it has none, and then it is neither learned from nor predicted.
    """

    sets: Mapping[str, Float[np.ndarray, "known features"]]
    place_B: Int[np.ndarray, "molecules"]


@dataclass(frozen=True)
class Baseline:
    """Predictions of one baseline for every molecule.

    Attributes:
        predictions_BC: values, or probabilities of class 1.
        settings: what was fitted, for `metrics.json`.
    """

    predictions_BC: Float[np.ndarray, "molecules targets"]
    settings: dict[str, object]


def baselines(
    features: Features,
    targets: Sequence[Target],
    targets_BC: Float[np.ndarray, "molecules targets"],
    train: np.ndarray,
    *,
    budget_s: float = math.inf,
) -> dict[str, Baseline]:
    """Fit the training mean and one random forest per feature set, and predict all molecules that have features.

    A target with a transform is learned on the same scale as the model learns it.

    Args:
        features: features of the molecules.
        targets: targets of the columns.
        targets_BC: labels; NaN = missing.
        train: rows that the model learned from.
        budget_s: time in seconds; a forest that does not fit into it by a pilot is left out.
    """
    labels_BC, groups = on_learned_scale(targets, targets_BC), groups_of(targets)
    found = {MEAN: Baseline(from_learned_scale(targets, mean_prediction(labels_BC, train)), {})}
    known = np.flatnonzero(features.place_B >= 0)
    learned = features.place_B[train[features.place_B[train] >= 0]]
    for name, values_SF in features.sets.items():
        kinds = [target.kind for target in targets]
        labels_SC = np.full((len(values_SF), labels_BC.shape[1]), np.nan)
        labels_SC[features.place_B[known]] = labels_BC[known]
        if math.isfinite(budget_s):
            cost_s = _forest_seconds(values_SF, labels_SC, learned, kinds, groups)
            budget_s -= cost_s
            if budget_s < 0:
                LOGGER.info(f"plan: left out the baseline of a random forest on {name} (time limit)")
                continue
        LOGGER.info(f"baseline: random forest on {name}")
        own = fit_forests(values_SF, labels_SC, learned, kinds, groups=groups)
        predictions_BC = np.full(labels_BC.shape, np.nan)
        predictions_BC[known] = from_learned_scale(targets, own.predictions_BC)[features.place_B[known]]
        found[f"random_forest_{name}"] = Baseline(predictions_BC, own.settings)
    return found


def _forest_seconds(
    features_BF: np.ndarray,
    targets_BC: np.ndarray,
    train: np.ndarray,
    kinds: Sequence[TaskKind],
    groups: Sequence[ClassGroup],
) -> float:
    """What the forests of a feature set will take, from those of few labelled molecules, drawn at random."""
    labelled = train[~np.isnan(targets_BC[train]).all(axis=1)]
    few = numpy_generator(0, "rows of the pilot forest").permutation(labelled)[:_PILOT_ROWS]
    started = time.monotonic()
    fit_forests(features_BF, targets_BC, few, kinds, groups=groups)
    spent, count = time.monotonic() - started, min(len(train), LIMIT_FOREST_MOLECULES)
    return spent * float(max(1.0, (count / max(1, len(few))) ** _GROWTH))


def fit_forests(
    features_BF: Float[np.ndarray, "molecules features"],
    targets_BC: Float[np.ndarray, "molecules targets"],
    train: np.ndarray,
    kinds: TaskKind | Sequence[TaskKind],
    seed: int = 0,
    groups: Sequence[ClassGroup] = (),
) -> Baseline:
    """One random forest per target on its labelled training molecules; one with fewer than two values gets their mean.

    Args:
        features_BF: features of all molecules.
        targets_BC: labels; NaN = missing.
        train: rows of the training part.
        kinds: one for all targets, or one for each.
        seed: random seed of the forests.
        groups: columns that are the classes of one target; they share a forest.
    """
    num_targets = targets_BC.shape[1]
    each = [kinds] * num_targets if isinstance(kinds, str) else kinds
    trees = max(20, min(TREES, LIMIT_FOREST_WORK // num_targets))
    if len(train) > LIMIT_FOREST_MOLECULES:
        train = np.random.default_rng(seed).choice(train, LIMIT_FOREST_MOLECULES, replace=False)
    predictions_BC = mean_prediction(targets_BC, train)
    for column, (kind, target_B) in enumerate(zip(each, targets_BC.T, strict=True)):
        known = train[~np.isnan(target_B[train])]
        if kind == "multiclass" or len(np.unique(target_B[known])) < 2:
            continue
        if kind == "regression":
            forest = RandomForestRegressor(trees, max_features=FEATURE_SHARE, n_jobs=1, random_state=seed)
            by_column = np.asfortranarray(features_BF[known])  # of which a fit reads a few at each split
            predictions_BC[:, column] = forest.fit(by_column, target_B[known]).predict(features_BF)
        else:
            classifier = RandomForestClassifier(trees, n_jobs=1, random_state=seed)
            classifier.fit(features_BF[known], target_B[known])
            predictions_BC[:, column] = classifier.predict_proba(features_BF)[:, 1]
    for group in groups:
        labels_BK = targets_BC[:, group.span]
        known = train[~np.isnan(labels_BK[train]).any(axis=1)]
        if len(np.unique(labels_BK[known].argmax(axis=1))) < 2:
            continue
        classifier = RandomForestClassifier(trees, n_jobs=1, random_state=seed)
        classifier.fit(features_BF[known], labels_BK[known].argmax(axis=1))
        predictions_BC[:, group.span] = 0.0
        predictions_BC[:, group.first + classifier.classes_] = classifier.predict_proba(features_BF)
    return Baseline(predictions_BC, {"trees": trees, "training_molecules": len(train), "seed": seed})


def mean_prediction(targets_BC: np.ndarray, train: np.ndarray) -> np.ndarray:
    """The training mean of each target (the share of class 1), 0 where a target has no training label."""
    known_BC = ~np.isnan(targets_BC[train])
    total_C = np.where(known_BC, targets_BC[train], 0.0).sum(axis=0)
    mean_C = total_C / np.maximum(known_BC.sum(axis=0), 1)
    return np.tile(mean_C, (len(targets_BC), 1))


# What `metrics.json` says: each part and target, the last epoch, the folds, and the baselines beside them.


Array = Float[np.ndarray, "molecules targets"]


def part_metrics(
    partition: Split, targets_BC: Array, predictions_BC: Array, targets: Sequence[Target], weight_B: Weights = None
) -> dict[str, dict[str, Any]]:
    """Metrics of each part, all molecules of the part at once: never a mean over batches."""
    found: dict[str, dict[str, Any]] = {}
    # Members that see one class against the rest do not sum to 1.
    predictions_BC = normalised(predictions_BC, groups_of(targets))
    for part in PARTS:
        rows = getattr(partition, part)
        own_B = None if weight_B is None else weight_B[rows]
        found[part] = {"molecules": len(rows), **judge_targets(targets, targets_BC[rows], predictions_BC[rows], own_B)}
    return found


WIDEST = 140
"""Characters of a line of a comparison; a wider one has the validation and the test part below each other."""


def comparison_table(metrics: Mapping[str, Any]) -> list[str]:
    """The model beside its baselines, test and validation part, as lines of text; with folds, mean ± half width.

    Targets that are judged one by one get a table each: a mean over several units would say nothing. Where a target is
    learned through a transform, a table in its unit follows that on the learned scale.
    """
    systems = {"blend" if "blend" in metrics else "finetuned student": metrics["parts"]}
    systems |= {name.replace("_", " "): values["parts"] for name, values in metrics["baselines"].items()}
    if not metrics.get("per_target"):
        return _tables("", systems, metrics["metrics"], scale_words(metrics["targets"]))
    lines: list[str] = []
    words = {target["name"]: scale_words([target]) for target in metrics["targets"]}
    for name, own in metrics["parts"]["test"]["targets"].items():
        of_target = {
            system: {part: parts[part]["targets"][name] for part in PARTS} for system, parts in systems.items()
        }
        lines += _tables(name, of_target, [metric for metric in own if not metric.endswith(RAW)], words[name])
    return lines


def scale_words(targets: Sequence[Mapping[str, Any]]) -> str:
    """On which scale the metrics of some targets are, where that is not their unit; empty where it is."""
    mapped = [target for target in targets if "transform" in target]
    if not mapped:
        return ""
    if len(targets) == 1:
        return Transform(mapped[0]["transform"]).judged_unit(mapped[0]["unit"])
    each = [f"{target['name']} in {Transform(target['transform']).judged_unit(target['unit'])}" for target in mapped]
    return ", ".join(each)


def _tables(title: str, systems: Mapping[str, Mapping[str, Any]], names: Sequence[str], scale: str) -> list[str]:
    if not scale:
        return _table(title, systems, names)
    raw = [name for name in RAW_METRICS if name in next(iter(systems.values()))["test"]]
    heads = [f"{title}, {scale}" if title else scale, f"{title}, its unit" if title else "unit of the target"]
    return [*_table(heads[0], systems, names), *_table(heads[1], systems, raw)]


def _table(title: str, systems: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> list[str]:
    own = next(iter(systems.values()))
    width = max(map(len, [title, *systems]))
    known = [
        part
        for part in ("valid", "test")
        if any(one[part][name] is not None for one in systems.values() for name in names)
    ]
    columns = tuple(known) or ("valid", "test")
    heads = [f"{part} {name.removesuffix(RAW)}" for part in columns for name in names]
    cell = 18 if any(f"{names[0]}_half_width" in parts["test"] for parts in systems.values()) else 12
    cell = max(cell, *map(len, heads))
    is_wide = width + len(heads) * (cell + 2) > WIDEST
    lines = []
    for shown in [(part,) for part in columns] if is_wide else [columns]:
        heads = [f"{part} {name.removesuffix(RAW)}" for part in shown for name in names]
        lines.append(f"{title:{width}}  " + "  ".join(f"{head:>{cell}}" for head in heads))
        for label, parts in systems.items():
            if parts is not own and all(parts[part][name] is None for part in shown for name in names):
                continue  # baselines have no numbers of the validation part
            numbers = [_number(parts[part], name) for part in shown for name in names]
            lines.append(f"{label:{width}}  " + "  ".join(f"{number:>{cell}}" for number in numbers))
    return lines


def headlines(metrics: Mapping[str, Any]) -> list[str]:
    """What a model is worth in sentences that can be quoted, the most important first: verdicts, then replicates."""
    return [*sentences(metrics), *(one["sentence"] for one in metrics.get("replicates", ()))]


def model_card(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """`card.md` of a predictor."""
    targets = ", ".join(map(_target_words, metrics["targets"]))
    counts = metrics["counts"]
    encoder = config["training"]["encoder"]
    start = "random weights" if encoder == "random" else f"the encoder `{encoder}`"
    files = f" from {', '.join(metrics['files'])}" if len(metrics["files"]) > 1 else ""
    balanced = len(metrics["files"]) > 1 or len({target["kind"] for target in metrics["targets"]}) > 1
    loss = "; the loss is the mean over targets, each in its own scale" if balanced and config["members"] else ""
    table = "\n".join(comparison_table(metrics))
    headline = "\n\n".join(line for line in headlines(metrics))
    changed = counts.get("standardized")
    read = "".join(f"\n- Labels: {note}." for note in metrics.get("notes", ()))
    form = "" if changed is None else f"\nStandardized: the largest organic part, neutral; {changed} rows were changed."
    return f"""# Predictor of {targets}

{headline}

- Task: {metrics["task_reason"]}{loss}.
- Made {_made_of(config, start)}.
- Data: {counts_line(counts, files)}{", see `rejects.csv`" if counts["rejected"] else ""}.{read}
- Split: {metrics["split"]}{"; weights of the best validation epoch" if config["members"] else ""}.
- In more than one part: {counted(metrics["duplicates_across_parts"], "molecule")}, \
{metrics["duplicates_in_training_and_test"]} of them in training and test.
- The verdict is about the molecules of the test part, which chose nothing.

```
{table}
```

Input: SMILES without conformers; every spelling of a molecule gives the same prediction.
Hydrogens: `{config["hydrogens"]}`.{form}
Predictions for molecules unlike the training molecules are extrapolations; `dnd predict` marks them in `in_domain`.
"""


def _made_of(config: Mapping[str, Any], start: str) -> str:
    networks = config["members"]
    named = f"{counted(len(networks), 'student')} ({networks[0]['student']['name']}) from {start}" if networks else ""
    made = f"by finetuning {named}" if networks else ""
    if "blend" not in config:
        return made
    names = dict.fromkeys(member["name"] for member in config["blend"]["classical"])
    words = {"embedding": f"the representation of {start}", "counts": "Morgan counts"}
    features = ", ".join(words.get(name, name) for name in config["blend"]["features"])
    classical = f"classical models ({', '.join(names)}) on {features}" if names else ""
    weights = "; the weights of the members were fitted out of fold, over scaffold folds"
    return " and ".join(part for part in (made, f"of {classical}" if classical else "") if part) + weights


def _target_words(target: Mapping[str, Any]) -> str:
    if target.get("classes"):
        return f"{target['name']} (one of {', '.join(target['classes'])})"
    if target.get("class_names"):
        return f"{target['name']} ({' or '.join(target['class_names'])})"
    unit = f" [{target['unit']}]" if target["unit"] not in target["name"] else ""
    mapped = f" (learned through a transform: {target['transform']})" if "transform" in target else ""
    return f"{target['name']}{unit}{mapped}"


def _number(values: Mapping[str, Any], name: str) -> str:
    value, half = values[name], values.get(f"{name}_half_width")
    if value is None or half is None:
        return significant(value)
    return f"{significant(value)} ± {half:.2g}"


# How the labels of each target are spread, for the report.


BINS = 16


def label_counts(
    molecules: LabelledMolecules,
    kinds: Sequence[TaskKind],
    transforms: Sequence[Transform],
    parts: Sequence[Split],
) -> list[dict[str, Any]]:
    """For each target of values a histogram of its exact labels, on the scale that is learned, by part; it decides
    nothing.

    Args:
        molecules: with a column per class for targets of several classes.
        kinds: tasks of the columns.
        transforms: transforms of the columns.
        parts: partitions; with several of them all labels are counted together.
    """
    rows = {"all": np.arange(len(molecules.smiles))} if len(parts) > 1 else parts[0].parts()
    found = []
    for column, (name, kind, transform) in enumerate(zip(molecules.names, kinds, transforms, strict=True)):
        labels_B = molecules.exact_BC[:, column]
        if kind == "regression":
            judged_B = transform.judged(labels_B)
            edges = np.histogram_bin_edges(judged_B[np.isfinite(judged_B)], bins=BINS)
            counts = {
                part: np.histogram(judged_B[own][np.isfinite(judged_B[own])], edges)[0].tolist()
                for part, own in rows.items()
            }
            found.append({"target": name, "edges": transform.unjudged(edges).tolist(), "counts": counts})
    return found


# `test_predictions.csv`: every test molecule with its labels and predictions.


def predictions_table(
    folds: Sequence[tuple[Split, Float[np.ndarray, "molecules targets"]]], molecules: LabelledMolecules
) -> str:
    """A row per test molecule, by input row; with folds, each molecule by the members that did not see it.

    A target has its label and `<target>_pred`; classes with names their names, and `<target>_prob_<class>` too.
    Where the input names its molecules, `id` has their names.
    """
    names = user_names(molecules.names, molecules.groups)
    classes = {group.name: group.classes for group in molecules.groups}
    classes |= dict(zip(molecules.names, molecules.class_names, strict=False))
    has_ids = bool(molecules.ids) and "id" not in names
    header = ["row", *(["id"] if has_ids else []), "smiles"]
    for name in names:
        header += [name, f"{name}_pred", *(f"{name}_prob_{one}" for one in classes.get(name, ()))]
    rows: list[list[object]] = []
    for partition, predictions_BC in folds:
        for place in partition.test:
            cells = _cells(molecules, molecules.exact_BC[place], predictions_BC[place])
            own = [molecules.ids[place]] if has_ids else []
            rows.append([int(molecules.rows_B[place]), *own, molecules.texts[place], *cells])
    return csv_text(header, sorted(rows, key=lambda row: row[0]))  # type: ignore[arg-type,return-value]


def _cells(molecules: LabelledMolecules, labels_C: np.ndarray, predictions_C: np.ndarray) -> list[object]:
    """Labels and predictions of a molecule; a cell is empty where there is none, also the name of a predicted class."""
    found: list[object] = []
    for column, (label, value) in enumerate(zip(labels_C, predictions_C, strict=True)):
        group = group_at(molecules.groups, column)
        names = molecules.class_names[column] if molecules.class_names else ()
        if names:
            found.append(None if np.isnan(label) else names[int(label)])
            found += [None] * 3 if np.isnan(value) else [names[int(value > 0.5)], 1.0 - float(value), float(value)]
        elif group is None:
            found += [None if np.isnan(one) else float(one) for one in (label, value)]
        elif column == group.first:
            labels_K, values_K = labels_C[group.span], predictions_C[group.span]
            found.append(None if np.isnan(label) else group.classes[int(labels_K.argmax())])
            none = [None] * (1 + len(values_K))
            said = [group.classes[int(values_K.argmax())], *map(float, values_K)]
            found += none if np.isnan(values_K).any() else said
    return found
