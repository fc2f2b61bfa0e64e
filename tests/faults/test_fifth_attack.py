"""What a fifth attack from the documentation found: where two routes to one thing, or two names, meet."""

from __future__ import annotations

import csv
import gzip
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem
from typer.testing import CliRunner

import dnd
from dnd.chemistry.parse import parse_smiles
from dnd.cli.main import build_app
from dnd.common.errors import InputError
from dnd.common.runs import require_same_run, write_run_record
from dnd.conformers.formats import open_sdf
from dnd.finetuning.check_data import check_data
from dnd.finetuning.splits import index_split, ordered_split
from dnd.graphs.fast.graphs import rewrite
from dnd.prediction.evaluate import evaluate_file
from dnd.prediction.files import predict_file
from dnd.predictor.predictor import Predictor
from dnd.report.explain import explain_file
from dnd.tables.labels import LabelRules, read_column
from dnd.tables.molecules import as_molecules, open_molecules
from dnd.tables.sdf import parse_molblock
from finetuning_toys import heavy_atoms, molecules, tiny_model, write_regression

V2000 = """t
  Own

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.5000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.2000    1.3000    0.0000 {symbol:<3} 0  0  0{hydrogens:3d}  0  0  0  0  0  0  0  0
  1  2  1  0
  2  3{bond:3d}  0
{lines}M  END
"""
V3000 = """t
  Own

  0  0  0     0  0            999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 3 2 0 0 0
M  V30 BEGIN ATOM
M  V30 1 C 0 0 0 0
M  V30 2 C 1.5 0 0 0
M  V30 3 {atom}
M  V30 END ATOM
M  V30 BEGIN BOND
M  V30 1 1 1 2
M  V30 2 {bond}
M  V30 END BOND
{lines}M  V30 END CTAB
M  END
"""


def v2000(symbol: str = "O", *, bond: int = 1, hydrogens: int = 0, lines: str = "") -> str:
    return V2000.format(symbol=symbol, bond=bond, hydrogens=hydrogens, lines=lines)


def v3000(atom: str = "O 2.2 1.3 0 0", bond: str = "1 2 3", lines: str = "") -> str:
    return V3000.format(atom=atom, bond=bond, lines=lines)


# What a molecule says beside its atoms and bonds: a query, a point of attachment and a polymer are no molecules.

NO_MOLECULES = {
    "old list": v2000("L", lines="  3 F    2   8   7\\n".replace("\\n", "\n")),
    "list": v2000("L", lines="M  ALS   3  2 F O   N   \n"),
    "hetero": v2000("Q"),
    "halogen": v2000("X"),
    "hydrogens": v2000(hydrogens=1),
    "neighbours": v2000(lines="M  SUB  1   3   2\n"),
    "bond": v2000(bond=5),
    "attachment": v2000(lines="M  APO  1   3   1\n"),
    "polymer": v2000(lines="M  STY  1   1 SRU\nM  SAL   1  1   2\nM  SBL   1  2   1   2\nM  SMT   1 n\n"),
    "V3000 list": v3000("[O,N] 2.2 1.3 0 0"),
    "V3000 no list": v3000("NOT[O,N] 2.2 1.3 0 0"),
    "V3000 hydrogens": v3000("O 2.2 1.3 0 0 HCOUNT=1"),
    "V3000 attachment": v3000("O 2.2 1.3 0 0 ATTCHPT=1"),
    "V3000 link": v3000(lines="M  V30 LINKNODE 1 3 2 2 1 2 3\n"),
    "V3000 several ends": v3000(bond="1 2 3 ENDPTS=(2 1 2) ATTACH=ANY"),
}


@pytest.mark.parametrize("block", NO_MOLECULES.values(), ids=NO_MOLECULES)
def test_a_query_or_a_part_in_a_mol_block_is_no_molecule(block: str) -> None:
    """`[O,N]` was read as oxygen, an ethoxy group as ethanol, a hydrogen count as a radical, a polymer as its unit."""
    outcome = parse_molblock(block).outcome
    assert not outcome.ok
    assert "molecule" in outcome.reason
    mol = Chem.MolFromMolBlock(block)
    if mol is not None:  # the same from Python
        assert as_molecules([mol]).problems[0]


