"""Splits that keep groups whole: scaffolds by chemprop's balanced rule, and clusters of similar molecules (Butina)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from rdkit import DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.ML.Cluster import Butina

from dnd.chemistry.molecule import InvalidMolecule
from dnd.chemistry.parse import read_smiles
from dnd.chemistry.scaffolds import scaffolds_of
from dnd.chemistry.splits import Split, as_split, check_fractions
from dnd.common.errors import InputError
from dnd.common.seeds import numpy_generator

Fractions = tuple[float, float, float]
CLUSTER_DISTANCE = 0.6  # Tanimoto distance within which a molecule joins a cluster's centre
LIMIT_CLUSTERED = 10_000  # molecules; their distances are then 400 MB
_generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def balanced_scaffold_split(smiles: Sequence[str], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Whole scaffold groups, large ones to training, the others shuffled by `seed`: chemprop's balanced rule.

    OGB's rule sends the rarest scaffolds to the test part, so that there is one split and a hard one. Here every seed
    gives another split, whose test scaffolds are new but not all of them odd.

    Source: Yang et al., J. Chem. Inf. Model. 59 (2019) 3370, and the option `scaffold_balanced` of chemprop's first
    version. Scaffolds are those of `scaffold_split`, with chirality.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
        InputError: a SMILES that doesn't parse.
    """
    return _balanced(_groups(scaffolds_of(smiles)), len(smiles), fractions, seed)


def cluster_split(smiles: Sequence[str], fractions: Fractions = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
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
    clusters = Butina.ClusterData(  # type: ignore[no-untyped-call]
        distances(smiles), len(smiles), CLUSTER_DISTANCE, isDistData=True
    )
    groups = sorted(sorted(cluster) for cluster in clusters)
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


def _groups(names: Sequence[str]) -> list[list[int]]:
    """Rows of each name, in the order in which the names occur first."""
    groups: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        groups.setdefault(name, []).append(row)
    return list(groups.values())


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
