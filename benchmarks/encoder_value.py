"""What frozen encoders add to descriptors: ridge and forests on 35 data sets, judged out of fold and on test parts.

    python benchmarks/encoder_value.py OUT --encoders today=dnd-base next=runs/base/encoders/dnd-base
    python benchmarks/encoder_value.py OUT --page docs/results/encoder-value.md
    python benchmarks/encoder_value.py OUT --molecules molecules.txt

The last command writes the molecules that are judged, for fingerprints that are made elsewhere (see
`minimol_fingerprints.py`) and come back with `--fingerprints NAME=FILE.npz`.

Every encoder gives a representation; one with heads gives its ready-made properties too (`NAME:quantum`,
`NAME:quantum,labels`, behind the representation), and of the one that ships all layers are judged (`NAME:layers`).
Each is judged alone and beside RDKit's 217 descriptors. A line of OUT/scores.csv is a data set, features, and a model,
with the score out of fold over the training and validation part (five folds by scaffold), from which choices are made,
and the score on the test part, which is only reported. Lines that are there are not made again. ROC-AUC is kept as
1 - ROC-AUC, so that smaller is better everywhere.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from result_lines import read_lines
from scipy import stats
from torch import Tensor

from dnd.chemistry.parse import read_smiles
from dnd.common.files import package_versions, write_text
from dnd.finetuning.fold_data import scaffold_folds
from dnd.graphs.batch import GraphBatch, mean_per_molecule
from dnd.models.students.base import Student
from dnd.models.students.encoders import load_encoder, load_heads
from dnd.predictor.classical.features import descriptors_2d
from dnd.predictor.ensemble import FrozenEncoder, run_over
from dnd.predictor.metrics import score
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.frozen_models import predict_frozen
from dnd.reproduction.further_sets import FURTHER_SETS, load_further
from dnd.reproduction.labelled_table import reduced
from dnd.store.featurize import ValidMolecules, valid_molecules
from dnd.store.reader import Store

FIELDS = ("set", "task", "features", "model", "seed", "molecules", "test_molecules", "out_of_fold", "test", "versions")
DESCRIPTORS, BESIDE = "descriptors", "descriptors+"
SHIPPED, ANCHOR, LAYERS = "new", "minimol", "layers"
FOLDS = 5


def main() -> None:
    """Make the lines that are missing, or the page from those that are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoders", nargs="+", default=[], metavar="NAME=ENCODER")
    parser.add_argument("--fingerprints", nargs="+", default=[], metavar="NAME=NPZ", help="made elsewhere")
    parser.add_argument("--molecules", type=Path, help="run nothing; write the molecules of all sets into this file")
    parser.add_argument("--sets", nargs="+", default=[*BENCHMARKS, *FURTHER_SETS])
    parser.add_argument("--models", nargs="+", default=["ridge"], choices=["ridge", "forest"])
    parser.add_argument("--most", type=int, default=2500, help="molecules of a set; larger ones are subsampled")
    parser.add_argument("--most-targets", type=int, default=30, help="of a set; the first so many are used")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="run nothing; write this page from the lines")
    options = parser.parse_args()
    path = options.out / "scores.csv"
    if options.page is not None:
        write_text(options.page, page(read_lines(path)))
        return
    if options.molecules is not None:
        every = dict.fromkeys(text for name in options.sets for text in judged_molecules(name, options)[0].smiles)
        write_text(options.molecules, "".join(f"{text}\n" for text in every))
        return
    options.out.mkdir(parents=True, exist_ok=True)
    encoders = dict(word.split("=", 1) for word in options.encoders)
    for name in options.sets:
        run_set(path, name, encoders, options)
    print(page(read_lines(path)))


def run_set(path: Path, name: str, encoders: dict[str, str], options: argparse.Namespace) -> None:
    """All lines of a data set that are missing."""
    elsewhere = dict(word.split("=", 1) for word in options.fingerprints)
    wanted = [one for encoder in encoders for one in features_named(encoder, encoders[encoder])] + [*elsewhere]
    names = [DESCRIPTORS, *wanted, *(BESIDE + one for one in wanted)]
    known = {(line["set"], line["features"], line["model"]) for line in read_lines(path)}
    missing = [pair for pair in itertools.product(names, options.models) if (name, *pair) not in known]
    if not missing:
        return
    molecules, targets_BC, is_test, texts, task = judged_molecules(name, options)
    blocks = {DESCRIPTORS: descriptors_2d([read_smiles(text)[0] for text in molecules.smiles])}
    for encoder, folder in encoders.items():
        for one in features_named(encoder, folder):
            blocks[one] = represented(folder, one.partition(":")[2], molecules.store)
    blocks |= {one: made_elsewhere(file, molecules.smiles) for one, file in elsewhere.items()}
    fold_B = scaffold_folds(texts, FOLDS, 0, molecules.smiles[: len(texts)])
    for features, model in missing:
        x_BF = np.hstack([blocks[one] for one in features.split("+")])
        judged = judge(model, x_BF, targets_BC, is_test, fold_B, task, options.seed)
        line = {
            "set": name, "task": task, "features": features, "model": model, "seed": options.seed,
            "molecules": len(texts), "test_molecules": int(is_test.sum()),
            "out_of_fold": f"{judged[0]:.5f}", "test": f"{judged[1]:.5f}",
            "versions": " ".join(f"{key}={value}" for key, value in package_versions().items()),
        }  # fmt: skip
        append(path, line)
        print(f"{name} {features} {model}: out of fold {judged[0]:.4f}, test {judged[1]:.4f}", flush=True)


