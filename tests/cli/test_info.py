"""`dnd --version`, `dnd info`, completion, and a SMILES in place of a file."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dnd
from dnd.cli.main import VERBS
from dnd.common import about
from dnd.common.config import recipe_names
from dnd.common.files import write_json, write_manifest
from dnd.common.runs import write_run_record
from finetuning_toys import tiny_model

DND = str(Path(sys.executable).with_name("dnd"))
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("info"))


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [DND, *words], capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **environment}
    )


def loaded_by(*words: str) -> tuple[str, set[str]]:
    """What the command prints, and the heavy packages that it loads."""
    code = (
        "import sys, dnd.cli.main as m\n"
        f"try: m.main({list(words)!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('LOADED', *{'torch', 'rdkit', 'sklearn', 'pyarrow', 'pandas', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    text, _, names = done.stdout.rpartition("LOADED")
    return text, set(names.split())


def test_the_version_loads_nothing():
    assert loaded_by("--version") == (f"dnd {dnd.__version__}\n", set())


def test_info_says_what_runs_here_and_loads_nothing():
    text, loaded = loaded_by("info")
    assert not loaded
    assert all(name in text for name in ("python", "torch", "rdkit", "device", "threads", "dnd-base", "dnd-tokengt"))


def test_extras_are_those_of_the_metadata(monkeypatch: pytest.MonkeyPatch):
    listed = ["numpy>=1", 'optuna<6,>=4.5; extra == "search"', "no-such-package; extra == 'gpu'", 'x; extra == "dev"']
    monkeypatch.setattr(about.metadata, "requires", lambda name: listed if name == "dnd-mol" else None)
    lines = "\n".join(about.about_installation())
    assert "search" in lines
    assert "no-such-package not installed  (pip install 'dnd-mol[gpu]')" in lines
    assert "dev" not in about._extras()


def test_a_gpu_is_told_by_the_build_and_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(about, "_GPUS", tmp_path)
    assert about._device().startswith("cpu")
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H200\nIRQ: 1\n")
    assert "NVIDIA H200" in about._device()


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("formats-1/encoder", ["encoder", "gine", "layers", "training"]),
        ("formats-1/teacher", ["teacher", "noise", "angstrom"]),
        ("predictor-blend", ["model", "target", "1 network, forest_counts"]),
        ("predictor-classes", ["model", "test part"]),
    ],
)
def test_info_of_a_folder(folder: str, expected: list[str]):
    text = "\n".join(about.about_folder(GOLDEN / folder))
    assert all(words in text for words in [*expected, "written by"]), text


def test_doctor_calls_a_model_a_model():
    assert f"{GOLDEN / 'predictor-blend'}: model, format" in run("doctor", str(GOLDEN / "predictor-blend")).stdout


def test_info_of_a_store_a_run_and_a_stranger(tmp_path: Path):
    write_run_record(tmp_path / "run", {"epochs": 3})
    assert "unfinished run" in "\n".join(about.about_folder(tmp_path / "run"))
    write_json(tmp_path / "store" / "x.json", {})
    extra = {"counts": {"molecules": 2500}, "settings": {"hydrogens": "all_both"}}
    write_manifest(tmp_path / "store", kind="store", format_version=1, extra=extra)
    text = "\n".join(about.about_folder(tmp_path / "store"))
    assert "2,500" in text
    assert "hydrogens all_both" in text
    found = run("info", str(tmp_path))
    assert found.returncode == 2
    assert "has no manifest.json" in found.stderr


def test_a_shell_completes_verbs_and_options():
    bash = {"_DND_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert run(COMP_WORDS="dnd fine", **bash).stdout.split() == ["finetune"]
    bash["COMP_CWORD"] = "2"
    assert run(COMP_WORDS="dnd predict --smiles", **bash).stdout.split() == ["--smiles-column"]
    line = "dnd finetune in.csv --recipe b"
    known = run(_DND_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD="4").stdout.split()
    assert known == ["best"]
    split = run(_DND_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="dnd finetune in.csv --split sc").stdout
    assert "scaffold-balanced" in split
    assert "--model" in run(_DND_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS="dnd predict --mo").stdout


@pytest.mark.parametrize("verb", [name for name in VERBS if name not in ("analyse", "bench")])
def test_recipes_that_help_names_exist(verb: str):
    text = " ".join(run(verb, "--help", COLUMNS="400").stdout.split())
    if "--recipe" not in text:
        return
    stage = {"pretrain-base": "base"}.get(verb, verb)
    named = text.partition("--recipe")[2].partition("or a TOML file")[0].replace("<str>", "").replace("TEXT", "")
    words = [word.strip(" ,│") for word in named.split(",") if word.strip(" ,│")]
    known = {name.removeprefix(f"{stage}-") for name in recipe_names() if name.startswith(f"{stage}-")}
    assert words
    assert set(words) <= known, (verb, words)


def test_a_smiles_in_place_of_a_file(model: Path, tmp_path: Path):
    found = run("predict", "c1ccccc1O", "-m", str(model), "--device", "cpu")
    (row,) = csv.DictReader(io.StringIO(found.stdout))
    assert row["smiles"] == "c1ccccc1O"
    assert float(row["size_pred"]) == pytest.approx(dnd.predict("c1ccccc1O", model, device="cpu")["size_pred"][0])


def test_what_is_neither_a_file_nor_a_smiles_is_one_clear_line(model: Path):
    found = run("predict", "library.csv", "-m", str(model))
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert "there is no file 'library.csv', and it is not a SMILES either" in found.stderr
