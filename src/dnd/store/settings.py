"""Settings of `dnd prepare`, and what identifies a run so that it can be resumed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from dnd.common.config import look_up
from dnd.common.errors import ConfigError
from dnd.common.files import package_versions, sha256_file
from dnd.common.processes import process_count
from dnd.conformers.generate import nvmolkit_is_available
from dnd.conformers.quantum import require_tblite
from dnd.conformers.records import RecordSource
from dnd.store.auxiliary import CALCULATE, require_possible
from dnd.store.schema import AUXILIARY_FIELDS, QUANTUM_FIELDS, ConformerBackend, ConformerSource, HydrogenSetting

SHARD_SIZE = 32768
"""Records per shard; a batch of a training then touches few shards of a store of millions."""

SHARD_SIZE_GENERATED = 4096
"""The same where conformers are generated: about a minute of work that a kill can cost."""

SHARD_SIZE_CALCULATED = 1024
"""The same where conformers are calculated: up to six minutes of one core."""

_MAX_CONFORMERS = 255  # one byte in the schema
_LONGEST_TIMEOUT_S = 86_400.0  # a day
_SAMPLED_BYTES = 2**24  # files above 2 x 16 MiB are told apart by their size, their beginning and their end


@dataclass(frozen=True)
class PrepareConfig:
    """Settings of `dnd prepare`.

    Attributes:
        smiles_column: column of SMILES in tables; None = found by name or content.
        target_columns: columns, data fields or labels kept as targets.
        conformers: `none`, those of the `file`, `etkdg` (embedded and relaxed by a force field), or `etkdg_raw` (only
            embedded); `auto` takes those of the file if its format has coordinates.
        num_conformers: number of generated conformers per molecule.
        conformer_backend: program that generates them; `auto` takes nvMolKit if it is installed and there is a GPU.
        hydrogens: which hydrogens are explicit in the graph and in the conformer.
        seed: random seed of generated conformers and of `sample`.
        limit: number of records to read, from the first on.
        sample: number of records to draw at random, without excluded molecules; records with labels in a file of
            quantum labels are taken first.
        exclude: files whose molecules are left out, compared by the connectivity block of the InChIKey; or lists of
            their digests, see `tables.molecules.key_digest`.
        timeout_s: seconds per molecule, at most a day.
        auxiliary: auxiliary columns to compute, of `schema.AUXILIARY_FIELDS`.
        quantum: source of the quantum columns: `gfn2` for a calculation of the first conformer, files of labels,
            or both to calculate what no file has. Empty = no such columns.
        jobs: worker processes.
        shard_size: records per shard; None takes 32,768, 4,096 where conformers are generated, 1,024 with `gfn2`.
    """

    smiles_column: str | None = None
    target_columns: tuple[str, ...] = ()
    conformers: ConformerSource | Literal["auto"] = "auto"
    num_conformers: int = 1
    conformer_backend: ConformerBackend | Literal["auto"] = "rdkit"
    hydrogens: HydrogenSetting = "heavy_both"
    seed: int = 0
    limit: int | None = None
    sample: int | None = None
    exclude: tuple[str, ...] = ()
    timeout_s: float = 30.0
    auxiliary: tuple[str, ...] = ()
    quantum: tuple[str, ...] = ()
    jobs: int = 1
    shard_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_conformers", "limit", "sample", "shard_size"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"{name} must be above 0", found=value)
        if not 0 < self.timeout_s <= _LONGEST_TIMEOUT_S:
            raise ConfigError(
                "timeout_s is out of range", found=self.timeout_s, expected=f"above 0, at most {_LONGEST_TIMEOUT_S:.0f}"
            )
        process_count(self.jobs)
        for name in self.auxiliary:
            look_up(AUXILIARY_FIELDS, name, "auxiliary column")
        for word in self.quantum:
            if word != CALCULATE and not word.endswith(".npz"):
                raise ConfigError("unknown --quantum", found=word, expected=f"{CALCULATE}, or a file of labels, .npz")
        if self.num_conformers > _MAX_CONFORMERS:
            raise ConfigError("too many conformers", found=self.num_conformers, expected=f"at most {_MAX_CONFORMERS}")

    @property
    def further_columns(self) -> tuple[str, ...]:
        """Columns of the store beyond those that each has."""
        return (*self.auxiliary, *(QUANTUM_FIELDS if self.quantum else ()))


def resolve(config: PrepareConfig, sources: Sequence[RecordSource]) -> PrepareConfig:
    """Settings with the defaults that depend on the inputs filled in."""
    flat = [source.name for source in sources if not source.has_coordinates]
    conformers = config.conformers
    if conformers == "auto":
        conformers = "none" if flat else "file"
    if conformers == "file" and flat:
        raise ConfigError(
            f"{flat[0]} has no coordinates", found="--conformers file", next_step="Use --conformers etkdg or none"
        )
    generated = conformers in ("etkdg", "etkdg_raw")
    if not generated and config.num_conformers > 1:
        raise ConfigError(
            "more than one conformer per molecule must be generated",
            found=f"--conformers {conformers}",
            expected="etkdg",
        )
    require_possible(config.quantum, conformers, config.hydrogens, [source.name for source in sources])
    usual = SHARD_SIZE_GENERATED if generated else SHARD_SIZE
    shard_size = config.shard_size or (SHARD_SIZE_CALCULATED if CALCULATE in config.quantum else usual)
    backend = _backend(config.conformer_backend) if generated else "rdkit"
    return replace(config, conformers=conformers, shard_size=shard_size, conformer_backend=backend)


def _backend(wanted: ConformerBackend | Literal["auto"]) -> ConformerBackend:
    if wanted == "auto":
        return "nvmolkit" if nvmolkit_is_available() else "rdkit"
    if wanted == "nvmolkit" and not nvmolkit_is_available():
        raise ConfigError(
            "nvMolKit can't be used here",
            expected="the extra `gpu` (pip install 'dnd-mol[gpu]') and an NVIDIA GPU that torch sees",
            next_step="Use --conformer-backend rdkit, or auto",
        )
    return wanted


def describe_run(identities: list[dict[str, Any]], config: PrepareConfig) -> dict[str, Any]:
    """Everything that the shards depend on; it must be the same in a resumed run.

    Args:
        identities: identities of the inputs, then of the files to exclude and of quantum labels; see `identity`.
        config: settings.
    """
    settings = asdict(config)
    if config.conformer_backend == "rdkit":
        del settings["conformer_backend"]  # stores of earlier versions had no other
    if not config.quantum:
        del settings["quantum"]  # nor these columns
    if CALCULATE in config.quantum:
        settings["tblite"] = require_tblite()
    return {**settings, "inputs": identities, "rdkit": package_versions()["rdkit"]}


def identity(path: Path) -> dict[str, Any]:
    """Name, size and SHA-256 of an input: of the ends of a large file, and of all XYZ files of a folder."""
    if path.is_dir():
        files = sorted(path.glob("*.xyz"))
        listed = "".join(f"{sha256_file(file)} {file.name}\n" for file in files)
        return {"name": path.name, "files": len(files), "sha256": hashlib.sha256(listed.encode()).hexdigest()}
    if not path.is_file():
        return {"name": path.name}
    size = path.stat().st_size
    if size <= 2 * _SAMPLED_BYTES:
        return {"name": path.name, "bytes": size, "sha256": sha256_file(path)}
    with open(path, "rb") as stream:
        digest = hashlib.sha256(stream.read(_SAMPLED_BYTES))
        stream.seek(-_SAMPLED_BYTES, os.SEEK_END)
        digest.update(stream.read())
    return {"name": path.name, "bytes": size, "sha256_of_ends": digest.hexdigest()}
