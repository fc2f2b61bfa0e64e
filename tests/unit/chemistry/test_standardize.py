"""Clean-up steps record what they changed; the connectivity key ignores stereochemistry."""

from __future__ import annotations

import pytest

from dnd.chemistry.inchi import connectivity_key
from dnd.chemistry.parse import parse_smiles
from dnd.chemistry.standardize import standardize
from dnd.common.errors import ConfigError


@pytest.mark.parametrize(
    ("smiles", "expected", "changed_by"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O", ("largest_fragment", "neutralise")),
        ("CCO", "CCO", ()),
        ("CCN.Cl", "CCN", ("largest_fragment",)),
        ("C[N+](C)(C)C", "C[N+](C)(C)C", ()),
        ("CN.CCCCCCCCS(=O)(=O)O", "CCCCCCCCS(=O)(=O)O", ("largest_fragment",)),
    ],
)
def test_steps_and_their_record(smiles: str, expected: str, changed_by: tuple[str, ...]) -> None:
    result = standardize(parse_smiles(smiles))
    assert result.outcome.smiles == expected
    assert result.changed_by == changed_by


def test_only_the_steps_asked_for() -> None:
    assert standardize(parse_smiles("CC(=O)[O-].[Na+]"), ["neutralise"]).outcome.smiles == "CC(=O)[O-].[Na+]"
    with pytest.raises(ConfigError, match="unknown standardisation step 'neutral'"):
        standardize(parse_smiles("C"), ["neutral"])


def test_relaxed_molecules_stay_as_they_are() -> None:
    molecule = parse_smiles("CC(=O)O[AlH3](O)O")
    assert standardize(molecule).outcome is molecule


def test_connectivity_key_ignores_stereochemistry() -> None:
    keys = {connectivity_key(parse_smiles(smiles).mol) for smiles in ("C[C@H](F)O", "C[C@@H](F)O", "CC(F)O")}
    assert len(keys) == 1
    assert len(keys.pop()) == 14
    assert connectivity_key(parse_smiles("CCO").mol) == "LFQSCWFLJHTTHZ"
    assert connectivity_key(parse_smiles("*C").mol) is None
