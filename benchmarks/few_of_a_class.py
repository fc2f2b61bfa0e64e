"""How many molecules of the rarer class Platt's scaling needs: log loss and Brier score with it and without.

    python benchmarks/few_of_a_class.py OUT      some seconds; OUT/molecules.npz is that of benchmarks/properties.py
    python benchmarks/few_of_a_class.py draw     the table of docs/results/properties.md

The probabilities are those of `dnd-properties` before calibration, on the validation parts of its two-class properties,
which taught no weights. From each property so many molecules of the rarer class are drawn, with as many of the other
as makes the share that the property has; they fit the scaling, and all other molecules of the part judge it. ClinTox,
which the answer is for, takes no part. No test part is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from properties_data import HYDROGENS, PROPERTIES, ROOT, Molecules
from result_lines import read_lines

from dnd.common.files import write_text
from dnd.predictor.ensemble import run_over, to_raw_units
from dnd.predictor.predictor import Predictor
from dnd.predictor.uncertainty.classes import Platt, log_losses
from dnd.predictor.uncertainty.intervals import HeldOut, Predicted
from dnd.store.featurize import valid_molecules
from dnd.tables.writers import csv_text

RARE, DRAWS, SEED = (3, 5, 7, 10, 15), 10, 0
FEWEST_TO_JUDGE = 12  # of the rarer class, beside those that fit
LINES = ROOT / "docs" / "results" / "properties" / "few_of_a_class.csv"
PAGE = ROOT / "docs" / "results" / "properties.md"
BEGIN, END = "<!-- drawn from properties/few_of_a_class.csv -->", "<!-- end of few of a class -->"
COLUMNS = ("rare", "property", "draws", "log_loss_before", "log_loss", "brier_before", "brier")


def drawn_rows(labels_B: np.ndarray, rare: int, random: np.random.Generator) -> np.ndarray:
    """Rows that fit: `rare` of the rarer class, and of the other so many that the share stays."""
    rarer = float(labels_B.mean() < 0.5)
    own, others = (random.permutation(np.flatnonzero((labels_B == rarer) == is_rare)) for is_rare in (True, False))
    return np.concatenate([own[:rare], others[: round(rare * len(others) / len(own))]])


def scores(labels_B: np.ndarray, values_B: np.ndarray, rare: int, random: np.random.Generator) -> list[float] | None:
    """Log loss and Brier score before and after, of the molecules that did not fit; None where nothing was fitted."""
    fits = drawn_rows(labels_B, rare, random)
    judges = np.setdiff1d(np.arange(len(labels_B)), fits)
    scaling = Platt.fit(HeldOut(labels_B[fits], Predicted(values_B[fits])), fewest=1)
    if scaling is None:
        return None
    found = []
    for predicted in (Predicted(values_B[judges]), Predicted(scaling.apply(Predicted(values_B[judges])))):
        found += [log_losses(labels_B[judges], predicted).mean(), ((predicted.values - labels_B[judges]) ** 2).mean()]
    return [float(found[place]) for place in (0, 2, 1, 3)]


def measure(molecules: Molecules) -> list[dict[str, object]]:
    """A line per number of molecules and property."""
    valid = np.flatnonzero((molecules.part_BC == 2).any(axis=1))
    store = valid_molecules([molecules.smiles[row] for row in valid], HYDROGENS).store
    member = Predictor.load("dnd-properties", device="cpu").parts.members[0]
    values_BC = to_raw_units(
        run_over(member.network, member.network.student, store, np.arange(len(valid))), member.targets
    )
    place_of = {target.name: place for place, target in enumerate(member.targets)}
    lines: list[dict[str, object]] = []
    for rare in RARE:
        random = np.random.default_rng(SEED)
        for column, one in enumerate(PROPERTIES):
            known_B = molecules.part_BC[valid, column] == 2
            labels_B = molecules.labels_BC[valid[known_B], column]
            counts = sorted([(labels_B == 1).sum(), (labels_B == 0).sum()])
            if one.kind != "classification" or one.source == "clintox" or counts[0] < max(RARE) + FEWEST_TO_JUDGE:
                continue
            own = [scores(labels_B, values_BC[known_B, place_of[one.name]], rare, random) for _ in range(DRAWS)]
            fitted = np.array([line for line in own if line is not None])
            means = [f"{mean:.5f}" for mean in fitted.mean(axis=0)]
            lines.append(dict(zip(COLUMNS, [rare, one.name, len(fitted), *means], strict=True)))
    return lines


def table(lines: list[dict[str, str]]) -> str:
    """Means over the properties, a line per number of molecules."""
    found = [
        "| molecules of the rarer class | properties | log loss without → with | Brier score | better in |",
        "|---|---|---|---|---|",
    ]
    for rare in dict.fromkeys(line["rare"] for line in lines):
        own = [line for line in lines if line["rare"] == rare]
        mean = {name: np.mean([float(line[name]) for line in own]) for name in COLUMNS[3:]}
        better = sum(float(line["log_loss"]) < float(line["log_loss_before"]) for line in own)
        found.append(
            f"| {rare} | {len(own)} | {mean['log_loss_before']:.3f} → {mean['log_loss']:.3f} | "
            f"{mean['brier_before']:.4f} → {mean['brier']:.4f} | {better} |"
        )
    return "\n".join(found)


def drawn(page: str, lines: list[dict[str, str]]) -> str:
    """The page with its table drawn anew."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(lines)}\n{END}{rest.partition(END)[2]}"


def main(given: str) -> None:
    """Measure, or draw."""
    if given == "draw":
        write_text(PAGE, drawn(PAGE.read_text(encoding="utf-8"), read_lines(LINES)))
        return
    lines = measure(Molecules.read(Path(given) / "molecules.npz"))
    write_text(LINES, csv_text(COLUMNS, [list(line.values()) for line in lines]))
    print(table(read_lines(LINES)))


if __name__ == "__main__":
    main(sys.argv[1])
