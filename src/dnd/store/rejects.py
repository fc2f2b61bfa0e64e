"""Records that are not in the store: `rejects.csv`, and their reasons counted."""

from __future__ import annotations

import collections
import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dnd.common.files import write_text

REJECTS = "rejects.csv"
COLUMNS = ("row", "source", "smiles", "stage", "reason")

_NUMBER = re.compile(r"\b\d+(\.\d+)?\b")  # the 3 of "3D" is no number
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class Reject:
    """A record that is not in the store.

    Attributes:
        row: place in its source, from 0.
        source: file name of the source.
        smiles: its text or canonical SMILES, as far as it came.
        stage: `read`, `parse`, `match`, `conformer`, `check`, `exclude` or `worker`.
        reason: what is wrong.
    """

    row: int
    source: str
    smiles: str
    stage: str
    reason: str


def write_rejects(path: Path, rejects: Iterable[Reject]) -> None:
    """Write one line per reject; foreign text that a spreadsheet would run as a formula gets an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for reject in rejects:
        writer.writerow([reject.row, *map(_plain, (reject.source, reject.smiles, reject.stage, reject.reason))])
    write_text(path, text.getvalue())


def count_reasons(rejects: Iterable[Reject]) -> collections.Counter[str]:
    """How often each kind of reason came, as `stage: reason` with its numbers and its details left out."""
    return collections.Counter(f"{reject.stage}: {_kind_of_reason(reject.reason)}" for reject in rejects)


def without_numbers(reason: str) -> str:
    """The reason with `#` for each number, so that equal kinds count together."""
    return _NUMBER.sub("#", reason)


def _kind_of_reason(reason: str) -> str:
    return without_numbers(re.split(r": | for input", reason, maxsplit=1)[0])


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
