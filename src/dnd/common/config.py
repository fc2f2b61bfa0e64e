"""Names to things: settings, recipes, models that ship. A misspelling answers with the nearest names."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import operator
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from dnd.common.errors import ConfigError, InputError

DEFAULT_MODEL = "dnd-properties"
"""What predicts where no model is named."""

SHIPPED_MODELS = Path(str(resources.files("dnd") / "data" / "models"))
DEFAULT_FOLDER = SHIPPED_MODELS / DEFAULT_MODEL

T = TypeVar("T")


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean a, b?` for the closest known names, or the whole list when none is close."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"Did you mean {', '.join(close)}?" if close else f"Known: {', '.join(names)}"


def look_up(table: Mapping[str, T], name: str, what: str) -> T:
    """`table[name]`.

    Raises:
        ConfigError: there is no such name; the message holds the nearest ones.
    """
    if name not in table:
        raise ConfigError(f"unknown {what} {name!r}", next_step=nearest(name, table))
    return table[name]


# Typed settings: a dataclass per stage, filled from a recipe (TOML) and `key=value` words; unknown keys are refused.
#
# A setting lives in the dataclass of the component that uses it and nowhere else. Nested dataclasses are TOML tables
# and dotted keys (`teacher.width=256`).


C = TypeVar("C")

RECIPES: Mapping[str, tuple[str, ...]] = {
    "base": ("cpu", "cpu-long", "gpu", "tiny"),
    "compress": ("small",),
    "contrast": ("tiny", "small", "paper", "qm9"),
    "denoise": ("tiny", "small", "gpu", "paper"),
    "distill": ("tiny", "small", "gpu", "paper", "coordinated"),
    "finetune": ("fast", "best", "small", "paper", "qm9"),
    "pretrain": ("tiny", "small", "paper"),
}
"""Recipes of each stage that help, hints and completion name; others belong to a verb, such as `dnd demo`."""


def load_config(
    cls: type[C], recipe: str | Path | None = None, overrides: Sequence[str] = (), *, stage: str | None = None
) -> C:
    """Build `cls` from a recipe and `key=value` overrides, the overrides last.

    Args:
        cls: a dataclass whose fields all have defaults.
        recipe: a file, or the name of a recipe shipped with the package such as `denoise-small`.
        overrides: words like `width=128`, `optimizer.learning_rate=1e-4`.
        stage: with it, `small` stands for the shipped recipe `<stage>-small`.

    Raises:
        ConfigError: no such recipe, a key that the stage does not have, a value of another type.
    """
    return from_dict(cls, _given(recipe, overrides, stage))


def load_part(cls: type[C], recipe: str | Path, overrides: Sequence[str], *, stage: str) -> C:
    """`load_config` of the settings that `cls` has, for what is settled before the modules of the others are loaded.

    Raises:
        ConfigError: no such recipe, or a value of another type; unknown keys are left to who loads all settings.
    """
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return from_dict(cls, {key: value for key, value in _given(recipe, overrides, stage).items() if key in known})


def check_settings(stage: str, recipe: str | Path, overrides: Sequence[str]) -> Any:
    """Refuse a recipe, a key or a value that the stage does not know, in milliseconds: before torch is loaded.

    What the settings may be stands in `recipes/settings.json`, which `tests/support/settings_table.py` writes from the
    dataclasses; a test compares the two. Settings that contradict each other are left to `load_config`.

    Args:
        stage: a key of `RECIPES`.
        recipe: see `load_config`.
        overrides: `key=value` words.

    Returns:
        The settings by name, None where neither the recipe nor the words have one.

    Raises:
        ConfigError: as `load_config`.
    """
    table = json.loads((resources.files("dnd.recipes") / "settings.json").read_text(encoding="utf-8"))
    return from_dict(_type_of(table[stage]), _given(recipe, overrides, stage))


def described_type(hint: Any) -> Any:
    """A setting's type as plain JSON: a name, or a list that begins with `one of`, `any of`, `several` or `table`."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return ["table", {field.name: described_type(hints[field.name]) for field in dataclasses.fields(hint)}]
    if origin is typing.Literal:
        return ["one of", *arguments]
    if origin in (typing.Union, types.UnionType):
        return ["any of", *map(described_type, arguments)]
    if origin in (tuple, list):
        return ["several", described_type(arguments[0])]
    return _PLAIN_NAMES[hint]


