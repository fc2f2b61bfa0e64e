"""Kill prepare, denoise, distill and finetune at random moments and compare what they leave with undisturbed runs.

    python benchmarks/kill_drill.py --kills 120

Prints one line per stage: kills that landed, runs that they made up, results that differ by a byte. Exit code 1 if any
does. About 2 CPU-seconds per kill; on a tmpfs if there is one, because the tiny stages save after every step.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "faults")]

from stage_runs import kill_and_resume, result, stages  # noqa: E402

from nursery import Nursery  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=120, help="over all stages")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="dnd-drill-", dir=memory if memory.is_dir() else None) as name:
        return drill(Path(name), arguments.kills, arguments.seed)


def drill(folder: Path, kills: int, seed: int) -> int:
    nursery = Nursery(TESTS / "faults" / "stage_runs.py", folder)
    print("| stage | kills | runs | differing results | seconds |\n|---|---|---|---|---|", flush=True)
    total = differing_in_all = 0
    for number, stage in enumerate(stages(folder), start=1):
        begin = time.monotonic()
        seconds = stage.finish(nursery, folder / stage.name)  # the undisturbed run, which the next stage reads
        expected, landed, runs, differing = result(folder / stage.name), 0, 0, 0
        while landed < kills * number // 5 - kills * (number - 1) // 5:
            runs += 1
            out = folder / "disturbed"
            landed += kill_and_resume(nursery, stage, out, kills=6, seconds=seconds, seed=1000 * seed + runs)
            differing += result(out) != expected
            shutil.rmtree(out)
        print(f"| {stage.name} | {landed} | {runs} | {differing} | {time.monotonic() - begin:.0f} |", flush=True)
        total, differing_in_all = total + landed, differing_in_all + differing
    print(f"| all | {total} | | {differing_in_all} | |")
    nursery.close()
    return int(differing_in_all > 0)


if __name__ == "__main__":
    sys.exit(main())
