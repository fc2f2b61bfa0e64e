"""Graphs of many molecules at once equal those of one at a time, and OGB's."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from dnd.chemistry.parse import parse_smiles, without_isotopes
from dnd.graphs.fast import graphs as canonical
from dnd.graphs.fast.graphs import (
    fingerprint_molecule_of,
    is_plain,
    molecule_of,
    parse_canonical,
    parse_ordinary,
    read_binaries,
    rewrite,
    rewritten_graphs,
    written_graphs,
)
from dnd.graphs.features import featurize
from dnd.store.featurize import featurize_smiles
from ogb_reference import SETS, assert_same, same_graph, sample, smiles2graph, smiles_of

MARKED = [
    "C[C@H](O)[C@@H](N)C(=O)O",
    "[C@H](F)(Cl)Br",
    "C1[C@@H]2CC[C@H]1[C@@H](O)C2",
    "O=C1[C@H]2[C@H](C=C[C@@H]3[C@@H]2CCC3)CN1C",
    "F/C=C/[C@@H](C)\\C=C/Cl",
    "OC[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O",
    "[Na+].[O-]C(=O)[C@@H](N)C.CC",
    "C[N+](C)(C)C[C@H](O)CC([O-])=O",
]
UNUSUAL = ["[2H]C", "[H][H]", "*C", "[CH3:1]C", "C[S@](=O)N", "F[Pt@SP1](Cl)(Br)I", "C->[Fe]", "C[C@H]1CC[C@@H](C)CC1"]


def check_canonical(texts: list[str]) -> int:
    """How many went the quick way; all of them have the graph of the long way."""
    quick = 0
    for text, outcome in zip(texts, rewritten_graphs(texts), strict=True):
        if outcome is not None:
            long = parse_smiles(text)
            assert long.ok, text
            assert long.smiles == outcome[0]
            assert same_graph(outcome[1], featurize(long.mol)), text
            quick += 1
    return quick


def test_sample_of_the_ten_sets_in_canonical_order() -> None:
    texts = sample(400, seed=4)
    assert check_canonical(texts) > 360


def test_marks_of_chirality_and_ring_bonds() -> None:
    spellings = [
        spelling
        for number, text in enumerate(MARKED)
        for spelling in Chem.MolToRandomSmilesVect(Chem.MolFromSmiles(text), 10, number + 1)
    ]
    assert check_canonical(MARKED + spellings) > 80


def test_spellings_of_a_molecule_give_one_graph() -> None:
    for text in sample(40, seed=5):
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            continue
        first, *others = featurize_smiles([text, *Chem.MolToRandomSmilesVect(mol, 9, 1)], "heavy_both")
        assert first.graph is not None
        for other in others:
            assert other.smiles == first.smiles
            assert other.graph is not None
            assert same_graph(other.graph, first.graph)


def test_as_written_equals_ogb() -> None:
    texts = [text for text in [*sample(300, seed=6), *MARKED, *UNUSUAL] if Chem.MolFromSmiles(text) is not None]
    texts = [text for text in texts if ":" not in text]  # atom maps are dropped here
    for text, graph in zip(texts, written_graphs(texts), strict=True):
        assert graph is not None
        assert_same(graph, smiles2graph()(text))


@pytest.mark.parametrize("text", UNUSUAL)
def test_unusual_molecules_are_left_to_the_long_way(text: str) -> None:
    assert rewritten_graphs([text]) == [None]
    molecules = featurize_smiles([text, *MARKED], "heavy_both")
    long = parse_smiles(text)
    assert long.ok
    assert molecules[0].graph is not None
    assert same_graph(molecules[0].graph, featurize(without_isotopes(long).mol))


@pytest.mark.parametrize(
    "text",
    [
        "O=C1CN[te]=C(c2cccc(Br)c2)c2cc(Br)ccc2N1", "CCOC1(c2ccccc2)CN(C)CC[se](C)1", "CC[s+]1=NN(c2ccc(C)cc2)CC1",
        "CCN[asH]1CCCCC1", "CC=CCn1c(N2CCCCC2)nc2c1cp(=O)[nH]c(=O)n2C", "Fc1ccc(CC[S@](Cl)(Cl)Cl)cc1",
    ],
)  # fmt: skip
def test_a_mark_that_the_canonical_text_has_not_changes_no_graph(text: str) -> None:
    """Of hypervalent atoms and heavy ones that a text calls aromatic RDKit's hybridisation follows the mark."""
    assert check_canonical([text]) == 0
    given, again = featurize_smiles([text, parse_smiles(text).smiles], "heavy_both")
    assert given.smiles == again.smiles
    assert given.graph is not None
    assert again.graph is not None
    assert same_graph(given.graph, again.graph)


def test_heavy_atoms_that_are_aromatic_go_the_quick_way() -> None:
    assert check_canonical(["c1cc[se]c1", "c1ccsc1", "C1=CC=CS1", "[Cs+].[O-]c1ccpcc1", "CC(=O)[O-].[Na+]"]) == 5


def test_no_molecule_has_no_graph() -> None:
    assert written_graphs(["C", "C1CC", "", "c1cccc1"])[1:] == [None, None, None]
    assert rewritten_graphs(["C1CC", "", "C C", "CC(C)(C)(C)C"]) == [None] * 4
    reasons = [one.reason for one in featurize_smiles(["C1CC", *MARKED], "heavy_both")]
    assert reasons == ["unclosed ring for input: 'C1CC'", *[""] * len(MARKED)]


