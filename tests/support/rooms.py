"""The rooms of the package drawn from its imports: `python tests/support/rooms.py` writes docs/explanation/rooms.svg.

Every module is parsed, none is executed. A test compares the picture with the imports of today.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "dnd"
PICTURE = ROOT / "docs" / "explanation" / "rooms.svg"
# From the lowest room to the highest, with what each is for; the order is the import contract's.
ROOMS = {
    "common": "errors, settings, files, folders, workers",
    "chemistry": "text to molecule, splits, fingerprints",
    "tables": "CSV, SMI, SDF, Parquet in and out",
    "graphs": "features, packed batches",
    "conformers": "3D structures from files or generated",
    "store": "molecules as Arrow shards",
    "models": "students (2D) and teachers (3D)",
    "training": "the one loop",
    "pretraining": "denoise, distill, baselines",
    "predictor": "what a model is",
    "finetuning": "how a model is made",
    "prediction": "files, screens, estimators",
    "report": "HTML, figures, explanations",
    "interface": "the functions of Python",
    "reproduction": "the paper's tables and figures",
    "bench": "speed, as ratios",
    "export": "models for other programs",
    "serve": "a page and an interface for programs",
    "cli": "the command dnd",
}


def modules() -> dict[str, Path]:
    """Files of the package by dotted name, without empty ones."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.stat().st_size:
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, also inside functions; not those for type checking alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    checked = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in checked or not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("dnd"):
            continue
        for name in node.names:
            whole = f"{node.module}.{name.name}"
            yield whole if whole in known else str(node.module)


def graph() -> dict[str, set[str]]:
    """Imported modules by importing module."""
    known = modules()
    return {name: set(imports_of(path, known)) & known.keys() - {name} for name, path in known.items()}


def between_rooms() -> set[tuple[str, str]]:
    """Pairs of rooms of which the first imports the second."""
    pairs = {(_room(a), _room(b)) for a, wanted in graph().items() for b in wanted}
    return {(a, b) for a, b in pairs if a in ROOMS and b in ROOMS and a != b}


def cycles() -> list[set[str]]:
    """Groups of modules that import each other in a circle, lazily or not."""
    edges = graph()
    reached = {name: _reachable(name, edges) for name in edges}
    groups = {frozenset(b for b in reached[a] if a in reached[b]) for a in edges if a in reached[a]}
    return [set(group) for group in groups]


def picture() -> str:
    """The rooms as an SVG: a box each, in the order of the contract, and an arc from a room to each that it imports."""
    order, step = list(reversed(ROOMS)), 34
    middle = {name: 30 + step * place for place, name in enumerate(order)}
    parts = []
    for above, below in sorted(between_rooms()):
        y1, y2 = middle[above], middle[below]
        out = 370 + 7 * abs(y2 - y1) ** 0.75
        curve = f"M370 {y1} C{out:.0f} {y1} {out:.0f} {y2} 370 {y2}"
        parts.append(f'<path d="{curve}" fill="none" stroke="#4477aa" stroke-opacity="0.45" stroke-width="1.5"/>')
    for name in order:
        y = middle[name]
        parts.append(
            f'<rect x="10" y="{y - 14}" width="360" height="28" rx="5" fill="#f4f6f8" stroke="#666677"/>'
            f'<text x="20" y="{y + 5}" font-weight="bold">{name}</text>'
            f'<text x="125" y="{y + 5}">{ROOMS[name]}</text>'
        )
    height = 30 + step * len(order)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" font-family="sans-serif" font-size="12">'
    )
    return "\n".join([head, f'<rect width="900" height="{height}" fill="white"/>', *parts, "</svg>", ""])


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _reachable(name: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[name])
    while waiting:
        at = waiting.pop()
        if at not in seen:
            seen.add(at)
            waiting += edges[at]
    return seen


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
    counts = Counter(map(_room, modules()))
    for room in reversed(ROOMS):
        print(f"{room:14} {counts[room]:4} modules")
    print(f"{'in all':14} {sum(counts.values()):4} modules, cycles: {cycles() or 'none'}")
