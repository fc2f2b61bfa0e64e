"""A column of labels, read in one way for every verb; and a random sample of the labelled rows of a large table.

It is long because the reader, its refusals and its notes are one set of rules, and a second reader would differ.
"""

from __future__ import annotations

import collections
import itertools
import math
import random
import re
import shlex
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np

from dnd.common.compute import derive_seed
from dnd.common.errors import ConfigError, InputError
from dnd.common.log import counted

# Numbers as people write them: decimal comma, thousands separators, percent, `>10`; a notation for a whole column.
#
# A single cell can't be read for sure: `1,234` is 1.234 in one country and 1234 in another. So the notation is settled
# by all cells of a column together, and a separator that may be either is refused rather than guessed.

DecimalMark = Literal["auto", "point", "comma"]

LARGEST = float(np.finfo(np.float32).max)
"""Networks compute in 32 bits; what is beyond is infinite there."""

LARGEST_WHOLE = 2**53
"""Beyond it whole numbers are rounded in 64 bits, so that two of them may become one."""

_LONGEST = 64
_DASHES = "\u2212\u2013\u2011\ufe63\uff0d"  # minus sign, en dash, and others that programs make of a minus
_SIGN = rf"(?P<sign>[+\-{_DASHES}]?)"
_EXPONENT = rf"(?P<exponent>[eE][+\-{_DASHES}]?\d{{1,4}})?"
_LIMIT = re.compile(r"(>=|=>|>>|>|\u2265|\u2a7e|\u226b)|(<=|=<|<<|<|\u2264|\u2a7d|\u226a)")
_TO_MINUS = str.maketrans(dict.fromkeys(_DASHES, "-"))
_BLANKS = "[ \u00a0\u202f\u2009'\u2019]"


def _pattern(decimal: str, thousands: str) -> re.Pattern[str]:
    grouped = rf"[1-9]\d{{0,2}}(?:(?P<mark>{thousands})\d{{3}})(?:(?P=mark)\d{{3}})*"
    return re.compile(rf"{_SIGN}\s?(?P<whole>{grouped}|\d*)(?:{decimal}(?P<part>\d*))?{_EXPONENT}", re.ASCII)


_PLAIN = {"point": _pattern(r"\.", _BLANKS), "comma": _pattern(",", _BLANKS)}
_GROUPED = {"point": _pattern(r"\.", f"(?:,|{_BLANKS})"), "comma": _pattern(",", rf"(?:\.|{_BLANKS})")}
# A cell that shows which mark is which: 1,234.5 and 1,234,567; 1.234,5 and 1.234.567.
_PROOF = {
    "point": re.compile(r"\D{0,4}\d{1,3}(?:,\d{3}){1,8}\.\d*\D*|\D{0,4}\d{1,3}(?:,\d{3}){2,8}\D*"),
    "comma": re.compile(r"\D{0,4}\d{1,3}(?:\.\d{3}){1,8},\d*\D*|\D{0,4}\d{1,3}(?:\.\d{3}){2,8}\D*"),
}
_EITHER = re.compile(r"\D{0,4}[1-9]\d{0,2},\d{3}\D{0,4}")  # 1,234


@dataclass(frozen=True)
class Number:
    """What a cell says.

    Attributes:
        value: the number, or the limit.
        side: 1 where the truth is above `value` (`>10`), -1 where it is below, 0 where the number is the truth.
        percent: whether there is a percent sign.
        whole: the whole number, where it is written as one, also as `3.0`; else None.
    """

    value: float
    side: Literal[-1, 0, 1] = 0
    percent: bool = False
    whole: int | None = None

    @property
    def problem(self) -> str | None:
        """Why it can't be learned as it is; None when it can."""
        if not abs(self.value) <= LARGEST:
            return "beyond the range of single precision"
        if self.whole is not None and abs(self.whole) > LARGEST_WHOLE and int(self.value) != self.whole:
            return "a whole number beyond 2^53, which would be rounded"
        return None


@dataclass(frozen=True)
class Notation:
    """How the numbers of a column are written.

    Attributes:
        decimal: the mark.
        grouped: whether the other mark separates thousands.
    """

    decimal: Literal["point", "comma"] = "point"
    grouped: bool = False

    def read(self, text: str) -> Number | None:
        """The number in a cell; None where it's none. Neither `inf` nor `nan` nor `1_000` is one."""
        text = text.strip()
        if len(text) > _LONGEST:
            return None
        limit = _LIMIT.match(text)
        rest = text[limit.end() :].lstrip() if limit else text
        percent = rest.endswith("%")
        found = (_GROUPED if self.grouped else _PLAIN)[self.decimal].fullmatch(rest.removesuffix("%").rstrip())
        if found is None or not (found["whole"] or found["part"]):
            return None
        whole = re.sub(r"\D", "", found["whole"])
        sign = "-" if found["sign"] not in ("", "+") else ""
        exponent = (found["exponent"] or "").translate(_TO_MINUS)
        value = float(f"{sign}{whole or 0}.{found['part'] or 0}{exponent}")
        side: Literal[-1, 0, 1] = 0 if limit is None else 1 if limit[1] else -1
        is_whole = not exponent and not (found["part"] or "").strip("0")  # 3.0 counts; 3e20 is how floats are written
        return Number(value, side, percent, int(sign + (whole or "0")) if is_whole else None)


def is_decimal_comma(text: str) -> bool:
    """Whether a cell is a number with a decimal comma."""
    return "," in text and len(text) <= _LONGEST and _PLAIN["comma"].fullmatch(text.strip()) is not None


