"""What a sixth attack from the documentation found: what is passed over, and settings that no row is to blame for."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import dnd
from dnd.bench.startup import added_memory
from dnd.cli.main import build_app
from dnd.common.errors import ConfigError, DndError, InputError, isolating
from dnd.conformers.formats import open_xyz
from dnd.export import featurizer
from dnd.prediction.embedder import Embedder
from dnd.prediction.estimator_base import _weighted_rows
from dnd.predictor.predictor import Predictor
from dnd.reproduction.cell_runners import finetune_student, shipped_encoder
from dnd.reproduction.grid import run_grid
from dnd.reproduction.results import CELL_LOCK, ENCODER, LOG_FILE, Cell
from dnd.reproduction.results import MODEL as MODEL_OF_CELL
from dnd.store.prepare import PrepareConfig, prepare

WATER = "O 0.000 0.000 0.119\nH 0.000 0.763 -0.477\nH 0.000 -0.763 -0.477\n"
GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = GOLDEN / "predictor-regression"


def frame(tmp_path: Path, comment: str, atoms: str = WATER) -> tuple[str | None, int]:
    """Why the only frame of an XYZ file is refused, or its charge."""
    path = tmp_path / "one.xyz"
    path.write_text(f"3\n{comment}\n{atoms}")
    (record,) = open_xyz(path).records
    return record.problem, record.charge


@pytest.mark.parametrize(
    "comment", ["charge=one", "charge=99999999999999999999", "charge=1.5", "charge=2-", "charge=0 Charge: 1"]
)
def test_a_charge_that_cant_be_read_is_not_passed_over(tmp_path: Path, comment: str) -> None:
    problem, _ = frame(tmp_path, comment)
    assert "charge" in str(problem)


@pytest.mark.parametrize(
    ("comment", "charge"),
    [("charge=-1", -1), ("Charge: +2 mult: 1", 2), ("total charge=1.0", 1), ('charge="1"', 1), ("charge=1, x", 1)],
)
def test_a_charge_is_read(tmp_path: Path, comment: str, charge: int) -> None:
    assert frame(tmp_path, comment) == (None, charge)


def test_two_smiles_in_a_comment_are_refused(tmp_path: Path) -> None:
    assert "two SMILES, O and CC" in str(frame(tmp_path, "smiles=O smiles=CC")[0])
    assert frame(tmp_path, "smiles=O smiles=O")[0] is None


def test_columns_of_extended_xyz_before_the_position_are_refused(tmp_path: Path) -> None:
    numbered = "".join(f"{line[0]} 8{line[1:]}\n" for line in WATER.splitlines())
    assert "species:S:1:pos:R:3" in str(frame(tmp_path, "Properties=species:S:1:Z:I:1:pos:R:3", numbered)[0])
    assert frame(tmp_path, "Properties=species:S:1:pos:R:3:forces:R:3")[0] is None


@pytest.mark.parametrize("atoms", [WATER.replace(".", ","), "1 O 0 0 .1\n2 H 0 .7 -.4\n3 H 0 -.7 -.4\n"])
def test_a_line_whose_numbers_are_none_is_shown(tmp_path: Path, atoms: str) -> None:
    assert f"three numbers: {atoms.splitlines()[0]!r}" in str(frame(tmp_path, "", atoms)[0])


@pytest.mark.parametrize("name", ["water.xyz", "water.xyz.gz", "ligand.mol2"])
def test_a_path_of_another_format_is_no_smiles(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="there is no file"):
        dnd.predict(str(tmp_path / name), MODEL)
    (tmp_path / name).write_text(f"3\n\n{WATER}")
    with pytest.raises(InputError, match=r"unknown kind.*Convert it to SDF"):
        dnd.predict(str(tmp_path / name), MODEL)


@pytest.mark.parametrize("verb", ["predict", "embed", "evaluate"])
def test_a_negative_number_of_jobs_is_one_line(tmp_path: Path, verb: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text("smiles,y\nCCO,1\nCC,2\n")
    words = {"embed": ["--encoder", str(GOLDEN / "formats-1/encoder"), "-o", str(tmp_path / "e.csv")]}
    own = words.get(verb, ["-m", str(MODEL), *(["--target-columns", "y"] if verb == "evaluate" else [])])
    found = CliRunner().invoke(build_app(verb), [verb, str(table), *own, "--jobs", "-1"])
    assert isinstance(found.exception, ConfigError), found.output
    for opened in (Predictor, Embedder):
        with pytest.raises(ConfigError, match="jobs must be at least 0"):
            opened.load(MODEL if opened is Predictor else GOLDEN / "formats-1/encoder", jobs=-1)


def test_no_row_is_to_blame_for_a_setting_or_where_there_is_none() -> None:
    def refuse(items: object) -> None:
        raise ConfigError("a setting")

    def fail(items: object) -> None:
        raise ValueError("ours")

    with pytest.raises(ConfigError):
        isolating(refuse, ["a", "b"], "")
    with pytest.raises(ValueError, match="ours"):
        isolating(fail, [], "")


def test_work_of_the_benchmark_runs_in_a_fresh_process() -> None:
    with pytest.raises(DndError, match=r"os is not of dnd\.bench\."):
        added_memory("os:system", command="true")


def test_a_bad_file_of_molecules_to_exclude_leaves_no_run(tmp_path: Path) -> None:
    table, bad, out = tmp_path / "t.csv", tmp_path / "bad.csv", tmp_path / "out"
    table.write_text("smiles\nCCO\nO\n")
    bad.write_text("smiles\nCCO\nC1CC\n")
    with pytest.raises(InputError, match="can't be read"):
        prepare([table], out, PrepareConfig(exclude=(str(bad),)))
    bad.write_text("smiles\nCCO\n")
    prepare([table], out, PrepareConfig(exclude=(str(bad),)))
    assert (out / "manifest.json").is_file()


@pytest.mark.parametrize("name", [LOG_FILE, CELL_LOCK])
def test_a_link_in_a_received_cell_is_refused_and_not_read(tmp_path: Path, name: str) -> None:
    cell = Cell("a/cell", "prepare", {"files": []}, ())
    with pytest.raises(InputError):  # so that the folder of the cell is known
        _block_and_run(cell, tmp_path, name)
    assert (tmp_path / "mine.txt").read_text() == "mine\n"
    assert not (tmp_path / "grid/results.jsonl").exists()


def _block_and_run(cell: Cell, tmp_path: Path, name: str) -> None:
    from dnd.reproduction.results import digests

    folder = tmp_path / "grid/cells" / f"{cell.key}-{digests([cell])[cell.key]}"
    folder.mkdir(parents=True)
    (tmp_path / "mine.txt").write_text("mine\n")
    os.symlink(tmp_path / "mine.txt", folder / name)
    run_grid([cell], tmp_path / "grid", worker=("true",))


@pytest.mark.parametrize("name", ["metrics.jsonl", "metrics.json", "rejects.csv", "run.json"])
def test_a_cell_copies_its_numbers_over_no_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    mine, folder = tmp_path / "mine.txt", tmp_path / "cell"
    mine.write_text("mine\n")
    (folder / MODEL_OF_CELL).mkdir(parents=True)
    (folder / MODEL_OF_CELL / name).write_text("numbers\n")
    os.symlink(mine, folder / name)
    table = SimpleNamespace(text=lambda: "", names=["y"], metric="rmse", scale=1.0)
    metrics = {"parts": {"valid": {"rmse": 1.0}, "test": {"rmse": 1.0}}, "members": []}
    monkeypatch.setattr("dnd.reproduction.multitask.labelled_table", lambda work: table)
    monkeypatch.setattr("dnd.finetuning.finetune.finetune", lambda *_, **__: SimpleNamespace(metrics=metrics))
    settings = {"recipe": None, "config": []}
    with pytest.raises(InputError, match="is a link"):
        finetune_student(SimpleNamespace(folder=folder, needs={}, paths={}, settings=settings))
    assert mine.read_text() == "mine\n"


def test_a_shipped_encoder_is_copied_over_no_link(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine\n")
    (tmp_path / "cell" / ENCODER).mkdir(parents=True)
    os.symlink(mine, tmp_path / "cell" / ENCODER / "card.md")
    with pytest.raises(InputError, match="link"):
        shipped_encoder(SimpleNamespace(folder=tmp_path / "cell", settings={"name": "dnd-base"}))
    assert mine.read_text() == "mine\n"


def test_an_exported_model_refuses_selfies() -> None:
    limits = SimpleNamespace(text_bytes=4096)
    assert featurizer.read("[C][C][O]", vars(limits)) == "the text is SELFIES, not a SMILES"


@pytest.mark.parametrize("weights", [["1"] * 3, np.ones(3, complex), [1, 1e300, 1e-300], [None, 1, 1]])
def test_weights_that_mean_nothing_are_refused(weights: object) -> None:
    with pytest.raises(ValueError, match="sample_weight"):
        _weighted_rows(weights, 3)


def test_weights_of_any_numbers_are_taken() -> None:
    assert _weighted_rows(np.array([1, 0, 2], dtype=object), 3)[0] == [0, 2]
