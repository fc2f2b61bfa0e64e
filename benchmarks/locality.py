"""Locality of each property beside the gain of NODE over GRAPH, from the cells of a finished `dnd reproduce` folder.

    python benchmarks/locality.py docs/results/cpu --data-dir DATA

It trains no network. The share of the variance that a sum over atoms explains (`dnd.reproduction.locality`) is of the
training and validation molecules of each data set, as the cells had them. `locality.csv` in the folder gets a line per
data set and pretraining; `benchmarks/draw_results.py` draws the page from it. `--data-dir` holds `qm9_3d.npz` for the
targets of QM9 and, where the repository has none, the other data sets.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from result_lines import read_records

from dnd.common.compute import set_threads
from dnd.common.files import write_text
from dnd.report.figures import table_text
from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX, TARGETS, draw_labelled, find_qm9
from dnd.reproduction.labelled_table import labelled_table
from dnd.reproduction.locality import COLUMNS, additive_share, learnable_share, locality_rows
from dnd.reproduction.results import Record, Work
from dnd.reproduction.tables import entries


def main() -> None:
    """Write `locality.csv`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder with results.jsonl.gz; locality.csv is written into it")
    parser.add_argument("--data-dir", type=Path, help="where data sets and QM9 are looked for")
    options = parser.parse_args()
    set_threads(1)
    records = read_records(options.folder / "results.jsonl.gz")
    shares = {**shares_of_sets(records, options.data_dir), **shares_of_qm9(records, options.data_dir)}
    found = [entry for entry in entries(records) if entry.pooling != "virtual_node"]
    rows = locality_rows(found, shares)
    write_text(options.folder / "locality.csv", table_text(COLUMNS, rows))


def shares_of_sets(records: list[Record], data_dir: Path | None) -> dict[str, float]:
    """Additive share of each set of Table 1 that was run."""
    paths = {"data_dir": str(data_dir)} if data_dir else {}
    cells = {record.settings["dataset"]: record for record in records if record.settings.get("fraction") == 1.0}
    return {
        name: learnable_share(labelled_table(Work(cells[name].settings, paths, {}, Path())))
        for name in BENCHMARKS
        if name in cells
    }


def shares_of_qm9(records: list[Record], data_dir: Path | None) -> dict[str, float]:
    """Additive share of each target of QM9, of the molecules that the cells were trained and validated on."""
    sizes = next(record.settings["molecules"] for record in records if record.kind == "qm9_labels")
    smiles, targets_BC, split, _ = draw_labelled(find_qm9(data_dir, fewest=sum(sizes)), sizes)
    rows = [row for row, part in enumerate(split) if part != "test"]
    known = [smiles[row] for row in rows]
    return {
        f"{QM9_PREFIX}{name}": additive_share(known, targets_BC[rows, place : place + 1])
        for place, name in enumerate(TARGETS)
    }


if __name__ == "__main__":
    main()
