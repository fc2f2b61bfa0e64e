"""Options that every verb that trains has, and the settings that they stand for."""

from __future__ import annotations

from typing import Annotated

import typer

SkipNonfinite = Annotated[
    int | None,
    typer.Option(
        "--skip-nonfinite", metavar="N", help="Leave out up to N batches whose loss or gradient is not finite."
    ),
]
AllowChange = Annotated[
    bool,
    typer.Option("--allow-change", help="With --resume: go on under other settings, data or versions; it is recorded."),
]


def loop_words(skip_nonfinite: int | None, allow_change: bool) -> list[str]:
    """`key=value` settings of the training loop."""
    skip = [] if skip_nonfinite is None else [f"loop.skip_nonfinite={skip_nonfinite}"]
    return [*skip, *(["loop.allow_change=true"] if allow_change else [])]
