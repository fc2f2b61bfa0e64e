"""Which molecules train, which select the weights and which are judged; and several partitions as one result."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from dnd.chemistry import splits
from dnd.chemistry.splits import Split, as_split, check_fractions
from dnd.common.compute import numpy_generator
from dnd.common.config import nearest
from dnd.common.errors import ConfigError, InputError
from dnd.common.log import LOGGER
from dnd.tables.labels import LabelRules, Notation, settle_notation
from dnd.tables.streams import open_bytes, text_lines


@dataclass(frozen=True)
class TableSettings:
    """How a labelled table is read and dealt into parts: what a finetuning settles before it loads anything else.

    Attributes:
        split: see `partitions`.
        fractions: sizes of the training, validation and test part, for the splits that draw them.
        folds: number of folds of the k-fold split; each fold trains a member.
        split_seed: random seed of a split that draws; apart from `loop.seed`, so that training seeds share a split.
        standardize: whether to learn and predict the neutral largest organic part of each molecule; kept in the model.
        labels: how cells are read as labels, beyond what they say themselves: words for missing ones, what becomes of
            `>10`, the decimal mark.
    """

    split: str = "scaffold"
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    folds: int = 5
    split_seed: int = 0
    standardize: bool = False
    labels: LabelRules = field(default_factory=LabelRules)

    def __post_init__(self) -> None:
        """Refuse settings that can't work before any work starts."""
        if self.folds < 3:
            raise ConfigError("folds must be at least 3", found=self.folds)
        sound = all(share > 0 for share in self.fractions) and abs(sum(self.fractions) - 1) <= 1e-9  # NaN is neither
        if len(self.fractions) != 3 or not sound:
            raise ConfigError("fractions are three positive numbers that sum to 1", found=self.fractions)


# Splits that the data give: by the order of a column, such as a date, or by files of row numbers.


def ordered_split(
    values: Sequence[str],
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    places: Sequence[int] = (),
    identities: Sequence[str] = (),
) -> tuple[Split, str]:
    """Smallest values to training, the next to validation, the largest to test: oldest first for a date.

    Rows of one value stay together, so a boundary moves to the nearest place where the value changes. So do the rows of
    a molecule, which count by the smallest of their values: the test part has only molecules that were new then.

    Args:
        values: one cell per row, all numbers or all ISO dates; a row whose cell is empty is in no part.
        fractions: fractions of the rows that have a value.
        places: rows as messages say them.
        identities: identities of the molecules; empty = every row is a molecule of its own.

    Returns:
        The parts, and a line about rows whose own value is that of a later part; empty where there are none.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
        InputError: a cell is neither a number nor an ISO date.
    """
    check_fractions(fractions)
    keys_B = _keys(values, places)
    known = np.flatnonzero(~np.isnan(keys_B))
    first_B = keys_B.copy()
    for rows in splits.rows_of_molecules(identities or range(len(values))):
        first_B[rows] = np.where(np.isnan(keys_B[rows]), np.nan, np.fmin.reduce(keys_B[rows]))
    order = known[np.argsort(first_B[known], kind="stable")]
    changes = np.flatnonzero(np.diff(first_B[order])) + 1
    changes = changes if len(changes) else np.array([len(order)])  # one value for all leaves two parts empty
    ends = [_nearest(changes, round(share * len(order))) for share in np.cumsum(fractions[:2])]
    starts = [first_B[order[end]] for end in ends if end < len(order)]
    later = known[np.searchsorted(starts, keys_B[known], "right") > np.searchsorted(starts, first_B[known], "right")]
    return as_split(*np.split(order, ends)), _kept_back_line([identities[row] for row in later])