def _type_of(described: Any) -> Any:
    """The type that `described_type` describes; a table becomes a dataclass of nothing but its fields."""
    if isinstance(described, str):
        return next(hint for hint, name in _PLAIN_NAMES.items() if name == described)
    kind, *rest = described
    if kind == "table":
        fields = [(name, _type_of(own), dataclasses.field(default=None)) for name, own in rest[0].items()]
        return dataclasses.make_dataclass("Settings", fields)
    if kind == "one of":
        return typing.Literal[tuple(rest)]
    own = [_type_of(part) for part in rest]
    return functools.reduce(operator.or_, own) if kind == "any of" else types.GenericAlias(tuple, (own[0], ...))


_PLAIN_NAMES: Mapping[Any, str] = {int: "int", float: "float", bool: "bool", str: "str", type(None): "none"}


def _given(recipe: str | Path | None, overrides: Sequence[str], stage: str | None) -> dict[str, Any]:
    if stage is not None and recipe is not None:
        recipe = _recipe_of_stage(str(recipe), stage)
    values: dict[str, Any] = read_recipe(recipe) if recipe is not None else {}
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"setting {word!r} has no value", expected="key=value")
        _set_dotted(values, key.strip(), text.strip())
    return values


def _recipe_of_stage(recipe: str, stage: str) -> str:
    """The full name of a recipe that is named as `--help` names it; a file stays what it is.

    Raises:
        ConfigError: there is no such recipe; the message names those of the stage.
    """
    own = RECIPES[stage]
    if f"{stage}-{recipe}" in recipe_names():
        return f"{stage}-{recipe}"
    if recipe in recipe_names() or (recipe.endswith(".toml") and Path(recipe).is_file()):
        return recipe
    raise ConfigError(
        f"unknown recipe {recipe!r}", expected=f"one of {', '.join(own)}, or a TOML file", next_step=_close(recipe, own)
    )


def _close(name: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.5)
    return f"Did you mean {', '.join(close)}?" if close else None


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the package."""
    folder = resources.files("dnd.recipes")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The settings of a recipe as a nested dictionary.

    Raises:
        ConfigError: there is no such recipe or it is not TOML.
    """
    path = Path(recipe)
    if path.suffix == ".toml" and path.is_file():
        text = path.read_text(encoding="utf-8")
    elif str(recipe) in recipe_names():
        text = (resources.files("dnd.recipes") / f"{recipe}.toml").read_text(encoding="utf-8")
    else:
        raise ConfigError(f"unknown recipe {str(recipe)!r}", next_step=nearest(str(recipe), recipe_names()))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"recipe {recipe} is not valid TOML", found=str(error)) from error


def from_dict(cls: type[C], values: Mapping[str, Any], path: str = "") -> C:
    """Build a dataclass from plain values, converting text to the field's type; nested tables become dataclasses.

    Raises:
        ConfigError: an unknown key or a value that does not fit; the message holds the full dotted key.
    """
    hints = _hints_of(cls)  # type: ignore[arg-type]
    known = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown setting {path}{key}", next_step=_nearest_setting(cls, path, key))
    built = {key: _convert(hints[key], value, f"{path}{key}") for key, value in values.items()}
    try:
        return cls(**built)
    except ValueError as error:  # raised by a `__post_init__`
        raise ConfigError("the settings can't be used", found=str(error)) from error


@functools.cache
def _hints_of(cls: type[Any]) -> Mapping[str, Any]:
    """Types of the fields; kept, since the properties of an encoder alone are 300 objects of one class."""
    return typing.get_type_hints(cls)


def _nearest_setting(cls: type[Any], path: str, key: str) -> str:
    """The settings whose own names are nearest to `key`, written in full as a command line takes them."""
    dotted = {f"{path}{name}" for name in _dotted_names(cls)}
    own = {name.rpartition(".")[2] for name in dotted}
    close = difflib.get_close_matches(key, sorted(own), n=3, cutoff=0.5)
    found = [name for word in close for name in sorted(dotted, key=len) if name.rpartition(".")[2] == word]
    tables = sorted({f"{path}{field.name}" for field in dataclasses.fields(cls)})
    return f"Did you mean {', '.join(found[:3])}?" if found else f"Known: {', '.join(tables)}"


