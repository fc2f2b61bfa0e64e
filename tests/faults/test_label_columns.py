"""One reader of labels: numbers as people write them, words for missing ones, limits, placeholders, classes."""

from __future__ import annotations

import math
import shlex
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.cli.check import check_lines
from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.check_data import check_data, first_look
from dnd.finetuning.finetune import _plan
from dnd.finetuning.labelled_data import LabelledFile, read_labelled
from dnd.finetuning.objective import ValueLoss, beyond_limits, masked_values
from dnd.prediction.evaluate import evaluate_file
from dnd.predictor.predictor import Predictor
from dnd.report.model_report import write_model_report
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig
from dnd.tables.labels import LabelColumn, LabelRules, Notation, read_column, settle_notation
from dnd.tables.writers import csv_rows
from finetuning_toys import heavy_atoms, molecules, quietly, tiny_config, write_csv

NAN = math.nan


def column(*cells: str, comma_file: bool = False, **rules: object) -> LabelColumn:
    places = range(2, len(cells) + 2)
    return read_column(cells, places=places, column="y", rules=LabelRules(**rules), comma_file=comma_file)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1.5", " -2e3 ", "+3", ".5", "5."], [1.5, -2000.0, 3.0, 0.5, 5.0]),
        (["1,5", "-0,02", "1,2e-3"], [1.5, -0.02, 0.0012]),
        (["\u22121,5", "\u22122"], [-1.5, -2.0]),  # the minus of a word processor
        (["7,079.5", "871.0", "1,234"], [7079.5, 871.0, 1234.0]),
        (["1.234,5", "871", "12,5"], [1234.5, 871.0, 12.5]),
        (["1 234,5", "5,5", "1\u00a0000"], [1234.5, 5.5, 1000.0]),
        (["1'234.5", "2"], [1234.5, 2.0]),
        (["0,123", "0,5"], [0.123, 0.5]),
        (["1,234,567", "2"], [1234567.0, 2.0]),
        (["1", "", "n.d.", "BLQ", "#N/A", "nan", "?"], [1.0, NAN, NAN, NAN, NAN, NAN, NAN]),
        (["1,5", "n.b.", "k.A.", "#NV", "#WERT!", "#BEZUG!", "#ZAHL!"], [1.5, NAN, NAN, NAN, NAN, NAN, NAN]),
    ],
)
def test_numbers(cells: list[str], values: list[float]):
    found = column(*cells)
    assert found.words == ()
    assert np.array_equal(found.values, values, equal_nan=True)


@pytest.mark.parametrize(
    "bad",
    ["inf", "-Infinity", "1e39", "1e400", "9007199254740993", "1_000", "0x10", "yes", "TRUE", "high", ">10", "5%",
     "1.2.3", "1,2,3", "\u0663", "5 mg"],
)  # fmt: skip
def test_a_cell_that_is_no_number_is_refused_with_its_row(bad: str):
    with pytest.raises(InputError, match=r"column y: 1 cell is not a number") as error:
        column("1", "2.5", bad, "3")
    assert f"{bad!r} (row 4" in str(error.value)


def test_all_bad_cells_are_in_one_message_with_the_options_that_help():
    with pytest.raises(InputError) as error:
        column("1", "a", "a", "b", "<0.1", "c", "d", "1")
    line = str(error.value)
    assert "6 of 8 cells are not numbers" in line
    assert "'a' (2 times, first in row 3); 'b' (row 5); '<0.1' (row 6) and 2 others" in line
    assert "--missing a" in line
    assert "--censored keep, drop or limit" in line


def test_a_comma_that_may_be_either_is_not_guessed():
    with pytest.raises(InputError, match="--decimal comma or --decimal point"):
        column("1,234", "2,345")
    assert column("1,234", "2,345", comma_file=True).values == [1.234, 2.345]
    assert column("1,234", "2,345", decimal="point").values == [1234.0, 2345.0]
    assert column("1,234", "2,345", decimal="comma").values == [1.234, 2.345]
    with pytest.raises(InputError, match="'1,5'"):  # a slip among decimal points is no reason to read 1.234 as 1234
        column("1.234", "1,5", "2.345")


