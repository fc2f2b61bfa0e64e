"""Files that are sent: one after the other, with progress, in a folder that is gone when the server stops."""

from __future__ import annotations

import queue
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dnd.chemistry.molecule import LIMITS
from dnd.common.errors import DndError, InputError
from dnd.prediction.files import predict_file
from dnd.predictor.predictor import Column
from dnd.serve.guard import BusyError, Limits
from dnd.serve.models import JobInfo, JobRows, Row, ServedModel, reasons_of
from dnd.tables.molecules import open_molecules

_LONGEST_ENDING = 9
_PIECE = 128  # rows between two looks at the clock
_UNPACKED = 16  # characters of a file's cells for each byte that a request may have


class UnknownJobError(Exception):
    """There is no such file, or it is no longer kept."""


class _Stopped(Exception):
    """A file that nobody waits for any more."""


@dataclass(frozen=True)
class Answered:
    """Some rows that have been predicted, as columns: a `Row` with its values is twenty times as large.

    Attributes:
        smiles: of each row, cut off where no molecule is that long.
        columns: see `Predictor.describe`.
        errors: why a row has no prediction; empty where it has one.
    """

    smiles: list[str]
    columns: Mapping[str, Column]
    errors: list[str]

    def __getitem__(self, span: slice) -> Answered:
        """Some of the rows."""
        columns = {name: cells[span] for name, cells in self.columns.items()}
        return Answered(self.smiles[span], columns, self.errors[span])


@dataclass
class Job:
    """One file on its way.

    Attributes:
        id: identifier in requests; nobody can guess it.
        name: name of the file, as it was uploaded.
        model: that predicts it.
        column: with the SMILES; None = found.
        folder: folder of the file and its results.
        state: `waiting`, `running`, `done` or `failed`.
        total: rows; None until they have been counted.
        answered: what has been predicted, in order.
        error: why it failed.
        ended: when, by the clock that only goes forward; None until then.
        unwanted: set when it is to stop.
    """

    id: str
    name: str
    model: ServedModel
    column: str | None
    folder: Path
    state: str = "waiting"
    total: int | None = None
    answered: list[Answered] = field(default_factory=list)
    error: str = ""
    ended: float | None = None
    unwanted: threading.Event = field(default_factory=threading.Event)

    @property
    def source(self) -> Path:
        """Where the file lies, under a name of ours with its ending, by which it is read; a table where it has none."""
        lower = self.name.lower()
        packed = ".gz" if lower.endswith(".gz") else ""
        ending = Path(lower.removesuffix(".gz")).suffix
        plain = ending.isascii() and ending[1:].isalnum() and len(ending) <= _LONGEST_ENDING
        return self.folder / f"input{ending if plain else '.csv'}{packed}"

    @property
    def result(self) -> Path:
        """The table with the predictions."""
        return self.folder / "predictions.csv"