def is_decimal_point(text: str) -> bool:
    """Whether a cell is a number with a decimal point."""
    return "." in text and len(text) <= _LONGEST and _PLAIN["point"].fullmatch(text.strip()) is not None


def settle_notation(
    texts: Iterable[str], column: str, mark: DecimalMark = "auto", *, comma_file: bool = False
) -> Notation:
    """The notation of the numbers of a column.

    Args:
        texts: its cells, words among them or not.
        column: its name, for messages.
        mark: what the user says; then the other mark separates thousands.
        comma_file: cells are separated by semicolons, as where the comma is the decimal mark.

    Raises:
        InputError: every cell with a comma may be read either way, as `1,234`.
    """
    if mark != "auto":
        return Notation(mark, grouped=True)
    short = [text for text in texts if len(text) <= _LONGEST and any(map(str.isdigit, text))]
    with_comma = [text for text in short if "," in text and is_number(text)]
    if not with_comma:
        dotted = any(_PROOF["comma"].fullmatch(text) for text in short)
        return Notation("comma", grouped=True) if dotted else Notation()
    if any(_PROOF["point"].fullmatch(text) for text in with_comma):
        return Notation("point", grouped=True)
    if any(_PROOF["comma"].fullmatch(text) for text in short):
        return Notation("comma", grouped=True)
    if any("." in text and _PLAIN["point"].fullmatch(text) for text in short):
        return Notation()  # both marks and no proof: the cells with a comma are bad ones
    if comma_file or not all(_EITHER.fullmatch(text) for text in with_comma):
        return Notation("comma")
    raise InputError(
        f"column {column}: the comma may be a decimal mark or separate thousands",
        found=f"{with_comma[0]!r} in {len(with_comma)} cells",
        next_step="Say which with --decimal comma or --decimal point",
    )


def is_number(text: str) -> bool:
    """Whether a cell is a number in one notation or the other."""
    return any(Notation(decimal, grouped=True).read(text) is not None for decimal in ("point", "comma"))


# What the words of a label column mean, for every verb.


MOST_CLASSES = 50
"""Largest number of classes of one target."""

_FEW_CLASSES = 10

MISSING_WORDS = frozenset(
    {
        "", "nan", "na", "n/a", "#n/a", "#na", "<na>", "null", "none", "nil", "?", "-", "--", ".", "n.d.", "n.d", "nd",
        "n.a.", "n.t.", "nt", "blq", "bloq", "bql", "lloq", "not determined", "not tested", "not available", "missing",
        "#value!", "#div/0!", "#ref!", "#num!", "#name?", "#null!",
        "n.b.", "k.a.", "#nv", "#wert!", "#bezug!", "#zahl!",  # of German laboratories and of a German spreadsheet
    }
)  # fmt: skip
"""What stands for no value in a column of numbers."""

# The first word of a pair is class 0, the second class 1. Other pairs go by the alphabet.
_PAIRS = (
    ("no", "yes"), ("n", "y"), ("false", "true"), ("f", "t"), ("inactive", "active"), ("negative", "positive"),
    ("neg", "pos"), ("-", "+"), ("low", "high"), ("fail", "pass"), ("off", "on"), ("nontoxic", "toxic"),
    ("non-toxic", "toxic"), ("nonbinder", "binder"), ("non-binder", "binder"),
)  # fmt: skip
_NINES = re.compile(r"[+-]?(?:9{3,9}|1e(?:20|30|35|38))(?:[.,]0*)?", re.IGNORECASE)
_SHOWN = 3
_LONE_DASHES = frozenset({*_DASHES, "\u2014"})
_WITH_UNIT = re.compile(
    r"\A[<>~=\u2264\u2265+\-" + _DASHES + r" ]{0,4}\d[\d.,]{0,20}(?:[eE][+\-]?\d{1,3})? ?"
    r"(?:[fpnu\u00b5\u03bcm]M|[fpnu\u00b5\u03bcm]?mol/[lL]|[pnu\u00b5\u03bcmk]?g(?:/(?:[mud]?[lL]|k?g))?|k?cal/mol|k?J/mol|m?eV"
    r"|\u00b0[CF]|\u00c5|nm|ppm|ppb|k?Da|k?Pa|mmHg|min|m[lL]/min(?:/k?g)?|[u\u00b5\u03bc][lL]/min/mg)",
)
_A_WORD, _A_LIMIT = "a word", "a limit"  # kinds of cells that are no numbers; other kinds say what is wrong

CensoredChoice = Literal["keep", "drop", "limit"]


