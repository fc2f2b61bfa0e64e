"""Contributions against a known decomposition (Crippen logP), pictures, attention, and rows that can't be explained."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import Crippen, rdMolDescriptors
from sklearn.ensemble import RandomForestRegressor

from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import ConfigError, InputError
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student
from dnd.predictor.classical.features import count_fingerprints
from dnd.predictor.predictor import Predictor
from dnd.report.attention import map_attention
from dnd.report.explain import draw_png, draw_svg, explain, explain_file, explain_molecules, largest_part, variants_of
from finetuning_toys import heavy_atoms, quietly, tiny_model, write_csv
from finetuning_toys import molecules as toy_molecules

TRAINED, HELD_OUT = 250, 25


def crippen_atoms(smiles: str) -> np.ndarray:
    """Crippen's contribution of each heavy atom with its hydrogens, in the atom order of the canonical SMILES."""
    mol = parse_smiles(smiles).mol
    count, full = mol.GetNumAtoms(), Chem.AddHs(mol)
    values = [value for value, _ in rdMolDescriptors._CalcCrippenContribs(full)]
    found = np.array(values[:count])
    for atom in list(full.GetAtoms())[count:]:
        found[atom.GetNeighbors()[0].GetIdx()] += values[atom.GetIdx()]
    return found


def logp(smiles: Sequence[str]) -> np.ndarray:
    return np.array([Crippen.MolLogP(parse_smiles(text).mol) for text in smiles])


@pytest.fixture(scope="module")
def molecules() -> list[str]:
    """Distinct ESOL molecules of 6 to 16 heavy atoms, shuffled."""
    with gzip.open(str(files("dnd.data") / "esol.csv.gz"), "rt") as stream:
        outcomes = [parse_smiles(row["smiles"]) for row in csv.DictReader(stream)]
    found = sorted({one.smiles for one in outcomes if one.ok and 6 <= one.mol.GetNumAtoms() <= 16})
    return [found[place] for place in np.random.default_rng(0).permutation(len(found))]


