"""One alphabet for all arrays: no other letter, no legend of a file's own, no crossing array without its entry."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from dnd.vocabulary import ALPHABET, ARRAYS, Array
from support.rooms import PACKAGE, ROOMS

NAME = re.compile(r"_*[a-z][a-z0-9_]*_([A-Za-z0-9]{1,6})")
LEGEND = re.compile(r"\bLegend:|\b[A-Z] (?:[a-z]+ ?){1,4}, [A-Z] (?:[a-z]+ ?){1,4}, [A-Z] [a-z]+")
KINDS = {"Float": "float", "Int": "int", "UInt": "int", "Bool": "bool"}
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "vocabulary.py"]
PLACE = {room: place for place, room in enumerate(ROOMS)}
ENTRIES: dict[str, list[Array]] = defaultdict(list)
for entry in (one for own in ARRAYS.values() for one in own):
    ENTRIES[entry.name].append(entry)


def axes_of(name: str) -> str:
    """The axes that a name ends in; empty where it has none."""
    found = NAME.fullmatch(name)
    return found[1] if found and re.search("[A-Z]", found[1]) else ""


def foreign(module: ast.Module) -> set[str]:
    """Names with a letter that the alphabet does not have."""
    attributes = ("id", "attr", "arg", "name")
    names = {getattr(node, one, None) for node in ast.walk(module) for one in attributes}
    known = {*ALPHABET, *"0123456789"}
    return {name for name in names if isinstance(name, str) and set(axes_of(name)) - known}


def legends(code: str) -> list[str]:
    """What explains letters in comments and docstrings."""
    return LEGEND.findall(code.replace("\n# ", " ").replace("\n", " "))


class Field(NamedTuple):
    """An array of a public dataclass or named tuple: who has it, and what its annotation says."""

    room: str
    owner: str
    name: str
    kind: str
    dims: tuple[str, ...]


def fields_of(room: str, module: ast.Module) -> Iterator[Field]:
    for owner in module.body:
        if not isinstance(owner, ast.ClassDef) or owner.name.startswith("_") or not _holds_data(owner):
            continue
        for node in owner.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                for kind, dims in _shapes(node.annotation):
                    yield Field(room, owner.name, node.target.id, kind, dims)


def _holds_data(owner: ast.ClassDef) -> bool:
    marks = [*owner.decorator_list, *owner.bases]
    return any(re.search(r"dataclass|NamedTuple|Batch", ast.unparse(mark)) for mark in marks)


def _shapes(annotation: ast.expr) -> Iterator[tuple[str, tuple[str, ...]]]:
    for node in ast.walk(annotation):
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and isinstance(node.slice, ast.Tuple):
            kind = KINDS.get(node.value.id.rstrip("0123456789"))
            shape = node.slice.elts[-1]
            if kind and isinstance(shape, ast.Constant) and isinstance(shape.value, str):
                yield kind, tuple(shape.value.split())


def crossing(parsed: dict[tuple[str, str], ast.Module]) -> list[Field]:
    """Fields that a room above their own reads or sets by name, where it has none of that name itself.

    A name without axes, such as `places`, counts only in a file that imports its class.
    """
    fields = [field for (room, _), module in parsed.items() for field in fields_of(room, module)]
    own = {(room, node.target.id) for (room, _), tree in parsed.items() for node in _annotated(tree)}
    used: dict[str, set[tuple[str, str]]] = defaultdict(set)
    imported: set[tuple[str, str]] = set()
    for (room, file), module in parsed.items():
        for node in ast.walk(module):
            name = node.attr if isinstance(node, ast.Attribute) else node.arg if isinstance(node, ast.keyword) else None
            used[name or ""].add((room, file))
            if isinstance(node, ast.ImportFrom):
                imported |= {(file, alias.name) for alias in node.names}
    return [
        field
        for field in fields
        if any(
            PLACE[room] > PLACE[field.room]
            and (room, field.name) not in own
            and (axes_of(field.name) or (file, field.owner) in imported)
            for room, file in used[field.name]
        )
    ]


def _annotated(module: ast.Module) -> Iterator[ast.AnnAssign]:
    for owner in (node for node in ast.walk(module) if isinstance(node, ast.ClassDef)):
        yield from (one for one in owner.body if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name))


def problem_of(field: Field) -> str:
    """Why a field and its entry differ; empty where they agree."""
    known = [one for one in ENTRIES[field.name] if one.kind == field.kind]
    if not known:
        return f"{field.owner}.{field.name} ({field.kind}) crosses a room and is not in vocabulary.py"
    open_ended = any("*" in dim or dim == "..." for dim in field.dims)
    if open_ended or any(len(one.axes) == len(field.dims) for one in known):
        return ""
    return f"{field.owner}.{field.name} has the axes {field.dims}, in vocabulary.py {known[0].axes}"


@pytest.fixture(scope="module")
def parsed() -> dict[tuple[str, str], ast.Module]:
    """Modules by room and file; those beside the rooms have none."""
    found = {}
    for path in FILES:
        file = path.relative_to(PACKAGE)
        found[file.parts[0] if file.parts[0] in PLACE else "", str(file)] = ast.parse(path.read_text(encoding="utf-8"))
    return found


def test_every_array_takes_its_axes_from_the_alphabet(parsed: dict[tuple[str, str], ast.Module]) -> None:
    found = {file: foreign(module) for (_, file), module in parsed.items()}
    assert {file: names for file, names in found.items() if names} == {}


def test_no_file_has_a_legend_of_its_own() -> None:
    found = {str(path.relative_to(PACKAGE)): legends(path.read_text(encoding="utf-8")) for path in FILES}
    assert {file: texts for file, texts in found.items() if texts} == {}


def test_every_array_that_crosses_a_room_is_in_the_vocabulary(parsed: dict[tuple[str, str], ast.Module]) -> None:
    found = crossing({key: module for key, module in parsed.items() if key[0]})
    assert len(found) > 40  # so that a search which finds nothing is not a proof
    assert [problem for field in found if (problem := problem_of(field))] == []


def test_the_vocabulary_says_what_the_names_say_and_knows_no_array_that_is_gone() -> None:
    code = {room: "\n".join(p.read_text(encoding="utf-8") for p in (PACKAGE / room).rglob("*.py")) for room in ARRAYS}
    for room, own in ARRAYS.items():
        for one in own:
            letters = "".join(axis for axis in one.axes if not axis.endswith("+ 1"))
            assert set(letters) <= {*ALPHABET, *"0123456789"}, one
            assert not axes_of(one.name) or axes_of(one.name) == letters, one
            assert one.kind in KINDS.values(), one
            assert one.meaning, one
            assert re.search(rf"\b{one.name.removesuffix('()')}\b", code[room]), f"{one.name} is not in {room}"
    assert list(ARRAYS) == [room for room in ROOMS if room in ARRAYS]


def test_the_checks_see_what_they_are_for() -> None:
    assert foreign(ast.parse("states_QD = own.states_ND + best_2 + CHEMBL_Ki")) == {"states_QD"}
    assert legends('"""Packed.\n\nLegend: B molecules.\n"""') == ["Legend:"]
    assert legends("# N molecules, C targets, M members.") == ["N molecules, C targets, M members"]
    assert legends('"""Carbon, N, O and F; a row of B molecules, each with N atoms."""') == []
    graphs = ast.parse('@dataclass\nclass Pack:\n    angle_P: Float[Tensor, "pairs"]\n    own: Int[Tensor, "atoms"]')
    models = ast.parse("from dnd.graphs.pack import Pack\nprint(pack.angle_P, pack.own)")
    found = crossing({("graphs", "a"): graphs, ("models", "b"): models})
    assert [field.name for field in found] == ["angle_P", "own"]
    assert "not in vocabulary.py" in problem_of(found[0])
    assert crossing({("graphs", "a"): graphs, ("models", "b"): ast.parse("print(pack.own)")}) == []
    assert "has the axes" in problem_of(Field("graphs", "Pack", "batch_N", "int", ("atoms", "3")))
