"""A labelled table to molecules with targets; everything that can be wrong with it is said before training starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.common.errors import InputError
from dnd.common.registry import nearest
from dnd.finetuning.cells import csv_text
from dnd.finetuning.molecules import as_store, featurize_smiles
from dnd.finetuning.sources import open_molecules
from dnd.finetuning.tasks import parse_label
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting

FEWEST_MOLECULES = 10


@dataclass(frozen=True)
class Reject:
    """A row that is left out.

    Attributes:
        row: number in the input, from 0.
        smiles: as written.
        stage: `read`, `labels`, or where parsing failed.
        reason: why.
    """

    row: int
    smiles: str
    stage: str
    reason: str


@dataclass(frozen=True)
class LabelledMolecules:
    """The usable rows of a labelled table.

    Attributes:
        store: graphs in memory, one per usable row.
        rows_N: row numbers of the input, from 0, ascending.
        texts: SMILES as written.
        smiles: canonical SMILES.
        targets_NC: labels in raw units; NaN = missing, at least one known per row.
        names: of the targets.
        extra: values of the further column that was asked for, such as that of a split.
        num_rows: rows of the input, usable or not.
        rejects: the others.
    """

    store: Store
    rows_N: np.ndarray
    texts: list[str]
    smiles: list[str]
    targets_NC: Float[np.ndarray, "molecules targets"]
    names: tuple[str, ...]
    extra: list[str]
    num_rows: int
    rejects: list[Reject]

    def digest(self) -> str:
        """SHA-256 of molecules and labels, by which a resumed run knows its data."""
        digest = hashlib.sha256("\n".join(self.smiles).encode())
        digest.update(np.ascontiguousarray(self.rows_N).tobytes() + np.ascontiguousarray(self.targets_NC).tobytes())
        return digest.hexdigest()

    def rejects_csv(self) -> str:
        """`rejects.csv`: row, smiles, stage, reason."""
        return csv_text(("row", "smiles", "stage", "reason"), [tuple(vars(reject).values()) for reject in self.rejects])


def read_labelled(
    path: Path | str,
    target_columns: Sequence[str],
    hydrogens: HydrogenSetting,
    *,
    smiles_column: str = "smiles",
    extra_column: str | None = None,
    jobs: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> LabelledMolecules:
    """Read, check and featurise a labelled table of any format that `dnd` reads.

    Args:
        path: the file.
        target_columns: columns with labels.
        hydrogens: as the student sees molecules.
        smiles_column: where the SMILES are.
        extra_column: a further column to keep, such as that of a split.
        jobs: worker processes for many molecules; 0 = one per processor.
        say: receives a line before the long part.

    Raises:
        InputError: a column is missing, a label is no number, there is no label, or too few molecules are left.
    """
    if not target_columns:
        raise InputError("no target column is named", next_step="Add --target-columns NAME")
    wanted = [*target_columns, *([extra_column] if extra_column else [])]
    numbers: list[int] = []
    texts: list[str] = []
    labels: list[list[float]] = []
    extra: list[str] = []
    rejects: list[Reject] = []
    num_rows = 0
    source = open_molecules(path, smiles_column)
    require_columns(path, source.columns, wanted)
    for row in source:
        num_rows += 1
        if row.problem is not None:
            rejects.append(Reject(row.number, row.smiles, "read", row.problem))
            continue
        values = [parse_label(row.values[name], row=row.number, column=name) for name in target_columns]
        if all(np.isnan(values)):
            rejects.append(Reject(row.number, row.smiles, "labels", "no label"))
            continue
        numbers.append(row.number)
        texts.append(row.smiles)
        labels.append(values)
        extra.append(row.values[extra_column].strip() if extra_column else "")
    if not numbers:
        raise InputError(_nothing_left(rejects, target_columns), found=f"{num_rows} rows")
    say(f"parsing {len(texts)} molecules")
    return _featurized(numbers, texts, labels, extra, num_rows, rejects, tuple(target_columns), hydrogens, jobs)


def require_columns(path: Path | str, columns: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuse a missing column, or one whose name the header repeats, so that no wrong column is used silently.

    Raises:
        InputError: it lists the columns there are.
    """
    for name in wanted:
        if name not in columns:
            listed = ", ".join(columns[:30]) + (f" and {len(columns) - 30} more" if len(columns) > 30 else "")
            raise InputError(
                f"{path} has no column {name!r}", found=f"columns {listed}", next_step=nearest(name, columns[:1000])
            )
        if f"{name}.1" in columns:
            raise InputError(f"{path} has two columns named {name!r}", next_step="Rename one of them")


def _featurized(
    numbers: list[int],
    texts: list[str],
    labels: list[list[float]],
    extra: list[str],
    num_rows: int,
    rejects: list[Reject],
    names: tuple[str, ...],
    hydrogens: HydrogenSetting,
    jobs: int,
) -> LabelledMolecules:
    molecules = featurize_smiles(texts, hydrogens, jobs=jobs)
    kept = [place for place, molecule in enumerate(molecules) if molecule.graph is not None]
    rejects = rejects + [
        Reject(numbers[place], texts[place], molecule.stage, molecule.reason)
        for place, molecule in enumerate(molecules)
        if molecule.graph is None
    ]
    rejects.sort(key=lambda reject: reject.row)
    if not kept:
        first = rejects[0]
        raise InputError("there is no valid molecule", found=f"row {first.row}: {first.reason}")
    if len(kept) < FEWEST_MOLECULES:
        raise InputError("there are too few molecules", found=len(kept), expected=f"at least {FEWEST_MOLECULES}")
    return LabelledMolecules(
        store=as_store([molecules[place] for place in kept], hydrogens),
        rows_N=np.array([numbers[place] for place in kept], dtype=np.int64),
        texts=[texts[place] for place in kept],
        smiles=[molecules[place].smiles for place in kept],
        targets_NC=np.array([labels[place] for place in kept], dtype=np.float64),
        names=names,
        extra=[extra[place] for place in kept],
        num_rows=num_rows,
        rejects=rejects,
    )


def _nothing_left(rejects: Sequence[Reject], target_columns: Sequence[str]) -> str:
    if all(reject.stage == "labels" for reject in rejects):
        return f"all labels of {', '.join(target_columns)} are missing"
    first = next(reject for reject in rejects if reject.stage != "labels")
    return f"no row can be used; row {first.row}: {first.reason}"
