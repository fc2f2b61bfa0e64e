"""`dnd finetune`, `predict`, `embed` and `evaluate` as a user runs them, each in a fresh process."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dnd.cli.main import main
from finetuning_toys import TINY, molecules, write_regression

DND = str(Path(sys.executable).with_name("dnd"))


def run(*words: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DND, *map(str, words)], capture_output=True, text=True, timeout=100, check=False, input=stdin, env=os.environ
    )


def call(*words: object) -> int:
    """The same command in this process, which saves the import of torch."""
    with pytest.raises(SystemExit) as stop:
        main([str(word) for word in words])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    out = folder / "model"
    words = [word for word in TINY if not word.startswith("split")]
    result = run(
        "finetune",
        write_regression(folder),
        "-o",
        out,
        "--target-columns",
        "size",
        "--split",
        "random",
        "--recipe",
        "small",
        *words,
    )
    assert result.returncode == 0, result.stderr
    assert "task: regression" in result.stdout
    assert f"model: {out}" in result.stdout
    assert f"report: {out / 'report.html'}" in result.stdout
    assert result.stdout.splitlines()[-1] == f"next: dnd predict new.csv -m {out}"
    return out


def test_the_model_has_what_was_asked_for(model: Path):
    settings = json.loads((model / "config.json").read_text())["training"]["settings"]
    assert settings["split"] == "random"
    assert settings["loop"]["epochs"] == 3


def test_predict_to_a_file_and_to_standard_output(model: Path, tmp_path: Path):
    data = write_regression(tmp_path)
    result = run("predict", data, "-m", model, "-o", tmp_path / "out.csv")
    assert (result.returncode, result.stderr.strip()) == (0, f"{len(molecules())} rows")
    piped = run("predict", "-", "-m", model, "-o", "-", stdin=data.read_text())
    assert piped.stdout == (tmp_path / "out.csv").read_text()
    rows = list(csv.DictReader(piped.stdout.splitlines()))
    assert list(rows[0]) == ["smiles", "size", "name", "size_pred", "in_domain", "domain_reason", "error"]


def test_bad_rows_are_counted_on_standard_error(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.csv").write_text("smiles\nCCO\nxyz\n")
    assert call("predict", tmp_path / "in.csv", "-m", model, "-o", tmp_path / "out.csv") == 0
    assert "1 without a result" in capsys.readouterr().err
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 3


def test_embed(model: Path, tmp_path: Path) -> None:
    assert call("embed", write_regression(tmp_path), "--encoder", model, "-o", tmp_path / "e.npy") == 0
    assert np.load(tmp_path / "e.npy").shape == (len(molecules()), 16)


def test_evaluate_prints_metrics(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_regression(tmp_path)
    assert call("evaluate", data, "-m", model) == 0
    assert "rmse" in capsys.readouterr().out
    assert call("evaluate", data, "-m", model, "--json") == 0
    assert json.loads(capsys.readouterr().out)["molecules"] == len(molecules())


def test_a_finished_model_is_named_before_the_table_is_read(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("finetune", tmp_path / "nowhere.csv", "-o", model, "--target-columns", "size") == 2
    assert f"{model} already contains a finished model. Choose another folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--target-columns", "sise"], "columns smiles, size, name"),
        (["--target-columns", "name"], "column name holds 45 different words"),
        (["--target-columns", "size", "--smiles-column", "structure"], "no column"),
        (["--target-columns", "size", "--recipe", "papers"], "Did you mean paper?"),
        (["--target-columns", "size", "--recipe", "small", "--student", "gina"], "gine"),
        (["--target-columns", "size", "loop.epoch=3"], "epochs"),
        (
            ["--target-columns", "size", "loop.epochs=3"],
            "loop.epochs is a setting of students",
        ),
        (["--target-columns", "size", "--student", "gcn"], "student is a setting of students"),
        (["--target-columns", "no column", "--search", "3"], "search is a setting of students"),  # no table is read yet
        (["--target-columns", "size", "--recipe", "small", "blend.folds=3"], "blend.folds is a setting of a blend"),
        (["--target-columns", "size", "--encoder", "nowhere"], "not a folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert call("finetune", write_regression(tmp_path), "-o", tmp_path / "out", *words) == 2
    error = capsys.readouterr().err.strip()
    assert len(error.splitlines()) == 1
    assert message in error
    assert not (tmp_path / "out").exists()
