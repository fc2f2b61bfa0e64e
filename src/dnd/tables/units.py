"""Units in a table: in the name of a column of numbers, and in a column of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from dnd.common.log import counted

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
        self._counts: dict[str, Counter[str]] = {name: Counter() for name in columns}

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
