"""Features of 300 molecules, 50 of them strange, as ogb 1.3.6 computed them; and the 15 that RDKit refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from dnd.chemistry.parse import parse_smiles
from dnd.graphs.features import featurize
from ogb_reference import assert_same

with np.load(Path(__file__).parent / "ogb_features.npz") as arrays:
    RECORDED = {key: arrays[key] for key in arrays.files}
SMILES = [text.decode() for text in RECORDED["in.smiles"]]


def recorded(prefix: str, index: int) -> dict[str, np.ndarray]:
    atoms = slice(*RECORDED[f"{prefix}.node_offset"][index : index + 2])
    edges = slice(*RECORDED[f"{prefix}.edge_offset"][index : index + 2])
    return {
        "node_feat": RECORDED[f"{prefix}.node_feat"][atoms],
        "edge_feat": RECORDED[f"{prefix}.edge_feat"][edges],
        "edge_index": RECORDED[f"{prefix}.edge_index"][:, edges],
    }


def test_heavy_atom_features_equal_the_recording() -> None:
    for index, smiles in enumerate(SMILES):
        assert_same(featurize(Chem.MolFromSmiles(smiles)), recorded("out", index))


def test_explicit_hydrogen_features_equal_the_recording() -> None:
    for place, index in enumerate(RECORDED["in.addhs_which"]):
        graph = featurize(Chem.MolFromSmiles(SMILES[index]), explicit_hydrogens=True)
        assert_same(graph, recorded("out.addhs", place))
        assert not graph.node_features_NF[:, 4].any()


@pytest.mark.parametrize("text", [text.decode() for text in RECORDED["unparsed.smiles"]])
def test_molecules_that_rdkit_refuses_are_read_with_relaxed_valences(text: str) -> None:
    assert Chem.MolFromSmiles(text) is None
    outcome = parse_smiles(text)
    assert outcome.ok
    assert outcome.relaxed
    graph = featurize(outcome.mol)
    raw = Chem.MolFromSmiles(text, sanitize=False)
    assert sorted(graph.node_features_NF[:, 0] + 1) == sorted(atom.GetAtomicNum() for atom in raw.GetAtoms())
    assert graph.num_bonds == raw.GetNumBonds()
    strict = parse_smiles(text, relaxed=False)
    assert not strict.ok
    assert strict.stage == "chemistry"
    assert "alence" in strict.reason
