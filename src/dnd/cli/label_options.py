"""Options that say how cells are read, shared by `finetune`, `check` and `evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

Missing = Annotated[
    list[str] | None,
    typer.Option(metavar="WORDS", help="Further words or values that mean a missing label, such as -999 or n.d.,BLQ."),
]
Measured = Annotated[
    list[str] | None,
    typer.Option(metavar="VALUES", help="Values such as 9999 that look like placeholders but were measured."),
]
Censored = Annotated[
    str | None,
    typer.Option(
        help="Labels such as >10 and <0.1: keep (learn as limits), drop, or limit (learn the limit as a value).",
        autocompletion=lambda: ["keep", "drop", "limit"],
    ),
]
Decimal = Annotated[
    str | None, typer.Option(help="Decimal mark of the labels, comma or point, where the cells are ambiguous.")
]

Standardize = Annotated[
    bool,
    typer.Option(
        "--standardize", help="Reduce each molecule to its largest organic part, neutralised, here and in predictions."
    ),
]


def label_settings(
    missing: Sequence[str] | None, measured: Sequence[str] | None, censored: str | None, decimal: str | None
) -> dict[str, Any]:
    """Those of `LabelRules` that were given, by name."""
    given = {"missing": _words(missing), "measured": _words(measured), "censored": censored, "decimal": decimal}
    return {name: value for name, value in given.items() if value}


def _words(words: Sequence[str] | None) -> list[str]:
    """Words of an option that may be repeated and may hold several, separated by commas."""
    return [word.strip() for given in words or () for word in given.split(",") if word.strip()]
