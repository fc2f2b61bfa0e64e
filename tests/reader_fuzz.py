"""Every reader against damaged input: no crash, no hang, one line for what is refused, no row lost in silence.

    python tests/reader_fuzz.py --seconds 60                      # all readers, seeded mutations of the corpora
    python tests/reader_fuzz.py --reader sdf --count 100000
    python tests/reader_fuzz.py --reader sdf --atheris -- -max_total_time=600     # guided by coverage, needs atheris

Prints a line per reader: inputs tried, accepted, refused, seconds, the slowest one.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dnd.common.errors import InputError
from ogb_reference import sample


def _counted() -> contextlib.AbstractContextManager[object]:
    """With --atheris what is imported inside reports its branches to the fuzzer."""
    if "--atheris" not in sys.argv:
        return contextlib.nullcontext()
    import atheris

    for name in [name for name in sys.modules if name.startswith("dnd.chemistry")]:
        del sys.modules[name]
    counted: contextlib.AbstractContextManager[object] = atheris.instrument_imports(include=["dnd.chemistry"])
    return counted


with _counted():
    from dnd.chemistry.molecule import LIMITS, InvalidMolecule
    from dnd.chemistry.parse import parse_smiles
    from dnd.graphs.features import featurize
    from dnd.tables.readers import read_table
    from dnd.tables.sdf import read_sdf

CORPUS = Path(__file__).parent / "corpus"
SLOWEST_S = 10.0  # on a busy machine; a free one takes 2 s at most
_MEMORY = Path("/dev/shm")
_TOKENS = {
    "smiles": [
        b"[",
        b"]",
        b"(",
        b")",
        b".",
        b"%10",
        b"=",
        b"#",
        b"@",
        b"/",
        b"[13C@@H]",
        b"*",
        b"c1ccccc1",
        b"\xc3\xa9",
    ],
    "csv": [
        b",",
        b'"',
        b"\n",
        b"\r\n",
        b"\t",
        b";",
        b"\x00",
        b"\xef\xbb\xbf",
        b"smiles",
        b"\xff\xfe",
        b"nan",
        b"1e999",
    ],
    "sdf": [
        b"$$$$\n",
        b"M  END\n",
        b"999999",
        b"V3000",
        b"V2000",
        b"> <x>\n",
        b"-1",
        b"nan",
        b"\x00",
        b"M  CHG  1   1  99",
    ],
    "parquet": [b"PAR1", b"\x00" * 8, b"\xff" * 4, b"\x15\x02"],
}


def check_smiles(data: bytes) -> bool:
    """A molecule that is read back from its own SMILES, or a reason."""
    outcome = parse_smiles(data.decode("utf-8", "surrogateescape"))
    if isinstance(outcome, InvalidMolecule):
        assert outcome.reason
        assert "\n" not in outcome.reason
        return False
    assert parse_smiles(outcome.smiles).smiles == outcome.smiles
    graph = featurize(outcome.mol)
    assert 0 < graph.num_atoms <= LIMITS.heavy_atoms
    assert (graph.node_features_NF >= 0).all()
    return True


def check_csv(data: bytes, path: Path) -> bool:
    """Rows numbered without a gap, each with every column, or one line."""
    path.write_bytes(data)
    return _check_rows(path)


def check_parquet(data: bytes, path: Path) -> bool:
    """The same."""
    path.write_bytes(data)
    return _check_rows(path)


def check_sdf(data: bytes, path: Path) -> bool:
    """A molecule or a reason for every record there is, or one line."""
    path.write_bytes(data)
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # then those bytes are other letters
    delimiters = 0 if is_utf16 else sum(line.rstrip() == b"$$$$" for line in lines)
    try:
        records = list(read_sdf(path))
    except InputError as error:
        _check_line(error)
        return False
    assert [record.number for record in records] == list(range(len(records)))
    assert len(records) >= delimiters
    assert all(record.outcome.ok or record.outcome.reason for record in records)
    return True


def _check_rows(path: Path) -> bool:
    try:
        with read_table(path) as reader:
            rows = list(reader)
            columns = list(reader.columns)
    except InputError as error:
        _check_line(error)
        return False
    assert [row.number for row in rows] == list(range(len(rows)))
    assert all(list(row.values) == columns for row in rows)
    return True


def _check_line(error: InputError) -> None:
    assert "\n" not in str(error)
    assert len(str(error)) < 2000


def checks(folder: Path) -> dict[str, Callable[[bytes], bool]]:
    """What to call with the bytes of an input, by reader; files are written in `folder`."""
    return {
        "smiles": check_smiles,
        "csv": lambda data: check_csv(data, folder / "fuzz.csv"),
        "sdf": lambda data: check_sdf(data, folder / "fuzz.sdf"),
        "parquet": lambda data: check_parquet(data, folder / "fuzz.parquet"),
    }


def seeds(reader: str) -> list[bytes]:
    """Inputs to begin from: real SMILES, small files of the corpora, a Parquet file."""
    if reader == "smiles":
        return [text.encode() for text in sample(2000, seed=6)]
    if reader == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"smiles": sample(30, seed=7), "y": np.arange(30.0)}), sink)
        return [sink.getvalue().to_pybytes()]
    small = [path for path in sorted((CORPUS / reader).glob(f"*.{reader}")) if path.stat().st_size < 50_000]
    return [path.read_bytes() for path in small]


def mutated(rng: np.random.Generator, reader: str, pool: list[bytes]) -> bytes:
    """A seed with up to four spans (of a SMILES: signs) deleted, repeated, overwritten or replaced by a token."""
    data = bytearray(pool[rng.integers(len(pool))])
    longer = 0.8 if reader == "smiles" else 0.1
    for _ in range(rng.integers(1, 5)):
        begin = int(rng.integers(len(data) + 1))
        end = min(len(data), begin + int(rng.geometric(longer)) - (reader == "smiles"))
        other = pool[rng.integers(len(pool))]
        token = _TOKENS[reader][rng.integers(len(_TOKENS[reader]))]
        start = int(rng.integers(len(other) + 1))
        pieces = (b"", bytes(data[begin:end]) * 2, rng.bytes(end - begin), token, other[start : start + 40])
        data[begin:end] = pieces[rng.integers(len(pieces))]
    return bytes(data)


def fuzz(reader: str, folder: Path, *, count: int, seed: int, seconds: float = 1e9) -> tuple[int, int, float]:
    """Try up to `count` inputs; how many were tried and accepted, and the longest time one took."""
    check, pool, rng = checks(folder)[reader], seeds(reader), np.random.default_rng(seed)
    tried, accepted, slowest, begin = 0, 0, 0.0, time.monotonic()
    while tried < count and time.monotonic() - begin < seconds:
        data, started = mutated(rng, reader, pool), time.process_time()
        try:
            accepted += check(data)
        except Exception as error:
            raise AssertionError(f"{reader} reader, seed {seed}, input {tried}: {data[:2000]!r}") from error
        slowest = max(slowest, time.process_time() - started)
        tried += 1
    return tried, accepted, slowest


def with_atheris(reader: str, folder: Path, words: list[str]) -> None:
    """Fuzz one reader guided by coverage until stopped; `words` go to libFuzzer."""
    import atheris

    check = checks(folder)[reader]
    atheris.Setup([sys.argv[0], *words], lambda data: (check(data), None)[1])
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", choices=[*_TOKENS, "all"], default="all")
    parser.add_argument("--count", type=int, default=10**9)
    parser.add_argument("--seconds", type=float, default=1e9, help="for each reader")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true")
    parser.add_argument("words", nargs="*", help="for libFuzzer, behind --")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as name:
        if options.atheris:
            with_atheris(options.reader, Path(name), options.words)
        print("| reader | inputs | accepted | refused | CPU s of the slowest | s |\n|---|---|---|---|---|---|")
        for reader in _TOKENS if options.reader == "all" else [options.reader]:
            begin = time.monotonic()
            limits = {"count": options.count, "seed": options.seed, "seconds": options.seconds}
            tried, accepted, slowest = fuzz(reader, Path(name), **limits)
            refused, took = tried - accepted, time.monotonic() - begin
            print(f"| {reader} | {tried:,} | {accepted:,} | {refused:,} | {slowest:.2f} | {took:.0f} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
