"""3.5 to 3.7: mutated SMILES, tables, SDF and Parquet files are read or refused in one line; see `reader_fuzz.py`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dnd.tables.readers import read_table
from reader_fuzz import SLOWEST_S, check_smiles, checks, fuzz, mutated, seeds

COUNTS = {"smiles": 6_000, "csv": 1500, "sdf": 400, "parquet": 500}
PLAIN = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc"), exclude_characters="\ufeff"), max_size=12)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("reader", COUNTS)
def test_mutations(reader: str, scratch: Path) -> None:
    tried, accepted, slowest = fuzz(reader, scratch, count=COUNTS[reader], seed=1)
    assert tried == COUNTS[reader]
    assert 0 < accepted < tried
    assert slowest < SLOWEST_S


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("reader", COUNTS)
def test_a_hundred_times_as_many_mutations(reader: str, scratch: Path) -> None:
    assert fuzz(reader, scratch, count=100 * COUNTS[reader], seed=2)[2] < SLOWEST_S


@settings(max_examples=300, deadline=None)
@given(st.recursive(
    st.sampled_from(["C", "c", "N", "n", "O", "[nH]", "[Na+]", "1", "%12", "=", "#", "/", "\\", ".", "[C@H]", "*"]),
    lambda part: st.one_of(st.tuples(part, part).map("".join), part.map("({})".format), part.map("C1{}C1".format)),
    max_leaves=30,
))  # fmt: skip
def test_nested_smiles(text: str) -> None:
    check_smiles(text.encode())


@pytest.mark.parametrize("reader", ["csv", "sdf", "parquet"])
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), noise=st.binary(max_size=30), place=st.floats(0, 1))
def test_noise_in_files(reader: str, scratch: Path, seed: int, noise: bytes, place: float) -> None:
    data = mutated(np.random.default_rng(seed), reader, seeds(reader))
    cut = int(place * len(data))
    checks(scratch)[reader](data[:cut] + noise + data[cut:])


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cells=st.lists(st.tuples(PLAIN, PLAIN), min_size=1, max_size=8), ending=st.sampled_from(["\n", "\r\n"]))
def test_a_sound_table_loses_nothing(scratch: Path, cells: list[tuple[str, str]], ending: str) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=ending, quoting=csv.QUOTE_ALL)
    writer.writerows([("smiles", "name"), *cells])
    (scratch / "sound.csv").write_bytes(text.getvalue().encode())
    rows = list(read_table(scratch / "sound.csv"))
    assert [(row.values["smiles"], row.values["name"]) for row in rows] == cells
