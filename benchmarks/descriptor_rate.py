"""Rate of `dnd.chemistry.descriptors` and of the fingerprints beside RDKit's own functions, in the same run.

    python benchmarks/descriptor_rate.py SMILES [--molecules 1000] [--largest 10000] [--parts]

SMILES is a text or .csv file, also .gz, whose first column holds SMILES. The sides alternate in blocks of 100
molecules, so that all see the same machine; each side gets molecules of its own, as RDKit caches on them. `dnd`'s
descriptors get a block in one call, as in a prediction; RDKit's `CalcMolDescriptors` takes one molecule. CPU time;
set OMP_NUM_THREADS=1. The first block is counted too: what is learned per class of atom belongs to the cost.

With --parts each part of `dnd`'s is timed for itself instead, for the second half of the molecules: what is shared (a
leading dot), each family, the queries of fragments, and each of RDKit's single functions.
"""

from __future__ import annotations

import argparse
import gzip
import random
import time
from collections import Counter
from functools import cached_property
from pathlib import Path

import numpy as np
from rdkit import Chem, RDLogger
from rdkit.Chem import Descriptors

from dnd.chemistry.descriptors import DESCRIPTOR_NAMES, DescriptorCalculator, _fragment_count, _or_nan, _Subject
from dnd.chemistry.fingerprints import FINGERPRINTS, fingerprint

BLOCK = 100
"""Molecules of one call of `of_all`, as in `dnd.predictor.classical.features`."""


def read_smiles(path: Path) -> list[str]:
    """First column of every line that RDKit can read."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as lines:
        texts = [line.replace(",", " ").split()[0] for line in lines if line.strip()]
    return texts[1:] if texts[0].lower() == "smiles" else texts


def each(function):
    """The function that calls `function` for every molecule of a block."""
    return lambda molecules: [function(molecule) for molecule in molecules]


def cpu_seconds(function, molecules) -> float:
    """CPU seconds of one function on all molecules."""
    start = time.process_time()
    function(molecules)
    return time.process_time() - start


def cost_of_parts(texts: list[str]) -> None:
    """Print CPU milliseconds a molecule of each part, the largest first."""
    calculator, spent, half = DescriptorCalculator(), Counter(), len(texts) // 2
    for text in texts[:half]:
        calculator(Chem.MolFromSmiles(text))
    shared = [name for name, value in vars(_Subject).items() if isinstance(value, cached_property)]
    molecules = [Chem.MolFromSmiles(text) for text in texts[half:]]
    subjects = [_Subject(molecule) for molecule in molecules]

    def timed(name, function, own=subjects) -> None:
        spent[name] += cpu_seconds(each(function), own)

    with np.errstate(all="ignore"):
        for name in shared:
            timed(f". {name}", lambda subject, name=name: getattr(subject, name))
        for family, *_ in calculator._families:
            timed(family.__name__, family)
        fragments = {source: name for source, (_, name) in calculator._fragments.items()}
        timed(
            "fragments",
            lambda subject: [
                _fragment_count(subject, source, fragments[source])
                for source in subject.answers.possible & fragments.keys()
            ],
        )
        for function, place in calculator._singles:
            timed(calculator.names[place], lambda molecule, function=function: _or_nan(function, molecule), molecules)
    for name, seconds in spent.most_common():
        print(f"{name:30}{seconds / (len(texts) - half) * 1e3:15.3f}")


def main() -> None:
    """Time both on the molecules of a file, in one run, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("smiles", type=Path, help="file of SMILES")
    parser.add_argument("--molecules", type=int, default=1000, help="molecules drawn at random")
    parser.add_argument("--largest", type=int, default=10_000, help="most atoms of a molecule drawn")
    parser.add_argument("--parts", action="store_true", help="time the parts of dnd's")
    given = parser.parse_args()
    RDLogger.DisableLog("rdApp.*")
    texts = read_smiles(given.smiles)
    random.Random(0).shuffle(texts)
    drawn: list[str] = []
    for text in texts:
        molecule = Chem.MolFromSmiles(text)
        if molecule is not None and 0 < molecule.GetNumAtoms() <= given.largest:
            drawn.append(text)
        if len(drawn) == given.molecules:
            break
    if given.parts:
        return cost_of_parts(drawn)
    sides = {
        "RDKit, all 217": each(Descriptors.CalcMolDescriptors),
        "dnd, all 217": DescriptorCalculator().of_all,
        "dnd, all 217, one by one": each(DescriptorCalculator()),
        "dnd, 85 fragments": DescriptorCalculator([name for name in DESCRIPTOR_NAMES if name.startswith("fr_")]).of_all,
        "dnd, TPSA and MolLogP": DescriptorCalculator(["TPSA", "MolLogP"]).of_all,
    }
    sides |= {f"dnd, {name}": each(lambda molecule, name=name: fingerprint(name, molecule)) for name in FINGERPRINTS}
    spent = dict.fromkeys(sides, 0.0)
    for first in range(0, len(drawn), BLOCK):
        for name, function in sides.items():
            molecules = [Chem.MolFromSmiles(text) for text in drawn[first : first + BLOCK]]
            spent[name] += cpu_seconds(function, molecules)
    sizes = [Chem.MolFromSmiles(text).GetNumAtoms() for text in drawn]
    print(f"{len(drawn)} molecules, {np.mean(sizes):.1f} atoms on average, at most {max(sizes)}")
    print(f"{'what':30}{'ms a molecule':>15}{'x RDKit':>10}")
    for name, seconds in spent.items():
        print(f"{name:30}{seconds / len(drawn) * 1e3:15.3f}{spent['RDKit, all 217'] / seconds:10.1f}")


if __name__ == "__main__":
    main()
