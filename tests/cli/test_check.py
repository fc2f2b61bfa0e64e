"""`dnd check`: what it says of tables as people have them is what stands in them, and what `finetune` then does."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from dnd.chemistry.parse import parse_smiles
from dnd.cli.check import check_lines, first_lines
from dnd.cli.options import label_settings
from dnd.common.errors import ConfigError, InputError
from dnd.finetuning import check_data as checks
from dnd.finetuning.check_data import DataFacts, TargetFacts, check_data, first_look, next_line
from dnd.finetuning.splits import TableSettings, partitions
from dnd.tables.labels import LabelRules, unit_of_name

DIRTY = Path(__file__).parents[1] / "data" / "dirty"
SOLUBILITY = "LogS pH 6.8 (µg/mL)"
ALCOHOLS = ["C" * length + "O" for length in range(1, 31)]


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("dnd")), *map(str, words)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment)


def target(facts: DataFacts, name: str) -> TargetFacts:
    return next(one for one in facts.targets if one.name == name)


def table(folder: Path, *columns: tuple[str, list[object]]) -> Path:
    """A CSV file of alcohols."""
    path = folder / "table.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", *(name for name, _ in columns)])
        writer.writerows(zip(ALCOHOLS, *(cells for _, cells in columns), strict=False))
    return path


def test_a_lab_file_with_semicolons_limits_and_words() -> None:
    facts = check_data(DIRTY / "solubility_semicolon_comma.csv")
    assert (facts.smiles_column, facts.id_column) == ("Structure", "Compound")
    assert (facts.rows, facts.molecules, facts.different) == (31, 31, 28)
    assert (facts.salts, facts.mixtures, facts.invalid) == ([21], [], {})
    assert dict(facts.duplicates) == {
        "CSCC(=O)N1CCN(C(=O)CSC)C2(CCCCC2)C1": [27, 28, 29],
        "Oc1ccc(-c2noc(-c3cccnc3)n2)cc1": [11, 30],
    }
    found = target(facts, SOLUBILITY)
    assert found.unit == "log units"
    assert found.cells is not None
    assert found.cells.missing == {"#N/A": 4, "n.d.": 1}
    assert (found.cells.decimal, found.cells.above, found.cells.below) == ("comma", 3, 1)
    assert (found.labels, found.low, found.high) == (26, -0.77, 2.3)
    assert sum(found.counts) == 26
    assert any(line.endswith(", with limits counted as values") for line in check_lines(facts))
    assert found.added == ("--censored keep",)
    assert found.repeats is not None
    assert (found.repeats.molecules, found.repeats.rows, found.repeats.deviation) == (1, 3, 0.0)
    path = shlex.quote(str(DIRTY / "solubility_semicolon_comma.csv"))
    assert next_line(facts) == f"dnd finetune {path} -o model --target-columns '{SOLUBILITY}' --censored keep"


def test_a_placeholder_is_counted_and_asked_for() -> None:
    facts = check_data(DIRTY / "sentinel_minus_999.csv")
    found = target(facts, "logS")
    assert found.cells is not None
    assert found.cells.placeholders == {"-999.0": 2}
    assert (found.labels, found.low, found.high) == (28, -0.59, 1.85)
    assert not any("with limits" in line for line in check_lines(facts))
    assert next_line(facts).endswith("--target-columns logS --missing=-999.0")
    measured = check_data(DIRTY / "sentinel_minus_999.csv", rules=LabelRules(measured=("-999",)))
    assert target(measured, "logS").low == -999
    assert next_line(measured).endswith("--target-columns logS --measured=-999")


def test_a_finetuning_without_a_target_names_the_command_that_lists_them(tmp_path: Path) -> None:
    path = DIRTY / "sentinel_minus_999.csv"
    done = run("finetune", path, "-o", tmp_path / "m")
    assert done.returncode == 2
    assert "no column with labels is named: expected --target-columns NAME" in done.stderr
    assert f"dnd check {shlex.quote(str(path))}" in done.stderr


@pytest.mark.parametrize("cell", ["-999", "-999,0", "-999,00"])
@pytest.mark.parametrize("word", ["-999", "-999.0"])
def test_a_placeholder_has_any_spelling(tmp_path: Path, cell: str, word: str) -> None:
    labels = [f"{number},{number}" for number in range(12)]
    rows = [f"{'C' * (row + 1)};{label}" for row, label in enumerate([*labels, cell, cell])]
    path = tmp_path / "d.csv"
    path.write_text("\n".join(["smiles;y", *rows]) + "\n")
    asked = next_line(check_data(path)).rpartition("--missing=")[2].split()[0]
    assert asked == "-999"  # -999,0 would be two values, and 0 a missing label
    found = target(check_data(path, rules=LabelRules(missing=(word,))), "y")
    assert (found.labels, found.low, found.high) == (12, 0.0, 11.11)


def test_one_number_with_a_decimal_comma_is_not_taken_for_two() -> None:
    with pytest.raises(ConfigError, match=r"found -999,0.*Use -999"):
        label_settings(["-999,0"], None, None, None)
    assert label_settings(["-999,9999", "n.d."], None, None, None) == {"missing": ["-999", "9999", "n.d."]}


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("Ki (nM)", "nM"), ("IC50_uM", "uM"), ("mp [°C]", "°C"), ("CLint (mL/min/kg)", "mL/min/kg"),
        ("Papp (10^-6 cm/s)", "10^-6 cm/s"), ("PPB (% unbound)", "% unbound"), ("dG (kcal/mol)", "kcal/mol"),
        ("LogS pH 6.8 (µg/mL)", "log units"), ("LOG HLM_CLint (mL/min/kg)", "log units"), ("pIC50", "log units"),
        ("logD7.4", "log units"), ("Solubility (measured)", ""), ("hERG (human)", ""), ("pH", ""), ("logistic", ""),
    ],
)  # fmt: skip
def test_the_unit_of_a_column(name: str, unit: str) -> None:
    assert unit_of_name(name) == unit


def test_classes_in_several_spellings() -> None:
    found = target(check_data(DIRTY / "classes_case_and_blanks.csv"), "Permeability class")
    with (DIRTY / "classes_case_and_blanks.csv").open() as stream:
        plain = [row["Permeability class"].strip().capitalize() for row in csv.DictReader(stream)]
    assert found.classes == {name: plain.count(name) for name in ("High", "Low", "Moderate")}
    assert found.task.startswith("multiclass")
    assert "classes of Permeability class: 'LOW' 1 counted as 'Low'" in found.notes


@pytest.mark.parametrize(
    ("column", "names"),
    [
        ("active", ["No", "Yes"]),
        ("call", ["-1", "1"]),
        ("group", ["1", "2"]),
        ("word", ["inactive", "active"]),
    ],
)
def test_two_classes_in_four_spellings(column: str, names: list[str]) -> None:
    facts = check_data(DIRTY / "binary_in_four_spellings.csv", target_columns=[column])
    found = target(facts, column)
    assert found.task.startswith("classification")
    assert found.classes is not None
    assert list(found.classes) == names
    assert sum(found.classes.values()) == 30
    assert facts.chosen == (column,)


def test_a_wide_range_is_drawn_and_learned_as_its_logarithm() -> None:
    found = target(check_data(DIRTY / "ki_nM.csv"), "Ki (nM)")
    assert (found.unit, found.transform) == ("nM", "log")
    ratios = [high / low for low, high in zip(found.edges, found.edges[1:], strict=False)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert sum(found.counts) == 30
    assert target(check_data(DIRTY / "positive_labels.csv"), "y").transform == "log"
    assert target(check_data(DIRTY / "one_test_label_negative.csv"), "y").low == -0.5


def test_a_column_of_parts_is_no_target() -> None:
    facts = check_data(DIRTY / "positive_labels.csv")
    assert facts.others == {"part": "names the part of a split, which --split column:part uses"}
    assert [one.name for one in facts.targets] == ["y"]


def test_percent_and_thousands() -> None:
    facts = check_data(DIRTY / "percent_and_thousands.csv")
    assert target(facts, "unbound").unit == "%"
    assert (target(facts, "clearance").low, target(facts, "clearance").high) == (25.7, 7079.5)


def test_what_the_next_line_leaves_out_is_said() -> None:
    lines = list(check_lines(check_data(DIRTY / "percent_and_thousands.csv")))
    assert "not learned with it: clearance; --target-columns NAME for each adds it" in lines
    both = check_data(DIRTY / "percent_and_thousands.csv", target_columns=["unbound", "clearance"])
    assert not any(line.startswith("not learned with it") for line in check_lines(both))


def test_a_skewed_target_without_a_map_says_why() -> None:
    lines = list(check_lines(check_data(DIRTY / "one_test_label_negative.csv")))
    (said,) = [line for line in lines if "no transform of y" in line]
    assert "a logarithm needs labels above 0 (found -0.500)" in said
    assert not any("--split column:" in line for line in check_lines(check_data(DIRTY / "ki_nM.csv")))


def test_one_row_is_a_row(tmp_path: Path) -> None:
    table = tmp_path / "one.csv"
    table.write_text("smiles,y\nCCO,1.5\n")
    lines = list(check_lines(check_data(table)))
    assert lines[0] == f"{table}: 1 row"
    assert lines[2] == "1 row with a molecule, 1 different molecule"


def test_replicates_and_their_spread() -> None:
    facts = check_data(DIRTY / "replicates_three_times.csv")
    own: dict[str, list[float]] = {}
    with (DIRTY / "replicates_three_times.csv").open() as stream:
        for row in csv.DictReader(stream):
            own.setdefault(row["smiles"], []).append(float(row["dG"]))
    spreads = [statistics.variance(values) for values in own.values() if len(values) > 1]
    repeats = target(facts, "dG").repeats
    assert repeats is not None
    assert (repeats.molecules, repeats.rows, facts.different) == (6, 18, 16)
    assert repeats.deviation == pytest.approx(math.sqrt(statistics.mean(spreads)))  # three values each


def test_too_few_labels_and_a_column_of_other_text() -> None:
    facts = check_data(DIRTY / "cells_come_back.csv")
    assert (target(facts, "change").low, target(facts, "change").high) == (-0.02, 0.0012)
    assert target(facts, "change").added == ("--missing '+/- 3'",)
    assert list(facts.others) == ["note"]
    assert facts.split_problem == "2 molecules with labels are too few, at least 10 are needed"
    assert next_line(facts) == ""


def test_why_a_column_is_no_target_is_said_to_its_end(tmp_path: Path) -> None:
    """The line was cut at 160 characters, so that what to do about the column was missing."""
    days: list[object] = [f"2024-01-{day:02d} 12:30:00, repeated on the next day" for day in range(1, 31)]
    facts = check_data(table(tmp_path, ("measured", days), ("y", [*range(0, 60, 2)])))
    line = next(line for line in check_lines(facts) if line.startswith("no target: measured"))
    assert len(line) > 160
    assert line.endswith(facts.others["measured"])


def test_names_that_are_left_out_are_counted(tmp_path: Path) -> None:
    columns = [
        (f"property number {number}", [(7 * row + number * row**2) % 31 for row in range(30)]) for number in range(30)
    ]
    lines = list(check_lines(check_data(table(tmp_path, *columns))))
    line = next(line for line in lines if line.startswith("not learned with it"))
    shown, _, more = line.removeprefix("not learned with it: ").partition(";")[0].partition(" and ")
    assert len(shown) <= 160
    assert len(shown.split(", ")) + int(more.removesuffix(" more")) == 29


def test_a_column_in_another_unit_is_a_leak_and_row_numbers_are_no_target(tmp_path: Path) -> None:
    values = [((7 * place) % 30) / 10 for place in range(30)]
    path = table(
        tmp_path,
        ("Unnamed: 0", list(range(30))),
        ("logS", values),
        ("S (M)", [f"{10**value:.4f}" for value in values]),
        ("noise", [(11 * place) % 30 * 0.5 for place in range(30)]),
    )
    assert check_data(path).leaks == [("logS", "S (M)", 1.0)]
    assert check_data(path).others == {"Unnamed: 0": "counts the rows"}
    assert check_data(path, target_columns=["S (M)"]).leaks == [("S (M)", "logS", 1.0)]


def test_rows_that_cannot_be_read_have_the_numbers_of_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    rows = [*((smiles, 1.5 * place) for place, smiles in enumerate(ALCOHOLS)), ("C1CC", 1), ("", 2), ("C1CO", 3)]
    rows.append(("CCCCCC.CCCCCN", 4))
    path.write_text("smiles,y\n" + "".join(f"{smiles},{y}\n" for smiles, y in rows))
    facts = check_data(path)
    assert facts.invalid == {"unclosed ring": [32, 34], "empty SMILES": [33]}
    assert facts.mixtures == [35]


def test_no_more_rows_are_parsed_than_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MOST_ROWS", 12)
    facts = check_data(table(tmp_path, ("y", [0.1 * place for place in range(30)])))
    assert (facts.rows, facts.looked_at, facts.molecules) == (30, 12, 12)
    assert "30 rows, 12 of them drawn at random" in next(check_lines(facts))


def test_what_is_asked_for_and_is_not_there() -> None:
    with pytest.raises(InputError, match=r"no column 'logs': found columns smiles, logS\. Did you mean logS\?"):
        check_data(DIRTY / "sentinel_minus_999.csv", target_columns=["logs"])
    with pytest.raises(InputError, match="is the column of SMILES"):
        check_data(DIRTY / "sentinel_minus_999.csv", target_columns=["smiles"])


def test_the_command_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from dnd.cli.main import main\n"
        "try: main(['check', sys.argv[1], '--json', sys.argv[2]])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    words = [sys.executable, "-c", code, DIRTY / "ki_nM.csv", tmp_path / "found.json"]
    found = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    assert "learned as its logarithm" in found.stdout
    written = json.loads((tmp_path / "found.json").read_text())
    assert written["targets"][0]["unit"] == "nM"
    assert f"next: {written['next']}" in found.stdout.splitlines()


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("Ki", "has no column 'Ki': found columns canonical_smiles, Ki (nM)"),
        ("canonical_smiles", "is the column of SMILES, not of labels"),
    ],
)
def test_a_finetuning_refuses_a_column_before_it_loads_torch(tmp_path: Path, column: str, said: str) -> None:
    found = finetune_without_torch(tmp_path, DIRTY / "ki_nM.csv", "--target-columns", column)
    assert said in found.stderr
    assert not (tmp_path / "model").exists()


def test_a_finetuning_refuses_labels_before_it_loads_torch(tmp_path: Path) -> None:
    found = finetune_without_torch(
        tmp_path, DIRTY / "solubility_semicolon_comma.csv", "--target-columns", SOLUBILITY, "--split", "random"
    )
    # Of the 26 labels 4 are limits; those of the test part are not counted, as they decide nothing.
    said = r"[1-4] of \d\d cells of the training and validation parts are not numbers that can be learned: found '>"
    assert re.search(said, found.stderr), found.stderr
    assert "--censored keep, drop or limit" in found.stderr


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("loop.epoch=3", "unknown setting loop.epoch. Did you mean loop.epochs"),
        ("loop.epochs=many", "setting loop.epochs has a wrong value: found 'many', expected a whole number"),
        ("loss=hubber", "setting loss has an unknown value 'hubber'. Did you mean huber?"),
        ("blend.classical", "has no column 'blend.classical'"),
    ],
)
def test_a_finetuning_refuses_a_setting_before_it_loads_torch(tmp_path: Path, setting: str, said: str) -> None:
    found = finetune_without_torch(tmp_path, DIRTY / "ki_nM.csv", setting, "--target-columns", "Ki (nM)")
    assert said in found.stderr
    assert not (tmp_path / "model").exists()


def finetune_without_torch(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """`dnd finetune` that must end with an error of the user's before torch is loaded."""
    code = (
        "import sys; from dnd.cli.main import main\n"
        "try: main(['finetune', *sys.argv[1:]])\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, *map(str, words), "-o", str(folder / "model")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stderr
    return found


def test_unreadable_labels_of_test_molecules_stop_no_finetuning(tmp_path: Path) -> None:
    labels: list[object] = [0.1 * place for place in range(30)]
    parts: list[object] = ["train"] * 20 + ["valid"] * 5 + ["test"] * 5
    settings = TableSettings(split="column:part")
    junk = table(tmp_path, ("y", [*labels[:27], "junk", *labels[28:]]), ("part", parts))
    assert first_look(junk, ["y"], None, settings)[0].targets[0].labels == 29
    junk = table(tmp_path, ("y", [*labels[:3], "junk", *labels[4:]]), ("part", parts))
    with pytest.raises(InputError, match=r"1 cell is not a number that can be learned: found 'junk' \(row 5\)"):
        first_look(junk, ["y"], None, settings)


@pytest.mark.parametrize("kind", ["column", "time"])
def test_the_column_of_a_split_that_is_not_there_is_named_whatever_the_labels_are(tmp_path: Path, kind: str) -> None:
    rows = [f"{'C' * (row + 1)}O,{'>10' if row == 3 else row}" for row in range(30)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["smiles,y", *rows]))
    with pytest.raises(InputError, match="has no column 'nope'"):
        first_look(table, ["y"], None, TableSettings(split=f"{kind}:nope"))


