"""Each kind of input becomes the records it holds."""

from __future__ import annotations

import io
import math
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dnd.chemistry.molecule import LIMITS
from dnd.common.errors import CorruptFileError, InputError
from dnd.conformers.atom_matching import Misfit, place
from dnd.conformers.formats import QM9_PROPERTIES, open_arrays, open_sources, open_xyz, parse_number
from dnd.conformers.records import Record, TargetReader

DATA = Path(__file__).parents[2] / "data" / "qm9_300.npz"

WATER = """3
gdb 3\t799.58812\t437.90386\t282.94545\t1.8511\t6.31\t-0.2928\t0.0687\t0.3615\t19.0002\
\t0.021375\t-76.404702\t-76.401867\t-76.400922\t-76.422349\t6.002
O\t-0.0343604951\t 0.9775395708\t 0.0076015923\t-0.589706
H\t 0.0647664923\t 0.0205721989\t 1.2*^-6\t 0.294853
H\t 0.8717903737\t 1.3007924048\t 0.0006931336\t 0.294853
1671.4222\t3803.6305\t3907.698
O\tO
InChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2
"""


def records(path: Path, *targets: str) -> list[Record]:
    return list(open_sources([path], target_columns=targets)[0].records)


def test_arrays_as_milli_angstrom_and_as_floats_agree(tmp_path: Path) -> None:
    with np.load(DATA) as archive:
        arrays = {name: archive[name] for name in archive.files}
    floats = {**arrays, "R": (arrays["R"] / 1000).astype(np.float32)}
    labels = {name: floats.pop(name) for name in ("props", "names", "units")} | {"ids": arrays["ids"]}
    np.savez(tmp_path / "some_3d.npz", **floats)
    np.savez(tmp_path / "some_props.npz", **labels)
    one, other = records(DATA, "gap", "mu"), records(tmp_path / "some_3d.npz", "gap", "mu")
    assert len(one) == len(other) == 300
    assert (one[0].method, other[0].method) == ("dft", "file")
    for left, right in zip(one, other, strict=True):
        assert left.smiles == right.smiles
        assert left.positions_A3 is not None
        assert np.allclose(left.positions_A3, right.positions_A3, atol=1e-6)
        assert np.array_equal(left.targets, right.targets, equal_nan=True)
    np.savez(tmp_path / "some_props.npz", **{**labels, "ids": labels["ids"][::-1]})
    with pytest.raises(InputError, match="other ids"):
        records(tmp_path / "some_3d.npz", "gap")


def test_damaged_or_foreign_arrays_are_refused(tmp_path: Path) -> None:
    (tmp_path / "torn.npz").write_bytes(DATA.read_bytes()[:3000])
    with pytest.raises(CorruptFileError, match="not a readable"):
        open_arrays(tmp_path / "torn.npz")
    np.savez(tmp_path / "other.npz", X=np.zeros(3))
    with pytest.raises(InputError, match="lacks the arrays"):
        open_arrays(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"no target column 'gapp'.*gap"):
        open_arrays(DATA, ["gapp"])
    with np.load(DATA) as archive:
        np.savez(tmp_path / "short.npz", **{name: archive[name] for name in ("Z", "n_atoms", "smiles")}, R=np.zeros(1))
    with pytest.raises(CorruptFileError, match="do not fit"):
        open_arrays(tmp_path / "short.npz")


METHANOL = {
    "Z": np.array([6, 8, 1, 1, 1, 1]),
    "R": np.eye(6, 3),
    "n_atoms": np.array([6]),
    "smiles": np.array(["CO"]),
    "props": np.array([[1.0, 2.0]]),
    "names": np.array(["y", "z"]),
}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_atoms": np.array([-1, 7]), "smiles": np.array(["CO", "CO"])}, "do not fit together: found n_atoms"),
        ({"n_atoms": np.array([[6]])}, "do not fit together: found n_atoms"),
        ({"smiles": np.array("CO")}, "do not fit together: found n_atoms"),
        ({"smiles": np.array([7])}, "SMILES that are not text"),
        ({"mmff": np.array([], dtype=bool)}, "do not fit together: found n_atoms"),
        ({"props": np.array([1.0])}, "labels of .* do not fit its molecules: found props float64"),
        ({"props": np.array([["a", "b"]])}, "labels of .* do not fit its molecules: found props <U1"),
        ({"props": np.array([[1j, 2j]])}, "labels of .* do not fit its molecules: found props complex128"),
        ({"props": np.array([[1.0]])}, "labels of .* do not fit its molecules: found props float64"),
        ({"names": np.array("y")}, "label names of .* are not a list"),
        ({"names": np.array(["y", "y"])}, "more than one label named 'y'"),
    ],
)
def test_arrays_that_are_no_molecules_are_refused(tmp_path: Path, changed: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "one.npz", **{**METHANOL, **changed})
    with pytest.raises((CorruptFileError, InputError), match=message):
        open_arrays(tmp_path / "one.npz", ["y"])


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e300])
def test_a_conformer_that_is_no_number_is_a_misfit(tmp_path: Path, value: float) -> None:
    np.savez(tmp_path / "one.npz", **{**METHANOL, "R": np.full((6, 3), value)})
    (record,) = records(tmp_path / "one.npz")
    assert place(record) == Misfit("parse", "a coordinate is not a finite number", "CO")


