"""What a cell of a grid is given, and the names of what it leaves in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnd.common.errors import InputError

STORE, TEACHER, ENCODER, MODEL, TABLE = "store", "teacher", "encoder", "model", "data.csv"
"""What a cell writes into its own folder."""


@dataclass(frozen=True)
class Work:
    """One cell at work.

    Attributes:
        settings: of the cell.
        paths: files and folders that it reads; not part of its digest.
        needs: kind of need to the folder of the cell that made it.
        folder: its own.
    """

    settings: Mapping[str, Any]
    paths: Mapping[str, Any]
    needs: Mapping[str, Path]
    folder: Path

    def need(self, *kinds: str) -> Path:
        """Folder of the needed cell whose key ends in one of `kinds`."""
        return next(folder for key, folder in self.needs.items() if key.rsplit("/", 1)[-1] in kinds)

    def inputs(self) -> list[str]:
        """The input files.

        Raises:
            InputError: they were not found when the grid was planned.
        """
        if self.paths["problem"]:
            raise InputError(self.paths["problem"])
        return list(self.paths["inputs"])
