"""Numbers as people write them: decimal comma, thousands separators, percent, `>10`; a notation for a whole column.

A single cell can't be read for sure: `1,234` is 1.234 in one country and 1234 in another. So the notation is settled by
all cells of a column together, and a separator that may be either is refused rather than guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from dnd.common.errors import InputError

DecimalMark = Literal["auto", "point", "comma"]

LARGEST = float(np.finfo(np.float32).max)
"""Networks compute in 32 bits; what is beyond is infinite there."""

LARGEST_WHOLE = 2**53
"""Beyond it whole numbers are rounded in 64 bits, so that two of them may become one."""

_LONGEST = 64
_SIGN = r"(?P<sign>[+\-\u2212]?)"
_EXPONENT = r"(?P<exponent>[eE][+\-\u2212]?\d{1,4})?"
_LIMIT = re.compile(r"(>=|<=|>|<|\u2265|\u2264|\u2a7e|\u2a7d)\s*")
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
        whole: the digits of a whole number, where it is written as one; else None.
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
        rest = text[limit.end() :] if limit else text
        percent = rest.endswith("%")
        found = (_GROUPED if self.grouped else _PLAIN)[self.decimal].fullmatch(rest.removesuffix("%").rstrip())
        if found is None or not (found["whole"] or found["part"]):
            return None
        whole = re.sub(r"\D", "", found["whole"])
        sign = "-" if found["sign"] in ("-", "\u2212") else ""
        exponent = (found["exponent"] or "").replace("\u2212", "-")
        value = float(f"{sign}{whole or 0}.{found['part'] or 0}{exponent}")
        side: Literal[-1, 0, 1] = 0 if limit is None else 1 if limit[1] in (">", ">=", "\u2265", "\u2a7e") else -1
        return Number(value, side, percent, None if found["part"] or exponent else int(sign + whole))


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
