"""Descriptors equal RDKit's on real molecules of every kind, for any subset, and end on graphs that hang RDKit."""

from __future__ import annotations

import gzip
import itertools
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, RDLogger
from rdkit.Chem import Descriptors, Lipinski

from dnd.chemistry.descriptor_parts import QuerySet, Rings, path_sums, two_bond_paths
from dnd.chemistry.descriptors import DESCRIPTOR_NAMES, MOST_ATOMS_BY_RECURSION, DescriptorCalculator
from dnd.chemistry.parse import MOST_WALKS, TooDenseError, walks
from dnd.common.errors import InputError

DIVERSE = Path(__file__).parents[2] / "data" / "diverse_20000.smi.gz"
ROUNDED_BY_RDKIT = {"Ipc", "AvgIpc"}
CALCULATOR = DescriptorCalculator()


def diverse(count: int) -> list[str]:
    with gzip.open(DIVERSE, "rt") as lines:
        return [line.strip() for line in itertools.islice(lines, count)]


def reference(mol: Chem.Mol) -> np.ndarray:
    def value(function) -> float:
        try:
            return function(mol)
        except Exception:  # as `CalcMolDescriptors` does it
            return np.nan

    return np.array([value(function) for _, function in Descriptors.descList], dtype=float)


def differences(text: str, calculator: DescriptorCalculator = CALCULATOR) -> list[tuple[str, str, float, float]]:
    found, expected = calculator(Chem.MolFromSmiles(text)), reference(Chem.MolFromSmiles(text))
    expected = expected[[DESCRIPTOR_NAMES.index(name) for name in calculator.names]]
    same = np.isclose(found, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
    if Chem.MolFromSmiles(text).GetNumAtoms() > MOST_ATOMS_BY_RECURSION:
        same |= np.isin(calculator.names, list(ROUNDED_BY_RDKIT))
    return [(text, calculator.names[place], found[place], expected[place]) for place in np.flatnonzero(~same)]


@pytest.fixture(autouse=True)
def quiet_rdkit():
    RDLogger.DisableLog("rdApp.*")
    yield
    RDLogger.EnableLog("rdApp.*")


def test_names_are_those_of_rdkit_in_its_order():
    assert tuple(Descriptors.CalcMolDescriptors(Chem.MolFromSmiles("C"))) == DESCRIPTOR_NAMES == CALCULATOR.names


def test_values_are_rdkits_on_diverse_molecules():
    texts = diverse(500)
    assert len(texts) == 500
    assert not [line for text in texts for line in differences(text)]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_values_are_rdkits_on_twenty_thousand_molecules():
    texts = diverse(20_000)
    assert len(texts) == 20_000
    assert not [line for text in texts for line in differences(text)]


def test_values_of_a_block_are_those_of_each_molecule():
    texts = [*diverse(40), "[H][H]", "CCO.[Na+].[Cl-]", "N->[Pt](Cl)Cl", "[Fe]", "C"]
    mols = [Chem.MolFromSmiles(text) for text in texts]
    each = np.stack([CALCULATOR(Chem.MolFromSmiles(text)) for text in texts])
    assert np.array_equal(CALCULATOR.of_all(mols), each, equal_nan=True)
    assert CALCULATOR.of_all([]).shape == (0, len(DESCRIPTOR_NAMES))


def test_a_subset_has_the_same_values_in_the_order_asked_for():
    names = ["fr_benzene", "BCUT2D_MRLOW", "MolLogP", "qed", "Chi4v", "fr_NH0", "Kappa3", "PEOE_VSA7"]
    for text in diverse(40):
        assert not differences(text, DescriptorCalculator(names))


def test_fragments_read_from_rings_are_those_of_the_queries():
    names = ["fr_benzene", "fr_para_hydroxylation"]
    odd = [
        "Brc1[nH]nc2ccccc12",
        "c1ccc2c(c1)cccc2O",
        "C1Cc2ccccc21",
        "Nc1ccccc1",
        "c1ccccc1N=Nc1ccccc1",
        "O=c1cc[nH]c2ccccc12",
    ]
    for text in odd + diverse(400):
        assert not differences(text, DescriptorCalculator(names))


def test_threads_that_meet_new_atoms_at_the_same_time_have_the_answers_of_one():
    """One thread's number went with the bits of another's atom, and stayed so for every molecule that came later."""
    queries = [Chem.MolFromSmarts(text) for text in ("[#6;+]", "[O;H1]", "[n;R]", "[C;X4]-[O;H0]", "[N;v3]=[O;-]")]
    queries *= 40  # so that a thread is often stopped within an atom
    kinds = itertools.product((6, 7, 8), (False, True), (-1, 0, 1), (0, 1, 2), (2, 3, 4), (0,), (1, 2, 3), (0, 1))
    pairs, no_rings = list(zip(*[kinds] * 2, strict=True)), Rings(frozenset(), 0, False)

    def asked(many: QuerySet, start: int) -> list[tuple[set[int], list[tuple[int, int]]]]:
        places = [(place + start) % len(pairs) for place in range(len(pairs))]
        found = {place: many.ask(pairs[place], [(0, 1, 1.0)], no_rings) for place in places}
        return [(found[place].possible, found[place].atom_counts) for place in range(len(pairs))]

    expected, shared, begin = asked(QuerySet(queries), 0), QuerySet(queries), threading.Barrier(4)

    def asked_at_once(thread: int) -> list[tuple[set[int], list[tuple[int, int]]]]:
        begin.wait()
        return asked(shared, thread)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(asked_at_once, range(4))) == [expected] * 4
    assert asked(shared, 0) == expected


