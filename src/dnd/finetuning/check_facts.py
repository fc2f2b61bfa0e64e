"""What is found in a labelled table, as plain values, and the command that follows from it; see `check_data.py`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from dnd.finetuning.repeats import Repeats
from dnd.tables.labels import ColumnCells, LabelRules

SPLITS = ("scaffold", "random")
"""The default of `finetune`, and what is named where it leaves a part empty."""


@dataclass(frozen=True)
class TargetFacts:
    """What one column of labels holds.

    Attributes:
        name: name of the column.
        unit: by its name or its cells; empty = not known.
        cells: the kinds of its cells.
        rules: under which it was read: the user's, and what had to be added.
        added: options that `finetune` would ask for, as they are typed.
        problem: why it can't be learned; empty where it can.
        notes: what was understood of its cells.
        labels: how many molecules have one, limits included.
        low: smallest label.
        median: median of the labels.
        high: largest label.
        classes: labels of each class, in their order; empty for values.
        task: what `finetune` would do, and why.
        transform: transform of the labels before fitting.
        transform_reason: why.
        edges: edges of the bins of the histogram, in the unit of the target.
        counts: counts of the bins.
        repeats: molecules that were measured more than once; None where there are none.
    """

    name: str
    unit: str
    cells: ColumnCells | None
    rules: LabelRules
    added: tuple[str, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()
    labels: int = 0
    low: float | None = None
    median: float | None = None
    high: float | None = None
    classes: dict[str, int] | None = None
    task: str = ""
    transform: str = "none"
    transform_reason: str = ""
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    repeats: Repeats | None = None


@dataclass(frozen=True)
class DataFacts:
    """What a labelled table holds.

    Attributes:
        path: the table.
        rows: how many it has.
        looked_at: rows that were drawn and parsed.
        smiles_column: where the SMILES are.
        asked_column: whether the user named that column.
        id_column: the user's names of the molecules; empty where there is none.
        molecules: rows with a molecule that can be read.
        different: molecules among them, each once.
        invalid: for each reason the rows, as a spreadsheet numbers them.
        salts: rows of a molecule with counter-ions, solvent or water.
        mixtures: rows of several molecules of similar size.
        standardized: rows that standardization changes; None = it was not asked for.
        duplicates: for molecules in several rows the SMILES and these rows, those with most rows first.
        targets: the columns of labels.
        others: columns that can't be labels, and why.
        leaks: pairs of columns that order the molecules alike, with the rank correlation.
        chosen: the targets that `next_line` names.
        split: sizes of training, validation and test part; None where no split can be drawn.
        split_name: the default split, or the one that does where that can't be drawn.
        split_problem: why the default can't be.
    """

    path: str
    rows: int
    looked_at: int
    smiles_column: str
    asked_column: bool
    id_column: str
    molecules: int
    different: int
    invalid: dict[str, list[int]]
    salts: list[int]
    mixtures: list[int]
    standardized: list[int] | None
    duplicates: list[tuple[str, list[int]]]
    targets: list[TargetFacts]
    others: dict[str, str]
    leaks: list[tuple[str, str, float]]
    chosen: tuple[str, ...] = ()
    split: tuple[int, int, int] | None = None
    split_name: str = SPLITS[0]
    split_problem: str = ""


def next_line(facts: DataFacts) -> str:
    """One line to type next; empty where `finetune` would stop whatever its options are."""
    if facts.split is None:
        return ""
    chosen = [target for target in facts.targets if target.name in facts.chosen]
    words = ["dnd finetune", shell_word(facts.path), "-o model"]
    words += [option("target-columns", target.name) for target in chosen]
    words += [option("smiles-column", facts.smiles_column)] if facts.asked_column else []
    words += dict.fromkeys(option for target in chosen for option in _options(target.rules))
    words += ["--standardize"] if facts.standardized is not None else []
    words += [option("split", facts.split_name)] if facts.split_name != SPLITS[0] else []
    return " ".join(words)


def _options(rules: LabelRules) -> list[str]:
    """The rules as options of `finetune`."""
    found = [option("missing", word) for word in rules.missing]
    found += [option("measured", word) for word in rules.measured]
    found += [option("censored", rules.censored)] if rules.censored else []
    return [*found, *([option("decimal", rules.decimal)] if rules.decimal != "auto" else [])]


def option(name: str, value: str) -> str:
    """An option as it is typed."""
    return f"--{name}{'=' if value.startswith('-') else ' '}{shell_word(value)}"


def shell_word(text: str) -> str:
    """A text as a shell takes it for one word."""
    return text if re.fullmatch(r"[\w.+,/:@%-]+", text, re.ASCII) else "'" + text.replace("'", "'\\''") + "'"