def test_the_first_lines_of_a_finetuning_say_what_the_table_holds() -> None:
    facts, kept = first_look(DIRTY / "ki_nM.csv", ["Ki (nM)"], None, TableSettings())
    assert kept is not None
    assert [row.place for row in kept.opened()] == list(range(2, 32))
    lines = list(first_lines(facts))
    assert lines[1] == "SMILES in column canonical_smiles"
    assert "target Ki (nM): 30 labels, in nM" in lines
    assert sum(int(line.split()[-1]) for line in lines if " |" in line) == 30
    assert not any("next:" in line or "task:" in line for line in lines)


def test_a_finetuning_reads_its_table_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dnd.tables.molecules as tables
    from dnd.finetuning.finetune import check_before_training
    from dnd.finetuning.labelled_data import LabelledFile
    from finetuning_toys import tiny_config

    path = DIRTY / "ki_nM.csv"
    _, kept = first_look(path, ["Ki (nM)"], None, TableSettings())
    monkeypatch.setattr(tables, "_file", None)  # nothing can be opened from here on
    file = LabelledFile(path, ("Ki (nM)",), kept=kept)
    check_before_training([file], tiny_config("split=random"))
    with pytest.raises(TypeError):
        check_before_training([LabelledFile(path, ("Ki (nM)",))], tiny_config("split=random"))


