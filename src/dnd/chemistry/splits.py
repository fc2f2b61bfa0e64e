"""Training, validation and test rows: scaffold (OGB's), random, k-fold and by a column. All are deterministic.

`group_splits.py` has those that keep groups whole, `given_splits.py` those by order and by files of row numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dnd.chemistry.scaffolds import scaffolds_of
from dnd.common.errors import ConfigError, InputError
from dnd.common.registry import nearest
from dnd.common.seeds import numpy_generator

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


def scaffold_split(smiles: Sequence[str], fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> Split:
    """OGB's scaffold split: whole scaffold groups, the largest first, go to training, validation, then test.

    Groups are ordered by (size, smallest row), both descending. A group goes to training unless that part would
    exceed its fraction; then to validation unless training and validation together would exceed theirs; else to test.
    It reproduces every index of the official files of ogbg-molesol, -molfreesolv, -molbace and -molbbbp.

    Source: Hu et al., "Strategies for Pre-training Graph Neural Networks" (ICLR 2020), code of the repository
    snap-stanford/pretrain-gnns; adapted there from DeepChem.

    Args:
        smiles: one SMILES per row, all of which parse.
        fractions: of train, valid and test; they sum to 1.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
        InputError: a SMILES that doesn't parse.
    """
    check_fractions(fractions)
    groups: dict[str, list[int]] = {}
    for row, scaffold in enumerate(scaffolds_of(smiles)):
        groups.setdefault(scaffold, []).append(row)
    ordered = sorted(groups.values(), key=lambda rows: (len(rows), rows[0]), reverse=True)
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


def random_split(n: int, fractions: tuple[float, float, float] = (0.8, 0.1, 0.1), seed: int = 0) -> Split:
    """Shuffle `n` rows by `seed` and cut: the first part goes to training, the next to validation, the rest to test.

    Raises:
        ConfigError: fractions that are negative or don't sum to 1.
    """
    check_fractions(fractions)
    shuffled = numpy_generator(seed, "random split").permutation(n)
    ends = np.floor(np.cumsum(fractions[:2]) * n + 1e-9).astype(int)
    return as_split(*np.split(shuffled, ends))


def k_fold_split(n: int, folds: int = 5, fold: int = 0, seed: int = 0, repeat: int = 0) -> Split:
    """Fold `fold` is the test part, the next one (the first after the last) is validation, the others are training.

    Every row is in the test part of exactly one fold; the folds differ by at most one row in size. Each `repeat`
    shuffles anew.

    Raises:
        ConfigError: fewer than 3 folds, more folds than rows, or no such fold.
    """
    if not 3 <= folds <= n:
        raise ConfigError("number of folds does not fit", found=folds, expected=f"3 to {n}, the number of rows")
    if not 0 <= fold < folds:
        raise ConfigError("no such fold", found=fold, expected=f"0 to {folds - 1}")
    parts = np.array_split(numpy_generator(seed, "k-fold split", *[repeat][: repeat > 0]).permutation(n), folds)
    valid = (fold + 1) % folds
    train = np.concatenate([part for place, part in enumerate(parts) if place not in (fold, valid)])
    return as_split(train, parts[valid], parts[fold])


def column_split(values: Sequence[str]) -> Split:
    """Parts named in a column of the data: train, valid (or validation, val), test, in any letter case.

    Args:
        values: one cell per row; a row whose cell is empty is in no part.

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
                f"row {row} of the split column", found=repr(value), expected="train, valid or test",
                next_step=nearest(word, parts),
            )  # fmt: skip
        parts[_PART_NAMES[word]].append(row)
    for name in ("train", "test"):
        if not parts[name]:
            raise InputError(f"the split column names no row {name!r}")
    return as_split(*parts.values())


def as_split(*parts: Sequence[int] | Int[np.ndarray, "rows"]) -> Split:
    """Training, validation and test rows in any order as a `Split`."""
    return Split(*(np.sort(np.asarray(rows, dtype=np.int64)) for rows in parts))


def check_fractions(fractions: tuple[float, float, float]) -> None:
    """Refuse fractions of training, validation and test that are no shares of one whole."""
    if len(fractions) != 3 or min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-9):
        raise ConfigError(
            "fractions of train, valid and test", found=fractions, expected="three numbers from 0 that sum to 1"
        )