# A unit in the name of a column, as in `Ki (nM)`, `IC50_uM` and `LogS (ug/mL)`. What else stands in brackets, such as
# `(human)`, is none.
_MICRO = "u\u00b5\u03bc"
_UNIT_WORD = (
    rf"(?:[fpn{_MICRO}mcdkMG]?(?:M|mol|g|[lL]|m|s|K|J|cal|eV|V|Da|Pa|bar|Hz|W|Ha|U)|\u00b0?[CF]|\u00b0|\u00c5|D|min|h|hr|d"
    r"|day|days|atm|torr|Torr|mmHg|ppm|ppb|hartree|Hartree|debye|Debye|a\.u\.|cells?)"
)
_POWER = "(?:\\^?[-\u2212\u207b]?[0-9\u00b9\u00b2\u00b3])?"
_A_UNIT = re.compile(
    rf"%.{{0,20}}|(?:10\^?-?\d{{1,2}} )?(?:{_UNIT_WORD}|1){_POWER}"
    rf"(?: ?[/*\u00b7. ] ?(?:10\^?\d{{1,2}} )?{_UNIT_WORD}{_POWER}){{0,4}}"
)
_IN_BRACKETS = re.compile(r".*\S\s*[(\[]([^()\[\]]{1,30})[)\]]\s*")
_AT_THE_END = re.compile(rf".*[A-Za-z0-9][ _,]+((?:[fpn{_MICRO}m]M|k?cal/mol|kJ/mol|[mn{_MICRO}]g/m?[lL]))")
_LOGARITHM = re.compile(
    r"(?:.*[^A-Za-z])?(?:log(?:10)?(?![a-z]{2})|p(?:Ki|Kd|Ka|Kb|KB|IC50|EC50|GI50|CC50|LC50|LD50|MIC|AC50|XC50|A2|ChEMBL)).*",
    re.IGNORECASE,
)
_LONGEST_END = 100  # of a column's name, in which its unit is looked for
LOG_UNITS = "log units"


def unit_of_name(name: str) -> str:
    """The unit that the name of a column says; a logarithm's is `log units`, whatever it is the logarithm of."""
    end = name[-_LONGEST_END:]
    if _LOGARITHM.fullmatch(end):
        return LOG_UNITS
    found = _IN_BRACKETS.fullmatch(end)
    if found and _A_UNIT.fullmatch(found[1].strip()):
        return found[1].strip()
    found = _AT_THE_END.fullmatch(end)
    return found[1] if found else ""


_NAMES_OF_UNITS = frozenset({"unit", "units", "uom", "einheit", "einheiten"})
_SHORTEST = 2  # letters; `M` and `F`, which are units, may be the sexes
_MOST_UNITS = 10
_SPELLINGS = str.maketrans("\u00b5\u03bc", "uu")


def plain_unit(unit: str) -> str:
    """A unit with one spelling of micro."""
    return unit.translate(_SPELLINGS)


def gives_units(name: str, cells: Iterable[str]) -> bool:
    """Whether the cells of a column are the units of the numbers beside them, by its name or by all of its cells.

    Args:
        name: such as `Units`, `IC50_unit` or `standardUnits`.
        cells: stripped; empty ones say nothing.
    """
    known = {cell for cell in cells if cell}
    if not 0 < len(known) <= _MOST_UNITS or any(cell[0].isdigit() for cell in known):
        return False
    words = name.replace("_", " ").replace("-", " ").replace(".", " ").split()
    named = bool(words) and (words[-1].casefold() in _NAMES_OF_UNITS or words[-1].endswith(("Unit", "Units")))
    return named or all(
        cell == "%" or (_SHORTEST <= len(cell) <= _LONGEST_END and _A_UNIT.fullmatch(cell) is not None)
        for cell in known
    )


class UnitColumns:
    """The columns beside the labels that give the unit of each row, and the rows of each unit.

    Args:
        columns: names of all columns that hold no label.
    """

    def __init__(self, columns: Iterable[str]) -> None:
        self._counts: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in columns}

    def add(self, values: Mapping[str, str]) -> None:
        """Count the cells of a row with a label; columns that can't be units any more are forgotten."""
        for name, counts in list(self._counts.items()):
            cell = plain_unit(values[name].strip())
            if cell:
                counts[cell] += 1
            if len(counts) > _MOST_UNITS or cell[:1].isdigit():
                del self._counts[name]

    def notes(self) -> tuple[str, ...]:
        """A line about each column with several units, as numbers in several units are no labels of one target."""
        found = []
        for name, counts in self._counts.items():
            if len(counts) > 1 and gives_units(name, counts):
                listed = ", ".join(f"{unit[:20]} in {counted(rows, 'row')}" for unit, rows in counts.most_common())
                found.append(
                    f"column {name} has {len(counts)} units beside the labels ({listed}): the numbers are read as they "
                    f"are, so bring them to one unit first"
                )
        return tuple(found)


@dataclass(frozen=True)
class LabelRules:
    """The user's rules for reading labels.

    Attributes:
        missing: further words or values for a missing label, such as -999; they count in columns of words too.
        measured: values that look like placeholders, such as 9999, but were measured.
        censored: how to read labels such as `>10`: `keep` them as limits, `drop` them, or use the `limit` as the
            value. None = they are an error.
        decimal: decimal mark of all columns; `auto` = inferred for each.
    """

    missing: tuple[str, ...] = ()
    measured: tuple[str, ...] = ()
    censored: CensoredChoice | None = None
    decimal: DecimalMark = "auto"

    def __post_init__(self) -> None:
        """Raise an error for a value that is named as both."""
        both = set(map(class_key, self.missing)) & set(map(class_key, self.measured))
        if both:
            raise ConfigError("a value can't be both missing and measured", found=min(both))


@dataclass(frozen=True)
class LabelColumn:
    """The labels of one column.

    Attributes:
        values: numbers, NaN where missing; for words, places in `words`.
        sides: 1 or -1 where a label is a limit and the truth is above or below it, else 0.
        words: names of the classes where the labels are words, class 0 first; empty where they are numbers.
        notes: notes on how the cells were read, a line each.
        unit: `%` if the cells have it, else what the name of the column says; empty = neither says one.
    """

    values: list[float]
    sides: list[int]
    words: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unit: str = ""


