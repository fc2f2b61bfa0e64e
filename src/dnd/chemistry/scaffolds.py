"""Bemis-Murcko scaffolds."""

from __future__ import annotations

from collections.abc import Sequence

from rdkit import Chem
from rdkit.Chem.Scaffolds import MurckoScaffold

from dnd.chemistry.molecule import InvalidMolecule
from dnd.chemistry.parse import read_smiles
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
