"""What a model or an encoder is asked, from Python: `load`, `predict`, `embed`, `screen`, `explain`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from dnd.common.config import DEFAULT_FOLDER
from dnd.common.errors import ConfigError, InputError, named_as_arguments
from dnd.common.log import level_of, told
from dnd.interface.model import Explanations, Predictions, Predictor, as_file, as_files, opened
from dnd.interface.stages import StageResult
from dnd.models.students.encoders import DEFAULT_ENCODER
from dnd.predictor import predictor as core
from dnd.tables.molecules import as_molecules

if TYPE_CHECKING:
    from dnd.models.students.base import Pooling


@named_as_arguments()
def load(folder: Path | str, *, device: str = "auto", jobs: int = 1) -> Predictor:
    """Open a MODEL folder.

    Args:
        folder: made by `dnd.finetune` or `dnd finetune`.
        device: `cpu`, `cuda` or `auto`.
        jobs: number of processes that parse many molecules; 0 = one per processor.

    Raises:
        InputError, CorruptFileError: the folder is missing, damaged, of another kind, or made with other features.

    Example:
        >>> dnd.load("esol-model").predict(["CCO"]).to_pandas()  # doctest: +SKIP
    """
    return Predictor.load(folder, device=device, jobs=jobs)


@named_as_arguments()
def predict(
    molecules: Any,
    model: Any = DEFAULT_FOLDER,
    *,
    properties: str | Sequence[str] = (),
    smiles_column: str | None = None,
    device: str = "auto",
    jobs: int = 1,
) -> Predictions:
    """Predict the targets of molecules.

    Args:
        molecules: a SMILES, a list, an array, a Series, RDKit molecules, a DataFrame, or the path of a table.
        model: a MODEL folder, an opened model, or what `dnd.finetune` returned; when left out, `dnd-properties`, the
            ready-made properties that ship.
        properties: names of the targets whose columns are wanted, as `solubility,logd` or a list; all when empty.
        smiles_column: column of SMILES of a DataFrame or a table; found by name or in a file by content when None.
        device: `cpu`, `cuda` or `auto`, for a model that is opened here.
        jobs: number of processes that parse many molecules; 0 = one per processor.

    Returns:
        A row per molecule, in order; see `Predictor.predict`.

    Raises:
        TypeError: the argument can't be read as molecules.
        ConfigError: the model has no such property.
        InputError, CorruptFileError: the model or a file can't be read.

    Example:
        >>> dnd.predict(["CCO"], properties="solubility")["solubility_pred"]  # doctest: +SKIP
        >>> dnd.predict(["CCO", "c1ccccc1"], "esol-model")["logS_pred"]  # doctest: +SKIP
    """
    predictor = opened(model, device=device, jobs=jobs)
    names = [properties] if isinstance(properties, str) else list(properties)
    shown = predictor.showing(names) if names else predictor
    return shown.predict(molecules, smiles_column=smiles_column)


@named_as_arguments()
def embed(
    molecules: Any,
    encoder: Any = DEFAULT_ENCODER,
    *,
    pooling: Pooling | None = None,
    smiles_column: str | None = None,
    device: str = "auto",
    jobs: int = 1,
) -> Float[np.ndarray, "molecules dim"]:
    """Representations of molecules.

    Args:
        molecules: see `predict`.
        encoder: the name of a shipped encoder, an ENCODER folder, a MODEL folder, or an opened model.
        pooling: `mean` (+MP) or `virtual_node` (+VN) of an encoder; +MP when None.
        smiles_column: see `predict`.
        device: `cpu`, `cuda` or `auto`.
        jobs: number of processes that parse many molecules; 0 = one per processor.

    Returns:
        One vector per molecule, float32; NaN rows where there is no molecule.

    Raises:
        TypeError: the argument can't be read as molecules.
        InputError, CorruptFileError: the encoder or a file can't be read, or a pooling is given for a model.

    Example:
        >>> dnd.embed(["CCO", "no molecule"]).shape  # doctest: +SKIP
        (2, 192)
    """
    from dnd.prediction.embedder import load_embedder

    remembered = encoder.smiles_column if isinstance(encoder, core.Predictor) else None
    given = as_molecules(molecules, smiles_column, remembered=remembered)
    if isinstance(encoder, core.Predictor):
        if pooling is not None:
            raise InputError("a finetuned model has its own pooling", next_step="Leave out pooling=")
        return encoder.embed(given.texts)
    folder = os.fspath(encoder) if isinstance(encoder, os.PathLike) else encoder
    return load_embedder(folder, pooling=pooling, device=device, jobs=jobs).embed_with_errors(given.texts)[0]


@named_as_arguments()
def screen(
    molecules: Any,
    model: Path | str,
    out: Path | str,
    *,
    smiles_column: str | None = None,
    top: int | None = None,
    by: str | None = None,
    ascending: bool = False,
    jobs: int = 0,
    chunk: int = 1024,
    resume: bool = False,
    verbose: bool | int = True,
) -> StageResult:
    """Predict any number of molecules in constant memory, into sharded Parquet, as `dnd screen` does.

    Args:
        molecules: a path or a list of paths; or a DataFrame, a list or a Series of SMILES.
        model: MODEL folder, an opened model, or what `dnd.finetune` returned.
        out: folder of the shards.
        smiles_column: column of SMILES of tables; when None, that of the training, else found by name or content.
        top: number of best rows that are written to `top.csv`.
        by: target that `top` ranks by, if there are several.
        ascending: whether the smallest are the best.
        jobs: number of worker processes; 0 = one per processor.
        chunk: number of rows that a worker predicts at a time.
        resume: resume an interrupted run.
        verbose: whether to show progress.

    Raises:
        InputError, StorageError: see `dnd.prediction.screen.screen`.

    Example:
        >>> dnd.screen("library.smi.gz", "esol-model", "hits", top=1000)  # doctest: +SKIP
    """
    from dnd.prediction.screen.screen import ScreenConfig
    from dnd.prediction.screen.screen import screen as run

    in_memory = hasattr(molecules, "columns") or isinstance(molecules, Mapping)
    remembered = opened(model).smiles_column if in_memory and smiles_column is None else None
    with told(level_of(verbose)), as_files(molecules, smiles_column, remembered=remembered) as (paths, column):
        config = ScreenConfig(column, jobs, chunk, top, by, ascending)
        done = run(paths, Path(model), out, config, resume=resume)
    counts = {"rows": done.rows, "without a prediction": done.errors, "shards": done.shards}
    return StageResult(done.folder, "screen", counts)


@named_as_arguments()
def explain(
    molecules: Any,
    model: Any,
    *,
    targets: str | Sequence[str] = (),
    out: Path | str | None = None,
    smiles_column: str | None = None,
    most_molecules: int = 100,
    device: str = "auto",
) -> Explanations:
    """What each atom adds to the predictions of molecules.

    Args:
        molecules: see `predict`.
        model: a MODEL folder, an opened model, or what `dnd.finetune` returned.
        targets: names of targets; the first four of the model when empty.
        out: folder for the pictures and tables of `dnd explain`; nothing is written when None.
        smiles_column: see `predict`.
        most_molecules: limit on the molecules that are explained; each costs up to four predictions per atom.
        device: `cpu`, `cuda` or `auto`, for a model that is opened here.

    Returns:
        An explanation per molecule and target: contributions, and the molecule coloured by them as SVG.

    Raises:
        ConfigError: no such target, or more molecules than `most_molecules`.

    Example:
        >>> dnd.explain("CC(=O)Oc1ccccc1C(=O)O", "esol-model")[0].atoms_N  # doctest: +SKIP
    """
    predictor, names = opened(model, device=device), [targets] if isinstance(targets, str) else list(targets)
    given = as_molecules(molecules, smiles_column, remembered=predictor.smiles_column)
    if len(given.texts) > most_molecules:
        raise ConfigError(
            "there are too many molecules to explain", found=len(given.texts), expected=f"at most {most_molecules}",
            next_step="Raise most_molecules, or pass fewer",
        )  # fmt: skip
    if out is not None:
        from dnd.report.explain import explain_file

        with as_file(molecules, smiles_column, remembered=predictor.smiles_column) as (path, column):
            explain_file(predictor, path, Path(out), smiles_column=column, targets=names, most_molecules=most_molecules)
    return predictor.explain(given.texts, targets=names)