def test_same_molecule_whatever_its_neighbours() -> None:
    texts = sample(200, seed=7)
    whole = rewritten_graphs(texts)
    for start in range(0, 200, 40):
        for part, every in zip(rewritten_graphs(texts[start : start + 40]), whole[start:], strict=False):
            assert (part is None) == (every is None)
            if part is not None and every is not None:
                assert part[0] == every[0]
                assert same_graph(part[1], every[1])


def test_unknown_bytes_are_not_read() -> None:
    good = Chem.MolFromSmiles("CCO").ToBinary(0)
    newer = good[:12] + bytes([good[12] + 90]) + good[13:]
    cases = [good, newer, good[:40] + b"\xff" * (len(good) - 40), b"", Chem.MolFromSmiles("[13CH4]").ToBinary(0), good]
    graphs = read_binaries(cases)
    assert graphs.readable_B.tolist() == [True, False, False, False, False, True]
    expected = featurize(Chem.MolFromSmiles("CCO"))
    last = slice(graphs.atom_offsets[-2], graphs.atom_offsets[-1])
    np.testing.assert_array_equal(graphs.node_features_NF[last], expected.node_features_NF)


def test_noise_after_a_good_head_never_raises() -> None:
    good = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O").ToBinary(0)
    generator = np.random.default_rng(0)
    noise = [good[:30] + generator.bytes(len(good) - 30) for _ in range(200)]
    assert not read_binaries(noise).readable_B.any()


def test_another_rdkit_changes_nothing_but_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = featurize_smiles(MARKED, "heavy_both")
    monkeypatch.setattr("dnd.graphs.fast.graphs._HEADS", ())
    assert canonical.rewritten_graphs(MARKED) == [None] * len(MARKED)
    for slow, quick in zip(featurize_smiles(MARKED, "heavy_both"), expected, strict=True):
        assert slow.graph is not None
        assert quick.graph is not None
        assert slow.smiles == quick.smiles
        assert same_graph(slow.graph, quick.graph)


def test_binary_is_that_of_the_full_parser() -> None:
    for text in sample(300, seed=8) + MARKED:
        mol = parse_ordinary(text)
        if mol is not None:
            whole = Chem.MolFromSmiles(text)
            assert mol.ToBinary(0) == whole.ToBinary(0)
            assert Chem.MolToSmiles(mol) == Chem.MolToSmiles(whole)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SETS)
def test_every_molecule_of_the_ten_sets(name: str) -> None:
    texts = list(smiles_of(name))
    assert check_canonical(texts) > 0.8 * len(texts)


def test_plain_and_ordinary() -> None:
    assert is_plain("C[C@@H](Cl)c1ccc2[nH]ccc2c1")
    assert not any(map(is_plain, ["C%10CC%10", "C=1CC1", "[13CH4]", "[H][H]", "*C", "C[S@](=O)N", "F[Pt@SP1](Cl)Br"]))
    assert rewrite("C" * 101) is None


def test_fingerprints_of_canonical_smiles_need_no_full_parse() -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    texts = [
        found.smiles for found in map(rewrite, sample(700, seed=9)) if found is not None and "[C]" not in found.smiles
    ]
    assert len(texts) > 500
    for text in texts:
        quick = parse_canonical(text)
        assert quick is not None, text
        assert generator.GetFingerprint(quick) == generator.GetFingerprint(Chem.MolFromSmiles(text)), text
    assert parse_canonical("[2H]O[2H]") is None, "hydrogens as atoms are not ordinary"
    assert parse_canonical("O=[C][Pd]") is None, "carbon atoms without hydrogens may be SELFIES"


def state(mol: Chem.Mol) -> tuple[object, ...]:
    """All that RDKit says of a molecule, in order: what every fingerprint and descriptor is computed from."""
    rings = mol.GetRingInfo()
    return (
        mol.ToBinary(0),
        *(_properties(one) for one in (mol, *mol.GetAtoms(), *mol.GetBonds())),
        *((atom.GetNoImplicit(), atom.GetNumExplicitHs(), atom.GetNumImplicitHs()) for atom in mol.GetAtoms()),
        *((bond.GetBondDir(), bond.GetStereo(), *bond.GetStereoAtoms()) for bond in mol.GetBonds()),
        *map(tuple, [*rings.AtomRings(), *rings.BondRings()]),
    )


def _properties(one: Any) -> dict[str, object]:
    return {name: value for name, value in one.GetPropsAsDict(True, True).items() if name != "__computedProps"}


def check_molecules(texts: list[str]) -> int:
    """How many are built from their graphs; each is the molecule that a parse of its canonical SMILES gives."""
    built = 0
    for found in featurize_smiles(texts, "heavy_both"):
        mol = None if found.graph is None else molecule_of(found.smiles, found.graph)
        if found.graph is None or mol is None:
            continue
        assert state(mol) == state(Chem.MolFromSmiles(found.smiles)), found.smiles
        quick, parsed = fingerprint_molecule_of(found.smiles, found.graph), parse_canonical(found.smiles)
        assert quick is not None
        assert parsed is not None
        assert quick.ToBinary(0) == parsed.ToBinary(0), found.smiles
        built += 1
    return built


def test_the_molecule_of_a_graph_is_that_of_its_smiles() -> None:
    assert check_molecules(MARKED) == len(MARKED)
    assert check_molecules(UNUSUAL) == 2  # isotopes and maps go before
    assert check_molecules(sample(600, seed=5)) > 550


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_molecules_of_20000_graphs_are_those_of_their_smiles() -> None:
    with gzip.open(Path(__file__).parents[2] / "data" / "diverse_20000.smi.gz", "rt") as source:
        texts = [line.split()[0] for line in source]
    assert check_molecules(texts) == 19_414
