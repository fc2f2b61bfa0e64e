"""The scripts of `benchmarks/` as modules, although they are in no package."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


def load_script(name: str) -> ModuleType:
    """`benchmarks/<name>.py`, not run as a command; as a command it finds its neighbours, so it does here."""
    if str(BENCHMARKS) not in sys.path:
        sys.path.append(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where a dataclass looks for the names in its annotations
    spec.loader.exec_module(module)
    return module


def require_page_of_lines(script: ModuleType, count: int) -> None:
    """Make sure that the kept page of a script is what it draws from its kept lines, so many, and that these read back.

    Args:
        script: a module of `load_script` whose lines `result_lines` reads and writes.
        count: of its lines.
    """
    lines_of = load_script("result_lines")
    name, results = script.__name__, BENCHMARKS.parent / "docs" / "results"
    lines = lines_of.read_lines(results / name / f"{name}.csv")
    assert len(lines) == count
    assert script.page(lines) == (results / f"{name}.md").read_text(encoding="utf-8")
    assert lines_of.csv_text(lines) == (results / name / f"{name}.csv").read_text(encoding="utf-8")
