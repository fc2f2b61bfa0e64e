"""What classical members see of a molecule: [representation of the encoder | 2D descriptors | fingerprints]."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, Int64
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from dnd.chemistry.descriptors import DESCRIPTOR_NAMES, DescriptorCalculator
from dnd.chemistry.fingerprints import FINGERPRINTS, fingerprint
from dnd.chemistry.molecule import InvalidMolecule, MolecularGraph
from dnd.chemistry.parse import TooDenseError, read_smiles
from dnd.common.errors import internal_reason
from dnd.common.processes import process_count
from dnd.graphs.fast.graphs import molecule_of

# Classical molecular features: Morgan count fingerprints and RDKit's 2D descriptors.


RADIUS = 2
NUM_BITS = 2048
LIMIT_DESCRIPTOR = 1e6

_calculator = lru_cache(maxsize=8)(DescriptorCalculator)
_morgan = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=NUM_BITS)


def count_fingerprints(molecules: Sequence[Chem.Mol]) -> Float[np.ndarray, "molecules bits"]:
    """Morgan counts, radius 2, folded to 2048 places: how often each atom environment occurs."""
    counts = np.empty((len(molecules), NUM_BITS), np.float32)
    for row, molecule in enumerate(molecules):
        counts[row] = _morgan.GetCountFingerprintAsNumPy(molecule)
    return counts


def descriptors_2d(
    molecules: Sequence[Chem.Mol], names: tuple[str, ...] = DESCRIPTOR_NAMES
) -> Float[np.ndarray, "molecules descriptors"]:
    """RDKit's 2D descriptors; what is undefined or infinite becomes 0, and values are kept within ±1e6.

    A few descriptors are NaN for metals or without charges, and one (Ipc) overflows on large molecules.

    Args:
        molecules: sanitised.
        names: names of the descriptors; all by default.

    Raises:
        TooDenseError: see `dnd.chemistry.descriptors`.
    """
    finite: np.ndarray = np.nan_to_num(_calculator(names).of_all(molecules), nan=0.0, posinf=0.0, neginf=0.0)
    values: np.ndarray = finite.clip(-LIMIT_DESCRIPTOR, LIMIT_DESCRIPTOR).astype(np.float32)
    return values


# The feature matrix: [representation of the encoder | the feature sets of a model, side by side].
#
# Descriptors take 1 to 2 ms per molecule on one core and Avalon's counts 1, more than everything else in a prediction,
# so they are computed in worker processes, and only where a member looks at them.


EMBEDDING, DESCRIPTORS, COUNTS = "embedding", "descriptors", "counts"
FURTHER = ("avalon", "erg", "atom_pairs", "torsions")
"""Fingerprints that a model may look at beside the Morgan counts; see `dnd.chemistry.fingerprints`."""
COUNT_SETS = (COUNTS, "avalon", "atom_pairs", "torsions")
"""Sets of counts, most of which are 0 for most molecules."""
FIRST_SETS = (DESCRIPTORS, COUNTS)
"""The sets that every model has."""
_Chunk = tuple[Sequence[str], Sequence[MolecularGraph] | None]
PARALLEL_FROM = 200
_CHUNK = 100
_WIDTHS = {
    DESCRIPTORS: len(DESCRIPTOR_NAMES),
    COUNTS: NUM_BITS,
    **{name: FINGERPRINTS[name].size for name in FURTHER},
}
_SLOW = ("fr_", "qed", "SPS", "BertzCT", "Ipc", "AvgIpc", "BalabanJ", "BCUT2D")
LEAN_DESCRIPTORS = tuple(name for name in DESCRIPTOR_NAMES if not name.startswith(_SLOW))
"""The descriptors that members look at beside a representation.