def test_whole_numbers_are_exact_or_refused():
    assert column("9007199254740992", "16777217", "-9007199254740994").values == [2.0**53, 16777217.0, -(2.0**53) - 2]


def test_percent_is_a_unit():
    found = column("93.5%", "13.4 %")
    assert (found.values, found.unit) == ([93.5, 13.4], "%")
    with pytest.raises(InputError, match="with and without %"):
        column("93.5%", "13.4%", "0.5")


@pytest.mark.parametrize(
    "cells", [["10 nM", "2.5 nM"], ["1,5 µM", "3µM"], ["5 mg/mL", "<3 mg/mL"], ["20 °C", "-5 °C"], ["5 mg", "3 mg"]]
)
def test_numbers_with_units_are_no_classes(cells: list[str]):
    with pytest.raises(InputError, match=r"column y holds numbers with their units.*'y \(nM\)'"):
        column(*cells)


@pytest.mark.parametrize("cells", [["phase 1", "phase 2"], ["1 star", "2 stars"], ["1-2", "2-3"]])
def test_classes_may_begin_with_a_number(cells: list[str]):
    assert column(*cells).words == tuple(cells)


@pytest.mark.parametrize("choice", ["keep", "drop", "limit"])
def test_a_limit_is_no_class(choice: str):
    with pytest.raises(InputError, match=r"column y has limits, and two values only.*'>1'"):
        column("0", "1", ">1", censored=choice)


def test_limits():
    cells = (">10", "<0,1", "\u226520", "1,5")
    assert column(*cells, censored="keep").sides == [1, -1, 1, 0]
    assert column(*cells, censored="keep").values == [10.0, 0.1, 20.0, 1.5]
    assert (column(*cells, censored="limit").values, column(*cells, censored="limit").sides) == (
        [10.0, 0.1, 20.0, 1.5],
        [0] * 4,
    )
    assert np.array_equal(column(*cells, censored="drop").values, [NAN, NAN, NAN, 1.5], equal_nan=True)
    assert "2 above and 1 below" in " ".join(column(*cells, censored="drop").notes)


@pytest.mark.parametrize("text", ["-999", "-999.0", "9999", "-999,00"])
def test_a_placeholder_stops_or_is_missing_or_was_measured(text: str):
    cells = ("1,5", "2,5", text, text) if "," in text else ("1.5", "2.5", text, text)
    with pytest.raises(InputError, match=rf"placeholder.*{text}.*2 times, first in row 4.*--missing"):
        column(*cells)
    assert np.isnan(column(*cells, missing=(text.split(".")[0].split(",")[0],)).values[2:]).all()
    assert len(set(column(*cells, measured=(text.split(".")[0].split(",")[0],)).values)) == 3
    with pytest.raises(ConfigError, match="both missing and measured"):
        LabelRules(missing=("-999",), measured=("-999",))


def test_a_value_of_nines_among_others_like_it_is_a_value():
    assert column("9999", "63000", "1").values == [9999.0, 63000.0, 1.0]


def test_a_class_may_have_any_name():
    found = column("none", "mild", "none", "severe", "")
    assert found.words == ("mild", "none", "severe")
    assert np.array_equal(found.values, [1, 0, 1, 2, NAN], equal_nan=True)
    assert "'none' is a class of y, 2 times" in found.notes[0]
    without = column("none", "mild", "severe", missing=("none",))
    assert without.words == ("mild", "severe")
    assert "'none' 1" in without.notes[0]


def test_letter_case_and_blanks_make_no_class():
    found = column("High", "HIGH", "high ", "High", "low", "very  low", "Very low", "low", "very  low")
    assert found.words == ("High", "low", "very low")
    assert found.values == [0, 0, 0, 0, 1, 2, 2, 1, 2]


