"""Where a model may be used: molecules like those it was trained on, by elements, size and two distances.

A molecule is outside when it is a mixture, when it has an element or a size that no training molecule has, or when its
nearest training molecule is farther away than is usual among the training molecules themselves: by Tanimoto similarity
of Morgan fingerprints (radius 2, 2048 bits), or by distance of representations. Distance to the training set as a
measure of trust: Sheridan et al., J. Chem. Inf. Comput. Sci. 44 (2004) 1912. The thresholds are the 99th percentiles of
each training molecule's distance to its nearest other one: each calls about one in a hundred such molecules outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator
from safetensors.torch import save

from dnd.chemistry.molecule import InvalidMolecule, MolecularGraph
from dnd.chemistry.parse import read_smiles
from dnd.common.compute import derive_seed
from dnd.common.config import from_dict
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import write_bytes, write_json
from dnd.common.model_folder import ModelFolder
from dnd.graphs.fast.graphs import fingerprint_molecule_of, parse_canonical
from dnd.store.reader import Store

SETTINGS, ARRAYS = "domain.json", "domain.safetensors"
QUANTILE = 0.99
FEWEST_REFERENCES = 5
LIMIT_REFERENCES = 10_000  # 7 MB in the folder, 20 in memory; more are thinned at random
LIMIT_QUERIES = 2_000  # training molecules whose own neighbours give the thresholds
_LEAST_DEVIATION = 1e-6  # of 1 + |mean|: below, a dimension is constant and its deviation a rounding error
_CHUNK = 512

_BITS = 2048
DUMMY = "*"
_SYMBOLS = np.array([*map(Chem.GetPeriodicTable().GetElementSymbol, range(1, 119)), DUMMY])  # as OGB numbers elements
_MOST_OVERLAP = 255  # of bits that are counted in one byte

_generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=_BITS)


@dataclass(frozen=True)
class Limits:
    """Bounds of the domain.

    Attributes:
        elements: symbols of the training molecules, hydrogen always.
        fewest_atoms: heavy atoms of the smallest training molecule.
        most_atoms: number of heavy atoms of the largest.
        least_similarity: smallest Tanimoto similarity to the nearest training molecule.
        largest_distance: largest distance between representations, in training deviations per dimension; None = they
            are not compared.
        references: number of training molecules to compare with.
        training_molecules: number of distinct training molecules.
    """

    elements: tuple[str, ...]
    fewest_atoms: int
    most_atoms: int
    least_similarity: float
    largest_distance: float | None
    references: int
    training_molecules: int

    def sentences(self) -> list[str]:
        """The bounds in words."""
        far = self.largest_distance
        within = "" if far is None else f" and a representation within {far:.2f} training deviations"
        return [
            f"The domain contains molecules of {', '.join(self.elements)} with {self.fewest_atoms} to "
            f"{self.most_atoms} heavy atoms whose nearest training molecule has a Tanimoto similarity of at least "
            f"{self.least_similarity:.2f}{within}.",
            f"{QUANTILE:.0%} of the training molecules satisfy {'this' if far is None else 'each'} threshold among "
            f"themselves. New molecules are compared with {self.references} of {self.training_molecules} distinct "
            "training molecules. Inside the domain a prediction can still be wrong. A mixture of organic molecules of "
            "similar size is outside.",
        ]


@dataclass(frozen=True)
class Seen:
    """Features of molecules that the domain needs; a prediction that has them need not parse the molecules again.

    Attributes:
        bits_BF: bits of their Morgan fingerprints, radius 2, 2048 bits.
        elements: symbols of the atoms of each, hydrogen only where it is an atom of the graph.
    """

    bits_BF: Bool[np.ndarray, "molecules bits"]
    elements: Sequence[Sequence[str]]

    @classmethod
    def of_texts(cls, smiles: Sequence[str]) -> Seen:
        """Features from canonical SMILES."""
        mols = _parsed(smiles)
        return cls(_bits(mols), [[atom.GetSymbol() for atom in mol.GetAtoms()] for mol in mols])

    @classmethod
    def of_store(cls, store: Store, bits_BF: Bool[np.ndarray, "molecules bits"] | None) -> Seen:
        """Features from featurised molecules; without bits these are computed."""
        if bits_BF is None:
            bits_BF = _bits(map(_molecule, store.smiles(), store.graphs()))
        return cls(bits_BF, _elements_of(store))


@dataclass(frozen=True)
class Domain:
    """The data of the training molecules that new molecules are compared with.

    Attributes:
        limits: the bounds.
        fingerprints_VF: packed bits.
        embeddings_VD: representations by the first member, each dimension divided by its scale; without dimensions
            where they are not compared.
        scale_D: training deviations, 1 of a dimension that is constant but for rounding errors.
    """

    limits: Limits
    fingerprints_VF: UInt8[np.ndarray, "references bytes"]
    embeddings_VD: Float[np.ndarray, "references dim"]
    scale_D: Float[np.ndarray, "dim"]

    def reasons(self, smiles: Sequence[str], embeddings_BD: Float[np.ndarray, "molecules dim"]) -> list[str]:
        """For each valid molecule the reason why it is outside, or empty if it is inside. See `judge`."""
        return self.judge(smiles, embeddings_BD)[0]

    def judge(
        self,
        smiles: Sequence[str],
        embeddings_BD: Float[np.ndarray, "molecules dim"],
        seen: Seen | None = None,
        given: Sequence[str] | None = None,
    ) -> tuple[list[str], Float[np.ndarray, "molecules"]]:
        """For each valid molecule why it is outside (empty if inside), and its similarity to the nearest reference.

        Args:
            smiles: canonical; all must be molecules.
            embeddings_BD: their representations by the first member.
            seen: their features, if known; None = they are parsed.
            given: canonical SMILES of the input, if the model sees another form; None = it sees the input.
        """
        if not smiles:
            return [], np.empty(0)
        seen = Seen.of_texts(smiles) if seen is None else seen
        similarity_B = self._references.nearest(seen.bits_BF)
        distance_B = np.zeros(len(smiles))
        if self.limits.largest_distance is not None:
            distance_B = self._representations.nearest(embeddings_BD / self.scale_D)
        reasons = [
            "; ".join([*_mixture(text, own), *self._judge(elements, float(similar), float(far))])
            for text, own, elements, similar, far in zip(
                given or smiles, smiles, seen.elements, similarity_B, distance_B, strict=True
            )
        ]
        return reasons, similarity_B

    def similarity(self, smiles: Sequence[str]) -> Float[np.ndarray, "molecules"]:
        """Tanimoto similarity of each molecule, given as canonical SMILES, to the nearest reference."""
        return self._references.nearest(_bits(_parsed(smiles)))

    def by_structure(self) -> Domain:
        """The same without representations, for a model that has others and not the training molecules."""
        nothing_V0 = np.empty((len(self.fingerprints_VF), 0), np.float32)
        limits = replace(self.limits, largest_distance=None)
        return replace(self, limits=limits, embeddings_VD=nothing_V0, scale_D=np.empty(0, np.float32))

    def _judge(self, elements: Sequence[str], similarity: float, distance: float) -> list[str]:
        limits, found = self.limits, []
        unknown = sorted(set(elements) - self._known_elements)
        heavy = len(elements) - elements.count("H") - elements.count(DUMMY)
        if unknown:
            found.append(f"no training molecule has {', '.join(unknown)}")
        if not limits.fewest_atoms <= heavy <= limits.most_atoms:
            span = f"{limits.fewest_atoms} to {limits.most_atoms}"
            found.append(f"{heavy} heavy atoms, training molecules have {span}")
        if similarity < limits.least_similarity:
            usual = f"usual from {limits.least_similarity:.2f}"
            found.append(f"similarity {similarity:.2f} to the nearest training molecule, {usual}")
        if limits.largest_distance is not None and distance > limits.largest_distance:
            usual = f"usual up to {limits.largest_distance:.2f}"
            found.append(f"representation {distance:.2f} from the nearest training molecule, {usual}")
        return found

    @cached_property
    def _references(self) -> BitTable:
        return BitTable(np.unpackbits(self.fingerprints_VF, axis=1, bitorder="little").astype(bool))

    @cached_property
    def _representations(self) -> VectorTable:
        return VectorTable(self.embeddings_VD)

    @cached_property
    def _known_elements(self) -> frozenset[str]:
        return frozenset({*self.limits.elements, "H"})


class BitTable:
    """Fingerprints that others are compared with, stored by bit.

    The overlaps of a molecule with all references are the sum of the rows of its own bits, some 50 of 2048: 2048 / 50
    times fewer bytes than comparing whole fingerprints, at the price of a byte for each bit.

    Args:
        bits_VF: whether a bit is set.
    """

    def __init__(self, bits_VF: Bool[np.ndarray, "references bits"]) -> None:
        self._table_FV = np.ascontiguousarray(bits_VF.T).astype(np.uint8)
        self._counts_V = bits_VF.sum(axis=1, dtype=np.float32)

    def nearest(
        self, bits_BF: Bool[np.ndarray, "molecules bits"], *, own: bool = False
    ) -> Float[np.ndarray, "molecules"]:
        """Largest Tanimoto similarity of each molecule; with `own`, molecule k is reference k, which is left out."""
        found = np.empty(len(bits_BF))
        for number, bits_F in enumerate(bits_BF):
            places = np.flatnonzero(bits_F)
            common_V = self._overlaps(places)
            similarity_V = common_V / (self._counts_V + np.float32(len(places)) - common_V)
            if own:
                similarity_V[number] = -1.0
            found[number] = similarity_V.max()
        return found

    def _overlaps(self, places: np.ndarray) -> Float[np.ndarray, "references"]:
        """Bits in common with each reference, for a molecule whose set bits are at `places`."""
        total_V: np.ndarray = np.zeros_like(self._counts_V)
        for start in range(0, len(places), _MOST_OVERLAP):
            rows_SV = self._table_FV.take(places[start : start + _MOST_OVERLAP], axis=0)
            total_V += rows_SV.sum(axis=0, dtype=np.uint8)
        return total_V


class VectorTable:
    """Representations that others are compared with.

    The distances come from matrix products, which round by the size of the vectors. So all are taken from the mean of
    the references: a descriptor of 80 that hardly varies would else leave nothing of the distances but rounding errors.

    Args:
        vectors_VD: representations of the references.
    """

    def __init__(self, vectors_VD: Float[np.ndarray, "references dim"]) -> None:
        self._centre_D = vectors_VD.mean(axis=0, dtype=np.float64)
        self._centred_VD = self._centred(vectors_VD)

    def nearest(
        self, vectors_BD: Float[np.ndarray, "molecules dim"], *, own: bool = False
    ) -> Float[np.ndarray, "molecules"]:
        """Smallest Euclidean distance of each vector; with `own`, vector k is reference k, which is left out."""
        queries_BD, found = self._centred(vectors_BD), []
        for start in range(0, len(queries_BD), _CHUNK):
            distances = torch.cdist(queries_BD[start : start + _CHUNK], self._centred_VD)
            if own:
                distances.diagonal(offset=start).fill_(torch.inf)
            found.append(distances.min(dim=1).values)
        return torch.cat(found).numpy()

    def _centred(self, vectors_XD: Float[np.ndarray, "vectors dim"]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(vectors_XD - self._centre_D, np.float32))


def similarity_out_of_fold(
    smiles: Sequence[str], folds: Int[np.ndarray, "molecules"], others: Sequence[str]
) -> tuple[Float[np.ndarray, "molecules"], Float[np.ndarray, "others"]]:
    """Tanimoto similarity of each molecule to the nearest one of another fold, and of others to the nearest of all.

    So each is compared with those that its prediction out of fold was learned from, as `Domain.judge` will compare a
    new molecule with all. Of more than 10,000, molecules to compare with are drawn at random, as there.

    Args:
        smiles: canonical, of the molecules that the model learns from.
        folds: fold of each molecule.
        others: canonical.
    """
    bits, found_B = _bits(_parsed(smiles)), np.full(len(smiles), np.nan)
    kept_B = np.zeros(len(smiles), bool)
    kept_B[np.random.default_rng(derive_seed(0, "domain")).permutation(len(smiles))[:LIMIT_REFERENCES]] = True
    for fold in np.unique(folds):
        inside_B = folds == fold
        references = bits[kept_B & ~inside_B]
        if len(references):
            found_B[inside_B] = BitTable(references).nearest(bits[inside_B])
    return found_B, BitTable(bits[kept_B]).nearest(_bits(_parsed(others)))


def fit_domain(smiles: Sequence[str], embed: Callable[[np.ndarray], Float[np.ndarray, "rows dim"]]) -> Domain | None:
    """The domain of training molecules; None if there are too few distinct ones.

    Args:
        smiles: canonical, of the training molecules; duplicates count once.
        embed: representations of given positions in `smiles`.
    """
    rows = np.unique(np.asarray(smiles), return_index=True)[1]
    if len(rows) < FEWEST_REFERENCES:
        return None
    mols = _parsed([smiles[row] for row in rows])
    counts = [mol.GetNumHeavyAtoms() for mol in mols]
    kept = np.random.default_rng(derive_seed(0, "domain")).permutation(len(rows))[:LIMIT_REFERENCES]
    embeddings_VD = embed(rows[kept])
    deviation_D, mean_D = embeddings_VD.std(axis=0), np.abs(embeddings_VD.mean(axis=0, dtype=np.float64))
    scale_D = np.where(deviation_D > _LEAST_DEVIATION * (1 + mean_D), deviation_D, 1.0)
    embeddings_VD = (embeddings_VD / scale_D).astype(np.float32)
    bits = _bits([mols[place] for place in kept])
    queries = min(len(kept), LIMIT_QUERIES)
    similarity = BitTable(bits).nearest(bits[:queries], own=True)
    distance = VectorTable(embeddings_VD).nearest(embeddings_VD[:queries], own=True)
    limits = Limits(
        elements=tuple(sorted(set().union(*map(_elements, mols)))),
        fewest_atoms=min(counts),
        most_atoms=max(counts),
        least_similarity=float(np.quantile(similarity, 1 - QUANTILE)),
        largest_distance=float(np.quantile(distance, QUANTILE)),
        references=len(kept),
        training_molecules=len(rows),
    )
    packed = np.packbits(bits, axis=1, bitorder="little")
    return Domain(limits, packed, embeddings_VD, scale_D.astype(np.float32))


def write_domain(folder: Path, domain: Domain) -> None:
    """Write `domain.json` and `domain.safetensors` into a MODEL folder that is not sealed yet."""
    write_json(folder / SETTINGS, {"limits": asdict(domain.limits), "sentences": domain.limits.sentences()})
    arrays = {"fingerprints": domain.fingerprints_VF, "embeddings": domain.embeddings_VD, "scale": domain.scale_D}
    write_bytes(folder / ARRAYS, save({name: torch.from_numpy(values.copy()) for name, values in arrays.items()}))


def read_domain(model: ModelFolder, width: int) -> Domain | None:
    """The domain of a MODEL folder; None if it was made without one.

    Args:
        model: the folder.
        width: numbers of the representation that the model measures distance by.

    Raises:
        CorruptFileError: its files are not what `write_domain` writes, or belong to another model.
    """
    if not model.holds(SETTINGS):
        return None
    tensors = {name: tensor.numpy() for name, tensor in model.tensors(Path(ARRAYS).stem).items()}
    try:
        limits = from_dict(Limits, model.json(SETTINGS)["limits"])
        domain = Domain(limits, tensors["fingerprints"], tensors["embeddings"], tensors["scale"])
        _require_arrays(domain, model.path, width)
        return domain
    except (AttributeError, LookupError, TypeError, ValueError, ConfigError) as error:
        raise CorruptFileError(
            f"{model.path / SETTINGS} does not describe a domain",
            found=repr(error),
            next_step="Finetune the model again",
        ) from error


def _require_arrays(domain: Domain, folder: Path, width: int) -> None:
    """Refuse arrays that are not those of this model, of which each molecule would have an error of its own."""
    prints_VF, embeddings_VD, scale_D = domain.fingerprints_VF, domain.embeddings_VD, domain.scale_D
    measures = domain.limits.largest_distance is not None
    own = prints_VF.dtype == np.uint8 and embeddings_VD.dtype == scale_D.dtype == np.float32
    own = own and prints_VF.ndim == 2 and prints_VF.shape[1] == _BITS // 8
    own = own and 0 < len(prints_VF) == len(embeddings_VD) <= LIMIT_REFERENCES
    own = own and embeddings_VD.shape[1:] == scale_D.shape == ((width if measures else 0),)
    if not own:
        raise CorruptFileError(
            f"{folder / ARRAYS} is not the domain of this model",
            found=f"fingerprints {prints_VF.shape}, representations {embeddings_VD.shape}",
            expected=f"as many of both, at most {LIMIT_REFERENCES}, representations of {width} numbers",
            next_step="Copy the whole folder again from where it was made",
        )
    if not (np.isfinite(embeddings_VD).all() and np.isfinite(scale_D).all() and (scale_D > 0).all()):
        raise CorruptFileError(f"{folder / ARRAYS} holds numbers that are not finite, or deviations of 0")


def _mixture(given: str, seen: str) -> list[str]:
    """Why a mixture is outside: a prediction is of one molecule."""
    if "." not in given:
        return []
    from dnd.chemistry.identity import is_mixture  # few molecules have several parts

    if not is_mixture(given):
        return []
    return ["a mixture of organic molecules" + (f", of which {seen[:60]} is predicted" if seen != given else "")]


def _parsed(smiles: Sequence[str]) -> list[Chem.Mol]:
    """The molecules in the atom order of their texts, on which nothing here depends."""
    return [_molecule(text) for text in smiles]


def _molecule(text: str, graph: MolecularGraph | None = None) -> Chem.Mol:
    mol = parse_canonical(text) if graph is None else fingerprint_molecule_of(text, graph)
    if mol is not None:
        return mol
    read = read_smiles(text)
    assert not isinstance(read, InvalidMolecule), "only molecules that were parsed before are judged"
    return read[0]


def _elements_of(store: Store) -> list[list[str]]:
    """Symbols of the atoms of each graph, in pieces, so that memory does not grow with the store."""
    found: list[list[str]] = []
    for start in range(0, len(store), _CHUNK):
        graph = store.read(np.arange(start, min(start + _CHUNK, len(store)))).graph
        symbols, ends = _SYMBOLS[graph.node_features_NF[:, 0].numpy()].tolist(), graph.atom_offsets.tolist()
        found += [symbols[begin:end] for begin, end in pairwise(ends)]
    return found


def _elements(mol: Chem.Mol) -> set[str]:
    return {atom.GetSymbol() for atom in mol.GetAtoms()} | {"H"}


def _bits(mols: Iterable[Chem.Mol]) -> Bool[np.ndarray, "molecules bits"]:
    return np.array([_generator.GetFingerprintAsNumPy(mol) for mol in mols], dtype=bool).reshape(-1, _BITS)
