"""What a labelled table holds and what a finetuning would make of it, found in seconds and without torch.

It reads as `finetune` does: the same front door, reader of labels, parser, split and transform. Where `finetune` would
stop, such as at `>10` or -999, it continues under the option that would let `finetune` continue, and names that option.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.chemistry.identity import identities_of, is_mixture, molecule_for_model, standard_form
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.splits import Split, part_named, rows_of_molecules
from dnd.common.errors import InputError
from dnd.common.log import LOGGER, MANY, PROGRESS
from dnd.finetuning.splits import PARTS, TableSettings, is_test_word, partitions, split_column
from dnd.finetuning.tasks import check_targets, choose_task, choose_transforms, number_word
from dnd.predictor.metrics import SUSPICIOUS, Repeats, pooled_deviation, rank_correlation
from dnd.predictor.targets import Transform, refuse_unclear_outputs
from dnd.tables.labels import (
    ColumnCells,
    DrawnRows,
    LabelColumn,
    LabelRules,
    UnitColumns,
    class_key,
    column_cells,
    gives_units,
    holds_numbers,
    is_missing,
    missing_words_in,
    read_column,
    unused_words_note,
)
from dnd.tables.molecules import labelled_columns, open_molecules
from dnd.tables.readers import KeptTable, Row, id_column_of, look_like_smiles

# What is found in a labelled table, as plain values, and the command that follows from it; see `check_data.py`.

SPLITS = ("scaffold", "random")
"""The default of `finetune`, and what is named where it leaves a part empty."""


@dataclass(frozen=True)
class TargetFacts:
    """What one column of labels holds.

    Attributes:
        name: name of the column.
        unit: by its name or its cells; empty = not known.
        cells: the kinds of its cells, without those of the test part of the default split, which decide nothing.
        rules: under which it was read: the user's, and what had to be added.
        added: options that `finetune` would ask for, as they are typed.
        problem: why it can't be learned; empty where it can.
        notes: how its cells were read.
        labels: number of molecules with a label, limits included.
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
        rows: number of rows.
        looked_at: number of rows that were drawn and parsed.
        smiles_column: name of the column of SMILES.
        asked_column: whether the user named that column.
        id_column: column with the user's names of the molecules; empty if there is none.
        molecules: number of rows with a valid molecule.
        different: number of different molecules among them.
        invalid: for each reason the invalid rows, as a spreadsheet numbers them.
        salts: rows of a molecule with counter-ions, solvent or water.
        mixtures: rows of several molecules of similar size.
        standardized: rows that standardization changes; None = it was not asked for.
        duplicates: for molecules in several rows the SMILES and these rows, those with most rows first.
        targets: the columns of labels.
        others: columns that can't be labels, and why.
        leaks: pairs of columns that order the molecules alike, with the rank correlation.
        chosen: the targets that `next_line` names.
        split: sizes of training, validation and test part; None where no split can be drawn.
        split_name: the default split, or the split used instead if that can't be drawn.
        split_problem: why the default split can't be drawn.
        notes: further notes about the targets together.
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
    notes: tuple[str, ...] = ()


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


MOST_ROWS = 20_000
"""Largest number of rows that are parsed; larger tables are subsampled at random."""
FIRST_ROWS = 2_000
"""The same at the start of a finetuning, which reads all rows later."""
MOST_COLUMNS = 200
"""Columns that are looked at as targets where none is named."""
FEWEST_MOLECULES = 10
BINS = 8
_MOST_WORDS = 5  # different words among numbers that may stand for missing labels; more are a mistake
_LEAK_ROWS = 2_000
_MOST_PAIRS = 2_000  # of columns that are compared


def check_data(
    path: Path | str,
    *,
    target_columns: Sequence[str] = (),
    smiles_column: str | None = None,
    rules: LabelRules | None = None,
    standardize: bool = False,
) -> DataFacts:
    """Look at a labelled table.

    Args:
        path: CSV, TSV, SMI, SDF or Parquet.
        target_columns: columns with labels; empty = every column that can be learned is one.
        smiles_column: SMILES column; None = find it.
        rules: the user's options for labels.
        standardize: count molecules by their largest organic part, neutral, as `finetune` does on request.

    Raises:
        InputError: the table can't be read, has no such column, or has no molecule.
    """
    return _looked_at(path, target_columns, (), smiles_column, rules or LabelRules(), standardize, MOST_ROWS)[0]


