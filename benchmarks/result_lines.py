"""What benchmarks share: lines of a CSV that are never computed again, with its page, and the cells of `dnd reproduce`.

A script NAME has its lines in `NAME.csv` of the folder it works in. `--page FOLDER` copies them to
`FOLDER/NAME/NAME.csv` and writes `FOLDER/NAME.md`, drawn from the lines alone.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.files import write_text
from dnd.reproduction.results import Record

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS / "results"
Line = dict[str, str]


def complete(
    path: Path, cells: Iterable[Any], cell_of: Callable[[Line], Any], measured: Callable[[Any], list[Line]]
) -> list[Line]:
    """The lines of `path`, with those of each of `cells` that has none yet; they are written as they come.

    Args:
        path: CSV, which need not exist.
        cells: what is measured, such as seeds.
        cell_of: the cell of a line.
        measured: makes the lines of a cell.
    """
    lines = read_lines(path)
    for cell in cells:
        if cell not in map(cell_of, lines):
            lines += measured(cell)
            write_text(path, csv_text(lines))
    return lines


def show(name: str, lines: Sequence[Line], page: str, folder: Path | None) -> None:
    """Print the page; write it and its lines to `folder`, if there is one."""
    print(page)
    if folder:
        write_text(folder / name / f"{name}.csv", csv_text(lines))
        write_text(folder / f"{name}.md", page)


def read_lines(path: Path) -> list[Line]:
    """The lines of a CSV; none without the file."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def read_records(path: Path) -> list[Record]:
    """The newest finished record of every cell in the results file of `dnd reproduce`, packed or not."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    records = [Record(**{name: value for name, value in line.items() if name != "check"}) for line in lines]
    return list({record.key: record for record in records if record.status == "done"}.values())


def csv_text(lines: Sequence[Line]) -> str:
    """The lines as a CSV, in the order of the first one's fields."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def spread(values: Sequence[float]) -> str:
    """Mean, lowest and highest."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def arguments(name: str, description: str, out: str) -> argparse.ArgumentParser:
    """The options that all have: `--out`, `--seeds` and `--page`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help=out)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--page", type=Path, help=f"folder of the page, which also gets {name}/{name}.csv")
    return parser
