"""What an analysis leaves: a picture, the numbers behind it as CSV, and a sentence that says what it shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from dnd.analysis.figures import save_figure
from dnd.common.files import write_text


@dataclass(frozen=True)
class Finding:
    """The outcome of one analysis.

    Attributes:
        name: stem of its files.
        figure: the picture.
        columns: heads of the CSV.
        rows: its cells; None is an empty cell.
        sentence: what the picture shows, with its numbers.
    """

    name: str
    figure: Figure
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    sentence: str

    def write(self, folder: Path) -> list[Path]:
        """Write `name`.png, .svg, .csv and .txt (the sentence) into `folder`; returns their paths."""
        table, text = folder / f"{self.name}.csv", folder / f"{self.name}.txt"
        write_text(table, table_text(self.columns, self.rows))
        write_text(text, self.sentence + "\n")
        return [*save_figure(self.figure, folder / self.name), table, text]


def table_text(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table as CSV; floats with six digits."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else "" if cell is None else cell for cell in row])
    return stream.getvalue()
