"""Representations of molecules from a pretrained encoder or from a finetuned model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from jaxtyping import Float
from torch import Tensor

from dnd.common.cluster import RayCluster, machines
from dnd.common.compute import choose_device, set_threads
from dnd.common.config import model_folder, shipped_models
from dnd.common.errors import ConfigError, InputError, isolating
from dnd.common.files import MANIFEST, read_json
from dnd.common.processes import process_count
from dnd.common.workers import Here
from dnd.graphs.batch import GraphBatch
from dnd.models.students.base import Pooling, Student, pool, pooled_width, pooling_named
from dnd.models.students.encoders import RepresentationLimits, encoder_folder, load_encoder, load_limits
from dnd.prediction.files import CHUNK_ROWS, EMBEDDING, MoleculeEmbedder
from dnd.predictor.ensemble import run_over
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import ERROR, Column, Predictor, with_reasons_of_nan
from dnd.store.featurize import valid_molecules
from dnd.store.schema import HydrogenSetting
from dnd.tables.molecules import as_molecules

if TYPE_CHECKING:
    from dnd.prediction.screen.chunks import Candidate


class Embedder:
    """A pretrained student and a pooling.

    Args:
        student: student in evaluation mode.
        hydrogens: hydrogen setting of its training.
        pooling: `mean` (+MP) or `virtual_node` (+VN).
        device: `cpu`, `cuda` or `auto`.
        jobs: processes for parsing many molecules; 0 = one per processor.
        limits: within which representations are kept, so that they are bounded for any molecule; None = none are known.
    """

    def __init__(
        self,
        student: Student,
        hydrogens: HydrogenSetting,
        *,
        pooling: Pooling = "mean",
        device: str = "auto",
        jobs: int = 1,
        limits: RepresentationLimits | None = None,
    ) -> None:
        process_count(jobs)  # now, and not at the first molecule
        self.student, self.hydrogens, self.pooling, self.jobs = student, hydrogens, pooling, jobs
        self.limits = limits
        self.student.to(choose_device(device))

    @classmethod
    def load(cls, folder: Path | str, *, pooling: Pooling = "mean", device: str = "auto", jobs: int = 1) -> Self:
        """Open an ENCODER folder, or a shipped encoder by its name.

        Raises:
            InputError, CorruptFileError: see `load_encoder`.
        """
        student, config = load_encoder(folder)
        limits = load_limits(folder)
        if limits is not None:
            limits.require_width(pooling, pooled_width(student.width, pooling), encoder_folder(folder))
        return cls(student, config["hydrogens"], pooling=pooling, device=device, jobs=jobs, limits=limits)

    def embed(self, molecules: object) -> Float[np.ndarray, "molecules dim"]:
        """One vector per molecule, float32; NaN rows where there is no molecule. What is accepted: `as_molecules`."""
        return self.embed_with_errors(molecules)[0]

    def embed_with_errors(self, molecules: object) -> tuple[Float[np.ndarray, "molecules dim"], list[str]]:
        """`embed`, and the reasons of the NaN rows."""
        given = as_molecules(molecules)
        (values_BD, errors), internal = isolating(self._embed, given.texts, "")
        reasons = [internal.get(place, reason) for place, reason in enumerate(errors)]
        return values_BD, given.reasons(reasons)

    def _embed(self, smiles: Sequence[str]) -> tuple[Float[np.ndarray, "molecules dim"], list[str]]:
        found = valid_molecules(smiles, self.hydrogens, self.jobs)
        values_BD = np.full((len(smiles), pooled_width(self.student.width, self.pooling)), np.nan, np.float32)
        if len(found.places):
            every = np.arange(len(found.store))
            pooled_VD = run_over(self._pooled, self.student, found.store, every)
            values_BD[found.places] = pooled_VD if self.limits is None else self.limits.bounded(pooled_VD, self.pooling)
        return values_BD, with_reasons_of_nan(values_BD, found)

    def _pooled(self, graph: GraphBatch) -> Tensor:
        return pool(self.student(graph), graph, self.pooling)


def embedding_folder(choice: Path | str) -> Path:
    """The folder of an encoder or of a model, given by its name or as a folder.

    Raises:
        InputError: there is no such folder, and no such name.
    """
    return model_folder(choice) if str(choice) in shipped_models() else encoder_folder(choice)


def load_embedder(
    folder: Path | str, *, pooling: Pooling | None = None, device: str = "auto", jobs: int = 1
) -> MoleculeEmbedder:
    """An ENCODER folder as an `Embedder`, or a MODEL folder as a `Predictor`.

    Args:
        folder: either, or the name of a shipped encoder or model.
        pooling: pooling of an encoder, +MP when None; a finetuned model has its own.
        device: `cpu`, `cuda` or `auto`.
        jobs: processes for parsing many molecules.

    Raises:
        InputError, CorruptFileError: it is missing, damaged, or neither; a pooling was given for a finetuned model, or
            one that there is not.
    """
    pooling = None if pooling is None else pooling_named(pooling)
    folder = embedding_folder(folder)
    manifest = folder / MANIFEST
    if manifest.is_file() and read_json(manifest).get("kind") == KIND:
        if pooling is not None:
            raise InputError(f"{folder} is a finetuned model with its own pooling", next_step="Leave --pooling out")
        return Predictor.load(folder, device=device, jobs=jobs)
    return Embedder.load(folder, pooling=pooling or "mean", device=device, jobs=jobs)


# The same on the machines of a cluster: chunks of rows as a screen has them, with an embedder in place of a model.


@dataclass(frozen=True)
class ClusterEmbedder:
    """An encoder or a model on the processors of a cluster; one that kills or hangs a worker costs its row only.

    Attributes:
        folder: see `load_embedder`; its files are sent to the machines.
        where: the cluster, or processes here.
        pooling: see `load_embedder`.
        worker: function that embeds a chunk; see `WorkerPool`.
    """

    folder: Path | str
    where: Here | RayCluster
    pooling: Pooling | None = None
    worker: str = f"{__name__}:make_embedder"

    @classmethod
    def at(cls, address: str, folder: Path | str, *, pooling: Pooling | None, device: str, jobs: int) -> Self:
        """An encoder or a model, loaded once here to see that it can be, and a Ray cluster.

        Raises:
            ConfigError: a device or a number of processes, which are those of this machine; Ray is not installed.
            InputError, CorruptFileError: see `load_embedder`.
        """
        where = machines(jobs, address, usual_jobs=1)
        if device not in ("auto", "cpu"):
            raise ConfigError("machines of a Ray cluster embed on their processors", found=f"--device {device}")
        load_embedder(folder, pooling=pooling, device="cpu")
        return cls(folder, where, pooling)

    def embed_chunks(
        self, chunks: Iterator[list[str]]
    ) -> Iterator[tuple[Float[np.ndarray, "molecules dim"], list[str]]]:
        """The vectors of each chunk and the reasons of their NaN rows, in order; some chunks are under way at a time.

        Raises:
            DndError: see `RayCluster.run`.
        """
        from dnd.prediction.screen.chunks import Candidate, ChunkWork

        folders = {"folder": embedding_folder(self.folder)}
        work = ChunkWork.of(self.worker, CHUNK_ROWS, folders=folders, pooling=self.pooling)
        for columns in self.where.run(work, ([Candidate(text) for text in chunk] for chunk in chunks)):
            yield cast(np.ndarray, columns[EMBEDDING]), list(columns[ERROR])


def make_embedder(folder: str, pooling: Pooling | None) -> Callable[[Sequence[Candidate]], dict[str, Column]]:
    """Load an encoder or a model, once per process, and return the function of a chunk; one thread, on the CPU.

    A candidate with a problem is not looked at; its problem is its error.
    """
    set_threads(1)
    embedder = load_embedder(folder, pooling=pooling, device="cpu")

    def embed_chunk(chunk: Sequence[Candidate]) -> dict[str, Column]:
        values_BD, errors = embedder.embed_with_errors(["" if one.problem else one.text for one in chunk])
        reasons = [one.problem or error for one, error in zip(chunk, errors, strict=True)]
        return {EMBEDDING: values_BD, ERROR: reasons}

    return embed_chunk
