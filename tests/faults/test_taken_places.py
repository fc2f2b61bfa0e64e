"""What is written takes the place of nothing: not of a model, of another output, or of another run."""

from __future__ import annotations

from pathlib import Path

import pytest
from rdkit import Chem
from typer.testing import CliRunner

import dnd
from dnd.cli.main import build_app
from dnd.common.errors import InputError
from dnd.common.runs import require_same_run, write_run_record
from dnd.predictor.predictor import Predictor
from dnd.report.explain import explain_file
from finetuning_toys import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("fifth"))


def test_explain_writes_no_pictures_into_a_model(model: Path) -> None:
    before = sorted(model.iterdir())
    with pytest.raises(InputError, match="finished folder"):
        explain_file(Predictor.load(model, device="cpu"), "CCO", model)
    assert sorted(model.iterdir()) == before


def test_the_log_is_not_the_output(tmp_path: Path, model: Path) -> None:
    """The predictions took the place of the log."""
    out = str(tmp_path / "out.csv")
    words = ["predict", "CCO", "-m", str(model), "-o", out, "--log-file", out]
    result = CliRunner().invoke(build_app("predict"), words)
    assert "would both be" in str(result.exception)
    assert not (tmp_path / "out.csv").exists()


def test_predictions_are_those_of_the_molecule_alone(model: Path) -> None:
    """A query among molecules costs its row only."""
    table = dnd.predict([Chem.MolFromSmarts("[C,N]O"), Chem.MolFromSmiles("CCO")], model).to_pandas()
    assert "query" in table["error"][0]
    assert table["error"][1] == ""


def test_a_run_of_another_verb_is_named(tmp_path: Path) -> None:
    """`denoise --resume --allow-change` took up a finetuning, and advised to copy the folder again."""
    student = {"data": "a.csv", "encoder": None, "settings": {"loop": {"epochs": 1}, "loss": "l1", "task": "auto"}}
    write_run_record(tmp_path, student)
    for allow in (False, True):
        with pytest.raises(InputError, match="a run of another command"):
            require_same_run(tmp_path, {"store": "s", "settings": {"loop": {}, "base": "x"}}, allow_change=allow)
    assert require_same_run(tmp_path, {**student, "data": "b.csv"}, allow_change=True)
