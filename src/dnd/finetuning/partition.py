"""Which molecules train, which select the weights and which are judged."""

from __future__ import annotations

from collections.abc import Sequence

from dnd.chemistry import splits
from dnd.chemistry.splits import Split
from dnd.common.errors import ConfigError, InputError
from dnd.common.registry import nearest

PARTS = ("train", "valid", "test")
COLUMN = "column:"
SPLITS = ("scaffold", "random", "kfold", f"{COLUMN}NAME")


def partitions(
    split: str,
    smiles: Sequence[str],
    *,
    column_values: Sequence[str] = (),
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    folds: int = 5,
) -> list[Split]:
    """One partition, or one per fold; none of their parts is empty.

    Args:
        split: `scaffold` (OGB's rule), `random`, `kfold`, or `column:NAME`.
        smiles: of the molecules.
        column_values: of the column that `column:NAME` names: train, valid or test.
        fractions: of the scaffold and the random split.
        seed: of the random split and the folds; the same whatever the training seed is.
        folds: K. Fold k is tested by a network that chose its epoch on fold k + 1 and learned from the others.

    Raises:
        ConfigError: no such split.
        InputError: a part would be empty, or the column holds other words.
    """
    check_split_name(split)
    if split == "scaffold":
        found = [splits.scaffold_split(smiles, fractions)]
    elif split == "random":
        found = [splits.random_split(len(smiles), fractions, seed)]
    elif split == "kfold":
        found = [splits.k_fold_split(len(smiles), folds, fold, seed) for fold in range(folds)]
    else:
        found = [splits.column_split(column_values)]
    for partition in found:
        _require_parts(partition, split)
    return found


def check_split_name(split: str) -> None:
    """Refuse an unknown `--split` before any work."""
    if split not in SPLITS[:3] and not (split.startswith(COLUMN) and len(split) > len(COLUMN)):
        raise ConfigError(f"unknown split {split!r}", next_step=nearest(split, SPLITS))


def _require_parts(partition: Split, split: str) -> None:
    sizes = {part: len(getattr(partition, part)) for part in PARTS}
    if min(sizes.values()) == 0:
        counts = ", ".join(f"{part} {size}" for part, size in sizes.items())
        hint = "Use --split random: these molecules share too few scaffolds" if split == "scaffold" else None
        raise InputError(f"the {split} split leaves a part empty", found=counts, next_step=hint)
