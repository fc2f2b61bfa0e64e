"""`python -m dnd.analysis.cell_process FOLDER`: runs the cell that FOLDER/cell.json describes.

Leaves FOLDER/outcome.json: done with a result, or failed with a reason. Also a way to repeat one cell by hand.
"""

from __future__ import annotations

import os
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from dnd.common.errors import DndError
from dnd.common.files import read_json, write_json
from dnd.training.stopping import Interrupted


def run_cell(folder: Path) -> dict[str, Any]:
    """Run the cell in `folder` and return its outcome; errors of any kind become its reason."""
    from dnd.analysis.grid import CELL_FILE
    from dnd.analysis.stages import STAGES, Work

    cell = read_json(folder / CELL_FILE)
    needs = {key: Path(path) for key, path in cell["needs"].items()}
    outcome: dict[str, Any] = {"started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "machine": _machine()}
    try:
        work = Work(cell["settings"], cell.get("paths", {}), needs, folder)
        outcome |= {"status": "done", "result": STAGES[cell["kind"]](work)}
    except Interrupted:
        raise
    except DndError as error:
        outcome |= {"status": "failed", "reason": str(error)}
    except Exception as error:  # one bad cell never stops the others, whatever is wrong with it
        traceback.print_exc()
        outcome |= {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    outcome["peak_memory_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
    return outcome


def main() -> None:
    """Run the cell of the folder on the command line and write its outcome."""
    from dnd.analysis.grid import OUTCOME_FILE

    folder = Path(sys.argv[1])
    try:
        outcome = run_cell(folder)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)  # no outcome: the next run of the grid goes on with this cell
    write_json(folder / OUTCOME_FILE, outcome)


def _machine() -> str:
    cores = f"{len(os.sched_getaffinity(0))} cores" if hasattr(os, "sched_getaffinity") else f"{os.cpu_count()} cores"
    import torch

    return f"{cores}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else cores


if __name__ == "__main__":
    main()
