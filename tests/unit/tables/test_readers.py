"""Tables become rows: the corpus of bad tables, columns kept as text, streams and standard input."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dnd.common.errors import CorruptFileError, DndError, InputError
from dnd.conformers.formats import open_sources
from dnd.prediction.screen.chunks import estimate_rows
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import read_table

CORPUS = Path(__file__).parents[2] / "corpus" / "csv"


def verdicts() -> list[tuple[str, str, str]]:
    with open(CORPUS / "verdicts.tsv", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row["file"], row["verdict"], row["expected"]) for row in rows]


@pytest.mark.parametrize(("name", "verdict", "expected"), verdicts())
def test_corpus_has_the_expected_verdicts(name: str, verdict: str, expected: str) -> None:
    if verdict == "error":
        with pytest.raises(InputError) as caught:
            list(read_table(CORPUS / name))
        line = str(caught.value)
        assert expected in line.replace(f"{CORPUS}/", "")
        assert line.isprintable()
        assert caught.value.exit_code == 2
        return
    reader = read_table(CORPUS / name)
    rows = list(reader)
    bad = [row.number for row in rows if row.problem]
    assert f"{len(reader.columns)} columns, {len(rows)} rows, bad {bad}" == expected
    assert verdict == ("problems" if bad else "ok")
    for row in rows:
        assert list(row.values) == reader.columns
        assert row.smiles == row.values[reader.smiles_column]


def test_every_file_of_the_corpus_has_a_verdict() -> None:
    assert {name for name, _, _ in verdicts()} == {path.name for path in CORPUS.iterdir()} - {"verdicts.tsv"}


def test_trailing_comma_never_shifts_columns() -> None:
    rows = list(read_table(CORPUS / "one_trailing_comma.csv"))
    assert [(row.smiles, row.values["y"]) for row in rows] == [("CCO", "1"), ("CC", "2")]
    assert rows[0].problem == "row has 3 cells where the header has 2"
    assert rows[1].problem is None


def test_missing_column_lists_those_there_and_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no column 'smiles': found columns smile, y.*Did you mean smile\?"):
        read_table(CORPUS / "no_smiles_column.csv")


def test_open_quote_costs_only_its_own_row() -> None:
    rows = list(read_table(CORPUS / "open_quote.csv"))
    assert [(row.smiles, row.values["name"], row.problem is None) for row in rows] == [
        ("C", '"open', False),
        ("CC", "good", True),
        ("CCC", "quoted, well", True),
    ]


def written(path: Path, *rows: str) -> Path:
    path.write_text("smiles,note,y\n" + "\n".join(rows) + "\n")
    return path


def test_a_mol_block_in_a_cell_is_one_cell(tmp_path: Path) -> None:
    block = "\n".join(f"{line:>10}    0.0000    1.2990    0.0000 C   0  0" for line in range(600))
    rows = list(read_table(written(tmp_path / "t.csv", f'CC,"{block}",1', "CCC,b,2")))
    assert [(row.smiles, row.values["y"], row.problem) for row in rows] == [("CC", "1", None), ("CCC", "2", None)]
    assert rows[0].values["note"] == block


def test_rows_behind_an_open_quote_are_rows_however_many(tmp_path: Path) -> None:
    rows = list(read_table(written(tmp_path / "t.csv", 'CC,"5,0', *["C,b,1"] * 100, 'CCC,d",2')))
    assert [row.problem for row in rows] == ["a quote is opened and never closed", *[None] * 101]


def test_two_open_quotes_make_no_row_of_two(tmp_path: Path) -> None:
    rows = list(read_table(written(tmp_path / "t.csv", *[f'{"C" * length},"5 inch,1' for length in range(1, 7)])))
    assert [row.smiles for row in rows] == ["C" * length for length in range(1, 7)]
    assert all(row.problem for row in rows)


def test_a_cell_of_several_lines_that_is_too_long_costs_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dnd.tables.readers.LIMIT_LINE", 1000)
    before = csv.field_size_limit(1000)
    try:
        rows = list(read_table(written(tmp_path / "t.csv", f'CC,"{"x" * 600}', f'{"x" * 600}",1', "CCC,b,2")))
    finally:
        csv.field_size_limit(before)
    assert [row.smiles for row in rows if row.problem is None] == ["CCC"]


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_first_line_for_spreadsheets_names_the_separator(tmp_path: Path, first: str) -> None:
    (tmp_path / "t.csv").write_text(f"{first}\nsmiles;a,b\nCC;1,5\n")
    table = read_table(tmp_path / "t.csv")
    assert (table.columns, table.style.delimiter) == (["smiles", "a,b"], ";")
    assert [(row.values["a,b"], row.place) for row in table] == [("1,5", 3)]
    (tmp_path / "t.csv").write_text(f"{first}\n")
    with pytest.raises(InputError, match="is empty"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["utf16.csv", "utf16_big_endian.csv", "latin1.csv"])
def test_encodings(name: str) -> None:
    assert [row.values["name"] for row in read_table(CORPUS / name)] == ["é"]


def test_cells_stay_the_text_they_were() -> None:
    values = [row.values["y"] for row in read_table(CORPUS / "mixed_targets.csv")]
    assert values == ["1", ">10", "1,5", "1e400", "inf", "NaN", "NA", "", "TRUE"]


def test_parquet_cells_are_text_and_missing_ones_empty(tmp_path: Path) -> None:
    table = pa.table({"smiles": ["C", None, "CC"], "y": [1.5, None, 2.0], "n": [1, 2, None]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(path.read_bytes()))
    for name in ("a.parquet", "a.parquet.gz"):
        rows = list(read_table(tmp_path / name))
        assert [list(row.values.values()) for row in rows] == [["C", "1.5", "1"], ["", "", "2"], ["CC", "2.0", ""]]


def test_parquet_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    smiles = ["C" * (index % 50 + 1) for index in range(5000)]
    pq.write_table(
        pa.table({"smiles": smiles}), path, write_page_checksum=True, use_dictionary=False, compression="none"
    )
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="not a readable Parquet file"):
        list(read_table(path))


def test_bad_rows_are_values_with_reasons() -> None:
    with open_molecules(CORPUS / "too_few_cells.csv") as table:
        rows = list(table)
    assert [row.problem is None for row in rows] == [False, True, False]
    assert rows[1].smiles == "CC"


class _Trickle(io.RawIOBase):
    """Standard input from a writer that hands over one byte at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:
        piece, self._data = self._data[:1], self._data[1:]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("packed", [False, True])
