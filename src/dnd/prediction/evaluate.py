"""A finetuned model on labelled molecules it may not have seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.errors import InputError
from dnd.finetuning.dataset import read_labelled
from dnd.finetuning.metrics import CLASSIFICATION_METRICS, REGRESSION_METRICS, scores, summary
from dnd.prediction.predictor import Predictor


def evaluate_file(
    predictor: Predictor, source: Path | str, *, smiles_column: str = "smiles", target_columns: Sequence[str] = ()
) -> dict[str, Any]:
    """Metrics of `predictor` on a labelled file.

    Args:
        predictor: the model.
        source: CSV, TSV, SMI, SDF or Parquet with labels.
        smiles_column: where the SMILES are.
        target_columns: columns with the labels, in the order of the model's targets; their names when empty.

    Returns:
        Each metric as the mean over targets, each target's own under `targets`, and counts.

    Raises:
        InputError: a column is missing, a label is no number (for classes: neither 0 nor 1), or nothing is left.
    """
    names = [target.name for target in predictor.targets]
    columns = list(target_columns) or names
    if len(columns) != len(names):
        raise InputError("label columns and targets of the model differ in number", found=columns, expected=names)
    molecules = read_labelled(
        source, columns, predictor.parts.hydrogens, smiles_column=smiles_column, jobs=predictor.jobs, fewest=1
    )
    known = molecules.targets_NC[~np.isnan(molecules.targets_NC)]
    if predictor.kind == "classification" and not np.isin(known, (0.0, 1.0)).all():
        raise InputError("a label is no class", found=f"{known[~np.isin(known, (0.0, 1.0))][0]:g}", expected="0 or 1")
    values_NC = predictor.predict_store(molecules.store)
    return {
        "task": predictor.kind,
        "rows": molecules.num_rows,
        "molecules": len(molecules.rows_N),
        "rejected": len(molecules.rejects),
        **summary(names, scores(predictor.kind, molecules.targets_NC, values_NC)),
    }


def metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """The metrics as lines of text."""
    lines = [f"{metrics['molecules']} molecules of {metrics['rows']} rows, {metrics['rejected']} left out"]
    names = REGRESSION_METRICS if metrics["task"] == "regression" else CLASSIFICATION_METRICS
    targets = metrics["targets"]
    for label, values in [("mean of targets", metrics), *targets.items()] if len(targets) > 1 else targets.items():
        numbers = "  ".join(f"{name} {values[name]:.4g}" if values[name] is not None else f"{name} -" for name in names)
        lines.append(f"{label}: {numbers}")
    if metrics["skipped_targets"]:
        lines.append(f"{metrics['skipped_targets']} target(s) skipped: no labels, or one class only")
    return lines