def class_key(text: str) -> str:
    """A key that is equal for all spellings of a class: letter case, blanks and how accents are coded don't count.

    A dash alone is a minus, however long it is.
    """
    key = unicodedata.normalize("NFC", " ".join(text.split()).casefold())
    return "-" if key in _LONE_DASHES else key


def is_missing(text: str) -> bool:
    """Whether a cell holds no label in a column of numbers."""
    return class_key(text) in MISSING_WORDS


def missing_words_in(cells: Iterable[str], words: Iterable[str]) -> set[str]:
    """Those of the user's words for a missing label that a cell is, as a word or as a value."""
    known = list(filter(None, map(str.strip, cells)))
    keys = set(map(class_key, known))
    read = [Notation(decimal).read(cell) for cell in known for decimal in ("point", "comma")]
    values = {number.value for number in read if number is not None and number.side == 0}
    return {word for word in words if class_key(word) in keys or values & _values([word])}


def unread_labels(target: str, count: int, kind: Literal["number", "class"]) -> str:
    """Why labels that only molecules outside of the training and validation parts have are not used."""
    one, several = {
        "number": ("a number like theirs", "numbers like theirs"),
        "class": ("a class of theirs", "classes of theirs"),
    }[kind]
    labels, counts, reason = ("label", "counts", f"it is not {one}") if count == 1 else (
        "labels", "count", f"they are not {several}"
    )  # fmt: skip
    return (
        f"target {target}: {count} {labels} outside of the training and validation parts {counts} as missing, "
        f"because {reason}"
    )


def unused_words_note(words: Iterable[str], columns: Sequence[str]) -> tuple[str, ...]:
    """The line about words for a missing label that no cell is, such as a slip of the pen; else nothing."""
    listed = ", ".join(repr(word[:40]) for word in sorted(words))
    return (f"no cell of {', '.join(columns)} is {listed}, given as missing",) if listed else ()


def holds_numbers(cells: Iterable[str]) -> bool:
    """Whether a cell of a column is a number in any notation, so that words such as `none` are not classes there."""
    return any(map(is_number, cells))


def read_column(
    cells: Sequence[str],
    *,
    places: Sequence[int],
    column: str,
    rules: LabelRules,
    comma_file: bool = False,
    learned: Sequence[bool] = (),
    of_model: tuple[str, ...] | None = None,
) -> LabelColumn:
    """The labels of one column: numbers, or classes where no label is a number.

    The cells of the rows that are learned decide everything: notation, classes, the words for a missing label,
    the errors. Other cells are read in the same way; one that can't be read counts as missing, with a note.

    Args:
        cells: cells as written in the table.
        places: row number of each cell, for messages.
        column: name of the column.
        rules: the user's rules.
        comma_file: see `settle_notation`.
        learned: whether each cell is that of a training or validation molecule; empty = all are.
        of_model: the classes of a model that the labels judge, empty for a model of values; few labels do not say which
            of both they are. None = there is no model yet.

    Raises:
        InputError: cells that can't be read, all of them counted in one message; a value that looks like a placeholder;
            more than 50 different words, or words that name molecules: more than ten, and more than half of the labels.
    """
    return _Column([cell.strip() for cell in cells], places, column, rules, comma_file, learned, of_model).read()


@dataclass(frozen=True)
class ColumnCells:
    """The cells of a column by kind, including those that a reader would reject.

    Attributes:
        decimal: decimal mark of its numbers.
        numbers: cells that are a number, including limits and placeholders.
        percent: those with a percent sign.
        above: limits such as `>10`.
        below: limits such as `<0.1`.
        missing: cells without a label, by their text; the empty ones as an empty text.
        words: other cells that are not numbers, by their text.
        placeholders: numbers such as -999 far outside the others, by their text.
        placeholder_words: the same as `LabelRules.missing` has them: -999 where cells have -999,0.
    """

    decimal: Literal["point", "comma"]
    numbers: int
    percent: int
    above: int
    below: int
    missing: dict[str, int]
    words: dict[str, int]
    placeholders: dict[str, int]
    placeholder_words: tuple[str, ...]


def column_cells(cells: Sequence[str], *, column: str, rules: LabelRules, comma_file: bool = False) -> ColumnCells:
    """Sort the cells of a column by their kind; only an ambiguous comma is an error.

    Args:
        cells: cells as written in the table.
        column: name of the column.
        rules: the user's rules.
        comma_file: see `settle_notation`.

    Raises:
        InputError: see `settle_notation`.
    """
    return _Column([cell.strip() for cell in cells], range(len(cells)), column, rules, comma_file, ()).kinds()


