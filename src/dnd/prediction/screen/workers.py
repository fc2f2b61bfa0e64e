"""Chunks of rows to columns of predictions in worker processes; a row that kills or hangs one costs that row only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from dnd.chemistry.molecule import LIMITS
from dnd.common.compute import set_threads
from dnd.common.errors import DndError
from dnd.common.model_folder import read_model
from dnd.common.workers import Failure, Work
from dnd.prediction.screen.source import Candidate
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import ERROR, Column, Predictor
from dnd.tables.sdf import parse_molblock

# The part of a screen that runs in a worker process: rows of any input → columns of predictions.


def make_screener(model: str, digest: str) -> Callable[[Sequence[Candidate]], dict[str, Column]]:
    """Load the model, once per process, and return the function of a chunk; one thread, on the CPU.

    The function's columns are those of `Predictor.predict`. A row with a problem is not predicted; its problem is its
    error. SMILES of mol blocks are canonical; those too long to be read are cut off.

    Args:
        model: MODEL folder.
        digest: digest of its manifest when the screen began; a worker that starts later must have the same model.

    Raises:
        DndError: the folder holds another model now.
    """
    set_threads(1)
    folder = read_model(model, kind=KIND)
    if folder.manifest["digest"] != digest:
        raise DndError(f"{model} was replaced while it was used", next_step="Screen again into another folder")
    predictor = Predictor.of(folder, device="cpu")

    def screen_chunk(chunk: Sequence[Candidate]) -> dict[str, Column]:
        smiles, problems = zip(*map(_smiles, chunk), strict=True)
        table = predictor.predict(["" if problem else text for text, problem in zip(smiles, problems, strict=True)])
        errors = [problem or reason for problem, reason in zip(problems, table[ERROR], strict=True)]
        return {**table, "smiles": [text[: LIMITS.text_bytes] for text in smiles], ERROR: errors}

    return screen_chunk


def _smiles(candidate: Candidate) -> tuple[str, str | None]:
    if not candidate.is_block:
        return candidate.text, candidate.problem
    if candidate.problem is not None:
        return "", candidate.problem
    outcome = parse_molblock(candidate.text).outcome
    return (outcome.smiles, None) if outcome.ok else ("", outcome.reason)


# Chunks of rows to columns of predictions in worker processes; a row that kills or hangs one costs that row only.


WORKER = "dnd.prediction.screen.workers:make_screener"
ROW_LIMIT_S = 30.0
_CHUNK_LIMIT_S, _SHARE_S = 60.0, 0.25  # a chunk may take 60 s and a quarter of a second for each of its rows
_LIMIT_BYTES = 4 * 2**30
_AHEAD = 4  # chunks done that wait for a slow one before them, for each process


@dataclass(frozen=True, kw_only=True)
class ChunkWork(Work):
    """Chunks of candidates to columns, of a screen and of an embedding; a row that kills or hangs costs that row."""

    @classmethod
    def of(cls, function: str, rows: int, *, folders: Mapping[str, Path], **settings: object) -> Self:
        """Work on chunks of at most `rows` candidates.

        Args:
            function: takes the folders and the settings as keywords; see `WorkerPool`.
            rows: sets the time that a chunk may take.
            folders: see `Work`.
            settings: further keywords.
        """
        return cls(
            function=function,
            settings=settings,
            folders=folders,
            timeout_s=_limit_s(rows),
            limit_bytes=_LIMIT_BYTES,
            ahead=_AHEAD,
            packages=("torch", "rdkit"),
        )

    def recovered(self, item: list[Candidate], failure: Failure) -> dict[str, Column]:
        """The columns of a chunk that failed: find the rows to blame one by one, then compute the others as the chunk.

        The others are batched as ever, so a worker that somebody else killed changes no bit of the result.

        Raises:
            DndError: the chunk fails without the rows to blame, too.
        """
        reasons = self._try_each(item)
        spared = [
            candidate if reason is None else replace(candidate, problem=reason)
            for candidate, reason in zip(item, reasons, strict=True)
        ]
        result = self._once(spared)
        if isinstance(result, Failure):  # each row alone is well, together they are not
            result = self._once([replace(one, problem=one.problem or result.reason) for one in spared])
        if isinstance(result, Failure):
            raise DndError("a chunk can't be computed", found=result.reason, next_step="Report it with the input")
        return result

    def _once(self, chunk: list[Candidate]) -> dict[str, Column] | Failure:
        with self.pool(timeout_s=_limit_s(len(chunk))) as pool:
            result: dict[str, Column] | Failure = next(pool.map([chunk]))
            return result

    def _try_each(self, chunk: Sequence[Candidate]) -> list[str | None]:
        """Why each row fails alone; None where it doesn't."""
        reasons: list[str | None] = []
        while len(reasons) < len(chunk):
            known = len(reasons)
            try:
                with self.pool(timeout_s=ROW_LIMIT_S) as pool:
                    for result in pool.map([one] for one in chunk[known:]):
                        reasons.append(result.reason if isinstance(result, Failure) else None)
            except DndError as error:  # the third killer in a row, which isn't the machine's doing here
                if len(reasons) == known:
                    raise
                reasons.append(str(error.found))
        return reasons


def _limit_s(rows: int) -> float:
    return _CHUNK_LIMIT_S + _SHARE_S * rows
