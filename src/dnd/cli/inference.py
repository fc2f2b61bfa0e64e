"""Verbs that use a model or an encoder; none of them trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import (
    Censored,
    Decimal,
    InferenceDevice,
    LabelledTable,
    Measured,
    Missing,
    ModelFolder,
    MoleculesIn,
    ParsingJobs,
    PoolingName,
    Raw,
    RayAddress,
    Resume,
    SmilesColumn,
    SmilesColumnOfModel,
    label_settings,
)
from dnd.common.log import LOGGER, PROGRESS, RESULT


def predict(
    source: MoleculesIn,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model", "-m", help="MODEL folder of `dnd finetune`. If not given, the ready-made `dnd-properties`."
        ),
    ] = None,
    out: Annotated[str, typer.Option("--out", "-o", help=".csv, .tsv, .parquet, .csv.gz; - = stdout.")] = "-",
    properties: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...", help="Targets to write, such as solubility,logd. All if not given; see dnd properties."
        ),
    ] = None,
    smiles_column: SmilesColumnOfModel = None,
    raw: Raw = False,
    device: InferenceDevice = "auto",
    jobs: ParsingJobs = 1,
) -> None:
    """Predict every row; all rows and columns are kept, a bad row has its reason in `error`."""
    from dnd.common.compute import kept_to_the_end, set_threads

    with kept_to_the_end():
        from dnd.common.config import DEFAULT_FOLDER, DEFAULT_MODEL
        from dnd.prediction.files import predict_file
        from dnd.predictor.predictor import Predictor

        set_threads()
        predictor = Predictor.load(DEFAULT_FOLDER if model is None else model, device=device, jobs=jobs)
        if properties:
            predictor = predictor.showing(properties)
    if model is None:
        LOGGER.log(PROGRESS, f"model: {DEFAULT_MODEL}, ready-made; `dnd properties` lists its targets and their scores")
    LOGGER.log(PROGRESS, predict_file(predictor, source, out, smiles_column=smiles_column, raw=raw).line())


def properties() -> None:
    """List the ready-made properties with units, training data and test scores, compared with a random forest."""
    from dnd.common.config import DEFAULT_FOLDER, DEFAULT_MODEL
    from dnd.predictor.ready_made import properties_lines, read_properties

    entries = read_properties()
    for line in properties_lines(entries):
        typer.echo(line)
    typer.echo(
        f"\n{len(entries)} properties of the model {DEFAULT_MODEL}. `dnd predict molecules.csv` predicts all of them, "
        "--properties NAME,NAME some.\nRMSE is in the unit (smaller is better); ROC-AUC: larger is better.\n"
        "Forest: a random forest on counts, fitted on at most 3,000 of the training molecules.\n"
        f"What each is bad at, licences, how it was made: {DEFAULT_FOLDER / 'card.md'}"
    )


def screen(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="CSV, TSV, SMI, Parquet or SDF, .gz or not.")],
    model: ModelFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the shards.")],
    smiles_column: SmilesColumnOfModel = None,
    jobs: Annotated[int, typer.Option(help="Worker processes; 0 = one per processor.")] = 0,
    top: Annotated[int | None, typer.Option(metavar="K", help="Write the best K rows to top.csv.")] = None,
    by: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Target that --top ranks by, if there are several.")
    ] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="With --top: the smallest are the best.")] = False,
    chunk: Annotated[int, typer.Option(metavar="ROWS", help="Rows per chunk of work; a shard has 16 chunks.")] = 1024,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
    ] = None,
    resume: Resume = False,
) -> None:
    """Predict any number of rows in constant memory; a bad row has its reason in `error`."""
    from dnd.prediction.screen.screen import ScreenConfig
    from dnd.prediction.screen.screen import screen as run

    config = ScreenConfig(smiles_column, jobs, chunk, top, by, ascending)
    summary = run(inputs, model, out, config, resume=resume, ray=ray)
    without = f", {summary.errors:,} without a prediction (column error)" if summary.errors else ""
    shards = "1 shard" if summary.shards == 1 else f"{summary.shards:,} shards"
    LOGGER.log(RESULT, f"{summary.folder}: {summary.rows:,} rows in {shards}{without}, {summary.seconds:.1f} s")
    if top is not None:
        LOGGER.log(RESULT, f"{summary.folder / 'top.csv'}: the best rows")


def embed(
    source: MoleculesIn,
    out: Annotated[str, typer.Option("--out", "-o", help=".npy, .csv, .tsv, .parquet; - = CSV on stdout.")] = "-",
    encoder: Annotated[
        str | None, typer.Option(help="A shipped encoder, an ENCODER folder, or a MODEL folder; dnd-base if not given.")
    ] = None,
    smiles_column: SmilesColumn = None,
    pooling: PoolingName = None,
    raw: Raw = False,
    device: InferenceDevice = "auto",
    jobs: ParsingJobs = 1,
    ray: RayAddress = None,
) -> None:
    """Write one vector per row; a bad row has empty values (NaN in .npy) and its reason in `error`."""
    from dnd.common.compute import set_threads
    from dnd.models.students.base import pooling_named
    from dnd.models.students.encoders import DEFAULT_ENCODER
    from dnd.prediction.embedder import ClusterEmbedder, load_embedder
    from dnd.prediction.files import ChunkEmbedder, MoleculeEmbedder, embed_file

    set_threads()
    chosen = pooling_named(pooling) if pooling else None
    folder = encoder or DEFAULT_ENCODER
    embedder: MoleculeEmbedder | ChunkEmbedder
    if ray is None:
        embedder = load_embedder(folder, pooling=chosen, device=device, jobs=jobs)
    else:
        embedder = ClusterEmbedder.at(ray, folder, pooling=chosen, device=device, jobs=jobs)
    LOGGER.log(PROGRESS, embed_file(embedder, source, out, smiles_column=smiles_column, raw=raw).line())


def evaluate(
    data: LabelledTable,
    model: ModelFolder,
    smiles_column: SmilesColumnOfModel = None,
    target_columns: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Columns with labels: names of some targets, or others for all targets in their order.",
        ),
    ] = None,
    missing: Missing = None,
    measured: Measured = None,
    censored: Censored = None,
    decimal: Decimal = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    device: InferenceDevice = "auto",
    jobs: ParsingJobs = 0,
) -> None:
    """Print the metrics of a model on labelled molecules."""
    import json
    from dataclasses import asdict

    from dnd.common.compute import set_threads
    from dnd.common.config import from_dict
    from dnd.prediction.evaluate import evaluate_file, label_rules_of, metric_lines
    from dnd.predictor.predictor import Predictor
    from dnd.tables.labels import LabelRules

    set_threads()
    predictor = Predictor.load(model, device=device, jobs=jobs)
    rules = from_dict(
        LabelRules, {**asdict(label_rules_of(predictor)), **label_settings(missing, measured, censored, decimal)}
    )
    metrics = evaluate_file(
        predictor, data, smiles_column=smiles_column, target_columns=target_columns or (), rules=rules
    )
    typer.echo(json.dumps(metrics, indent=1) if as_json else "\n".join(metric_lines(metrics)))


def explain(
    source: Annotated[str, typer.Argument(metavar="SMILES|IN", help="A SMILES, or CSV, TSV, SMI, SDF or Parquet.")],
    model: ModelFolder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures and tables.")],
    smiles_column: SmilesColumnOfModel = None,
    target_columns: Annotated[
        list[str] | None,
        typer.Option(metavar="TARGET", help="Target to explain; may be repeated. By default the first four."),
    ] = None,
    most_molecules: Annotated[int, typer.Option(min=1, help="Rows to explain.")] = 100,
    device: InferenceDevice = "auto",
    jobs: ParsingJobs = 1,
) -> None:
    """Draw each molecule with the contributions of its atoms, SVG and PNG, and write the numbers as CSV."""
    from dnd.common.compute import set_threads
    from dnd.predictor.predictor import Predictor
    from dnd.report.explain import explain_file

    set_threads()
    summary = explain_file(
        Predictor.load(model, device=device, jobs=jobs),
        source,
        out,
        smiles_column=smiles_column,
        targets=target_columns or (),
        most_molecules=most_molecules,
    )
    typer.echo("\n".join([*summary.lines(), f"pictures and tables: {out}"]))


def export(
    model: Annotated[Path, typer.Argument(help="MODEL folder of one student.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make.")],
    format: Annotated[str, typer.Option("--format", help="onnx.")] = "onnx",
) -> None:
    """Write a model as ONNX, with a module that computes its inputs with RDKit and NumPy."""
    from dnd.common.config import look_up
    from dnd.export.export import FORMATS, export_onnx

    look_up(FORMATS, format, "format")
    typer.echo("\n".join(map(str, export_onnx(model, out))))


def serve(
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model", "-m", help="MODEL folder; may be repeated. If not given, the ready-made `dnd-properties`."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is reachable from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 = any free one.")] = 8000,
    most_rows: Annotated[int, typer.Option(min=1, help="Maximum number of rows in a file.")] = 20_000,
    most_megabytes: Annotated[int, typer.Option(min=1, help="Maximum size of a request.")] = 8,
    device: InferenceDevice = "auto",
) -> None:
    """Serve models: a web page for SMILES and files, and JSON under /api/v1."""
    from importlib.util import find_spec

    from dnd.common.config import DEFAULT_FOLDER
    from dnd.common.errors import ConfigError

    missing = [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serve needs the package {missing[0]}", next_step="pip install 'dnd-mol[serve]'")
    from dnd.serve.app import serve as run
    from dnd.serve.guard import Limits

    limits = Limits(body_bytes=most_megabytes * 2**20, rows=most_rows)
    run(model or [DEFAULT_FOLDER], host, port, limits, device)
