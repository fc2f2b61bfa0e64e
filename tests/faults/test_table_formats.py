"""What one format knows, its siblings know: packing, encoding, line ends, empty rows, first bytes, standard input."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.conformers.formats import open_sources
from dnd.prediction.screen.chunks import check_inputs, read_candidates
from dnd.store.featurize import featurize_smiles
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig
from dnd.tables.molecules import as_molecules, open_molecules
from dnd.tables.sdf import parse_molblock

SDF = """{title}
  Own     01012512003D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.5000    0.0000    0.1000 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.2000    1.3000    0.0000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  2  3  1  0
M  END
{fields}$$$$
"""
ETHANOL = SDF.format(title="éthanol", fields="")
XYZ = "3\nsmiles=O µ\nO 0.000 0.000 0.119\nH 0.000 0.763 -0.477\nH 0.000 -0.763 -0.477\n"
TEXTS = {
    "a.csv": "smiles,name\nCCO,éthanol\n",
    "a.tsv": "smiles\tname\nCCO\téthanol\n",
    "a.smi": "CCO éthanol\n",
    "a.sdf": ETHANOL,
    "a.xyz": XYZ,
}
PACKED = {
    "plain": lambda text: text.encode(),
    "mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "utf-16": lambda text: text.encode("utf-16"),
    "utf-16 big": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "utf-16 without a mark": lambda text: text.encode("utf-16-le"),
    "utf-16 big without a mark": lambda text: text.encode("utf-16-be"),
    "utf-32": lambda text: text.encode("utf-32"),
    "utf-32 without a mark": lambda text: text.encode("utf-32-le"),
    "latin-1": lambda text: text.encode("latin-1"),
    "cr": lambda text: text.replace("\n", "\r").encode(),
    "crlf": lambda text: text.replace("\n", "\r\n").encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip of utf-16": lambda text: gzip.compress(text.encode("utf-16")),
}


def rows_of(path: Path | str) -> list[list[str]]:
    with open_molecules(path) as table:
        return [[row.smiles, *row.values.values()] for row in table]


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", TEXTS)
def test_every_format_in_every_packing(tmp_path: Path, name: str, packing: str):
    path = tmp_path / name
    path.write_bytes(PACKED[packing](TEXTS[name]))
    if name == "a.xyz":
        (record,) = open_sources([path])[0].records
        assert (record.problem, record.smiles) == (None, ("O",))
        return
    assert rows_of(path) == [["CCO", "CCO", "éthanol"]]
    if name != "a.sdf":
        check_inputs([path], None)
        assert [one.text for one in read_candidates([path], None)] == ["CCO"]
    (record,) = open_sources([path])[0].records
    assert record.problem is None


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("name", ["a.csv", "a.smi", "a.sdf"])
def test_standard_input_is_known_by_what_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, packing: str
):
    data = PACKED[packing](TEXTS[name])
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(data))))
    assert rows_of("-") == [["CCO", "CCO", "éthanol"]]


@pytest.mark.parametrize("name", ["a.sdf", "a.xyz", "a.csv"])
def test_prepare_knows_standard_input_too(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(TEXTS[name].encode()))))
    (source,) = open_sources(["-"])
    assert source.has_coordinates == (name != "a.csv")
    assert [record.problem for record in source.records] == [None]


@pytest.mark.parametrize("name", ["a.parquet", "a.csv", "-"])
def test_parquet_is_known_by_its_first_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    table = pa.table({"smiles": ["CCO", "CCN"], "y": [1.0, float("nan")], "z": pa.array([0.1, None], pa.float32())})
    stream = io.BytesIO()
    pq.write_table(table, stream)
    path: Path | str = name
    if name == "-":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stream.getvalue()))))
    else:
        path = tmp_path / name
        path.write_bytes(stream.getvalue())
    assert rows_of(path) == [["CCO", "CCO", "1.0", "0.1"], ["CCN", "CCN", "", ""]]


@pytest.mark.parametrize("name", ["a.sdf", "a.xyz"])
def test_parquet_under_another_name_is_refused_by_its_first_bytes(tmp_path: Path, name: str):
    pq.write_table(pa.table({"smiles": ["CCO"]}), tmp_path / name)
    with pytest.raises(InputError, match=r"is a Parquet file.*ends in \.parquet"):
        list(open_sources([tmp_path / name])[0].records)


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (gzip.compress(b"smiles\nCCO\n", mtime=0), "gzip inside of gzip"),
        (b"PK\x03\x04 rest of a workbook", "workbook inside of gzip"),
        (b"BZh91AY", "bzip2 archive inside of gzip"),
    ],
    ids=["gzip", "workbook", "bzip2"],  # the time in a gzip header is of each worker
)
def test_what_is_packed_twice_is_named(tmp_path: Path, data: bytes, found: str):
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(data))
    with pytest.raises(InputError, match=f"{found}.*Unpack it"):
        rows_of(tmp_path / "a.csv.gz")


def test_bytes_in_a_parquet_column_are_text(tmp_path: Path):
    columns = {"smiles": [b"CCO", b"CCN", None], "name": ["µ".encode(), "µ".encode("latin-1"), b""]}
    pq.write_table(pa.table({name: pa.array(cells, pa.binary()) for name, cells in columns.items()}), tmp_path / "a.pq")
    assert rows_of(tmp_path / "a.pq") == [["CCO", "CCO", "µ"], ["CCN", "CCN", "µ"], ["", "", ""]]


def test_a_data_field_that_a_record_has_twice_is_no_label(tmp_path: Path):
    fields = ">  <y>\n1\n\n>  <y>\n2\n\n>  <z>\n3\n\n>  <z>\n3\n\n"
    (tmp_path / "a.sdf").write_text(SDF.format(title="a", fields=fields))
    assert rows_of(tmp_path / "a.sdf") == [["CCO", "CCO", "a", "1\n2", "3"]]
    (record,) = open_sources([tmp_path / "a.sdf"], target_columns=["y"])[0].records
    assert record.problem == r"target y is not a finite number: '1\n2'"
    (record,) = open_sources([tmp_path / "a.sdf"], target_columns=["z"])[0].records
    assert record.problem is None
    assert record.targets == (3.0,)


def test_labels_beside_that_are_of_another_molecule_are_refused(tmp_path: Path):
    (tmp_path / "a.sdf").write_text(ETHANOL + ETHANOL)
    (tmp_path / "a.sdf.csv").write_text("smiles,y\nCCN,2\nOCC,1\n")
    first, second = open_sources([tmp_path / "a.sdf"], target_columns=["y"])[0].records
    assert first.problem == "its row of a.sdf.csv is another molecule: CCN"
    assert (second.problem, second.targets) == (None, (1.0,))


@pytest.mark.parametrize("name", ["a.xlsx", "a.xls", "a.csv"])
def test_a_workbook_is_answered_with_what_to_do(tmp_path: Path, name: str):
    (tmp_path / name).write_bytes(b"PK\x03\x04 rest of a workbook")
    for opened in (lambda: rows_of(tmp_path / name), lambda: open_sources([tmp_path / name])):
        with pytest.raises(InputError, match="CSV UTF-8"):
            opened()


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.tsv", "smiles\tname\nCCO\ta\n\t\nCCN\tc\n"), ("a.csv", "smiles,name\nCCO,a\n,\nCCN,c\n"),
     ("a.csv", "smiles;name\nCCO;a\n;\nCCN;c\n"), ("a.smi", "CCO a\n\t\nCCN c\n")],
)  # fmt: skip
def test_a_row_of_empty_cells_is_a_row(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text)
    assert rows_of(tmp_path / name) == [["CCO", "CCO", "a"], ["", "", ""], ["CCN", "CCN", "c"]]
    assert len(list(read_candidates([tmp_path / name], None))) == 3


def test_a_line_of_smi_without_smiles_keeps_its_name(tmp_path: Path):
    (tmp_path / "a.smi").write_text("CCO\tethanol\n\tCCCP\n  CCN  two words \n")
    assert rows_of(tmp_path / "a.smi") == [
        ["CCO", "CCO", "ethanol"], ["", "", "CCCP"], ["CCN", "CCN", "two words"],
    ]  # fmt: skip


def test_cxsmiles_is_read_in_both_formats(tmp_path: Path):
    texts = ["C[C@H](F)Cl |&1:1|", "C[C@H](F)Cl |a:1|", "C1=CC=CC=C1.*F |m:7:0.1.2|"]
    (tmp_path / "a.csv").write_text("smiles\n" + "\n".join(texts) + "\n")
    (tmp_path / "a.smi").write_text("".join(f"{text} name {n}\n" for n, text in enumerate(texts)))
    for name in ("a.csv", "a.smi"):
        assert [row[0] for row in rows_of(tmp_path / name)] == texts
    racemate, enantiomer, anywhere = map(parse_smiles, texts)
    assert racemate.ok
    assert enantiomer.ok
    assert (racemate.smiles, enantiomer.smiles) == ("CC(F)Cl", "C[C@H](F)Cl")
    assert not anywhere.ok
    assert [row[2] for row in rows_of(tmp_path / "a.smi")] == ["name 0", "name 1", "name 2"]


@pytest.mark.parametrize("mark", ["&1:1", "o1:1", "r", "r:0", "$;;a,b;$,r"])
def test_no_format_shows_the_configuration_of_a_racemate(tmp_path: Path, mark: str):
    assert parse_smiles(f"C[C@H](F)Cl |{mark}|").smiles == "CC(F)Cl"
    assert parse_smiles("C[C@H](F)Cl |$;r;;$,a:1|").smiles == "C[C@H](F)Cl"
    known = Chem.MolFromSmiles(f"C[C@H](F)Cl |{mark.replace('r:0', '&1:1')}|")
    if known.GetStereoGroups():
        assert as_molecules(known).texts == as_molecules([known]).texts == ["CC(F)Cl"]
        assert Chem.MolToSmiles(known) == "C[C@H](F)Cl"  # the caller's own stays as it is
        (tmp_path / "a.sdf").write_text(Chem.MolToV3KMolBlock(known) + "\n$$$$\n")
        assert rows_of(tmp_path / "a.sdf")[0][0] == "CC(F)Cl"
    one_of_two = Chem.MolFromSmiles("C[C@H](F)Cl.C[C@H](Br)Cl |a:1,&1:5|")
    assert as_molecules(one_of_two).texts == [parse_smiles("C[C@H](F)Cl.CC(Br)Cl").smiles]


@pytest.mark.parametrize(
    ("mark", "expected"),
    [
        ("r:0", "CC(F)Cl.C[C@H](Br)Cl.C[C@H](F)Br"),
        ("r:1", "C[C@H](F)Cl.CC(Br)Cl.C[C@H](F)Br"),
        ("r:0,2", "CC(F)Cl.C[C@H](Br)Cl.CC(F)Br"),
        ("r:2,a:1,5", "C[C@H](F)Cl.C[C@H](Br)Cl.CC(F)Br"),
        ("$;;;;;;a,r;;;;;$,r:1", "C[C@H](F)Cl.CC(Br)Cl.C[C@H](F)Br"),
        ("r:1,&1:1", "CC(F)Cl.CC(Br)Cl.C[C@H](F)Br"),
        ("r", "CC(F)Cl.CC(Br)Cl.CC(F)Br"),
        ("r:3", "CC(F)Cl.CC(Br)Cl.CC(F)Br"),  # there is no such molecule: nothing is claimed of any
        ("f:0.1,r:0", "CC(F)Cl.CC(Br)Cl.CC(F)Br"),  # grouped: it is not sure which are meant
    ],
)
def test_a_relative_configuration_is_that_of_the_molecules_it_names(mark: str, expected: str):
    text = "C[C@H](F)Cl.C[C@H](Br)Cl.C[C@H](F)Br"
    assert parse_smiles(f"{text} |{mark}|").smiles == parse_smiles(expected).smiles


WEDGED = """{title}
  by hand

  4  3  0  0{flag:3d}  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
    1.2000    0.7000    0.0000 C   0  0
   -1.2000    0.7000    0.0000 F   0  0
    0.0000   -1.4000    0.0000 Cl  0  0
  1  2  1  0
  1  3  1  1
  1  4  1  0
