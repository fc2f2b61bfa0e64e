"""`dnd embed`: molecules and an encoder → representations, row by row."""

from __future__ import annotations

from typing import Annotated

import typer

from dnd.common.log import LOGGER, PROGRESS


def embed(
    source: Annotated[
        str, typer.Argument(metavar="SMILES|IN", help="A SMILES, or CSV, TSV, SMI, SDF or Parquet; - = stdin.")
    ],
    out: Annotated[str, typer.Option("--out", "-o", help=".npy, .csv, .tsv, .parquet; - = CSV on stdout.")] = "-",
    encoder: Annotated[
        str | None, typer.Option(help="A shipped encoder, an ENCODER folder, or a MODEL folder; dnd-base if not given.")
    ] = None,
    smiles_column: Annotated[
        str | None, typer.Option(help="Column with SMILES. Found by name or content if not given.")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="mean (+MP), virtual_node (+VN) or min_max_mean_sum.")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Do not escape cells that start with = + - @ (spreadsheet formulas).")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Processes for parsing; 0 = one per processor.")] = 1,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Work on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
    ] = None,
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
