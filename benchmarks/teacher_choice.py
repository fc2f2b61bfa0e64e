"""Which teacher serves the shipped encoder: noise scale, hydrogens and width, judged by validation parts only.

    python benchmarks/teacher_choice.py OUT                                       # some minutes, from the slice of QM9
    python benchmarks/teacher_choice.py OUT --inputs qm9_3d.npz druglike_etkdg.npz --molecules 2000

For each choice: the same molecules (drawn from every input, without the validation and test molecules of the data sets
below) → denoise → distil node and graph level into one GINE → ridge regression on its frozen embedding of the training
part, RMSE on the validation part. Held-out losses of different noise scales are of different tasks and can't be
compared; what a student makes of the teacher can. The table has each RMSE over that of random weights of the same GINE,
and its mean. Test parts are never read. Every step resumes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnd.common.config import from_dict
from dnd.common.files import write_text
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student
from dnd.prediction.embedder import Embedder
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import DistillConfig
from dnd.reproduction.benchmarks import load_benchmark
from dnd.reproduction.encoder_ablation import REGRESSION_SETS
from dnd.reproduction.pretraining_labels import excluded_table
from dnd.store.prepare import prepare
from dnd.store.reader import Store, union
from dnd.store.settings import PrepareConfig

Parts = dict[str, tuple[list[str], np.ndarray]]  # SMILES and values, by part
ALPHAS = np.logspace(-1, 4, 11)
ALL, HEAVY = "teacher_all_student_heavy", "heavy_both"
# Noise scale in angstrom, width, hydrogens.
CHOICES = {
    "sigma 0.04, width 64, hydrogens": (0.04, 64, ALL),
    "sigma 0.02": (0.02, 64, ALL),
    "sigma 0.1": (0.1, 64, ALL),
    "sigma 0.3": (0.3, 64, ALL),
    "width 96": (0.04, 96, ALL),
    "heavy atoms only": (0.04, 64, HEAVY),
    "heavy atoms only, sigma 0.1": (0.1, 64, HEAVY),
}


def main() -> None:
    """Carry out each choice, probe its student, and write the table."""
    options = arguments()
    torch.set_num_threads(options.threads)
    labelled = {name: probe_data(name, options) for name in options.datasets}
    student = StudentConfig(name="gine", width=128, num_layers=4)
    torch.manual_seed(0)
    random = probe(Embedder(build_student(student).eval(), HEAVY), labelled)
    lines = ["| teacher | explained | R² node | " + " | ".join(labelled) + " | mean |"]
    lines += ["| " + " | ".join(["---"] * (4 + len(labelled))) + " |"]
    with resources.as_file(resources.files("dnd.data") / "qm9_slice.npz") as slice_path:
        for name in options.choices:
            row = row_of(name, options.inputs or [slice_path], labelled, random, student, options)
            lines.append(f"| {name} | " + " | ".join(row) + " |")
            print(lines[-1], flush=True)
    write_text(options.out / "teacher_choice.md", "\n".join(lines) + "\n")


def row_of(
    name: str,
    inputs: Sequence[Path],
    labelled: Mapping[str, Parts],
    random: Mapping[str, float],
    student: StudentConfig,
    options: argparse.Namespace,
) -> list[str]:
    """Denoising score, distillation score, and the probe over that of random weights."""
    sigma, width, hydrogens = CHOICES[name]
    store = union([stored(path, hydrogens, options) for path in inputs])
    folder = options.out / name.replace(" ", "-").replace(",", "")
    loop = {"batch_size": 32, "learning_rate": 1e-3, "warmup_epochs": 0.2, "clip_norm": 5.0, "threads": options.threads}
    teacher = {"name": "et", "width": width, "num_layers": 3, "num_heads": 8, "num_rbf": 64, "cutoff": 5.0}
    settings = {
        "teacher": teacher, "loop": {**loop, "epochs": options.epochs}, "sigma": sigma, "holdout_fraction": 0.05,
    }  # fmt: skip
    taught = denoise(store, folder / "teacher", from_dict(DenoiseConfig, settings), resume=True)
    settings = {
        "level": "custom", "terms": {"node": 1.0, "graph": 2.0}, "holdout_fraction": 0.05,
        "student": {"name": student.name, "width": student.width, "num_layers": student.num_layers},
        "loop": {**loop, "epochs": 4 * options.epochs},
    }  # fmt: skip
    learnt = distill(store, folder / "teacher", folder / "encoder", from_dict(DistillConfig, settings), resume=True)
    found = probe(Embedder.load(folder / "encoder"), labelled)
    ratios = [found[one] / random[one] for one in labelled]
    numbers = [taught.metrics["explained"], learnt.metrics["valid_node_r2"], *ratios, float(np.mean(ratios))]
    return [f"{number:.3f}" for number in numbers]


def stored(path: Path, hydrogens: str, options: argparse.Namespace) -> Store:
    """A store of molecules drawn from `path`; which ones does not depend on the hydrogens."""
    folder = options.out / "stores" / hydrogens / path.name.split(".")[0]
    exclude = tuple(excluded_table(options.out / "excluded.csv", options.datasets, options.data_dir))
    config = PrepareConfig(
        conformers="file", hydrogens=hydrogens, sample=options.molecules, seed=1, exclude=exclude, jobs=1
    )
    prepare([path], folder, config, resume=True)
    return Store.open(folder)


def probe_data(name: str, options: argparse.Namespace) -> Parts:
    """SMILES and values of the training and the validation part."""
    data, draw, found = load_benchmark(name, options.data_dir), np.random.default_rng(0), {}
    for part in ("train", "valid"):
        rows = data.parts[part]
        rows = rows[np.isfinite(data.targets_BC[rows, 0])]
        rows = draw.permutation(rows)[: options.most_molecules]
        found[part] = ([data.smiles[row] for row in rows], data.targets_BC[rows, 0])
    return found


def probe(embedder: Embedder, labelled: Mapping[str, Parts]) -> dict[str, float]:
    """Validation RMSE of ridge regression on frozen embeddings, by data set."""
    errors = {}
    for name, parts in labelled.items():
        (x_train, y_train), (x_valid, y_valid) = (_finite(embedder.embed(texts), y) for texts, y in parts.values())
        model = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(x_train, y_train)
        errors[name] = float(np.sqrt(np.mean((model.predict(x_valid) - y_valid) ** 2)))
    return errors


def _finite(x_BD: np.ndarray, y_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the molecules that can't be read."""
    kept = np.isfinite(x_BD).all(axis=1)
    return x_BD[kept], y_B[kept]


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--inputs", type=Path, nargs="*", default=[], help="files with conformers; default: the slice")
    parser.add_argument("--molecules", type=int, default=300, help="drawn from each input")
    parser.add_argument("--epochs", type=int, default=2, help="of the teacher; the student has four times as many")
    parser.add_argument("--choices", nargs="+", default=list(CHOICES), choices=list(CHOICES))
    parser.add_argument("--datasets", nargs="+", default=list(REGRESSION_SETS))
    parser.add_argument("--most-molecules", type=int, default=1000, help="of each part of a data set")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-dir", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
