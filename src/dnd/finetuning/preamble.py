"""What a finetuning says of its data before it trains: encoder, molecules, task, leaks, split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from dnd.chemistry.splits import Split
from dnd.finetuning.classes import class_counts, user_names
from dnd.finetuning.dataset import LabelledFile, LabelledMolecules
from dnd.finetuning.duplicates import audit_duplicates, warning_line
from dnd.finetuning.leaks import leak_warnings
from dnd.finetuning.partition import split_column
from dnd.finetuning.student_training import Plan
from dnd.student.shipped import RANDOM


def preamble(
    plan: Plan, files: Sequence[LabelledFile], notices: Sequence[str], transforms: Sequence[str]
) -> Iterator[str]:
    """One line at a time.

    Args:
        plan: what is settled.
        files: the labelled tables.
        notices: about single targets.
        transforms: lines about the maps of the labels.
    """
    molecules, tasks, parts = plan.molecules, plan.tasks, plan.parts
    random = plan.encoder == RANDOM
    yield "encoder: random weights (RandInit)" if random else f"encoder: {plan.encoder}, hydrogens {plan.hydrogens}"
    yield f"{len(molecules.rows_N)} molecules of {molecules.num_rows} rows; {len(molecules.rejects)} left out"
    yield f"task: {tasks.reason}"
    for notice in [*class_counts(molecules), *notices]:
        yield f"note: {notice}"
    column = split_column(plan.config.split)
    for file in files:
        yield from leak_warnings(file, user_names(molecules.names, molecules.groups), [column] if column else [])
    yield from transforms
    sizes = [f"{len(part.train)} / {len(part.valid)} / {len(part.test)}" for part in parts]
    yield f"split: {plan.config.split}, training / validation / test: {'; '.join(sizes)}"
    warning = warning_line(audit_duplicates(parts, molecules.smiles, molecules.rows_N))
    if warning:
        yield warning
    if tasks.balanced:
        yield from _label_counts(molecules, parts)


def _label_counts(molecules: LabelledMolecules, parts: Sequence[Split]) -> list[str]:
    """Labels of each target per part: a part without any can't judge it."""
    known_NC = ~np.isnan(molecules.targets_NC)
    lines = []
    for column, name in enumerate(molecules.names):
        sizes = [" / ".join(str(int(known_NC[rows, column].sum())) for rows in part.parts().values()) for part in parts]
        lines.append(f"labels of {name}: {'; '.join(sizes)}")
    return lines
