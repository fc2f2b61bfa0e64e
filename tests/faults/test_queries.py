"""A query, a point of attachment or a polymer is no molecule, whatever it is written in."""

from __future__ import annotations

import pytest
from rdkit import Chem

from dnd.chemistry.parse import parse_smiles
from dnd.graphs.fast.graphs import rewrite
from dnd.tables.molecules import as_molecules
from dnd.tables.sdf import parse_molblock

V2000 = """t
  Own

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.5000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.2000    1.3000    0.0000 {symbol:<3} 0  0  0{hydrogens:3d}  0  0  0  0  0  0  0  0
  1  2  1  0
  2  3{bond:3d}  0
{lines}M  END
"""
V3000 = """t
  Own

  0  0  0     0  0            999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 3 2 0 0 0
M  V30 BEGIN ATOM
M  V30 1 C 0 0 0 0
M  V30 2 C 1.5 0 0 0
M  V30 3 {atom}
M  V30 END ATOM
M  V30 BEGIN BOND
M  V30 1 1 1 2
M  V30 2 {bond}
M  V30 END BOND
{lines}M  V30 END CTAB
M  END
"""


def v2000(symbol: str = "O", *, bond: int = 1, hydrogens: int = 0, lines: str = "") -> str:
    return V2000.format(symbol=symbol, bond=bond, hydrogens=hydrogens, lines=lines)


def v3000(atom: str = "O 2.2 1.3 0 0", bond: str = "1 2 3", lines: str = "") -> str:
    return V3000.format(atom=atom, bond=bond, lines=lines)


# What a molecule says beside its atoms and bonds: a query, a point of attachment and a polymer are no molecules.

NO_MOLECULES = {
    "old list": v2000("L", lines="  3 F    2   8   7\\n".replace("\\n", "\n")),
    "list": v2000("L", lines="M  ALS   3  2 F O   N   \n"),
    "hetero": v2000("Q"),
    "halogen": v2000("X"),
    "hydrogens": v2000(hydrogens=1),
    "neighbours": v2000(lines="M  SUB  1   3   2\n"),
    "bond": v2000(bond=5),
    "attachment": v2000(lines="M  APO  1   3   1\n"),
    "label of a group": v2000("C", lines="A    3\nPh\n"),
    "label of several elements": v2000("C", lines="A    3\nCF3\n"),
    "label of a substituent": v2000("C", lines="A    3\nR1\n"),
    "polymer": v2000(lines="M  STY  1   1 SRU\nM  SAL   1  1   2\nM  SBL   1  2   1   2\nM  SMT   1 n\n"),
    "V3000 list": v3000("[O,N] 2.2 1.3 0 0"),
    "V3000 no list": v3000("NOT[O,N] 2.2 1.3 0 0"),
    "V3000 hydrogens": v3000("O 2.2 1.3 0 0 HCOUNT=1"),
    "V3000 attachment": v3000("O 2.2 1.3 0 0 ATTCHPT=1"),
    "V3000 link": v3000(lines="M  V30 LINKNODE 1 3 2 2 1 2 3\n"),
    "V3000 several ends": v3000(bond="1 2 3 ENDPTS=(2 1 2) ATTACH=ANY"),
}


@pytest.mark.parametrize("block", NO_MOLECULES.values(), ids=NO_MOLECULES)
def test_a_query_or_a_part_in_a_mol_block_is_no_molecule(block: str) -> None:
    """`[O,N]` was read as oxygen, an ethoxy group as ethanol, a hydrogen count as a radical, a polymer as its unit."""
    outcome = parse_molblock(block).outcome
    assert not outcome.ok
    assert "molecule" in outcome.reason
    mol = Chem.MolFromMolBlock(block)
    if mol is not None:  # the same from Python
        assert as_molecules([mol]).problems[0]


@pytest.mark.parametrize(
    ("block", "smiles"),
    [
        (v2000(), "CCO"),
        (v2000("A"), "*CC"),
        (v2000("*"), "*CC"),
        (v2000("R#"), "*CC"),
        (v2000("D"), "[2H]CC"),
        (v2000(lines="A    3\nOH\n"), "CCO"),
        (v2000("C", lines="A    3\nCH3\n"), "CCC"),
        (v2000("C", lines="A    3\nC12\n"), "CCC"),
        (v2000("C", lines="A    3\nMe\n"), "CCC"),
        (v2000("R#", lines="A    3\nR1\n"), "*CC"),
        (v2000(lines="M  STY  1   1 SUP\nM  SAL   1  1   3\nM  SBL   1  1   2\nM  SMT   1 OH\n"), "CCO"),
        (v3000(), "CCO"),
    ],
)
def test_dummies_and_abbreviations_stay(block: str, smiles: str) -> None:
    outcome = parse_molblock(block).outcome
    assert outcome.ok, outcome
    assert outcome.smiles == smiles


@pytest.mark.parametrize(
    "text", ["CCO |$;;_AP1$|", "*CO |$Q_e;;$|", "*CO |$X_e;;$|", "CCO |u:1|", "CCC |$;;Ph$|", "CCO |s:1:2|"]
)
def test_a_query_or_a_part_in_cxsmiles_is_no_molecule(text: str) -> None:
    assert not parse_smiles(text).ok
    assert rewrite(text) is None


def test_a_molecule_of_smarts_is_a_query() -> None:
    """From Python `[C,N]O` was predicted as `CO`."""
    given = as_molecules([Chem.MolFromSmarts("[C,N]O"), Chem.MolFromSmiles("CO"), Chem.MolFromSmiles("*O")])
    assert given.texts == ["", "CO", "*O"]
    assert "query" in given.problems[0]
