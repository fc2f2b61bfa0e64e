"""Models that ship: their names, the choice of columns, targets for small molecules only, and what the list says."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from dnd.common.config import DEFAULT_FOLDER, model_folder, shipped_models
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import read_json, write_json, write_manifest
from dnd.common.model_folder import FORMAT_VERSION
from dnd.predictor.model_folder import KIND, MOST_ATOMS
from dnd.predictor.predictor import Predictor
from dnd.predictor.ready_made import chosen_names, read_properties
from finetuning_toys import tiny_model

ROOT = Path(__file__).parents[3]
RAW = ROOT / "docs" / "results" / "properties" / "properties.csv"
CAFFEINE, BENZENE = "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "c1ccccc1"


@pytest.fixture(scope="module")
def ready_made() -> Predictor:
    return Predictor.load("dnd-properties", device="cpu")


def test_names_come_in_the_order_of_the_model_each_once():
    assert chosen_names(["b, a", "c,a"], ["a", "b", "c", "d"]) == ["a", "b", "c"]
    assert chosen_names(["LogS (pH 7,4)", "b"], ["a", "b", "LogS (pH 7,4)"]) == ["b", "LogS (pH 7,4)"]


@pytest.mark.parametrize(
    ("words", "said"), [(["solubilty"], "Did you mean solubility?"), (["", " , "], "no property is named")]
)
def test_a_name_that_there_is_not_is_one_clear_line(words: list[str], said: str):
    with pytest.raises(ConfigError) as refused:
        chosen_names(words, ["solubility", "logd"])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_shipped_name_is_a_folder_and_any_other_word_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert shipped_models() == ["dnd-properties"]
    assert model_folder("dnd-properties") == DEFAULT_FOLDER
    assert model_folder("model") == Path("model")
    (tmp_path / "dnd-properties").mkdir()
    with pytest.raises(InputError, match="is a model that ships with dnd, and a folder here"):
        model_folder("dnd-properties")
    assert model_folder("./dnd-properties") == Path("dnd-properties")


def test_a_shown_target_has_all_its_columns_and_no_other(ready_made: Predictor):
    every, some = ready_made.predict([BENZENE]), ready_made.showing(["logp,boiling_point"]).predict([BENZENE])
    own = [f"{name}_{end}" for name in ("logp", "boiling_point") for end in ("pred", "low", "high")]
    assert list(some) == ["smiles", *own, "in_domain", "domain_reason", "error"]
    assert all(np.array_equal(some[name], every[name]) for name in own)
    assert len(every) > len(some)  # the model itself shows all as before


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("whole"))


def limited(whole: Path, folder: Path, limits: object) -> Path:
    """The model of `size`, for small molecules only."""
    model = Path(shutil.copytree(whole, folder / "model"))
    write_json(model / "config.json", read_json(model / "config.json") | {MOST_ATOMS: limits})
    write_manifest(model, kind=KIND, format_version=FORMAT_VERSION)
    return model


def test_a_target_for_small_molecules_is_empty_for_larger_ones(whole: Path, tmp_path: Path):
    smiles = ["CCO", "CCCC", "CCCCC", "no molecule", BENZENE]
    small = Predictor.load(limited(whole, tmp_path, {"size": 4}), device="cpu")
    table, expected = small.predict(smiles), Predictor.load(whole, device="cpu").predict(smiles)
    assert np.isnan(table["size_pred"]).tolist() == [False, False, True, True, True]
    assert np.array_equal(table["size_pred"][:2], expected["size_pred"][:2])
    assert [bool(reason) for reason in table["error"]] == [False, False, False, True, False]
    assert np.array_equal(small.predict_values(smiles)[0][:, 0], table["size_pred"], equal_nan=True)


@pytest.mark.parametrize("limits", [{"size": 0}, {"size": "9"}, {"weight": 9}, {"size": True}])
def test_a_limit_that_is_none_is_refused(whole: Path, tmp_path: Path, limits: object):
    with pytest.raises(CorruptFileError, match="does not describe a predictor"):
        Predictor.load(limited(whole, tmp_path, limits), device="cpu")


def test_the_list_is_that_of_the_model(ready_made: Predictor):
    entries = read_properties()
    assert [one.name for one in entries] == [target.name for target in ready_made.targets]
    assert [(one.unit, one.kind) for one in entries] == [(target.unit, target.kind) for target in ready_made.targets]
    limits = ready_made.parts.config[MOST_ATOMS]
    assert {one.name: one.most_atoms for one in entries if one.most_atoms} == limits
    card = (DEFAULT_FOLDER / "card.md").read_text(encoding="utf-8")
    assert all(f"| `{one.name}` |" in card and one.licence in card and one.bad_at for one in entries)


def test_what_ships_is_small_and_better_than_the_mean():
    assert sum(path.stat().st_size for path in DEFAULT_FOLDER.iterdir()) <= 8 * 2**20
    for one in read_properties():
        assert one.score < one.mean if one.metric == "rmse" else one.score > 0.5, one.name


def test_every_number_of_the_list_is_one_of_the_raw_lines():
    with open(RAW, newline="", encoding="utf-8") as stream:
        lines = {line["property"]: line for line in csv.DictReader(stream)}
    entries = {one.name: one for one in read_properties()}
    assert set(entries) == {name for name, line in lines.items() if line["ships"] == "yes"}
    for name, one in entries.items():
        line = lines[name]
        assert [line[f"{system}_{one.metric}"] for system in ("student", "random_forest_counts", "mean")] == [
            f"{value:.5g}" for value in (one.score, one.forest, one.mean)
        ]
        assert (int(line["training"]), int(line["test"])) == (one.training, one.test)
    assert all(line["beside_mean"] == "better than" for line in lines.values() if line["ships"] == "yes")


def test_values_that_a_chemist_knows(ready_made: Predictor):
    table = ready_made.predict([BENZENE, "CCO", "CCCCCCCCCCCC", CAFFEINE])
    assert table["boiling_point_pred"][0] == pytest.approx(80, abs=25)
    assert table["boiling_point_pred"][2] == pytest.approx(216, abs=35)
    assert table["logp_pred"] == pytest.approx([2.1, -0.3, 6.1, -0.1], abs=0.9)
    assert table["solubility_pred"][1] > table["solubility_pred"][0] > table["solubility_pred"][2]
    assert table["hydration_free_energy_pred"][1] == pytest.approx(-5, abs=2)
    assert table["refractive_index_pred"][0] == pytest.approx(1.501, abs=0.05)
    assert np.isnan(table["polarisability_pred"]).tolist() == [False, False, True, True]  # of 6, 3, 12 and 14 atoms
    assert table["polarisability_pred"][0] == pytest.approx(66, rel=0.15)


def test_no_molecule_and_no_label_is_in_the_folder():
    named = {"CCO", BENZENE, CAFFEINE}
    for path in DEFAULT_FOLDER.glob("*.json"):
        assert not named & set(json.dumps(read_json(path)).split('"')), path.name
    assert not (DEFAULT_FOLDER / "test_predictions.csv").exists()