def test_names_reach_no_terminal_raw_and_the_input_is_kept(tmp_path: Path) -> None:
    path = table(tmp_path, ("y\x1b]0;title\x07", [0.1 * place for place in range(30)]))
    before = path.read_bytes()
    found = run("check", path)
    assert found.returncode == 0
    assert "\x1b" not in found.stdout
    assert r"y\x1b]0;title\x07" in found.stdout
    refused = run("check", path, "--json", path)
    assert (refused.returncode, path.read_bytes()) == (2, before)
    assert len(refused.stderr.splitlines()) == 1


def test_finetune_does_what_was_said(tmp_path: Path) -> None:
    """The next line, with a student as small as they come."""
    shutil.copy(DIRTY / "solubility_semicolon_comma.csv", tmp_path / "lab.csv")
    facts = check_data(tmp_path / "lab.csv")
    words = [str(tmp_path / "model") if word == "model" else word for word in shlex.split(next_line(facts))]
    tiny = ["--encoder", "random", "--recipe", "small", "baselines=false", "student.name=gine", "student.width=16"]
    done = run(*words[1:], *tiny, "student.num_layers=2", "loop.epochs=1", "transform=auto")
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert facts.split is not None
    assert f"training / validation / test: {' / '.join(map(str, facts.split))}" in said
    assert f"task: {target(facts, SOLUBILITY).task}" in said
    assert target(facts, SOLUBILITY).transform_reason in said