def test_contributions_to_log_p_depend_on_the_environments_alone():
    """Each pair has one atom whose nearest neighbours are alike and whose type is not."""
    calculator = DescriptorCalculator(["MolLogP", "MolMR", "BCUT2D_LOGPHI", "BCUT2D_MRLOW"])
    pairs = ["CC(=O)C", "CC(=O)Cl", "CC(=O)N", "CC=O", "c1ccccc1C=O", "CC(=O)[O-]", "C[O-]", "O=C=O", "O=C=C"]
    further = ["C[N+](=O)[O-]", "CS(=O)(=O)C", "C[S+]([O-])C", "[N-]=[N+]=CC", "CN=[N+]=[N-]", "O=c1cccc[nH]1", "OO"]
    for text in [*pairs, *further, *pairs]:
        assert not differences(text, calculator)


def test_a_subset_leaves_out_what_it_does_not_need(monkeypatch):
    def must_not_run(*_):
        raise AssertionError("surfaces are not needed")

    monkeypatch.setattr("dnd.chemistry.descriptors.rdMolDescriptors._CalcLabuteASAContribs", must_not_run)
    (density,) = DescriptorCalculator(["BertzCT"])(Chem.MolFromSmiles("c1ccccc1"))
    assert density == pytest.approx(Descriptors.BertzCT(Chem.MolFromSmiles("c1ccccc1")))
    with pytest.raises(AssertionError):
        DescriptorCalculator(["PEOE_VSA1"])(Chem.MolFromSmiles("c1ccccc1"))


