"""Training, validation and test rows by scaffold, cluster, column, at random or k-fold; all are deterministic.

Every rule that draws or deals takes `identities`, for each row what tells its molecule from others, such as its
canonical SMILES: the rows of a molecule that was measured several times stay in one part. Without them every row is a
molecule of its own.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.ML.Cluster import Butina

from dnd.chemistry.molecule import InvalidMolecule
from dnd.chemistry.parse import VALENCE_IS_STRICT, read_smiles
from dnd.common.compute import numpy_generator
from dnd.common.config import nearest
from dnd.common.errors import ConfigError, InputError

# Bemis-Murcko scaffolds.


_ANY_VALENCE = 26  # iron: RDKit sets transition metals no valence


def scaffold_of(mol: Chem.Mol, relaxed: bool = False) -> str:
    """SMILES of the Bemis-Murcko scaffold with chirality; empty for a molecule without rings.

    Source: Bemis and Murcko, J. Med. Chem. 39 (1996) 2887. A molecule that was read without the valence check gets
    the scaffold of the same graph with iron in place of every atom of too high a valence, since scaffolds are checked
    again.
    """
    valid = _with_iron(mol) if relaxed else mol
    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=valid, includeChirality=True))  # type: ignore[no-untyped-call]


def scaffolds_of(smiles: Sequence[str]) -> list[str]:
    """Scaffold of each SMILES.

    The molecule is taken as spelled, not in its canonical form: the chirality that RDKit keeps in a scaffold depends
    on the spelling, and OGB's official BBBP split comes out only from the spelling in its file.

    Raises:
        InputError: a SMILES can't be parsed; it names the row. Leave such rows out first.
    """
    scaffolds = []
    for row, text in enumerate(smiles):
        scaffold, reason = _scaffold_or_reason(text)
        if scaffold is None:
            raise InputError(
                f"row {row} has no scaffold", found=reason, next_step="Leave out the rows that do not parse"
            )
        scaffolds.append(scaffold)
    return scaffolds


@lru_cache(maxsize=100_000)  # the split, the folds and the check of the data ask for the same molecules
def _scaffold_or_reason(smiles: str) -> tuple[str | None, str]:
    read = read_smiles(smiles)
    return (None, read.reason) if isinstance(read, InvalidMolecule) else (scaffold_of(*read), "")


def _with_iron(mol: Chem.Mol) -> Chem.Mol:
    replaced = Chem.RWMol(mol)
    problems = Chem.DetectChemistryProblems(mol)
    for problem in problems:
        atom = replaced.GetAtomWithIdx(problem.GetAtomIdx())
        if atom.GetAtomicNum() not in VALENCE_IS_STRICT:
            atom.SetAtomicNum(_ANY_VALENCE)
    Chem.SanitizeMol(replaced)
    return replaced.GetMol()


# Training, validation and test rows: scaffold (OGB's), random, k-fold and by a column. All are deterministic. Those
# that keep groups whole, and those by order or by files of row numbers, follow below.


_PART_NAMES = {
    "train": "train", "training": "train", "trn": "train",
    "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid",
    "test": "test", "tst": "test", "holdout": "test",
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """Row numbers of the three parts, each ascending, none in two parts.

    Attributes:
        train, valid, test: `(rows,)` int64, from 0.
    """

    train: Int[np.ndarray, "rows_train"]
    valid: Int[np.ndarray, "rows_valid"]
    test: Int[np.ndarray, "rows_test"]

    def parts(self) -> dict[str, Int[np.ndarray, "rows"]]:
        """The parts by name, in the order train, valid, test."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def scaffold_split(
    smiles: Sequence[str], fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), identities: Sequence[str] = ()
) -> Split:
    """OGB's scaffold split: whole scaffold groups, the largest first, go to training, validation, then test.

    Groups are ordered by (size, smallest row), both descending. A group goes to training unless that part would
    exceed its fraction; then to validation unless training and validation together would exceed theirs; else to test.
    It reproduces every index of the official files of ogbg-molesol, -molfreesolv, -molbace and -molbbbp.

    Source: Hu et al., "Strategies for Pre-training Graph Neural Networks" (ICLR 2020), code of the repository
    snap-stanford/pretrain-gnns; adapted there from DeepChem.

    Args:
        smiles: one SMILES per row, all of which parse.
        fractions: fractions of train, valid and test; they sum to 1.
        identities: identities of the molecules; two spellings of one may have scaffolds that differ in chirality.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
        InputError: a SMILES that doesn't parse.
    """
    check_fractions(fractions)
    groups = rows_of_molecules(molecule_scaffolds(smiles, identities))
    ordered = sorted(groups, key=lambda rows: (len(rows), rows[0]), reverse=True)
    limit_train = fractions[0] * len(smiles)
    limit_valid = (fractions[0] + fractions[1]) * len(smiles)
    train, valid, test = list[int](), list[int](), list[int]()
    for rows in ordered:
        if len(train) + len(rows) <= limit_train:
            train += rows
        elif len(train) + len(valid) + len(rows) <= limit_valid:
            valid += rows
        else:
            test += rows
    return as_split(train, valid, test)


