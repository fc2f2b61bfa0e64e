"""Molecules that are in more than one part of a split, whatever their spelling: they make a test look easier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from dnd.chemistry.splits import Split

LIMIT_LISTED = 50


def audit_duplicates(
    partitions: Sequence[Split], smiles: Sequence[str], rows_N: Int[np.ndarray, "molecules"]
) -> dict[str, Any]:
    """What `metrics.json` says of molecules in more than one part.

    Args:
        partitions: one, or one per fold.
        smiles: canonical, of the molecules.
        rows_N: row number of each in the input.

    Returns:
        `duplicates_across_parts`: how many molecules are in two parts or three, in the fold that has most of them;
        `duplicates_in_training_and_test`: those that matter most, counted in the same way;
        `duplicates`: of at most 50 of them the SMILES and the row numbers in each part, of all folds, those in
        training and test first.
    """
    places: dict[str, list[int]] = {}
    for place, text in enumerate(smiles):
        places.setdefault(text, []).append(place)
    repeated = {text: found for text, found in places.items() if len(found) > 1}
    most = leaking = 0
    listed: dict[str, dict[str, Any]] = {}
    for fold, partition in enumerate(partitions):
        part_of = {int(row): part for part, rows in partition.parts().items() for row in rows}
        found: list[dict[str, Any]] = []
        for text, own in repeated.items():
            rows: dict[str, list[int]] = {}
            for place in own:
                if place in part_of:
                    rows.setdefault(part_of[place], []).append(int(rows_N[place]))
            if len(rows) > 1:
                found.append({"smiles": text, "rows": rows, **({"fold": fold} if len(partitions) > 1 else {})})
        most = max(most, len(found))
        leaking = max(leaking, sum(_leaks(one) for one in found))
        for one in found:
            if _is_new(one, listed):
                listed[one["smiles"]] = one
    ordered = sorted(listed.values(), key=lambda one: not _leaks(one))
    return {
        "duplicates_across_parts": most,
        "duplicates_in_training_and_test": leaking,
        "duplicates": ordered[:LIMIT_LISTED],
    }


def warning_line(audit: dict[str, Any]) -> str | None:
    """One line for the user, with the first molecule named; None where all parts are apart."""
    if not audit["duplicates_across_parts"]:
        return None
    first = audit["duplicates"][0]
    rows = "; ".join(f"{part} row {', '.join(map(str, numbers[:3]))}" for part, numbers in first["rows"].items())
    many = "molecule is" if audit["duplicates_across_parts"] == 1 else "molecules are"
    return (
        f"warning: {audit['duplicates_across_parts']} {many} in more than one part of the split, "
        f"{audit['duplicates_in_training_and_test']} of them in training and test, "
        f"which makes the test easier than it looks: {first['smiles'][:60]} ({rows})"
    )


def _leaks(found: dict[str, Any]) -> bool:
    return "train" in found["rows"] and "test" in found["rows"]


def _is_new(found: dict[str, Any], listed: dict[str, dict[str, Any]]) -> bool:
    known = listed.get(found["smiles"])
    return known is None or (_leaks(found) and not _leaks(known))
