"""`dnd embed`: molecules and an encoder → representations, row by row."""

from __future__ import annotations

from typing import Annotated

import typer

from dnd.cli.options import InferenceDevice, MoleculesIn, ParsingJobs, PoolingName, Raw, RayAddress, SmilesColumn
from dnd.common.log import LOGGER, PROGRESS


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