def random_split(
    n: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 0, identities: Sequence[str] = ()
) -> Split:
    """Shuffle `n` rows by `seed` and cut: the first part goes to training, the next to validation, the rest to test.

    With `identities`, molecules are shuffled and cut, each with all its rows.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
    """
    check_fractions(fractions)
    groups = rows_of_molecules(identities or range(n))
    shuffled = numpy_generator(seed, "random split").permutation(len(groups))
    ends = np.floor(np.cumsum(fractions[:2]) * len(groups) + 1e-9).astype(int)
    return as_split(*(_rows_in(groups, places) for places in np.split(shuffled, ends)))


def k_fold_split(
    n: int, folds: int = 5, fold: int = 0, seed: int = 0, repeat: int = 0, identities: Sequence[str] = ()
) -> Split:
    """Fold `fold` is the test part, the next one (the first after the last) is validation, the others are training.

    Every row is in the test part of exactly one fold; the folds differ by at most one molecule in size, and the rows of
    a molecule are in one fold. Each `repeat` shuffles anew.

    Raises:
        ConfigError: fewer than 3 folds, more folds than molecules, or no such fold.
    """
    groups = rows_of_molecules(identities or range(n))
    if not 3 <= folds <= len(groups):
        expected = f"3 to {len(groups)}, the number of molecules"
        raise ConfigError("number of folds does not fit", found=folds, expected=expected)
    if not 0 <= fold < folds:
        raise ConfigError("no such fold", found=fold, expected=f"0 to {folds - 1}")
    shuffled = numpy_generator(seed, "k-fold split", *[repeat][: repeat > 0]).permutation(len(groups))
    parts = [_rows_in(groups, places) for places in np.array_split(shuffled, folds)]
    valid = (fold + 1) % folds
    train = np.concatenate([part for place, part in enumerate(parts) if place not in (fold, valid)])
    return as_split(train, parts[valid], parts[fold])


def part_named(word: str) -> str | None:
    """The part that a word such as `Train`, `val` or `holdout` names; None for any other."""
    return _PART_NAMES.get(word.strip().lower())


def column_split(values: Sequence[str], places: Sequence[int] = ()) -> Split:
    """Parts named in a column of the data: train, valid (or validation, val), test, in any letter case.

    Args:
        values: one cell per row; a row whose cell is empty is in no part.
        places: row numbers for messages; none = counted from 0.

    Raises:
        InputError: another word, or no row for training or test.
    """
    parts: dict[str, list[int]] = {"train": [], "valid": [], "test": []}
    for row, value in enumerate(values):
        word = value.strip().lower()
        if not word:
            continue
        if word not in _PART_NAMES:
            raise InputError(
                f"row {places[row] if places else row} of the split column",
                found=repr(value),
                expected="train, valid or test",
                next_step=nearest(word, parts),
            )  # fmt: skip
        parts[_PART_NAMES[word]].append(row)
    for name in ("train", "test"):
        if not parts[name]:
            raise InputError(f"no usable row of the split column says {name!r}")
    return as_split(*parts.values())


def rows_of_molecules(identities: Iterable[Hashable]) -> list[list[int]]:
    """The rows of each molecule, or of whatever else they share, in the order in which they occur first."""
    groups: dict[Hashable, list[int]] = {}
    for row, identity in enumerate(identities):
        groups.setdefault(identity, []).append(row)
    return list(groups.values())


def molecule_scaffolds(smiles: Sequence[str], identities: Sequence[str] = ()) -> list[str]:
    """`scaffolds_of`, but every row of a molecule has the scaffold of the molecule's first row."""
    scaffolds = scaffolds_of(smiles)
    first: dict[str, str] = {}
    for identity, scaffold in zip(identities, scaffolds, strict=bool(identities)):
        first.setdefault(identity, scaffold)
    return [first[identity] for identity in identities] if identities else scaffolds


def _rows_in(groups: Sequence[Sequence[int]], places: Iterable[int]) -> Int[np.ndarray, "rows"]:
    return np.array([row for place in places for row in groups[place]], dtype=np.int64)


