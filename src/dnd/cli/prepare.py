"""`dnd prepare`: molecules with or without conformers → a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dnd.cli.options import RayAddress, Resume, SmilesColumnOfTables
from dnd.common.log import LOGGER, RESULT

TargetColumns = Annotated[
    list[str] | None, typer.Option(help="Columns or labels kept as targets; repeat, or separate by commas.")
]
Conformers = Annotated[
    str, typer.Option(help="none, file, etkdg, etkdg_raw (not relaxed), or auto: from the file if it has coordinates.")
]
Backend = Annotated[
    str, typer.Option(help="rdkit, nvmolkit (extra `gpu`; NVIDIA GPU, RDKit for molecules that fail), or auto.")
]
Hydrogens = Annotated[str, typer.Option(help="Explicit hydrogens: heavy_both, all_both or teacher_all_student_heavy.")]
Auxiliary = Annotated[
    list[str] | None,
    typer.Option(help="Further columns to learn from: descriptors, fingerprints, charges, surface; with commas."),
]
Quantum = Annotated[
    list[str] | None,
    typer.Option(
        help="Quantum teacher: gfn2 (GFN2-xTB of the first conformer; extra `quantum`), files of labels, or both."
    ),
]
Exclude = Annotated[
    list[Path] | None,
    typer.Option(help="File of molecules to leave out, compared by InChIKey connectivity block; may be repeated."),
]


def prepare(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="IN...", help="CSV, TSV, SMI, Parquet, SDF, XYZ, tar of them, or .npz.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", help="Folder of the store.")],
    smiles_column: SmilesColumnOfTables = None,
    target_columns: TargetColumns = None,
    conformers: Conformers = "auto",
    num_conformers: Annotated[int, typer.Option(help="Conformers per molecule, for etkdg and etkdg_raw.")] = 1,
    conformer_backend: Backend = "rdkit",
    hydrogens: Hydrogens = "heavy_both",
    auxiliary: Auxiliary = None,
    quantum: Quantum = None,
    jobs: Annotated[int, typer.Option(help="Worker processes.")] = 1,
    limit: Annotated[int | None, typer.Option(help="Number of records to read, from the first on.")] = None,
    sample: Annotated[int | None, typer.Option(help="Number of records to draw at random.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of generated conformers and of --sample.")] = 0,
    timeout_s: Annotated[float, typer.Option(help="Seconds per molecule.")] = 30.0,
    exclude: Exclude = None,
    ray: RayAddress = None,
    resume: Resume = False,
) -> None:
    """Make a store: checked graphs, conformers and targets in memory-mapped shards, and a list of rejects."""
    from dnd.common.config import from_dict
    from dnd.store.prepare import prepare as make_store
    from dnd.store.settings import PrepareConfig

    values = {
        "smiles_column": smiles_column,
        "target_columns": _names(target_columns),
        "conformers": conformers,
        "num_conformers": num_conformers,
        "conformer_backend": conformer_backend,
        "hydrogens": hydrogens,
        "auxiliary": _names(auxiliary),
        "quantum": _names(quantum),
        "jobs": jobs,
        "limit": limit,
        "sample": sample,
        "seed": seed,
        "timeout_s": timeout_s,
        "exclude": [str(path) for path in exclude or ()],
    }
    summary = make_store(inputs, out, from_dict(PrepareConfig, values), resume=resume, ray=ray)
    LOGGER.log(
        RESULT,
        f"{summary.store}: {summary.molecules:,} molecules, {summary.conformers:,} conformers, "
        f"{summary.store_bytes:,} bytes, {summary.seconds:.1f} s",
    )
    rejected = sum(summary.rejected.values())
    LOGGER.log(RESULT, f"rejected {rejected:,}" + (f", listed in {summary.store / 'rejects.csv'}" if rejected else ""))
    for reason, count in summary.rejected.items():
        LOGGER.log(RESULT, f"  {count:>9,}  {reason}")
    if quantum:
        without = sum(summary.quantum_failures.values())
        LOGGER.log(RESULT, f"quantum values for {summary.molecules - without:,} molecules, none for {without:,}")
        for reason, count in summary.quantum_failures.items():
            LOGGER.log(RESULT, f"  {count:>9,}  {reason}")


def _names(words: list[str] | None) -> list[str]:
    """Names of an option that may be repeated and may hold several, separated by commas."""
    return [name.strip() for word in words or () for name in word.split(",") if name.strip()]