class _Column:
    """One column while it's read; each distinct text is examined once, however often it occurs."""

    def __init__(
        self,
        texts: list[str],
        places: Sequence[int],
        name: str,
        rules: LabelRules,
        comma_file: bool,
        learned: Sequence[bool],
        of_model: tuple[str, ...] | None = None,
    ) -> None:
        self.texts, self.places, self.name, self.rules, self.of_model = texts, places, name, rules, of_model
        self.known_classes = set(map(class_key, of_model or ()))
        self.learned = list(learned) or [True] * len(texts)
        self.counts = collections.Counter(itertools.compress(texts, self.learned))
        self.others = collections.Counter(text for text, own in zip(texts, self.learned, strict=True) if not own)
        self.asked = {class_key(word) for word in rules.missing}
        self.notation = settle_notation(self.counts, name, rules.decimal, comma_file=comma_file)
        self.asked_values = _values(rules.missing)
        self.notes: list[str] = []

    def read(self) -> LabelColumn:
        known = [text for text in self.counts if text and not self._is_asked(text)]
        numbers = {text: number for text in known if (number := self.notation.read(text)) is not None}
        words = [text for text in known if text not in numbers]
        if self.of_model != () and not numbers and any(not self._is_no_class(word) for word in words):
            return self._classes(words)
        return self._numbers(numbers, [word for word in words if not is_missing(word)])

    def kinds(self) -> ColumnCells:
        """Its cells by their kind."""
        counts, read = self.counts, self.notation.read
        known = [text for text in counts if text and not self._is_asked(text)]
        numbers = {text: number for text in known if (number := read(text)) is not None}
        words = {text for text in known if text not in numbers and not (numbers and is_missing(text))}
        far = self._placeholders(numbers)
        by_side = {side: sum(counts[text] for text, one in numbers.items() if one.side == side) for side in (1, -1)}
        common = [text for text, _ in counts.most_common()]
        return ColumnCells(
            decimal=self.notation.decimal,
            numbers=sum(counts[text] for text in numbers),
            percent=sum(counts[text] for text, one in numbers.items() if one.percent),
            above=by_side[1],
            below=by_side[-1],
            missing={text: counts[text] for text in common if text not in numbers and text not in words},
            words={text: counts[text] for text in common if text in words},
            placeholders={text: counts[text] for text in far},
            placeholder_words=tuple(_as_word(text, numbers[text].value) for text in far),
        )

    def _is_asked(self, text: str) -> bool:
        """Whether the user named a text as a missing label."""
        if class_key(text) in self.asked:
            return True
        number = self.notation.read(text) if self.asked_values else None
        return number is not None and number.side == 0 and number.value in self.asked_values

    def _is_no_class(self, text: str) -> bool:
        """Whether a word stands for a missing label and is no class of the model."""
        return is_missing(text) and class_key(text) not in self.known_classes

    # Columns of numbers

    def _numbers(self, numbers: Mapping[str, Number], words: Sequence[str]) -> LabelColumn:
        bad = dict.fromkeys(words, _A_WORD)
        bad |= {text: number.problem for text, number in numbers.items() if number.problem}
        with_sign = sum(self.counts[text] for text, number in numbers.items() if number.percent)
        total = sum(self.counts[text] for text in numbers)
        if 0 < with_sign < total:
            odd = with_sign * 2 <= total
            bad |= {text: "with and without %" for text, one in numbers.items() if one.percent == odd}
        censored = {text: number for text, number in numbers.items() if number.side and text not in bad}
        if self.rules.censored is None:
            bad |= dict.fromkeys(censored, _A_LIMIT)
        if bad:
            raise self._refusal(bad)
        self._refuse_placeholders(numbers)
        if self.of_model != () and censored and len({number.value for number in numbers.values()}) <= 2:
            raise InputError(
                f"column {self.name} has limits, and two values only, which would be classes",
                found="; ".join(self._shown(text, _A_LIMIT) for text in list(censored)[:_SHOWN]),
                expected="values, or classes without > and <", next_step="Correct the cells",
            )  # fmt: skip
        further, unread = self._other_numbers(numbers, bool(with_sign))
        self._note_missing([text for text in self._may_be_missing() if text not in numbers])
        self._note_censored({**censored, **{text: one for text, one in further.items() if one.side}})
        if self.notation.decimal == "comma":
            self.notes.append(f"column {self.name} is read with decimal commas")
        if with_sign:
            self.notes.append(f"column {self.name} is in percent: 93.5% is learned as 93.5")
        self._note_unread(unread, "number")
        drop = self.rules.censored == "drop"
        kept = {text: number for text, number in {**numbers, **further}.items() if not (drop and number.side)}
        values = [kept[text].value if text in kept else math.nan for text in self.texts]
        keep = self.rules.censored == "keep"
        sides: list[int] = [kept[text].side if keep and text in kept else 0 for text in self.texts]
        return LabelColumn(values, sides, (), tuple(self.notes), "%" if with_sign else unit_of_name(self.name))

    def _other_numbers(self, numbers: Mapping[str, Number], percent: bool) -> tuple[dict[str, Number], list[str]]:
        """The cells that only test molecules have: those that are read as the others are, and those that can't be."""
        further: dict[str, Number] = {}
        for text in self._only_others():
            number = self.notation.read(text)
            if number is not None and self._is_of_the_kind(text, number, numbers, percent):
                further[text] = number
        return further, [text for text in self._only_others() if text not in further]

    def _is_of_the_kind(self, text: str, number: Number, numbers: Mapping[str, Number], percent: bool) -> bool:
        """Whether a number would not be refused among `numbers`."""
        if number.problem or (number.side and self.rules.censored is None) or (numbers and number.percent != percent):
            return False
        return not (_NINES.fullmatch(text) and self._placeholders({**numbers, text: number}))

    def _only_others(self) -> list[str]:
        """Texts that no learned row has, and that say something."""
        return [text for text in self.others if text not in self.counts and not self._says_nothing(text)]

    def _may_be_missing(self) -> list[str]:
        """What may be missing labels: texts of learned rows, and those of others that say nothing; no empty cells."""
        own = [text for text in self.counts if text]
        return own + [text for text in self.others if text and text not in self.counts and self._says_nothing(text)]

    def _says_nothing(self, text: str) -> bool:
        return is_missing(text) or self._is_asked(text)

    def _note_unread(self, unread: Sequence[str], kind: Literal["number", "class"]) -> None:
        """Say which labels of molecules that nothing is learned from count as missing."""
        if unread:
            count = sum(self.others[text] for text in unread)
            shown = ", ".join(f"row {self._first_place(text)} {text[:40]!r}" for text in unread[:_SHOWN])
            more = " …" if len(unread) > _SHOWN else ""
            may_be_read = self.rules.censored is None and any(map(self._is_limit, unread))
            reads = "; --censored keep or limit reads limits" if may_be_read and kind == "number" else ""
            self.notes.append(f"{unread_labels(self.name, count, kind)}: {shown}{more}{reads}")

    def _is_limit(self, text: str) -> bool:
        number = self.notation.read(text)
        return number is not None and bool(number.side)

    def _refusal(self, bad: Mapping[str, str]) -> InputError:
        """All bad cells in one message: how many, the commonest, and what can be done about them."""
        common = sorted((text for text in self.counts if text in bad), key=lambda text: -self.counts[text])
        count, total = sum(self.counts[text] for text in bad), sum(self.learned)
        shown = [self._shown(text, bad[text]) for text in common[:_SHOWN]]
        more = f" and {len(common) - _SHOWN} others" if len(common) > _SHOWN else ""
        kinds, steps = set(bad.values()), ["Correct the cells"]
        word = next((text for text in common if bad[text] == _A_WORD and "," not in text), None)
        if word is not None:
            steps.append(f"add --missing {_quoted(word)} if the word means a missing label")
        if _A_LIMIT in kinds:
            steps.append("choose how to read > and < with --censored keep, drop or limit")
        if any(bad[text] == _A_WORD and "," in text for text in common):
            steps.append("name the decimal mark with --decimal comma or --decimal point")
        every = total == len(self.texts)
        cells = "cells" if every else "cells of the training and validation parts"
        what = "1 cell is not a number" if count == 1 else f"{count} of {total} {cells} are not numbers"
        return InputError(
            f"column {self.name}: {what} that can be learned", found="; ".join(shown) + more,
            expected="finite numbers, or words throughout", next_step=", or ".join(steps),
        )  # fmt: skip

    def _shown(self, text: str, kind: str) -> str:
        count, place = self.counts[text], self._first_place(text)
        where = f"row {place}" if count == 1 else f"{count} times, first in row {place}"
        reason = "" if kind in (_A_WORD, _A_LIMIT) else f", {kind}"
        return f"{text[:40]!r} ({where}{reason})"

    def _first_place(self, text: str) -> int:
        """The first row of a text; among the learned ones if it is there."""
        own = [index for index, other in enumerate(self.texts) if other == text]
        return self.places[next((index for index in own if self.learned[index]), own[0])]

    def _placeholders(self, numbers: Mapping[str, Number]) -> list[str]:
        """Values such as -999 that lie far outside all others."""
        measured = _values(self.rules.measured)
        odd = {text: one for text, one in numbers.items() if _NINES.fullmatch(text) and one.value not in measured}
        others = [one.value for text, one in numbers.items() if text not in odd]
        if not odd or len(set(others)) < 2:
            return []
        low, high = min(others), max(others)
        span = high - low
        return [text for text, one in odd.items() if not low - span <= one.value <= high + span]

    def _refuse_placeholders(self, numbers: Mapping[str, Number]) -> None:
        far = self._placeholders(numbers)
        if far:
            text = max(far, key=lambda one: self.counts[one])
            others = [one.value for other, one in numbers.items() if other not in far]
            low, high = min(others), max(others)
            word = _quoted(_as_word(text, numbers[text].value))
            raise InputError(
                f"column {self.name}: a value looks like a placeholder for a missing label",
                found=f"{self._shown(text, _A_LIMIT)}, the others are {low:g} to {high:g}",
                next_step=f"Add --missing {word}, or --measured {word} if that was measured",
            )

    # Columns of words

    def _classes(self, words: Sequence[str]) -> LabelColumn:
        missing = _missing_beside_pair({class_key(text) for text in words}) - self.known_classes
        kept = [text for text in words if class_key(text) not in missing]
        self._refuse_units(kept)
        self._refuse_quantities(kept)
        spellings: dict[str, collections.Counter[str]] = {}
        for text in kept:
            spellings.setdefault(class_key(text), collections.Counter())[" ".join(text.split())] += self.counts[text]
        order = _in_order(list(spellings))
        labels = sum(self.counts[text] for text in kept)
        if self.of_model is None and len(order) > min(MOST_CLASSES, max(_FEW_CLASSES, labels // 2)):
            common = sorted(kept, key=lambda text: -self.counts[text])[:_SHOWN]
            raise InputError(
                f"column {self.name} holds {len(order)} different words in {labels} labels",
                found="; ".join(self._shown(text, _A_WORD) for text in common),
                expected=f"numbers, or at most {MOST_CLASSES} classes, each of several molecules",
                next_step="Check --target-columns",
            )
        names = {key: min(own, key=lambda text: (-own[text], text)) for key, own in spellings.items()}
        places = {key: float(place) for place, key in enumerate(order)}
        self._note_missing(
            [text for text in self._may_be_missing() if text not in kept and class_key(text) not in places]
        )
        self._note_classes(spellings, names)
        place_of = {text: places[class_key(text)] for text in kept}
        further = {text: places[key] for text in self.others if (key := class_key(text)) in places}
        self._note_unread([text for text in self._only_others() if text not in further], "class")
        place_of |= further
        values = [place_of.get(text, math.nan) for text in self.texts]
        return LabelColumn(values, [0] * len(values), tuple(names[key] for key in order), tuple(self.notes))

    def _refuse_units(self, words: Sequence[str]) -> None:
        """`10 nM` and `2.5 nM` are two values, and no classes."""
        if words and all(map(_WITH_UNIT.fullmatch, words)):
            common = sorted(words, key=lambda text: -self.counts[text])
            raise InputError(
                f"column {self.name} holds numbers with their units",
                found="; ".join(self._shown(text, _A_WORD) for text in common[:_SHOWN]),
                expected="numbers, all in one unit",
                next_step=f"Take the unit out of the cells and into the name of the column, as in '{self.name} (nM)'",
            )

    def _refuse_quantities(self, words: Sequence[str]) -> None:
        """Dates and numbers in a form that is not read are no classes either."""
        for what, is_one in _QUANTITIES.items():
            if words and all(map(is_one, words)):
                common = sorted(words, key=lambda text: -self.counts[text])
                raise InputError(
                    f"column {self.name} holds {what}",
                    found="; ".join(self._shown(text, _A_WORD) for text in common[:_SHOWN]),
                    expected="numbers such as -1.5 or 2e-3, or words",
                    next_step="Write the cells as numbers, or name another column",
                )

    # Notes on a column

    def _note_missing(self, texts: Sequence[str]) -> None:
        """Count every word that is taken as missing."""
        if texts:
            counts = self.counts + self.others
            common = sorted(texts, key=lambda text: -counts[text])
            listed = ", ".join(f"{text[:40]!r} {counts[text]}" for text in common)
            empty = f", empty cells {counts['']}" if counts[""] else ""
            self.notes.append(f"missing labels of {self.name}: {listed}{empty}")

    def _note_censored(self, censored: Mapping[str, Number]) -> None:
        if not censored:
            return
        counts = self.counts + self.others
        above, below = (sum(counts[text] for text, one in censored.items() if one.side == side) for side in (1, -1))
        what = {"drop": "they are left out", "limit": "read as that value", "keep": "treated as limits, not as values"}
        fate = what[self.rules.censored or "drop"]
        self.notes.append(f"censored labels of {self.name}: {above} above and {below} below a limit; {fate}")

    def _note_classes(self, spellings: Mapping[str, collections.Counter[str]], names: Mapping[str, str]) -> None:
        """Say which spellings are one class, and which class may be a word for a missing label."""
        for key, own in spellings.items():
            others = ", ".join(f"{text[:40]!r} {count}" for text, count in own.items() if text != names[key])
            if others:
                self.notes.append(f"classes of {self.name}: {others} counted as {names[key]!r}")
            if key in MISSING_WORDS:
                self.notes.append(
                    f"{names[key]!r} is a class of {self.name}, {sum(own.values())} times; "
                    f"add --missing {_quoted(names[key])} if it means that there is no label"
                )


def _missing_beside_pair(keys: set[str]) -> set[str]:
    """Words such as n/a beside yes and no, where it's sure that they name no third class."""
    others = keys - MISSING_WORDS
    if any(keys <= set(pair) for pair in _PAIRS) or not any(others <= set(pair) for pair in _PAIRS):
        return set()
    return keys - others


def _in_order(keys: Sequence[str]) -> list[str]:
    """Classes in the order of their numbers."""
    pair = next((pair for pair in _PAIRS if set(keys) <= set(pair)), ())
    return [key for key in pair if key in keys] if pair else sorted(keys)


def _values(words: Sequence[str]) -> frozenset[float]:
    return frozenset(number.value for word in words if (number := Notation().read(word)) is not None)


def _as_word(text: str, value: float) -> str:
    """A number of a cell as an option takes it, where commas separate values."""
    return f"{value:.17g}" if "," in text else text


def _quoted(text: str) -> str:
    """A word as a shell takes it."""
    return text if re.fullmatch(r"[\w.+-]+", text, re.ASCII) else shlex.quote(text[:40])


def _is_plain(text: str) -> bool:
    try:
        return text.isascii() and math.isfinite(float(text))
    except ValueError:
        return False


def _is_with_error(text: str) -> bool:
    """1.5±0.1 or 1.5 +/- 0.1."""
    value, mark, error = text.replace("+/-", "±").partition("±")
    return bool(mark) and _is_plain(value) and _is_plain(error)


def _is_of_fortran(text: str) -> bool:
    """A number as Fortran writes it, 1.5D+03; the classes 2D and 3D are not numbers."""
    mantissa, mark, exponent = text.upper().partition("D")
    return bool(mark) and "." in mantissa and _is_plain(mantissa) and _is_plain(exponent) and "." not in exponent


def _is_in_other_digits(text: str) -> bool:
    """Digits of another script, or as wide as a Chinese sign."""
    has_other = any(sign.isdecimal() and not sign.isascii() for sign in text)
    return has_other and _is_plain("".join(str(int(sign)) if sign.isdecimal() else sign for sign in text))


def _is_date(text: str) -> bool:
    """2024-01-31, 31.01.2024 or 1/31/2024, with or without a time: three numbers, the year with four digits."""
    parts = text.replace("T", " ").split(" ")[0].replace("/", "-").replace(".", "-").split("-")
    if len(parts) != 3 or not all(part.isascii() and part.isdecimal() for part in parts):
        return False
    sizes = sorted(map(len, parts))
    return sizes[2] == 4 and sizes[1] <= 2 and len(parts[1]) <= 2


def _is_time(text: str) -> bool:
    """12:30:00, also after a number of days; 1:1 and 1:1:1 are ratios."""
    hours, *others = text.rpartition(" ")[2].split(":")
    return hours.isdecimal() and len(others) == 2 and all(len(part) == 2 and part.isdecimal() for part in others)


def _is_list(text: str) -> bool:
    return (text[:1], text[-1:]) in (("[", "]"), ("{", "}"))


def _are_several(text: str) -> bool:
    """Numbers in several lines or with blanks between, as of a data field that a record has twice."""
    parts = text.split()
    return len(parts) > 1 and all(map(_is_plain, parts))


_DECORATED = re.compile(
    r"(?:(?:[~\u2248\u2245\u223c=$\u20ac\u00a3'\"(]|ca\.?|circa|approx\.?|about) ?)?"
    rf"[+\-{_DASHES}]?(?:\d{{1,20}}(?:[.,]\d{{0,20}})?|[.,]\d{{1,20}})"
    r"(?: ?(?:[*\u2020\u2021'\")]|\((?:n ?= ?|\u00b1 ?)?\d[\d.,]{0,20}\)"
    rf"|[x\u00d7\u00b7*] ?10\^?[+\-{_DASHES}]?\d{{1,3}}))?",
    re.IGNORECASE,
)


def _is_decorated(text: str) -> bool:
    """~1.5, ca. 1.5, =1.5, $1.5, (1.5), '1.5, 1.5*, 1.5 (0.1), 1.5 (n=3) or 1.5 x 10^-3."""
    return len(text) <= _LONGEST and _DECORATED.fullmatch(text) is not None


_QUANTITIES = {
    "dates": _is_date,
    "times": _is_time,
    "lists": _is_list,
    "several numbers in a cell": _are_several,
    "numbers with their errors": _is_with_error,
    "numbers with the exponent D": _is_of_fortran,
    "numbers in other digits than 0 to 9": _is_in_other_digits,
    "numbers with a sign, a remark or a power of ten": _is_decorated,
}
"""What words of a column may be that are not meant as classes, if all of them are."""


# Rows of a stream, whose notation is settled by its first rows: what a store keeps of labels.


class NumberReader:
    """Labels of one column as numbers, row by row; words only where they are a pair such as no and yes, as 0 and 1.

    Args:
        sample: cells of the first rows, which decide the notation of the column.
        column: name of the column.
        rules: the user's rules.
        comma_file: see `settle_notation`.

    Raises:
        InputError: see `settle_notation`.
    """

    def __init__(self, sample: Sequence[str], column: str, rules: LabelRules, *, comma_file: bool = False) -> None:
        self._column, self._rules = column, rules
        self._notation = settle_notation(map(str.strip, sample), column, rules.decimal, comma_file=comma_file)
        self._asked, self._asked_values = set(map(class_key, rules.missing)), _values(rules.missing)
        keys = {class_key(cell) for cell in sample} - MISSING_WORDS - self._asked
        pair = next((pair for pair in _PAIRS if keys == set(pair)), ())
        self._pair = {word: float(place) for place, word in enumerate(pair)}

    def read(self, cell: str) -> tuple[float, str | None]:
        """The number, NaN where the label is missing, and why the cell can't be read; None when it can."""
        key = class_key(cell)
        if key in self._pair:
            return self._pair[key], None
        if key in MISSING_WORDS or key in self._asked:
            return math.nan, None
        number = self._notation.read(cell)
        if number is None:
            return math.nan, f"target {self._column} is not a finite number: {cell.strip()[:40]!r}"
        if number.side == 0 and number.value in self._asked_values:
            return math.nan, None
        if number.side and self._rules.censored != "limit":
            is_dropped = self._rules.censored == "drop"
            return math.nan, None if is_dropped else f"target {self._column} is a limit: {cell.strip()[:40]!r}"
        problem = number.problem
        return number.value, f"target {self._column} is {problem}: {cell.strip()[:40]!r}" if problem else None


# A fixed number of rows drawn at random from a stream of unknown length, in constant memory.
#
# Source: Vitter, "Random sampling with a reservoir" (ACM Trans. Math. Softw. 11 (1985) 37), Algorithm R.


T = TypeVar("T")


@dataclass
class DrawnRows(Generic[T]):
    """At most `most` of the rows that were added, each with the same probability.

    Attributes:
        most: largest number of rows; None = all.
        seen: number of rows that were added.
    """

    most: int | None = None
    seen: int = 0
    _kept: list[tuple[int, T]] = field(default_factory=list)
    _random: random.Random = field(default_factory=lambda: random.Random(derive_seed(0, "drawn rows")))

    def add(self, row: T) -> None:
        """Add a row, which may be kept or not."""
        if self.most is None or len(self._kept) < self.most:
            self._kept.append((self.seen, row))
        else:
            place = self._random.randrange(self.seen + 1)
            if place < self.most:
                self._kept[place] = (self.seen, row)
        self.seen += 1

    def rows(self) -> list[T]:
        """The kept rows in the order in which they came."""
        self._kept.sort(key=lambda entry: entry[0])
        return [row for _, row in self._kept]

    @property
    def left_out(self) -> int:
        """Rows that were added and are not kept."""
        return self.seen - len(self._kept)