def judged_molecules(
    name: str, options: argparse.Namespace
) -> tuple[ValidMolecules, np.ndarray, np.ndarray, list[str], str]:
    """Molecules of a set, their labels, which are of the test part, the texts of the others, and the task."""
    smiles, targets_BC, parts, task = load(name)
    parts = reduced(parts, options.most)
    rows = np.concatenate([parts["train"], parts["valid"], parts["test"]])
    smiles, targets_BC = [smiles[row] for row in rows], targets_BC[rows][:, : options.most_targets]
    molecules = valid_molecules(smiles, "teacher_all_student_heavy")
    is_test = molecules.places >= len(parts["train"]) + len(parts["valid"])
    texts = [smiles[place] for place in molecules.places[~is_test]]
    return molecules, targets_BC[molecules.places], is_test, texts, task


def made_elsewhere(file: str, smiles: Sequence[str]) -> np.ndarray:
    """Fingerprints of a file with `smiles` and `x_BF`; the mean of all where it has none of a molecule."""
    with np.load(file) as kept:
        known = dict(zip(kept["smiles"].tolist(), kept["x_BF"], strict=True))
    unknown = sum(text not in known for text in smiles)
    if unknown:
        print(f"{file} lacks {unknown} of {len(smiles)} molecules, which get the mean", flush=True)
    mean = np.mean([*known.values()], axis=0)
    return np.stack([known.get(text, mean) for text in smiles])


def features_named(encoder: str, folder: str) -> list[str]:
    """The representation of an encoder, and with the properties that its heads give."""
    heads = load_heads(folder)
    terms = {one.term for one in heads.properties} if heads else set()
    return [encoder, *([f"{encoder}:{LAYERS}"] if encoder == SHIPPED else [])] + [
        f"{encoder}:{','.join(chosen)}" for chosen in (("quantum",), ("quantum", "labels")) if terms.issuperset(chosen)
    ]


def represented(folder: str, terms: str, store: Store) -> np.ndarray:
    """Representations of all molecules, with the properties of some terms; or `every_layer`."""
    if terms == LAYERS:
        student = load_encoder(folder)[0].eval()
        return run_over(partial(every_layer, student), student, store, np.arange(len(store))).astype(np.float32)
    heads = load_heads(folder) if terms else None
    chosen = heads.of_terms(terms.split(",")) if heads else None
    return FrozenEncoder(load_encoder(folder)[0], "mean", chosen).embed(store)


def every_layer(student: Student, graph: GraphBatch) -> Tensor:
    """Means over the atoms and states of the virtual node, after each layer and after the final norm, side by side.

    Jumping knowledge by concatenation (Xu et al., ICML 2018), for a student that was trained without it.
    """
    output = student(graph, collect_layers=True)
    states = [*output.layers, (output.atoms_ND, output.virtual_BD)]
    parts = [mean_per_molecule(atoms_ND, graph.atom_offsets) for atoms_ND, _ in states]
    return torch.cat([*parts, *(virtual_BD for _, virtual_BD in states if virtual_BD is not None)], dim=1)


def load(name: str) -> tuple[list[str], np.ndarray, dict[str, np.ndarray], str]:
    """SMILES, labels, parts and task of a set."""
    if name in BENCHMARKS:
        data = load_benchmark(name)
        return data.smiles, data.targets_BC, dict(data.parts), data.benchmark.task
    found = load_further(name)
    return found.smiles, found.target_B[:, None], dict(found.parts), "regression"


def judge(
    model: str, x_BF: np.ndarray, targets_BC: np.ndarray, is_test: np.ndarray, fold_B: np.ndarray, task: str, seed: int
) -> tuple[float, float]:
    """Error out of fold over the development molecules, and on the test part by a model of all of these."""
    development = np.flatnonzero(~is_test)
    out_of_fold_BC = np.full(targets_BC[development].shape, np.nan)
    for fold in range(FOLDS):
        train = development[fold_B != fold]
        out_of_fold_BC[fold_B == fold] = predict_frozen(model, x_BF, targets_BC, train, task, seed)[
            development[fold_B == fold]
        ]
    final_BC = predict_frozen(model, x_BF, targets_BC, development, task, seed)
    return (
        error(task, targets_BC[development], out_of_fold_BC),
        error(task, targets_BC[is_test], final_BC[is_test]),
    )


def error(task: str, truth_BC: np.ndarray, predicted_BC: np.ndarray) -> float:
    """RMSE, or 1 - ROC-AUC in the mean over targets."""
    found = score("rmse" if task == "regression" else "rocauc", truth_BC, predicted_BC).value
    assert found is not None, "the part has labels"
    return found if task == "regression" else 1 - found


