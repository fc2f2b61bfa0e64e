"""The report of a model says what its files say, is self-contained, and leaves the folder sealed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dnd.common.errors import CorruptFileError
from dnd.common.files import read_json, write_manifest
from dnd.predictor.metrics import significant
from dnd.predictor.predictor import Predictor
from dnd.report import model_report
from dnd.report.model_metrics import read_model_files
from dnd.report.model_report import write_model_report
from dnd.report.plots import calibration_bins, roc_plot
from finetuning_toys import heavy_atoms, molecules, quietly, tiny_model, write_classes, write_csv


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("report"), "ensemble=2", "baselines=true", "fractions=0.5,0.2,0.3")


def test_it_holds_every_part_and_the_folder_stays_sealed(model: Path) -> None:
    page = write_model_report(model).read_text()
    for title in ("Results", "Metrics", "Test part", "Data and split", "Worst errors", "Training", "Environment"):
        assert f"<h2>{title}" in page, title
    metrics = read_json(model / "metrics.json")
    assert significant(metrics["parts"]["test"]["rmse"]) in page
    assert "random forest counts" in page
    assert "95 % interval " in page
    assert page.count("<svg") >= 4
    assert "fractions=0.5,0.2,0.3" in page
    assert "report.html" in read_json(model / "manifest.json")["files"]
    Predictor.load(model)


def test_values_in_units_of_their_own_are_judged_one_by_one(tmp_path: Path) -> None:
    """A mean over logarithms and kilocalories is no error of anything."""
    smiles = molecules()
    sizes = [round(heavy_atoms(one)) for one in smiles]
    cells = [f">{size}" if row % 9 == 0 else str(size) for row, size in enumerate(sizes)]
    columns = {"smiles": smiles, "dG (kcal/mol)": cells, "Ki (nM)": [10.0 ** (size % 7) for size in sizes]}
    words = ("baselines=true", "fractions=0.5,0.2,0.3", "labels.censored=keep", "transform=auto")
    data = write_csv(tmp_path / "d.csv", columns)
    metrics = quietly(data, tmp_path / "m", ["dG (kcal/mol)", "Ki (nM)"], *words).metrics
    first, second = metrics["verdicts"]
    assert (first["target"], first["unit"], second["target"]) == ("dG (kcal/mol)", "kcal/mol", "Ki (nM)")
    assert "kcal/mol (95 % interval" in first["sentence"]
    page = write_model_report(tmp_path / "m").read_text()
    assert "Mean of all targets" not in page
    assert "measured (kcal/mol)" in page
    limits = sum(cell.startswith(">") for cell in cells)
    assert f"{limits} above and 0 below a limit; treated as limits, not as values." in page
    tested = (tmp_path / "m" / "test_predictions.csv").read_text().splitlines()[1:]
    first_row = int(tested[0].partition(",")[0])
    files = read_model_files(tmp_path / "m")
    assert files.place_of(first_row) == first_row + 2, "the second line of the file is row 2 of a spreadsheet"
    assert files.smiles[0] == smiles[first_row]


def test_it_can_be_drawn_again_and_is_the_same(model: Path) -> None:
    assert write_model_report(model).read_bytes() == write_model_report(model).read_bytes()


def test_classes_have_roc_and_calibration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quietly(write_classes(tmp_path), tmp_path / "model", ["ring", "hetero"])
    monkeypatch.setattr(model_report, "_answers", lambda model: pytest.fail("predictions that no figure shows"))
    page = write_model_report(tmp_path / "model").read_text()
    assert "<h2>ROC" in page
    assert "<h2>Calibration" in page
    assert "<h2>By target" in page


def test_axes_of_two_classes_have_the_names_of_the_user(tmp_path: Path) -> None:
    calls = [("inactive", "active")[place % 2] for place in range(len(molecules()))]
    data = write_csv(tmp_path / "calls.csv", {"smiles": molecules(), "call": calls})
    quietly(data, tmp_path / "model", ["call"])
    page = write_model_report(tmp_path / "model").read_text()
    for label in ("share of inactive called active", "share of active found", "predicted probability of active"):
        assert label in page, label
    assert "class 1" not in page
    both = roc_plot({"y": (np.array([0, 1]), np.array([0.2, 0.7]))})
    assert "share of class 0 called class 1" in both


def test_a_damaged_model_is_refused(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    (model / "metrics.json").write_text("{}")
    with pytest.raises(CorruptFileError):
        write_model_report(model)
    assert not (model / "report.html").exists()


def test_calibration_bins() -> None:
    predicted, observed, counts = calibration_bins(np.array([0, 1, 1, 1]), np.array([0.11, 0.19, 0.5, 1.0]))
    assert np.allclose(predicted, [0.15, 0.5, 1.0])
    assert np.allclose(observed, [0.5, 1, 1])
    assert counts.tolist() == [2, 1, 1]


def test_targets_of_two_kinds_are_shown_each_by_its_own(tmp_path: Path) -> None:
    columns = {"smiles": molecules(), "size": [heavy_atoms(text) for text in molecules()]}
    columns["ring"] = [int("c1" in text) for text in molecules()]
    quietly(write_csv(tmp_path / "d.csv", columns), tmp_path / "model", ["size", "ring"], "fractions=0.5,0.2,0.3")
    page = write_model_report(tmp_path / "model").read_text()
    for title in (
        "Metrics beside the baselines: regression",
        "beside the baselines: classification",
        "ROC",
        "Test part: size",
    ):
        assert title in page, title
    assert "size: " in page


def test_classes_duplicates_folds_and_pictures_of_the_worst(tmp_path: Path) -> None:
    smiles = [*molecules(), "OCc1ccccc1"]
    ring = ["aromatic" if "c1" in text else "small" if text.endswith("C1CC1") else "<b>other" for text in smiles]
    data = write_csv(tmp_path / "d.csv", {"smiles": smiles, "ring": ring})
    words = ("split=kfold:3x2", "split_seed=1", "loop.epochs=1", "baselines=true")
    quietly(data, tmp_path / "model", ["ring"], *words)
    page = write_model_report(tmp_path / "model").read_text()
    for title in ("Confusion, test part: ring", "By class: ring", "Test balanced_accuracy of each fold"):
        assert f"<h2>{title}" in page, title
    assert "<b>other" not in page
    assert " ± " in page
    assert "ring: 1 molecule was measured more than once (2 rows)" in page
    assert "Molecules in more than one part" not in page  # both rows are in one fold
    assert "raises +" not in page  # RDKit draws text as paths
    assert page.count("class=molecule>") >= 3
    assert "measured " in page


def test_trials_of_a_search_are_shown(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    metrics = read_json(model / "metrics.json")
    trials = [{"settings": {"head": name}, "value": value} for name, value in (("mlp", 2.0), ("linear", 1.0))]
    metrics["search"] = {"metric": "valid_rmse", "larger_is_better": False, "chosen_by": "x", "trials": trials}
    (model / "metrics.json").write_text(json.dumps(metrics))
    write_manifest(model, kind="predictor", format_version=1)
    page = write_model_report(model).read_text()
    assert page.index("<td>linear</td>") < page.index("<td>mlp</td>")


def test_members_labels_intervals_and_domain_are_shown(tmp_path: Path) -> None:
    """What a blend's report has beyond its metrics; the numbers are those of `metrics.json`."""
    columns = {"smiles": molecules(), "size": [heavy_atoms(text) for text in molecules()]}
    columns["ring"] = ["aromatic" if "c1" in text else "plain" for text in molecules()]
    blend = ("blend.students=false", "blend.classical=ridge,forest_counts", "blend.trees=10", "blend.folds=2")
    table = write_csv(tmp_path / "d.csv", columns)
    quietly(table, tmp_path / "model", ["size", "ring"], *blend, "fractions=0.5,0.2,0.3")
    metrics = read_json(tmp_path / "model" / "metrics.json")
    board = {one["target"]: one["members"] for one in metrics["leaderboard"]}
    assert {name: {one["member"] for one in own} for name, own in board.items()} == {
        "size": {"ridge", "forest_counts"},
        "ring": {"ridge", "forest_counts"},
    }
    values = [one["value"] for one in board["size"]]
    alone = {name: own["parts"]["test"]["targets"]["size"]["rmse"] for name, own in metrics["alone"].items()}
    assert values == sorted(values)
    assert sorted(alone.values()) == pytest.approx(values)
    (counts,) = metrics["label_counts"]
    parts = read_json(tmp_path / "model" / "splits.json")
    labelled = {part: len(parts[part]) for part in ("train", "valid", "test")}
    assert {part: sum(own) for part, own in counts["counts"].items()} == labelled
    page = write_model_report(tmp_path / "model").read_text()
    for title in ("Members alone: size", "Members alone: ring", "Labels: size"):
        assert f"<h2>{title}" in page, title
    assert "Bars are the intervals." in page
    assert "chose the epoch" not in page, "no member has epochs"
    wrong = [text for text in ("measured aromatic", "measured plain") if text in page]
    assert "measured 1, predicted" not in page or wrong, "classes have the user's words"
