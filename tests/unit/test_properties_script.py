"""`benchmarks/properties.py`: what teaches and what judges, and the page that is drawn from its raw lines."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmark_scripts import load_script
from dnd.predictor.predictor import Predictor


@pytest.fixture(scope="module")
def data() -> ModuleType:
    return load_script("properties_data")


@pytest.fixture(scope="module")
def script(data: ModuleType) -> ModuleType:
    load_script("properties_folder")  # which it imports
    return load_script("properties")


def rows_of(data: ModuleType, labelled: list[tuple[str, int, int, float]]) -> object:
    """Molecules from SMILES, place of a property, part and value."""
    rows = data._Rows()
    for text, place, part, value in labelled:
        data._note(rows.add(text), (place,), part, [value], measured=True)
    return data._without_what_judges(rows.rows)


def test_a_molecule_that_judges_one_property_teaches_none_in_any_stereochemistry(data: ModuleType) -> None:
    found = rows_of(data, [("C[C@H](O)CCCCBr", 0, 3, 1.0), ("C[C@@H](O)CCCCBr", 1, 1, 2.0), ("CCCCCCCCBr", 1, 1, 3.0)])
    assert found.part_BC[:, :2].tolist() == [[3, 0], [0, 0], [0, 1]]
    assert np.isnan(found.labels_BC[1]).all()


def test_a_validation_molecule_may_teach_another_property_and_not_its_own(data: ModuleType) -> None:
    found = rows_of(data, [("CCCCCCCCBr", 0, 2, 1.0), ("CCCCCCCCBr", 0, 1, 9.0), ("CCCCCCCCBr", 1, 1, 3.0)])
    assert found.part_BC[0, :2].tolist() == [2, 1]
    assert found.labels_BC[0, :2].tolist() == [1.0, 3.0]


def test_molecules_of_the_list_teach_nothing_measured(data: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    key = rows_of(data, [("CCCCCCCCBr", 0, 1, 1.0)]).keys[0]
    monkeypatch.setattr(data, "read_key_list", lambda path: frozenset({key}))
    assert rows_of(data, [("BrCCCCCCCC", 0, 1, 1.0)]).part_BC.sum() == 0


def test_replicates_are_one_label(data: ModuleType) -> None:
    found = rows_of(data, [("CCCCCCCCBr", 0, 1, 1.0), ("BrCCCCCCCC", 0, 1, 2.0)])
    assert found.labels_BC[:, 0].tolist() == [1.5]


def test_what_is_taught_is_a_label_else_what_a_blend_says_and_nothing_of_what_is_judged(
    data: ModuleType, script: ModuleType
) -> None:
    found = rows_of(data, [("CCCCCCCCBr", 0, 1, 1.0), ("CCCCCCCBr", 0, 2, 2.0), ("CCCCCCCBr", 1, 1, 5.0)])
    soft_BC = np.full(found.labels_BC.shape, np.nan)
    soft_BC[:, :2] = 7.0
    rows, values_BC = script.lessons(found, soft_BC)
    assert set(rows.tolist()) == {0, 1}
    assert values_BC[0, :2].tolist() == [1.0, 7.0]
    assert np.isnan(values_BC[1, 0])
    assert values_BC[1, 1] == 5.0


def test_the_page_is_that_of_its_raw_lines(script: ModuleType) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.drawn(page, script.read_raw(), script.read_raw("blends.csv")) == page


def test_few_of_a_class_draws_the_share_of_the_whole_and_its_table_is_that_of_its_lines(data: ModuleType) -> None:
    few = load_script("few_of_a_class")
    labels = np.repeat([1.0, 0.0], [20, 100])
    rows = few.drawn_rows(labels, 4, np.random.default_rng(0))
    assert (labels[rows].sum(), len(rows)) == (4, 24)
    page = few.PAGE.read_text(encoding="utf-8")
    assert few.drawn(page, few.read_lines(few.LINES)) == page


def test_calibrating_anew_replaces_the_predictions_of_its_properties_in_order(
    data: ModuleType, script: ModuleType, tmp_path: Path
) -> None:
    folder = load_script("properties_folder")
    rows = "property,smiles,label,predicted\na,CCO,1,0.5\nb,CCO,1,0.6\na,CCC,0,0.4\n"
    (tmp_path / "test_predictions.csv.gz").write_bytes(gzip.compress(rows.encode()))
    folder._replace_predictions(tmp_path, {"a": np.array([0.7, 0.1])})
    found = gzip.decompress((tmp_path / "test_predictions.csv.gz").read_bytes()).decode()
    assert found == "property,smiles,label,predicted\na,CCO,1,0.7\nb,CCO,1,0.6\na,CCC,0,0.1\n"


def test_every_class_that_ships_is_calibrated() -> None:
    predictor = Predictor.load("dnd-properties", device="cpu")
    assert predictor.calibration is not None
    for target, own in zip(predictor.targets, predictor.calibration.targets, strict=True):
        assert (own.chosen.scaling is not None) == (target.kind == "classification")
