"""Parts of a model's report that are words and tables only: who is in the blend, how sure, and for what molecules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dnd.analysis.report import Section, Table, Text
from dnd.common.files import read_json

_NOTE = "Weights were fitted out of fold over scaffold folds; means over targets and partitions."


def blend_sections(metrics: Mapping[str, Any]) -> list[Section]:
    """A table of the members with their weights, and what was left out; nothing for a model without a blend."""
    if "blend" not in metrics:
        return []
    parts = metrics["blend"]
    rows: list[list[object]] = []
    for name in dict.fromkeys(name for part in parts for name in part["members"]):
        own = [part["members"][name] for part in parts if name in part["members"]]
        weight = sum(float(np.mean(one["weights"])) for one in own) / len(parts)
        rows.append([name.replace("_", " "), weight, sum(one["seconds"] for one in own)])
    rows.sort(key=lambda row: -float(str(row[1])))
    left_out = dict.fromkeys(line for part in parts for line in part["left_out"])
    note = _NOTE + (f" Left out: {'; '.join(left_out)}." if left_out else "")
    return [Table(["member", "weight", "seconds"], rows, title="Who is in the blend", note=note)]


def trust_sections(folder: Path) -> list[Section]:
    """How sure the model is and where it may be used, as far as it was stored with it."""
    found: list[Section] = []
    for name, title in (("calibration.json", "Uncertainty"), ("domain.json", "Applicability domain")):
        if (folder / name).is_file():
            found.append(Text("\n\n".join(read_json(folder / name)["sentences"]), title=title))
    return found
