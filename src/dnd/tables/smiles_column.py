"""Which column of a table holds the SMILES, by its name or by its cells, and which the names; without RDKit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dnd.common.config import nearest
from dnd.common.errors import InputError

MAX_NAMES_SHOWN = 30
ROWS_TO_LOOK_AT = 100
"""Rows whose cells are looked at where no name says which column it is."""

# In this order: a table with `smiles` and `canonical_smiles` means the first. Compared without letter case and signs.
_NAMES = ("smiles", "canonicalsmiles", "isomericsmiles", "isosmiles", "smi", "structure", "molecule", "mol", "compound")
_SIGNS = re.compile(r"[\W_]+")
# Atoms, brackets, bonds, branches and ring digits; each repetition takes one token, so time is linear.
_TOKENS = re.compile(r"(?:Br|Cl|[BCNOPSFIbcnops*]|\[[^\[\]\s]{1,40}\]|[-=#$:/\\.()]|%\d\d|\d)+")
_LOOKS_LIKE_ONE = 0.9  # share of the cells that aren't empty
_PLAIN_ATOM = re.compile(r"[CNOScno]")
_IS_ID = re.compile(
    r"(?i)id|idnumber|name|title|compound|molecule|(zinc|catalog|vendor)[ _-]?id"
    r"|(compound|molecule|cmpd|mol|chembl|sample|batch)[ _-].{0,20}(id|name)"
)


def may_be_smiles(text: str) -> bool:
    """Whether a text is made of the tokens of SMILES; a name such as `CN` may be one too."""
    return len(text) <= 4096 and _TOKENS.fullmatch(text) is not None and _PLAIN_ATOM.search(text) is not None


def look_like_smiles(cells: Sequence[str]) -> bool:
    """Whether nearly all cells that aren't empty are made of the tokens of SMILES, and some have more than a symbol."""
    known = [cell.strip().partition(" ")[0] for cell in cells if cell.strip()]
    good = [cell for cell in known if may_be_smiles(cell)]
    return bool(good) and len(good) >= _LOOKS_LIKE_ONE * len(known) and any(len(cell) > 2 for cell in good)


def column_by_name(header: Sequence[str]) -> list[int]:
    """Places of the columns whose name says that they hold SMILES: the first kind of name that there is."""
    plain = [_SIGNS.sub("", name).lower() for name in header]
    for wanted in _NAMES[:5]:
        if wanted in plain:
            return [place for place, name in enumerate(plain) if name == wanted]
    # A separator in a name means that the header was not split where it should be.
    return [place for place, name in enumerate(plain) if "smiles" in name and not set(header[place]) & set(",;|\t")]


def find_column(path: object, header: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    """Place of the SMILES column where none was asked for.

    Args:
        path: path of the table, for messages.
        header: names of the columns.
        rows: cells of the first rows.

    Raises:
        InputError: there is none, or there are several; the message lists them.
    """
    named = column_by_name(header)
    if len(named) == 1:
        return named[0]
    look = [place for place in range(len(header)) if look_like_smiles([row[place] for row in rows if place < len(row)])]
    within = [place for place in named if place in look] if named else look
    if not named and len(within) > 1:  # among columns that look alike, a name such as Structure decides
        plain = [_SIGNS.sub("", header[place]).lower() for place in within]
        told = [place for place, name in zip(within, plain, strict=True) if name in _NAMES[5:]]
        within = told or within
    listed = listed_columns(header)
    if len(within) == 1 and (named or not look_like_smiles([header[within[0]]])):
        return within[0]
    if len(within) > 1 or named:
        found = " and ".join(repr(_printable(header[place])) for place in (within or named)[:4])
        raise InputError(
            f"several columns of {path} may hold the SMILES", found=found, next_step="Choose with --smiles-column NAME"
        )
    if look_like_smiles(list(header)) or any(look_like_smiles([name]) and len(name) > 2 for name in header):
        raise InputError(
            f"the first line of {path} is not a header", found=listed, expected="names of the columns, such as smiles,y"
        )
    raise InputError(
        f"{path} has no column 'smiles'", found=f"columns {listed}", expected="a column of SMILES by its name or cells",
        next_step="Name it with --smiles-column NAME",
    )  # fmt: skip


def chosen_column(path: object, header: Sequence[str], wanted: str) -> int:
    """Place of the column that was asked for; letter case matters only where two differ in nothing else.

    Raises:
        InputError: there is none of that name, or there are several.
    """
    exact = [place for place, name in enumerate(header) if name == wanted]
    alike = exact or [place for place, name in enumerate(header) if name.lower() == wanted.lower()]
    if len(alike) == 1:
        return alike[0]
    listed, shown = listed_columns(header), [_printable(name) for name in header[:MAX_NAMES_SHOWN]]
    if alike:
        raise InputError(
            f"{path} has {len(alike)} columns named {wanted!r}",
            found=f"columns {listed}",
            next_step="Rename all but one",
        )
    raise InputError(
        f"{path} has no column {wanted!r}", found=f"columns {listed}", expected="a first line that names it",
        next_step=f"Name the column of SMILES with --smiles-column. {nearest(wanted, shown)}",
    )  # fmt: skip


def id_column_of(others: Sequence[str]) -> str | None:
    """The column that names the molecules, by its own name: `id`, `Compound`, `title`, `molecule_chembl_id` …."""
    return next(iter(id_columns_of(others)), None)


def id_columns_of(others: Sequence[str]) -> list[str]:
    """All columns that name the molecules."""
    return [name for name in others if _IS_ID.fullmatch(name.strip())]


def listed_columns(names: Sequence[str]) -> str:
    """The first of the names, fit to be printed, and how many more there are."""
    more = f" and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(_printable(name) for name in names[:MAX_NAMES_SHOWN]) + more


def _printable(name: str) -> str:
    """A name in a form that fits into one line on a terminal."""
    return "".join(sign if sign.isprintable() else "?" for sign in name[:60])


def require_columns(
    source: object, columns: Sequence[str], wanted: Sequence[str], *, what: str = "target column"
) -> None:
    """Refuse columns that the source does not have.

    Raises:
        InputError: the message lists the columns there are and the nearest name.
    """
    for name in wanted:
        if name not in columns:
            raise InputError(
                f"{source} has no {what} {name!r}",
                found=f"columns {listed_columns(columns)}" if columns else "no columns",
                next_step=nearest(name, columns[:1000]) if columns else "Leave out --target-columns",
            )