def test_information_content_of_a_large_molecule_is_what_it_is_defined_to_be():
    """The coefficients of a chain's polynomial are binomial, and RDKit's recursion loses them beyond 72 atoms."""
    atoms = 200
    coefficients = np.array([math.comb(atoms - pairs, pairs) for pairs in range(atoms // 2 + 1)], dtype=float)
    shares = coefficients / coefficients.sum()
    entropy = -(shares * np.log2(shares)).sum()
    mean, total = DescriptorCalculator(["AvgIpc", "Ipc"])(Chem.MolFromSmiles("C" * atoms))
    assert mean == pytest.approx(entropy, rel=1e-9)
    assert total == pytest.approx(entropy * coefficients.sum(), rel=1e-9)
    short = "C" * 60
    assert not differences(short, DescriptorCalculator(["AvgIpc", "Ipc"]))


@pytest.mark.parametrize("names", [["NoSuchThing"], ["MolWt", "MolWt"]])
def test_names_that_cannot_be_used_are_refused(names):
    with pytest.raises(InputError, match=names[0] if len(names) == 1 else "twice"):
        DescriptorCalculator(names)


def test_values_do_not_depend_on_the_order_of_atoms():
    rng = np.random.default_rng(1)
    sums = [place for place, name in enumerate(DESCRIPTOR_NAMES) if name not in {"SPS"}]
    for text in ("CC(=O)Oc1ccccc1C(=O)O", "C1CC2CC1CN2C(=O)c1ccc(S(N)(=O)=O)cc1", "OCC1CC1C1CCC1"):
        mol = Chem.MolFromSmiles(text)
        shuffled = Chem.RenumberAtoms(mol, rng.permutation(mol.GetNumAtoms()).tolist())
        assert np.allclose(CALCULATOR(mol)[sums], CALCULATOR(shuffled)[sums], rtol=1e-6, atol=1e-6)


def test_rotatable_bonds_are_rdkits():
    for text in diverse(300):
        mol = Chem.MolFromSmiles(text)
        (count,) = DescriptorCalculator(["NumRotatableBonds"])(mol)
        assert count == Lipinski.NumRotatableBonds(mol), text


def all_bound(atoms: int, element: int = 0) -> Chem.Mol:
    mol = Chem.RWMol()
    for _ in range(atoms):
        mol.AddAtom(Chem.Atom(element))
    for one, other in itertools.combinations(range(atoms), 2):
        mol.AddBond(one, other, Chem.BondType.SINGLE)
    Chem.SanitizeMol(mol)
    return mol.GetMol()


def paths_by_search(adjacency: np.ndarray, weights: np.ndarray, bonds: int) -> float:
    """Sum over open paths of some bonds, each once, by going through all of them."""
    total = 0.0

    def extend(path: list[int]) -> None:
        nonlocal total
        if len(path) == bonds + 1:
            total += np.prod(weights[path]) / 2
            return
        for following in np.flatnonzero(adjacency[path[-1]]):
            if following not in path:
                extend([*path, int(following)])

    for atom in range(len(adjacency)):
        extend([atom])
    return total


def test_path_sums_are_those_of_a_search_where_rings_are_large():
    mol = Chem.MolFromSmiles("CC1CCCCC1(C)c1ccc2ccccc2c1")
    adjacency = Chem.GetAdjacencyMatrix(mol).astype(float)
    weights = np.random.default_rng(2).uniform(0.2, 1.0, len(adjacency))
    directed = np.array(np.nonzero(adjacency))
    bonds = directed[:, directed[0] < directed[1]]
    paths = two_bond_paths(adjacency, directed, bonds, small_rings=False)
    found = path_sums(weights[None], paths)
    expected = [paths_by_search(adjacency, weights, length) for length in (2, 3, 4)]
    assert np.allclose(np.concatenate(found), expected)
    with_small = path_sums(weights[None], paths._replace(small_rings=True))
    assert np.allclose(np.concatenate(with_small), expected)  # the general form, where there is nothing to take off


def test_dense_graphs_end_at_once_with_rdkits_values():
    small = all_bound(7)
    assert np.allclose(CALCULATOR(small), reference(all_bound(7)), rtol=1e-6, atol=1e-6, equal_nan=True)
    start = time.process_time()
    values = CALCULATOR(all_bound(16))  # hours in RDKit
    assert time.process_time() - start < 20
    assert values[DESCRIPTOR_NAMES.index("Chi0")] == pytest.approx(16 / np.sqrt(15))


def test_a_dense_graph_left_to_rdkit_is_refused_and_real_cages_are_not():
    with_hydrogen = Chem.RWMol(all_bound(13))
    with_hydrogen.AddBond(with_hydrogen.AddAtom(Chem.Atom(1)), 0, Chem.BondType.SINGLE)
    Chem.SanitizeMol(with_hydrogen)
    with pytest.raises(TooDenseError, match="14 atoms"):
        CALCULATOR(with_hydrogen.GetMol())
    ferrocene = Chem.MolFromSmiles("C12C3C4C5C1[Fe]23456789C%10C6C7C8C9%10")
    cubane = Chem.MolFromSmiles("C12C3C4C1C5C2C3C45")
    assert max(walks(ferrocene), walks(cubane)) < 0.1 * MOST_WALKS