@pytest.mark.parametrize(
    ("cells", "words"),
    [(("Yes", "No", "yes"), ("No", "Yes")), (("Y", "N"), ("N", "Y")), (("active", "inactive"), ("inactive", "active")),
     (("TRUE", "FALSE"), ("FALSE", "TRUE")), (("+", "-"), ("-", "+")), (("high", "low"), ("low", "high"))],
)  # fmt: skip
def test_the_second_of_two_classes_is_the_one_that_is_meant(cells: tuple[str, ...], words: tuple[str, str]):
    assert tuple(word.lower() for word in column(*cells).words) == tuple(word.lower() for word in words)


def test_beside_a_pair_a_word_for_missing_is_missing_and_counted():
    found = column("yes", "no", "N/A")
    assert found.words == ("no", "yes")
    assert math.isnan(found.values[2])
    assert "'N/A' 1" in found.notes[0]


def test_long_cells_take_no_time():
    start = time.perf_counter()
    worst = ["1" + ",234" * 250_000, "9" * 1_000_000, "1" + " 234" * 15 + "x", ">" + " " * 1_000_000, "-" * 1_000_000]
    settle_notation(worst, "y")
    assert [Notation("point", True).read(text) for text in worst] == [None] * 5
    assert time.perf_counter() - start < 1


# The same in the verbs.


def test_a_word_among_numbers_is_refused_by_finetune_and_rejected_by_prepare(tmp_path: Path):
    smiles = molecules()
    cells = [f"{place}.5" for place in range(len(smiles) - 3)]
    data = write_csv(tmp_path / "t.csv", {"smiles": smiles, "y": [*cells, "no", "yes", "TRUE"]})
    with pytest.raises(InputError, match="3 of 54 cells"):
        read_labelled(data, ["y"], "heavy_both")
    summary = prepare([data], tmp_path / "store", PrepareConfig(target_columns=("y",)))
    assert summary.rejected == {"read: target y is not a finite number": 3}


def test_prepare_keeps_numbers_as_finetune_reads_them_or_rejects_them(tmp_path: Path):
    data = tmp_path / "t.csv"
    data.write_text(
        "id;smiles;y\n1;CCO;1,5\n2;CCN;n.d.\n3;CCC;1e39\n4;CCCC;16777217\n5;CCCCC;1_000\n6;CC;>3\n7;CO;-2\n"
    )
    summary = prepare([data], tmp_path / "store", PrepareConfig(target_columns=("y",)))
    assert np.array_equal(Store.open(tmp_path / "store").targets[:, 0], [1.5, NAN, -2], equal_nan=True)
    assert sum(summary.rejected.values()) == 4


