"""What the quality of the conformers is worth: DFT, MMFF-relaxed and raw ETKDG geometries of the same QM9 molecules.

Three stores of the same molecules. For each and each seed: denoise → distill → finetune on several data sets, with the
seed in all three stages. A molecule that one of the stores can't have is left out of all. A line is a store, a seed and
a data set; those that are there are not made again, and every step resumes.

    python benchmarks/conformer_quality.py -o OUT --qm9 qm9_3d.npz [--page docs/results]    under an hour of a core
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path
from typing import Any, Literal

import numpy as np
from result_lines import Line, arguments, complete, show

from dnd.common.config import load_config
from dnd.common.files import replacing, write_text
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import DistillConfig
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.labelled_table import labelled_csv, reduced
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig

NAME = "conformer_quality"
Source = Literal["file", "etkdg", "etkdg_raw"]
SOURCES: dict[str, Source] = {"DFT": "file", "MMFF94s": "etkdg", "raw ETKDGv3": "etkdg_raw"}
DATASETS = ("esol", "freesolv", "bp", "ri")
RECIPE, EPOCHS, MOST = "demo", 15, 800
LONGER = {"denoise": "loop.epochs=8", "distill": "loop.epochs=10"}
WIDTH = 120

INTRODUCTION = """# What the quality of the conformers is worth

Drawn from `conformer_quality/conformer_quality.csv` by `python benchmarks/conformer_quality.py -o OUT --qm9 qm9_3d.npz
--seeds SEEDS --page docs/results`.

