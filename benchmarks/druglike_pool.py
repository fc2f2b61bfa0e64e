"""Draw the molecules that ship for `dnd compress`: `src/dnd/data/druglike.smi.gz`.

    python benchmarks/druglike_pool.py druglike_pool.csv.gz [--drug-like 15000] [--small 5000] [--seed 0]

The input has a column `smiles` of drug-like molecules. To those drawn from it come small organic ones, drawn from the
training parts of `data/physchem`, as many tables of measured properties hold such molecules. Left out, whatever the
spelling and stereochemistry (first block of the InChIKey): the validation and test molecules of the 14 data sets of
`data/` and those of `data/held_out_molecules.txt.gz`. No label is read. One canonical SMILES a line, sorted.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from rdkit import RDLogger

from dnd.chemistry.identity import connectivity_key
from dnd.chemistry.parse import parse_smiles
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "src" / "dnd" / "data" / "druglike.smi.gz"
HELD_OUT = ROOT / "data" / "held_out_molecules.txt.gz"
MOST_ATOMS = 60


def digest_of(key: str) -> str:
    """As `held_out_molecules.txt.gz` has it."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def judged_molecules() -> set[str]:
    """Digests of all that later scores are of."""
    found = set(gzip.decompress(HELD_OUT.read_bytes()).decode().split())
    for name in BENCHMARKS:
        data = load_benchmark(name, ROOT / "data")
        for row in np.concatenate([data.parts["valid"], data.parts["test"]]).tolist():
            molecule = parse_smiles(data.smiles[row])
            if molecule.ok:
                found.add(digest_of(connectivity_key(molecule.mol)))
    return found


def small_molecules() -> list[str]:
    """Texts of the training parts of the four tables of physical properties."""
    texts: list[str] = []
    for name, benchmark in BENCHMARKS.items():
        if benchmark.group == "physchem":
            data = load_benchmark(name, ROOT / "data")
            texts += [data.smiles[row] for row in data.parts["train"].tolist()]
    return texts


def usable(texts: Iterable[str], left_out: set[str]) -> Iterator[str]:
    """Canonical SMILES of those that may be in the pool, each connectivity once; `left_out` grows by them."""
    for text in texts:
        molecule = parse_smiles(text)
        if not molecule.ok or "." in molecule.smiles or not 2 <= molecule.mol.GetNumHeavyAtoms() <= MOST_ATOMS:
            continue
        digest = digest_of(connectivity_key(molecule.mol))
        if digest not in left_out:
            left_out.add(digest)
            yield molecule.smiles


def drawn(texts: list[str], count: int, seed: int, left_out: set[str]) -> list[str]:
    """The first `count` usable ones of a random order."""
    order = np.random.default_rng(seed).permutation(len(texts))
    found = usable((texts[place] for place in order), left_out)
    return [smiles for _, smiles in zip(range(count), found, strict=False)]


def main() -> None:
    """Draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pool", type=Path, help="CSV with a column smiles, .gz")
    parser.add_argument("--drug-like", type=int, default=15_000)
    parser.add_argument("--small", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    with gzip.open(given.pool, "rt", newline="") as stream:
        texts = [row["smiles"] for row in csv.DictReader(stream)]
    left_out = judged_molecules()
    found = drawn(small_molecules(), given.small, given.seed, left_out)
    found += drawn(texts, given.drug_like, given.seed, left_out)
    content = "".join(f"{smiles}\n" for smiles in sorted(found)).encode()
    OUT.write_bytes(gzip.compress(content, 9, mtime=0))
    print(f"{OUT}: {len(found)} molecules, {OUT.stat().st_size:,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
