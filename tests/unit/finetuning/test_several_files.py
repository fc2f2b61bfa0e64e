"""One model for the targets of several files: one row per molecule, no leak, each target in its own scale."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.finetuning.finetune import _plan
from dnd.finetuning.labelled_data import LabelledFile
from dnd.finetuning.objective import balanced_terms
from dnd.finetuning.several_files import labelled_file, read_several
from dnd.finetuning.students import objective_of
from dnd.finetuning.tasks import choose_tasks
from dnd.prediction.evaluate import evaluate_file, metric_lines
from dnd.predictor.metrics import judge
from dnd.predictor.predictor import Predictor
from finetuning_toys import heavy_atoms, molecules, other_spelling, quietly, tiny_config, write_csv
from support.said import said

SMILES = molecules()
FIRST, SECOND = SMILES[:36], [other_spelling(text, 7) for text in SMILES[18:]]


def two_files(folder: Path) -> tuple[Path, LabelledFile]:
    """Sizes of the first 36 molecules; rings of the last 36, in another spelling: 18 are in both files."""
    size = write_csv(folder / "size.csv", {"smiles": FIRST, "size": [1000.0 * heavy_atoms(text) for text in FIRST]})
    ring = write_csv(folder / "ring.csv", {"smiles": SECOND, "ring": [int("c" in text) for text in SECOND]})
    return size, LabelledFile(ring, ("ring",))


def read(folder: Path, **options: object):
    size, ring = two_files(folder)
    return read_several([LabelledFile(size, ("size",)), ring], "heavy_both", choices=["auto"], **options)


def test_a_molecule_of_both_files_is_one_row(tmp_path: Path) -> None:
    lines: list[str] = []
    with said(lines):
        found, tasks = read(tmp_path)
    assert len(set(found.smiles)) == len(found.smiles) == len(SMILES)
    assert tasks.kinds == ("regression", "classification")
    assert tasks.balanced
    known_BC = ~np.isnan(found.targets_BC)
    assert known_BC.sum(axis=0).tolist() == [36, 36]
    assert known_BC.all(axis=1).sum() == 18
    assert "18 of 54 molecules are in more than one file" in lines
    assert found.origins[20] == ((20,), (2,))
    assert found.origins[0] == ((0,), ())


def test_repeats_in_one_file_are_averaged_and_contradicting_classes_left_out(tmp_path: Path) -> None:
    values = write_csv(tmp_path / "a.csv", {"smiles": [*FIRST, other_spelling(FIRST[3], 1)], "y": [*range(36), 5.0]})
    ring = [int("c" in text) for text in FIRST]
    classes = write_csv(tmp_path / "b.csv", {"smiles": [*FIRST, FIRST[2]], "z": [*ring, 1 - ring[2]]})
    lines: list[str] = []
    files = [LabelledFile(values, ("y",)), LabelledFile(classes, ("z",))]
    with said(lines):
        found, _ = read_several(files, "heavy_both", choices=["auto"])
    assert found.targets_BC[3, 0] == 4.0
    assert math.isnan(found.targets_BC[2, 1])
    told = f"1 classes left out that contradict each other, the first of {found.smiles[2]}"
    assert f"note: molecules twice in one file: 1 values averaged, {told}" in lines


def test_one_model_learns_both_and_predicts_each_in_its_own_column(tmp_path: Path) -> None:
    size, ring = two_files(tmp_path)
    out = tmp_path / "model"
    overrides = ("split=scaffold", "loop.epochs=30", "layer_decay=1", "units=Da,", "baselines=true")
    metrics = quietly(size, out, ["size"], *overrides, also=[ring]).metrics
    assert (metrics["task"], metrics["files"]) == ("mixed", ["size.csv", "ring.csv"])
    train = metrics["parts"]["train"]["targets"]
    assert set(train["size"]) == {"rmse", "mae", "r2"}
    assert set(train["ring"]) == {"rocauc", "ap"}
    assert train["size"]["r2"] > 0.3
    assert train["ring"]["rocauc"] > 0.7
    assert metrics["duplicates_across_parts"] == 0
    splits = json.loads((out / "splits.json").read_text())
    with open(out / "molecules.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    for name, texts in (("size.csv", FIRST), ("ring.csv", SECOND)):
        owned = {
            part: {row[name] for row in rows if int(row["row"]) in splits[part]} - {""} for part in ("train", "test")
        }
        assert not owned["train"] & owned["test"]
        assert sum(row[name] != "" for row in rows) == len(texts)
    predictor = Predictor.load(out, device="cpu")
    assert [(target.name, target.kind, target.unit) for target in predictor.targets] == [
        ("size", "regression", "Da"),
        ("ring", "classification", ""),
    ]
    table = predictor.predict([*SMILES, "no molecule"])
    assert [name for name in table if name.endswith("_pred")] == ["size_pred", "ring_pred"]
    assert table["size_pred"][:-1].min() > 1000
    assert 0 < table["ring_pred"][:-1].min() <= table["ring_pred"][:-1].max() < 1
    assert math.isnan(table["size_pred"][-1])
    with open(out / "test_predictions.csv", newline="") as stream:
        for row in csv.DictReader(stream):
            assert float(row["size_pred"]) > 1000
            assert 0 < float(row["ring_pred"]) < 1
    alone = evaluate_file(predictor, ring.path)
    assert (alone["task"], alone["absent_targets"], set(alone["targets"])) == ("classification", ["size"], {"ring"})
    assert metric_lines(alone)[-1] == "not evaluated: size"
    columns_go_by_their_names(tmp_path, predictor)
    card = (out / "card.md").read_text()
    assert "size: typical error " in card
    assert "\n\nring: " in card


def columns_go_by_their_names(folder: Path, predictor: Predictor) -> None:
    """`--target-columns ring,size` compared the rings with predictions of sizes, and said nothing of it."""
    names = ["ring", "size"]
    cells = {
        "smiles": FIRST,
        "ring": [int("c" in text) for text in FIRST],
        "size": [1000.0 * heavy_atoms(text) for text in FIRST],
    }
    table = write_csv(folder / "both.csv", cells)
    wanted = evaluate_file(predictor, table)["targets"]
    assert set(wanted) == {"size", "ring"}
    for given in (names, ["ring,size"], names[::-1]):
        assert evaluate_file(predictor, table, target_columns=given)["targets"] == wanted
    one = evaluate_file(predictor, table, target_columns=["ring"])
    assert (one["targets"], one["absent_targets"]) == ({"ring": wanted["ring"]}, ["size"])
    renamed = write_csv(folder / "renamed.csv", {"x" if name == "size" else name: own for name, own in cells.items()})
    assert evaluate_file(predictor, renamed, target_columns=["x", "ring"])["targets"] == wanted
    with pytest.raises(InputError, match=r"column ring has the name of a target .* place of size"):
        evaluate_file(predictor, renamed, target_columns=["ring", "x"])
    other = write_csv(folder / "other.csv", {"x (kg)" if name == "size" else name: own for name, own in cells.items()})
    notes = evaluate_file(predictor, other, target_columns=["x (kg)", "ring"])["notes"]
    assert "column x (kg) is in kg and target size in Da: the labels are judged as they are" in notes
    assert not any("judged as they are" in note for note in evaluate_file(predictor, table)["notes"])
    with pytest.raises(InputError, match=r"differ in number: found x, expected names of targets, or .* size, ring"):
        evaluate_file(predictor, renamed, target_columns=["x"])


def test_two_kinds_in_one_table(tmp_path: Path) -> None:
    columns = {"smiles": SMILES, "size": list(map(heavy_atoms, SMILES)), "ring": [int("c1" in text) for text in SMILES]}
    data = write_csv(tmp_path / "d.csv", columns)
    metrics = quietly(data, tmp_path / "auto", ["size", "ring"]).metrics
    assert [target["kind"] for target in metrics["targets"]] == ["regression", "classification"]
    assert metrics["task_reason"].startswith("regression for size; classification for ring")
    told = quietly(data, tmp_path / "told", ["size", "ring"], "task=regression").metrics
    assert (told["task"], told["per_target"]) == ("regression", True)  # each in its own unit
    with pytest.raises(ConfigError, match="tasks and targets differ"):
        quietly(data, tmp_path / "bad", ["size", "ring"], "tasks=auto,auto,auto")


def test_a_given_split_must_agree_between_the_files(tmp_path: Path) -> None:
    parts = ["train"] * 20 + ["valid"] * 8 + ["test"] * 8
    first = write_csv(tmp_path / "a.csv", {"smiles": FIRST, "y": list(range(36)), "part": parts})
    agreeing = ["", *("training" if part == "train" else part for part in parts[1:])]
    second = write_csv(tmp_path / "b.csv", {"smiles": FIRST, "z": list(range(36)), "part": agreeing})
    metrics = quietly(first, tmp_path / "m", ["y"], "split=column:part", also=[LabelledFile(second, ("z",))]).metrics
    assert [metrics["parts"][part]["molecules"] for part in ("train", "valid", "test")] == [20, 8, 8]
    other = write_csv(tmp_path / "c.csv", {"smiles": FIRST, "z": list(range(36)), "part": parts[::-1]})
    with pytest.raises(InputError, match="different parts of the split"):
        quietly(first, tmp_path / "no", ["y"], "split=column:part", also=[LabelledFile(other, ("z",))])


def test_in_a_split_by_time_a_molecule_of_two_files_counts_by_its_earliest_date(tmp_path: Path) -> None:
    dates = [f"2020-01-{day + 1:02}" if day < 31 else f"2020-02-{day - 30:02}" for day in range(36)]
    later = ["2021-03-01", "", *dates[2:]]
    first = write_csv(tmp_path / "a.csv", {"smiles": FIRST, "y": list(range(36)), "when": later})
    second = write_csv(tmp_path / "b.csv", {"smiles": FIRST, "z": list(range(36)), "when": dates})
    also = [LabelledFile(second, ("z",))]
    quietly(first, tmp_path / "m", ["y"], "split=time:when", "fractions=0.5,0.25,0.25", also=also)
    parts = json.loads((tmp_path / "m" / "splits.json").read_text())
    assert sorted(parts["train"]) == list(range(18))
    bad = write_csv(tmp_path / "c.csv", {"smiles": FIRST, "z": list(range(36)), "when": ["soon", *dates[1:]]})
    with pytest.raises(InputError, match=r"row 2 of c\.csv: 'soon' is not an ISO date"):
        quietly(first, tmp_path / "no", ["y"], "split=time:when", also=[LabelledFile(bad, ("z",))])


def test_columns_of_one_name_get_the_name_of_their_file(tmp_path: Path) -> None:
    first = write_csv(tmp_path / "a.csv", {"smiles": FIRST, "y": list(range(36))})
    second = write_csv(tmp_path / "b.csv", {"smiles": FIRST, "y": list(range(36))})
    files = [LabelledFile(first, ("y",)), LabelledFile(second, ("y",))]
    assert read_several(files, "heavy_both", choices=["auto"])[0].names == ("a.y", "b.y")
    with pytest.raises(InputError, match="given twice"):
        read_several([files[0], files[0]], "heavy_both", choices=["auto"])


def test_words_that_name_a_further_table(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "odd:name.csv", {"smiles": FIRST, "y:z": list(range(36))})
    assert labelled_file(f"{path}:y:z", "smiles") == LabelledFile(str(path), ("y:z",), "smiles")
    for word in (str(path), f"{path}:", "nowhere.csv:y"):
        with pytest.raises(InputError, match="FILE:COLUMN"):
            labelled_file(word, "smiles")


def test_no_target_outweighs_another_by_its_labels() -> None:
    outputs = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)
    targets = torch.tensor([[1.0, math.nan], [3.0, math.nan], [math.nan, 1.0]])
    loss = balanced_terms(outputs, targets, torch.tensor([False, True])).loss
    assert float(loss.detach()) == pytest.approx((2.0 + math.log(2)) / 2)
    loss.backward()
    assert torch.isfinite(outputs.grad).all()
    assert outputs.grad[0, 0] == outputs.grad[1, 0] == pytest.approx(-0.25)
    assert outputs.grad[2, 1] == pytest.approx(-0.25)
    nothing = balanced_terms(outputs, torch.full((3, 2), math.nan), torch.tensor([False, True])).loss
    assert float(nothing.detach()) == 0.0


def test_metrics_of_each_kind_are_means_over_their_own_targets() -> None:
    targets = np.array([[0.0, 1.0, 2.0], [2.0, 0.0, 6.0]])
    predictions = targets + np.array([1.0, 0.0, 3.0])
    found = judge(["a", "b", "c"], ["regression", "classification", "regression"], targets, predictions)
    assert found["rmse"] == pytest.approx(2.0)
    assert found["rocauc"] == 1.0
    assert list(found["targets"]) == ["a", "b", "c"]
    assert found["targets"]["c"]["rmse"] == pytest.approx(3.0)


def test_kinds_can_be_told_for_each_target() -> None:
    labels = np.array([[0.0, 0.0], [1.0, 1.0]])
    tasks = choose_tasks(labels, ["a", "b"], ["regression", "classification"])
    assert tasks.kinds == ("regression", "classification")
    assert tasks.name == "mixed"
    assert choose_tasks(labels, ["a", "b"], ["auto"]).name == "classification"


GOLDEN = Path(__file__).parents[2] / "golden"
ANSWERS = {
    "predictor-regression": [[7561.77806322322], [7583.02103900661], [7584.320231456107]],
    "predictor-classes": [
        [0.49060227676054935, 0.5022780590949933],
        [0.49260691837534165, 0.49854490850925304],
        [0.49317056972673534, 0.4989177117613857],
    ],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_models_of_before_targets_had_kinds_still_answer_the_same(name: str) -> None:
    predictor = Predictor.load(GOLDEN / name, device="cpu")
    assert "kind" not in json.loads((GOLDEN / name / "config.json").read_text())["targets"][0]
    values, errors = predictor.predict_values(["CCO", "c1ccccc1O", "CC(=O)Oc1ccccc1C(=O)O"])
    assert not any(errors)
    np.testing.assert_allclose(values, ANSWERS[name], rtol=1e-5)
    assert {target.kind for target in predictor.targets} == {predictor.kind}


def test_a_target_of_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    from dnd.common.files import write_json, write_manifest

    for path in (GOLDEN / "predictor-regression").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["targets"][0]["kind"] = "ranking"
    write_json(tmp_path / "config.json", config)
    write_manifest(tmp_path, kind="predictor", format_version=1)
    with pytest.raises(CorruptFileError):
        Predictor.load(tmp_path)


def test_the_epoch_of_several_values_of_one_file_is_not_chosen_by_the_one_in_the_smallest_unit(tmp_path: Path):
    """A mean of errors in nM and in log units was the error in nM."""
    sizes = [heavy_atoms(text) for text in SMILES]
    table = {"smiles": SMILES, "Ki (nM)": [1000.0 * size for size in sizes], "logS": [-0.1 * size for size in sizes]}
    data = write_csv(tmp_path / "two.csv", table)
    both, one = (
        _plan([LabelledFile(data, columns)], tiny_config(), "random") for columns in (("Ki (nM)", "logS"), ("logS",))
    )
    assert objective_of(both, 0, both.parts[0]).best_metric == "valid_loss"
    assert objective_of(one, 0, one.parts[0]).best_metric == "valid_rmse"
