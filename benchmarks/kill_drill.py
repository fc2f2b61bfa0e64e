"""Kill prepare, denoise, distill, finetune, screen and reproduce at random; compare with undisturbed runs.

    python benchmarks/kill_drill.py --kills 140
    python benchmarks/kill_drill.py --kills 40 --stages screen reproduce

Prints one line per stage: kills that landed, runs that they made up, results that differ by a byte. Exit code 1 if any
does. About 2 CPU-seconds per kill, 10 for reproduce; on a tmpfs if there is one, because the tiny stages save after
every step. Every other kill takes the worker processes along.
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

from stage_runs import Stage, kill_and_resume, result, stages  # noqa: E402

from nursery import Nursery  # noqa: E402


def main() -> int:
    """Kill in a temporary folder, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=140, help="over all stages")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("--stages", nargs="*", default=[], help="kill only these; the others run once, undisturbed")
    words = parser.parse_args()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="dnd-drill-", dir=memory if memory.is_dir() else None) as name:
        return drill(Path(name), words.kills, words.seed, set(words.stages))


def drill(folder: Path, kills: int, seed: int, only: set[str]) -> int:
    """Share the kills among the stages and print a line of each; 1 if any result differs."""
    nursery = Nursery(TESTS / "faults" / "stage_runs.py", folder)
    print("| stage | kills | runs | differing results | seconds |\n|---|---|---|---|---|", flush=True)
    total = differing_in_all = 0
    every = list(stages(folder))
    chosen = [stage.name for stage in every if not only or stage.name in only]
    last = max((number for number, stage in enumerate(every) if stage.name in {*chosen} - {"reproduce"}), default=-1)
    for place, stage in enumerate(every):
        begin = time.monotonic()
        if stage.name not in chosen and (place > last or stage.name == "ensemble"):
            continue  # nothing that is killed reads it
        seconds = stage.finish(nursery, folder / stage.name)  # the undisturbed run, which the next stage reads
        if stage.name not in chosen:
            continue
        number = chosen.index(stage.name) + 1
        share = kills * number // len(chosen) - kills * (number - 1) // len(chosen)
        landed, runs, differing = disturb(nursery, stage, folder, share, seconds, seed)
        print(f"| {stage.name} | {landed} | {runs} | {differing} | {time.monotonic() - begin:.0f} |", flush=True)
        total, differing_in_all = total + landed, differing_in_all + differing
    print(f"| all | {total} | | {differing_in_all} | |")
    nursery.close()
    return int(differing_in_all > 0)


def disturb(
    nursery: Nursery, stage: Stage, folder: Path, kills: int, seconds: float, seed: int
) -> tuple[int, int, int]:
    """Kills that landed, runs that they made up, results that differ from the undisturbed one."""
    expected, landed, runs, differing = result(folder / stage.name), 0, 0, 0
    while landed < kills:
        runs += 1
        out = folder / "disturbed"
        landed += kill_and_resume(nursery, stage, out, kills=6, seconds=seconds, seed=1000 * seed + runs)
        found = result(out)
        if found != expected:
            differing += 1
            names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
            print(f"{stage.name}, seed {1000 * seed + runs}: {', '.join(names)}", file=sys.stderr, flush=True)
        shutil.rmtree(out)
    return landed, runs, differing


if __name__ == "__main__":
    sys.exit(main())
