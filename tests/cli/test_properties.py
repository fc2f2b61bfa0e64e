"""`dnd predict` without a model, `--properties`, and `dnd properties`, by the installed command in a fresh process."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dnd
from dnd.predictor.ready_made import read_properties

DND = str(Path(sys.executable).with_name("dnd"))
MOLECULES = "name,smiles\nethanol,CCO\nbroken,C1CC(\ncaffeine,Cn1cnc2c1c(=O)n(C)c(=O)n2C\n"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([DND, *words], cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "molecules.csv").write_text(MOLECULES)
    return tmp_path


def test_no_model_is_the_one_that_ships_and_python_says_the_same(folder: Path) -> None:
    done, named = (
        run(folder, "predict", "molecules.csv"),
        run(folder, "predict", "molecules.csv", "-m", "dnd-properties"),
    )
    assert done.returncode == named.returncode == 0, done.stderr
    assert done.stdout == named.stdout
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["name"] for row in rows] == ["ethanol", "broken", "caffeine"]
    assert "syntax error" in rows[1]["error"]
    table = dnd.predict([row["smiles"] for row in rows])
    for one in read_properties():
        cells = [float(row[f"{one.name}_pred"] or "nan") for row in rows]
        assert np.allclose(cells, table[f"{one.name}_pred"], rtol=1e-6, equal_nan=True), one.name
    assert list(dnd.predict(["CCO"], properties="solubility")) == [
        *("smiles", "solubility_pred", "solubility_low", "solubility_high", "in_domain", "domain_reason", "error"),
    ]


def test_properties_chooses_columns_in_the_order_of_the_model(folder: Path) -> None:
    done = run(folder, "predict", "molecules.csv", "--properties", "logp,solubility", "-o", "out.csv")
    assert done.returncode == 0, done.stderr
    header = (folder / "out.csv").read_text().splitlines()[0].split(",")
    own = [f"{name}_{end}" for name in ("solubility", "logp") for end in ("pred", "low", "high")]
    assert header == ["name", "smiles", *own, "in_domain", "domain_reason", "error"]


def test_an_unknown_property_is_one_line_and_no_output(folder: Path) -> None:
    done = run(folder, "predict", "molecules.csv", "--properties", "solubilty", "-o", "out.csv")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "no property 'solubilty'" in done.stderr
    assert "Did you mean solubility" in done.stderr
    assert not (folder / "out.csv").exists()


def test_the_list_has_every_property_and_loads_no_torch() -> None:
    code = (
        "import sys, dnd.cli.main as m\n"
        "try: m.main(['properties'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print('LOADED', *{'torch', 'rdkit', 'sklearn', 'pyarrow', 'pandas'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    text, _, loaded = done.stdout.rpartition("LOADED")
    assert not loaded.split()
    lines = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    for one in read_properties():
        assert f"{one.training:,}" in lines[one.name]
        assert f"{one.score:.3g}" in lines[one.name]
        assert not one.unit or one.unit in lines[one.name]


def test_other_verbs_take_the_name_too(folder: Path) -> None:
    (folder / "two.smi").write_text("CCO ethanol\nc1ccccc1 benzene\n")
    done = run(
        folder, "screen", "two.smi", "-m", "dnd-properties", "-o", "hits", "--jobs", "1", "--top", "1", "--by", "logp"
    )
    assert done.returncode == 0, done.stderr
    assert "benzene" in (folder / "hits" / "top.csv").read_text()
    assert run(folder, "embed", "CCO", "--encoder", "dnd-properties", "-o", "vector.npy").returncode == 0
    assert np.isfinite(np.load(folder / "vector.npy")).all()
    about = run(folder, "info", "dnd-properties")
    assert about.returncode == 0, about.stderr
    assert "dnd-properties: model, " in about.stdout.splitlines()[0]