@pytest.fixture(scope="module")
def network(molecules: list[str], tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder, own = tmp_path_factory.mktemp("crippen"), molecules[:TRAINED]
    data = write_csv(folder / "d.csv", {"smiles": own, "logp": logp(own).tolist()})
    words = ("student.width=48", "student.num_layers=3", "loop.epochs=25", "layer_decay=1.0")
    quietly(data, folder / "model", ["logp"], *words)
    return Predictor.load(folder / "model", device="cpu")


def agreement(predict: object, smiles: list[str]) -> float:
    """Pearson r between contributions and Crippen's, over the atoms of held-out molecules."""
    found = explain(predict, smiles)
    contributions = np.concatenate([one.atoms_NC[:, 0] for one in found])
    return float(np.corrcoef(contributions, np.concatenate([crippen_atoms(one.smiles) for one in found]))[0, 1])


def test_contributions_of_a_network_agree_with_crippens(network: Predictor, molecules: list[str]):
    assert agreement(lambda texts: network.predict_values(texts)[0], molecules[TRAINED : TRAINED + HELD_OUT]) > 0.5


def test_contributions_of_a_forest_agree_with_crippens(molecules: list[str]):
    def features(texts: Sequence[str]) -> np.ndarray:
        return count_fingerprints([parse_smiles(text).mol for text in texts])

    own = molecules[:TRAINED]
    forest = RandomForestRegressor(60, max_features=0.33, random_state=0).fit(features(own), logp(own))

    def predict(texts: Sequence[str]) -> np.ndarray:
        return forest.predict(features(texts))[:, None]

    assert agreement(predict, molecules[TRAINED : TRAINED + HELD_OUT]) > 0.35


def test_what_is_explained_is_exact_for_a_count_of_oxygens():
    def oxygens(texts: Sequence[str]) -> np.ndarray:
        return np.array([[float(text.count("O"))] for text in texts])

    (found,) = explain(oxygens, ["OCCN"])
    by_element = dict(zip(found.symbols, found.atoms_NC[:, 0], strict=True))
    assert by_element["O"] == 1  # none of its alternatives is an oxygen
    assert by_element["N"] == pytest.approx(-1 / 3)  # one of C, O and F is
    assert by_element["C"] == pytest.approx(-1 / 2)  # F has no room for two bonds


def test_variants_are_valid_and_of_the_same_shape():
    mol = parse_smiles("c1ccccc1C").mol
    for atom in range(mol.GetNumAtoms()):
        variants = variants_of(mol, atom)
        assert variants
        assert all(parse_smiles(text).ok for text in variants)
    assert variants_of(parse_smiles("C").mol, 0)


@pytest.mark.parametrize(
    ("smiles", "without"),
    [
        ("C[C@H](O)C(C)(C)[C@@H](N)C", "C.C.CCN.CCO"),
        ("CC(C)(C)[C@](F)(Cl)Br", "C.C.C.FC(Cl)Br"),
        ("C[N+](C)(C)C(C)(C)C", "C.C.C.C[NH+](C)C"),
    ],
)
def test_the_rest_of_a_molecule_without_an_atom_is_no_radical(smiles: str, without: str):
    mol = parse_smiles(smiles).mol
    quaternary = next(atom.GetIdx() for atom in mol.GetAtoms() if atom.GetSymbol() == "C" and not atom.GetTotalNumHs()
                      and all(other.GetSymbol() in "CN" for other in atom.GetNeighbors()))  # fmt: skip
    assert [parse_smiles(text).smiles for text in variants_of(mol, quaternary)] == [without]


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_bad_row_does_not_stop_the_others(tmp_path: Path):
    model = Predictor.load(tiny_model(tmp_path), device="cpu")
    data = write_csv(tmp_path / "m.csv", {"smiles": ["CCO", "no molecule", "c1ccccc1O", "", "CCN"]})
    summary = explain_file(model, data, tmp_path / "out", most_molecules=4)
    assert (summary.rows, summary.explained, summary.skipped) == (5, 2, 1)
    rows = read_rows(tmp_path / "out" / "molecules.csv")
    assert [bool(row["error"]) for row in rows] == [False, True, False, True, True]
    assert float(rows[0]["size_pred"]) == pytest.approx(model.predict_values(["CCO"])[0][0, 0])
    atoms = read_rows(tmp_path / "out" / "contributions.csv")
    assert [row["element"] for row in atoms if row["row"] == "0"] == ["C", "C", "O"]
    svg = (tmp_path / "out" / "row-00002-size.svg").read_text()
    assert svg.startswith("<svg")
    assert "href" not in svg
    assert (tmp_path / "out" / "row-00002-size.png").read_bytes().startswith(b"\x89PNG")
    assert not any("attention" in line for line in summary.lines())  # a GINE has none


def test_a_single_smiles_and_an_unknown_target(tmp_path: Path):
    model = Predictor.load(tiny_model(tmp_path), device="cpu")
    assert explain_file(model, "OCC", tmp_path / "out").explained == 1
    assert "up to 200" in explain_file(model, "C" * 300, tmp_path / "long").first_error
    with pytest.raises(ConfigError, match="Did you mean size"):
        explain_file(model, "OCC", tmp_path / "other", targets=["sizes"])
    with pytest.raises(InputError, match="no file"):
        explain_file(model, "nofile.csv", tmp_path / "other")
    with pytest.raises(InputError, match="already contains an explanation"):  # its pictures would be taken for these
        explain_file(model, "OCN", tmp_path / "out")


def test_attention_beside_distance(tmp_path: Path):
    student = build_student(StudentConfig("tokengt", width=16, num_layers=2, num_heads=2))
    finding = map_attention(student, "CC(=O)Nc1ccccc1", "heavy_both")
    assert len(finding.rows) == 2 * 2 * 10 * 10
    weights = np.array([row[-1] for row in finding.rows]).reshape(2, 2, 10, 10)
    assert np.allclose(weights.sum(-1), 1)
    distances = np.array([row[-2] for row in finding.rows]).reshape(2, 2, 10, 10)[0, 0]
    assert np.allclose(distances, distances.T)
    assert 1.3 < np.sort(distances[0])[1] < 1.6  # the nearest atom of a methyl carbon is a bond away
    assert (tmp_path / "attention.png") in finding.write(tmp_path)
    with pytest.raises(InputError, match="no attention maps"):
        map_attention(build_student(StudentConfig("gine", 16, 2)), "CCO", "heavy_both")


@pytest.mark.parametrize(("smiles", "atoms"), [("C", "1 atom"), ("[Na+].[Cl-]", "2 atoms")])
def test_attention_of_one_or_two_atoms_has_no_correlation(smiles: str, atoms: str):
    student = build_student(StudentConfig("tokengt", width=16, num_layers=2, num_heads=2))
    sentence = map_attention(student, smiles, "heavy_both").sentence
    assert f"{atoms}, 2 layers of 2 heads; attended distance" in sentence


def test_a_counter_ion_is_named_and_not_coloured_and_a_unit_keeps_its_letters():
    mol = parse_smiles("NCc1ccccc1.Cl").mol
    atoms, others = largest_part(mol)
    assert sorted(mol.GetAtomWithIdx(atom).GetSymbol() for atom in atoms) == ["C"] * 7 + ["N"]
    assert others == ["Cl"]
    values = np.where([atom in atoms for atom in range(mol.GetNumAtoms())], 1.0, 50.0)
    svg = draw_svg(mol, values, "solubility: 3.2; per atom, \u00b5g/mL & <b> onload=x")
    assert "\u00b5g/mL &amp; &lt;b&gt; onload&#61;x</text>" in svg
    assert "not coloured: Cl</text>" in svg
    alone = parse_smiles("NCc1ccccc1").mol
    assert "not coloured" not in draw_svg(alone, np.ones(8), "y")
    pictures = [draw_png(alone, np.ones(8), f"{letter}g") for letter in ("\u00b5", " ")]
    assert pictures[0] != pictures[1]
    # The scale is that of the drug: its strongest atom has the strongest colour, whatever the chloride adds.
    assert svg.count("#DF7F36") == draw_svg(mol, np.where(values > 1, 0.0, values), "").count("#DF7F36")


def test_a_target_that_a_molecule_is_too_large_for_leaves_the_others_explained(tmp_path: Path):
    """Of `dnd-properties`: aspirin has 13 heavy atoms, and polarisability is for 9 at most."""
    predictor, aspirin = Predictor.load("dnd-properties", device="cpu"), "CC(=O)Oc1ccccc1C(=O)O"
    known, unknown = explain_molecules(predictor, [aspirin], ["solubility", "polarisability"])
    assert known.error == ""
    assert np.isfinite(known.atoms_N).all()
    assert np.abs(known.atoms_N).max() > 0.1
    assert known.prediction == pytest.approx(predictor.predict([aspirin])["solubility_pred"][0])
    assert (unknown.error, unknown.svg) == ("the model has no prediction of polarisability for it", "")
    summary = explain_file(predictor, aspirin, tmp_path, targets=["solubility", "polarisability"])
    assert summary.explained == 1
    assert "polarisability" not in (tmp_path / "contributions.csv").read_text()
    assert "the model has no prediction of polarisability for it" in (tmp_path / "molecules.csv").read_text()


def test_contributions_to_a_logarithm_are_on_its_scale(tmp_path: Path):
    smiles = toy_molecules()
    labels = [10.0 ** heavy_atoms(text) for text in smiles]
    data = write_csv(tmp_path / "d.csv", {"smiles": smiles, "Ki": labels})
    words = ("transform=log", "blend.classical=ridge", "blend.students=false", "blend.folds=2", "units=nM")
    quietly(data, tmp_path / "model", ["Ki"], *words)
    model = Predictor.load(tmp_path / "model", device="cpu")
    explain_file(model, "CCCc1ccccc1", tmp_path / "out")
    (row,) = read_rows(tmp_path / "out" / "molecules.csv")
    assert float(row["Ki_pred"]) == pytest.approx(model.predict("CCCc1ccccc1")["Ki_pred"][0], rel=1e-4)
    atoms = read_rows(tmp_path / "out" / "contributions.csv")
    assert {one["unit"] for one in atoms} == {"log10 units"}
    assert max(abs(float(one["contribution"])) for one in atoms) < 3  # powers of ten, not nM