def first_look(
    path: Path | str, target_columns: Sequence[str], smiles_column: str | None, settings: TableSettings
) -> tuple[DataFacts, KeptTable | None]:
    """The same for a finetuning that is about to begin, of fewer rows; what it would refuse is refused here.

    Args:
        path: CSV, TSV, SMI, SDF or Parquet.
        target_columns: columns with labels.
        smiles_column: where the SMILES are; None = find the column.
        settings: settings of the finetuning.

    Returns:
        What was found, and the table as it was read; None where it has more rows than were kept.

    Raises:
        InputError: as `check_data`, where labels of the training or validation part can't be read, and where the table
            does not have the column of the split.
    """
    rules, standardize, column = settings.labels, settings.standardize, split_column(settings.split)
    further = [column] if column else []
    facts, kept, table = _looked_at(path, target_columns, further, smiles_column, rules, standardize, FIRST_ROWS)
    troubled = [target.name for target in facts.targets if target.problem or target.added]
    if troubled and facts.looked_at == facts.rows:
        _require_readable(facts, kept, troubled, settings)
    return facts, table


def _looked_at(
    path: Path | str,
    target_columns: Sequence[str],
    further: Sequence[str],
    smiles_column: str | None,
    rules: LabelRules,
    standardize: bool,
    most: int,
) -> tuple[DataFacts, _Kept, KeptTable | None]:
    """What `most` rows of a table hold, the usable ones, and all rows where there are no more."""
    with open_molecules(path, smiles_column) as table:
        names = labelled_columns(path, table, target_columns, further) if target_columns else []
        drawn: DrawnRows[Row] = DrawnRows(most)
        for row in table:
            drawn.add(row)
        smiles, comma_file, columns = table.smiles_column, table.style.delimiter == ";", table.columns
    rows = drawn.rows()
    whole = KeptTable(columns, smiles, rows, table.repeated, table.style) if len(rows) == drawn.seen else None
    if len(rows) >= MANY:
        LOGGER.log(PROGRESS, f"parsing {len(rows)} molecules")
    read = [_molecule(row, standardize) for row in rows]
    invalid: dict[str, list[int]] = {}
    for row, found in zip(rows, read, strict=True):
        if isinstance(found, str):
            invalid.setdefault(_without_text(found), []).append(row.place)
    good = [(row, found) for row, found in zip(rows, read, strict=True) if not isinstance(found, str)]
    if not good:
        first = next((f"row {places[0]}: {reason}" for reason, places in invalid.items()), "no rows")
        raise InputError("there is no valid molecule", found=first, next_step="Check --smiles-column")
    seen = [one.seen for _, one in good]
    texts = seen if standardize else [row.smiles for row, _ in good]
    kept = _Kept([row for row, _ in good], seen, identities_of(seen), texts, rules, comma_file, table.repeated)
    identity = id_column_of([name for name in columns if name not in (*names, smiles)]) or ""
    targets, others, values = _columns(kept, names, [name for name in columns if name not in (smiles, identity)])
    salts, mixtures = _several_parts(good)
    copies = [group for group in rows_of_molecules(kept.identities) if len(group) > 1]
    facts = DataFacts(
        path=str(path),
        rows=drawn.seen,
        looked_at=len(rows),
        smiles_column=smiles,
        asked_column=smiles_column is not None,
        id_column=identity,
        molecules=len(good),
        different=len(set(kept.identities)),
        invalid=dict(sorted(invalid.items(), key=lambda entry: -len(entry[1]))),
        salts=salts,
        mixtures=mixtures,
        standardized=[row.place for row, one in good if one.seen != one.given] if standardize else None,
        duplicates=[
            (kept.smiles[group[0]], [kept.rows[place].place for place in group])
            for group in sorted(copies, key=len, reverse=True)
        ],
        targets=targets,
        others=others,
        leaks=_leaks(values, names),
        notes=(
            *(_unused_words(rows, rules, names or list(values)) if len(rows) == drawn.seen else ()),
            *_units(kept.rows, [name for name in columns if name != smiles], names or list(values)),
        ),
    )
    return _planned(facts, kept, names, values), kept, whole


