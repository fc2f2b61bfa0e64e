"""How many conformers of published files are taken for those of their SMILES, and how many mirror images are noticed.

    python benchmarks/geometry_acceptance.py FILE.npz... -o docs/results/geometry/geometry.jsonl --every 100

A rejected geometry of a quantum calculation is most often a false alarm; an accepted mirror image of a chiral molecule
is a wrong molecule that nothing tells.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger

from dnd.conformers.atom_matching import Misfit, place
from dnd.conformers.formats import open_sources
from dnd.conformers.records import Record
from dnd.store.writer import without_numbers

MIRROR = np.array([-1.0, 1.0, 1.0], np.float32)


def is_its_own_mirror_image(smiles: str) -> bool:
    """Whether all centres turned round give the same canonical SMILES."""
    mol = Chem.MolFromSmiles(smiles)
    for atom in mol.GetAtoms():
        atom.InvertChirality()
    return Chem.CanonSmiles(Chem.MolToSmiles(mol)) == Chem.CanonSmiles(smiles)


def told(record: Record) -> str:
    """`accepted`, or the kind of the reason."""
    found = place(record)
    return without_numbers(found.reason) if isinstance(found, Misfit) else "accepted"


def count(path: Path, every: int, most_s: float) -> dict[str, object]:
    """Outcomes of every `every`-th record of a file, and of the mirror images of the chiral ones that were accepted."""
    begin, read = time.monotonic(), 0
    outcomes: Counter[str] = Counter()
    mirrors: Counter[str] = Counter()
    for number, record in enumerate(open_sources([path])[0].records):
        if number % every:
            continue
        if time.monotonic() - begin > most_s:
            break
        read = number + 1
        outcome = told(record)
        outcomes[outcome] += 1
        if outcome == "accepted" and "@" in record.smiles[0] and not is_its_own_mirror_image(record.smiles[0]):
            mirrors[told(replace(record, positions_A3=record.positions_A3 * MIRROR))] += 1
    common = {"file": path.name, "every": every, "first_records": read}
    return {**common, "as_published": dict(outcomes.most_common()), "mirrored": dict(mirrors.most_common())}


def main() -> None:
    """Count each file, a line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--most-seconds", type=float, default=600.0, help="for each file")
    given = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with given.out.open("w") as out:
        for path in given.files:
            line = json.dumps(count(path, given.every, given.most_seconds))
            print(line)
            out.write(line + "\n")


if __name__ == "__main__":
    main()
