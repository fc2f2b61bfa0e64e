"""Can R and S be read from a teacher's atom representations? With and without `teacher.chiral`.

    python benchmarks/handedness.py -o runs/handedness           # five minutes of one core, from the slice of QM9
    python benchmarks/handedness.py -o runs/handedness --page docs/results

For each seed: teachers with and without handedness are trained by denoising on the training molecules, and frozen. A
probe learns the CIP label, R or S, of each stereocentre of the training molecules and of their mirror images from the
centre's representation. Balanced accuracy is over the stereocentres of the other molecules and of their mirror images;
0.5 is guessing. Beside them stand chiral teachers with random weights. A teacher whose representation is the same for
both images has 0.5 by construction, since each of its guesses is right for one image and wrong for the other.

Labels are those that RDKit's CIP labeller gives to the conformer. r and s, which a reflection leaves as they are, are
left out. A line of `handedness.csv` is never computed again; `--page` copies the file and draws the page from it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import NamedTuple

import numpy as np
import result_lines
import torch
from rdkit import Chem
from rdkit.Chem import rdCIPLabeler
from result_lines import complete, show, spread
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dnd.common.compute import derive_seed, numpy_generator, set_threads
from dnd.common.config import from_dict
from dnd.common.files import replacing
from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.base import Teacher, TeacherConfig
from dnd.models.teachers.teachers import build_teacher, load_teacher
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig

MIRROR = np.array([1.0, 1.0, -1.0], dtype=np.float32)
WIDTH, LAYERS, BATCH = 64, 3, 64
TEACHERS = {"without handedness": (False, True), "chiral": (True, True), "chiral, random weights": (True, False)}
"""By name: whether the teacher is chiral, and whether it is trained."""
PROBES = ("linear", "network")
FIELDS = (
    "teacher", "seed", "probe", "epochs", "train_molecules", "train_centres", "test_molecules", "test_centres",
    "balanced_accuracy", "explained",
)  # fmt: skip


class Molecule(NamedTuple):
    """A conformer and the labels of its stereocentres.

    Attributes:
        smiles: of the source.
        atomic_numbers: `(atoms,)`.
        positions: `(atoms, 3)` float32, angstrom.
        centres: atoms with a label.
        is_r: whether the label of each is R.
    """

    smiles: bytes
    atomic_numbers: np.ndarray
    positions: np.ndarray
    centres: np.ndarray
    is_r: np.ndarray


def main() -> None:
    """Compute what is missing and print or write the page."""
    options = arguments()
    set_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    train, test = parts(read_molecules(options.molecules))
    lines = complete(
        options.out / "handedness.csv",
        itertools.product(options.seeds, TEACHERS),
        cell_of=lambda line: (int(line["seed"]), line["teacher"]),
        measured=lambda cell: measured(cell[1], cell[0], train, test, options),
    )
    show("handedness", lines, page(lines), options.page)


def measured(
    name: str, seed: int, train: Sequence[Molecule], test: Sequence[Molecule], options: argparse.Namespace
) -> list[dict[str, str]]:
    """A line for each probe."""
    chiral, trained = TEACHERS[name]
    teacher, explained = (
        trained_teacher(chiral, seed, train, options) if trained else (random_teacher(chiral, seed), None)
    )
    x_train, y_train = centres_of(teacher, train)
    x_test, y_test = centres_of(teacher, test)
    counts = (len(train), len(y_train) // 2, len(test), len(y_test) // 2)
    lines = []
    for probe in PROBES:
        guess = make_pipeline(StandardScaler(), classifier(probe, seed)).fit(x_train, y_train).predict(x_test)
        accuracy = f"{balanced_accuracy_score(y_test, guess):.4f}"
        fraction = "" if explained is None else f"{explained:.4f}"
        values = (name, seed, probe, options.epochs if trained else 0, *counts, accuracy, fraction)
        lines.append(dict(zip(FIELDS, map(str, values), strict=True)))
        print(", ".join(lines[-1].values()), flush=True)
    return lines


def classifier(probe: str, seed: int) -> ClassifierMixin:
    """What learns R from S: a linear map, or a network of one hidden layer."""
    if probe == "linear":
        return LogisticRegression(max_iter=2000)
    return MLPClassifier((128,), early_stopping=True, max_iter=300, random_state=seed)


def trained_teacher(
    chiral: bool, seed: int, molecules: Sequence[Molecule], options: argparse.Namespace
) -> tuple[Teacher, float]:
    """A frozen teacher and the share of the noise it explains on held-out training molecules."""
    store = options.out / "store"
    source = options.out / "train.npz"
    if not source.is_file():
        with replacing(source) as target, open(target, "wb") as stream:
            np.savez(stream, **arrays_of(molecules))
    prepare([source], store, PrepareConfig(hydrogens="teacher_all_student_heavy", jobs=1), resume=True)
    loop = {
        "batch_size": 32, "learning_rate": 1e-3, "warmup_epochs": 0.2, "epochs": options.epochs, "seed": seed,
        "threads": 1, "device": "cpu",
    }  # fmt: skip
    settings = {"teacher": vars(teacher_config(chiral)), "loop": loop, "holdout_fraction": 0.1}
    folder = options.out / f"{'chiral' if chiral else 'plain'}-{seed}"
    summary = denoise(store, folder, from_dict(DenoiseConfig, settings), resume=True)
    return load_teacher(folder)[0], summary.metrics["explained"]


def random_teacher(chiral: bool, seed: int) -> Teacher:
    """A teacher that has learnt nothing."""
    torch.manual_seed(derive_seed(seed, "random teacher"))
    return build_teacher(teacher_config(chiral)).eval().requires_grad_(False)


def teacher_config(chiral: bool) -> TeacherConfig:
    """The teacher of this comparison."""
    return TeacherConfig(width=WIDTH, num_layers=LAYERS, num_rbf=32, chiral=chiral)


def centres_of(teacher: Teacher, molecules: Sequence[Molecule]) -> tuple[np.ndarray, np.ndarray]:
    """Representations of all stereocentres and of their mirror images, and whether each is R."""
    found, labels = [], []
    for mirrored in (False, True):
        for start in range(0, len(molecules), BATCH):
            batch = molecules[start : start + BATCH]
            offsets = np.cumsum([0, *(len(molecule.positions) for molecule in batch)])
            scalars = teacher(conformers_of(batch, offsets, mirrored=mirrored)).scalars_AD.numpy()
            found += [scalars[first + molecule.centres] for molecule, first in zip(batch, offsets[:-1], strict=True)]
            labels += [molecule.is_r != mirrored for molecule in batch]
    return np.concatenate(found), np.concatenate(labels)


def conformers_of(molecules: Sequence[Molecule], offsets: np.ndarray, *, mirrored: bool) -> ConformerBatch:
    """The conformers or their mirror images as a batch."""
    positions = np.concatenate([molecule.positions for molecule in molecules])
    numbers = np.concatenate([molecule.atomic_numbers for molecule in molecules])
    return ConformerBatch(
        torch.from_numpy(numbers.astype(np.int64)),
        torch.from_numpy(positions * MIRROR if mirrored else positions),
        torch.from_numpy(offsets),
        torch.arange(len(numbers)),
    )


def read_molecules(count: int) -> Iterator[Molecule]:
    """The first `count` molecules of the slice of QM9, labelled."""
    with resources.as_file(resources.files("dnd.data") / "qm9_slice.npz") as path, np.load(path) as arrays:
        smiles, numbers, positions = arrays["smiles"], arrays["Z"], arrays["R"].astype(np.float32) / 1000
        offsets = np.cumsum([0, *arrays["n_atoms"].astype(np.int64)])
    for number, text in enumerate(smiles[:count]):
        atoms = slice(offsets[number], offsets[number + 1])
        centres, is_r = cip_labels(text.decode(), positions[atoms])
        yield Molecule(text, numbers[atoms], positions[atoms], centres, is_r)


def cip_labels(smiles: str, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Stereocentres of a conformer whose atoms are those of the SMILES with all hydrogens, and which of them are R."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    conformer = Chem.Conformer(mol.GetNumAtoms())
    conformer.SetPositions(positions.astype(np.float64))
    mol.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(mol)
    rdCIPLabeler.AssignCIPLabels(mol)
    labels = {atom.GetIdx(): atom.GetProp("_CIPCode") for atom in mol.GetAtoms() if atom.HasProp("_CIPCode")}
    kept = {atom: label for atom, label in labels.items() if label in ("R", "S")}
    return np.array(list(kept), dtype=np.int64), np.array([label == "R" for label in kept.values()], dtype=bool)


def parts(molecules: Iterator[Molecule]) -> tuple[list[Molecule], list[Molecule]]:
    """Seven in ten molecules to train teachers and probes, the others to test. No two have the same constitution."""
    found = list(molecules)
    order = numpy_generator(1, "handedness").permutation(len(found))
    cut = 7 * len(found) // 10
    return [found[number] for number in order[:cut]], [found[number] for number in order[cut:]]


def arrays_of(molecules: Sequence[Molecule]) -> dict[str, np.ndarray]:
    """The molecules in the format of the slice of QM9."""
    return {
        "Z": np.concatenate([molecule.atomic_numbers for molecule in molecules]),
        "R": np.rint(1000 * np.concatenate([molecule.positions for molecule in molecules])).astype(np.int16),
        "n_atoms": np.array([len(molecule.positions) for molecule in molecules]),
        "smiles": np.array([molecule.smiles for molecule in molecules]),
    }


def page(lines: Sequence[dict[str, str]]) -> str:
    """The page of results, from the lines alone."""
    seeds = sorted({line["seed"] for line in lines}, key=int)
    epochs = max(int(line["epochs"]) for line in lines)
    sizes = lines[0]
    train, test = int(sizes["train_molecules"]), int(sizes["test_molecules"])
    text = f"""# Handedness: can R and S be read from the teacher?