The same molecules of QM9 with three kinds of geometry: DFT, relaxed by MMFF94s, and as ETKDGv3 embeds them. From each a
teacher (2 layers of width 64, 8 epochs) and a TokenGT (4 layers of width 64, D&D-NODE, 10 epochs) are trained with the
recipe `demo`, then finetuned on four data sets, at most 800 molecules of each, for 15 epochs with one learning rate.
Teacher, student and finetuning have a seed of their own each time.
"""


def stores_of(qm9: Path, molecules: int, out: Path) -> dict[str, Store]:
    """A store per source, all with the same molecules in the same order."""
    chosen = out / "molecules.npz"
    if not chosen.is_file():
        common: set[int] | None = None
        for source in SOURCES.values():
            rows = set(rows_in(stored(qm9, out / "draft" / source, source, molecules)))
            common = rows if common is None else common & rows
        write_subset(qm9, np.array(sorted(common or ())), chosen)
    stores = {name: Store.open(stored(chosen, out / "stores" / one, one, None)) for name, one in SOURCES.items()}
    assert len({tuple(store.smiles()) for store in stores.values()}) == 1, "the stores hold the same molecules"
    return stores


def stored(path: Path, folder: Path, source: Source, molecules: int | None) -> Path:
    """The folder of a store of `path` with the conformers of `source`."""
    hydrogens: Literal["teacher_all_student_heavy"] = "teacher_all_student_heavy"
    config = PrepareConfig(conformers=source, hydrogens=hydrogens, sample=molecules, seed=1, jobs=1)
    prepare([path], folder, config, resume=True)
    return folder


def rows_in(folder: Path) -> list[int]:
    """Record numbers of the molecules of a store."""
    lines = Store.open(folder).describe(np.arange(len(Store.open(folder))))
    return [int(line.removesuffix(")").rsplit(" ", 1)[1]) for line in lines]


def write_subset(qm9: Path, molecules: np.ndarray, out: Path) -> None:
    """The flat arrays of `molecules` only, without labels."""
    with np.load(qm9, allow_pickle=False) as arrays:
        counts = arrays["n_atoms"].astype(np.int64)
        ends = np.cumsum(counts)
        atoms = np.concatenate([np.arange(ends[one] - counts[one], ends[one]) for one in molecules])
        kept = {"Z": arrays["Z"][atoms], "R": arrays["R"][atoms]}
        kept |= {name: arrays[name][molecules] for name in ("n_atoms", "smiles")}
    with replacing(out) as path, open(path, "wb") as stream:
        np.savez_compressed(stream, **kept)


def bond_shift(store: Store, reference: Store) -> float:
    """Mean absolute change of bonded distances, angstrom."""
    rows = np.arange(len(store))
    lengths = []
    for one in (store, reference):
        batch = one.read(rows)
        assert batch.conformers is not None
        positions = batch.conformers.positions_A3[batch.conformers.graph_atoms_N]
        first, second = batch.graph.edge_index_2E
        lengths.append((positions[first] - positions[second]).norm(dim=1))
    return float((lengths[0] - lengths[1]).abs().mean())


def measured(name: str, seed: int, stores: dict[str, Store], out: Path) -> list[Line]:
    """A line per data set of a student whose teacher knew one kind of geometry."""
    store, folder = stores[name], out / "runs" / SOURCES[name] / f"seed-{seed}"
    words = [f"loop.seed={seed}"]
    taught = denoise(
        store,
        folder / "teacher",
        load_config(DenoiseConfig, f"denoise-{RECIPE}", [*words, LONGER["denoise"]]),
        resume=True,
    )
    pupil = load_config(DistillConfig, f"distill-{RECIPE}", ["level=node", *words, LONGER["distill"]])
    learnt = distill(store, folder / "teacher", folder / "encoder", pupil, resume=True)
    lines = []
    for dataset in DATASETS:
        metric, scale = BENCHMARKS[dataset].metric.removesuffix("_z"), 1.0
        data = load_benchmark(dataset)
        parts = reduced(data.parts, MOST)
        if BENCHMARKS[dataset].metric.endswith("_z"):
            scale = float(np.nanstd(data.targets_BC[parts["train"]]))
        rows, split = np.concatenate(list(parts.values())), [part for part in parts for _ in parts[part]]
        table = folder / f"{dataset}.csv"
        write_text(table, labelled_csv([data.smiles[row] for row in rows], data.targets_BC[rows], data.names, split))
        own = ["task=regression", "split=column:split", "baselines=false", f"loop.epochs={EPOCHS}", "layer_decay=1.0"]
        config = load_config(FinetuneConfig, "finetune-small", [*own, *words])
        found = finetune(table, folder / dataset, list(data.names), config, encoder=folder / "encoder", resume=True)
        score: dict[str, Any] = {part: found.metrics["parts"][part][metric] / scale for part in ("valid", "test")}
        shared = {"conformers": name, "seed": str(seed), "dataset": dataset, "molecules": str(len(store))}
        told = {"bond_shift": bond_shift(store, stores["DFT"]), "denoising_explained": taught.metrics["explained"]}
        told |= {"distill_r2": learnt.metrics["valid_node_r2"], **score}
        lines.append(shared | {key: f"{value:.5f}" for key, value in told.items()})
        print(name, seed, dataset, lines[-1]["test"], flush=True)
    return lines


def page(lines: list[Line]) -> str:
    """Means over seeds of each kind of geometry, and how each differs from DFT."""
    seeds = sorted({line["seed"] for line in lines})

    def values(name: str, key: str, dataset: str) -> np.ndarray:
        own = {one["seed"]: float(one[key]) for one in lines if (one["conformers"], one["dataset"]) == (name, dataset)}
        return np.array([own[seed] for seed in seeds])

    intro = f"{lines[0]['molecules']} molecules, {len(seeds)} pretrainings. Test errors: RMSE, or the MAE in standard "
    intro += "deviations of the training labels for BP and RI; mean ± sample deviation over the pretrainings."
    text = [INTRODUCTION, textwrap.fill(intro, WIDTH, break_on_hyphens=False), ""]
    heads = [BENCHMARKS[name].paper_name for name in DATASETS]
    told_heads = ["conformers", "bonded distances differ from DFT by", "noise explained", "distillation R²"]
    text.append(f"| {' | '.join([*told_heads, *heads])} |")
    text += ["|---" * (4 + len(heads)) + "|"]
    for name in SOURCES:
        told = [values(name, key, DATASETS[0]).mean() for key in ("bond_shift", "denoising_explained", "distill_r2")]
        errors = [values(name, "test", one) for one in DATASETS]
        cells = [f"{told[0]:.3f} Å", f"{told[1]:.3f}", f"{told[2]:.3f}"]
        cells += [f"{own.mean():.3f} ± {own.std(ddof=1):.3f}" if len(own) > 1 else f"{own[0]:.3f}" for own in errors]
        text.append(f"| {name} | {' | '.join(cells)} |")
    text.append("")
    for name in list(SOURCES)[1:]:
        logs_DS = np.array([np.log(values(name, "test", one) / values("DFT", "test", one)) for one in DATASETS])
        worse = int((logs_DS > 0).sum())
        changes = ", ".join(
            f"{head} {100 * np.expm1(own.mean()):+.1f} %" for head, own in zip(heads, logs_DS, strict=True)
        )
        sentence = (
            f"- {name} against DFT: {100 * np.expm1(logs_DS.mean()):+.1f} % error in the geometric mean ({changes}); "
            f"larger in {worse} of {logs_DS.size} pairs of a data set and a pretraining."
        )
        text.append(textwrap.fill(sentence, WIDTH, subsequent_indent="  ", break_on_hyphens=False))
    return "\n".join([*text, ""])


def main() -> None:
    """Measure what is missing and draw the page."""
    parser = arguments(NAME, __doc__, "folder of the stores, runs and lines")
    parser.add_argument("--qm9", type=Path, required=True, help=".npz with flat arrays")
    parser.add_argument("--molecules", type=int, default=1000, help="drawn from it")
    options: argparse.Namespace = parser.parse_args()
    stores = stores_of(options.qm9, options.molecules, options.out)
    cells = [(name, str(seed)) for seed in options.seeds for name in SOURCES]
    lines = complete(
        options.out / f"{NAME}.csv",
        cells,
        lambda line: (line["conformers"], line["seed"]),
        lambda cell: measured(cell[0], int(cell[1]), stores, options.out),
    )
    show(NAME, lines, page(lines), options.page)


if __name__ == "__main__":
    main()
