"""Censored labels such as `>4.2`: keep them as limits, drop them, or use the limit as the value?

    python benchmarks/censored.py [-o docs/results/censored] [--data lipo esol] [--seeds 1 2 3 4 5]

Only training parts are used. Of each, at most 250 molecules are drawn for learning and 250 others for judging, by seed;
no scaffold is in both. Of the labels that are learned, those above the quantile 0.6 become limits: `>` that quantile.
Two recipes learn them under `--censored keep`, `drop` and `limit`: students alone (GINE of width 64, 20 epochs, random
weights) and classical members alone (ridge, boosting and a forest on representation, descriptors and counts, blended
out of fold). They are judged by the true values of the other molecules.

A cell, once done, has a line in `censored.csv` and is not repeated; `censored.md` is drawn from that file. All of it
takes about half an hour of one core.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import t as student_t

from dnd.chemistry.splits import balanced_scaffold_split
from dnd.common.compute import numpy_generator
from dnd.common.config import load_config
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.predictor.predictor import Predictor
from dnd.reproduction.benchmarks import load_benchmark

DATA, SEEDS, FATES = ("lipo", "esol"), (1, 2, 3, 4, 5), ("keep", "drop", "limit")
MOST, QUANTILE, CONFIDENCE = 250, 0.6, 0.95
RECIPES = {
    "students": (
        "small",
        ("student.name=gine", "student.width=64", "student.num_layers=3", "loop.epochs=20", "baselines=false"),
        "random",
    ),
    "classical": (
        "fast",
        ("blend.students=false", "blend.classical=ridge,boosting,forest", "blend.trees=100", "baselines=false"),
        "dnd-base",
    ),
}
TABLE, PAGE = "censored.csv", "censored.md"
COLUMNS = ("data", "seed", "recipe", "censored", "limits", "rmse", "rmse_beyond", "bias_beyond", "seconds")


def main() -> None:
    """Run what is missing, and draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, default=Path("docs/results/censored"))
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--most", type=int, default=MOST)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / TABLE
    done = read(path)
    for seed in given.seeds:
        for data in given.data:
            for recipe in given.recipes:
                for fate in FATES:
                    cell = {"data": data, "seed": str(seed), "recipe": recipe, "censored": fate}
                    if any(all(line[name] == value for name, value in cell.items()) for line in done):
                        continue
                    done.append({**cell, **run(data, seed, recipe, fate, given.most)})
                    append(path, done[-1])
                    print(done[-1], flush=True)
    (given.out / PAGE).write_text(page(done), encoding="utf-8")


def read(path: Path) -> list[dict[str, str]]:
    """The lines that there are."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def append(path: Path, line: dict[str, str]) -> None:
    """Add a line."""
    is_new = not path.is_file()
    with open(path, "a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(line)


def run(data: str, seed: int, recipe: str, fate: str, most: int) -> dict[str, str]:
    """One cell."""
    smiles, values_B, learn, judge = molecules_of(data, seed, most)
    limit = float(np.quantile(values_B[learn], QUANTILE))
    name, words, encoder = RECIPES[recipe]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "table.csv"
        write_table(table, smiles, values_B, learn, limit, seed)
        settings = [*words, "split=column:part", f"labels.censored={fate}", f"loop.seed={seed}", "jobs=1"]
        config = load_config(FinetuneConfig, name, [*settings, "loop.device=cpu", "loop.threads=1"], stage="finetune")
        finetune(table, Path(folder) / "model", ["y"], config, encoder=encoder)
        predictor = Predictor.load(Path(folder) / "model", device="cpu")
        predicted_B = predictor.predict_values([smiles[row] for row in judge])[0][:, 0]
    errors_B, beyond_B = predicted_B - values_B[judge], values_B[judge] > limit
    numbers = {
        "limits": int((values_B[learn] > limit).sum()),
        "rmse": float(np.sqrt(np.mean(errors_B**2))),
        "rmse_beyond": float(np.sqrt(np.mean(errors_B[beyond_B] ** 2))),
        "bias_beyond": float(np.mean(errors_B[beyond_B])),
        "seconds": time.monotonic() - started,
    }
    return {key: str(value) if isinstance(value, int) else f"{value:.4f}" for key, value in numbers.items()}


def molecules_of(data: str, seed: int, most: int) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """SMILES, labels, and rows to learn from and to judge by: from the training part, no scaffold in both."""
    found = load_benchmark(data)
    train = found.parts["train"]
    train = train[~np.isnan(found.targets_BC[train, 0])]
    smiles, values_B = [found.smiles[row] for row in train], found.targets_BC[train, 0]
    dealt = balanced_scaffold_split(smiles, (0.5, 0.1, 0.4), seed)
    generator = numpy_generator(seed, "censored benchmark")
    learn, judge = (np.sort(generator.permutation(rows)[:most]) for rows in (dealt.train, dealt.test))
    return smiles, values_B, learn, judge


def write_table(
    path: Path, smiles: Sequence[str], values_B: np.ndarray, learn: np.ndarray, limit: float, seed: int
) -> None:
    """Labels with limits; a tenth is the validation part, and one molecule the test part that a finetuning wants."""
    parts = numpy_generator(seed, "censored parts").permutation(len(learn))
    with open(path, "w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", "y", "part"])
        for row, place in zip(learn.tolist(), parts.tolist(), strict=True):
            part = "test" if place == 0 else "valid" if place <= len(learn) // 10 else "train"
            label = f">{limit!r}" if values_B[row] > limit else repr(float(values_B[row]))
            writer.writerow([smiles[row], label, part])


def page(lines: Sequence[dict[str, str]]) -> str:
    """The results as Markdown."""
    out = [
        "# Censored labels: keep, drop, or use the limit",
        "",
        f"`python benchmarks/censored.py`; raw lines: [{TABLE}]({TABLE}). Two fifths of the labels that were learned",
        "are censored (`>` the quantile 0.6 of the data). RMSE against true values of other scaffolds, mean over",
        "seeds; in brackets that of molecules beyond the limit. Changes against `drop` with their paired 95 %",
        "interval (t). Only molecules of training parts took part.",
        "",
        "| data | recipe | seeds | keep | drop | limit | keep - drop | limit - drop | keep - limit |",
        "|---" * 9 + "|",
    ]
    for data, recipe in dict.fromkeys((line["data"], line["recipe"]) for line in lines):
        own = [line for line in lines if (line["data"], line["recipe"]) == (data, recipe)]
        by_fate = {f: {line["seed"]: line for line in own if line["censored"] == f} for f in FATES}
        seeds = sorted(set.intersection(*map(set, by_fate.values())))
        if len(seeds) < 2:
            continue
        values = {f: np.array([float(by_fate[f][seed]["rmse"]) for seed in seeds]) for f in FATES}
        beyond = {f: np.mean([float(by_fate[f][seed]["rmse_beyond"]) for seed in seeds]) for f in FATES}
        cells = [f"{values[f].mean():.3f} ({beyond[f]:.3f})" for f in FATES]
        pairs = [("keep", "drop"), ("limit", "drop"), ("keep", "limit")]
        changes = [paired(values[first] - values[second]) for first, second in pairs]
        out.append(f"| {data} | {recipe} | {len(seeds)} | {' | '.join([*cells, *changes])} |")
    return "\n".join(out) + "\n"


def paired(differences: np.ndarray) -> str:
    """The mean difference and its interval."""
    count = len(differences)
    half = student_t.ppf((1 + CONFIDENCE) / 2, count - 1) * differences.std(ddof=1) / np.sqrt(count)
    return f"{differences.mean():+.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
