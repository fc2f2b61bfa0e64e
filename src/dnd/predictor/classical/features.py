"""What classical members see of a molecule: [representation of the encoder | 2D descriptors | Morgan counts]."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64
from rdkit import Chem
from rdkit.Chem import Descriptors, rdFingerprintGenerator

from dnd.chemistry.descriptors import DescriptorCalculator
from dnd.chemistry.parse import parse_smiles
from dnd.common.processes import process_pool

# Classical molecular features: Morgan count fingerprints and RDKit's 2D descriptors.


RADIUS = 2
NUM_BITS = 2048
LIMIT_DESCRIPTOR = 1e6

_all_descriptors = DescriptorCalculator()


def count_fingerprints(molecules: Sequence[Chem.Mol]) -> Float[np.ndarray, "molecules bits"]:
    """Morgan counts, radius 2, folded to 2048 places: how often each atom environment occurs."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=NUM_BITS)
    counts = np.empty((len(molecules), NUM_BITS), np.float32)
    for row, molecule in enumerate(molecules):
        counts[row] = generator.GetCountFingerprintAsNumPy(molecule)
    return counts


def descriptors_2d(molecules: Sequence[Chem.Mol]) -> Float[np.ndarray, "molecules descriptors"]:
    """All of RDKit's 2D descriptors; what is undefined or infinite becomes 0, and values are kept within ±1e6.

    A few descriptors are NaN for metals or without charges, and one (Ipc) overflows on large molecules.

    Raises:
        TooDenseError: see `dnd.chemistry.descriptors`.
    """
    values = np.zeros((len(molecules), len(_all_descriptors.names)), np.float64)
    for row, molecule in enumerate(molecules):
        values[row] = _all_descriptors(molecule)
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    return finite.clip(-LIMIT_DESCRIPTOR, LIMIT_DESCRIPTOR).astype(np.float32)


# What classical members see of a molecule: [representation of the encoder | RDKit's 2D descriptors | Morgan counts].
#
# Descriptors take 5 to 10 ms per molecule on one core, more than everything else in a prediction, so they are computed
# in worker processes, and only where a member needs them.


EMBEDDING, DESCRIPTORS, COUNTS = "embedding", "descriptors", "counts"
PARALLEL_FROM = 200
_CHUNK = 100
_WIDTHS = {DESCRIPTORS: len(Descriptors.descList), COUNTS: NUM_BITS}


@dataclass(frozen=True)
class Layout:
    """The columns of the feature matrix.

    Attributes:
        embedding_width: of the representation; 0 = there is none.
    """

    embedding_width: int = 0

    @property
    def width(self) -> int:
        """All columns."""
        return self.embedding_width + sum(_WIDTHS.values())

    def columns(self, name: str) -> Int64[np.ndarray, "columns"]:
        """The columns of a feature set."""
        starts = {
            EMBEDDING: (0, self.embedding_width),
            DESCRIPTORS: (self.embedding_width, _WIDTHS[DESCRIPTORS]),
            COUNTS: (self.embedding_width + _WIDTHS[DESCRIPTORS], NUM_BITS),
        }
        start, width = starts[name]
        return np.arange(start, start + width)


def features_of(
    smiles: Sequence[str],
    embedding_ND: Float32[np.ndarray, "molecules dim"] | None,
    *,
    jobs: int = 1,
    descriptors: bool = True,
    say_progress: Callable[[int], None] = lambda done: None,
) -> Float32[np.ndarray, "molecules features"]:
    """The feature matrix, in the order of `Layout`.

    Args:
        smiles: canonical, all molecules.
        embedding_ND: representations; None = there are none.
        jobs: worker processes from 200 molecules on; 0 = one per processor.
        descriptors: False leaves their columns 0, for members that don't look at them.
        say_progress: receives the number of molecules done, now and then.
    """
    jobs = jobs or len(os.sched_getaffinity(0))
    chunks = [smiles[start : start + _CHUNK] for start in range(0, len(smiles), _CHUNK)]
    parts: list[np.ndarray] = []
    if len(smiles) < PARALLEL_FROM or jobs < 2:
        for chunk in chunks:
            parts.append(_computed(chunk, descriptors))
            say_progress(sum(map(len, parts)))
    else:
        with process_pool(jobs) as pool:
            for part in pool.map(_computed, chunks, [descriptors] * len(chunks)):
                parts.append(part)
                say_progress(sum(map(len, parts)))
    computed = np.concatenate(parts) if parts else np.empty((0, sum(_WIDTHS.values())), np.float32)
    return computed if embedding_ND is None else np.hstack([embedding_ND.astype(np.float32), computed])


def _computed(smiles: Sequence[str], descriptors: bool) -> Float32[np.ndarray, "molecules features"]:
    parsed = [molecule.mol for text in smiles if (molecule := parse_smiles(text)).ok]
    assert len(parsed) == len(smiles), "a canonical SMILES parses back"
    empty = np.zeros((len(parsed), _WIDTHS[DESCRIPTORS]), np.float32)
    return np.hstack([descriptors_2d(parsed) if descriptors else empty, count_fingerprints(parsed)])
