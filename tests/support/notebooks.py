"""The notebooks of the docs, executed: `python tests/support/notebooks.py docs/notebooks/*.ipynb` keeps their outputs.

With `--check` nothing is written, and a cell whose outputs are of other kinds than those that are kept is an error. The
cells run in an empty folder, in a kernel of this Python.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

CELL_LIMIT_S = 600
FIGURES = (
    "%config InlineBackend.print_figure_kwargs = {'dpi': 80, 'bbox_inches': 'tight', 'metadata': {'Software': None}}"
)


def executed(notebook: Any) -> Any:
    """The notebook with the outputs of a run in an empty folder.

    Raises:
        CellExecutionError: a cell raised.
    """
    fresh = nbformat.from_dict(notebook)
    fresh.cells.insert(0, nbformat.v4.new_code_cell(FIGURES, id="figures"))
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(fresh, timeout=CELL_LIMIT_S, kernel_name="python3", resources=resources).execute()
    del fresh.cells[0]
    for number, cell in enumerate((cell for cell in fresh.cells if cell.cell_type == "code"), 1):
        cell.execution_count, cell.metadata = number, {}
        cell.outputs = joined(cell.outputs)
        for output in cell.outputs:
            if "text/html" in output.get("data", {}):
                output["data"] = {"text/html": output["data"]["text/html"]}  # its text says the same at length
            if "execution_count" in output:
                output["execution_count"] = number
    return fresh


def joined(outputs: list[Any]) -> list[Any]:
    """The outputs with the pieces of a stream as one; how many pieces there are is chance."""
    whole: list[Any] = []
    for output in outputs:
        last = whole[-1] if whole else {}
        if output["output_type"] == "stream" and output.get("name") == last.get("name"):
            last["text"] += output["text"]
        else:
            whole.append(output)
    return whole


def kinds(cell: Any) -> list[list[str]]:
    """Of each output of a cell, the types of content that it has, or the name of its stream."""
    return [sorted(output.get("data", {output.get("name", output["output_type"]): None})) for output in cell.outputs]


def differences(kept: Any, fresh: Any) -> list[str]:
    """Cells whose outputs are of other kinds than those that are kept; cells without any, too, where none has any."""
    pairs = [(one, other) for one, other in zip(kept.cells, fresh.cells, strict=True) if one.cell_type == "code"]
    wrong = [f"cell {one.id}: kept {kinds(one)}, now {kinds(two)}" for one, two in pairs if kinds(one) != kinds(two)]
    return wrong if any(kinds(one) for one, _ in pairs) else [*wrong, "no cell has an output"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("notebooks", type=Path, nargs="+")
    parser.add_argument("--check", action="store_true")
    words = parser.parse_args()
    wrong = []
    for path in words.notebooks:
        kept = nbformat.read(path, as_version=4)
        fresh = executed(kept)
        if words.check:
            wrong += [f"{path.name}, {line}" for line in differences(kept, fresh)]
        else:
            nbformat.write(fresh, path)
    print("\n".join(wrong), file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
