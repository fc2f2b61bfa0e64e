"""From trained members to the finished MODEL folder: predictions, metrics, baselines, tables, card."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.finetuning.calibration import calibrate
from dnd.finetuning.cells import csv_text
from dnd.finetuning.dataset import LabelledMolecules
from dnd.finetuning.duplicates import audit_duplicates
from dnd.finetuning.evaluation import comparison_table, model_card, part_metrics, verdicts
from dnd.finetuning.folds import over_folds
from dnd.finetuning.metrics import metric_names
from dnd.finetuning.partition import PARTS
from dnd.finetuning.predictor_folder import Member, predictor_config, write_predictor
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.tasks import Tasks
from dnd.finetuning.trust import write_trust
from dnd.store.schema import HydrogenSetting
from dnd.training.settings import TrainResult

Array = Float[np.ndarray, "molecules targets"]


@dataclass(frozen=True)
class MemberResult:
    """One trained member.

    Attributes:
        member: the network.
        fold: which partition it was trained on.
        partition: that partition.
        predictions_NC: for all molecules, raw units or probabilities.
        training: how the loop ended.
    """

    member: Member
    fold: int
    partition: Split
    predictions_NC: Array
    training: TrainResult


def write_outcome(
    folder: Path,
    molecules: LabelledMolecules,
    results: Sequence[MemberResult],
    tasks: Tasks,
    hydrogens: HydrogenSetting,
    record: dict[str, Any],
    config: FinetuneConfig,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Judge the members, fit the baselines, write and seal the MODEL folder; returns `metrics.json`."""
    folds, calibration = calibrate(_folds(results), molecules.targets_NC, tasks.kinds)
    targets = results[0].member.targets
    metrics: dict[str, Any] = {
        "task": tasks.name,
        "task_reason": tasks.reason,
        "per_target": tasks.balanced,
        "metric": metric_names(tasks.kinds)[0],
        "metrics": list(metric_names(tasks.kinds)),
        "targets": [{"name": target.name, "unit": target.unit, "kind": target.kind} for target in targets],
        "files": list(molecules.files),
        "split": config.split,
        "counts": {
            "rows": molecules.num_rows,
            "molecules": len(molecules.rows_N),
            "rejected": len(molecules.rejects),
            "labels": int((~np.isnan(molecules.targets_NC)).sum()),
        },
        **audit_duplicates([part for part, _ in folds], molecules.smiles, molecules.rows_N),
        "members": [_training_summary(result) for result in results],
        "baselines": {},
        **_judge(folds, molecules, tasks),
    }
    if config.baselines:
        metrics["baselines"] = _baselines(folds, molecules, tasks, say)
    for line in comparison_table(metrics):
        say(line)
    if metrics["baselines"]:
        for line in verdicts(metrics):
            say(line)
    members = [result.member for result in results]
    for line in write_trust(folder, members[0], molecules, [part for part, _ in folds], calibration, tasks.kinds):
        say(line)
    saved = predictor_config(members, hydrogens, record)
    write_predictor(
        folder,
        members,
        saved,
        card=model_card(saved, metrics),
        metrics=metrics,
        splits=_splits([partition for partition, _ in folds], molecules.rows_N, config.split),
        tables={
            "test_predictions.csv": _test_table(folds, molecules),
            "rejects.csv": molecules.rejects_csv(),
            **({"molecules.csv": molecules.origins_csv()} if molecules.origins else {}),
        },
    )
    say(f"model: {folder}")
    return metrics


def _folds(results: Sequence[MemberResult]) -> list[tuple[Split, Array]]:
    """Per fold its partition and the mean prediction of the members trained on it."""
    found = []
    for fold in range(results[-1].fold + 1):
        own = [result for result in results if result.fold == fold]
        found.append((own[0].partition, np.mean([result.predictions_NC for result in own], axis=0)))
    return found


def _judge(folds: Iterable[tuple[Split, Array]], molecules: LabelledMolecules, tasks: Tasks) -> dict[str, Any]:
    judged = [part_metrics(part, molecules.targets_NC, values, tasks.kinds, molecules.names) for part, values in folds]
    parts = over_folds(judged, metric_names(tasks.kinds))
    return {"parts": parts, "folds": judged} if len(judged) > 1 else {"parts": parts}


def _baselines(
    folds: Sequence[tuple[Split, Array]],
    molecules: LabelledMolecules,
    tasks: Tasks,
    say: Callable[[str], None],
) -> dict[str, Any]:
    from dnd.chemistry.parse import parse_smiles
    from dnd.finetuning.classical import baselines
    from dnd.finetuning.fingerprints import count_fingerprints, descriptors_2d

    parsed = [molecule.mol for text in molecules.smiles if (molecule := parse_smiles(text)).ok]
    assert len(parsed) == len(molecules.smiles), "a canonical SMILES parses back"
    features = {"counts": count_fingerprints(parsed), "descriptors": descriptors_2d(parsed)}
    fitted = [baselines(features, molecules.targets_NC, part.train, tasks.kinds, say=say) for part, _ in folds]
    return {
        name: {
            "settings": fitted[0][name].settings,
            **_judge(
                [(part, found[name].predictions_NC) for (part, _), found in zip(folds, fitted, strict=True)],
                molecules,
                tasks,
            ),
        }
        for name in fitted[0]
    }


def _training_summary(result: MemberResult) -> dict[str, Any]:
    training = result.training
    return {
        "seed": result.member.seed,
        "fold": result.fold,
        "steps": training.steps,
        "best_step": training.best_step,
        "best_epoch": training.best,
        "last_epoch": training.last,
        "seconds": round(training.seconds, 1),
        "scale": [{"mean": target.mean, "std": target.std} for target in result.member.targets],
    }


def _splits(found: Sequence[Split], rows_N: np.ndarray, name: str) -> dict[str, Any]:
    """Row numbers of the input from 0; a k-fold split has a list of them."""
    named = [{part: [int(row) for row in rows_N[getattr(one, part)]] for part in PARTS} for one in found]
    return {"split": name, **named[0]} if len(named) == 1 else {"split": name, "folds": named}


def _test_table(folds: Sequence[tuple[Split, Array]], molecules: LabelledMolecules) -> str:
    """Every test molecule with label and prediction; with folds, each molecule by the members that did not see it."""
    header = ["row", "smiles", *(f"{name}{end}" for name in molecules.names for end in ("", "_pred"))]
    rows: list[list[object]] = []
    for partition, predictions_NC in folds:
        for place in partition.test:
            pairs = zip(molecules.targets_NC[place], predictions_NC[place], strict=True)
            cells = [cell for label, value in pairs for cell in (_cell(label), float(value))]
            rows.append([int(molecules.rows_N[place]), molecules.texts[place], *cells])
    return csv_text(header, sorted(rows, key=lambda row: row[0]))  # type: ignore[arg-type,return-value]


def _cell(label: float) -> float | None:
    return None if np.isnan(label) else float(label)