REPLACED = {
    "numbers": lambda row: str(-1000 * row),
    "words": lambda row: f"word {row}",
    "one word": lambda row: "bad",
    "limits": lambda row: ">10",
    "placeholders": lambda row: "-999",
    "decimal commas": lambda row: "1,5",
}


@pytest.mark.parametrize("replaced", REPLACED)
@pytest.mark.parametrize("kind", ["values", "classes"])
def test_no_label_of_the_test_part_decides_what_is_said_of_a_finetuning(
    tmp_path: Path, kind: str, replaced: str
) -> None:
    """The alcohols have no ring, so that the default split gives way to that by chance, as in `finetune`."""
    labels = [2.0**place if kind == "values" else ["low", "high"][place % 2] for place in range(30)]

    def plan(cells: list[object]) -> tuple[object, ...]:
        facts = check_data(table(tmp_path, ("y", cells)), target_columns=["y"])
        (one,) = facts.targets
        said = (one.problem, one.task, one.transform, one.transform_reason, one.added)
        return *said, facts.split, facts.split_name, next_line(facts)

    kept = [parse_smiles(text).smiles for text in ALCOHOLS]
    test = set(partitions("random", kept, identities=kept)[0].test.tolist())
    assert len(test) == 3
    expected = plan(labels)
    assert expected[0] == ""
    assert plan([REPLACED[replaced](row) if row in test else label for row, label in enumerate(labels)]) == expected
