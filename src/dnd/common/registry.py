"""Names to things, where a misspelling answers with the nearest names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from dnd.common.errors import ConfigError

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean a, b?` for the closest known names, or the whole list when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"Did you mean {', '.join(close)}?" if close else f"Known: {', '.join(names)}"


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`.

    Raises:
        ConfigError: there is no such name; the message holds the nearest ones.
    """
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}", next_step=nearest(name, table))
    return table[name]
