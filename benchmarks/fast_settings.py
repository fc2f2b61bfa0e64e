"""What the members of `fast` and its forests of comparison cost in other settings, and what they predict out of fold.

    python benchmarks/fast_settings.py TABLE TARGET -o LINES.csv [key=value ...]

TABLE is read, split and dealt into folds as `dnd finetune TABLE --recipe fast` does; no test label is looked at. A line
per setting: CPU seconds of all folds together (of one process; set OMP_NUM_THREADS=1) and the score out of fold, RMSE
on the learned scale or ROC-AUC. `blend` is the weighted mean of ridge, forest, Gaussian process and boosting with
weights fitted out of fold, in the settings before (255 bins, 100 trees) and now (63, 50). Forests of comparison are
fitted on all folds but the first, with 60 trees, and judged on that one.
"""

from __future__ import annotations

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.ensemble import RandomForestRegressor

from dnd.common.config import load_config
from dnd.finetuning.blend_weights import fit_weights
from dnd.finetuning.classical import MEMBERS, Training, Workbench, boosting
from dnd.finetuning.finetune import _plan
from dnd.finetuning.fold_data import feature_layout, frozen_encoder, workbench
from dnd.finetuning.labelled_data import LabelledFile
from dnd.finetuning.settings import FinetuneConfig
from dnd.models.students.encoders import DEFAULT_ENCODER
from dnd.predictor.classical.array_models import Trees
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, features_of
from dnd.predictor.ensemble import ArrayModel
from dnd.predictor.metrics import roc_auc
from dnd.predictor.targets import on_learned_scale

FIELDS = ("table", "molecules", "setting", "cpu_s", "metric", "score")
SHARES = {COUNTS: (0.33, 0.1), DESCRIPTORS: (0.33, 0.15)}


def forest(training: Training, trees: int) -> ArrayModel:
    """The member `forest_descriptors` of so many trees."""
    return MEMBERS["forest_descriptors"](replace(training, options=replace(training.options, trees=trees)))


def boosted(training: Training, bins: int) -> Trees:
    """The member `boosting` with so many bins."""
    return boosting(training, {"max_bin": bins})


SETTINGS = {
    "ridge": MEMBERS["ridge"],
    "gaussian_process": MEMBERS["gaussian_process"],
    "forest of 100 trees": lambda training: forest(training, 100),
    "forest of 50 trees": lambda training: forest(training, 50),
    "boosting in 255 bins": lambda training: boosted(training, 255),
    "boosting in 63 bins": lambda training: boosted(training, 63),
}
BLENDS = {
    "blend before": ("ridge", "forest of 100 trees", "gaussian_process", "boosting in 255 bins"),
    "blend now": ("ridge", "forest of 50 trees", "gaussian_process", "boosting in 63 bins"),
}


def bench_of(table: Path, target: str, words: list[str]) -> Workbench:
    """Folds, features and scales of a finetuning by `fast`."""
    config = load_config(FinetuneConfig, "fast", ["jobs=1", *words], stage="finetune")
    plan = _plan([LabelledFile(table, (target,))], config, DEFAULT_ENCODER)
    encoder, every = frozen_encoder(plan), np.arange(len(plan.molecules.smiles))
    embedding = encoder.embed(plan.molecules.store, every) if encoder else None
    features = features_of(plan.molecules.smiles, embedding, feature_layout(plan, encoder))
    return workbench(plan, plan.parts[0], features.x_BF, every, encoder)


def out_of_fold(bench: Workbench, setting: str) -> tuple[np.ndarray, float]:
    """Predictions for the development molecules on the learned scale, and CPU seconds."""
    found_B, started = np.full(len(bench.rows), np.nan), time.process_time()
    for fold in range(bench.num_folds):
        inside = bench.folds == fold
        known, rows = bench.rows[~inside], bench.rows[inside]
        labels = bench.targets[0].scaled(bench.targets_BC[known, 0])
        is_class = bench.targets[0].kind != "regression"
        model = SETTINGS[setting](
            Training(bench.features(known), labels, bench.layout, is_class, 1, fold, bench.options)
        )
        found_B[inside] = bench.targets[0].raw(model.predict(bench.features(rows)))
    return on_learned_scale(bench.targets, found_B[:, None])[:, 0], time.process_time() - started


def score(bench: Workbench, labels_B: np.ndarray, values_B: np.ndarray) -> tuple[str, str]:
    """RMSE, or ROC-AUC of classes."""
    if bench.targets[0].kind == "regression":
        return "rmse", f"{np.sqrt(np.mean((values_B - labels_B) ** 2)):.4f}"
    return "rocauc", f"{roc_auc(labels_B, values_B):.4f}"


def lines_of(bench: Workbench) -> list[tuple[str, str, str, str]]:
    """Setting, CPU seconds, metric and score of everything."""
    labels_B = on_learned_scale(bench.targets, bench.targets_BC[bench.rows])[:, 0]
    found = {setting: out_of_fold(bench, setting) for setting in SETTINGS}
    lines = [(name, f"{spent:.2f}", *score(bench, labels_B, values)) for name, (values, spent) in found.items()]
    kind = bench.targets[0].kind
    scale_C = np.array([labels_B.std() if kind == "regression" else 1.0])
    for name, members in BLENDS.items():
        values_MB1 = np.stack([found[member][0] for member in members])[:, :, None]
        weights_M1 = fit_weights(values_MB1, labels_B[:, None], (kind,), scale_C, None)
        lines.append((name, "", *score(bench, labels_B, weights_M1[:, 0] @ values_MB1[:, :, 0])))
    if kind == "regression":
        lines += comparison_lines(bench, labels_B)
    return lines


def comparison_lines(bench: Workbench, labels_B: np.ndarray) -> list[tuple[str, str, str, str]]:
    """The forests that a model is compared with, by the share of the features that a split tries."""
    lines, held_out = [], bench.folds == 0
    for name, shares in SHARES.items():
        x_BS = bench.features(bench.rows)[:, bench.layout.columns(name)]
        for share in shares:
            started = time.process_time()
            fitted = RandomForestRegressor(60, max_features=share, random_state=0).fit(
                x_BS[~held_out], labels_B[~held_out]
            )
            spent = time.process_time() - started
            judged = score(bench, labels_B[held_out], fitted.predict(x_BS[held_out]))
            lines.append((f"comparison on {name}, share {share}", f"{spent:.2f}", *judged))
    return lines


def main() -> None:
    """Measure, and append the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, help="labelled table")
    parser.add_argument("target", help="column with labels")
    parser.add_argument("settings", nargs="*", help="key=value, such as split=column:split")
    parser.add_argument("-o", "--out", type=Path, required=True, help="CSV file to which lines are appended")
    given = parser.parse_args()
    bench, is_new = bench_of(given.table, given.target, given.settings), not given.out.exists()
    with given.out.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([FIELDS] if is_new else [])
        writer.writerows((given.table.stem, len(bench.rows), *line) for line in lines_of(bench))


if __name__ == "__main__":
    main()
