"""Rows of CSV and TSV text, one bad row at a time: neither an open quote nor a trailing comma reaches another row."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator

from dnd.chemistry.streams import LIMIT_LINE

DELIMITERS = (",", "\t", ";", "|")
MAX_LINES_PER_ROW = 64
"""A quoted cell may hold line breaks; a quote that is still open after so many lines is a mistake."""

csv.field_size_limit(LIMIT_LINE)  # the csv module's own limit of 131,072 characters is for the whole process


def split_header(line: str, delimiter: str) -> list[str]:
    """Cells of a header line, blanks around them removed."""
    return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]


def read_rows(lines: Iterator[str], delimiter: str, width: int) -> Iterator[tuple[list[str], str | None]]:
    """Cells of each row and what is wrong with its quotes, if anything; blank lines are left out.

    A quote that is never closed costs the row it's in and no other: the lines after it are read as rows again.

    Args:
        lines: lines after the header, with their ends.
        delimiter: one character.
        width: cells of the header; cells over several lines that don't add up to it are taken for an open quote.
    """
    waiting: deque[str] = deque()
    while True:
        line = waiting.popleft() if waiting else next(lines, None)
        if line is None:
            return
        if not line.strip():
            continue
        if '"' not in line:
            yield next(csv.reader([line], delimiter=delimiter)), None
            continue
        yield _read_quoted(line, lines, waiting, delimiter, width)


def _read_quoted(
    line: str, lines: Iterator[str], waiting: deque[str], delimiter: str, width: int
) -> tuple[list[str], str | None]:
    taken = [line]
    while (open_quote := _quote_is_open(taken, delimiter)) and len(taken) < MAX_LINES_PER_ROW:
        following = waiting.popleft() if waiting else next(lines, None)
        if following is None:
            break
        taken.append(following)
    if not open_quote:
        cells = next(csv.reader(taken, delimiter=delimiter))
        if len(taken) == 1 or len(cells) == width:
            return cells, None
    waiting.extendleft(reversed(taken[1:]))
    return next(csv.reader([line], delimiter=delimiter, quoting=csv.QUOTE_NONE)), "a quote is opened and never closed"


def _quote_is_open(taken: list[str], delimiter: str) -> bool:
    try:
        list(csv.reader(taken, delimiter=delimiter, strict=True))
    except csv.Error as error:
        return "unexpected end of data" in str(error)
    return False
