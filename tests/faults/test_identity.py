"""One molecule is one, however it is drawn: in exclusions, duplicates, leaks, contradictions and splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from dnd.chemistry.identity import connectivity_key, identities_of
from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.finetuning.check_data import check_data
from dnd.finetuning.finetune import FinetuneSummary, finetune
from dnd.finetuning.labelled_data import LabelledFile
from dnd.finetuning.splits import partitions
from dnd.prediction.estimator_base import _parts
from dnd.prediction.evaluate import evaluate_file
from dnd.predictor.predictor import Predictor
from dnd.store.featurize import featurize_smiles
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting
from dnd.store.settings import PrepareConfig
from finetuning_toys import molecules, tiny_config, write_csv
from support.said import said

SAME = [
    ("CS(C)=O", "C[S+](C)[O-]"),
    ("CP(C)(C)=O", "C[P+](C)(C)[O-]"),
    ("O=S1(=O)CCCC1", "[O-][S+2]1([O-])CCCC1", "O=[S+]1([O-])CCCC1"),
    ("[O-][n+]1ccccc1", "O<-n1ccccc1", "[O]<-n1ccccc1", "O=n1ccccc1"),
    ("C[N+](C)(C)[O-]", "CN(C)(C)->[O]"),
    ("C[N+](=O)[O-]", "CN(=O)=O", "CN(=O)->[O]"),
    ("CN=[N+]=[N-]", "C[N-][N+]#N", "CN=N#N"),
    ("C=[N+]=[N-]", "[CH2-][N+]#N"),
    ("CC[S@](C)=O", "CC[S@+](C)[O-]"),
    ("CS(C)(=N)=O", "C[S+](C)(=N)[O-]"),
    ("O=S1C=CC=C1", "[O-][S+]1C=CC=C1", "[O-][s+]1cccc1"),
    ("CS(=O)(=O)[O-]", "C[S+2]([O-])([O-])[O-]"),
    ("C=P(C)(C)C", "[CH2-][P+](C)(C)C"),
    ("C[Se](C)=O", "C[Se+](C)[O-]"),
    ("N->[Pt](Cl)(Cl)<-N", "[NH3+][Pt-2](Cl)(Cl)[NH3+]"),
    ("[BH3]<-[NH3]", "[BH3-][NH3+]"),
    ("CCO", "[CH3:1][CH2:7]O"),
]
APART = [
    ("CC[S@](C)=O", "CC[S@@+](C)[O-]"),
    ("C[S+](C)C", "CSC"),
    ("CC(=O)[O-].[Na+]", "CC(=O)O"),
    ("C[n+]1ccccc1", "[O-][n+]1ccccc1"),
]

FOREST = ("blend.classical=forest_counts", "blend.students=false", "blend.folds=2", "blend.trees=10")


def canonical(text: str) -> Molecule:
    found = parse_smiles(text)
    assert isinstance(found, Molecule), found.reason
    return found


def spoken(data: Path, out: Path, *overrides: str, **options: object) -> tuple[FinetuneSummary, list[str]]:
    """A tiny finetuning, and what it says."""
    lines: list[str] = []
    config = tiny_config("loop.epochs=1", *overrides)
    with said(lines):
        return finetune(data, out, ["y"], config, encoder="random", **options), lines  # type: ignore[arg-type]


@pytest.mark.parametrize("forms", SAME)
def test_forms_of_one_molecule(forms: tuple[str, ...]):
    read = [canonical(text) for text in forms]
    assert len(set(identities_of(one.smiles for one in read))) == 1
    assert len({connectivity_key(one.mol) for one in read}) == 1


@pytest.mark.parametrize("two", APART)
def test_two_molecules(two: tuple[str, str]):
    first, second = identities_of(canonical(text).smiles for text in two)
    assert first != second


def test_an_identity_is_its_own_identity():
    found = identities_of(canonical(text).smiles for forms in SAME for text in forms)
    assert identities_of(found) == found


def test_a_molecule_that_inchi_has_no_name_for_is_left_out_too(tmp_path: Path):
    pool = write_csv(tmp_path / "pool.csv", {"smiles": ["*CC", "*OC", "*C[C@H](F)O", "CCO"]})
    leave = write_csv(tmp_path / "leave.csv", {"smiles": ["C(*)C", "*C[C@@H](F)O"]})
    summary = prepare([pool], tmp_path / "s", PrepareConfig(exclude=(str(leave),)))
    assert Store.open(tmp_path / "s").smiles() == ["*OC", "CCO"]
    assert summary.rejected == {"exclude: molecule is in an --exclude file": 2}


def test_a_list_to_exclude_that_cannot_be_read_is_refused(tmp_path: Path):
    pool = write_csv(tmp_path / "pool.csv", {"smiles": ["CCO", "CCN", "CCC", "c1ccccc1"]})
    leave = write_csv(tmp_path / "leave.csv", {"smiles": ["CCC", "CCO ethanol", "CCN ethylamine"]})
    with pytest.raises(InputError, match=r"2 of them, the first in row 1 of leave\.csv: text after a blank"):
        prepare([pool], tmp_path / "s", PrepareConfig(exclude=(str(leave),)))
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_a_list_to_exclude_has_its_own_column_of_smiles(tmp_path: Path):
    pool = write_csv(tmp_path / "pool.csv", {"Ligand": ["CCO", "CCN", "CCC"], "smiles": ["C", "C", "C"]})
    named = write_csv(tmp_path / "named.csv", {"id": [1], "SMILES": ["OCC"]})
    shaped = write_csv(tmp_path / "shaped.csv", {"id": ["A1"], "X": ["CC(C)N"]})
    same = write_csv(tmp_path / "same.csv", {"smiles": ["C"], "Ligand": ["NCC"]})
    config = PrepareConfig(exclude=(str(named), str(shaped), str(same)), smiles_column="Ligand")
    prepare([pool], tmp_path / "s", config)
    assert Store.open(tmp_path / "s").smiles() == ["CCC"]
    (tmp_path / "a.sdf").write_text(f"{Chem.MolToMolBlock(Chem.MolFromSmiles('CCO'))}$$$$\n")
    for column, error in (("Ligand", None), ("Ligands", "no column 'Ligands'")):
        config = PrepareConfig(
            exclude=(str(same),), smiles_column=column, conformers="etkdg"
        )  # of the list, as an SDF has none
        if error is None:
            prepare([tmp_path / "a.sdf"], tmp_path / "sdf", config)
            continue
        with pytest.raises(InputError, match=error):
            prepare([tmp_path / "a.sdf"], tmp_path / "none", config)


def test_two_forms_in_training_and_test_are_a_leak(tmp_path: Path):
    smiles, ordinary = [text for place in (0, 1) for text in (forms[place] for forms in SAME[:4])], molecules()[:20]
    columns = {
        "smiles": [*smiles, *ordinary],
        "y": [0.5 * row for row in range(28)],
        "part": ["train"] * 4 + ["test"] * 4 + ["train"] * 15 + ["valid"] * 5,
    }
    run, lines = spoken(write_csv(tmp_path / "d.csv", columns), tmp_path / "m", "split=column:part")
    assert run.metrics["duplicates_in_training_and_test"] == 4
    assert [one["smiles"] for one in run.metrics["duplicates"]] == [
        "CS(C)=O", "CP(C)(C)=O", "O=S1(=O)CCCC1", "[O-][n+]1ccccc1",
    ]  # fmt: skip
    assert any(line.startswith("warning: 4 molecules are in more than one part") for line in lines)
    known = write_csv(tmp_path / "known.csv", {"smiles": ["C[S+]([O-])C", "CN(C)(C)=O"], "y": [0.0, 1.0]})
    assert evaluate_file(Predictor.load(tmp_path / "m"), known)["known_molecules"] == 1


@pytest.mark.parametrize("split", ["random", "kfold:3", "scaffold-balanced", "cluster"])
def test_a_split_keeps_the_forms_together(split: str):
    texts = [canonical(text).smiles for forms in SAME[:12] for text in forms[:2]] + molecules()
    for part in partitions(split, texts, identities=identities_of(texts), fractions=(0.5, 0.25, 0.25)):
        part_of = {int(row): name for name, rows in part.parts().items() for row in rows}
        assert all(part_of[row] == part_of[row + 1] for row in range(0, 24, 2))


@pytest.mark.parametrize("also", [False, True])
def test_contradictions_are_counted_and_the_first_is_named(tmp_path: Path, also: bool):
    smiles = [*molecules()[:20], "CS(C)=O", "C[S+](C)[O-]"]
    table = write_csv(tmp_path / "d.csv", {"smiles": smiles, "y": [row % 2 for row in range(22)]})
    other = write_csv(tmp_path / "e.csv", {"smiles": molecules()[:20], "z": [0.5 * row for row in range(20)]})
    _, lines = spoken(table, tmp_path / "m", also=[LabelledFile(other, ("z",))] if also else [])
    said = [line for line in lines if line.startswith("note: ") and "contradict" in line]
    assert len(said) == 1
    assert "1 " in said[0]
    assert "CS(C)=O" in said[0]


@pytest.mark.parametrize(
    ("labelled", "plain"),
    [("CC[18OH]", "CCO"), ("[2H]OCC", "CCO"), ("[13CH3]c1ccccc1", "Cc1ccccc1"), ("[2H]C([2H])([2H])O", "CO"),
     ("C[C@H]([2H])O", "CCO"), ("[2H]O[2H]", "O"), ("[2H][2H]", "[H][H]"), ("[3H]/C=C/C", "C=CC"),
     ("[2H]/C(C)=C/C", r"C/C=C\C"),
     ("[2H]/N=C/C", "[H]/N=C/C")],
)  # fmt: skip
@pytest.mark.parametrize("hydrogens", ["heavy_both", "all_both"])
def test_isotopes_are_not_seen(labelled: str, plain: str, hydrogens: HydrogenSetting):
    with_label, without = featurize_smiles([labelled, plain], hydrogens)
    assert with_label.smiles == without.smiles
    assert with_label.graph is not None
    assert without.graph is not None
    assert np.array_equal(with_label.graph.node_features_NF, without.graph.node_features_NF)
    assert np.array_equal(with_label.graph.bonds_U2, without.graph.bonds_U2)


@pytest.mark.parametrize("recipe", [(), FOREST], ids=["network", "forest"])
def test_isotopes_change_no_prediction(tmp_path: Path, recipe: tuple[str, ...]):
    smiles = molecules()[:30]
    table = write_csv(tmp_path / "d.csv", {"smiles": smiles, "y": [float(len(text)) for text in smiles]})
    spoken(table, tmp_path / "m", *recipe)
    values, why = Predictor.load(tmp_path / "m").predict_values(["CCO", "CC[18OH]", "[2H]OCC", "C[13CH2]O"])
    assert not any(why)
    assert np.isfinite(values).all()
    assert np.ptp(values) < 1e-6


TWICE = [("CS(C)=O", "C[S+](C)[O-]"), ("CCO", "[2H]OCC"), ("CP(C)(C)=O", "C[P+](C)(C)[O-]")]


def test_a_check_counts_molecules_as_a_finetuning_does(tmp_path: Path) -> None:
    texts = [*molecules(), *(form for forms in TWICE for form in forms)]
    table = write_csv(tmp_path / "d.csv", {"smiles": texts, "y": [float(len(text)) for text in texts]})
    facts = check_data(table, target_columns=["y"])
    assert (facts.molecules, facts.different) == (60, 57)
    assert sorted(places for _, places in facts.duplicates) == [[56, 57], [58, 59], [60, 61]]
    metrics = finetune(
        table, tmp_path / "m", ["y"], tiny_config("split=scaffold", "loop.epochs=1"), encoder="random"
    ).metrics
    assert facts.split_name == "scaffold"
    assert facts.split == tuple(metrics["parts"][part]["molecules"] for part in ("train", "valid", "test"))


def test_an_estimator_keeps_the_forms_of_a_molecule_in_one_part() -> None:
    texts = [form for _ in range(3) for forms in TWICE for form in forms] + molecules()[:20]
    for seed in range(5):
        parts = _parts(texts, 0.3, seed, standardize=False)
        assert all(parts[row] == parts[row + 1] for row in range(0, 18, 2))