def _dotted_names(cls: type[Any]) -> Iterable[str]:
    """Names of all settings under a dataclass."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        inside = [part for part in (hints[field.name], *typing.get_args(hints[field.name])) if isinstance(part, type)]
        nested = next((part for part in inside if dataclasses.is_dataclass(part)), None)
        if nested is None:
            yield field.name
        else:
            yield from (f"{field.name}.{name}" for name in _dotted_names(nested))


def to_dict(config: Any) -> dict[str, Any]:
    """The inverse of `from_dict`: nested dictionaries of plain values, ready for JSON."""
    return dataclasses.asdict(config)


def _set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    *tables, last = key.split(".")
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise ConfigError(f"setting {key}: {table} is not a table of settings")
    values[last] = value


def _convert(hint: Any, value: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, key)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, hint):  # type: ignore[arg-type]
            return value
        if not isinstance(value, Mapping):
            raise ConfigError(f"setting {key} is a table", found=repr(value), expected=f"{key}.name=value")
        return from_dict(hint, value, path=f"{key}.")  # type: ignore[arg-type]
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise ConfigError(
            f"setting {key} has an unknown value {value!r}", next_step=nearest(str(value), map(str, arguments))
        )
    if origin in (tuple, list):
        items = (value.split(",") if value else ()) if isinstance(value, str) else value
        converted = [_convert(arguments[0], item, key) for item in items]
        return tuple(converted) if origin is tuple else converted
    return _convert_plain(hint, value, key)


def _convert_union(arguments: tuple[Any, ...], value: Any, key: str) -> Any:
    if type(None) in arguments and (value is None or value in ("none", "None")):
        return None
    errors = []
    for argument in arguments:
        if argument is not type(None):
            try:
                return _convert(argument, value, key)
            except ConfigError as error:
                errors.append(error)
    raise errors[-1]


def _convert_plain(hint: Any, value: Any, key: str) -> Any:
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if hint is bool and isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    if isinstance(value, bool) != (hint is bool):
        raise ConfigError(f"setting {key} has a wrong value", found=repr(value), expected=_name(hint))
    if hint is int and isinstance(value, float) and not value.is_integer():
        raise ConfigError(f"setting {key} has a wrong value", found=repr(value), expected="a whole number")
    if hint is Any or isinstance(value, hint):
        return value
    try:
        return hint(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"setting {key} has a wrong value", found=repr(value), expected=_name(hint)) from error


def _name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))


# A length of time, as `--time-limit` takes it.

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|)")


def read_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m` or `1.5h`.

    Raises:
        ConfigError: `text` is not one of these, or is zero.
    """
    found = _FORM.fullmatch(text.strip().lower())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError("not a time limit", found=text, expected="a duration such as 90s, 10m or 1.5h")
    return seconds


# Models that ship with the package, by name.


def shipped_models() -> list[str]:
    """Names of the models that ship with the package."""
    return sorted(path.parent.name for path in SHIPPED_MODELS.glob("*/manifest.json"))


def model_folder(choice: str | Path) -> Path:
    """The folder of a model that is named, or given as a folder.

    Args:
        choice: the name of a model that ships, or a MODEL folder.

    Raises:
        InputError: a shipped model and a folder here have this name, so that it could mean either.
    """
    if str(choice) not in shipped_models():
        return Path(choice)
    if Path(choice).is_dir():
        raise InputError(
            f"{choice} is a model that ships with dnd, and a folder here",
            next_step=f"Write ./{choice} for the folder, or work elsewhere",
        )
    return SHIPPED_MODELS / str(choice)


LabelWords = str | float | Sequence[str | float]
"""Words or values of labels as a Python call has them: one, or several."""


def setting_words(settings: Mapping[str, object] | None) -> list[str]:
    """Settings by their dotted names, as a Python call has them, as the `key=value` words of the command line.

    Raises:
        TypeError: it is no mapping, such as a list of these words.
    """
    if settings is not None and not isinstance(settings, Mapping):
        raise TypeError(
            f"settings is a {type(settings).__name__}; expected a mapping from names to values, such as "
            "{'loop.epochs': 30}"
        )
    return [f"{name}={setting_word(value)}" for name, value in (settings or {}).items()]


def setting_word(value: object) -> str:
    """A value as in `key=value`; several are separated by commas."""
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return ",".join(map(str, value)) if listed and isinstance(value, Sequence) else str(value)
