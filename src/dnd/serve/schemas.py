"""What the interface of version 1 takes and gives, as its OpenAPI document describes it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Strict(BaseModel):
    """Unknown fields are refused."""

    model_config = ConfigDict(extra="forbid")


class Problem(BaseModel):
    """Why there is no answer, in one line."""

    error: str


class TargetInfo(BaseModel):
    """A property that a model predicts."""

    name: str
    unit: str
    kind: Literal["regression", "classification", "multiclass"]
    classes: list[str] = Field(description="names of the classes, class 0 first; empty for numbers and plain 0 and 1")


class ModelInfo(BaseModel):
    """A model that is served."""

    name: str
    targets: list[TargetInfo]


class Ask(Strict):
    """Molecules to predict."""

    smiles: Annotated[
        list[str], Field(min_length=1, description="valid in any spelling; an invalid one affects only its own row")
    ]
    model: Annotated[str | None, Field(description="name of a model; the first one when left out")] = None


class AskWhy(Strict):
    """A molecule whose prediction is to be explained."""

    smiles: str
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