@pytest.mark.parametrize("suffix", ["xyz", "tar.bz2", "tar.gz", "folder"])
def test_raw_qm9_in_any_packing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"dsgdb9nsd.{suffix}"
    if suffix == "xyz":
        path.write_text(WATER * 2)
    elif suffix == "folder":
        path.mkdir()
        for number in (1, 2):
            (path / f"dsgdb9nsd_{number:06d}.xyz").write_text(WATER)
    else:
        with tarfile.open(path, "w:" + suffix.partition(".")[2]) as archive:
            for number in (1, 2):
                entry = tarfile.TarInfo(f"dsgdb9nsd_{number:06d}.xyz")
                entry.size = len(WATER)
                archive.addfile(entry, io.BytesIO(WATER.encode()))
    both = records(path, "gap", "cv")
    assert [record.row for record in both] == [0, 1]
    for record in both:
        assert record.problem is None
        assert record.smiles == ("O",)
        assert record.method == "dft"
        assert record.targets == (0.3615, 6.002)
        assert record.atomic_numbers_A is not None
        assert record.atomic_numbers_A.tolist() == [8, 1, 1]
        assert record.positions_A3 is not None
        assert record.positions_A3[1, 2] == np.float32(1.2e-6)


def test_no_frame_of_a_large_file_in_an_archive_is_lost(tmp_path: Path) -> None:
    frames = LIMITS.molblock_bytes // len(WATER) + 10
    content = (WATER * frames).encode()
    with tarfile.open(tmp_path / "dsgdb9nsd.tar", "w") as archive:
        entry = tarfile.TarInfo("all.xyz")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    found = records(tmp_path / "dsgdb9nsd.tar")
    assert len(found) == frames
    assert all(record.problem is None for record in found)


def test_the_number_format_of_qm9() -> None:
    assert parse_number("-1.5*^-6") == -1.5e-6
    assert parse_number("2.5*^3") == 2500
    assert np.isnan(parse_number("*^"))
    assert len(QM9_PROPERTIES) == 15


def test_torn_frames_are_records_with_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "some.xyz"
    good = "2\nsmiles=[H][H] charge=0\nH 0 0 0\nH 0 0 0.74\n"
    path.write_text(good + "junk\nmore junk\n" + "1\nx\nXx 0 0 0\n" + good + "99999999\nfoo\n" + "3\nname\nO 0 0 0\n")
    problems = [record.problem for record in records(path)]
    assert problems[0] is None
    assert "number of atoms is 'junk'" in str(problems[1])
    assert "not an element" in str(problems[2])
    assert problems[3] is None
    assert "number of atoms is" in str(problems[4])
    assert "cut off" in str(problems[5])
    with pytest.raises(InputError, match=r"no target column 'gap'.*no columns"):
        open_xyz(path, ["gap"])


def test_a_torn_archive_is_named(tmp_path: Path) -> None:
    path = tmp_path / "dsgdb9nsd.xyz.tar.bz2"
    with tarfile.open(path, "w:bz2") as archive:
        entry = tarfile.TarInfo("a.xyz")
        entry.size = len(WATER)
        archive.addfile(entry, io.BytesIO(WATER.encode()))
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(CorruptFileError, match="damaged archive"):
        records(path)


def test_tables_keep_row_numbers_and_mark_bad_labels(tmp_path: Path) -> None:
    path = tmp_path / "some.csv"
    path.write_text("smiles,y\nCCO,1.5\nCC,\nC,abc\nCCC,1,2\nCCCC,inf\n")
    found = records(path, "y")
    assert [record.row for record in found] == [0, 1, 2, 3, 4]
    assert found[0].targets == (1.5,)
    assert np.isnan(found[1].targets[0])
    assert found[1].problem is None
    assert "target y is not a finite number: 'abc'" in str(found[2].problem)
    assert "3 cells" in str(found[3].problem)
    assert "not a finite number" in str(found[4].problem)
    with pytest.raises(InputError, match=r"no target column 'z'.*smiles, y"):
        records(path, "z")


def test_missing_cells_are_nan() -> None:
    row = {"a": "NA", "b": " 2 ", "c": "nan"}
    targets, problem = TargetReader([row], ["a", "b", "c", "d"]).read(row)
    assert problem is None
    assert np.array_equal(targets, [np.nan, 2, np.nan, np.nan], equal_nan=True)


@pytest.mark.parametrize("name", ["missing.csv", "empty.csv", "empty.sdf", "empty.npz", "what.docx"])
def test_files_that_cannot_be_read_are_one_clear_line(tmp_path: Path, name: str) -> None:
    if not name.startswith("missing"):
        (tmp_path / name).write_bytes(b"" if name.startswith("empty") else b"x")
    with pytest.raises(InputError) as caught:
        open_sources([tmp_path / name])
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