@pytest.mark.parametrize(
    ("block", "smiles"),
    [
        (v2000(), "CCO"),
        (v2000("A"), "*CC"),
        (v2000("*"), "*CC"),
        (v2000("R#"), "*CC"),
        (v2000("D"), "[2H]CC"),
        (v2000(lines="M  STY  1   1 SUP\nM  SAL   1  1   3\nM  SBL   1  1   2\nM  SMT   1 OH\n"), "CCO"),
        (v3000(), "CCO"),
    ],
)
def test_dummies_and_abbreviations_stay(block: str, smiles: str) -> None:
    outcome = parse_molblock(block).outcome
    assert outcome.ok, outcome
    assert outcome.smiles == smiles


@pytest.mark.parametrize("text", ["CCO |$;;_AP1$|", "*CO |$Q_e;;$|", "*CO |$X_e;;$|", "CCO |u:1|", "CCO |s:1:2|"])
def test_a_query_or_a_part_in_cxsmiles_is_no_molecule(text: str) -> None:
    assert not parse_smiles(text).ok
    assert rewrite(text) is None


def test_a_molecule_of_smarts_is_a_query() -> None:
    """From Python `[C,N]O` was predicted as `CO`."""
    given = as_molecules([Chem.MolFromSmarts("[C,N]O"), Chem.MolFromSmiles("CO"), Chem.MolFromSmiles("*O")])
    assert given.texts == ["", "CO", "*O"]
    assert "query" in given.problems[0]


# One table, whatever it is packed in and whoever reads it.


def test_utf_32_with_the_longer_byte_first_needs_no_mark(tmp_path: Path) -> None:
    """It was read as Latin-1 with zeros: no row had a molecule, exit code 0."""
    (tmp_path / "in.csv").write_bytes("smiles,y\nCCO,1\n".encode("utf-32-be"))
    with open_molecules(tmp_path / "in.csv") as table:
        assert [row.smiles for row in table] == ["CCO"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("fifth"))


@pytest.mark.parametrize(("out", "mark"), [("out.tsv", ","), ("out.csv", ".")])
def test_tsv_keeps_its_decimal_commas(tmp_path: Path, model: Path, out: str, mark: str) -> None:
    """Predictions had points beside the user's commas, though not where the same table had another ending."""
    (tmp_path / "in.tsv").write_text("smiles\tz\nCCO\t1,5\nCCN\t2,25\n")
    predict_file(Predictor.load(model, device="cpu"), tmp_path / "in.tsv", str(tmp_path / out))
    with (tmp_path / out).open(newline="") as stream:
        row = next(csv.DictReader(stream, delimiter="\t" if out.endswith("tsv") else ","))
    assert row["z"] == "1,5"
    value = next(value for name, value in row.items() if name.endswith("_pred"))
    assert mark in value


def test_labels_beside_a_packed_sdf_have_the_same_name(tmp_path: Path) -> None:
    block = v2000() + "$$$$\n"
    (tmp_path / "a.sdf.gz").write_bytes(gzip.compress(block.encode()))
    (tmp_path / "a.sdf.csv").write_text("id,y\nt,1.5\n")
    assert [record.targets for record in open_sdf(tmp_path / "a.sdf.gz", ["y"]).records] == [(1.5,)]
    shutil.copy(tmp_path / "a.sdf.csv", tmp_path / "a.sdf.gz.csv")
    with pytest.raises(InputError, match="two tables may hold the labels"):
        open_sdf(tmp_path / "a.sdf.gz", ["y"])


# Columns.


