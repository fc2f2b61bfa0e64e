"""One molecule, one graph: canonical order, outcomes as values, and the corpus of bad SMILES."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from dnd.chemistry.molecule import LIMITS, InvalidMolecule, Molecule
from dnd.chemistry.parse import conformer_order, molecule_from_mol, parse_smiles
from dnd.graphs.features import featurize
from ogb_reference import same_graph, sample

CORPUS = Path(__file__).parents[2] / "corpus" / "smiles.tsv"


def corpus() -> list[tuple[str, str, str]]:
    with open(CORPUS, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(text_of(row["text"]), row["verdict"], row["expected"]) for row in rows]


def text_of(cell: str) -> str:
    """A text of the corpus: a JSON string, or pieces with how often each is repeated."""
    value = json.loads(cell)
    return value if isinstance(value, str) else "".join(piece * count for piece, count in value)


def test_corpus_has_the_expected_verdicts() -> None:
    cases = corpus()
    assert len(cases) >= 150
    for text, verdict, expected in cases:
        start = time.perf_counter()
        outcome = parse_smiles(text)
        assert time.perf_counter() - start < 2, ascii(text[:80])
        if isinstance(outcome, InvalidMolecule):
            assert (verdict, outcome.text) == (outcome.stage, text), ascii(text[:80])
            assert expected in outcome.reason, ascii(text[:80])
            assert "\n" not in outcome.reason
            assert len(outcome.reason) < 200
        else:
            assert verdict == ("relaxed" if outcome.relaxed else "ok"), ascii(text[:80])
            assert not expected or parse_smiles(expected).smiles == outcome.smiles, ascii(text[:80])


@pytest.mark.parametrize("seed", range(3))
def test_ten_spellings_of_a_molecule_give_one_graph(seed: int) -> None:
    for smiles in sample(125, seed):
        first = parse_smiles(smiles)
        if first.relaxed:
            continue
        graph = featurize(first.mol)
        for spelling in Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(smiles), 10, seed + 1):
            other = parse_smiles(spelling)
            assert other.smiles == first.smiles, (smiles, spelling)
            assert same_graph(featurize(other.mol), graph)


@settings(max_examples=150, deadline=None)
@given(index=st.integers(0, 99), seed=st.integers(0, 2**32 - 1))
def test_renumbered_atoms_give_the_same_molecule_and_a_true_order(index: int, seed: int) -> None:
    smiles = sample(100, seed=9)[index]
    outcome = parse_smiles(smiles)
    mol = Chem.AddHs(outcome.mol)
    shuffled = Chem.RenumberAtoms(mol, np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist())
    molecule, order = molecule_from_mol(shuffled)
    assert molecule.smiles == outcome.smiles
    assert same_graph(featurize(molecule.mol), featurize(outcome.mol))
    assert sorted(set(order.tolist())) == sorted(order.tolist())
    for atom, old in zip(molecule.mol.GetAtoms(), order.tolist(), strict=True):
        assert atom.GetAtomicNum() == shuffled.GetAtomWithIdx(old).GetAtomicNum()
    for bond in molecule.mol.GetBonds():
        ends = int(order[bond.GetBeginAtomIdx()]), int(order[bond.GetEndAtomIdx()])
        assert shuffled.GetBondBetweenAtoms(*ends) is not None


def test_mirror_images_of_symmetric_rings_stay_apart() -> None:
    mol = Chem.MolFromSmiles("Cl[C@H]1[C@H](Cl)[C@@H](Cl)[C@H](Cl)[C@H](Cl)[C@H]1Cl")
    forms = set()
    for seed in range(50):
        order = np.random.default_rng(seed).permutation(mol.GetNumAtoms()).tolist()
        forms.add(molecule_from_mol(Chem.RenumberAtoms(mol, order))[0].smiles)
    assert len(forms) == 1


def test_canonical_smiles_is_a_fixed_point() -> None:
    for smiles in sample(300, seed=4):
        outcome = parse_smiles(smiles)
        again = parse_smiles(outcome.smiles)
        assert again.smiles == outcome.smiles
        assert same_graph(featurize(again.mol), featurize(outcome.mol))


def test_hydrogens_of_a_conformer_follow_in_the_order_of_the_explicit_graph() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("CC(O)[C@H](F)N"))
    shuffled = Chem.RenumberAtoms(mol, np.random.default_rng(0).permutation(mol.GetNumAtoms()).tolist())
    molecule, order = molecule_from_mol(shuffled)
    every = conformer_order(shuffled, order)
    explicit = featurize(molecule.mol, explicit_hydrogens=True)
    assert [shuffled.GetAtomWithIdx(int(old)).GetAtomicNum() for old in every] == (
        explicit.node_features_NF[:, 0] + 1
    ).tolist()
    for begin, end in explicit.bonds_U2:
        assert shuffled.GetBondBetweenAtoms(int(every[begin]), int(every[end])) is not None


def test_atom_maps_change_nothing() -> None:
    assert parse_smiles("[CH3:7][CH2:1][OH:2]").smiles == parse_smiles("CCO").smiles


def test_valences_are_relaxed_only_beyond_the_organic_elements() -> None:
    assert parse_smiles("C[Si](C)(C)(C)C").relaxed
    for smiles in ("C(C)(C)(C)(C)C", "N(C)(C)(C)C", "O(C)(C)C", "FF(F)F"):
        outcome = parse_smiles(smiles)
        assert isinstance(outcome, InvalidMolecule)
        assert "greater than permitted" in outcome.reason


def test_rdkit_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    for smiles in ("C1CC", "c1cccn1", "[H+]", "CC(=O)O[AlH3](O)O"):
        parse_smiles(smiles)
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


@settings(max_examples=400, deadline=None)
@given(st.text(alphabet="CNOPSclnos[]()=#+-@/\\%.123H*:~$ BrI\t", max_size=40))
def test_no_text_raises(text: str) -> None:
    outcome = parse_smiles(text)
    if isinstance(outcome, Molecule):
        assert parse_smiles(outcome.smiles).smiles == outcome.smiles
        assert 0 < outcome.mol.GetNumAtoms() <= LIMITS.heavy_atoms
        graph = featurize(outcome.mol)
        assert (graph.node_features_NF >= 0).all()
        assert (graph.bond_features_UF >= 0).all()
    else:
        assert outcome.reason
        assert not outcome.ok


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_no_unicode_raises(text: str) -> None:
    outcome = parse_smiles(text)
    assert outcome.smiles if isinstance(outcome, Molecule) else outcome.reason


@pytest.mark.parametrize("smiles", ["CC1=oC2=CC=C(Cl)C=C2S(=O)(=O)N1", "Cc#1cc(C)c1O", "CC(C)N1CCn2=CC=CC2=N1=O"])
def test_aromatic_atoms_with_too_many_bonds_are_not_relaxed(smiles: str) -> None:
    outcome = parse_smiles(smiles)
    assert isinstance(outcome, InvalidMolecule)
    assert outcome.stage in ("chemistry", "canonical")


def mutated(rng: np.random.Generator, pool: list[str]) -> str:
    """A real SMILES with one to three characters deleted, inserted or replaced, or with the end of another."""
    alphabet = "CNOPSFclnos[]()=#+-@/\\%123456789HBrI.*:$"
    text = list(pool[rng.integers(len(pool))])
    for _ in range(rng.integers(1, 4)):
        place = int(rng.integers(len(text))) if text else 0
        sign = alphabet[rng.integers(len(alphabet))]
        kind = rng.integers(4)
        if kind == 0:
            text[place : place + 1] = []
        elif kind == 1:
            text.insert(place, sign)
        elif kind == 2:
            text[place : place + 1] = [sign]
        else:
            other = pool[rng.integers(len(pool))]
            text = text[:place] + list(other[rng.integers(len(other)) :])
    return "".join(text)


@pytest.mark.parametrize("count", [2000, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_mutated_smiles_are_molecules_or_reasons(count: int) -> None:
    rng, pool = np.random.default_rng(count), sample(500, seed=6)
    molecules = 0
    for _ in range(count):
        outcome = parse_smiles(mutated(rng, pool))
        if isinstance(outcome, InvalidMolecule):
            assert outcome.reason
            continue
        molecules += 1
        assert parse_smiles(outcome.smiles).smiles == outcome.smiles
        assert featurize(outcome.mol).num_atoms == outcome.mol.GetNumAtoms()
    assert molecules > count // 20
