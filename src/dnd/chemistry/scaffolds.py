"""Bemis-Murcko scaffolds, and what two parts of a split share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import parse_smiles, read_smiles
from dnd.chemistry.relaxed import VALENCE_IS_STRICT
from dnd.common.errors import InputError

_ANY_VALENCE = 26  # iron: RDKit sets transition metals no valence


def scaffold_of(mol: Chem.Mol, relaxed: bool = False) -> str:
    """SMILES of the Bemis-Murcko scaffold with chirality; empty for a molecule without rings.

    Source: Bemis and Murcko, J. Med. Chem. 39 (1996) 2887. A molecule that was read without the valence check gets
    the scaffold of the same graph with iron in place of every atom of too high a valence, since scaffolds are checked
    again.
    """
    valid = _with_iron(mol) if relaxed else mol
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=valid, includeChirality=True))  # type: ignore[no-untyped-call]


def scaffolds_of(smiles: Sequence[str]) -> list[str]:
    """Scaffold of each SMILES.

    The molecule is taken as spelled, not in its canonical form: the chirality that RDKit keeps in a scaffold depends
    on the spelling, and OGB's official BBBP split comes out only from the spelling in its file.

    Raises:
        InputError: a SMILES can't be parsed; it names the row. Leave such rows out first.
    """
    scaffolds = []
    for row, text in enumerate(smiles):
        read = read_smiles(text)
        if isinstance(read, InvalidMolecule):
            raise InputError(
                f"row {row} has no scaffold", found=read.reason, next_step="Leave out the rows that do not parse"
            )
        scaffolds.append(scaffold_of(*read))
    return scaffolds


def _with_iron(mol: Chem.Mol) -> Chem.Mol:
    replaced = Chem.RWMol(mol)
    problems = Chem.DetectChemistryProblems(mol)
    for problem in problems:
        atom = replaced.GetAtomWithIdx(problem.GetAtomIdx())
        if atom.GetAtomicNum() not in VALENCE_IS_STRICT:
            atom.SetAtomicNum(_ANY_VALENCE)
    Chem.SanitizeMol(replaced)
    return replaced.GetMol()


@dataclass(frozen=True)
class Overlap:
    """What two parts of a split have in common.

    Attributes:
        first, second: names of the parts.
        shared_scaffolds: distinct scaffolds in both, the empty one (no ring) left out.
        rows_in_shared_scaffolds: rows of `second` that have such a scaffold.
        shared_molecules: distinct molecules, by canonical SMILES, in both.
        duplicate_rows: rows of `second` whose molecule is also in `first`.
    """

    first: str
    second: str
    shared_scaffolds: int
    rows_in_shared_scaffolds: int
    shared_molecules: int
    duplicate_rows: int


def overlap_report(smiles: Sequence[str], parts: Mapping[str, Int[np.ndarray, "rows"]]) -> list[Overlap]:
    """Compare every two parts of a split, in the order given.

    Args:
        smiles: SMILES of every row; rows that don't parse count as molecules of their own.
        parts: row numbers by name of the part, such as `split.parts()`.
    """
    outcomes = [parse_smiles(text) for text in smiles]
    molecules = [outcome.smiles if isinstance(outcome, Molecule) else outcome.text for outcome in outcomes]
    scaffolds = [
        scaffold_of(outcome.mol, outcome.relaxed) if isinstance(outcome, Molecule) else "" for outcome in outcomes
    ]
    names = list(parts)
    return [
        _overlap(molecules, scaffolds, (first, parts[first]), (second, parts[second]))
        for place, first in enumerate(names)
        for second in names[place + 1 :]
    ]


def _overlap(
    molecules: list[str],
    scaffolds: list[str],
    first: tuple[str, Int[np.ndarray, "rows"]],
    second: tuple[str, Int[np.ndarray, "rows"]],
) -> Overlap:
    scaffolds_first = {scaffolds[row] for row in first[1]} - {""}
    scaffolds_second = [scaffolds[row] for row in second[1] if scaffolds[row] in scaffolds_first]
    molecules_first = {molecules[row] for row in first[1]}
    molecules_second = [molecules[row] for row in second[1] if molecules[row] in molecules_first]
    return Overlap(
        first[0],
        second[0],
        len(set(scaffolds_second)),
        len(scaffolds_second),
        len(set(molecules_second)),
        len(molecules_second),
    )