def append(path: Path, line: dict[str, object]) -> None:
    """One more line of the table."""
    new = not path.is_file()
    with open(path, "a", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(line)


def page(lines: Sequence[dict[str, str]]) -> str:
    """Changes against descriptors alone and against the first encoder, with tests over data sets."""
    found = {(one["model"], one["features"], one["set"]): one for one in lines}
    models, features = (list(dict.fromkeys(one[key] for one in lines)) for key in ("model", "features"))
    text = ["# What frozen encoders add to descriptors", "", *_about(lines), ""]
    for model in models:
        text += [f"## {model.capitalize()}", ""]
        for title, control in _comparisons(features):
            text += [f"Change of the error against {title}, mean over sets (better on how many; Wilcoxon):", ""]
            text += ["| features | regression, out of fold | regression, test | classes, test |", "|---|---|---|---|"]
            for one in features:
                against = control(one)
                if against is None or against == one:
                    continue
                cells = [
                    _change(found, model, one, against, task, part)
                    for task, part in (
                        ("regression", "out_of_fold"),
                        ("regression", "test"),
                        ("classification", "test"),
                    )
                ]
                text.append(f"| {one} | {' | '.join(cells)} |")
            text.append("")
        text += _beside_anchor(found, model, features)
        text += ["Test errors (RMSE, or 1 - ROC-AUC):", "", f"| set | {' | '.join(features)} |"]
        text += ["|---" * (1 + len(features)) + "|"]
        for name in dict.fromkeys(one["set"] for one in lines):
            cells = [f"{float(found[model, one, name]['test']):.3f}" if (model, one, name) in found else "–"
                     for one in features]  # fmt: skip
            text.append(f"| {name} | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


def _about(lines: Sequence[dict[str, str]]) -> Iterator[str]:
    sets = dict.fromkeys((one["set"], one["task"]) for one in lines)
    kinds = [task for _, task in sets]
    yield (
        f"{kinds.count('regression')} regression sets and {kinds.count('classification')} sets of classes; at most "
        f"{max((int(one['molecules']) + int(one['test_molecules']) for one in lines), default=0):,} molecules of each. "
        "Nothing was chosen on a test part."
    )
    for versions in dict.fromkeys(one["versions"] for one in lines):
        yield f"Versions: {versions}."


def _comparisons(features: Sequence[str]) -> Iterator[tuple[str, Callable[[str], str | None]]]:
    """What is compared with what: a title, and the control of each kind of features."""
    first = next((one for one in features if one != DESCRIPTORS), None)
    yield "descriptors alone", lambda one: DESCRIPTORS
    if first is not None:
        yield (
            f"`{first}` in its place",
            lambda one: None if one == DESCRIPTORS else BESIDE + first if one.startswith(BESIDE) else first,
        )


def _beside_anchor(found: dict, model: str, features: Sequence[str]) -> list[str]:
    """What the latest encoder's features do beside those of MiniMol; nothing where MiniMol was not run."""
    if ANCHOR not in features:
        return []
    pairs = [(one, ANCHOR) for one in features if one == SHIPPED or one.startswith(SHIPPED + ":")]
    pairs += [(BESIDE + ours, BESIDE + theirs) for ours, theirs in pairs]
    table = ["| ours | MiniMol's | all, out of fold | all, test | further sets, out of fold | further sets, test |"]
    table += ["|---" * 6 + "|"]
    for ours, theirs in pairs:
        cells = [
            _change(found, model, ours, theirs, "regression", part, sets)
            for sets in (None, FURTHER_SETS)
            for part in ("out_of_fold", "test")
        ]
        table.append(f"| {ours} | {theirs} | {' | '.join(cells)} |")
    return [
        f"Change of the error of `{SHIPPED}`, which ships, against MiniMol's frozen fingerprint with the same head. "
        "MiniMol learned from 1,328 bioassays, gene expression and quantum chemistry. Boiling and melting points, "
        "refractive index, logP, logD, solubility and hydration taught our encoder; out of fold their sets flatter it. "
        "*Further sets*: those of MoleculeACE and Biogen, whose labels taught us nothing.",
        "",
        *table,
        "",
    ]


def _change(
    found: dict, model: str, one: str, against: str, task: str, part: str, sets: Container[str] | None = None
) -> str:
    pairs = [
        (float(line[part]), float(found[model, against, name][part]))
        for (own, features, name), line in found.items()
        if (own, features, line["task"]) == (model, one, task)
        and (model, against, name) in found
        and (sets is None or name in sets)
    ]
    if not pairs:
        return "–"
    changes = np.array([ours / theirs - 1 for ours, theirs in pairs])
    text = f"{100 * changes.mean():+.1f} % ({(changes < 0).sum()} of {len(changes)}"
    if len(changes) > 5 and np.any(changes != 0):
        text += f"; p = {stats.wilcoxon(changes).pvalue:.2g}"
    return text + ")"


if __name__ == "__main__":
    main()
