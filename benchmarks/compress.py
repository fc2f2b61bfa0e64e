"""How much of a blend's gain over a lone student `dnd compress` keeps, and how much faster its student predicts.

    python benchmarks/compress.py run esol freesolv bace [--recipe fast] [--rows 20000] [--epochs 15] [--seed 1]
    python benchmarks/compress.py draw                   # docs/results/compress.md from the raw lines

`run` adds a line per data set and system to `docs/results/compress/compress.csv`; what is there is not run again. The
systems, all from the encoder that ships and on the data set's own split, are the blend of the recipe; `compressed`, the
blend's student, taught the pool that ships (its first `--rows` rows of a random order) and the training and validation
molecules; and `lone`, the student of the recipe `small`, trained on the labels themselves. Nothing is chosen by a test
part: it is read once, for the scores. The rate is CPU time of `Predictor.describe`, which a screen calls, on the
same 500 molecules of the pool, the models alternating.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
import time
from pathlib import Path

import numpy as np
from result_lines import read_lines

from dnd.common.config import load_config
from dnd.common.files import package_versions
from dnd.finetuning.compress import CompressConfig, compress
from dnd.finetuning.compressed_model import POOL
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.predictor.predictor import Predictor
from dnd.reproduction.benchmarks import load_benchmark
from dnd.tables.molecules import as_molecules

ROOT = Path(__file__).resolve().parents[1]
RAW = ROOT / "docs" / "results" / "compress" / "compress.csv"
PAGE = ROOT / "docs" / "results" / "compress.md"
BEGIN, END = "<!-- drawn from compress/compress.csv -->", "<!-- end of compress -->"
FIELDS = (
    *("set", "system", "recipe", "rows", "epochs", "seed", "metric", "test", "agreement_r2", "coverage"),
    *("train_cpu_s", "ms_per_molecule", "molecules", "versions"),
)
SYSTEMS = ("lone", "compressed", "blend")
SMALLER_IS_BETTER = ("rmse", "mae")
TIMED, BLOCK = 500, 100


def write_tables(name: str, folder: Path) -> tuple[Path, Path, list[str]]:
    """The labelled table with its split, the same without the test part and without labels, and the targets."""
    data = load_benchmark(name, ROOT / "data")
    part = np.full(len(data.smiles), "", dtype=object)
    for one, rows in data.parts.items():
        part[rows] = one
    labelled, unlabelled = folder / f"{name}.csv", folder / f"{name}-structures.csv"
    with open(labelled, "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["smiles", *data.names, "split"])
        for smiles, labels, own in zip(data.smiles, data.targets_BC.tolist(), part, strict=True):
            writer.writerow([smiles, *("" if np.isnan(label) else label for label in labels), own])
    learned = [smiles for smiles, own in zip(data.smiles, part, strict=True) if own in ("train", "valid")]
    unlabelled.write_text("smiles\n" + "".join(f"{smiles}\n" for smiles in learned))
    return labelled, unlabelled, list(data.names)


def pool_of(rows: int, seed: int, folder: Path) -> Path:
    """The first rows of a random order of the pool."""
    texts = as_molecules(POOL).texts
    drawn = np.random.default_rng(seed).permutation(len(texts))[:rows]
    path = folder / "pool.csv"
    path.write_text("smiles\n" + "".join(f"{texts[row]}\n" for row in drawn))
    return path


def rates(models: dict[str, Predictor]) -> dict[str, float]:
    """CPU milliseconds per molecule of each model, blocks alternating."""
    texts, spent = as_molecules(POOL).texts[:: 20_000 // TIMED], dict.fromkeys(models, 0.0)
    for model in models.values():
        model.describe(texts[:10])  # the first call loads what later ones have
    for start in range(0, len(texts), BLOCK):
        for name, model in models.items():
            before = time.process_time()
            model.describe(texts[start : start + BLOCK])
            spent[name] += time.process_time() - before
    return {name: 1e3 * seconds / len(texts) for name, seconds in spent.items()}


def run_set(name: str, given: argparse.Namespace, done: set[tuple[str, ...]]) -> list[dict[str, object]]:
    """The lines of a data set."""
    settings = {"recipe": given.recipe, "rows": given.rows, "epochs": given.epochs, "seed": given.seed}
    if (name, *map(str, settings.values())) in done:
        return []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        labelled, structures, targets = write_tables(name, folder)
        words = ["split=column:split", "baselines=false", "jobs=1", "loop.device=cpu", f"loop.seed={given.seed}"]
        seconds = {}
        for system, recipe in (("blend", given.recipe), ("lone", "small")):
            config, before = load_config(FinetuneConfig, recipe, words, stage="finetune"), time.process_time()
            finetune(labelled, folder / system, targets, config)
            seconds[system] = time.process_time() - before
        own = ["jobs=1", "loop.device=cpu", f"loop.seed={given.seed}", f"loop.epochs={given.epochs}"]
        config, before = load_config(CompressConfig, "small", own, stage="compress"), time.process_time()
        tables = [pool_of(given.rows, given.seed, folder), structures]
        compress(folder / "blend", folder / "compressed", tables, config)
        seconds["compressed"] = time.process_time() - before
        models = {system: Predictor.load(folder / system, device="cpu") for system in SYSTEMS}
        spent = rates(models)
    versions = " ".join(f"{package} {version}" for package, version in package_versions().items())
    return [
        {
            "set": name,
            "system": system,
            **settings,
            **scores(models[system]),
            "train_cpu_s": round(seconds[system], 1),
            "ms_per_molecule": round(spent[system], 3),
            "molecules": models[system].metrics["parts"]["test"]["molecules"],
            "versions": versions,
        }
        for system in SYSTEMS
    ]


def scores(model: Predictor) -> dict[str, object]:
    """The metric of the test part, coverage there, and of a compressed one how much of its teacher it has."""
    metrics = model.metrics
    name = metrics["metric"]
    measured = [one.judged.measured for one in model.calibration.targets] if model.calibration else []
    covered = [value for value in measured if value is not None and metrics["task"] == "regression"]
    agreed = [one["r2"] for one in metrics.get("compressed", {}).get("targets", {}).values() if one["r2"] is not None]
    return {
        "metric": name,
        "test": metrics["parts"]["test"][name],
        "agreement_r2": round(float(np.mean(agreed)), 4) if agreed else "",
        "coverage": round(float(np.mean(covered)), 4) if covered else "",
    }


def share_kept(metric: str, lone: float, compressed: float, blend: float) -> float | None:
    """Share of the blend's gain over the lone student; None where the blend is no better."""
    sign = -1.0 if metric in SMALLER_IS_BETTER else 1.0
    gain = sign * (blend - lone)
    return sign * (compressed - lone) / gain if gain > 0 else None


