"""What the quality of the conformers is worth: DFT, MMFF-relaxed and raw ETKDG geometries of the same QM9 molecules.

Three stores of the same molecules, and for each: denoise → distill → finetune on ESOL (OGB's split, several seeds).
The table has the distance of the geometries from the DFT ones (mean change of bonded distances; no alignment needed),
the denoising score, the student's held-out R² and the test RMSE. A molecule that one of the three can't have is left
out of all. Every step resumes.

    python benchmarks/conformer_quality.py OUT                                    # some minutes, 300 molecules
    python benchmarks/conformer_quality.py OUT --qm9 qm9_3d.npz --molecules 20000 --recipe small --epochs 60 --seeds 3
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from dnd.common.config import load_config, recipe_names
from dnd.common.files import replacing, write_text
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import DistillConfig
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig

SOURCES = {"DFT": "file", "MMFF": "etkdg", "raw ETKDG": "etkdg_raw"}
COLUMNS = (
    "conformers", "molecules", "bond_shift", "denoising_explained", "distill_r2", "valid_rmse", "test_rmse",
    "test_rmse_std", "seeds",
)  # fmt: skip


def main() -> None:
    """Make the three stores, run each through all stages, and write the table as CSV and Markdown."""
    options = arguments()
    data = resources.files("dnd.data")
    with resources.as_file(data / "qm9_slice.npz") as slice_path, resources.as_file(data / "esol.csv.gz") as esol:
        stores = make_stores(options.qm9 or slice_path, options)
        rows = [row_of(name, store, stores["DFT"], esol, options) for name, store in stores.items()]
    with replacing(options.out / "conformer_quality.csv") as path, open(path, "w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])
    lines = ["| " + " | ".join(COLUMNS) + " |", "| " + " | ".join("---" for _ in COLUMNS) + " |"]
    lines += [
        "| " + " | ".join(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) + " |"
        for row in rows
    ]
    size = f"recipe {options.recipe}, level {options.level}, {options.epochs} epochs of finetuning"
    lines += ["", f"{size}. bond_shift: mean |change| of bonded distances from DFT, angstrom. RMSE: ESOL, OGB split."]
    write_text(options.out / "conformer_quality.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


def make_stores(qm9: Path, options: argparse.Namespace) -> dict[str, Store]:
    """A store per source, all with the same molecules in the same order."""
    chosen = options.out / "molecules.npz"
    if not chosen.is_file():
        common: set[int] | None = None
        for source in SOURCES.values():
            rows = set(rows_in(stored(qm9, options.out / "draft" / source, source, options, options.molecules)))
            common = rows if common is None else common & rows
        write_subset(qm9, np.array(sorted(common or ())), chosen)
    stores = {
        name: Store.open(stored(chosen, options.out / "stores" / source, source, options, None))
        for name, source in SOURCES.items()
    }
    assert len({tuple(store.smiles()) for store in stores.values()}) == 1, "the stores hold the same molecules"
    return stores


def stored(path: Path, folder: Path, source: str, options: argparse.Namespace, molecules: int | None) -> Path:
    """The folder of a store of `path` with the conformers of `source`."""
    config = PrepareConfig(
        conformers=source, hydrogens="teacher_all_student_heavy", sample=molecules, seed=1, jobs=options.jobs
    )
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


def row_of(name: str, store: Store, reference: Store, esol: Path, options: argparse.Namespace) -> list[object]:
    """A line of the table: all stages on one store."""
    folder = options.out / "runs" / SOURCES[name]
    teach = load_config(DenoiseConfig, f"denoise-{options.recipe}")
    taught = denoise(store, folder / "teacher", teach, resume=True)
    pupil = load_config(DistillConfig, f"distill-{options.recipe}", [f"level={options.level}"])
    learnt = distill(store, folder / "teacher", folder / "encoder", pupil, resume=True)
    scores = []
    for seed in range(1, options.seeds + 1):
        config = load_config(
            FinetuneConfig, "finetune-small", ["split=column:split", "baselines=false", f"loop.epochs={options.epochs}"]
        )
        config = replace(config, loop=replace(config.loop, seed=seed))
        out, encoder = folder / f"esol-seed-{seed}", folder / "encoder"
        parts = finetune(esol, out, ["logS"], config, encoder=encoder, resume=True).metrics["parts"]
        scores.append((parts["valid"]["rmse"], parts["test"]["rmse"]))
    valid, test = np.array(scores).T
    deviation = float(test.std(ddof=1)) if len(test) > 1 else float("nan")
    r2 = learnt.metrics[f"valid_{options.level}_r2"]
    shift = bond_shift(store, reference)
    return [
        name, len(store), shift, taught.metrics["explained"], r2, float(valid.mean()), float(test.mean()), deviation,
        options.seeds,
    ]  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    recipes = [name.removeprefix("denoise-") for name in recipe_names() if name.startswith("denoise-")]
    both = [name for name in recipes if f"distill-{name}" in recipe_names()]
    parser.add_argument("out", type=Path)
    parser.add_argument("--qm9", type=Path, help=".npz with flat arrays; default: the slice in the package")
    parser.add_argument("--molecules", type=int, default=300)
    parser.add_argument("--recipe", default="tiny", choices=both)
    parser.add_argument("--level", default="node", choices=("node", "graph"))
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
