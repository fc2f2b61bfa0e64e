"""Molecules without labels that a model teaches a student: how they are chosen, and the model's predictions for them.

They come from tables of the user's and from the pool that ships. The rows of a table are drawn where they are too many,
each molecule counts once, and the model's test molecules are left out, so that they can test the student too. What the
model says is kept in sealed pieces, so that a run that was killed asks again for one piece at most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from dnd.chemistry.identity import molecule_identity
from dnd.common.errors import CorruptFileError, InputError
from dnd.common.log import LOGGER
from dnd.common.randomness import numpy_generator
from dnd.common.sealed_records import read_record, write_record
from dnd.predictor.predictor import Predictor
from dnd.store.featurize import Featurized, as_store, featurize_smiles
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting
from dnd.tables.from_python import as_molecules

DRUGLIKE = "druglike"
"""In place of a table: 20,000 molecules that ship with the package, most of them drug-like."""

POOL = Path(str(resources.files("dnd") / "data" / "druglike.smi.gz"))
FEWEST_MOLECULES = 50
_MOST_IN_A_PIECE, _NUMBERS = 2_000, 100_000  # molecules and predictions; a kill costs one piece


@dataclass(frozen=True)
class Unlabelled:
    """Molecules that a model explains, each once.

    Attributes:
        smiles: canonical.
        known_B: whether the model learned a label of the molecule.
        store: their graphs as the student sees them.
    """

    smiles: list[str]
    known_B: Bool[np.ndarray, "molecules"]
    store: Store


def read_unlabelled(
    tables: Sequence[str | Path],
    teacher: Predictor,
    hydrogens: HydrogenSetting,
    judged: set[str],
    *,
    smiles_column: str | None,
    most: int,
    seed: int,
    jobs: int,
) -> Unlabelled:
    """The molecules of some tables.

    Args:
        tables: files of any format that `dnd` reads, or `druglike` for the pool that ships.
        teacher: model that tells which of them it was trained or tested on.
        hydrogens: as the student sees molecules.
        judged: identities that are left out.
        smiles_column: SMILES column of the tables; None = that of the model, else found by name or content.
        most: largest number of rows of a table; larger tables are subsampled at random.
        seed: random seed of the draw.
        jobs: worker processes.

    Raises:
        InputError: a table can't be read, or too few molecules are left.
    """
    found: dict[str, Featurized] = {}
    for number, table in enumerate(tables):
        texts = _texts(table, smiles_column, teacher)
        if len(texts) > most:
            drawn = np.sort(numpy_generator(seed, "unlabelled rows", number).permutation(len(texts))[:most])
            LOGGER.info(f"{table}: {most} of {len(texts)} rows drawn at random")
            texts = [texts[row] for row in drawn.tolist()]
        before = len(found)
        for one in featurize_smiles(texts, hydrogens, jobs=jobs):
            identity = molecule_identity(one.smiles) if one.graph is not None else ""
            if identity and identity not in judged:
                found.setdefault(identity, one)
        LOGGER.info(f"{table}: {len(found) - before} new molecules in {len(texts)} rows")
    if len(found) < FEWEST_MOLECULES:
        raise InputError(
            "too few molecules to teach a student",
            found=len(found),
            expected=f"at least {FEWEST_MOLECULES} that the model was not judged by",
            next_step=f"Add a table with --molecules, or leave it out for the {DRUGLIKE} molecules that ship",
        )
    known = teacher.knows(list(found))
    known_B = np.zeros(len(found), bool) if known is None else np.array(known, bool)
    molecules = list(found.values())
    return Unlabelled([one.smiles for one in molecules], known_B, as_store(molecules, hydrogens))


def _texts(table: str | Path, smiles_column: str | None, teacher: Predictor) -> list[str]:
    if str(table) == DRUGLIKE:
        return as_molecules(POOL).texts
    return as_molecules(Path(table), smiles_column, remembered=teacher.smiles_column).texts


def taught_values(teacher: Predictor, smiles: Sequence[str], folder: Path) -> Float[np.ndarray, "molecules targets"]:
    """What a model says of molecules, in the targets' units or as probabilities; NaN rows where it says nothing.

    Args:
        teacher: the model.
        smiles: canonical.
        folder: folder of the pieces; existing pieces are not computed again.
    """
    targets = len(teacher.targets)
    size = min(_MOST_IN_A_PIECE, max(100, _NUMBERS // targets))
    pieces = []
    for number, start in enumerate(range(0, len(smiles), size)):
        path, texts = folder / f"piece-{number:04d}.json", list(smiles[start : start + size])
        if not path.is_file():
            values_BC, _ = teacher.predict_values(texts)
            rows = [[None if math.isnan(value) else value for value in row] for row in values_BC.tolist()]
            write_record(path, {"values": rows})
            LOGGER.info(f"the model has predicted {start + len(texts)} of {len(smiles)} molecules")
        piece = np.array(read_record(path)["values"], dtype=np.float64)
        if piece.shape != (len(texts), targets):
            raise CorruptFileError(
                f"{path} has predictions of other molecules", found=piece.shape, expected=(len(texts), targets)
            )
        pieces.append(piece)
    return np.concatenate(pieces)
