"""SDF records one by one: the corpus, torn records, coordinates in the order of the graph."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.graphs.features import featurize
from dnd.tables.molecules import open_molecules
from dnd.tables.sdf import SdfRecord, parse_molblock, read_sdf
from ogb_reference import same_graph, sample

CORPUS = Path(__file__).parents[2] / "corpus" / "sdf"


def verdicts() -> list[tuple[str, str, str]]:
    with open(CORPUS / "verdicts.tsv", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["file"], row["verdict"], row["expected"]) for row in rows]


def told(record: SdfRecord) -> str:
    outcome = record.outcome
    if isinstance(outcome, InvalidMolecule):
        return f"{outcome.stage}: {outcome.reason}"
    return f"{outcome.smiles} {record.dimension}"


@pytest.mark.parametrize(("name", "verdict", "expected"), verdicts())
def test_corpus_has_the_expected_verdicts(name: str, verdict: str, expected: str) -> None:
    if verdict == "error":
        with pytest.raises(InputError) as caught:
            list(read_sdf(CORPUS / name))
        assert expected in str(caught.value).replace(f"{CORPUS}/", "")
        return
    records = list(read_sdf(CORPUS / name))
    assert " | ".join(map(told, records)) == expected
    assert [record.number for record in records] == list(range(len(records)))
    assert verdict == ("ok" if all(record.outcome.ok for record in records) else "reasons")
    for record in records:
        assert (record.positions_A3 is not None) == (record.outcome.ok and record.dimension == "3d")


def test_every_file_of_the_corpus_has_a_verdict() -> None:
    assert {name for name, _, _ in verdicts()} == {path.name for path in CORPUS.iterdir()} - {"verdicts.tsv"}


def test_records_before_a_torn_gzip_are_given_out() -> None:
    seen = []
    with pytest.raises(InputError, match="damaged gzip"):
        seen.extend(record.outcome.ok for record in _noting(CORPUS / "truncated.sdf.gz", seen))
    assert len(seen) > 10


def _noting(path: Path, seen: list[bool]):
    for record in read_sdf(path):
        seen.append(record.outcome.ok)
        yield record


def test_data_fields_are_kept() -> None:
    record = next(iter(read_sdf(CORPUS / "good.sdf")))
    assert record.title == "first"
    assert record.properties == {"logP": "1.5", "note": "a\nb > c"}
    with open_molecules(CORPUS / "good.sdf.gz") as table:
        row = next(iter(table))
    assert row.values == {"smiles": record.outcome.smiles, "title": "first", **record.properties}


@pytest.mark.parametrize("v3000", [False, True])
@pytest.mark.parametrize("hydrogens", [False, True])
def test_coordinates_stand_in_the_order_of_the_graph(v3000: bool, hydrogens: bool) -> None:
    embedded = 0
    for smiles in sample(25, seed=21):
        original = parse_smiles(smiles)
        mol = Chem.AddHs(original.mol)
        if mol.GetNumAtoms() > 80 or original.relaxed or AllChem.EmbedMolecule(mol, randomSeed=3) != 0:
            continue
        embedded += 1
        mol = mol if hydrogens else Chem.RemoveHs(mol)
        order = np.random.default_rng(embedded).permutation(mol.GetNumAtoms()).tolist()
        shuffled = Chem.RenumberAtoms(mol, order)
        parsed = parse_molblock(Chem.MolToMolBlock(shuffled, forceV3000=v3000))
        assert isinstance(parsed.outcome, Molecule)
        check_positions(parsed.outcome, parsed.positions_A3, parsed.atomic_numbers_A, shuffled)
    assert embedded > 15


def check_positions(molecule: Molecule, positions_A3: np.ndarray, numbers_A: np.ndarray, source: Chem.Mol) -> None:
    """Every position is that of a source atom of the same element, and bonded atoms are bonded in the source."""
    distance = np.linalg.norm(positions_A3[:, None] - source.GetConformer().GetPositions()[None], axis=-1)
    match = distance.argmin(axis=1)
    assert (distance.min(axis=1) < 1e-3).all()
    assert sorted(match.tolist()) == list(range(source.GetNumAtoms()))
    assert numbers_A.tolist() == [source.GetAtomWithIdx(int(old)).GetAtomicNum() for old in match]
    graph = featurize(molecule.mol, explicit_hydrogens=len(numbers_A) > molecule.mol.GetNumAtoms())
    assert graph.num_atoms == len(numbers_A)
    assert (graph.node_features_NF[:, 0] + 1).tolist() == numbers_A.tolist()
    for begin, end in graph.bonds_U2:
        assert source.GetBondBetweenAtoms(int(match[begin]), int(match[end])) is not None


def test_graph_of_a_record_is_the_graph_of_its_smiles() -> None:
    record = next(iter(read_sdf(CORPUS / "good.sdf")))
    assert same_graph(featurize(record.outcome.mol), featurize(parse_smiles("C[C@H](F)CCO").mol))


def test_stereochemistry_comes_from_the_coordinates() -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles("C[C@H](F)CCO"))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    positions = mol.GetConformer().GetPositions()
    for index, (x, y, z) in enumerate(positions):
        mol.GetConformer().SetAtomPosition(index, (-x, y, z))
    assert parse_molblock(Chem.MolToMolBlock(mol)).outcome.smiles == "C[C@@H](F)CCO"


def test_planar_molecule_marked_3d_is_no_drawing() -> None:
    mol = Chem.MolFromSmiles("C=C")
    AllChem.Compute2DCoords(mol)
    block = Chem.MolToMolBlock(mol)
    assert parse_molblock(block).dimension == "2d"
    lines = block.split("\n")
    lines[1] = lines[1].replace("2D", "3D")
    assert parse_molblock("\n".join(lines)).dimension == "3d"


@pytest.mark.parametrize(
    "atom",
    ["..", "    0.0000    0.0000    0.0000 C   0  0  \ufffd5\ufffd\ufffdi  0\n"],
)
def test_a_block_on_which_rdkit_raises_is_a_reason(atom: str) -> None:
    """Both found by `reader_fuzz.py`: a condition of RDKit's own, and half of a character in its message."""
    good = "    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0\n"
    bad = "    1.0000    0..145    0.0000 H   0  0  0  0  9999990  0\n" if ".." in atom else atom
    header = "x\n     RDKit          3D\n\n  3  2  0  0  0  0  0  0  0  0999 V2000\n"
    outcome = parse_molblock(f"{header}{good}{good}{bad}  1  2  1  0\n  2  3  1  0\nM  END\n").outcome
    assert isinstance(outcome, InvalidMolecule)
    assert outcome.reason
