"""Which molecules train, which select the weights and which are judged."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from dnd.chemistry import splits
from dnd.chemistry.given_splits import index_split, ordered_split
from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError, InputError
from dnd.common.registry import nearest

PARTS = ("train", "valid", "test")
_PLAIN = ("scaffold", "scaffold-balanced", "random", "cluster", "kfold")
_WITH_ARGUMENT = ("column", "time", "index")
SPLITS = (*_PLAIN, "kfold:KxREPEATS", "column:NAME", "time:NAME", "index:TRAIN,VALID,TEST")
_FOLDS = re.compile(r"kfold:(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class _Wish:
    """`--split`, taken apart.

    Attributes:
        kind: one of `_PLAIN` and `_WITH_ARGUMENT`.
        argument: what stands behind the colon of `column`, `time` and `index`.
        folds: K of the k-fold split, where it's given.
        repeats: how often the folds are drawn anew.
    """

    kind: str
    argument: str = ""
    folds: int | None = None
    repeats: int = 1


def partitions(
    split: str,
    smiles: Sequence[str],
    *,
    column_values: Sequence[str] = (),
    rows_N: Int[np.ndarray, "molecules"] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    folds: int = 5,
    say: Callable[[str], None] = lambda line: None,
) -> list[Split]:
    """One partition, or one per fold; none of their parts is empty.

    Args:
        split: `scaffold` (OGB's rule), `scaffold-balanced` (chemprop's), `random`, `cluster` (Butina), `kfold`,
            `kfold:KxREPEATS`, `column:NAME` (train, valid, test), `time:NAME` (smallest values to training), or
            `index:TRAIN,VALID,TEST` (files of row numbers).
        smiles: of the molecules.
        column_values: of the column that `column:NAME` or `time:NAME` names.
        rows_N: row numbers of the molecules in the input, for `index`; none = counted from 0.
        fractions: of the parts, where the rule has any.
        seed: of the draw; the same whatever the training seed is.
        folds: K where `split` does not say it. Fold k is tested by a network that chose its epoch on fold k + 1 and
            learned from the others.
        say: receives a line about rows that are in no part.

    Raises:
        ConfigError: no such split.
        InputError: a part would be empty, or the column or the files hold something else.
    """
    wish, count = _read(split), len(smiles)
    if wish.kind == "scaffold":
        found = [splits.scaffold_split(smiles, fractions)]
    elif wish.kind == "random":
        found = [splits.random_split(count, fractions, seed)]
    elif wish.kind == "kfold":
        number = wish.folds or folds
        pairs = [(repeat, fold) for repeat in range(wish.repeats) for fold in range(number)]
        found = [splits.k_fold_split(count, number, fold, seed, repeat) for repeat, fold in pairs]
    elif wish.kind == "column":
        found = [splits.column_split(column_values)]
    elif wish.kind == "time":
        found = [ordered_split(column_values, fractions)]
    elif wish.kind == "index":
        given, lost = index_split(wish.argument.split(","), np.arange(count) if rows_N is None else rows_N)
        found = [given]
        if lost:
            say(f"note: {lost} rows of the index files hold no usable molecule and are left out")
    else:
        from dnd.chemistry import group_splits

        rule = group_splits.cluster_split if wish.kind == "cluster" else group_splits.balanced_scaffold_split
        found = [rule(smiles, fractions, seed)]
    for partition in found:
        _require_parts(partition, split)
    outside = count - sum(map(len, found[0].parts().values()))
    if outside:
        say(f"note: {outside} molecules are in no part of the split and are not used")
    return found


def split_column(split: str) -> str | None:
    """The column of the data that a split needs; None where it needs none.

    Raises:
        ConfigError: no such split.
    """
    wish = _read(split)
    return wish.argument if wish.kind in ("column", "time") else None


def needs_one_file(split: str) -> bool:
    """Whether a split is by row numbers of its input, so that there may be one only."""
    return _read(split).kind == "index"


def has_folds(split: str) -> bool:
    """Whether a split has several partitions, each with members of its own."""
    return _read(split).kind == "kfold"


def _read(split: str) -> _Wish:
    """Take `--split` apart; an unknown one is refused before any work."""
    kind, _, argument = split.partition(":")
    folds = _FOLDS.fullmatch(split)
    if folds is not None:
        wish = _Wish("kfold", folds=int(folds[1]), repeats=int(folds[2] or 1))
        if wish.folds is None or wish.folds < 3 or wish.repeats < 1:
            raise ConfigError("the split has too few folds", found=split, expected="3 folds or more, such as kfold:5x3")
        return wish
    if (kind in _WITH_ARGUMENT and argument) or split in _PLAIN:
        return _Wish(kind, argument)
    raise ConfigError(f"unknown split {split!r}", next_step=nearest(split, SPLITS))


def _require_parts(partition: Split, split: str) -> None:
    sizes = {part: len(getattr(partition, part)) for part in PARTS}
    if min(sizes.values()) == 0:
        counts = ", ".join(f"{part} {size}" for part, size in sizes.items())
        hints = {
            "scaffold": "Use --split random: these molecules share too few scaffolds",
            "scaffold-balanced": "Use --split random: these molecules share too few scaffolds",
            "cluster": "Use --split random: these molecules form too few clusters",
            "time": "Use --split column:NAME with parts of your own: the column has too few different values",
        }
        raise InputError(f"the {split} split leaves a part empty", found=counts, next_step=hints.get(_read(split).kind))
