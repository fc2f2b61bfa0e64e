"""`test_predictions.csv`: every test molecule with its labels and predictions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.finetuning.cells import csv_text
from dnd.finetuning.classes import group_at, user_names
from dnd.finetuning.dataset import LabelledMolecules
from dnd.finetuning.multiclass import ClassGroup


def predictions_table(
    folds: Sequence[tuple[Split, Float[np.ndarray, "molecules targets"]]], molecules: LabelledMolecules
) -> str:
    """A row per test molecule, by input row; with folds, each molecule by the members that did not see it.

    A target has its label and `<target>_pred`; one of several classes their names, and `<target>_prob_<class>` too.
    """
    names = user_names(molecules.names, molecules.groups)
    classes = {group.name: group.classes for group in molecules.groups}
    header = ["row", "smiles"]
    for name in names:
        header += [name, f"{name}_pred", *(f"{name}_prob_{one}" for one in classes.get(name, ()))]
    rows: list[list[object]] = []
    for partition, predictions_NC in folds:
        for place in partition.test:
            cells = _cells(molecules.targets_NC[place], predictions_NC[place], molecules.groups)
            rows.append([int(molecules.rows_N[place]), molecules.texts[place], *cells])
    return csv_text(header, sorted(rows, key=lambda row: row[0]))  # type: ignore[arg-type,return-value]


def _cells(labels_C: np.ndarray, predictions_C: np.ndarray, groups: Sequence[ClassGroup]) -> list[object]:
    found: list[object] = []
    for column, (label, value) in enumerate(zip(labels_C, predictions_C, strict=True)):
        group = group_at(groups, column)
        if group is None:
            found += [None if np.isnan(label) else float(label), float(value)]
        elif column == group.first:
            labels_K, values_K = labels_C[group.span], predictions_C[group.span]
            found.append(None if np.isnan(label) else group.classes[int(labels_K.argmax())])
            found += [group.classes[int(values_K.argmax())], *map(float, values_K)]
    return found
