"""What `dnd-base` gives `fast` where labels are few: a tenth of them, with the encoder and without.

    python benchmarks/few_labels.py -o OUT [--seeds 1 2 3] [--page docs/results]     half an hour of a core

The sets are those of MoleculeACE and Biogen, whose labels taught the encoder nothing. Of the molecules that are not of
the test part a tenth, drawn by seed, but at least 50, is all that a model sees; the test part is whole.
"""

from __future__ import annotations

import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
from forest_trees import change_of
from result_lines import Line, arguments, complete, show

from dnd.common.compute import numpy_generator
from dnd.common.config import load_config
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.reproduction.further_sets import BIOGEN, FURTHER_SETS, MOLECULEACE, load_further
from dnd.reproduction.labelled_table import labelled_csv

NAME = "few_labels"
SHARE, FEWEST = 0.1, 50
ENCODERS = {"random": "no encoder", "dnd-base": "`dnd-base`"}
_WIDTH = 120

INTRODUCTION = """# A tenth of the labels

Drawn from `few_labels/few_labels.csv` by `python benchmarks/few_labels.py -o OUT --page docs/results`.

`fast` with and without the encoder that ships, fitted to a tenth of the molecules of each set that are not of its test
part, at least 50, drawn once per seed. The sets are those of MoleculeACE, on their official split, and of Biogen, split
by scaffold; no label of them taught the encoder. RMSE on the whole test part.
"""


def measured(name: str, seed: int) -> list[Line]:
    """A line per encoder."""
    data = load_further(name)
    rest = np.concatenate([data.parts["train"], data.parts["valid"]])
    count = min(len(rest), max(FEWEST, round(SHARE * len(rest))))
    few = np.sort(numpy_generator(seed, f"few labels of {name}").permutation(rest)[:count])
    rows = np.concatenate([few, data.parts["test"]])
    # A fold of a blend is dealt by the blend itself, so which few are called validation molecules hardly matters.
    words = ["valid" if place % 10 == 9 else "train" for place in range(count)] + ["test"] * len(data.parts["test"])
    text = labelled_csv([data.smiles[row] for row in rows], data.target_B[rows, None], ("y",), words)
    lines = []
    for encoder in ENCODERS:
        started = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            table = Path(folder) / "data.csv"
            table.write_text(text, encoding="utf-8")
            settings = ["split=column:split", "task=regression", "baselines=false", "jobs=1", f"loop.seed={seed}"]
            config = load_config(FinetuneConfig, "fast", settings, stage="finetune")
            found = finetune(table, Path(folder) / "model", ["y"], config, encoder=encoder).metrics
        error, spent = found["parts"]["test"]["rmse"], time.process_time() - started
        shared = {"set": name, "seed": str(seed), "labels": str(count), "test_molecules": str(len(rows) - count)}
        lines.append({**shared, "encoder": encoder, "rmse": f"{error:.5f}", "cpu_s": f"{spent:.1f}"})
        print(name, seed, encoder, lines[-1]["rmse"], flush=True)
    return lines


def page(lines: list[Line]) -> str:
    """The mean change over sets, and the errors of each, means over seeds."""
    seeds = sorted({line["seed"] for line in lines})
    errors: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(line["set"] for line in lines):
        of_set = [line for line in lines if line["set"] == name]
        errors[name] = {
            encoder: float(np.mean([float(line["rmse"]) for line in of_set if line["encoder"] == encoder]))
            for encoder in ENCODERS
        }
    logs = {name: np.log(one["dnd-base"] / one["random"]) for name, one in errors.items()}
    groups = {"MoleculeACE": MOLECULEACE, "Biogen": BIOGEN}
    whole = change_of(np.array([*logs.values()]))
    parts = [f"{change_of(np.array([logs[one] for one in own]))} on {title}'s" for title, own in groups.items()]
    sentence = (
        f"**With `dnd-base` the error changes by {whole}** in the geometric mean over the sets, of each the mean over "
        f"{len(seeds)} seeds; by {' and '.join(parts)} sets. In brackets: on how many it is lower, and Wilcoxon's p."
    )
    text = [INTRODUCTION, textwrap.fill(sentence, _WIDTH, break_on_hyphens=False), ""]
    text += ["| set | labels | test molecules | no encoder | `dnd-base` | change |", "|---|---|---|---|---|---|"]
    for name, one in errors.items():
        line = next(line for line in lines if line["set"] == name)
        change = f"{100 * (one['dnd-base'] / one['random'] - 1):+.1f} %"
        cells = [name, line["labels"], line["test_molecules"], f"{one['random']:.3f}", f"{one['dnd-base']:.3f}", change]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, ""])


def main() -> None:
    """Measure what is missing and draw the page."""
    parser = arguments(NAME, __doc__, "folder of the lines")
    parser.add_argument("--sets", nargs="+", default=list(FURTHER_SETS), choices=list(FURTHER_SETS))
    options = parser.parse_args()
    cells = [(name, str(seed)) for seed in options.seeds for name in options.sets]
    lines = complete(
        options.out / f"{NAME}.csv",
        cells,
        lambda line: (line["set"], line["seed"]),
        lambda cell: measured(cell[0], int(cell[1])),
    )
    show(NAME, lines, page(lines), options.page)


if __name__ == "__main__":
    main()
