"""A cell of `reproduce` that was received leads to no file elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from dnd.common.errors import InputError
from dnd.reproduction.cell_runners import finetune_student, shipped_encoder
from dnd.reproduction.grid import run_grid
from dnd.reproduction.results import CELL_LOCK, ENCODER, LOG_FILE, Cell
from dnd.reproduction.results import MODEL as MODEL_OF_CELL


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
    monkeypatch.setattr("dnd.reproduction.labelled_table.labelled_table", lambda work: table)
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
