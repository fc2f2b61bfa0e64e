"""The models that are served, their answers as rows, and the shapes of requests and answers."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from dnd.common.config import DEFAULT_FOLDER
from dnd.common.errors import ConfigError
from dnd.finetuning.prepared_labels import describe_targets
from dnd.predictor.predictor import ERROR, IN_DOMAIN, REASON, Column, Predictor
from dnd.predictor.ready_made import read_properties
from dnd.predictor.targets import groups_of
from dnd.report.explain import explain_molecules
from dnd.report.html import draw_molecule
from dnd.tables.writers import text_table

# What the interface of version 1 takes and gives, as its OpenAPI document describes it.


class Strict(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class TargetInfo(BaseModel):
    """A property that a model predicts."""

    name: str
    title: str = Field(description="what it is, of ready-made properties; else empty")
    unit: str
    kind: Literal["regression", "classification", "multiclass"]
    classes: list[str] = Field(description="names of the classes, class 0 first; empty for numbers and plain 0 and 1")


class ModelInfo(BaseModel):
    """A model that is served."""

    name: str
    targets: list[TargetInfo]


_HALVES = re.compile("[\ud800-\udfff]")


def _writable(text: str) -> str:
    r"""Text without halves of characters (`\ud800`), which JSON can ask for but no answer can hold."""
    return _HALVES.sub("\ufffd", text)


Smiles = Annotated[str, AfterValidator(_writable)]


class Ask(Strict):
    """Molecules to predict."""

    smiles: Annotated[
        list[Smiles], Field(min_length=1, description="valid in any spelling; an invalid one affects only its own row")
    ]
    model: Annotated[str | None, Field(description="name of a model; the first one when left out")] = None


class AskWhy(Strict):
    """A molecule whose prediction is to be explained."""

    smiles: Smiles
    target: Annotated[str | None, Field(description="name of a target; the first one when left out")] = None
    model: Annotated[str | None, Field(description="name of a model; the first one when left out")] = None


class Value(BaseModel):
    """The prediction of one target for one molecule; what a model has nothing for is null."""

    target: str
    unit: str
    value: float | None = Field(description="in the unit, or the probability of class 1")
    deviation: float | None = Field(description="between the members of the model")
    low: float | None = Field(description="lower end of the interval")
    high: float | None = Field(description="upper end of the interval")
    predicted_class: str | None = Field(description="the most probable class, where classes have names")
    classes: list[str] = Field(description="the classes that are likely")
    probabilities: dict[str, float | None] = Field(description="of the classes that have names")


class Row(BaseModel):
    """One molecule."""

    smiles: str
    values: list[Value]
    in_domain: bool | None = Field(description="whether the model knows such molecules; null where that is not known")
    domain_reason: str
    error: str = Field(description="why there is no prediction; empty where there is one")


class Reason(BaseModel):
    """A reason why rows have no prediction."""

    reason: str
    rows: int
    first_row: int = Field(description="the first of them, counted from 1")


class Predictions(BaseModel):
    """A row per molecule, in order."""

    model: str
    rows: list[Row]
    reasons: list[Reason]


class Explained(BaseModel):
    """What each heavy atom adds to a prediction."""

    smiles: str = Field(description="canonical; the atoms are in its order")
    target: str
    predicted_class: str
    prediction: float | None
    unit: str = Field(description="of the contributions; log-odds for classes")
    atoms: list[str] = Field(description="elements")
    contributions: list[float]
    svg: str = Field(description="the molecule coloured by them; empty where it can't be drawn")
    error: str


class JobInfo(BaseModel):
    """A file that was sent."""

    id: str
    file: str
    model: str
    state: Literal["waiting", "running", "done", "failed"]
    done: int = Field(description="rows that have been predicted")
    rows: int | None = Field(description="rows of the file; null until it has been read")
    ahead: int = Field(description="files that come first")
    reasons: list[Reason]
    error: str = Field(description="why it failed; empty unless it did")


class JobRows(BaseModel):
    """Some rows of a file's results."""

    start: int
    total: int
    rows: list[Row]


class Health(BaseModel):
    """Whether the server lives, and whether it can take work."""

    status: Literal["ok", "busy"]
    version: str


_PICTURE = (220, 150)  # pixels of a drawing
_MOST_REASONS = 20


class UnknownModelError(Exception):
    """There is no model of that name."""