def test_an_sdf_on_standard_input_is_known_by_its_counts_line(monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    path = CORPUS.parent / "sdf" / ("good.sdf.gz" if packed else "good.sdf")
    with open_molecules(path) as table:
        expected = list(table)
    for stream in (io.BytesIO(path.read_bytes()), _Trickle(path.read_bytes())):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(stream)))
        with open_molecules("-") as table:
            assert list(table) == expected


def test_a_missing_target_column_leaves_no_file_open(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("smiles,y\nC,1\n")
    before = set(os.listdir("/proc/self/fd"))
    for wanted in ("y", "z"):
        with contextlib.suppress(InputError):
            open_sources([tmp_path / "a.csv"], target_columns=[wanted])[0].records.close()
    assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    "data",
    [b"id,smiles\n1,CCO\n", gzip.compress(b"id,smiles\n1,CCO\n"), b"CCO 1\n"],
    ids=["csv", "gzip", "smi"],  # the bytes hold the time of day, and workers must agree on the names
)
def test_standard_input(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    assert [row.smiles for row in read_table("-")] == ["CCO"]


def test_rows_stream_from_a_pipe_before_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.csv"
    os.mkfifo(pipe)
    first_seen = threading.Event()

    def write() -> None:
        with open(pipe, "wb", buffering=0) as stream:
            stream.write(b"smiles\n" + b"C\n" * 20_000)
            assert first_seen.wait(20)
            stream.write(b"CC\n")

    writer = threading.Thread(target=write)
    writer.start()
    rows = iter(read_table(pipe))
    assert next(rows).smiles == "C"
    first_seen.set()
    assert [row.smiles for row in rows][-1] == "CC"
    writer.join()


def test_what_has_no_name_of_its_own_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(InputError, match=r"^standard input is empty"):
        read_table("-")
    with pytest.raises(InputError, match="standard input and name it -"):
        read_table("/dev/null")


def test_a_screen_counts_the_rows_of_parquet_whatever_its_name_is(tmp_path: Path) -> None:
    pq.write_table(pa.table({"smiles": ["CCO", "CC"]}), tmp_path / "t.csv")
    assert estimate_rows([tmp_path / "t.csv"]) == 2


def test_folder_and_missing_file_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name in ("folder.csv", "absent.csv"):
        with pytest.raises(DndError) as caught:
            read_table(tmp_path / name)
        assert caught.value.exit_code == 2


def test_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnd.tables.streams.LIMIT_LINE", 1000)
    path = tmp_path / "a.csv"
    path.write_text("smiles,y\nC,1\nC," + "1" * 2000 + "\n")
    with pytest.raises(InputError, match="line 3 is too long"):
        list(read_table(path))


def test_a_reader_closes_its_file_early(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("smiles\n" + "C\n" * 10)
    with read_table(path) as reader:
        assert next(iter(reader)).smiles == "C"
    with pytest.raises(ValueError, match="closed file"):
        list(reader)


@pytest.mark.parametrize("damage", ["header", "cut", "flipped"])
def test_parquet_in_a_damaged_gzip_is_refused(tmp_path: Path, damage: str) -> None:
    """Found by fuzzing: bytes that begin like gzip are unpacked before Arrow sees them."""
    plain = io.BytesIO()
    pq.write_table(pa.table({"smiles": ["C", "CC"] * 500}), plain)
    packed = bytearray(gzip.compress(plain.getvalue()))
    if damage == "header":
        packed[2] = 99
    elif damage == "cut":
        packed = packed[: len(packed) // 2]
    else:
        packed[-6] ^= 1
    path = tmp_path / "table.parquet.gz"
    path.write_bytes(packed)
    with pytest.raises(CorruptFileError, match="damaged gzip"):
        list(read_table(path))


def test_a_parquet_column_of_text_that_is_no_text_is_named(tmp_path: Path) -> None:
    """Found by `reader_fuzz.py`: without page checksums a flipped bit is seen only where it is no UTF-8."""
    texts = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"C\xc3")])
    pq.write_table(pa.table({"smiles": texts}), tmp_path / "x.parquet")
    with pytest.raises(CorruptFileError, match=r"x\.parquet is not a readable Parquet file: found 'utf-8' codec"):
        list(read_table(tmp_path / "x.parquet"))
