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
from dnd.finetuning.classical import MEMBERS, FoldData, Training, boosting
from dnd.finetuning.finetune import _plan
from dnd.finetuning.fold_data import feature_layout, fold_data, frozen_encoder
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


def bench_of(table: Path, target: str, words: list[str]) -> FoldData:
    """Folds, features and scales of a finetuning by `fast`."""
    config = load_config(FinetuneConfig, "fast", ["jobs=1", *words], stage="finetune")
    plan = _plan([LabelledFile(table, (target,))], config, DEFAULT_ENCODER)
    (encoder, _), every = frozen_encoder(plan), np.arange(len(plan.molecules.smiles))
    embedding = encoder.embed(plan.molecules.store, every) if encoder else None
    features = features_of(plan.molecules.smiles, embedding, feature_layout(plan, encoder))
    return fold_data(plan, plan.parts[0], features.x_BF, every, plan.molecules.exact_BC, encoder)


def out_of_fold(data: FoldData, setting: str) -> tuple[np.ndarray, float]:
    """Predictions for the development molecules on the learned scale, and CPU seconds."""
    found_B, started = np.full(len(data.rows), np.nan), time.process_time()
    for fold in range(data.num_folds):
        inside = data.folds == fold
        known, rows = data.rows[~inside], data.rows[inside]
        labels = data.targets[0].scaled(data.targets_BC[known, 0])
        is_class = data.targets[0].kind != "regression"
        model = SETTINGS[setting](Training(data.features(known), labels, data.layout, is_class, 1, fold, data.options))
        found_B[inside] = data.targets[0].raw(model.predict(data.features(rows)))
    return on_learned_scale(data.targets, found_B[:, None])[:, 0], time.process_time() - started


def score(data: FoldData, labels_B: np.ndarray, values_B: np.ndarray) -> tuple[str, str]:
    """RMSE, or ROC-AUC of classes."""
    if data.targets[0].kind == "regression":
        return "rmse", f"{np.sqrt(np.mean((values_B - labels_B) ** 2)):.4f}"
    return "rocauc", f"{roc_auc(labels_B, values_B):.4f}"


def lines_of(data: FoldData) -> list[tuple[str, str, str, str]]:
    """Setting, CPU seconds, metric and score of everything."""
    labels_B = on_learned_scale(data.targets, data.targets_BC[data.rows])[:, 0]
    found = {setting: out_of_fold(data, setting) for setting in SETTINGS}
    lines = [(name, f"{spent:.2f}", *score(data, labels_B, values)) for name, (values, spent) in found.items()]
    kind = data.targets[0].kind
    scale_C = np.array([labels_B.std() if kind == "regression" else 1.0])
    for name, members in BLENDS.items():
        values_MB1 = np.stack([found[member][0] for member in members])[:, :, None]
        weights_M1 = fit_weights(values_MB1, labels_B[:, None], (kind,), scale_C, None)
        lines.append((name, "", *score(data, labels_B, weights_M1[:, 0] @ values_MB1[:, :, 0])))
    if kind == "regression":
        lines += comparison_lines(data, labels_B)
    return lines


def comparison_lines(data: FoldData, labels_B: np.ndarray) -> list[tuple[str, str, str, str]]:
    """The forests that a model is compared with, by the share of the features that a split tries."""
    lines, held_out = [], data.folds == 0
    for name, shares in SHARES.items():
        x_BS = data.features(data.rows)[:, data.layout.columns(name)]
        for share in shares:
            started = time.process_time()
            fitted = RandomForestRegressor(60, max_features=share, random_state=0).fit(
                x_BS[~held_out], labels_B[~held_out]
            )
            spent = time.process_time() - started
            judged = score(data, labels_B[held_out], fitted.predict(x_BS[held_out]))
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
    data, is_new = bench_of(given.table, given.target, given.settings), not given.out.exists()
    with given.out.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([FIELDS] if is_new else [])
        writer.writerows((given.table.stem, len(data.rows), *line) for line in lines_of(data))


if __name__ == "__main__":
    main()
