"""Any number of molecules through a model, in constant memory: worker processes in, sealed Parquet shards out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dnd.common.cluster import machines
from dnd.common.config import from_dict, model_folder, nearest
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import (
    MANIFEST,
    folder_lock,
    package_versions,
    parse_json,
    read_json,
    read_sealed,
    verify_folder,
    write_manifest,
)
from dnd.common.log import LOGGER, Progress
from dnd.common.model_folder import FORMAT_VERSION as MODEL_FORMAT
from dnd.common.runs import (
    RUN_RECORD,
    WatchedInputs,
    already_finished,
    read_record,
    require_free,
    require_same_run,
    write_run_record,
)
from dnd.prediction.screen.chunks import (
    WORKER,
    Candidate,
    ChunkWork,
    check_inputs,
    describe_input,
    estimate_rows,
    in_chunks,
    read_candidates,
)
from dnd.prediction.screen.shards import (
    CHUNKS_PER_SHARD,
    CHUNKS_UNTIL_020,
    ROW,
    TOP,
    ScreenJournal,
    best_rows,
    write_top,
)
from dnd.predictor.model_folder import training_of
from dnd.predictor.predictor import Column
from dnd.predictor.targets import Target, digits_of

# Any number of molecules through a model, in constant memory: worker processes in, sealed Parquet shards out.
#
# A chunk of rows is a pure function of inputs, model and settings, and a shard is a fixed number of chunks, so a run
# that was killed continues where its journal ends and makes the same bytes, whatever the number of workers.


KIND, FORMAT_VERSION = "screen", 1
ROWS_OF_A_BLEND = 100_000
"""Above, a student that the blend is compressed into is worth its training."""


@dataclass(frozen=True)
class ScreenConfig:
    """Settings of `dnd screen`.

    Attributes:
        smiles_column: column of SMILES in tables; None = the model's, else found by name or content.
        jobs: worker processes; 0 = one per processor.
        chunk: rows that a worker predicts at a time; a shard holds 16 chunks.
        top: number of the best rows to write to `top.csv`; None = no such file.
        by: target that `top` goes by; None = the only one.
        ascending: the smallest are the best.
    """

    smiles_column: str | None = None
    jobs: int = 0
    chunk: int = 1024
    top: int | None = None
    by: str | None = None
    ascending: bool = False

    def __post_init__(self) -> None:
        for name, least in (("jobs", 0), ("chunk", 1), ("top", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"{name} is too small", found=value, expected=f"at least {least}")
        if self.top is None and (self.by is not None or self.ascending):
            raise ConfigError("--by and --ascending need --top", next_step="Add --top K")


@dataclass(frozen=True)
class ScreenSummary:
    """What a finished screen holds.

    Attributes:
        folder: folder of the shards.
        rows: rows in them, as many as the inputs have.
        errors: rows without a prediction.
        shards: number of shards.
        seconds: wall time of this call.
    """

    folder: Path
    rows: int
    errors: int
    shards: int
    seconds: float


def screen(
    inputs: Sequence[str | Path],
    model: Path | str,
    out: Path | str,
    config: ScreenConfig | None = None,
    *,
    resume: bool = False,
    ray: str | None = None,
    worker: str = WORKER,
) -> ScreenSummary:
    """Predict every row of files of any length.

    Args:
        inputs: CSV, TSV, SMI, Parquet or SDF, `.gz` or not; their rows are numbered through, from 0.
        model: MODEL folder.
        out: folder of the shards.
        config: settings.
        resume: continue an interrupted run; its finished shards are kept.
        ray: address of a Ray cluster that runs the work instead of local processes; see `RayCluster`.
        worker: function that predicts a chunk; see `WorkerPool`.

    Raises:
        InputError: an input or the model can't be used, or `out` holds something else or a run with other ones.
        StorageError: the disk is full or read-only; finished shards stay.

    Example:
        >>> screen(["library.smi.gz"], "esol-model", "hits", ScreenConfig(top=1000))  # doctest: +SKIP
    """
    started, folder, config = time.monotonic(), Path(out), config or ScreenConfig()
    where = machines(config.jobs, ray, usual_jobs=ScreenConfig.jobs)
    model = model_folder(model)
    sealed = verify_folder(model, kind="predictor", format_version=MODEL_FORMAT)
    work = ChunkWork.of(worker, config.chunk, folders={"model": model}, digest=str(sealed["digest"]))
    saved = parse_json(read_sealed(model, sealed, "config.json"), model / "config.json")
    remembered = training_of(saved, model).get("smiles_column")
    names = check_inputs(inputs, config.smiles_column, remembered)
    watched = WatchedInputs([Path(path) for path in inputs], describe_input)
    column, digits = _column_of(saved, config), _digits_of(saved)
    rows = estimate_rows(inputs)
    if hint := hint_to_compress(saved, rows):
        LOGGER.warning(hint)
    settings = {
        **asdict(config),
        "inputs": watched.descriptions,
        "model": sealed["digest"],
        "names": names,
        "rdkit": package_versions()["rdkit"],
        "chunks_per_shard": CHUNKS_PER_SHARD,
    }
    require_free(folder, kind=KIND, resume=resume)
    with folder_lock(folder):
        finished = already_finished(folder, kind=KIND, format_version=FORMAT_VERSION, resume=resume)
        if finished or (folder / RUN_RECORD).is_file():
            begun = read_record(folder / RUN_RECORD)["settings"].get("chunks_per_shard")
            settings["chunks_per_shard"] = begun  # its next shards are as large as its first ones
            require_same_run(folder, settings)
        else:
            write_run_record(folder, settings)
        journal = ScreenJournal(folder, settings["chunks_per_shard"] or CHUNKS_UNTIL_020)
        if not finished:
            read = partial(read_candidates, inputs, config.smiles_column, remembered, names)
            progress = Progress("screen", unit="row", total=rows, first=journal.rows, about=True)
            _make_shards(journal, read, names, config.chunk, partial(where.run, work), progress)
            watched.require_unchanged()
            _seal(folder, journal, settings, config, column, digits)
        journal.remove()
    counts = read_json(folder / MANIFEST)["counts"]
    return ScreenSummary(folder, counts["rows"], counts["errors"], counts["shards"], time.monotonic() - started)


def hint_to_compress(model: Mapping[str, Any], rows: int) -> str:
    """The hint to compress a blend before it predicts many rows; empty if there is nothing to hint at.

    Args:
        model: `config.json` of the model.
        rows: about how many there are.
    """
    if rows <= ROWS_OF_A_BLEND or not (model.get("blend") or {}).get("classical"):
        return ""
    return (
        f"hint: the model is a blend, so it computes descriptors of all rows (about {rows:,}). "
        "First compress it: `dnd compress MODEL -o SMALL` makes one student of it, which predicts several times as fast"
    )


def _column_of(model: Mapping[str, Any], config: ScreenConfig) -> str:
    """The column that `top` goes by; empty without `top`."""
    names = [str(target["name"]) for target in model["targets"]]
    if config.top is None:
        return ""
    if config.by is None and len(names) > 1:
        raise ConfigError("the model has several targets", found=", ".join(names), next_step="Choose one with --by")
    if config.by is not None and config.by not in names:
        raise ConfigError(f"the model has no target {config.by!r}", next_step=nearest(config.by, names))
    chosen = config.by or names[0]
    two = next((target for target in model["targets"] if target["name"] == chosen and target.get("classes")), None)
    if two is not None:  # classes with names go by the probability of the second
        return f"{chosen}_prob_{two['classes'][1]}"
    classes = {target["name"] for target in model["targets"] if target.get("group")}
    return chosen if chosen in classes else f"{chosen}_pred"  # one of several classes goes by its probability


def _make_shards(
    journal: ScreenJournal,
    read: Callable[[], Generator[Candidate, None, None]],
    names: Sequence[str],
    chunk_rows: int,
    run: Callable[[Iterator[list[Candidate]]], Generator[dict[str, Column], None, None]],
    progress: Progress,
) -> None:
    with closing(read()) as candidates:
        # What is between the two waits for its columns.
        sent, kept = itertools.tee(in_chunks(itertools.islice(candidates, journal.rows, None), chunk_rows))
        with closing(run(sent)) as results:
            try:
                for columns, chunk in zip(results, kept, strict=False):
                    journal.add(_with_names(columns, chunk, names))
                    progress.advance(len(columns["smiles"]))
            except KeyboardInterrupt:
                journal.keep()
                raise
    journal.finish()
    progress.close()


def _with_names(columns: Mapping[str, Column], chunk: Sequence[Candidate], names: Sequence[str]) -> dict[str, Column]:
    """The columns behind the user's own names of the molecules.

    Raises:
        InputError: the user's column has the name of one of ours.
    """
    taken = [name for name in names if name in (ROW, *columns)]
    if taken:
        raise InputError(
            f"the inputs have a column {taken[0]!r}, which the result needs", next_step="Rename it in the inputs"
        )
    return {**{name: [one.names.get(name, "") for one in chunk] for name in names}, **columns}


def _digits_of(model: Mapping[str, Any]) -> dict[str, int]:
    """Significant digits of the columns of values, as `dnd predict` writes them."""
    return digits_of(
        [from_dict(Target, {"kind": model.get("task", "regression"), **target}) for target in model["targets"]]
    )


def _seal(
    folder: Path,
    journal: ScreenJournal,
    settings: Mapping[str, Any],
    config: ScreenConfig,
    column: str,
    digits: Mapping[str, int],
) -> None:
    shards = journal.shards()
    if config.top is not None:
        write_top(folder / TOP, best_rows(shards, column, config.top, ascending=config.ascending), digits)
    counts = {"rows": journal.rows, "errors": journal.errors, "shards": len(shards)}
    extra = {"settings": dict(settings), "counts": counts}
    write_manifest(folder, kind=KIND, format_version=FORMAT_VERSION, extra=extra)