SPELLINGS = {"word": ("No", "Yes"), "sign": ("-1", "1"), "number": ("1", "2"), "zero": ("0", "1")}


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One property of the molecules in four spellings, learned together."""
    folder = tmp_path_factory.mktemp("binary")
    place = [int("c1" in text) for text in molecules()]
    spelled = {name: [pair[one] for one in place] for name, pair in SPELLINGS.items()}
    spelled["word"] = [" yes" if text == "Yes" and row % 9 == 0 else text for row, text in enumerate(spelled["word"])]
    data = write_csv(folder / "t.csv", {"smiles": molecules(), **spelled})
    quietly(data, folder / "model", list(SPELLINGS))
    return folder


def test_two_classes_are_one_task_in_every_spelling_and_keep_their_words(binary: Path):
    model = Predictor.load(binary / "model")
    assert model.kind == "classification"
    found = model.predict(["CCO", "c1ccccc1", "no molecule"])
    for name, pair in list(SPELLINGS.items())[:3]:
        assert set(found[f"{name}_pred"][:2]) <= set(pair)
        assert found[f"{name}_pred"][2] == ""
        chance = found[f"{name}_prob_{pair[1]}"][:2]
        assert np.allclose(chance + found[f"{name}_prob_{pair[0]}"][:2], 1)
        assert [pair[int(value > 0.5)] for value in chance] == found[f"{name}_pred"][:2]
    assert 0 <= found["zero_pred"][0] <= 1  # the user's 0 and 1 are a probability, as ever
    rows = csv_rows(binary / "model" / "test_predictions.csv")
    assert {row["sign"] for row in rows} <= {"-1", "1"}
    assert {row["word"] for row in rows} <= {"No", "Yes"}


def test_the_report_and_evaluate_read_the_words(binary: Path, tmp_path: Path):
    assert "word" in write_model_report(binary / "model").read_text()
    model = Predictor.load(binary / "model")
    scores = evaluate_file(model, binary / "t.csv")["targets"]
    assert all(0 <= scores[name]["rocauc"] <= 1 for name in SPELLINGS)
    other = write_csv(tmp_path / "o.csv", {"smiles": ["CCO", "CCN"], "word": ["YES", "no"]})
    assert evaluate_file(model, other, target_columns=[])["molecules"] == 2
    wrong = write_csv(tmp_path / "w.csv", {"smiles": ["CCO", "CCN"], "word": ["yes", "perhaps"]})
    with pytest.raises(InputError, match="not a class of the model: found perhaps"):
        evaluate_file(model, wrong)


@pytest.mark.parametrize("loss", ["l1", "huber", "mse"])
def test_a_prediction_beyond_a_limit_costs_nothing(loss: ValueLoss):
    outputs = torch.tensor([[12.0], [8.0], [12.0], [8.0], [12.0], [1.0]], requires_grad=True)
    targets = torch.tensor([[10.0], [10.0], [10.0], [10.0], [10.0], [NAN]])
    sides = torch.tensor([[1], [1], [-1], [-1], [0], [1]])
    masked_values(outputs, beyond_limits(outputs, targets, sides), loss).backward()
    plain = torch.tensor([[8.0], [12.0], [12.0]], requires_grad=True)
    masked_values(plain, torch.full((3, 1), 10.0), loss).backward()
    pulled = outputs.grad[:, 0] * 5  # of five labels; below it is one of three
    assert pulled[[0, 3, 5]].tolist() == [0.0, 0.0, 0.0]
    assert pulled[[1, 2, 4]].tolist() == pytest.approx((plain.grad[:, 0] * 3).tolist())


def test_limits_teach_and_do_not_judge(tmp_path: Path):
    """A hinge: beyond its limit a prediction costs nothing, so far limits pull less than the same numbers do."""
    smiles = molecules()
    sizes = [heavy_atoms(text) for text in smiles]
    middle = sorted(sizes)[len(sizes) // 2]
    cells = [f">{middle}" if size > middle else str(size) for size in sizes]
    data = write_csv(tmp_path / "t.csv", {"smiles": smiles, "y": cells})
    with pytest.raises(InputError, match="--censored keep, drop or limit"):
        quietly(data, tmp_path / "none", ["y"])
    counts = {}
    for choice in ("keep", "drop", "limit"):
        found = quietly(data, tmp_path / choice, ["y"], f"labels.censored={choice}").metrics
        counts[choice] = (found["counts"]["labels"], found["counts"].get("censored_labels", 0))
    limits = sum(size > middle for size in sizes)
    assert counts == {"keep": (54, limits), "drop": (54 - limits, 0), "limit": (54, 0)}
    rows = csv_rows(tmp_path / "keep" / "test_predictions.csv")
    assert all((row["y"] == "") == (heavy_atoms(row["smiles"]) > middle) for row in rows)
    again = evaluate_file(Predictor.load(tmp_path / "keep"), data)  # as it was said in training
    assert again["molecules"] == 54


def test_the_model_says_whether_few_labels_are_values(tmp_path: Path):
    """Two values with a limit among them looked like classes, whatever the model was of."""
    values = {"smiles": molecules(), "y": [float(heavy_atoms(text)) for text in molecules()]}
    quietly(write_csv(tmp_path / "t.csv", values), tmp_path / "m", ["y"], "labels.censored=keep")
    few = write_csv(tmp_path / "few.csv", {"smiles": ["CCO", "CCN", "CCC"], "y": [">5", "4", "4"]})
    found = evaluate_file(Predictor.load(tmp_path / "m"), few)
    assert (found["task"], found["molecules"]) == ("regression", 3)
    words = write_csv(tmp_path / "words.csv", {"smiles": ["CCO", "CCN"], "y": ["low", "high"]})
    with pytest.raises(InputError, match=r"column y: 2 of 2 cells are not numbers.*'low' \(row 2\)"):
        evaluate_file(Predictor.load(tmp_path / "m"), words)


def test_the_model_says_which_words_of_few_labels_are_classes(tmp_path: Path):
    """Many classes of a small file were no classes, and `none` beside low and high was no label."""
    smiles, grades = molecules(), ["none", "low", "medium", "high", *(f"grade {number}" for number in range(9))]
    table = {"smiles": smiles, "y": [grades[row % len(grades)] for row in range(len(smiles))]}
    quietly(write_csv(tmp_path / "t.csv", table), tmp_path / "m", ["y"])
    model = Predictor.load(tmp_path / "m")
    assert sorted(model.targets[column].class_name for column in range(len(grades))) == sorted(grades)
    for cells in (grades, ["none", "low", "high"], ["none"]):
        few = write_csv(tmp_path / "few.csv", {"smiles": smiles[: len(cells)], "y": cells})
        assert evaluate_file(model, few)["molecules"] == len(cells)


@pytest.mark.parametrize("row", [4, 12])
def test_the_first_look_splits_the_rows_that_the_finetuning_splits(tmp_path: Path, row: int):
    """It split those without a label too, and refused a word of a molecule that is in the test part."""
    cells: list[object] = [heavy_atoms(text) for text in molecules()]
    cells[1::3] = ["tbd"] * len(cells[1::3])
    cells[row] = "junk"
    data, rule = write_csv(tmp_path / "t.csv", {"smiles": molecules(), "y": cells}), "labels.missing=tbd"
    _plan([LabelledFile(data, ("y",))], tiny_config(rule), "random")  # a note says that the label counts as missing
    assert first_look(data, ["y"], None, tiny_config(rule))[0].targets[0].name == "y"


def test_a_limit_is_no_class_of_several_either(tmp_path: Path):
    """`>3` was the class 3."""
    cells = [">3" if heavy_atoms(text) > 8 else heavy_atoms(text) // 3 for text in molecules()]
    data = write_csv(tmp_path / "t.csv", {"smiles": molecules(), "y": cells})
    words = ["task=multiclass", "labels.censored=keep"]
    with pytest.raises(InputError, match=r"target y has limits, .* not of classes: found row \d+, >3"):
        quietly(data, tmp_path / "m", ["y"], *words)
    assert quietly(data, tmp_path / "m", ["y"], words[0], "labels.censored=limit").metrics["task"] == "multiclass"


def test_a_class_with_the_sign_between_classes_is_refused(tmp_path: Path):
    """The set `a|b` would be the class `a|b`, or the classes `a` and `b`."""
    table = {"smiles": molecules(), "y": [("a", "b", "a|b")[row % 3] for row in range(len(molecules()))]}
    data = write_csv(tmp_path / "t.csv", table)
    with pytest.raises(InputError, match=r"a class of y has '\|' in its name, which separates .* y_set: found 'a\|b'"):
        quietly(data, tmp_path / "m", ["y"])
    assert "has '|' in its name" in check_data(data, target_columns=["y"]).targets[0].problem


def test_an_evaluation_says_that_its_labels_are_in_another_unit(tmp_path: Path):
    values = {"smiles": molecules(), "Ki (nM)": [float(heavy_atoms(text)) for text in molecules()]}
    quietly(write_csv(tmp_path / "t.csv", values), tmp_path / "m", ["Ki (nM)"])
    model = Predictor.load(tmp_path / "m")
    few = write_csv(tmp_path / "few.csv", {"smiles": ["CCO", "CCN"], "Ki (uM)": [3, 4], "Ki_nM": [3, 4]})
    notes = evaluate_file(model, few, target_columns=["Ki (uM)"])["notes"]
    assert "column Ki (uM) is in uM and target Ki (nM) in nM: the labels are judged as they are" in notes
    assert not evaluate_file(model, few, target_columns=["Ki_nM"])["notes"]
    quietly(write_csv(tmp_path / "p.csv", {**values, "y": [f"{row}%" for row in range(54)]}), tmp_path / "p", ["y"])
    shares = write_csv(tmp_path / "shares.csv", {"smiles": ["CCO", "CCN"], "y": [0.03, 0.04]})
    notes = evaluate_file(Predictor.load(tmp_path / "p"), shares)["notes"]
    assert notes == [
        "target y was learned in percent, and column y has no percent sign: the labels are judged as they are"
    ]


# What only test molecules have: it's read as the others are, and decides nothing.


@pytest.mark.parametrize(
    ("learned", "test", "value", "unread"),
    [
        (["1,5", "2,25"], "3,75", 3.75, False),
        (["1.5", "2.5"], "3,75", NAN, True),
        (["1.5", "2.5"], ">3", NAN, True),
        (["1.5", "2.5"], "-999", NAN, True),
        (["1.5", "2.5"], "7%", NAN, True),
        (["1.5", "2.5"], "1e300", NAN, True),
        (["1.5", "2.5"], "word", NAN, True),
        (["1.5", "2.5"], "n/a", NAN, False),
        (["no", "yes"], "YES", 1.0, False),
        (["no", "yes"], "maybe", NAN, True),
        (["no", "yes"], "1", NAN, True),
    ],
)
def test_a_cell_of_a_test_molecule_is_read_as_the_others_are(learned: list[str], test: str, value: float, unread: bool):
    found = read_column([test, *learned], places=[2, 3, 4], column="y", rules=LabelRules(), learned=[False, True, True])
    alone = read_column(learned, places=[3, 4], column="y", rules=LabelRules())
    assert found.values[0] == pytest.approx(value, nan_ok=True)
    assert (found.values[1:], found.words, found.unit) == (alone.values, alone.words, alone.unit)
    assert any(f"row 2 {test!r}" in note and "as missing" in note for note in found.notes) == unread


def test_a_limit_of_a_test_molecule_keeps_its_side_where_limits_are_kept():
    rules = LabelRules(censored="keep")
    found = read_column([">3", "1.5", "2.5"], places=[2, 3, 4], column="y", rules=rules, learned=[False, True, True])
    assert (found.values, found.sides) == ([3.0, 1.5, 2.5], [1, 0, 0])


def test_a_word_for_missing_that_no_cell_is_is_named(tmp_path: Path):
    cells = ["n.q.", "-999,0", *(str(row) for row in range(12))]
    table = write_csv(tmp_path / "t.csv", {"smiles": molecules()[:14], "y": cells, "z": ["low"] * 7 + ["high"] * 7})
    rules = LabelRules(missing=("N.Q.", "-999", "xyz", "12"))
    notes = read_labelled(table, ["y"], "heavy_both", rules=rules).notes
    assert notes[-1] == "no cell of y is '12', 'xyz', given as missing"
    assert check_data(table, target_columns=["y"], rules=rules).notes == (notes[-1],)
    assert check_data(table, target_columns=["y", "z"], rules=LabelRules(missing=("HIGH", "n.q.", "-999"))).notes == ()
    used = read_labelled(table, ["y"], "heavy_both", rules=LabelRules(missing=("n.q.", "-999")))
    assert not [note for note in used.notes if "given as missing" in note]
    lines = list(check_lines(check_data(table, target_columns=["y"], rules=rules)))
    assert f"note: {notes[-1]}" in lines


@pytest.mark.parametrize(
    ("cells", "what"),
    [
        (["2024-01-31", "2024-02-01"], "dates"),
        (["31.01.2024", "1.2.2024"], "dates"),
        (["1/31/2024", "2/1/2024"], "dates"),
        (["2024-01-31 12:30", "2024-02-01T08:00:00"], "dates"),
        (["0:00:00", "1 day, 12:30:00"], "times"),
        (["[1.0]", "[2.0, 3.0]"], "lists"),
        (["{'a': 1}", "{'a': 2}"], "lists"),
        (["1\n2", "3 4"], "several numbers in a cell"),
        (["1.5±0.1", "2 +/- 0.2"], "numbers with their errors"),
        (["1.5D+03", "2.0d-1"], "numbers with the exponent D"),
        (["\u0661\u0662", "\u0663"], "numbers in other digits"),
        (["\uff11.\uff15", "\uff12"], "numbers in other digits"),
        (["~1.5", "ca. 2"], "numbers with a sign"),
        (["=1.5", "=-2"], "numbers with a sign"),
        (["$1.5", "\u20ac 2,5"], "numbers with a sign"),
        (["(1.5)", "'2"], "numbers with a sign"),
        (["1.5*", "2 \u2020"], "numbers with a sign, a remark"),
        (["1.5 (0.1)", "2 (n=3)"], "numbers with a sign, a remark"),
        (["1.5 x 10^-3", "2\u00d710\u22123"], "numbers with a sign, a remark or a power of ten"),
    ],
)
def test_quantities_in_a_form_that_is_not_read_are_no_classes(tmp_path: Path, cells: list[str], what: str):
    data = write_csv(tmp_path / "d.csv", {"smiles": molecules(), "y": cells * 27})
    with pytest.raises(InputError, match=f"column y holds {what}"):
        quietly(data, tmp_path / "model", ["y"])


@pytest.mark.parametrize(
    "cells",
    [
        ["2D", "3D"],
        ["1:1", "2:1:1"],
        ["0-10", "10-20"],
        ["1.1.1", "1.2.3"],
        ["a", "2024-01-31"],
        ["1 (low)", "2 (high)"],
        ["~", "="],
    ],
)
def test_classes_with_digits_are_classes(tmp_path: Path, cells: list[str]):
    data = write_csv(tmp_path / "d.csv", {"smiles": molecules(), "y": cells * 27})
    found = read_labelled(data, ["y"], "heavy_both", jobs=1)
    assert set(found.classes[0]) == set(cells)


def test_an_en_dash_is_a_minus():
    """Ten values below zero, as a word processor writes them, were ten classes."""
    assert column(*[f"\u2013{place / 10}" for place in range(1, 11)] * 4).values[:2] == [-0.1, -0.2]
    assert column("\u20132", "\u22123", "\u20114", "1e\u20132").values == [-2, -3, -4, 0.01]
    alone = column("\u2013", "\u2014", "1", "2")
    assert [math.isnan(value) for value in alone.values] == [True, True, False, False]
    assert column("+", "\u2013", "\u2212").values == [1, 0, 0]


def test_limits_in_other_orders():
    found = column("=>5", "=< 6", ">>7", "<<0,8", "\u226b9", "1", "2", censored="keep")
    assert found.values == [5, 6, 7, 0.8, 9, 1, 2]
    assert found.sides == [1, -1, 1, -1, 1, 0, 0]


def test_a_word_in_a_next_step_can_be_typed(tmp_path: Path):
    data = write_csv(tmp_path / "d.csv", {"smiles": molecules(), "y": ["'1.5", *range(53)]})
    with pytest.raises(InputError) as refused:
        quietly(data, tmp_path / "model", ["y"])
    step = str(refused.value).partition("add --missing ")[2].partition(" if the word")[0]
    assert shlex.split(step) == ["'1.5"]


def test_a_limit_that_only_a_test_molecule_has_comes_with_the_option_that_reads_it():
    cells, places = [">3", "1.5", "2.5"], [2, 3, 4]
    (note,) = read_column(cells, places=places, column="y", rules=LabelRules(), learned=[False, True, True]).notes
    assert note == (
        "target y: 1 label outside of the training and validation parts counts as missing, because it is not a number "
        "like theirs: row 2 '>3'; --censored keep or limit reads limits"
    )


def test_a_refusal_of_cells_says_that_those_of_the_test_part_are_not_counted():
    cells, places = [">3", ">3", "2.5", ">3"], [2, 3, 4, 5]
    learned = [False, True, True, True]
    with pytest.raises(InputError, match="2 of 3 cells of the training and validation parts are not numbers"):
        read_column(cells, places=places, column="y", rules=LabelRules(), learned=learned)
    with pytest.raises(InputError, match="column y: 3 of 4 cells are not numbers"):
        read_column(cells, places=places, column="y", rules=LabelRules())
