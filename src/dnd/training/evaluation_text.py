"""An evaluation in words: what a user reads after each epoch, while `metrics.jsonl` keeps every number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_PARTS = ("valid", "train")
_MEASURES = {"loss": "loss", "variance": "variance", "r2": "R²"}


def evaluation_text(record: Mapping[str, Any]) -> str:
    """The metrics of a record, with what belongs together side by side.

    A term that has a variance (`valid_node_loss`, `valid_node_variance`, `valid_node_r2`, and the same for `train`) has
    a line with its loss, the teacher's variance and R² of held-out and training molecules. What a lookup table reaches
    is a constant of the run, so only its R² stands there. Other numbers follow by name.
    """
    left = {key: value for key, value in record.items() if isinstance(value, float)}
    terms = [key[len("valid_") : -len("_variance")] for key in left if _is_variance(key)]
    lookup = left.get("valid_lookup_r2")
    lines = [" | ".join(_term(term, left)) for term in terms]
    for key in [key for key in left if key.startswith(("valid_lookup_", "train_lookup_"))]:
        del left[key]
    if len(terms) == 1:  # the sum of one term says the same again
        left = {key: value for key, value in left.items() if key not in ("valid_loss", "train_loss")}
    rest = [f"{key} {value:.4g}" for key, value in left.items()]
    rest += [f"lookup R² {lookup:.3f}"] if lookup is not None else []
    if not lines:
        return "  ".join(rest)
    return "\n    ".join(lines) + (f"; {', '.join(rest)}" if rest else "")


def _is_variance(key: str) -> bool:
    return key.startswith("valid_") and key.endswith("_variance")


def _term(term: str, left: dict[str, float]) -> Iterator[str]:
    """The numbers of one term, each part by itself; they are taken out of `left`."""
    for part in _PARTS:
        names = {measure: f"{part}_{term}_{measure}" for measure in _MEASURES}
        values = {measure: left.pop(name) for measure, name in names.items() if name in left}
        numbers = [
            f"{_MEASURES[measure]} {value:{'.3f' if measure == 'r2' else '.4g'}}" for measure, value in values.items()
        ]
        if numbers:
            yield f"{part} {term}: {' '.join(numbers)}" if part == "valid" else f"{part}: {' '.join(numbers)}"