def test_columns_of_pandas_may_be_numbers() -> None:
    """`smiles_column=0` was refused with `found 0, 1`."""
    frame = pd.DataFrame([["x", "CCO"], ["y", "CCN"]])
    assert as_molecules(frame, 1).texts == ["CCO", "CCN"]  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [["CCO"], np.array(["CCO"]), pd.Series(["CCO"]), "CCO", Chem.MolFromSmiles("CCO")])
def test_a_column_of_what_has_none_is_refused(given: object) -> None:
    with pytest.raises(InputError, match="no column 'x'"):
        as_molecules(given, "x")
    assert as_molecules(pd.Series(["CCO"], name="x"), "x").texts == ["CCO"]


def test_columns_with_commas_between_are_counted_before_they_are_judged(tmp_path: Path, model: Path) -> None:
    """`--target-columns z,y` of a model of one target judged `z` and said nothing of `y`."""
    (tmp_path / "in.csv").write_text("smiles,y,z\nCCO,1,5\nCCN,2,6\n")
    predictor = Predictor.load(model, device="cpu")
    with pytest.raises(InputError, match="differ in number"):
        evaluate_file(predictor, tmp_path / "in.csv", target_columns=["z,y"])
    assert evaluate_file(predictor, tmp_path / "in.csv", target_columns=["z"])["molecules"] == 2


@pytest.mark.parametrize("name", ["error", "in_domain", "row"])
def test_check_names_no_target_that_finetune_refuses(tmp_path: Path, name: str) -> None:
    rows = [f"{text},{heavy_atoms(text)}" for text in molecules()]
    (tmp_path / "in.csv").write_text(f"smiles,{name}\n" + "\n".join(rows) + "\n")
    facts = check_data(tmp_path / "in.csv", target_columns=[name])
    assert "would both have a column" in facts.targets[0].problem


def test_check_refuses_targets_whose_outputs_are_the_same(tmp_path: Path) -> None:
    rows = [f"{text},{heavy_atoms(text)},{heavy_atoms(text) ** 2}" for text in molecules()]
    (tmp_path / "in.csv").write_text("smiles,y,y_pred\n" + "\n".join(rows) + "\n")
    facts = check_data(tmp_path / "in.csv", target_columns=["y", "y_pred"])
    assert "would both have a column 'y_pred'" in facts.split_problem


def test_check_names_no_column_that_is_there_twice(tmp_path: Path) -> None:
    """Its next line was refused by `finetune`."""
    rows = [f"{text},{heavy_atoms(text)},{heavy_atoms(text) ** 2}" for text in molecules()]
    (tmp_path / "in.csv").write_text("smiles,y,y\n" + "\n".join(rows) + "\n")
    facts = check_data(tmp_path / "in.csv")
    assert facts.chosen == ("y.2",)
    assert "several columns" in facts.others["y"]


def test_a_number_of_another_kind_is_no_header(tmp_path: Path) -> None:
    """`5e1` in the first line has a letter, and its row was left out."""
    for name, text in (("a", "0\n1\n"), ("b", "2\n"), ("c", "3e0\n4\n")):
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="found '3e0'"):
        index_split([tmp_path / name for name in "abc"], np.arange(9))


def test_whole_numbers_are_whole_with_a_point_too() -> None:
    """Two classes became one, as `9007199254740993` alone did once."""
    cells = ["9007199254740993.0", "9007199254740992.0", "1.0"]
    with pytest.raises(InputError, match="beyond 2\\^53"):
        read_column(cells, places=[2, 3, 4], column="y", rules=LabelRules())
    floats = ["1.2345678901234567e20", "9007199254740992.0", "0.5"]  # as programs write floats
    assert read_column(floats, places=[2, 3, 4], column="y", rules=LabelRules()).values[0] == 1.2345678901234567e20


def test_a_column_of_one_time_has_no_order() -> None:
    """The rows were dealt in the order of the file, as if it were time."""
    split, _ = ordered_split(["2020-01-01"] * 60)
    assert [len(part) for part in split.parts().values()] == [60, 0, 0]


# Folders and files.


