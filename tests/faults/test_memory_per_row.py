"""Memory per row is bounded, whatever the table: in columns, in cells, and in what a column repeats."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import parse_json
from dnd.prediction.files import CHUNK_CELLS, CHUNK_CHARACTERS, _chunks
from dnd.predictor.classical.array_models import LIMIT_TREES, Trees
from dnd.tables.readers import LIMIT_CELL, LIMIT_COLUMNS, read_table
from dnd.tables.sdf import parse_molblock


def peak_mb(work) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def test_a_header_of_too_many_names_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("smiles," + ",".join(f"{number:x}" for number in range(LIMIT_COLUMNS)) + "\nC\n")
    with pytest.raises(InputError, match=r"too many columns: found 20,001, expected at most 20,000"):
        read_table(path)


def test_wide_rows_make_short_chunks(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("smiles," + ",".join(f"{number:x}" for number in range(9999)) + "\n" + "C\n" * 200)
    with read_table(path) as table:
        sizes = [len(chunk) for chunk in _chunks(table)]
    assert sum(sizes) == 200
    assert max(sizes) == CHUNK_CELLS // 10_000


def test_a_cell_that_is_too_long_costs_its_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"smiles,note\nC,{'a' * (LIMIT_CELL + 1)}\nCC,b\n")
    with read_table(path) as table:
        first, second = table
    assert first.problem == "a cell of 1,048,577 characters, at most 1,048,576 are read"
    assert first.values["note"] == "a" * 1000
    assert (second.problem, second.values) == (None, {"smiles": "CC", "note": "b"})


@pytest.mark.parametrize("dictionary", [True, False])
def test_a_text_that_a_parquet_column_repeats_is_held_once(tmp_path: Path, dictionary: bool) -> None:
    note, rows = pa.array(["a" * 2**20]), 1000  # a gigabyte, were it expanded; of the longest cell that is read
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), note)
    table = pa.table({"smiles": ["CCO"] * rows, "note": column})
    if not dictionary:  # as a plain column of texts, which the file holds once all the same
        table = table.replace_schema_metadata(None)
    pq.write_table(table, tmp_path / "x.parquet", compression="zstd", store_schema=dictionary)

    def work() -> None:
        with read_table(tmp_path / "x.parquet") as opened:
            held = next(_chunks(opened))
        assert sum(len(row.values["note"]) for row in held) <= CHUNK_CHARACTERS + 2**20

    before = pa.total_allocated_bytes()
    assert peak_mb(work) < 64
    assert pa.default_memory_pool().max_memory() - before < 256 * 2**20


def test_parquet_columns_of_every_kind_are_read_and_null_and_nan_are_empty(tmp_path: Path) -> None:
    columns = {
        "smiles": pa.array(["C", None, "CC", "C"]),
        "number": pa.array([1, None, 3, 1]),
        "real": pa.array([1.5, float("nan"), None, 2.0]),
        "flag": pa.array([True, False, None, True]),
        "words": pa.array(["a", "b", None, "a"]).dictionary_encode(),
        "codes": pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0]), pa.array([7, 8])),
        "list": pa.array([["a"], [], None, ["b", "c"]]),
        "bytes": pa.array([b"x", None, b"y", b"x"]),
    }
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with read_table(tmp_path / "x.parquet") as table:
        rows = [row.values for row in table]
    for name, column in columns.items():
        values = [value.decode() if isinstance(value, bytes) else value for value in column.to_pylist()]
        expected = ["" if value is None or value != value else str(value) for value in values]
        assert [row[name] for row in rows] == expected, name


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_number_of_atoms_that_a_v3000_announces_is_not_believed(place: int) -> None:
    lie = "M  V30 COUNTS 999999999 0 0 0 0"
    honest = "M  V30 COUNTS 1 0 0 0 0"
    head = [honest, "  x", ""] if place == 0 else ["", "  x", ""]
    counts = {0: [lie], 1: [honest, lie], 2: ["m  v30 counts 999999999 0 0 0 0", honest]}[place]
    atoms = ["M  V30 BEGIN ATOM", "M  V30 1 C 0 0 0 0", "M  V30 END ATOM", "M  V30 END CTAB", "M  END", ""]
    block = [*head, "  0  0  0  0  0  0  0  0  0  0999 V3000", "M  V30 BEGIN CTAB", *counts, *atoms]
    assert peak_mb(lambda: parse_molblock("\n".join(block))) < 1
    assert not parse_molblock("\n".join(block)).outcome.ok


def test_a_model_of_too_many_trees_is_refused_and_many_trees_take_few_rows_at_a_time() -> None:
    import numpy as np

    def forest(count: int) -> Trees:
        arrays = {
            "feature": np.full(count, -1, np.int16), "number": np.ones(count, np.float32),
            "skip": np.zeros(count, np.uint16), "missing_left": np.zeros((count + 7) // 8, np.uint8),
            "starts": np.arange(count), "affine": np.array([1 / count, 0.0]),
        }  # fmt: skip
        return Trees.from_arrays(arrays, "identity", 3)

    with pytest.raises(CorruptFileError, match="too many trees"):
        forest(LIMIT_TREES + 1)
    largest = forest(LIMIT_TREES)
    assert peak_mb(lambda: largest.predict(np.zeros((512, 3), np.float32))) < 128
    assert np.allclose(largest.predict(np.zeros((5, 3), np.float32)), 1.0)


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_a_configuration_holds_finite_numbers_only(text: str) -> None:
    with pytest.raises(CorruptFileError, match="not a finite number"):
        parse_json(f'{{"weight": {text}}}'.encode(), Path("config.json"))
