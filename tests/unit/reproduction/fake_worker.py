"""A worker of the grid that fakes the stages; see test_grid.py."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from dnd.common.errors import InputError
from dnd.reproduction.cells import serve


def run(folder: Path) -> dict[str, Any]:
    cell = json.loads((folder / "cell.json").read_text())
    with open(folder / "runs.txt", "a") as stream:
        stream.write("run\n")
    (folder / "pid.txt").write_text(str(os.getpid()))
    if cell["kind"] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if cell["kind"] == "broken":
        raise RuntimeError("the cell broke")
    if cell["kind"] == "refused":
        return {"status": "failed", "reason": str(InputError("data set x is missing", next_step="Get it"))}
    time.sleep(cell["settings"].get("seconds", 0.0))
    upstream = [
        json.loads((Path(path) / "outcome.json").read_text())["result"]["value"] for path in cell["needs"].values()
    ]
    value = cell["settings"].get("value", 1) + sum(upstream)
    return {"status": "done", "result": {"value": value, "pid": os.getpid(), "summary": f"value {value}"}}


if __name__ == "__main__":
    serve(run)
