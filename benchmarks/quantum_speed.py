"""How much faster a student answers than the calculation it learned from, in the same run on one thread.

    python benchmarks/quantum_speed.py ENCODER -o docs/results/encoder/quantum_speed.json

Molecules of a table go the long way, a conformer (ETKDGv3, MMFF94s) and three GFN2-xTB calculations each, and the short
way, from SMILES through the graph to the encoder's heads of quantum chemistry. CPU seconds of each, and how well the
short way agrees with the long one. Molecules that teach nothing: the validation parts of the data sets, which no term
has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from scipy import stats

from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.compute import numpy_generator, set_threads
from dnd.common.files import package_versions, write_text
from dnd.conformers.generate import generate_conformers
from dnd.conformers.quantum import quantum_values
from dnd.models.students.encoders import load_encoder, load_heads
from dnd.predictor.ensemble import run_over
from dnd.pretraining.auxiliary import QUANTUM_TARGETS, quantum_targets
from dnd.reproduction.benchmarks import load_benchmark
from dnd.store.featurize import valid_molecules


def main() -> None:
    """Measure both ways and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=["lipo", "bace", "freesolv"])
    parser.add_argument("--molecules", type=int, default=60, help="of each set, at most")
    options = parser.parse_args()
    set_threads(1)
    record = {
        "encoder": options.encoder,
        "sets": {name: measure(options.encoder, name, options.molecules) for name in options.sets},
        "machine": f"{platform.machine()}, one thread",
        "versions": package_versions(),
    }
    write_text(options.out, json.dumps(record, indent=1) + "\n")
    for name, own in record["sets"].items():
        print(
            f"{name}: {own['ratio']:.0f} x as fast; "
            + ", ".join(f"{q} r {v['r']:.2f}" for q, v in own["agreement"].items())
        )


def measure(encoder: str, name: str, most: int) -> dict[str, object]:
    """Seconds per molecule of both ways, and their agreement, on molecules of a validation part."""
    data = load_benchmark(name)
    rows = numpy_generator(0, "quantum speed").permutation(data.parts["valid"])[:most]
    smiles = [data.smiles[row] for row in rows]
    started = time.process_time()
    calculated = [long_way(text) for text in smiles]
    long_seconds = time.process_time() - started
    predict = short_way(encoder)
    predict(smiles)  # imports and first calls are not counted
    started = time.process_time()
    predicted_BC, places = predict(smiles)
    short_seconds = time.process_time() - started
    known = [
        (calculated[place], predicted_BC[row]) for row, place in enumerate(places) if calculated[place] is not None
    ]
    truth_BC, ours_BC = (np.array(values) for values in zip(*known, strict=True))
    agreement = {
        quantity: {
            "r": round(float(stats.pearsonr(truth_BC[:, column], ours_BC[:, column])[0]), 4),
            "mae": round(float(np.abs(truth_BC[:, column] - ours_BC[:, column]).mean()), 4),
            "deviation": round(float(truth_BC[:, column].std()), 4),
            "unit": unit,
        }
        for column, (quantity, unit) in enumerate(QUANTUM_TARGETS.items())
    }
    return {
        "molecules": len(smiles),
        "calculated": len(known),
        "calculation_s": round(long_seconds / len(smiles), 5),
        "student_s": round(short_seconds / len(smiles), 6),
        "ratio": round(long_seconds / short_seconds, 1),
        "agreement": agreement,
    }


def long_way(smiles: str) -> np.ndarray | None:
    """Conformer and calculation; None where either fails."""
    molecule = parse_smiles(smiles)
    if not isinstance(molecule, Molecule):
        return None
    generated = generate_conformers(molecule, 1, seed=0)
    if isinstance(generated, str):
        return None
    values = quantum_values(molecule.mol, generated.positions_JA3[0])
    if isinstance(values, str):
        return None
    return quantum_targets(values.molecule()[None], np.array([molecule.mol.GetNumAtoms()]))[0]


def short_way(encoder: str) -> Callable[[list[str]], tuple[np.ndarray, np.ndarray]]:
    """A function from SMILES to the quantum properties, in the order of `QUANTUM_TARGETS`, and their places."""
    student, description = load_encoder(encoder)
    heads = load_heads(encoder)
    quantum = heads.of_terms({"quantum"}) if heads else None
    if quantum is None:
        raise SystemExit(f"{encoder} has no heads of quantum chemistry")
    assert quantum.names == list(QUANTUM_TARGETS), "the heads are in the order of the quantities"

    def predict(smiles: list[str]) -> tuple[np.ndarray, np.ndarray]:
        found = valid_molecules(smiles, description["hydrogens"])
        with torch.no_grad():
            values = run_over(
                lambda graph: quantum(student(graph), graph), student, found.store, np.arange(len(found.store))
            )
        return values, found.places

    return predict


if __name__ == "__main__":
    main()