def _kept_back_line(identities: Sequence[str]) -> str:
    """What is said of rows that are in an earlier part than their value says, by their molecules."""
    if not identities:
        return ""
    rows = "a later row" if len(identities) == 1 else f"{len(identities)} later rows"
    count = len(set(identities))
    whose = "a molecule" if count == 1 else f"{count} molecules"
    where = f"{'is' if len(identities) == 1 else 'are'} in the part of {'its' if count == 1 else 'their'} earliest row"
    return f"note: {rows} of {whose} {where}, so the test part has molecules that were new then"


def index_split(
    paths: Sequence[Path | str], rows_B: Int[np.ndarray, "molecules"], num_rows: int | None = None
) -> tuple[Split, int]:
    """Parts listed in three files of row numbers of the input, from 0: training, validation, test.

    A file has a row number per line, with a heading or without, as OGB's split files have it; `.gz` is read too.

    Args:
        paths: paths of the three files.
        rows_B: row number of each molecule, ascending.
        num_rows: rows of the input, usable or not; None = not known.

    Returns:
        Positions in `rows_B`, and how many of the listed rows hold no usable molecule.

    Raises:
        InputError: a file holds something else, a row that the input has not, or a row twice or in two parts.
    """
    if len(paths) != 3:
        raise InputError("the index split needs three files", found=len(paths), expected="index:TRAIN,VALID,TEST")
    place_of = {int(row): place for place, row in enumerate(rows_B)}
    owner: dict[int, str] = {}
    parts: list[list[int]] = []
    for path in paths:
        rows = _row_numbers(Path(path))
        for row in rows:
            if row in owner:
                raise InputError(f"row {row} is listed twice", found=f"{owner[row]} and {path}", expected="one part")
            if num_rows is not None and row >= num_rows:
                raise InputError(
                    f"row {row} of {path} is not in the table", found=f"rows 0 to {num_rows - 1}",
                    next_step="Count the rows of molecules from 0, as OGB's files do",
                )  # fmt: skip
            owner[row] = str(path)
        parts.append([place_of[row] for row in rows if row in place_of])
    return as_split(*parts), len(owner) - sum(map(len, parts))


def _keys(values: Sequence[str], places: Sequence[int] | Sequence[str]) -> Float[np.ndarray, "rows"]:
    """Cells as numbers that sort, NaN where empty; dates where they are not all numbers."""
    problems: dict[str, str] = {}
    notation = settle_notation(map(str.strip, values), "of the time split")
    readers = (
        ("a number", partial(_exact_number, notation)),
        ("an ISO date such as 2024-01-31", _timestamp),
    )
    for name, read in readers:
        keys = np.full(len(values), np.nan)
        for row, value in enumerate(values):
            try:
                keys[row] = read(value) if value.strip() else math.nan
                if math.isinf(keys[row]) or (value.strip() and math.isnan(keys[row])):
                    raise ValueError
            except ValueError:
                problems[name] = f"row {places[row] if places else row}: {value[:40]!r}"
                break
        else:
            return keys
    found = "; ".join(f"{cell} is not {name}" for name, cell in problems.items())
    raise InputError("the column does not order the rows", found=found, expected="numbers, or ISO dates, throughout")


def _exact_number(notation: Notation, text: str) -> float:
    number = notation.read(text)
    if number is None or number.side:
        raise ValueError(text)
    return number.value


def _timestamp(text: str) -> float:
    moment = datetime.datetime.fromisoformat(text.strip())
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _nearest(changes: Int[np.ndarray, "changes"], wanted: int) -> int:
    return int(changes[np.argmin(np.abs(changes - wanted))])


def _row_numbers(path: Path) -> list[int]:
    lines = [line.strip() for line in text_lines(open_bytes(path), path)]
    is_headed = bool(lines) and any(map(str.isalpha, lines[0])) and lines[0][0] not in "+-.0123456789"
    if is_headed:  # `20.0`, `20,21` and `2e1` are no header
        lines = lines[1:]
    bad = next((number for number, line in enumerate(lines) if line and not line.isdecimal()), None)
    if bad is not None:
        raise InputError(
            f"{path} is not a list of row numbers", found=repr(lines[bad][:40]), expected="a number per line"
        )
    return [int(line) for line in lines if line]


