"""The form of a molecule that a standardizing model sees, in every way that leads to a prediction."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import dnd
from dnd.chemistry.identity import is_mixture, molecule_for_model
from dnd.chemistry.parse import parse_smiles
from dnd.cli.check import check_lines
from dnd.common.errors import InputError
from dnd.common.files import read_json
from dnd.finetuning.check_data import check_data, next_line
from dnd.prediction.evaluate import evaluate_file
from dnd.prediction.screen.screen import ScreenConfig, screen
from dnd.predictor.predictor import Predictor
from dnd.report.explain import explain_molecules
from dnd.report.model_report import write_model_report
from finetuning_toys import molecules, quietly, write_csv


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O"),
        ("C[NH3+].[Cl-]", "CN"),
        ("O.OCC", "CCO"),
        ("C[N+](C)(C)C.[Br-]", "C[N+](C)(C)C"),
        ("[NH3+]CC(=O)[O-]", "NCC(=O)O"),
        ("O=[N+]([O-])c1ccccc1", "O=[N+]([O-])c1ccccc1"),
        ("CS(=O)(=O)O.CCCCCN", "CCCCCN"),
        ("[2H]C(=O)[O-].[K+]", "O=CO"),
    ],
)
def test_the_largest_organic_part_neutral(given: str, seen: str) -> None:
    molecule = molecule_for_model(given, standardize=True)
    assert molecule.ok
    assert molecule.smiles == seen
    again = molecule_for_model(seen, standardize=True)
    assert again.ok
    assert again.smiles == seen


def test_what_is_no_molecule_has_the_reason_of_ever() -> None:
    assert molecule_for_model("C1CC", standardize=True) == molecule_for_model("C1CC", standardize=False)


@pytest.mark.parametrize(
    ("text", "mixed"),
    [
        ("CCO.CCN", True),
        ("CCO.CCO", False),
        ("CC(=O)[O-].[Na+]", False),
        ("c1ccccc1CCCN.CC(=O)O", False),
        ("CCO", False),
        ("CC[Co+2].C", False),
        ("[CH3-].*C*", True),
    ],
)
def test_a_mixture_is_told_from_a_salt(text: str, mixed: bool) -> None:
    read = parse_smiles(text)
    assert read.ok
    assert is_mixture(read.smiles) is mixed


def salts(path: Path) -> Path:
    """54 molecules, every fourth as a hydrochloride hydrate, and two of them once more as they are."""
    plain = molecules()
    texts = [f"{text}.Cl.O" if place % 4 == 0 else text for place, text in enumerate(plain)]
    return write_csv(path, {"smiles": [*texts, plain[0], plain[4]], "y": [float(len(text)) for text in plain] + [8, 8]})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("standardize")
    quietly(salts(folder / "salts.csv"), folder / "model", ["y"], "standardize=true")
    return folder


def test_duplicates_and_replicates_are_counted_after_it(folder: Path) -> None:
    metrics = read_json(folder / "model" / "metrics.json")
    assert metrics["counts"]["standardized"] == 14
    assert [one["molecules"] for one in metrics["replicates"]] == [2]
    card = (folder / "model" / "card.md").read_text()
    assert "Standardized: the largest organic part, neutral; 14 rows were changed." in card
    text = write_model_report(folder / "model").read_text()
    assert "rows changed to their largest organic part, neutral" in text


def test_every_way_to_a_prediction_standardizes(folder: Path) -> None:
    predictor = Predictor.load(folder / "model", device="cpu")
    plain, salt = "CCc1ccccc1", "CCc1ccccc1.Cl.O"
    value, *others = predictor.predict([plain, salt, "CCO.CCN"])["y_pred"][:2]
    assert others == [pytest.approx(value, rel=1e-5)]
    assert predictor.predict_values([salt])[0][0, 0] == pytest.approx(value, rel=1e-5)
    assert predictor.predict_values([salt], as_given=True)[0][0, 0] != pytest.approx(value, rel=1e-5)
    assert np.array_equal(*predictor.embed([plain, salt]))
    explained = explain_molecules(predictor, [salt])[0]
    assert explained.smiles == plain
    assert explained.prediction == pytest.approx(value, rel=1e-5)
    assert np.allclose(explained.atoms_N, explain_molecules(predictor, [plain])[0].atoms_N)
    assert dnd.load(folder / "model").predict(salt)["y_pred"][0] == pytest.approx(value, rel=1e-5)
    found = evaluate_file(predictor, folder / "salts.csv")
    assert "standardized: 14 rows changed to their largest organic part, neutral" in found["notes"]
    assert found["known_molecules"] == found["molecules"] - len(held_out_rows(folder))
    screen([folder / "salts.csv"], folder / "model", folder / "out", ScreenConfig(jobs=1))
    screened = pq.read_table(folder / "out" / "part-00000.parquet")["y_pred"].to_numpy()
    predicted = predictor.predict([row["smiles"] for row in rows(folder / "salts.csv")])["y_pred"]
    assert np.allclose(screened, predicted, rtol=1e-5)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def held_out_rows(folder: Path) -> list[int]:
    """Rows of the test part."""
    return read_json(folder / "model" / "splits.json")["test"]


def test_a_mixture_is_outside_the_domain(folder: Path) -> None:
    predictor = Predictor.load(folder / "model", device="cpu")
    table = predictor.predict(["CCc1ccccc1.CCC1CCCCC1", "CCc1ccccc1.Cl"])
    assert "a mixture of organic molecules, of which CCC1CCCCC1 is predicted" in table["domain_reason"][0]
    assert table["in_domain"][0] == "no"
    assert "mixture" not in table["domain_reason"][1]


def test_an_estimator_deals_the_forms_of_a_molecule_into_one_part(folder: Path) -> None:
    model = dnd.DndRegressor(recipe="small", settings={
        "standardize": True, "student.name": "gine", "student.width": 16, "student.num_layers": 2, "loop.epochs": 1,
    }, encoder="random", device="cpu")  # fmt: skip
    table = rows(folder / "salts.csv")
    model.fit([row["smiles"] for row in table], [float(row["y"]) for row in table])
    assert model.predictor_.parts.standardize
    assert model.predict(["CCc1ccccc1.Cl"]) == pytest.approx(model.predict(["CCc1ccccc1"]), rel=1e-5)


def test_check_counts_what_finetune_will(folder: Path) -> None:
    plain = check_data(folder / "salts.csv")
    assert (len(plain.salts), plain.different, plain.standardized) == (14, 56, None)
    assert "--standardize learns their largest organic part, neutral" in "\n".join(check_lines(plain))
    facts = check_data(folder / "salts.csv", standardize=True)
    assert facts.different == 54
    assert facts.standardized == facts.salts
    assert next_line(facts).endswith(" --standardize")
    assert "standardized: 14 rows" in "\n".join(check_lines(facts))


def test_only_salts_of_one_molecule_are_one_molecule(tmp_path: Path) -> None:
    texts = ["CCN.Cl"] * 6 + ["CCN.Br"] * 6
    table = write_csv(tmp_path / "one.csv", {"smiles": texts, "y": list(range(12))})
    with pytest.raises(InputError, match="part"):
        quietly(table, tmp_path / "model", ["y"], "standardize=true")
