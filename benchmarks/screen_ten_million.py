"""Screen ten million rows with a real small model and record the memory of all its processes over time.

    python benchmarks/screen_ten_million.py -o OUT --rows 50000       # the rate: minutes
    python benchmarks/screen_ten_million.py -o OUT                    # all: hours on two cores; repeat it to go on

The input is the SMILES of the shipped ESOL (or of --source), again and again, bad rows among them. In OUT:
`library.smi`, `model` (unless --model names one), `hits` (the screen), `rss.csv` (a line every few seconds), `rss.png`,
`summary.json`. Prints what docs/reliability.md takes over: rows, seconds, rate, peak, and growth after 100,000 rows.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import subprocess
import sys
import threading
import time
from importlib.resources import as_file, files
from pathlib import Path

from dnd.common.files import read_json, replacing, write_json
from dnd.tables.readers import read_table

BAD = ("C1CC", "no molecule", "C" * 5000)
FIRST_ROWS = 100_000
SETTINGS = (
    "--recipe=small",
    "--split=random",
    "baselines=false",
    "student.name=gine",
    "student.width=64",
    "student.num_layers=3",
    "loop.epochs=2",
)
_ROWS = re.compile(rb"screen  ([\d,]+) of")


def write_library(path: Path, rows: int, source: Path) -> None:
    """The SMILES of `source` and a few bad rows, repeated to `rows` lines."""
    with read_table(source) as table:
        texts = [*BAD, *(row.smiles for row in table)]
    block = "".join(f"{text}\n" for text in texts)
    with replacing(path) as temporary, open(temporary, "w") as stream:
        for _ in range(rows // len(texts)):
            stream.write(block)
        stream.writelines(f"{text}\n" for text in texts[: rows % len(texts)])


def small_model(folder: Path, esol: Path) -> None:
    """A GINE of width 64, two epochs on ESOL: what a screen costs does not depend on how good it is."""
    words = ["finetune", str(esol), "-o", str(folder), "--target-columns", "logS", *SETTINGS]
    subprocess.run([sys.executable, "-m", "dnd", *words], check=True)


class Sampler(threading.Thread):
    """Writes the memory of a process and its children into a CSV until the process ends."""

    def __init__(self, process: subprocess.Popen[bytes], path: Path, every_s: float) -> None:
        super().__init__(daemon=True)
        self.process, self.path, self.every_s, self.rows = process, path, every_s, 0

    def run(self) -> None:
        begin = time.monotonic()
        with open(self.path, "a", newline="") as stream:
            writer = csv.writer(stream)
            if stream.tell() == 0:
                writer.writerow(["seconds", "rows", "processes", "main_mib", "workers_mib", "total_mib"])
            while self.process.poll() is None:
                main, *workers = [rss_mib(pid) for pid in [self.process.pid, *children_of(self.process.pid)]]
                numbers = [main, sum(workers), main + sum(workers)]
                line = [f"{time.monotonic() - begin:.1f}", self.rows, 1 + len(workers), *(f"{n:.1f}" for n in numbers)]
                writer.writerow(line)
                stream.flush()
                time.sleep(self.every_s)


def children_of(pid: int) -> list[int]:
    """Processes below `pid`."""
    try:
        tasks = [Path(f"/proc/{pid}/task/{task}/children").read_text() for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:  # it ended meanwhile
        return []
    own = [int(word) for text in tasks for word in text.split()]
    return own + [below for child in own for below in children_of(child)]


def rss_mib(pid: int) -> float:
    """Resident memory of a process; 0 if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def run_screen(out: Path, model: Path, jobs: int, every_s: float) -> None:
    """Run (or go on with) `dnd screen` under the sampler."""
    words = ["screen", str(out / "library.smi"), "-m", str(model), "-o", str(out / "hits"), "--top", "1000", "--resume"]
    command = [sys.executable, "-m", "dnd", *words, "--jobs", str(jobs)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    sampler = Sampler(process, out / "rss.csv", every_s)
    sampler.start()
    assert process.stderr is not None
    for line in process.stderr:
        sys.stderr.buffer.write(line)
        sys.stderr.flush()
        if found := _ROWS.search(line):
            sampler.rows = int(found[1].replace(b",", b""))
    code = process.wait()
    sampler.join()
    if code:
        sys.exit(code)


def summarise(out: Path, jobs: int) -> dict[str, object]:
    """The figures of the run, over all calls that it took; draws `rss.png` beside them."""
    with open(out / "rss.csv", newline="") as stream:
        samples = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(stream)]
    counts = read_json(out / "hits" / "manifest.json")["counts"]
    seconds = elapsed([row["seconds"] for row in samples])
    early = [row["total_mib"] for row in samples if row["rows"] <= FIRST_ROWS]
    late = [row["total_mib"] for row in samples if row["rows"] > FIRST_ROWS]
    draw(samples, out / "rss.png")
    return {
        **counts,
        "seconds": round(seconds, 1),
        "rows_per_second": round(counts["rows"] / seconds, 1),
        "hours_for_ten_million": round(1e7 / (counts["rows"] / seconds) / 3600, 2),
        "jobs": jobs,
        "load_average": os.getloadavg(),
        "peak_total_mib": max(early + late),
        "peak_main_mib": max(row["main_mib"] for row in samples),
        "growth_after_first_rows_mib": round(max(late) - max(early), 1) if late and early else None,
    }


def elapsed(seconds: list[float]) -> float:
    """Time of all calls together: the clock of the samples starts again at 0 with each."""
    return sum(before for before, after in zip(seconds, [*seconds[1:], 0.0], strict=True) if after < before)


def draw(samples: list[dict[str, float]], path: Path) -> None:
    """Memory against rows, which go on where time starts again with every call; without the start of each."""
    from dnd.report.figures import drawing

    samples = [row for row in samples if row["rows"] > 0]
    with drawing(1, 1, width=6, height=3) as (figure, grid):
        for name in ("total_mib", "workers_mib", "main_mib"):
            grid[0, 0].plot([row["rows"] / 1e6 for row in samples], [row[name] for row in samples], label=name[:-4])
        grid[0, 0].set(xlabel="million rows", ylabel="resident memory, MiB", ylim=(0, None))
        grid[0, 0].legend()
        figure.savefig(path, dpi=150)


def main() -> None:
    """Make what is missing of library and model, screen, and summarise rate and memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two samples of the memory")
    parser.add_argument("--source", type=Path, help="table with a column smiles, instead of ESOL")
    words = parser.parse_args()
    words.out.mkdir(parents=True, exist_ok=True)
    model = words.model or words.out / "model"
    with as_file(files("dnd.data") / "esol.csv.gz") as esol:
        if not (words.out / "library.smi").exists():
            write_library(words.out / "library.smi", words.rows, words.source or esol)
        if not (model / "manifest.json").exists():
            small_model(model, esol)
    run_screen(words.out, model, words.jobs, words.every)
    found = summarise(words.out, words.jobs)
    write_json(words.out / "summary.json", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