def as_split(*parts: Sequence[int] | Int[np.ndarray, "rows"]) -> Split:
    """Training, validation and test rows in any order as a `Split`."""
    return Split(*(np.sort(np.asarray(rows, dtype=np.int64)) for rows in parts))


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Raise an error if the fractions of training, validation and test are negative or do not sum to 1."""
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-9):
        raise ConfigError(
            "fractions of train, valid and test", found=fractions, expected="three numbers of at least 0 that sum to 1"
        )


# Splits that keep groups whole: scaffolds by chemprop's balanced rule, and clusters of similar molecules (Butina).


Fractions = tuple[float, float, float]
CLUSTER_DISTANCE = 0.6  # Tanimoto distance within which a molecule joins a cluster's centre
LIMIT_CLUSTERED = 10_000  # molecules; their distances are then 400 MB
_generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def balanced_scaffold_split(
    smiles: Sequence[str], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0, identities: Sequence[str] = ()
) -> Split:
    """Whole scaffold groups, large ones to training, the others shuffled by `seed`: chemprop's balanced rule.

    OGB's rule sends the rarest scaffolds to the test part, so that there is one split and a hard one. Here every seed
    gives another split, whose test scaffolds are new but not all of them odd.

    Source: Yang et al., J. Chem. Inf. Model. 59 (2019) 3370, and the option `scaffold_balanced` of chemprop's first
    version. Scaffolds are those of `scaffold_split`, with chirality.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
        InputError: a SMILES that doesn't parse.
    """
    groups = rows_of_molecules(molecule_scaffolds(smiles, identities))
    return _balanced(groups, len(smiles), fractions, seed)


def cluster_split(
    smiles: Sequence[str], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0, identities: Sequence[str] = ()
) -> Split:
    """Clusters of similar molecules kept whole, dealt out as `balanced_scaffold_split` does.

    A molecule joins a cluster if its Tanimoto distance to the centre is at most 0.6 (Morgan fingerprint, radius 2,
    2048 bits). Two molecules of different clusters can still be closer than that to each other.

    Source: Butina, J. Chem. Inf. Comput. Sci. 39 (1999) 747, as RDKit has it.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
        InputError: a SMILES that doesn't parse, or more than 10,000 molecules.
    """
    if len(smiles) > LIMIT_CLUSTERED:
        raise InputError(
            "there are too many molecules for the cluster split, which compares all pairs",
            found=len(smiles),
            expected=f"at most {LIMIT_CLUSTERED}",
            next_step="Use --split scaffold-balanced",
        )
    molecules = rows_of_molecules(identities or range(len(smiles)))
    clusters = Butina.ClusterData(  # type: ignore[no-untyped-call]
        distances([smiles[rows[0]] for rows in molecules]), len(molecules), CLUSTER_DISTANCE, isDistData=True
    )
    groups = sorted(sorted(row for place in cluster for row in molecules[place]) for cluster in clusters)
    return _balanced(groups, len(smiles), fractions, seed)


def distances(smiles: Sequence[str]) -> Float[np.ndarray, "molecules molecules"]:
    """Tanimoto distances between all pairs, float32."""
    prints = []
    for row, text in enumerate(smiles):
        read = read_smiles(text)
        if isinstance(read, InvalidMolecule):
            raise InputError(f"row {row} has no fingerprint", found=read.reason, next_step="Leave out such rows")
        prints.append(_generator.GetFingerprint(read[0]))
    found = np.empty((len(prints), len(prints)), np.float32)
    for row, bits in enumerate(prints):
        found[row] = DataStructs.BulkTanimotoSimilarity(bits, prints)
    return np.subtract(1, found, out=found)


def _balanced(groups: Sequence[list[int]], n: int, fractions: Fractions, seed: int) -> Split:
    """Groups over half of the validation or the test part first, each kind shuffled; each to the first part with room.

    What fits neither training nor validation goes to test.
    """
    check_fractions(fractions)
    sizes = [fraction * n + 1e-9 for fraction in fractions]
    large = [rows for rows in groups if len(rows) > min(sizes[1], sizes[2]) / 2]
    small = [rows for rows in groups if len(rows) <= min(sizes[1], sizes[2]) / 2]
    generator = numpy_generator(seed, "balanced split")
    dealt = [some[place] for some in (large, small) for place in generator.permutation(len(some))]
    parts: list[list[int]] = [[], [], []]
    for rows in dealt:
        part = next((place for place in (0, 1) if len(parts[place]) + len(rows) <= sizes[place]), 2)
        parts[part] += rows
    return as_split(*parts)
