"""Values that no run of ours writes, in each place of the JSON files of a folder that somebody sent.

`python tests/faults/hostile_values.py FOLDER` counts what becomes of them.
"""

from __future__ import annotations

import collections
import copy
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dnd
from dnd.common.errors import DndError
from dnd.common.files import write_manifest

WRONG: tuple[Any, ...] = (
    None, True, -1, 0, 1e308, -1e308, 10**30, float("nan"), float("inf"), "", "x", "../../etc/passwd", "1", [], {},
    [None], [[]], ["x"] * 3, {"x": 1}, [1e308, float("nan")],
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside of `value`; of a long list the first and the last two."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    if isinstance(value, list):
        for index in sorted({0, 1, len(value) - 2, len(value) - 1} & set(range(len(value)))):
            yield from places(value[index], (*path, index))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of `value` with `new` at `path`; without what is there where `new` is the class `KeyError`."""
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    if new is KeyError:
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def mutations(folder: Path, names: tuple[str, ...], count: int, seed: int) -> Iterator[tuple[str, str, Any]]:
    """File, what was changed in words, and its new content: `count` of all there are, drawn by `seed`."""
    every = []
    for name in names:
        value = json.loads((folder / name).read_text())
        every += [(name, path, new) for path in places(value) for new in (KeyError, *WRONG)]
    chosen = random.Random(seed).sample(every, min(count, len(every)))
    for name, path, new in chosen:
        value = json.loads((folder / name).read_text())
        yield name, f"{name} {'.'.join(map(str, path))} = {new!r}", changed(value, path, new)


def outcome_of(folder: Path, kind: str) -> str:
    """What becomes of a MODEL or ENCODER folder: `refused`, `answers`, or what is wrong."""
    begin = time.process_time()
    try:
        if kind == "predictor":
            model = dnd.load(folder, device="cpu")
            model.predict(["CCO", "c1ccccc1O", "no molecule"]).to_pandas()
            model.evaluate({"smiles": ["CCO", "CCC"], **{target.name: ["1", "2"] for target in model.targets}})
            model._repr_html_()
        else:
            dnd.embed(["CCO"], folder, device="cpu")
        told = "answers"
    except DndError as error:
        told = "refused" if "\n" not in str(error) and len(str(error)) < 2000 else f"refused at length: {error}"
    except RecursionError:
        told = "recursion without end"
    except Exception:
        told = "internal error: " + traceback.format_exc().strip().splitlines()[-1]
    if time.process_time() - begin > 10:
        told = f"slow: {time.process_time() - begin:.0f} s"
    return told


def attack(model: Path, count: int, seed: int = 1) -> collections.Counter[str]:
    """Change one value, seal the folder as its sender would, and use it; how often what came of it."""
    manifest = json.loads((model / "manifest.json").read_text())
    names = tuple(sorted(path.name for path in model.glob("*.json") if path.name not in ("manifest.json",)))
    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "folder"
        shutil.copytree(model, folder)
        for name, what, value in mutations(model, names, count, seed):
            before = (model / name).read_bytes()
            (folder / name).write_text(json.dumps(value))
            write_manifest(folder, kind=manifest["kind"], format_version=manifest["format_version"])
            told = outcome_of(folder, manifest["kind"])
            (folder / name).write_bytes(before)
            counts[told.split(":")[0]] += 1
            if told not in ("refused", "answers"):
                print(f"{what}: {told}", flush=True)
    return counts


if __name__ == "__main__":
    print(dict(attack(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10**9)))
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB at most")
