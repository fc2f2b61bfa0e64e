"""Issue 2, "Bad input": one clear line with the next step, the right exit code, and nothing written before is lost.

Each command runs in a fresh process, as a user runs it.
"""

from __future__ import annotations

import csv
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dnd.common.config import load_config
from dnd.common.files import write_json, write_manifest
from dnd.common.model_folder import FORMAT_VERSION
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import DistillConfig
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig
from finetuning_toys import tiny_model

DND = str(Path(sys.executable).with_name("dnd"))
QM9 = Path(__file__).parents[1] / "data" / "qm9_300.npz"
LOOP = ["loop.epochs=1", "loop.batch_size=32", "loop.device=cpu"]
TEACHER = ["teacher.width=16", "teacher.num_layers=2", "teacher.num_heads=2", "teacher.num_rbf=8", *LOOP]
STUDENT = ["student.name=gine", "student.width=16", "student.num_layers=2", "holdout_fraction=0.1", *LOOP]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`store`, `all_both` (a store with other hydrogens), `teacher`, `encoder` and `model`, as small as they come."""
    folder = tmp_path_factory.mktemp("made")
    prepare([QM9], folder / "store", PrepareConfig(limit=60))
    prepare([QM9], folder / "all_both", PrepareConfig(limit=20, hydrogens="all_both"))
    denoise(folder / "store", folder / "teacher", load_config(DenoiseConfig, None, TEACHER))
    student = load_config(DistillConfig, None, STUDENT)
    distill(folder / "store", folder / "teacher", folder / "encoder", student)
    tiny_model(folder)
    return folder


def run(*words: object, limit_bytes: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [DND, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, env=environment, preexec_fn=limit)


def refused(*words: object, code: int = 2, limit_bytes: int | None = None) -> str:
    """The one line that the command says when it gives up."""
    result = run(*words, limit_bytes=limit_bytes)
    lines = [
        line
        for line in result.stderr.splitlines()
        if not line.startswith(("prepare ", "distill ", "denoise ", "teacher targets ", "note: "))
    ]
    assert result.returncode == code, result.stderr
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("dnd: ")
    return lines[0]


VERBS: dict[str, Callable[[Path, Path], list[object]]] = {
    "prepare": lambda data, made: ["prepare", data],
    "prepare with target": lambda data, made: ["prepare", data, "--target-columns", "y"],
    "finetune": lambda data, made: ["finetune", data, "--target-columns", "y"],
    "predict": lambda data, made: ["predict", data, "-m", made / "model"],
}


@pytest.mark.parametrize(
    ("verb", "content", "message", "next_step"),
    [
        ("prepare", "", "data.csv is empty", "Check how it was made"),
        ("finetune", "", "data.csv is empty", "Check how it was made"),
        ("predict", "", "data.csv is empty", "Check how it was made"),
        ("prepare", "structure,y\nC,1\n", "no column 'smiles': found columns structure, y", "--smiles-column"),
        ("prepare with target", "smiles,z\nC,1\n", "no target column 'y': found columns smiles, z", "Known: smiles, z"),
        ("finetune", "smiles,z\nC,1\n", "no column 'y': found columns smiles, z", "Known: smiles, z"),
        ("predict", "structure,y\nC,1\n", "no column 'smiles': found columns structure, y", "--smiles-column"),
        ("prepare", "smiles\nC1CC\nxx\n", "no valid molecule", "rejects.csv"),
        ("finetune", "smiles,y\nC1CC,1\nxx,2\n", "no valid molecule: found row 2: unclosed ring", "--smiles-column"),
        ("prepare with target", "smiles,y\nC,low\n", "target y is not a finite number", "rejects.csv"),
        ("finetune", "smiles,y\nC,1\nCC,low\n", "column y: 1 cell is not a number", "--missing low"),
        ("finetune", "smiles,y\nC,\nCC,nan\n", "all labels of y are missing", "--target-columns"),
    ],
)
def test_a_table_that_cannot_be_used(
    made: Path, tmp_path: Path, verb: str, content: str, message: str, next_step: str
) -> None:
    data = tmp_path / "data.csv"
    data.write_text(content)
    line = refused(*VERBS[verb](data, made), "-o", tmp_path / "out.csv")
    assert message in line
    assert next_step in line
    assert not (tmp_path / "out.csv" / "manifest.json").exists()
    assert not (tmp_path / "out.csv").is_file()


def test_a_store_with_other_hydrogens_than_the_teacher(made: Path, tmp_path: Path) -> None:
    line = refused("distill", made / "all_both", "--teacher", made / "teacher", "-o", tmp_path / "encoder")
    assert "found all_both, expected heavy_both" in line
    assert "dnd prepare --hydrogens heavy_both" in line
    assert not (tmp_path / "encoder").exists()


def test_a_teacher_whose_configuration_is_not_that_of_its_weights(made: Path, tmp_path: Path) -> None:
    """Another width under a seal of its own, and a configuration that was edited under the old seal."""
    shutil.copytree(made / "teacher", tmp_path / "wide")
    config = json.loads((tmp_path / "wide" / "config.json").read_text())
    config["teacher"]["width"] = 32
    write_json(tmp_path / "wide" / "config.json", config)
    edited = refused("distill", made / "store", "--teacher", tmp_path / "wide", "-o", tmp_path / "encoder")
    assert "config.json was altered" in edited
    assert "dnd doctor" in edited
    write_manifest(tmp_path / "wide", kind="teacher", format_version=FORMAT_VERSION)
    line = refused("distill", made / "store", "--teacher", tmp_path / "wide", "-o", tmp_path / "encoder")
    assert "does not have the shape in its configuration: found (" in line
    assert "Copy the whole folder again" in line
    assert not (tmp_path / "encoder").exists()


@pytest.mark.parametrize("kind", ["foreign", "pickle", "other kind"])
def test_a_checkpoint_from_elsewhere(made: Path, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "elsewhere"
    words: list[object] = ["predict", tmp_path / "data.csv", "-m", folder, "-o", tmp_path / "out.csv"]
    (tmp_path / "data.csv").write_text("smiles,y\nCCO,1\n")
    if kind == "foreign":
        folder.mkdir()
        (folder / "pytorch_model.bin").write_bytes(b"PK")
        message, next_step = "is not a finished model: found no manifest.json", "`dnd finetune` made"
    elif kind == "pickle":
        shutil.copytree(made / "model", folder)
        (folder / "model.safetensors").write_bytes(pickle.dumps({"weight": [0.0] * 100}))
        write_manifest(folder, kind="predictor", format_version=FORMAT_VERSION)
        message, next_step = "is not a readable safetensors file", "Copy the whole folder again"
    else:
        shutil.copytree(made / "teacher", folder)
        words = ["finetune", tmp_path / "data.csv", "--target-columns", "y", "--encoder", folder, "-o", tmp_path / "m"]
        message, next_step = "is of another kind: found teacher, expected encoder", "`dnd distill` made"
    line = refused(*words)
    assert message in line
    assert next_step in line
    assert not (tmp_path / "out.csv").exists()
    assert not (tmp_path / "m").exists()


def truncated_sdf(path: Path) -> Path:
    """Three records, the second of which is cut off in its atoms."""
    ethane = [
        "ethane", "", "", "  2  1  0  0  0  0  0  0  0  0999 V2000",
        "    0.0000    0.0000    0.0000 C   0  0", "    1.2000    0.0000    0.9000 C   0  0",
        "  1  2  1  0", "M  END", "$$$$",
    ]  # fmt: skip
    path.write_text("\n".join([*ethane, *ethane[:5], *ethane, ""]))
    return path


def test_a_truncated_sdf_costs_the_torn_record_only(made: Path, tmp_path: Path) -> None:
    sdf = truncated_sdf(tmp_path / "data.sdf")
    done = run("prepare", sdf, "-o", tmp_path / "store")
    assert done.returncode == 0, done.stderr
    assert len(Store.open(tmp_path / "store")) == 2
    rejects = list(csv.DictReader((tmp_path / "store" / "rejects.csv").read_text().splitlines()))
    assert [(row["row"], "cut off" in row["reason"]) for row in rejects] == [("1", True)]
    done = run("predict", sdf, "-m", made / "model", "-o", tmp_path / "out.csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [bool(row["size_pred"]) for row in rows] == [True, False, True]
    assert "cut off" in rows[1]["error"]


def test_a_full_disk_in_training_keeps_what_was_saved(made: Path, tmp_path: Path) -> None:
    words = ["distill", made / "store", "--teacher", made / "teacher", "-o", tmp_path / "encoder", *STUDENT]
    stopped = run(*words, "loop.stop_after_s=0")
    assert stopped.returncode == 0, stopped.stderr
    before = {path.name: path.read_bytes() for path in (tmp_path / "encoder" / "checkpoints").rglob("*.safetensors")}
    line = refused(*words, "--resume", code=74, limit_bytes=20_000)
    assert f"cannot write {tmp_path / 'encoder'}" in line
    assert "Free space" in line
    assert "--resume" in line
    after = {path.name: path.read_bytes() for path in (tmp_path / "encoder" / "checkpoints").rglob("*.safetensors")}
    assert before
    assert after == before
    done = run(*words, "--resume")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "encoder" / "manifest.json").is_file()


def test_a_full_disk_in_prediction_keeps_the_file_that_was_there(made: Path, tmp_path: Path) -> None:
    (tmp_path / "out.csv").write_text("what was there\n")
    (tmp_path / "data.csv").write_text("smiles\n" + "CCO\n" * 2000)
    words = ["predict", tmp_path / "data.csv", "-m", made / "model", "-o", tmp_path / "out.csv"]
    assert "File too large" in refused(*words, code=74, limit_bytes=4096)
    assert (tmp_path / "out.csv").read_text() == "what was there\n"
    assert [path.name for path in tmp_path.iterdir() if ".tmp-" in path.name] == []