class Jobs:
    """The files in line and the results that are kept.

    Args:
        folder: place of files and results; emptied at the end.
        limits: limits on rows, time and numbers.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self._folder, self._limits, self._jobs = folder, limits, dict[str, Job]()
        self._line: queue.Queue[Job | None] = queue.Queue()
        self._lock = threading.Lock()
        self._worker = threading.Thread(target=self._work, name="files", daemon=True)
        self._worker.start()

    @property
    def takes_more(self) -> bool:
        """Whether a further file would be taken."""
        waiting = sum(job.state == "waiting" for job in list(self._jobs.values()))
        return self._worker.is_alive() and waiting < self._limits.queued

    def add(self, name: str, content: bytes, model: ServedModel, column: str | None) -> Job:
        """Put a file in line.

        Raises:
            BusyError: the line is full.
        """
        self._forget_old()
        if not self.takes_more:
            raise BusyError
        job = Job(secrets.token_urlsafe(16), name, model, column, self._folder / secrets.token_hex(8))
        job.folder.mkdir()
        job.source.write_bytes(content)
        with self._lock:
            self._jobs[job.id] = job
        self._line.put(job)
        return job

    def find(self, job_id: str) -> Job:
        """The file of that id.

        Raises:
            UnknownJobError: there is no such job.
        """
        self._forget_old()
        job = self._jobs.get(job_id)
        if job is None:
            raise UnknownJobError("there is no such file, or its results are no longer kept")
        return job

    def info(self, job: Job) -> JobInfo:
        """How far it is."""
        waiting = [own.id for own in list(self._jobs.values()) if own.state in ("waiting", "running")]
        errors = [error for piece in list(job.answered) for error in piece.errors]
        return JobInfo(
            id=job.id,
            file=job.name,
            model=job.model.name,
            state=job.state,  # type: ignore[arg-type]
            done=len(errors),
            rows=job.total,
            ahead=waiting.index(job.id) if job.state == "waiting" and job.id in waiting else 0,
            reasons=reasons_of(errors),
            error=job.error,
        )

    def page(self, job: Job, start: int, count: int) -> JobRows:
        """Rows that have been predicted, from `start` on."""
        end = start + min(count, self._limits.page_rows)
        rows, first = list[Row](), 0
        for piece in list(job.answered):
            if first < end and start < first + len(piece.errors):
                own = piece[max(start - first, 0) : end - first]
                rows += job.model.as_rows(own.smiles, own.columns, own.errors)
            first += len(piece.errors)
        return JobRows(start=start, total=first, rows=rows)

    def remove(self, job: Job) -> None:
        """Stop a file and forget it; the folder of one that runs goes when it ends."""
        with self._lock:
            job.unwanted.set()
            self._jobs.pop(job.id, None)
            if job.state != "running":
                shutil.rmtree(job.folder, ignore_errors=True)

    def close(self) -> None:
        """Stop what runs, wait for it, and remove all files."""
        for job in list(self._jobs.values()):
            job.unwanted.set()
        self._line.put(None)
        self._worker.join()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _forget_old(self) -> None:
        ended = [job for job in list(self._jobs.values()) if job.ended is not None]
        newest_first = sorted(ended, key=lambda job: -(job.ended or 0.0))
        now = time.monotonic()
        for place, job in enumerate(newest_first):
            if place >= self._limits.kept or now - (job.ended or now) > self._limits.kept_seconds:
                self.remove(job)

    def _work(self) -> None:
        while (job := self._line.get()) is not None:
            if not self._begins(job):
                continue
            try:
                self._run(job)
            except _Stopped:
                pass
            except DndError as error:
                job.error = _as_sent(str(error), job)
            except Exception as error:  # one file never ends the others
                job.error = f"internal error: {type(error).__name__}"
            self._ends(job)

    def _begins(self, job: Job) -> bool:
        """Whether a file is still wanted; from here on its folder is left to the worker."""
        with self._lock:
            if job.unwanted.is_set():
                return False
            job.state = "running"
            return True

    def _ends(self, job: Job) -> None:
        """Note the end of a file; one that was removed meanwhile leaves nothing behind."""
        with self._lock:
            job.state, job.ended = "failed" if job.error else "done", time.monotonic()
            if job.unwanted.is_set():
                shutil.rmtree(job.folder, ignore_errors=True)

    def _run(self, job: Job) -> None:
        deadline = time.monotonic() + self._limits.job_seconds
        job.total, problems = self._counted(job, deadline)
        predict_file(_Recorder(job, problems, deadline), job.source, str(job.result), smiles_column=job.column)

    def _counted(self, job: Job, deadline: float) -> tuple[int, dict[int, str]]:
        """The number of rows, and the problems of those whose cells can't be trusted.

        Raises:
            InputError: there are too many rows, or a packed file has unpacked to too much.
        """
        problems, place, characters = {}, 0, 0
        most = _UNPACKED * self._limits.body_bytes
        with open_molecules(job.source, job.column, remembered=job.model.predictor.smiles_column) as table:
            for row in table:
                place += 1
                if row.problem is not None:
                    problems[place] = row.problem
                _look_at_the_clock(job, deadline)
                if place > self._limits.rows:
                    raise InputError(
                        "the file has too many rows for the page",
                        expected=f"at most {self._limits.rows:,}",
                        next_step="Use `dnd predict`, or `dnd screen` for millions",
                    )
                characters += sum(map(len, row.values.values()))
                if characters > most:
                    raise InputError(
                        "the cells of the file are too long for the page",
                        expected=f"at most {most:,} characters in all",
                        next_step="Leave out columns, or use `dnd predict`",
                    )
        return place, problems


class _Recorder:
    """A model whose answers are kept as rows besides, piece by piece."""

    def __init__(self, job: Job, problems: dict[int, str], deadline: float) -> None:
        self._job, self._problems, self._deadline = job, problems, deadline
        predictor = job.model.predictor
        self.columns, self.smiles_column, self.digits = predictor.columns, predictor.smiles_column, predictor.digits

    def describe(self, smiles: Sequence[str]) -> tuple[dict[str, Column], list[str]]:
        """As `Predictor.describe`."""
        pieces: list[dict[str, Column]] = []
        errors: list[str] = []
        first = 1 + sum(len(piece.errors) for piece in self._job.answered)
        for start in range(0, len(smiles), _PIECE):
            _look_at_the_clock(self._job, self._deadline)
            texts = smiles[start : start + _PIECE]
            columns, reasons = self._job.model.predictor.describe(texts)
            told = [self._problems.get(first + start + place, reason) for place, reason in enumerate(reasons)]
            self._job.answered.append(Answered([text[: LIMITS.text_bytes] for text in texts], columns, told))
            pieces.append(columns)
            errors += reasons
        if not pieces:
            return self._job.model.predictor.describe([])
        return {name: _joined([piece[name] for piece in pieces]) for name in pieces[0]}, errors


def _joined(parts: list[Column]) -> Column:
    if isinstance(parts[0], list):
        return [cell for part in parts for cell in part]
    return np.concatenate(parts)


def _look_at_the_clock(job: Job, deadline: float) -> None:
    if job.unwanted.is_set():
        raise _Stopped
    if time.monotonic() > deadline:
        raise InputError("the file took too long", next_step="Use `dnd predict`, or send it in parts")


def _as_sent(message: str, job: Job) -> str:
    """A message with the name that the file was sent under."""
    return message.replace(str(job.source), job.name).replace(str(job.folder), "")