The scalars of the equivariant transformer are the same for both mirror images of a molecule. With `teacher.chiral=true`
each layer adds triple products of an atom's vectors to them (`dnd.models.teachers.layers`), and the images
differ. This page measures how well a stereocentre's CIP label, R or S, can be predicted from its representation in
the frozen teacher.

```sh no-run
python benchmarks/handedness.py -o runs/handedness --seeds {" ".join(seeds)} --epochs {epochs} \\
  --molecules {train + test} --page docs/results
```

- Teachers: width {WIDTH}, {LAYERS} layers, {epochs} epochs of denoising (a short training) on {train:,} molecules
  of QM9 with DFT conformers, then frozen. A seed draws the weights and the noise; the molecules are the same.
- Probes: trained on the {int(sizes["train_centres"]):,} stereocentres of these molecules and of their mirror images,
  tested on the {int(sizes["test_centres"]):,} of {test:,} other molecules and of their mirror images. No two molecules
  have the same constitution.
- Numbers: balanced accuracy; 0.5 is guessing, and what a teacher without handedness has by construction. Mean over
  the seeds {", ".join(seeds)} (lowest to highest). `explained` is the share of the predictable noise that the teacher
  predicts on a tenth of the training molecules, held out.
- [All lines](handedness/handedness.csv).

| teacher | linear probe | network of one hidden layer | explained |
| --- | --- | --- | --- |
"""
    for name in TEACHERS:
        own = [line for line in lines if line["teacher"] == name]
        scores = [[float(line["balanced_accuracy"]) for line in own if line["probe"] == probe] for probe in PROBES]
        explained = [float(line["explained"]) for line in own if line["probe"] == PROBES[0] and line["explained"]]
        text += f"| {name} | {' | '.join(map(spread, scores))} | {spread(explained) if explained else ''} |\n"
    return text


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = result_lines.arguments("handedness", __doc__, "folder for teachers and lines")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of denoising")
    parser.add_argument("--molecules", type=int, default=1250, help="molecules of the slice, in its order")
    return parser.parse_args()


if __name__ == "__main__":
    main()
