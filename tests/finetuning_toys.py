"""Small labelled tables and one tiny finetuned model, shared by the tests of finetuning, prediction and their verbs."""

from __future__ import annotations

import csv
import random
from pathlib import Path

from rdkit import Chem

from dnd.common.config import load_config
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig

TAILS = ("", "O", "N", "Cl", "F", "C(=O)O", "N#C", "C=C", "S")
RINGS = ("C1CCCCC1", "c1ccccc1", "c1ccncc1", "C1CCNC1", "c1ccoc1", "C1CC1")
TINY = (
    "student.name=gine",
    "student.width=16",
    "student.num_layers=2",
    "loop.epochs=3",
    "loop.warmup_epochs=1",
    "loop.device=cpu",
    "loop.learning_rate=3e-3",
    "split=random",
    "baselines=false",
    "jobs=1",
)


def molecules() -> list[str]:
    """54 valid, distinct SMILES with 6 ring scaffolds."""
    return [f"{tail}C{ring}" if tail else f"CC{ring}" for ring in RINGS for tail in TAILS]


def heavy_atoms(smiles: str) -> int:
    return Chem.MolFromSmiles(smiles).GetNumHeavyAtoms()


def other_spelling(smiles: str, seed: int) -> str:
    """The same molecule, atoms in another order."""
    mol = Chem.MolFromSmiles(smiles)
    order = list(range(mol.GetNumAtoms()))
    random.Random(seed).shuffle(order)
    return Chem.MolToSmiles(Chem.RenumberAtoms(mol, order), canonical=False)


def write_csv(path: Path, columns: dict[str, list[object]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def write_regression(folder: Path) -> Path:
    """`smiles`, `size` (heavy atoms times 1000, so that raw units show) and a further column."""
    smiles = molecules()
    size = [1000.0 * heavy_atoms(text) for text in smiles]
    return write_csv(folder / "toy.csv", {"smiles": smiles, "size": size, "name": [f"m{i}" for i in range(len(size))]})


def write_classes(folder: Path) -> Path:
    """`smiles`, `ring` (aromatic or not) and `hetero` with every third label missing."""
    smiles = molecules()
    aromatic = [int("c1" in text) for text in smiles]
    hetero = ["" if row % 3 == 0 else int("N" in text or "O" in text) for row, text in enumerate(smiles)]
    return write_csv(folder / "classes.csv", {"smiles": smiles, "ring": aromatic, "hetero": hetero})


def tiny_config(*overrides: str) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, [*TINY, *overrides])


def tiny_model(folder: Path, *overrides: str) -> Path:
    """A MODEL folder for `size`."""
    out = folder / "model"
    quietly(write_regression(folder), out, ["size"], *overrides)
    return out


def quietly(
    data: Path, out: Path, targets: list[str], *overrides: str, encoder: str | Path = "random", **options: object
):
    config = tiny_config(*overrides)
    return finetune(data, out, targets, config, encoder=encoder, **options)
