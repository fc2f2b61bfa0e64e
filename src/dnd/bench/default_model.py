"""What the model of `dnd finetune` costs as it is by default: its predictions, the descriptors in them, and its fit."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import Descriptors

from dnd.bench.measure import Table, Variant, drug_like_smiles, measure, random_predictor, solubility_rows
from dnd.chemistry.parse import parse_smiles
from dnd.common.compute import set_threads
from dnd.common.config import DEFAULT_MODEL, model_folder
from dnd.common.log import muted
from dnd.finetuning.evaluation import fit_forests
from dnd.interface.stages import finetune
from dnd.models.students.encoders import DEFAULT_ENCODER
from dnd.predictor.classical.features import (
    COUNTS,
    DESCRIPTORS,
    LEAN_DESCRIPTORS,
    Layout,
    descriptors_2d,
    features_of,
)
from dnd.predictor.predictor import Predictor

TRAINING_ROWS = 300
BLOCK = 100  # molecules whose descriptors are computed together, as in a prediction
_RDKIT = "RDKit CalcMolDescriptors"
_LEAN = f"the {len(LEAN_DESCRIPTORS)} that members see beside a representation"
_FORESTS = "random forests on counts and on descriptors"


def bench_default_model(molecules: int, repetitions: int) -> Iterator[Table]:
    """Descriptors, predictions and the fit, each beside what a chemist would use without `dnd`.

    Args:
        molecules: per repetition, of predictions and descriptors.
        repetitions: number of repetitions of every variant.
    """
    set_threads()
    texts, name = drug_like_smiles(molecules)
    smiles = [text for text in texts if parse_smiles(text).ok]
    note = f"{len(smiles)} molecules of {name}; {repetitions} repetitions"
    rows = _labelled_rows()
    with tempfile.TemporaryDirectory() as scratch:
        yield _predictions(smiles, _fitted(rows, Path(scratch) / "model"), note, repetitions)
        yield _descriptors(smiles, note, repetitions)
        yield _fit(rows, Path(scratch), repetitions)


def _rdkit_descriptors(mol: Chem.Mol) -> object:
    return Descriptors.CalcMolDescriptors(mol)  # type: ignore[no-untyped-call]


def _labelled_rows() -> dict[str, list[str]]:
    rows = solubility_rows()[:TRAINING_ROWS]
    return {column: [row[column] for row in rows] for column in ("smiles", "logS")}


def _fitted(rows: dict[str, list[str]], folder: Path) -> Predictor:
    with muted(progress=True):
        return finetune(rows, "logS", folder, settings={"jobs": 1}, verbose=False).predictor


def _predictions(smiles: list[str], model: Predictor, note: str, repetitions: int) -> Table:
    """Whole predictions, with intervals and domain where the model has them."""
    student = Predictor(random_predictor(DEFAULT_ENCODER), device="cpu")
    properties = Predictor.load(model_folder(DEFAULT_MODEL), device="cpu")
    predict: dict[str, Callable[[], object]] = {
        _RDKIT: lambda: [_rdkit_descriptors(Chem.MolFromSmiles(text)) for text in smiles],
        "a model of the default recipe": lambda: model.predict(smiles),
        "the 33 ready-made properties": lambda: properties.predict(smiles),
        "one student of the size of dnd-base": lambda: student.predict(smiles),
    }
    variants = [Variant(name, run, len(smiles)) for name, run in predict.items()]
    return Table("SMILES -> answer", "molecule", _RDKIT, measure(variants, repetitions), notes=(note,))


def _descriptors(smiles: list[str], note: str, repetitions: int) -> Table:
    """From parsed molecules, new ones for each side and repetition, as RDKit keeps what it has computed of one."""

    def mols() -> list[Chem.Mol]:
        return [Chem.MolFromSmiles(text) for text in smiles]

    def of_blocks(*names: tuple[str, ...]) -> list[np.ndarray]:
        own = mols()
        return [descriptors_2d(own[first : first + BLOCK], *names) for first in range(0, len(own), BLOCK)]

    variants = [
        Variant(_RDKIT, lambda: [_rdkit_descriptors(mol) for mol in mols()], len(smiles)),
        Variant("the same 217 in blocks", of_blocks, len(smiles)),
        Variant(_LEAN, lambda: of_blocks(LEAN_DESCRIPTORS), len(smiles)),
    ]
    return Table("SMILES -> descriptors", "molecule", _RDKIT, measure(variants, repetitions), notes=(note,))


def _fit(rows: dict[str, list[str]], scratch: Path, repetitions: int) -> Table:
    """A whole finetuning, with its report and the forests that it is compared with, beside those forests alone."""
    labels_BC, layout = np.array(rows["logS"], dtype=float)[:, None], Layout(sets=(COUNTS, DESCRIPTORS))
    count = iter(range(repetitions + 1))

    def forests() -> None:
        x_BF = features_of(rows["smiles"], None, layout).x_BF
        for name in layout.sets:
            fit_forests(x_BF[:, layout.columns(name)], labels_BC, np.arange(len(labels_BC)), "regression")

    variants = [
        Variant(_FORESTS, forests, TRAINING_ROWS),
        Variant(
            "dnd finetune, with report and baselines", lambda: _fitted(rows, scratch / str(next(count))), TRAINING_ROWS
        ),
    ]
    note = f"{TRAINING_ROWS} rows of esol, columns smiles and logS; {repetitions} repetitions"
    return Table("table -> model", "row", _FORESTS, measure(variants, repetitions), notes=(note,))