def _unused_words(rows: Sequence[Row], rules: LabelRules, names: Sequence[str]) -> tuple[str, ...]:
    """The line about the user's words for a missing label that no cell of the targets is."""
    unused = set(rules.missing)
    for row in rows:
        if not unused:
            return ()
        unused -= missing_words_in([row.values[name] for name in names], unused)
    return unused_words_note(unused, names)


def _units(rows: Sequence[Row], columns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The lines about columns that give several units beside labels."""
    units = UnitColumns(name for name in columns if name not in names)
    for row in rows:
        if any(row.values[name].strip() for name in names):
            units.add(row.values)
    return units.notes()


@dataclass(frozen=True)
class _Kept:
    """Rows with a molecule, and how their labels are read.

    Attributes:
        rows: the rows.
        smiles: canonical SMILES of what a model sees.
        identities: what rows of one molecule share.
        texts: SMILES as a split sees them.
        rules: the user's options for labels.
        comma_file: whether the cells are between semicolons.
        repeated: names that two columns have.
        drawn: splits by the rows that are split.
    """

    rows: list[Row]
    smiles: list[str]
    identities: list[str]
    texts: list[str]
    rules: LabelRules
    comma_file: bool
    repeated: frozenset[str]
    drawn: dict[bytes, tuple[str, Split | None, str]] = field(default_factory=dict)

    def cells(self, name: str) -> list[str]:
        return [row.values[name] for row in self.rows]


# Molecules


@dataclass(frozen=True)
class _Read:
    """A molecule by its canonical SMILES: of the usual isotopes, as given and in the form that a model sees."""

    given: str
    seen: str


def _molecule(row: Row, standardize: bool) -> _Read | str:
    """The molecule of a row as `finetune` reads it, or why there is none."""
    if row.problem is not None:
        return row.problem
    given = molecule_for_model(row.smiles, standardize=False)
    found = standard_form(given) if standardize else given
    if isinstance(given, Molecule) and isinstance(found, Molecule):
        return _Read(given.smiles, found.smiles)
    return found.reason if isinstance(found, InvalidMolecule) else ""


def _without_text(reason: str) -> str:
    """A reason without what it quotes, so that rows of one kind are counted together."""
    return re.split(r"(?: for input)?[:'\"]", reason)[0].strip() or reason


def _several_parts(good: Sequence[tuple[Row, _Read]]) -> tuple[list[int], list[int]]:
    """Rows of salts and solvates, and of mixtures."""
    salts, mixtures = list[int](), list[int]()
    for row, molecule in good:
        if "." not in molecule.given:
            continue
        (mixtures if is_mixture(molecule.given) else salts).append(row.place)
    return salts, mixtures


# Columns


def _columns(
    kept: _Kept, names: Sequence[str], columns: Sequence[str]
) -> tuple[list[TargetFacts], dict[str, str], dict[str, LabelColumn]]:
    """Targets, other columns with the reason why they can't be targets, and the labels of the targets."""
    targets, others, values = list[TargetFacts](), dict[str, str](), dict[str, LabelColumn]()
    for name in names or columns[:MOST_COLUMNS]:
        why = "" if names else _no_target(name, kept.cells(name))
        why = "several columns have this name; rename all but one" if name in kept.repeated else why
        if why:
            others[name] = why
            continue
        facts, labels = _target(kept, name, _rows_that_decide(kept, names or [name]))
        try:
            refuse_unclear_outputs({name: labels.words if labels else ()})
        except InputError as error:
            facts, labels = replace(facts, problem=facts.problem or str(error)), None
        kinds = facts.cells
        if labels is None and not names and kinds is not None and kinds.numbers <= sum(kinds.words.values()):
            others[name] = facts.problem
            continue
        targets.append(facts)
        if labels is not None:
            values[name] = labels
    if not names and len(columns) > MOST_COLUMNS:
        others[f"{len(columns) - MOST_COLUMNS} further columns"] = f"only the first {MOST_COLUMNS} are examined"
    for name in [name for name in columns[:MOST_COLUMNS] if names and name not in names]:
        labels = _target(kept, name, _rows_that_decide(kept, [name]))[1]  # beside named targets others may be leaks
        if labels is not None:
            values[name] = labels
    return targets, others, values


def _no_target(name: str, cells: Sequence[str]) -> str:
    """Why a column that nobody named can't be a target; empty if it can."""
    known = [cell for cell in cells if cell.strip()]
    if not known:
        return "empty"
    parts = {part_named(cell.strip().lower()) for cell in known}
    if parts <= set(PARTS):
        uses = {"train", "test"} <= parts
        return "names the part of a split" + (f", which --split column:{name} uses" if uses else "")
    if len(known) >= FEWEST_MOLECULES and all(map(str.isdecimal, known)):
        numbers = np.array([int(cell[:18]) for cell in known])
        if (np.diff(numbers) >= 1).all() and numbers[-1] - numbers[0] <= 2 * len(numbers):
            return "counts the rows"
    if gives_units(name, {cell.strip() for cell in known}):
        return "gives the unit of each row"
    return "SMILES too" if look_like_smiles(known) else ""


def _rows_that_decide(kept: _Kept, names: Sequence[str]) -> list[bool]:
    """Whether each row is outside of the test part of the default split, whose labels `finetune` learns nothing from.

    Args:
        kept: the usable rows.
        names: the targets that are learned together; a row where all of them are empty is in no part.
    """
    labelled = _rows_that_are_dealt(kept, dict.fromkeys(names, kept.rules))
    part = _drawn(kept, labelled)[1]
    test = set() if part is None else {labelled[place] for place in part.test}
    return [place not in test for place in range(len(kept.rows))]


def _rows_that_are_dealt(kept: _Kept, rules: Mapping[str, LabelRules]) -> list[int]:
    """Rows that `finetune` deals into parts before it reads the labels: those where a cell may be one.

    Args:
        kept: the usable rows.
        rules: of each target.
    """
    each = [(name, {class_key(word) for word in own.missing}) for name, own in rules.items()]
    numeric = {name: holds_numbers(kept.cells(name)) for name in rules}

    def says_nothing(cell: str, name: str, asked: set[str]) -> bool:
        return not cell.strip() or (numeric[name] and (is_missing(cell) or class_key(cell) in asked))

    return [
        place
        for place, row in enumerate(kept.rows)
        if not all(says_nothing(row.values[name], name, asked) for name, asked in each)
    ]


def _target(kept: _Kept, name: str, decides: Sequence[bool]) -> tuple[TargetFacts, LabelColumn | None]:
    """What a column holds, and its labels where they can be read, with options of our own if need be."""
    facts = TargetFacts(name, "", None, kept.rules)
    cells = kept.cells(name)
    try:
        deciding = list(itertools.compress(cells, decides))
        kinds = column_cells(deciding, column=name, rules=kept.rules, comma_file=kept.comma_file)
        rules, added = _eased(kept.rules, kinds)
        facts = replace(facts, cells=kinds, rules=rules, added=added)
        labels = read_column(
            cells,
            places=[row.place for row in kept.rows],
            column=name,
            rules=rules,
            comma_file=kept.comma_file,
            learned=decides,
        )
        facts = _measured(replace(facts, unit=labels.unit, notes=labels.notes), labels)
    except InputError as error:
        return replace(facts, problem=str(error)), None
    return replace(facts, repeats=_repeats(kept, facts, labels)), labels


def _eased(rules: LabelRules, kinds: ColumnCells) -> tuple[LabelRules, tuple[str, ...]]:
    """The rules under which a column can be read, and the options that say so."""
    added = list[str]()
    if (kinds.above or kinds.below) and rules.censored is None:
        rules = replace(rules, censored="keep")
        added.append(option("censored", "keep"))
    strange = list(kinds.placeholder_words)
    if kinds.numbers > sum(kinds.words.values()) and len(kinds.words) <= _MOST_WORDS:
        strange += [text for text in kinds.words if "," not in text]
    if strange:
        rules = replace(rules, missing=(*rules.missing, *strange))
        added += [option("missing", text) for text in strange]
    return rules, tuple(added)


def _measured(facts: TargetFacts, labels: LabelColumn) -> TargetFacts:
    """With task, transform, range and histogram."""
    values_B = np.array(labels.values)
    known_B = values_B[~np.isnan(values_B)]
    if not len(known_B):
        raise InputError(f"all labels of {facts.name} are missing")
    kind, reason = choose_task(values_B[:, None], [facts.name], "auto", labels.words)
    check_targets(values_B[:, None], [facts.name], kind)
    facts = replace(facts, labels=len(known_B), task=reason)
    if kind != "regression":
        words = labels.words or tuple(map(number_word, np.unique(known_B)))
        codes = range(len(words)) if labels.words else np.unique(known_B)
        each = {word: int((known_B == code).sum()) for word, code in zip(words, codes, strict=True)}
        return replace(facts, classes=each)
    low, median, high = map(float, np.quantile(known_B, (0, 0.5, 1)))
    facts = replace(facts, low=low, median=median, high=high)
    return _with_transform(facts, values_B, values_B, np.arange(len(values_B)))


def _with_transform(
    facts: TargetFacts, values_B: np.ndarray, learned_B: np.ndarray, training_B: np.ndarray
) -> TargetFacts:
    """With the transform that the labels which are learned choose, and a histogram of all labels on its scale."""
    names, lines = choose_transforms("auto", learned_B[:, None], [facts.name], ["regression"], [training_B])
    scale = Transform("log") if names[0] == "log" else Transform()
    judged_B = scale.judged(values_B)
    counts, edges = np.histogram(judged_B[np.isfinite(judged_B)], bins=BINS)
    return replace(
        facts,
        transform=names[0],
        transform_reason=" ".join(lines),
        counts=tuple(counts.tolist()),
        edges=tuple(scale.unjudged(edges).tolist()),
    )


def _repeats(kept: _Kept, facts: TargetFacts, labels: LabelColumn) -> Repeats | None:
    """How far the repeated measurements of a target are apart; limits do not count as measurements."""
    is_factor = facts.transform == "log"
    values_B = np.where(np.array(labels.sides) == 0, labels.values, np.nan)
    values_B = Transform("log").judged(values_B) if is_factor else values_B
    groups = [[row for row in group if not np.isnan(values_B[row])] for group in rows_of_molecules(kept.identities)]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        return None
    rows = sum(map(len, groups))
    if facts.classes is not None:
        odd = [group for group in groups if np.ptp(values_B[group])]
        first = kept.smiles[odd[0][0]] if odd else ""
        return Repeats(facts.name, len(groups), rows, contradicting=len(odd), first=first)
    deviation = pooled_deviation([values_B[group] for group in groups])
    unit = "" if is_factor else facts.unit
    return Repeats(
        facts.name,
        len(groups),
        rows,
        deviation=10**deviation if is_factor else deviation,
        is_factor=is_factor,
        unit=unit,
    )


def _leaks(values: dict[str, LabelColumn], names: Sequence[str]) -> list[tuple[str, str, float]]:
    """Pairs of columns of numbers that order the molecules alike."""
    numbers: dict[str, Float[np.ndarray, "rows"]] = {
        name: np.array(labels.values[:_LEAK_ROWS]) for name, labels in values.items() if not labels.words
    }
    found = list[tuple[str, str, float]]()
    pairs: Iterator[tuple[str, str]]
    pairs = (
        itertools.product(names, [name for name in numbers if name not in names])
        if names
        else itertools.combinations(numbers, 2)
    )
    for first, second in itertools.islice(pairs, _MOST_PAIRS):
        if first not in numbers:
            continue
        correlation = rank_correlation(numbers[first], numbers[second])
        if abs(correlation) >= SUSPICIOUS:
            found.append((first, second, round(correlation, 4)))
    return found


# What `finetune` would do


def _planned(facts: DataFacts, kept: _Kept, names: Sequence[str], values: dict[str, LabelColumn]) -> DataFacts:
    """With the targets of the next line, the sizes of the default split, and the transforms that its rows choose."""
    usable = [target.name for target in facts.targets if not target.problem]
    chosen = tuple(name for name in usable if name in names) or tuple(usable[:1])
    facts = replace(facts, chosen=chosen)
    try:
        refuse_unclear_outputs({name: values[name].words for name in chosen})
    except InputError as error:
        return replace(facts, split_problem=str(error))
    known_B = np.zeros(len(kept.rows), bool)
    for name in chosen:
        known_B |= ~np.isnan(values[name].values)
    if known_B.sum() < FEWEST_MOLECULES:
        why = f"{known_B.sum()} molecules with labels are too few, at least {FEWEST_MOLECULES} are needed"
        return replace(facts, split_problem=why if chosen else "no column can be learned")
    rules = {target.name: target.rules for target in facts.targets if target.name in chosen}
    labelled = np.array(_rows_that_are_dealt(kept, rules), np.int64)
    part, facts = _dealt(facts, kept, labelled)
    if part is None:
        return facts
    targets = [
        _learned(kept, target, values[target.name], labelled, part) if target.name in chosen else target
        for target in facts.targets
    ]
    learned = [int(known_B[labelled[rows]].sum()) for rows in (part.train, part.valid)]
    sizes = (learned[0], learned[1], len(part.test))
    return replace(facts, targets=targets, split=sizes)


def _dealt(facts: DataFacts, kept: _Kept, labelled: np.ndarray) -> tuple[Split | None, DataFacts]:
    """The parts under the default split, or by chance where that one leaves a part empty; None where that does too."""
    name, part, problem = _drawn(kept, labelled)
    facts = replace(facts, split_problem=facts.split_problem or problem)
    return part, facts if part is None else replace(facts, split_name=name)


def _drawn(kept: _Kept, labelled: Sequence[int] | np.ndarray) -> tuple[str, Split | None, str]:
    """The first default that can be drawn, its parts of the labelled rows, and why an earlier one can't be."""
    key = np.asarray(labelled, np.int64).tobytes()  # most columns have labels in the same rows
    if key not in kept.drawn:
        kept.drawn[key] = _draw(kept, labelled)
    return kept.drawn[key]


def _draw(kept: _Kept, labelled: Sequence[int] | np.ndarray) -> tuple[str, Split | None, str]:
    problem = ""
    for name in SPLITS:
        try:
            part = partitions(
                name,
                [kept.texts[row] for row in labelled],
                identities=[kept.identities[row] for row in labelled],
            )[0]
        except InputError as error:
            problem = problem or str(error)
            continue
        return name, part, problem
    return SPLITS[0], None, problem


def _require_readable(facts: DataFacts, kept: _Kept, names: Sequence[str], settings: TableSettings) -> None:
    """Refuse labels as `finetune` does: test molecules have no say in how a column is read."""
    targets, column = [target.name for target in facts.targets], split_column(settings.split)
    extra = kept.cells(column) if column else [""] * len(kept.rows)
    dealt = set(_rows_that_are_dealt(kept, dict.fromkeys(targets, settings.labels)))
    rows = [place for place, cell in enumerate(extra) if place in dealt or is_test_word(settings.split, cell)]
    learned = _learned_rows(facts, kept, rows, extra, settings)
    for name in names:
        read_column(
            [kept.rows[row].values[name] for row in rows],
            places=[kept.rows[row].place for row in rows],
            column=name,
            rules=settings.labels,
            comma_file=kept.comma_file,
            learned=[place in learned for place in range(len(rows))],
        )


def _learned(kept: _Kept, target: TargetFacts, labels: LabelColumn, labelled: np.ndarray, part: Split) -> TargetFacts:
    """With the task and transform that the labels of the training and validation part choose, as in `finetune`."""
    values_B = np.array(labels.values)
    learned_B = np.full(len(values_B), np.nan)
    learned = labelled[np.concatenate([part.train, part.valid])]
    learned_B[learned] = values_B[learned]
    if np.isnan(learned_B).all():  # all its labels are in the test part
        return target
    target = replace(target, task=choose_task(learned_B[:, None], [target.name], "auto", labels.words)[1])
    if target.classes is not None:
        return target
    found = _with_transform(target, values_B, learned_B, labelled[part.train])
    return replace(found, repeats=_repeats(kept, found, labels))


def _learned_rows(
    facts: DataFacts, kept: _Kept, rows: Sequence[int], extra: Sequence[str], settings: TableSettings
) -> set[int]:
    """Places in `rows` of the training and validation parts; all if no split is possible, which `finetune` refuses."""
    try:
        parts = partitions(
            settings.split,
            [kept.texts[row] for row in rows],
            identities=[kept.identities[row] for row in rows],
            column_values=[extra[row] for row in rows],
            rows_B=np.array([kept.rows[row].number for row in rows]),
            num_rows=facts.rows,
            places=[kept.rows[row].place for row in rows],
            fractions=(settings.fractions[0], settings.fractions[1], settings.fractions[2]),
            seed=settings.split_seed,
            folds=settings.folds,
        )
    except InputError:
        return set(range(len(rows)))
    return {int(row) for one in parts for row in np.concatenate([one.train, one.valid])}
