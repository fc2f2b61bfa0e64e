"""The list of ready-made properties, in `properties.json` of a model that ships; read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from dnd.common.config import DEFAULT_MODEL, SHIPPED_MODELS, from_dict, nearest
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import parse_json, read_manifest, read_sealed

PROPERTIES_FILE = "properties.json"


@dataclass(frozen=True)
class ReadyMade:
    """A property of a model that ships.

    Attributes:
        name: name of the target.
        title: description in a few words.
        unit: unit of the values; empty for a class or a ratio.
        kind: `regression`, or `classification`: then the value is the probability of class 1.
        data: that taught it.
        licence: licence of these data.
        training: molecules with a label that taught it.
        test: molecules of the test part, which taught nothing.
        metric: `rmse` in the unit, or `rocauc`.
        score: score of the model on the test part.
        forest: score of a random forest on counts there.
        mean: score of the training mean there.
        beside_forest: `better than`, `level with` or `worse than`; empty where it can't be said.
        bad_at: where not to trust it.
        most_atoms: heavy atoms of the largest molecule that it is predicted for; 0 = no limit.
    """

    name: str
    title: str
    unit: str
    kind: str
    data: str
    licence: str
    training: int
    test: int
    metric: str
    score: float
    forest: float
    mean: float
    beside_forest: str
    bad_at: str
    most_atoms: int = 0


def properties_text(entries: Sequence[ReadyMade]) -> str:
    """The file `properties.json` of a MODEL folder."""
    return json.dumps({"properties": [asdict(one) for one in entries]}, indent=1, ensure_ascii=False) + "\n"


def read_properties(model: str | Path = DEFAULT_MODEL) -> list[ReadyMade]:
    """The properties of a model that ships.

    Raises:
        CorruptFileError: the installation is damaged.
    """
    folder = SHIPPED_MODELS / model
    try:
        found = parse_json(read_sealed(folder, read_manifest(folder), PROPERTIES_FILE), folder / PROPERTIES_FILE)
        return [from_dict(ReadyMade, entry) for entry in found["properties"]]
    except (KeyError, TypeError, ConfigError, FileNotFoundError) as error:
        raise CorruptFileError(f"{folder} is damaged", found=repr(error), next_step="Install dnd again") from error


def chosen_names(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    """Names out of some lists with commas, each once, in the order of `known`.

    Args:
        wanted: words such as `solubility,logd`, or a name that has a comma itself.
        known: names that there are.

    Raises:
        ConfigError: there is no such name, or none is given.
    """
    pieces = [piece.strip() for word in wanted for piece in ([word] if word in known else word.split(","))]
    names = [name for name in pieces if name]
    for name in names:
        if name not in known:
            raise ConfigError(f"the model has no property {name!r}", next_step=nearest(name, list(known)))
    if not names:
        raise ConfigError("no property is named", expected=f"some of: {', '.join(known)}")
    return [name for name in known if name in names]


def properties_lines(entries: Sequence[ReadyMade]) -> Iterator[str]:
    """A line per property, in columns: name, unit, data, molecules, score on the test part beside the forest's."""
    names = {"rmse": "RMSE", "rocauc": "ROC-AUC"}
    header = ("property", "unit", "data", "training", "test", "test part", "forest", "what it is")
    rows = [
        (
            one.name,
            one.unit or ("probability" if one.kind == "classification" else "-"),
            one.data,
            f"{one.training:,}",
            f"{one.test:,}",
            f"{names.get(one.metric, one.metric)} {one.score:.3g}",
            f"{one.forest:.3g}",
            one.title + (f", up to {one.most_atoms} heavy atoms" if one.most_atoms else ""),
        )
        for one in entries
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