# Which molecules train, which select the weights and which are judged.


PARTS = ("train", "valid", "test")
_PLAIN = ("scaffold", "scaffold-balanced", "random", "cluster", "kfold")
_WITH_ARGUMENT = ("column", "time", "index")
_VALIDATION_SHARE = 0.1  # of the training molecules, where a column of parts names no row for validation
SPLITS = (*_PLAIN, "kfold:KxREPEATS", "column:NAME", "time:NAME", "index:TRAIN,VALID,TEST")
_FOLDS = re.compile(r"kfold:(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class _Wish:
    """`--split`, taken apart.

    Attributes:
        kind: one of `_PLAIN` and `_WITH_ARGUMENT`.
        argument: text behind the colon of `column`, `time` and `index`.
        folds: K of the k-fold split, where it's given.
        repeats: how often the folds are drawn anew.
    """

    kind: str
    argument: str = ""
    folds: int | None = None
    repeats: int = 1


def partitions(
    split: str,
    smiles: Sequence[str],
    *,
    identities: Sequence[str] = (),
    column_values: Sequence[str] = (),
    rows_B: Int[np.ndarray, "molecules"] | None = None,
    num_rows: int | None = None,
    places: Sequence[int] = (),
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    folds: int = 5,
) -> list[Split]:
    """One partition, or one per fold; none of their parts is empty.

    Args:
        split: `scaffold` (OGB's rule), `scaffold-balanced` (chemprop's), `random`, `cluster` (Butina), `kfold`,
            `kfold:KxREPEATS`, `column:NAME` (train, valid, test; without valid a tenth of train), `time:NAME` (smallest
            values to training), or `index:TRAIN,VALID,TEST` (files of row numbers).
        identities: identities of the molecules, such as canonical SMILES; the rules that draw keep the rows of one
            molecule in one part, and `time` in that of its first row. A given column and files of row numbers are taken
            as they are; a warning counts the molecules that they put into two parts and names the first. Empty = every
            row is a molecule of its own.
        column_values: cells of the column that `column:NAME` or `time:NAME` names.
        rows_B: row numbers of the molecules in the input, for `index`; none = counted from 0.
        num_rows: rows of the input, usable or not; None = as many as molecules.
        places: numbers of the rows of the molecules, as messages count; none = counted from 0.
        fractions: fractions of the parts, where the rule has any.
        seed: random seed of the draw, independent of the training seed.
        folds: K where `split` does not say it. Fold k is tested by a network that chose its epoch on fold k + 1 and
            learned from the others.

    Raises:
        ConfigError: no such split.
        InputError: a part would be empty, or the column or the files hold something else.
    """
    wish, count = _read(split), len(smiles)
    if wish.kind == "scaffold":
        found = [splits.scaffold_split(smiles, fractions, identities)]
    elif wish.kind == "random":
        found = [splits.random_split(count, fractions, seed, identities)]
    elif wish.kind == "kfold":
        number = wish.folds or folds
        pairs = [(repeat, fold) for repeat in range(wish.repeats) for fold in range(number)]
        found = [splits.k_fold_split(count, number, fold, seed, repeat, identities) for repeat, fold in pairs]
    elif wish.kind == "column":
        found = [_with_validation(splits.column_split(column_values, places), identities, seed)]
    elif wish.kind == "time":
        by_time, kept_back = ordered_split(column_values, fractions, places, identities)
        found = [by_time]
        if kept_back:
            LOGGER.info(kept_back)
    elif wish.kind == "index":
        numbers_B = np.arange(count) if rows_B is None else rows_B
        given, lost = index_split(wish.argument.split(","), numbers_B, num_rows or count)
        found = [given]
        if lost:
            LOGGER.info(f"note: {lost} rows of the index files are left out: no valid molecule, no label, or not drawn")
    else:
        rule = splits.cluster_split if wish.kind == "cluster" else splits.balanced_scaffold_split
        found = [rule(smiles, fractions, seed, identities)]
    for partition in found:
        _require_parts(partition, split)
    outside = count - sum(map(len, found[0].parts().values()))
    if outside:
        rows = "row with a molecule is" if outside == 1 else "rows with a molecule are"
        LOGGER.info(f"note: {outside} {rows} in no part of the split and not used")
    return found


def _with_validation(given: Split, identities: Sequence[str], seed: int) -> Split:
    """The parts of a column; where it names no validation row, a tenth of the training molecules becomes that part."""
    if len(given.valid):
        return given
    own = [identities[row] for row in given.train] if identities else [str(row) for row in given.train]
    groups = splits.rows_of_molecules(own)
    order = numpy_generator(seed, "validation part").permutation(len(groups))
    drawn = [row for place in order[: max(1, round(_VALIDATION_SHARE * len(groups)))] for row in groups[place]]
    is_valid = np.zeros(len(given.train), dtype=bool)
    is_valid[drawn] = True
    LOGGER.info(f"note: the split column names no validation row, so {is_valid.sum()} training rows are drawn for it")
    return splits.as_split(given.train[~is_valid], given.train[is_valid], given.test)


def is_test_word(split: str, word: str) -> bool:
    """Whether the cell of a `column:NAME` split puts its row into the test part."""
    return _read(split).kind == "column" and splits.part_named(word) == "test"


def cells_of_molecules(
    split: str, cells: Sequence[str], of_molecule: Sequence[Sequence[int]], places: Sequence[str], texts: Sequence[str]
) -> list[str]:
    """The cell of the split's column for each molecule that has several rows, in one file or in several.

    The earliest one for `time`, as a molecule is new only once. A column of parts must name the same part in all rows.

    Args:
        split: the split.
        cells: of all rows; empty ones say nothing.
        of_molecule: places of the rows of each molecule.
        places: rows as messages say them.
        texts: SMILES of the rows.

    Raises:
        InputError: a molecule is in two parts, or the column does not order the rows.
    """
    if _read(split).kind != "time":
        return [_one_part([cells[row] for row in rows], texts[rows[0]]) for rows in of_molecule]
    keys_B = _keys(cells, places)
    known = [[row for row in rows if not np.isnan(keys_B[row])] for rows in of_molecule]
    return [cells[min(rows, key=lambda row: keys_B[row])] if rows else "" for rows in known]


def _one_part(cells: Sequence[str], smiles: str) -> str:
    """The cell that says in which part a molecule is."""
    found = {splits.part_named(cell) or cell.strip(): cell for cell in cells if cell.strip()}
    if len(found) > 1:
        raise InputError(
            f"the files put {smiles} into different parts of the split",
            found=", ".join(found.values()),
            expected="one part: else a molecule would be learnt from one file and tested in another",
            next_step="Use --split scaffold, which splits the molecules of all files together",
        )
    return next(iter(found.values()), "")


def split_column(split: str) -> str | None:
    """The column of the data that a split needs; None where it needs none.

    Raises:
        ConfigError: no such split.
    """
    wish = _read(split)
    return wish.argument if wish.kind in ("column", "time") else None


def needs_one_file(split: str) -> bool:
    """Whether a split is by row numbers of its input, so that there may be one only."""
    return _read(split).kind == "index"


def has_folds(split: str) -> bool:
    """Whether a split has several partitions, each with members of its own."""
    return _read(split).kind == "kfold"


def _read(split: str) -> _Wish:
    """Take `--split` apart; an unknown one is refused before any work."""
    kind, _, argument = split.partition(":")
    folds = _FOLDS.fullmatch(split)
    if folds is not None:
        wish = _Wish("kfold", folds=int(folds[1]), repeats=int(folds[2] or 1))
        if wish.folds is None or wish.folds < 3 or wish.repeats < 1:
            raise ConfigError("the split has too few folds", found=split, expected="3 folds or more, such as kfold:5x3")
        return wish
    if (kind in _WITH_ARGUMENT and argument) or split in _PLAIN:
        return _Wish(kind, argument)
    raise ConfigError(f"unknown split {split!r}", next_step=nearest(split, SPLITS))


def _require_parts(partition: Split, split: str) -> None:
    sizes = {part: len(getattr(partition, part)) for part in PARTS}
    if min(sizes.values()) == 0:
        counts = ", ".join(f"{part} {size}" for part, size in sizes.items())
        hints = {
            "scaffold": "Use --split random: these molecules have too few different scaffolds",
            "scaffold-balanced": "Use --split random: these molecules have too few different scaffolds",
            "cluster": "Use --split random: these molecules form too few clusters",
            "time": "Use --split column:NAME with parts of your own: the column has too few different values",
        }
        raise InputError(f"the {split} split leaves a part empty", found=counts, next_step=hints.get(_read(split).kind))


# Several partitions as one result: means with intervals. Comparisons with baselines are in `verdict.py`.
#
# The training sets of folds overlap, so their results are not independent and the plain standard error is too small.
# The variance of a mean over folds is taken as (1/J + n_test/n_train) s² instead, J folds with sample variance s². What
# a blend learns from, by predictions out of fold, is the validation part too.
#
# Source: Nadeau and Bengio, Machine Learning 52 (2003) 239; for repeated folds Bouckaert and Frank, PAKDD 2004.


CONFIDENCE = 0.95
TRAINING_PART, DEVELOPMENT_PARTS = ("train",), ("train", "valid")
Fold = Mapping[str, Mapping[str, Any]]


def half_width(values: Sequence[float], share: float) -> float | None:
    r"""Half the 95 % interval of a mean over folds, :math:`t_{J-1} \sqrt{(1/J + n_\text{test}/n_\text{train}) s^2}`.

    Args:
        values: one per fold.
        share: molecules of the test part over those that the model learned from.

    Returns:
        None for fewer than two folds.
    """
    count = len(values)
    if count < 2:
        return None
    deviation = math.sqrt((1 / count + share) * float(np.var(values, ddof=1)))
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * deviation


def over_folds(
    folds: Sequence[Fold], metrics: Sequence[str], learned: Sequence[str] = TRAINING_PART
) -> dict[str, dict[str, Any]]:
    """Mean, sample deviation and half width of each metric of each part; a single fold is returned as it is.

    Args:
        folds: metrics of the parts of each fold.
        metrics: names of the metrics.
        learned: the parts that the model learned from.
    """
    if len(folds) == 1:
        return {part: dict(values) for part, values in folds[0].items()}
    share = held_out_share(folds, learned)
    found: dict[str, dict[str, Any]] = {}
    for part in PARTS:
        found[part] = {"molecules": sum(fold[part]["molecules"] for fold in folds), "folds": len(folds)}
        for metric in metrics:
            values = [fold[part][metric] for fold in folds if fold[part][metric] is not None]
            found[part][metric] = float(np.mean(values)) if values else None
            found[part][f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
            found[part][f"{metric}_half_width"] = half_width(values, share)
        found[part]["targets"] = {
            name: {metric: _mean_of(fold[part]["targets"][name][metric] for fold in folds) for metric in own}
            for name, own in folds[0][part]["targets"].items()
        }
    return found


def held_out_share(folds: Sequence[Fold], learned: Sequence[str]) -> float:
    """Molecules of the test parts over those of the parts that the model learned from."""
    taught = sum(fold[part]["molecules"] for fold in folds for part in learned)
    return float(sum(fold["test"]["molecules"] for fold in folds) / taught)


def _mean_of(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