The others, counts of fragments and indices of complexity, take about half of the time of all, and over many data sets
the error out of fold is level without them (docs/results/fast-features.md).
"""
_PLACE_OF_DESCRIPTOR = {name: place for place, name in enumerate(DESCRIPTOR_NAMES)}


@dataclass(frozen=True)
class Layout:
    """The columns of the feature matrix.

    Attributes:
        embedding_width: width of the representation; 0 = no representation.
        sets: what follows it, in order.
    """

    embedding_width: int = 0
    sets: tuple[str, ...] = FIRST_SETS

    @cached_property
    def starts(self) -> dict[str, int]:
        """The first column of each set."""
        widths = [self.embedding_width, *(_WIDTHS[name] for name in self.sets)]
        return dict(zip((EMBEDDING, *self.sets), np.cumsum([0, *widths[:-1]]).tolist(), strict=True))

    @property
    def width(self) -> int:
        """All columns."""
        return self.embedding_width + sum(_WIDTHS[name] for name in self.sets)

    def columns(self, name: str) -> Int64[np.ndarray, "columns"]:
        """The columns of a feature set; none of a set that there is not."""
        width = self.embedding_width if name == EMBEDDING else _WIDTHS[name]
        return self.starts[name] + np.arange(width) if name in self.starts else np.empty(0, np.int64)

    def seen(self, name: str) -> Int64[np.ndarray, "columns"]:
        """The columns of a feature set that members look at: of descriptors beside a representation the lean ones."""
        columns = self.columns(name)
        if name != DESCRIPTORS or not self.embedding_width or not len(columns):
            return columns
        return columns[[_PLACE_OF_DESCRIPTOR[own] for own in LEAN_DESCRIPTORS]]

    def sets_of(self, columns: Int64[np.ndarray, "columns"]) -> set[str]:
        """The sets that some columns belong to, the representation among them."""
        names, starts = list(self.starts), list(self.starts.values())
        return {names[place] for place in np.unique(np.searchsorted(starts, columns, side="right") - 1).tolist()}


@dataclass(frozen=True)
class Features:
    """The feature matrix of some molecules.

    Attributes:
        x_BF: in the order of a `Layout`.
        refused: reasons of the molecules that a feature could not be computed for, by row; theirs are 0.
    """

    x_BF: Float32[np.ndarray, "molecules features"]
    refused: Mapping[int, str] = field(default_factory=dict)


@runtime_checkable
class FeatureCache(Protocol):
    """Features that are there already, by molecule, of the sets that are asked for."""

    def get(self, smiles: Sequence[str]) -> Features | None:
        """Those of these molecules; None where one of them is not there."""
        ...

    def put(self, smiles: Sequence[str], part: Features) -> None:
        """Keep those of these molecules."""
        ...


def features_of(
    smiles: Sequence[str],
    embedding_BD: Float32[np.ndarray, "molecules dim"] | None,
    layout: Layout | None = None,
    *,
    graphs: Sequence[MolecularGraph] | None = None,
    jobs: int = 1,
    wanted: Collection[str] | None = None,
    cache: FeatureCache | None = None,
    descriptors: tuple[str, ...] = DESCRIPTOR_NAMES,
    say_progress: Callable[[int], None] = lambda done: None,
) -> Features:
    """The feature matrix.

    Args:
        smiles: canonical, all molecules.
        embedding_BD: representations; None = there are none.
        layout: layout of the columns; None = that of the representation and `FIRST_SETS`.
        graphs: of the molecules, from which they are built without a parse; None = the SMILES are parsed.
        jobs: worker processes from 200 molecules on; 0 = one per processor.
        wanted: sets that are computed, all of the layout when None; the columns of the others stay 0.
        cache: features computed before, without the representation; None = no cache.
        descriptors: that are computed where `descriptors` is wanted; the columns of the others stay 0.
        say_progress: receives the number of molecules done, now and then.
    """
    width = 0 if embedding_BD is None else embedding_BD.shape[1]
    layout = layout or Layout(width)
    assert layout.embedding_width == width, "the representation is that of the layout"
    names = tuple(name for name in layout.sets if wanted is None or name in wanted)
    x_BF, refused = np.zeros((len(smiles), layout.width), np.float32), {}
    x_BF[:, :width] = 0 if embedding_BD is None else embedding_BD
    own = np.array([_PLACE_OF_DESCRIPTOR[name] for name in descriptors], np.int64)
    columns = [layout.columns(name)[own] if name == DESCRIPTORS else layout.columns(name) for name in names]
    places = np.concatenate([np.empty(0, np.int64), *columns])
    jobs = process_count(jobs)
    spans = [slice(start, start + _CHUNK) for start in range(0, len(smiles), _CHUNK)]
    chunks = [smiles[span] for span in spans]
    kept = [None if cache is None else cache.get(chunk) for chunk in chunks]
    missing = [
        (smiles[span], None if graphs is None else graphs[span])
        for span, part in zip(spans, kept, strict=True)
        if part is None
    ]
    done = 0

    def keep(part: Features) -> None:
        nonlocal done
        x_BF[done : done + len(part.x_BF), places] = part.x_BF
        refused.update({done + row: reason for row, reason in part.refused.items()})
        done += len(part.x_BF)
        say_progress(done)

    computed = _computing(missing, names, descriptors, jobs)
    for chunk, part in zip(chunks, kept, strict=True):
        if part is None:
            part = next(computed)
            if cache is not None:
                cache.put(chunk, part)
        keep(part)
    return Features(x_BF, refused)


def _computing(
    chunks: Sequence[_Chunk], names: Sequence[str], descriptors: tuple[str, ...], jobs: int
) -> Iterator[Features]:
    """The sets `names` of each chunk, in order; in worker processes where there is enough to do."""
    if sum(len(smiles) for smiles, _ in chunks) < PARALLEL_FROM or jobs < 2:
        return map(feature_calculator(names, descriptors), chunks)
    from dnd.common.workers import Rows, compute_in_copies  # small predictions need no other process

    settings = {"names": names, "descriptors": descriptors}
    rows = Rows(_rows_of_chunk, partial(_failed, width=_width(names, descriptors)), _together)
    return compute_in_copies(f"{__name__}:feature_calculator", chunks, jobs=jobs, settings=settings, rows=rows)


def _width(names: Sequence[str], descriptors: tuple[str, ...]) -> int:
    """Columns of the sets `names`, side by side."""
    return sum(len(descriptors) if name == DESCRIPTORS else _WIDTHS[name] for name in names)


def _rows_of_chunk(chunk: _Chunk) -> list[_Chunk]:
    smiles, graphs = chunk
    return [([text], None if graphs is None else [graphs[row]]) for row, text in enumerate(smiles)]


def _failed(row: _Chunk, reason: str, *, width: int) -> Features:
    """A molecule that kills or hangs the process that computes its features."""
    return Features(np.zeros((1, width), np.float32), {0: f"RDKit fails at the features of this molecule: {reason}"})


def _together(found: Sequence[Features]) -> Features:
    """The features of single molecules as those of a chunk."""
    refused = {row: one.refused[0] for row, one in enumerate(found) if one.refused}
    return Features(np.concatenate([one.x_BF for one in found]), refused)


def feature_calculator(names: Sequence[str], descriptors: tuple[str, ...]) -> Callable[[_Chunk], Features]:
    """The function of a chunk that computes the sets `names` of all its molecules, side by side."""
    return partial(_computed, names=names, descriptors=descriptors)


def _computed(chunk: _Chunk, *, names: Sequence[str], descriptors: tuple[str, ...]) -> Features:
    smiles, _ = chunk
    width = _width(names, descriptors)
    if not width:
        return Features(np.zeros((len(smiles), 0), np.float32))
    try:
        return Features(_values_of_all(chunk, names, descriptors))
    except Exception:  # of one row at least: each by itself
        return _computed_by_row(chunk, names, descriptors, width)


def _computed_by_row(chunk: _Chunk, names: Sequence[str], descriptors: tuple[str, ...], width: int) -> Features:
    rows = _rows_of_chunk(chunk)
    x_BF, refused = np.zeros((len(rows), width), np.float32), {}
    for row, one in enumerate(rows):
        try:
            x_BF[row] = _values_of_all(one, names, descriptors)[0]
        except TooDenseError as error:
            refused[row] = f"{error.what}: {error.found}"
        except Exception as error:  # one row never ends a file, such as 255 hydrogens for RDKit's atom pairs
            refused[row] = internal_reason(error)
    return Features(x_BF, refused)


def _values_of_all(
    chunk: _Chunk, names: Sequence[str], descriptors: tuple[str, ...]
) -> Float32[np.ndarray, "molecules features"]:
    """One set after the other, which keeps the code of each in the processor's caches."""
    smiles, graphs = chunk
    molecules = [_molecule(text, None if graphs is None else graphs[row]) for row, text in enumerate(smiles)]
    return np.concatenate([_values(name, molecules, descriptors) for name in names], axis=1)


def _molecule(smiles: str, graph: MolecularGraph | None) -> Chem.Mol:
    """The molecule with atoms and bonds in the order of its canonical SMILES."""
    mol = None if graph is None else molecule_of(smiles, graph)
    if mol is not None:
        return mol
    read = read_smiles(smiles)
    assert not isinstance(read, InvalidMolecule), "a canonical SMILES parses back"
    return read[0]


def _values(
    name: str, molecules: Sequence[Chem.Mol], descriptors: tuple[str, ...]
) -> Float32[np.ndarray, "molecules columns"]:
    if name in FURTHER:
        return np.stack([fingerprint(name, mol) for mol in molecules])
    return descriptors_2d(molecules, descriptors) if name == DESCRIPTORS else count_fingerprints(molecules)