def test_explain_writes_no_pictures_into_a_model(model: Path) -> None:
    before = sorted(model.iterdir())
    with pytest.raises(InputError, match="finished folder"):
        explain_file(Predictor.load(model, device="cpu"), "CCO", model)
    assert sorted(model.iterdir()) == before


def test_the_log_is_not_the_output(tmp_path: Path, model: Path) -> None:
    """The predictions took the place of the log."""
    out = str(tmp_path / "out.csv")
    words = ["predict", "CCO", "-m", str(model), "-o", out, "--log-file", out]
    result = CliRunner().invoke(build_app("predict"), words)
    assert "would both be" in str(result.exception)
    assert not (tmp_path / "out.csv").exists()


def test_predictions_are_those_of_the_molecule_alone(model: Path) -> None:
    """A query among molecules costs its row only."""
    table = dnd.predict([Chem.MolFromSmarts("[C,N]O"), Chem.MolFromSmiles("CCO")], model).to_pandas()
    assert "query" in table["error"][0]
    assert table["error"][1] == ""


def test_a_run_of_another_verb_is_named(tmp_path: Path) -> None:
    """`denoise --resume --allow-change` took up a finetuning, and advised to copy the folder again."""
    student = {"data": "a.csv", "encoder": None, "settings": {"loop": {"epochs": 1}, "loss": "l1", "task": "auto"}}
    write_run_record(tmp_path, student)
    for allow in (False, True):
        with pytest.raises(InputError, match="a run of another command"):
            require_same_run(tmp_path, {"store": "s", "settings": {"loop": {}, "base": "x"}}, allow_change=allow)
    assert require_same_run(tmp_path, {**student, "data": "b.csv"}, allow_change=True)


# The streams and limits that a command is started with.


def started(line: str, *, limits: str = "", folder: Path) -> subprocess.CompletedProcess[str]:
    """A command line of `dnd` in a shell of its own, `dnd` standing for the command."""
    command = line.replace("dnd ", f"{shlex.quote(sys.executable)} -P -m dnd ")
    shell = ["bash", "-o", "pipefail", "-c", f"{limits}\n{command}"]
    return subprocess.run(shell, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_a_closed_stream_is_named_or_not_missed(tmp_path: Path, model: Path) -> None:
    """Each was an internal error; a file might take the place of the closed stream."""
    said = started(f"dnd predict CCO -m {model} >&-", folder=tmp_path)
    assert said.returncode == 2
    assert "standard output is closed" in said.stderr
    said = started(f"dnd predict - -m {model} <&-", folder=tmp_path)
    assert said.returncode == 2
    assert "standard input is closed" in said.stderr
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    said = started(f"dnd screen in.csv -m {model} -o out --jobs 1 <&- >&- 2>&-", folder=tmp_path)
    assert said.returncode == 0
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("words", ["predict in.smi -m {model}", "--help", "info"])
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, model: Path, words: str) -> None:
    """`| head` gave the exit code of an internal error, without a word."""
    (tmp_path / "in.smi").write_text("CCO\n" * 3000)
    said = started(f"dnd {words.format(model=model)} | true", folder=tmp_path)
    assert said.returncode == 0, said.stderr


def test_a_training_goes_on_when_nobody_reads(tmp_path: Path) -> None:
    """The first line that could not be written ended it."""
    write_regression(tmp_path)
    words = "--recipe small baselines=false student.name=gine student.width=16 student.num_layers=2 loop.epochs=1"
    line = f"dnd finetune toy.csv -o out --target-columns size {words} --encoder random --split random | true"
    said = started(line, folder=tmp_path)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_limit_on_memory_that_is_set_already_stays(tmp_path: Path, model: Path) -> None:
    """Workers tried to raise it and did not start."""
    (tmp_path / "in.csv").write_text("smiles\nCCO\n")
    said = started(f"dnd screen in.csv -m {model} -o out --jobs 1", limits="ulimit -v 3000000", folder=tmp_path)
    assert said.returncode == 0, said.stderr