def table(raw: list[dict[str, str]]) -> str:
    """The page's table: a line per data set and settings."""
    found: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for one in raw:
        key = tuple(one[name] for name in ("set", "recipe", "rows", "epochs", "seed"))
        found.setdefault(key, {})[one["system"]] = one
    lines = [
        "| set (test molecules) | metric | lone student | compressed | blend | of the gain kept | R² to the blend | "
        "coverage: blend, compressed | times as fast as the blend |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for key, own in found.items():
        lone, compressed, blend = (own[system] for system in SYSTEMS)
        values = [float(one["test"]) for one in (lone, compressed, blend)]
        kept = share_kept(lone["metric"], *values)
        faster = float(blend["ms_per_molecule"]) / float(compressed["ms_per_molecule"])
        covered = ", ".join(f"{float(one['coverage']):.0%}" for one in (blend, compressed) if one["coverage"]) or "–"
        cells = [f"{key[0]} ({lone['molecules']})", lone["metric"], *(f"{value:.3f}" for value in values)]
        cells += ["no gain" if kept is None else f"{kept:.0%}", f"{float(compressed['agreement_r2']):.2f}", covered]
        lines.append(f"| {' | '.join([*cells, f'{faster:.1f}'])} |")
    return "\n".join(lines)


def drawn(page: str, raw: list[dict[str, str]]) -> str:
    """The page with its table drawn anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(raw)}\n{END}{after}"


def main() -> None:
    """Run data sets, or draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("draw")
    run = verbs.add_parser("run")
    run.add_argument("sets", nargs="+")
    run.add_argument("--recipe", default="fast")
    run.add_argument("--rows", type=int, default=20_000)
    run.add_argument("--epochs", type=int, default=15)
    run.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.verb == "draw":
        PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8"), read_lines(RAW)), encoding="utf-8")
        return
    for name in given.sets:
        done = {tuple(one[key] for key in ("set", "recipe", "rows", "epochs", "seed")) for one in read_lines(RAW)}
        lines = run_set(name, given, done)
        RAW.parent.mkdir(parents=True, exist_ok=True)
        is_new = not RAW.is_file()
        with open(RAW, "a", newline="") as stream:
            writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerows(lines)
        print(table(read_lines(RAW)), flush=True)


if __name__ == "__main__":
    main()