M  END
"""


def test_the_chiral_flag_of_a_mol_block_changes_nothing(tmp_path: Path):
    """By the format a flag of 0 is a racemate; most programs write 0 whatever they know, as the reference says."""
    absolute, relative = (parse_molblock(WEDGED.format(title="a", flag=flag)).outcome for flag in (1, 0))
    assert absolute.smiles == relative.smiles
    assert "@" in relative.smiles
    written = Chem.MolToMolBlock(Chem.MolFromSmiles(relative.smiles))
    assert written.splitlines()[3][12:15] == "  0"  # RDKit's own, of a molecule that it knows
    assert parse_molblock(written).outcome.smiles == relative.smiles
    (tmp_path / "a.sdf").write_text("".join(WEDGED.format(title="a", flag=flag) + "$$$$\n" for flag in (0, 1)))
    assert {row[0] for row in rows_of(tmp_path / "a.sdf")} == {relative.smiles}


@pytest.mark.parametrize("text", ["C:C", "CC:C", "C:O", "[H]:[H]", "c1ccccc1.C:C"])
def test_an_aromatic_bond_that_is_in_no_ring_is_refused(tmp_path: Path, text: str):
    found = parse_smiles(text)
    assert not found.ok
    assert (found.stage, found.reason) == ("chemistry", "an aromatic bond is not in a ring")
    assert {one.reason for one in featurize_smiles([text] * 40, "heavy_both")} == {found.reason}
    assert parse_smiles("C1:C:C:C:C:C1").smiles == parse_smiles("c1:c:c:c:c:c1").smiles == "c1ccccc1"
    assert parse_smiles("[CH3:1][CH3:2]").smiles == "CC"  # a map
    (tmp_path / "a.sdf").write_text(ETHANOL.replace("  1  2  1  0", "  1  2  4  0"))
    (record,) = open_sources([tmp_path / "a.sdf"])[0].records
    outcome = parse_molblock(record.molblock).outcome
    assert not outcome.ok
    assert outcome.reason == found.reason


def test_a_column_of_smiles_is_refused_where_no_input_has_one(tmp_path: Path):
    (tmp_path / "a.sdf").write_text(SDF.format(title="a", fields=">  <SMILES>\nc1ccccc1\n\n"))
    for opened in (
        lambda: rows_with(tmp_path / "a.sdf", "SMILES"),
        lambda: check_inputs([tmp_path / "a.sdf"], "SMILES"),
        lambda: prepare([tmp_path / "a.sdf"], tmp_path / "store", PrepareConfig(smiles_column="SMILES")),
    ):
        with pytest.raises(InputError, match="--smiles-column SMILES"):
            opened()
    (tmp_path / "a.smi").write_text("CCO a\n")
    assert len(rows_with(tmp_path / "a.smi", "smiles")) == 1


def rows_with(path: Path, smiles_column: str) -> list[str]:
    with open_molecules(path, smiles_column) as table:
        return [row.smiles for row in table]


# Labels in another record, and in a file beside.


def test_a_data_field_without_a_blank_line_behind_it_does_not_eat_the_next(tmp_path: Path):
    fields = ">  <y>\n1.5\n>  <z>\n2\n3\n> 7 <w> (7)\n\n>  <v>\n>4\n\n"
    (tmp_path / "a.sdf").write_text(SDF.format(title="a", fields=fields))
    with open_molecules(tmp_path / "a.sdf") as table:
        (row,) = table
    assert {name: row.values[name] for name in "yzwv"} == {"y": "1.5", "z": "2\n3", "w": "", "v": ">4"}


def test_a_data_field_that_the_first_record_lacks_is_read(tmp_path: Path):
    records = [SDF.format(title=name, fields=field) for name, field in (("a", ""), ("b", ">  <y>\n1,5\n\n"))]
    (tmp_path / "a.sdf").write_text("".join(records * 60))
    found = list(open_sources([tmp_path / "a.sdf"], target_columns=["y"])[0].records)
    assert [record.targets[0] for record in found[1::2]] == [1.5] * 60
    late = "".join([records[0]] * 150 + [records[1]])
    (tmp_path / "late.sdf").write_text(late)
    assert list(open_sources([tmp_path / "late.sdf"], target_columns=["y"])[0].records)[-1].targets == (1.5,)


def beside(tmp_path: Path, titles: str, table: str) -> list[tuple[float, str | None]]:
    (tmp_path / "a.sdf").write_text("".join(SDF.format(title=title, fields="") for title in titles))
    (tmp_path / "a.sdf.csv").write_text(table)
    found = open_sources([tmp_path / "a.sdf"], target_columns=["y"])[0].records
    return [(record.targets[0], record.problem) for record in found]


def test_labels_beside_are_joined_by_id(tmp_path: Path):
    found = beside(tmp_path, "abc", "\ufeffmol_id;y\nc;3,5\nb;2,5\nx;9,5\n")
    assert found[1:] == [(2.5, None), (3.5, None)]
    assert "no row 'a'" in str(found[0][1])
    with pytest.raises(InputError, match="a repeated or an empty id"):
        beside(tmp_path, "ab", "id,y\na,1\na,2\n")


def test_labels_beside_without_ids_need_as_many_rows(tmp_path: Path):
    assert beside(tmp_path, "ab", "y,z\n1,5\n2,6\n") == [(1.0, None), (2.0, None)]
    with pytest.raises(InputError, match="3 records and 2 rows"):
        beside(tmp_path, "abc", "y,z\n1,5\n2,6\n")


def test_labels_are_in_the_fields_or_beside_and_not_in_both(tmp_path: Path):
    """A record without the field would have no label, though the table beside has one for it."""
    fields = ">  <y>\n1\n\n"
    (tmp_path / "a.sdf").write_text(SDF.format(title="a", fields=fields) + SDF.format(title="b", fields=""))
    (tmp_path / "a.sdf.csv").write_text("id,y\na,1\nb,2\n")
    with pytest.raises(InputError, match=r"'y' is a data field of a.sdf and a column of a.sdf.csv: found record 1"):
        open_sources([tmp_path / "a.sdf"], target_columns=["y"])
    (tmp_path / "a.sdf.csv").write_text("id,z\na,1\nb,2\n")
    found = list(open_sources([tmp_path / "a.sdf"], target_columns=["y"])[0].records)
    assert [np.isnan(record.targets[0]) for record in found] == [False, True]
    (tmp_path / "a.sdf").write_text(SDF.format(title="a", fields=fields) * 2)
    (tmp_path / "a.sdf.csv").write_text("id,y\na,1\nb,2\n")
    found = list(open_sources([tmp_path / "a.sdf"], target_columns=["y"])[0].records)
    assert [record.targets for record in found] == [(1.0,), (1.0,)]
