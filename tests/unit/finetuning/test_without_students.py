"""What is said of a model of classical members alone, as the default recipe makes it: nothing of networks."""

from __future__ import annotations

import contextlib
import csv
import io
from pathlib import Path

import pytest

import dnd
from dnd.common.about import about_folder
from dnd.common.errors import ConfigError
from dnd.report.explain import explain_file
from finetuning_toys import heavy_atoms, molecules, write_csv

SMILES = molecules()
TARGETS = ["size", "ring", "grade"]
SETTINGS = {"blend.classical": "ridge,forest_descriptors", "blend.folds": 2, "blend.trees": 10, "jobs": 1}


def grade(size: int) -> str:
    return "low" if size < 7 else "medium" if size < 9 else "high"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[dnd.FinetuneResult, list[str]]:
    """A model of a value, of two classes that are words and of three, and what was printed; a row is left out."""
    folder = tmp_path_factory.mktemp("fast")
    sizes = [*map(heavy_atoms, SMILES), 0]
    rings = ["aromatic" if "c1" in text else "other" for text in SMILES]
    columns = {"smiles": [*SMILES, "not a molecule"], "size": sizes, "ring": [*rings, "other"]}
    data = write_csv(folder / "toy.csv", {**columns, "grade": [*map(grade, sizes)]})
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        words = {**SETTINGS, "fractions": "0.5,0.2,0.3"}
        model = dnd.finetune(data, TARGETS, folder / "model", split="random", settings=words)
    lines = said.getvalue().splitlines()
    return model, lines


def test_the_output_counts_the_labels_of_classes_once_and_shows_no_empty_line(
    made: tuple[dnd.FinetuneResult, list[str]],
):
    _, lines = made
    assert [line.split(":")[0] for line in lines if line.startswith("labels of ")] == [
        f"labels of {one}" for one in TARGETS
    ]
    valid = next(place for place, line in enumerate(lines) if line.startswith("grade") and "valid log_loss" in line)
    assert lines[valid + 1].startswith("blend ")
    assert "test log_loss" in lines[valid + 2], "the baselines have no numbers of the validation part"


def test_the_card_names_the_encoder_and_no_loss(made: tuple[dnd.FinetuneResult, list[str]]):
    card = made[0].predictor.card
    assert (
        "(ridge, forest_descriptors) on the representation of the encoder `dnd-base`, descriptors, Morgan counts"
        in card
    )
    assert "loss is the mean" not in card
    assert "In more than one part: 0 molecules, 0 of them in training and test" in card
    assert "1 left out, see `rejects.csv`" in card


def test_the_report_lists_the_settings_that_something_came_of(made: tuple[dnd.FinetuneResult, list[str]]):
    page = made[0].report.read_text()
    assert "blend.folds=2" in page
    assert "loop.seed=1" in page
    assert not [name for name in ("loop.epochs=", "student.", "ensemble=", "layer_decay=", "head=") if name in page]
    assert "the text is a name, not a SMILES</td>" in page, "the whole reason"


def test_info_and_repr_are_short(made: tuple[dnd.FinetuneResult, list[str]]):
    model, _ = made
    text = "\n".join(about_folder(model.folder))
    assert "members        ridge, forest_descriptors\n" in text
    assert "training       seed 1\n" in text
    assert "target         grade, one of high, low, medium\n" in text
    assert "network" not in text
    assert "Class_prob" not in text
    assert len(repr(model)) < 300


def test_explained_classes_are_called_as_they_are_predicted(made: tuple[dnd.FinetuneResult, list[str]], tmp_path: Path):
    model = made[0].predictor
    explain_file(model, write_csv(tmp_path / "new.csv", {"smiles": SMILES[:12]}), tmp_path / "out", targets=["ring"])
    with open(tmp_path / "out" / "molecules.csv", newline="") as stream:
        assert [row["ring_pred"] for row in csv.DictReader(stream)] == list(model.predict(SMILES[:12])["ring_pred"])
    with open(tmp_path / "out" / "contributions.csv", newline="") as stream:
        assert {row["class"] for row in csv.DictReader(stream)} == {"other"}, "log-odds of the second class"


def test_weights_of_classes_are_refused_where_no_target_is_one(tmp_path: Path):
    table = {"smiles": SMILES, "size": list(map(heavy_atoms, SMILES))}
    words = {**SETTINGS, "class_weights": "balanced"}
    with pytest.raises(ConfigError, match=r"class_weights is for classes: found targets of regression"):
        dnd.finetune(table, "size", tmp_path / "model", settings=words, encoder="random")
