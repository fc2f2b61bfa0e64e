"""`dnd screen` in a fresh process: what `dnd predict` says, row by row, from three formats at once."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from dnd.prediction.screen.chunks import estimate_rows
from finetuning_toys import molecules, tiny_model

GOOD = molecules()[:20]
SMILES = [*GOOD, "no molecule", "", "C" * 5000]


def dnd(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dnd", *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model`, and the same molecules as `in.csv`, `in.sdf` (three of them, and a torn record) and `in.parquet`."""
    folder = tmp_path_factory.mktemp("screen")
    tiny_model(folder)
    (folder / "in.csv").write_text("id,smiles\n" + "".join(f"{n},{text}\n" for n, text in enumerate(SMILES)))
    with Chem.SDWriter(str(folder / "in.sdf")) as writer:
        for text in GOOD[:3]:
            writer.write(Chem.MolFromSmiles(text))
    with open(folder / "in.sdf", "a") as stream:
        stream.write("torn\n\n\nno counts line\n$$$$\n")
    pq.write_table(pa.table({"smiles": GOOD[:2]}), folder / "in.parquet")
    return folder


def test_the_progress_counts_rows_and_no_header(folder: Path) -> None:
    assert estimate_rows([folder / "in.csv", folder / "in.sdf", folder / "in.parquet"]) == len(SMILES) + 4 + 2


def test_the_same_as_predict(folder: Path):
    inputs = [folder / name for name in ("in.csv", "in.sdf", "in.parquet")]
    count = len(SMILES)
    done = dnd("screen", *inputs, "-m", folder / "model", "-o", folder / "out", "--jobs", "1", "--top", "3")
    assert done.returncode == 0, done.stderr
    assert f"{count + 6} rows in 1 shard, 4 without a prediction" in done.stdout
    assert f"screen  {count + 6} of about" in done.stderr
    found = pq.read_table(folder / "out" / "part-00000.parquet", page_checksum_verification=True)
    assert dnd("predict", inputs[0], "-m", folder / "model", "-o", folder / "predicted.parquet").returncode == 0
    expected = pq.read_table(folder / "predicted.parquet").drop_columns(["id"])
    assert found.column_names == ["row", "id", "title", *expected.column_names]  # what names a molecule in any input
    assert found["id"].to_pylist()[:count] == [str(number) for number in range(count)]
    assert found["row"].to_pylist() == list(range(count + 6))
    for name in expected.column_names:
        screened, predicted = found[name].to_pylist(), expected[name].to_pylist()
        if pa.types.is_floating(expected[name].type):
            values = [np.array(column, dtype=float) for column in (screened[:count], predicted)]
            assert np.allclose(*values, rtol=1e-5, equal_nan=True), name
            assert np.allclose(screened[count : count + 3], predicted[:3], rtol=1e-5), name
            assert np.allclose(screened[count + 4 :], predicted[:2], rtol=1e-5), name
        else:
            assert [text[:4096] for text in predicted] == screened[:count], name
    assert found["error"][count + 3].as_py()
    with open(folder / "out" / "top.csv", newline="") as stream:
        best = [float(row["size_pred"]) for row in csv.DictReader(stream)]
    numbers = [number for number in found["size_pred"].to_pylist() if number is not None]
    assert np.allclose(best, sorted(numbers, reverse=True)[:3], rtol=1e-6)


def test_bad_input_is_one_line(folder: Path):
    done = dnd("screen", folder / "in.csv", "-m", folder / "model", "-o", folder / "none", "--smiles-column", "smi")
    assert done.returncode == 2
    assert "no column 'smi'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "none").exists()
