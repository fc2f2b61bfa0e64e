"""Rows of a screen: read from its inputs in chunks, and turned into columns of predictions by worker processes.

The inputs are checked before any work, and the chunks depend on the inputs alone. A row that kills or hangs a worker
costs that row only.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from dnd.chemistry.molecule import LIMITS
from dnd.common.compute import set_threads
from dnd.common.errors import ConfigError, DndError, InputError
from dnd.common.files import sha256_file
from dnd.common.model_folder import read_model
from dnd.common.runs import require_file
from dnd.common.workers import Failure, Work
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import ERROR, Column, Predictor
from dnd.tables.molecules import field_names, refuse_column_of_sdf
from dnd.tables.readers import id_columns_of, kind_of, read_table
from dnd.tables.sdf import parse_molblock, read_sdf_blocks
from dnd.tables.streams import PARQUET, STANDARD_INPUT, byte_lines, is_sdf, open_bytes, peeked

CHUNK_CHARACTERS = 2**22
"""A chunk ends early at this much text, so that rows of megabytes take no more memory than rows of bytes."""

_SDF_END = b"$$$$"
_TITLE = "title"


@dataclass(frozen=True)
class Candidate:
    """One row to be screened.

    Attributes:
        text: a SMILES, or a mol block.
        is_block: which of the two.
        problem: why the row can't be trusted; None for a good one.
        names: the user's own names of the molecule: cells of the columns that name molecules, by column.
    """

    text: str
    is_block: bool = False
    problem: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def check_inputs(inputs: Sequence[str | Path], smiles_column: str | None, remembered: str | None = None) -> list[str]:
    """Open every input once, so that the last one is not found unreadable after hours.

    Returns:
        The columns that name molecules, of all inputs, in order; see `id_columns_of`. Those of an SDF are the title and
        its data fields.

    Raises:
        ConfigError: no input, or standard input, which can't be read again on a resume.
        InputError, CorruptFileError: see `read_table`; an SDF without a record; a SMILES column though all inputs are
            SDF.
    """
    if not inputs:
        raise ConfigError("no input to screen", expected="at least one file")
    if all(map(is_sdf, inputs)):
        refuse_column_of_sdf(inputs[0], smiles_column)
    found: dict[str, None] = {}
    for path in inputs:
        if str(path) == STANDARD_INPUT:
            raise ConfigError(
                "standard input can't be screened", expected="a file, which --resume can read again",
                next_step="Save it to a file, or use `dnd predict -`",
            )  # fmt: skip
        require_file(Path(path))
        if is_sdf(path):
            with open_bytes(path) as stream:
                if next(read_sdf_blocks(path, stream), None) is None:
                    raise InputError(f"{path} contains no record", next_step="Check how it was made or copied")
            with open_bytes(path) as stream:
                columns = [_TITLE, *field_names(path, stream)]
        else:
            with read_table(path, smiles_column=smiles_column, remembered=remembered) as table:
                columns = [name for name in table.columns if name != table.smiles_column]
        found.update(dict.fromkeys(id_columns_of(columns)))
    return list(found)


def describe_input(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of an input, by which a resumed run knows it."""
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_file(path)}


def estimate_rows(inputs: Sequence[str | Path]) -> int:
    """About how many rows there are: lines of tables, records of SDF and Parquet; for the time left only."""
    return sum(_estimate(Path(path)) for path in inputs)


def _estimate(path: Path) -> int:
    records, header = is_sdf(path), int(kind_of(path) == "csv")
    with open_bytes(path) as stream:
        if peeked(stream, path, len(PARQUET)) == PARQUET:  # whatever its name is
            import pyarrow.parquet

            return int(pyarrow.parquet.read_metadata(stream).num_rows)
        lines = sum(1 for line in byte_lines(stream, path) if not records or line.startswith(_SDF_END))
    return max(0, lines - header)


def read_candidates(
    inputs: Sequence[str | Path],
    smiles_column: str | None,
    remembered: str | None = None,
    names: Sequence[str] = (),
) -> Generator[Candidate, None, None]:
    """Every row of every input with its cells of the columns `names`, in order, one in memory at a time."""
    for path in inputs:
        if is_sdf(path):
            with open_bytes(path) as stream:
                for block in read_sdf_blocks(path, stream):
                    cells = {**block.properties, _TITLE: block.title}
                    yield Candidate(block.molblock, True, block.problem, _of(cells, names))
        else:
            with read_table(path, smiles_column=smiles_column, remembered=remembered) as table:
                others = [name for name in names if name != table.smiles_column]
                for row in table:
                    yield Candidate(row.smiles, False, row.problem, _of(row.values, others))


def _of(cells: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    return {name: cells[name] for name in names if cells.get(name)}


def in_chunks(candidates: Iterator[Candidate], rows: int) -> Iterator[list[Candidate]]:
    """Lists of `rows` candidates, fewer at the end and where their texts are long."""
    chunk: list[Candidate] = []
    characters = 0
    for candidate in candidates:
        chunk.append(candidate)
        characters += len(candidate.text) + sum(map(len, candidate.names.values()))
        if len(chunk) == rows or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


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


WORKER = "dnd.prediction.screen.chunks:make_screener"
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
