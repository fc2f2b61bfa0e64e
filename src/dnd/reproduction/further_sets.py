"""Twenty-one regression sets beside the paper's: fifteen of MoleculeACE and the six endpoints of Biogen's ADME data.

They are read from the folders `moleculeace/` and `biogen_adme/` of the data; their README has sources and licences.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from dnd.chemistry.splits import scaffold_split
from dnd.common.config import look_up
from dnd.common.errors import CorruptFileError, InputError
from dnd.reproduction.benchmarks import search_path

_ACE_TARGET, _ACE_CLIFF, _ACE_SPLIT = "y [pEC50/pKi]", "cliff_mol", "split"
_BIOGEN_TABLE = "biogen_adme/ADME_public_set_3521.csv.gz"
_ACE_SETS = (
    "CHEMBL1871_Ki", "CHEMBL2034_Ki", "CHEMBL214_Ki", "CHEMBL218_EC50", "CHEMBL231_Ki", "CHEMBL233_Ki",
    "CHEMBL235_EC50", "CHEMBL236_Ki", "CHEMBL238_Ki", "CHEMBL239_EC50", "CHEMBL264_Ki", "CHEMBL287_Ki",
    "CHEMBL3979_EC50", "CHEMBL4203_Ki", "CHEMBL4792_Ki",
)  # fmt: skip
_BIOGEN_TARGETS = {
    "biogen-hlm": "LOG HLM_CLint (mL/min/kg)",
    "biogen-mdr1": "LOG MDR1-MDCK ER (B-A/A-B)",
    "biogen-solubility": "LOG SOLUBILITY PH 6.8 (ug/mL)",
    "biogen-hppb": "LOG PLASMA PROTEIN BINDING (HUMAN) (% unbound)",
    "biogen-rppb": "LOG PLASMA PROTEIN BINDING (RAT) (% unbound)",
    "biogen-rlm": "LOG RLM_CLint (mL/min/kg)",
}
MOLECULEACE = tuple(_ACE_SETS)
"""Potencies at a target, with the official split into training and test part; RMSE in log units."""
BIOGEN = tuple(_BIOGEN_TARGETS)
"""ADME endpoints, split by scaffold 8:1:1; RMSE in log units."""
FURTHER_SETS = (*MOLECULEACE, *BIOGEN)


@dataclass(frozen=True)
class FurtherSet:
    """One of the sets in memory; B molecules.

    Attributes:
        name: a name of `FURTHER_SETS`.
        smiles: as written in the file.
        target: column of the label.
        target_B: labels, none missing.
        cliff_B: which molecules are on an activity cliff; none where the set does not say.
        parts: `train`, `valid` (empty where the official split has none) and `test` → rows, ascending.
        path: the file that was read.
    """

    name: str
    smiles: list[str]
    target: str
    target_B: Float[np.ndarray, "molecules"]
    cliff_B: Bool[np.ndarray, "molecules"]
    parts: Mapping[str, np.ndarray]
    path: Path


def load_further(name: str, data_dir: Path | str | None = None) -> FurtherSet:
    """Read one of the sets with its split.

    Args:
        name: a name of `FURTHER_SETS`.
        data_dir: searched first; then `data/` here and the repository's own.

    Raises:
        ConfigError: there is no such set.
        InputError: its file is missing.
        CorruptFileError: its file is damaged.
    """
    look_up(dict.fromkeys(FURTHER_SETS), name, "data set")
    if name in _BIOGEN_TARGETS:
        return _biogen(name, _find(_BIOGEN_TABLE, data_dir))
    return _moleculeace(name, _find(f"moleculeace/{name}.csv.gz", data_dir))


def _moleculeace(name: str, path: Path) -> FurtherSet:
    rows = _rows(path, ("smiles", _ACE_TARGET, _ACE_CLIFF, _ACE_SPLIT))
    part_B = np.array([row[_ACE_SPLIT] for row in rows])
    parts = {part: np.flatnonzero(part_B == part) for part in ("train", "valid", "test")}
    return FurtherSet(
        name=name,
        smiles=[row["smiles"] for row in rows],
        target=_ACE_TARGET,
        target_B=np.array([float(row[_ACE_TARGET]) for row in rows]),
        cliff_B=np.array([row[_ACE_CLIFF] == "1" for row in rows]),
        parts=parts,
        path=path,
    )


def _biogen(name: str, path: Path) -> FurtherSet:
    target = _BIOGEN_TARGETS[name]
    rows = [row for row in _rows(path, ("SMILES", target)) if row[target].strip()]
    smiles = [row["SMILES"] for row in rows]
    split = scaffold_split(smiles)
    return FurtherSet(
        name=name,
        smiles=smiles,
        target=target,
        target_B=np.array([float(row[target]) for row in rows]),
        cliff_B=np.zeros(len(rows), dtype=bool),
        parts={"train": split.train, "valid": split.valid, "test": split.test},
        path=path,
    )


def _find(table: str, data_dir: Path | str | None) -> Path:
    for folder in search_path(data_dir):
        if (path := folder / table).is_file():
            return path
    raise InputError(
        f"{table} is missing",
        found=", ".join(map(str, search_path(data_dir))) or "no data folder",
        next_step="Point --data-dir at the folder data/ of a source checkout",
    )


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with gzip.open(path) as stream:
            reader = csv.DictReader(io.StringIO(stream.read().decode("utf-8")))
            rows = list(reader)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} is not a readable table", found=str(error)) from error
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        raise CorruptFileError(f"{path} has no column {missing[0]}", found=reader.fieldnames)
    return rows
