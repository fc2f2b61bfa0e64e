"""What the comment and the lines of an XYZ frame say is used or refused, never passed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnd.conformers.formats import open_xyz

WATER = "O 0.000 0.000 0.119\nH 0.000 0.763 -0.477\nH 0.000 -0.763 -0.477\n"


def frame(tmp_path: Path, comment: str, atoms: str = WATER) -> tuple[str | None, int]:
    """Why the only frame of an XYZ file is refused, or its charge."""
    path = tmp_path / "one.xyz"
    path.write_text(f"3\n{comment}\n{atoms}")
    (record,) = open_xyz(path).records
    return record.problem, record.charge


@pytest.mark.parametrize(
    "comment", ["charge=one", "charge=99999999999999999999", "charge=1.5", "charge=2-", "charge=0 Charge: 1"]
)
def test_a_charge_that_cant_be_read_is_not_passed_over(tmp_path: Path, comment: str) -> None:
    problem, _ = frame(tmp_path, comment)
    assert "charge" in str(problem)


@pytest.mark.parametrize(
    ("comment", "charge"),
    [("charge=-1", -1), ("Charge: +2 mult: 1", 2), ("total charge=1.0", 1), ('charge="1"', 1), ("charge=1, x", 1)],
)
def test_a_charge_is_read(tmp_path: Path, comment: str, charge: int) -> None:
    assert frame(tmp_path, comment) == (None, charge)


def test_two_smiles_in_a_comment_are_refused(tmp_path: Path) -> None:
    assert "two SMILES, O and CC" in str(frame(tmp_path, "smiles=O smiles=CC")[0])
    assert frame(tmp_path, "smiles=O smiles=O")[0] is None


def test_columns_of_extended_xyz_before_the_position_are_refused(tmp_path: Path) -> None:
    numbered = "".join(f"{line[0]} 8{line[1:]}\n" for line in WATER.splitlines())
    assert "species:S:1:pos:R:3" in str(frame(tmp_path, "Properties=species:S:1:Z:I:1:pos:R:3", numbered)[0])
    assert frame(tmp_path, "Properties=species:S:1:pos:R:3:forces:R:3")[0] is None


@pytest.mark.parametrize("atoms", [WATER.replace(".", ","), "1 O 0 0 .1\n2 H 0 .7 -.4\n3 H 0 -.7 -.4\n"])
def test_a_line_whose_numbers_are_none_is_shown(tmp_path: Path, atoms: str) -> None:
    assert f"three numbers: {atoms.splitlines()[0]!r}" in str(frame(tmp_path, "", atoms)[0])
