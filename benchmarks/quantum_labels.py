"""Quantum-chemical labels of many conformers, hour by hour: made once, packed small, and given to `dnd prepare`.

    python benchmarks/quantum_labels.py make -o runs/labels --source qm9_3d.npz 400 --source druglike.npz 300
    python benchmarks/quantum_labels.py pack runs/labels -o packed
    dnd prepare qm9_3d.npz -o store --hydrogens teacher_all_student_heavy --quantum packed/qm9_3d-quantum.npz

A piece is so many molecules of each source, the next of a random order that the seed fixes, so that the pieces made so
far are a random sample at any time, and more pieces can follow later. One worker process calculates (GFN2-xTB by
tblite; see `dnd.conformers.quantum`); a molecule that takes too long or fails is a reason in the file. Every piece is
written whole: after a kill the same command resumes with the first one that is missing. `pack` may run meanwhile. On
another machine `--done FOLDER` names packed files of before: their pieces are not made again, and `pack` joins them.

Measured on one core of an Intel Xeon at 2.1 GHz: 0.02 s for a molecule of QM9, 0.33 s for a drug-like one.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnd.common.compute import numpy_generator
from dnd.common.errors import ConfigError
from dnd.common.files import folder_lock, read_json, sha256_file, write_json
from dnd.common.workers import Failure, WorkerPool
from dnd.conformers.formats import open_arrays
from dnd.conformers.quantum import ACCURACY, QuantumLabel, QuantumLabels, joined, require_tblite

SETTINGS = "labels.json"


class Source(NamedTuple):
    """An .npz of conformers, and how many of its molecules are in a piece."""

    path: Path
    per_piece: int
    molecules: int

    def rows(self, seed: int, piece: int) -> np.ndarray:
        """Rows of a piece, ascending; empty after the last molecule."""
        order = numpy_generator(seed, f"quantum labels of {self.path.name}").permutation(self.molecules)
        return np.sort(order[piece * self.per_piece : (piece + 1) * self.per_piece])


def main() -> None:
    """Make or pack."""
    arguments = _arguments()
    out, done = Path(arguments.out), Path(arguments.done) if arguments.done else None
    if arguments.command == "pack":
        for path in pack(Path(arguments.labels), out, done):
            print(f"{path}: {path.stat().st_size:,} bytes, {len(QuantumLabels.read(path).arrays['rows']):,} molecules")
        return
    sources = [(Path(path), int(number)) for path, number in arguments.source]
    make(out, sources, arguments.pieces, arguments.seed, arguments.timeout_s, done)


def make(
    out: Path, sources: list[tuple[Path, int]], pieces: int, seed: int, timeout_s: float, done: Path | None = None
) -> None:
    """Make the pieces that are missing and not in the packed files of the folder `done`."""
    version = require_tblite()
    given = [Source(path, number, open_arrays(path).total or 0) for path, number in sources]
    settings = {
        "sources": [[source.path.name, source.per_piece, sha256_file(source.path)] for source in given],
        "seed": seed,
        "accuracy": ACCURACY,
        "tblite": version,
    }
    known = {source: _known(done, source.path.stem) for source in given}
    with folder_lock(out):
        if (out / SETTINGS).is_file() and (found := read_json(out / SETTINGS)) != settings:
            raise ConfigError(f"{out} holds other labels", found=found, expected=settings)
        write_json(out / SETTINGS, settings)
        for piece, source in itertools.product(range(pieces), given):
            path, rows = out / _piece_name(source, piece), source.rows(seed, piece)
            if len(rows) and not path.is_file() and not known[source].issuperset(rows.tolist()):
                _make_piece(path, source, rows, timeout_s)


def _known(done: Path | None, stem: str) -> set[int]:
    """Rows of a source that a packed file has, with a label or with the reason why not."""
    path = None if done is None else done / f"{stem}-quantum.npz"
    if path is None or not path.is_file():
        return set()
    labels = QuantumLabels.read(path)
    return {*labels.arrays["rows"].tolist(), *labels.failures}


def pack(folder: Path, out: Path, done: Path | None = None) -> list[Path]:
    """Join all pieces of each source, and what `done` has of it, into one file; returns the files."""
    packed = []
    for name, _, _ in read_json(folder / SETTINGS)["sources"]:
        stem = Path(name).stem
        paths = sorted(folder.glob(f"{stem}-[0-9]*.npz"))
        if done is not None and (kept := done / f"{stem}-quantum.npz").is_file():
            paths.append(kept)
        parts = [QuantumLabels.read(path) for path in paths]
        if parts:
            packed.append(out / f"{stem}-quantum.npz")
            joined(parts).write(packed[-1])
    return packed


def _piece_name(source: Source, piece: int) -> str:
    return f"{source.path.stem}-{piece:05d}.npz"


def _make_piece(path: Path, source: Source, rows: np.ndarray, timeout_s: float) -> None:
    started = time.monotonic()
    wanted = np.zeros(source.molecules, dtype=bool)
    wanted[rows] = True
    records = itertools.compress(open_arrays(source.path).records, wanted)
    outcomes: dict[int, QuantumLabel | str] = {}
    with WorkerPool(
        "dnd.conformers.quantum:make_labeller", settings={"accuracy": ACCURACY}, timeout_s=timeout_s
    ) as pool:
        for row, outcome in zip(rows.tolist(), pool.map(records), strict=True):
            outcomes[row] = outcome.reason if isinstance(outcome, Failure) else outcome
    labels = QuantumLabels.of(source.path.name, source.molecules, outcomes)
    labels.write(path)
    seconds = time.monotonic() - started
    print(
        f"{time.strftime('%H:%M:%S')} {path.name}: {len(labels.arrays['rows'])} of {len(rows)} molecules, "
        f"{seconds:.0f} s, {seconds / len(rows):.3f} s each; failed: {sorted(set(labels.failures.values()))}",
        flush=True,
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    maker = commands.add_parser("make", help="make the pieces that are missing")
    maker.add_argument("-o", "--out", required=True, help="folder of the pieces")
    maker.add_argument("--source", nargs=2, action="append", required=True, metavar=("NPZ", "MOLECULES_PER_PIECE"))
    maker.add_argument("--pieces", type=int, default=100)
    maker.add_argument("--seed", type=int, default=0)
    maker.add_argument("--timeout-s", type=float, default=300.0, help="seconds per molecule")
    packer = commands.add_parser("pack", help="one file per source")
    packer.add_argument("labels", help="folder of the pieces")
    packer.add_argument("-o", "--out", required=True, help="folder of the packed files")
    for command in (maker, packer):
        command.add_argument("--done", help="folder of packed files of before, which count as made")
    return parser.parse_args()


if __name__ == "__main__":
    main()
