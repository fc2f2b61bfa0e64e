"""What the members of `fast` should see: encoder, properties, descriptors; out of fold, never on a test part.

    python benchmarks/fast_features.py -o SCORES.csv [--sets NAME ...] [--features NAME ...] [--most 1200]

The training and validation parts of each set are dealt into three folds of whole scaffolds, as `fast` does. Its members
are fitted with counts, the calculated properties of the encoder, and one of these:

- none: descriptors alone
- last: descriptors and the mean over atoms after the last layer, what `fast` has had so far
- layers: descriptors, and means over atoms and states of the virtual node after every layer; only for the linear
  members, as trees over so many columns take long
- bare, alone: the same two without descriptors
- values, labels, layers and values: last or layers, with what the encoder's heads say of measured and DFT properties;
  values without classes. ESOL, FreeSolv, Lipophilicity, BP, MP, RI and logP taught these heads, so that for these sets
  the columns know the answer: only the sets of MoleculeACE and Biogen say what they are worth
- lean, lean and values: last or values, without the descriptors that take about half of the time of all: counts of
  fragments, QED, BCUT, and five indices of complexity
- lean, values, classes from 0.75: and the classes that the encoder predicts with this ROC-AUC on held-out molecules

A blend is four members with weights fitted out of fold; `BLENDS` says which features each member of it has. Lines that
are there are not made again. CPU s: of three fits and their predictions.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from pathlib import Path

import numpy as np
from encoder_value import judged_molecules, represented
from result_lines import read_lines
from scipy import stats

from dnd.common.compute import derive_seed, set_threads
from dnd.common.config import load_config
from dnd.finetuning.blend_weights import fit_weights
from dnd.finetuning.classical import FitOptions, Training, fit_member
from dnd.finetuning.fold_data import scaffold_folds
from dnd.finetuning.settings import FinetuneConfig
from dnd.models.students.encoders import PropertyHeads, load_encoder, load_heads
from dnd.predictor.classical.features import COUNTS, FIRST_SETS, Layout, features_of
from dnd.predictor.ensemble import FrozenEncoder
from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.further_sets import FURTHER_SETS

ENCODER, WIDTH = "dnd-base", 192
CHOSEN = "lean, values, classes from 0.8"
LINEAR, TREES = ("ridge", "gaussian_process"), ("forest_descriptors", "boosting")
FIELDS = ("set", "molecules", "features", "member", "error", "cpu_s")
SETS = {
    "none": FIRST_SETS,
    "last": FIRST_SETS,
    "layers": FIRST_SETS,
    "bare": (COUNTS,),
    "alone": (COUNTS,),
    "values": FIRST_SETS,
    "labels": FIRST_SETS,
    "layers and values": FIRST_SETS,
    "lean": FIRST_SETS,
    "lean and values": FIRST_SETS,
    "lean, values, classes from 0.75": FIRST_SETS,
    "lean, values, classes from 0.8": FIRST_SETS,
}
LINEAR_ONLY = ("layers", "alone", "layers and values")
# Features of ridge regression, of the Gaussian process, and of the trees.
BLENDS = {
    "none": ("none", "none", "none"),
    "last": ("last", "last", "last"),
    "layers in ridge": ("layers", "last", "last"),
    "layers in ridge and process": ("layers", "layers", "last"),
    "no descriptors": ("bare", "bare", "bare"),
    "no descriptors, layers in ridge": ("alone", "bare", "bare"),
    "no descriptors, layers in ridge and process": ("alone", "alone", "bare"),
    "descriptors in trees alone": ("alone", "alone", "last"),
    "values": ("values", "values", "values"),
    "labels": ("labels", "labels", "labels"),
    "labels in ridge": ("labels", "last", "last"),
    "lean": ("lean", "lean", "lean"),
    "lean and values": ("lean and values", "lean and values", "lean and values"),
    "lean, values, classes from 0.75": ("lean, values, classes from 0.75",) * 3,
    CHOSEN: (CHOSEN,) * 3,
    "layers and values in ridge": ("layers and values", "values", "values"),
}
REGRESSION = ("esol", "freesolv", "lipo", "bp", "mp", "ri", "logp")


class _Every(Layout):
    """Members see every descriptor, beside a representation too."""

    def seen(self, name: str) -> np.ndarray:
        """All columns of the set."""
        return self.columns(name)


def main() -> None:
    """Make the lines that are missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", default=[*REGRESSION, *FURTHER_SETS], choices=[*BENCHMARKS, *FURTHER_SETS])
    parser.add_argument("--features", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--most", type=int, default=1200, help="molecules of a set; larger ones are subsampled")
    parser.add_argument("--most-targets", type=int, default=1)
    options = parser.parse_args()
    set_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for name in options.sets:
        _run(name, options)


def _run(name: str, options: argparse.Namespace) -> None:
    """The lines of a set that are missing; predictions are kept beside them, for blends that are thought of later."""
    known = {(line["features"], line["member"]) for line in read_lines(options.out) if line["set"] == name}
    missing = {features: SETS[features] for features in options.features if (features, "ridge") not in known}
    if not missing:
        return
    molecules, targets_BC, is_test, texts, task = judged_molecules(name, options)
    development = np.flatnonzero(~is_test)
    known_B = ~np.isnan(targets_BC[development, 0])
    development, texts = development[known_B], [text for text, is_known in zip(texts, known_B, strict=True) if is_known]
    smiles, y_B = [molecules.smiles[row] for row in development], targets_BC[development, 0]
    config = load_config(FinetuneConfig, "fast", stage="finetune").blend
    fold_B = scaffold_folds(texts, config.folds, 0, smiles)
    path = options.out.with_name(f"{name}.npz")
    values = dict(np.load(path)) if path.exists() else {}
    lines = []
    represented_by = representations(molecules.store) if missing else {}
    for features, sets in missing.items():
        embedding_BD = represented_by[features][development] if features != "none" else None
        layout = (Layout if "lean" in features else _Every)(0 if embedding_BD is None else embedding_BD.shape[1], sets)
        x_BF = features_of(smiles, embedding_BD, layout).x_BF
        for member in LINEAR if features in LINEAR_ONLY else LINEAR + TREES:
            started = time.process_time()
            values[f"{features}:{member}"] = out_B = _out_of_fold(
                member, x_BF, y_B, layout, fold_B, config.trees, task == "classification"
            )
            lines.append((features, member, error_of(y_B, out_B, task), f"{time.process_time() - started:.2f}"))
    for blend, (ridge, process, trees) in BLENDS.items():
        chosen = [(ridge, "ridge"), (process, "gaussian_process"), *((trees, member) for member in TREES)]
        own = [values.get(f"{features}:{member}") for features, member in chosen]
        if (blend, "blend") not in known and all(out_B is not None for out_B in own):
            out_B = blended(y_B, own, task)
            lines.append((blend, "blend", error_of(y_B, out_B, task), ""))
    np.savez(path, **values)
    _append(options.out, [(name, len(y_B), *line) for line in lines])
    print(name, [(line[0], line[2]) for line in lines if line[1] == "blend"], flush=True)


def representations(store) -> dict[str, np.ndarray]:
    """The representation of each of `SETS`, behind it the calculated properties."""
    student, heads = load_encoder(ENCODER)[0].eval(), load_heads(ENCODER)
    assert heads is not None, "dnd-base has heads"
    last_BD = FrozenEncoder(student, "mean", heads.of_terms(("quantum",))).embed(store)
    every_BD = np.hstack([represented(ENCODER, "layers", store), last_BD[:, WIDTH:]])
    taught = heads.of_terms(("labels",))
    labels_BD = FrozenEncoder(student, "mean", taught).embed(store)[:, WIDTH:]
    values_BD = labels_BD[:, [one.kind == "value" for one in taught.properties]]
    return {
        "last": last_BD,
        "layers": every_BD,
        "bare": last_BD,
        "alone": every_BD,
        "values": np.hstack([last_BD, values_BD]),
        "labels": np.hstack([last_BD, labels_BD]),
        "lean": last_BD,
        "lean and values": np.hstack([last_BD, values_BD]),
        "lean, values, classes from 0.75": np.hstack([last_BD, values_BD, labels_BD[:, _classes(taught, 0.75)]]),
        "lean, values, classes from 0.8": np.hstack([last_BD, values_BD, labels_BD[:, _classes(taught, 0.8)]]),
        "layers and values": np.hstack([every_BD, values_BD]),
    }


def _classes(heads: PropertyHeads, least: float) -> list[bool]:
    """The classes that the encoder predicts with this ROC-AUC on held-out molecules."""
    return [one.kind == "class" and one.scores.get("roc_auc", 0.0) >= least for one in heads.properties]


def _out_of_fold(
    member: str, x_BF: np.ndarray, y_B: np.ndarray, layout: Layout, fold_B: np.ndarray, trees: int, classes: bool
) -> np.ndarray:
    out_B = np.empty(len(y_B))
    for fold in range(int(fold_B.max()) + 1):
        train = fold_B != fold
        mean, std = (0.0, 1.0) if classes else (y_B[train].mean(), y_B[train].std())
        seed = derive_seed(0, f"layers {member}", fold)
        training = Training(x_BF[train], (y_B[train] - mean) / std, layout, classes, 1, seed, FitOptions(trees=trees))
        out_B[~train] = fit_member(member, training).predict(x_BF[~train]) * std + mean
    return out_B


def blended(y_B: np.ndarray, values: list[np.ndarray], task: str) -> np.ndarray:
    """The weighted mean of predictions out of fold, with the weights that a model would have."""
    stacked_MBC = np.stack(values)[:, :, None]
    scale_C = np.array([y_B.std() if task == "regression" else 1.0])
    weights_MC = fit_weights(stacked_MBC, y_B[:, None], (task,), scale_C)
    return np.asarray(np.einsum("mc,mnc->nc", weights_MC, stacked_MBC)[:, 0])


def error_of(y_B: np.ndarray, values_B: np.ndarray, task: str) -> str:
    """RMSE, or the log loss of classes."""
    if task == "regression":
        return f"{float(np.sqrt(((values_B - y_B) ** 2).mean())):.5f}"
    inside_B = values_B.clip(1e-6, 1 - 1e-6)
    return f"{-float((y_B * np.log(inside_B) + (1 - y_B) * np.log1p(-inside_B)).mean()):.5f}"


def tables(path: Path) -> list[str]:
    """Change of the blend's error against `last` by group of sets, then the errors of each set."""
    errors: dict[str, dict[str, float]] = {}
    for line in read_lines(path):
        if line["member"] == "blend":
            errors.setdefault(line["set"], {})[line["features"]] = float(line["error"])
    groups = {
        "further regression sets": [name for name in errors if name in FURTHER_SETS],
        "sets whose labels the encoder learned": [name for name in errors if name in REGRESSION],
        "classes": [name for name in errors if name not in FURTHER_SETS and name not in REGRESSION],
    }
    found = ["| features | against | " + " | ".join(groups) + " |", "|---" * (len(groups) + 2) + "|"]
    for blend, against in [
        *((blend, "last") for blend in BLENDS if blend != "last"),
        ("last", "none"),
        (CHOSEN, "none"),
    ]:
        cells = [_change([errors[name] for name in sets], blend, against) for sets in groups.values()]
        found.append(f"| {blend} | {against} | " + " | ".join(cells) + " |")
    shown = ("none", "last", "lean", "values", "lean and values", CHOSEN)
    found += ["", "| set | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
    for name in (name for sets in groups.values() for name in sets):
        cells = [f"{errors[name][blend]:.4f}" if blend in errors[name] else "–" for blend in shown]
        found.append(f"| {name} | " + " | ".join(cells) + " |")
    return found


def test_tables(path: Path) -> list[str]:
    """Errors on test parts, which chose nothing: without an encoder, `last`, chosen; `path` has lines of the third."""
    files = {
        "no encoder": ("without_encoder.jsonl",),
        "last": ("before.jsonl", "fourteen.jsonl"),
        "chosen": (path.name, "seven.jsonl"),
    }
    errors: dict[str, dict[str, float]] = {}
    for what, names in files.items():
        for line in (json.loads(text) for name in names for text in (path.parent / name).read_text().splitlines()):
            if line["seed"] == 1 and (line["dataset"] in FURTHER_SETS or line["dataset"] in REGRESSION):
                errors.setdefault(line["dataset"], {})[what] = line["value"]
    groups = {"further sets": FURTHER_SETS, "sets whose training labels the encoder learned": REGRESSION}
    found = ["| set | " + " | ".join(files) + " |", "|---" * (len(files) + 1) + "|"]
    for title, sets in groups.items():
        own = [errors[name] for name in sets]
        for name, one in zip(sets, own, strict=True):
            best = min(one.values())
            cells = [f"{one[what]:.3f}" if what in one else "–" for what in files]
            found.append(f"| {name} | " + " | ".join(f"**{c}**" if c == f"{best:.3f}" else c for c in cells) + " |")
        for against in ("no encoder", "last"):
            if any(against in one for one in own):
                found.append(f"| {title}: chosen against {against} | | | {_change(own, 'chosen', against)} |")
    return found


def _change(errors: list[dict[str, float]], blend: str, against: str) -> str:
    """Geometric mean of the ratios of errors, on how many sets it is below 1, and Wilcoxon's p over the sets."""
    logs = [math.log(one[blend] / one[against]) for one in errors if {blend, against} <= one.keys()]
    if not logs:
        return "–"
    p = f"; p = {stats.wilcoxon(logs).pvalue:.2g}" if len(logs) > 5 and any(logs) else ""
    return f"{100 * math.expm1(sum(logs) / len(logs)):+.1f} % ({sum(one < 0 for one in logs)} of {len(logs)}{p})"


def _append(path: Path, lines: list[tuple]) -> None:
    is_new = not path.exists()
    with open(path, "a", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([FIELDS, *lines] if is_new else lines)


if __name__ == "__main__":
    main()