class ServedModel:
    """One model by its name.

    Args:
        name: under which it is asked.
        predictor: the model itself.
        titles: what its targets are, in a few words, as far as that is known.
    """

    def __init__(self, name: str, predictor: Predictor, titles: Mapping[str, str] | None = None) -> None:
        self.name, self.predictor, titles = name, predictor, titles or {}
        described = describe_targets(predictor.targets, groups_of(predictor.targets))
        self.targets = [
            TargetInfo(
                name=one["name"],
                title=titles.get(one["name"], ""),
                unit=one["unit"],
                kind=one["kind"],
                classes=one.get("classes") or one.get("class_names") or [],
            )
            for one in described
        ]

    def info(self) -> ModelInfo:
        """What it predicts."""
        return ModelInfo(name=self.name, targets=self.targets)

    def rows(self, smiles: Sequence[str]) -> list[Row]:
        """A row per molecule."""
        return self.as_rows(smiles, *self.predictor.describe(smiles))

    def as_rows(self, smiles: Sequence[str], columns: Mapping[str, Column], errors: Sequence[str]) -> list[Row]:
        """The columns of `Predictor.describe` as rows."""
        domain, reasons = columns.get(IN_DOMAIN), columns.get(REASON)
        return [
            Row(
                smiles=text,
                values=[] if errors[place] else [_value(target, columns, place) for target in self.targets],
                in_domain=None if domain is None or not domain[place] else domain[place] == "yes",
                domain_reason=str(reasons[place]) if reasons is not None else "",
                error=errors[place],
            )
            for place, text in enumerate(smiles)
        ]

    def csv(self, smiles: Sequence[str]) -> str:
        """The table that `dnd predict` writes."""
        columns, errors = self.predictor.describe(smiles)
        return text_table({"smiles": list(smiles), **columns, ERROR: errors}, self.predictor.digits)

    def explain(self, smiles: str, target: str | None) -> Explained:
        """What each atom adds to the prediction of a target, the first one when None.

        Raises:
            ConfigError: there is no such target.
        """
        (one,) = explain_molecules(self.predictor, [smiles], [target or self.targets[0].name])
        return Explained(
            smiles=one.smiles,
            target=one.target,
            predicted_class=one.class_name,
            prediction=_number(one.prediction),
            unit=one.unit,
            atoms=list(one.symbols),
            contributions=[float(value) for value in one.atoms_N],
            svg=one.svg,
            error=one.error,
        )


class ServedModels:
    """All models by name, the first of them being asked where none is named.

    Args:
        models: at least one, of different names.
    """

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._by_name = {model.name: model for model in models}

    @classmethod
    def load(cls, folders: Sequence[Path], device: str = "auto") -> ServedModels:
        """Open MODEL folders, which are named as they are called.

        Raises:
            ConfigError: there is no model, or two have the same name.
            InputError, CorruptFileError: see `Predictor.load`.
        """
        names = [folder.resolve().name for folder in folders]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                "each model that is served needs a name of its own, that of its folder",
                found=", ".join(names) or "no model",
                next_step="Give one or several MODEL folders with -m; rename folders with equal names",
            )
        return cls(
            [
                ServedModel(name, Predictor.load(folder, device=device), _titles(folder))
                for name, folder in zip(names, folders, strict=True)
            ]
        )

    def __iter__(self) -> Iterator[ServedModel]:
        """The models in order."""
        return iter(self._by_name.values())

    def named(self, name: str | None) -> ServedModel:
        """The model of a name.

        Raises:
            UnknownModelError: there is no such model.
        """
        if name is None:
            return next(iter(self._by_name.values()))
        if name not in self._by_name:
            raise UnknownModelError(f"there is no model {name[:60]!r}; there are: {', '.join(self._by_name)}")
        return self._by_name[name]


def _titles(folder: Path) -> dict[str, str]:
    """What the properties of the model that ships are; no other model says it."""
    if folder.resolve() != DEFAULT_FOLDER.resolve():
        return {}
    return {one.name: one.title for one in read_properties()}


def drawing(smiles: str) -> str | None:
    """A molecule as SVG; None where there is none or it can't be drawn."""
    return draw_molecule(smiles, width=_PICTURE[0], height=_PICTURE[1])


def reasons_of(errors: Iterable[str]) -> list[Reason]:
    """Reasons with how many rows each has cost, the most frequent first."""
    counts: dict[str, list[int]] = {}
    for place, error in enumerate(errors, start=1):
        if error:
            counts.setdefault(error, [0, place])[0] += 1
    ranked = sorted(counts.items(), key=lambda item: (-item[1][0], item[1][1]))
    return [Reason(reason=text, rows=rows, first_row=first) for text, (rows, first) in ranked[:_MOST_REASONS]]


def _value(target: TargetInfo, columns: Mapping[str, Column], place: int) -> Value:
    def at(ending: str) -> Any:
        column = columns.get(f"{target.name}_{ending}")
        return None if column is None else column[place]

    predicted, likely = at("pred"), at("set")
    named = isinstance(predicted, str)
    return Value(
        target=target.name,
        unit=target.unit,
        value=None if named else _number(predicted),
        deviation=_number(at("std")),
        low=_number(at("low")),
        high=_number(at("high")),
        predicted_class=predicted if named else None,
        classes=str(likely).split("|") if likely else [],
        probabilities={name: _number(at(f"prob_{name}")) for name in target.classes},
    )


def _number(value: Any) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
