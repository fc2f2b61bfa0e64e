"""Skewed labels learned as they are and by a map, out of fold, never on a test part.

    python benchmarks/label_maps.py -o LINES_FOLDER [--sets NAME ...] [--page docs/results]

The members of `fast` learn from the representation of `dnd-base`, descriptors and counts of the training and validation
parts of each set, at most 700 molecules, in three folds of whole scaffolds. Labels of a skewness of 1 to 2 are learned
as they are, and by the map that `transform=auto` would take: the logarithm where all are positive, else that of Yeo and
Johnson. The errors of the blend are those in the unit of the labels. Weights are fitted for the squared error.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
from encoder_value import judged_molecules
from fast_features import blended, representations
from forest_trees import change_of
from result_lines import Line, complete, markdown_table, show
from scipy import stats
from scipy.optimize import brentq

from dnd.common.compute import derive_seed, set_threads
from dnd.common.config import load_config
from dnd.finetuning.classical import FitOptions, Training, fit_member
from dnd.finetuning.fold_data import scaffold_folds
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.tasks import fit_transform
from dnd.predictor.classical.features import FIRST_SETS, Layout, features_of
from dnd.predictor.targets import TransformName

NAME = "label_maps"
MEMBERS = ("ridge", "gaussian_process", "forest_descriptors", "boosting")
MOST = 700
_WIDTH = 120
_SKEWNESS = 1.5


def _exponential(labels_B: np.ndarray) -> np.ndarray:
    """The exponential of labels that are normal, more or less, with a skewness of 1.5."""
    z_B = (labels_B - labels_B.mean()) / labels_B.std()
    return np.exp(brentq(lambda width: stats.skew(np.exp(width * z_B)) - _SKEWNESS, 0.01, 3) * z_B)


# Set → the labels that are learned, in words, and how they follow from those of the set, most of which are logarithms.
LABELS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "freesolv": ("as they are", lambda labels_B: labels_B),
    "biogen-solubility": ("as they are", lambda labels_B: labels_B),
    "bp": ("as they are", lambda labels_B: labels_B),
    "biogen-hppb": ("10 to their power", lambda labels_B: 10**labels_B),
    "biogen-rppb": ("10 to their power", lambda labels_B: 10**labels_B),
    "biogen-rlm": ("10 to half of them", lambda labels_B: 10 ** (labels_B / 2)),
    "lipo": ("10 to a third of them", lambda labels_B: 10 ** (labels_B / 3)),
    **dict.fromkeys(
        (
            "biogen-hlm", "esol", "CHEMBL1871_Ki", "CHEMBL2034_Ki", "CHEMBL218_EC50", "CHEMBL264_Ki", "CHEMBL4203_Ki"
        ),
        ("exponential", _exponential),
    ),
}  # fmt: skip


def measured(name: str) -> list[Line]:
    """Errors of the blend on a set with and without the map."""
    options = argparse.Namespace(most=MOST, most_targets=1)
    molecules, targets_BC, is_test, texts, _ = judged_molecules(name, options)
    rows = np.flatnonzero(~is_test)
    known_B = ~np.isnan(targets_BC[rows, 0])
    rows, texts = rows[known_B], [text for text, known in zip(texts, known_B, strict=True) if known]
    smiles = [molecules.smiles[row] for row in rows]
    words, labels_of = LABELS[name]
    labels_B = labels_of(targets_BC[rows, 0])
    config = load_config(FinetuneConfig, "fast", stage="finetune").blend
    fold_B = scaffold_folds(texts, config.folds, 0, smiles)
    embedding_BD = representations(molecules.store)["last"][rows]
    layout = Layout(embedding_BD.shape[1], FIRST_SETS)
    x_BF = features_of(smiles, embedding_BD, layout).x_BF
    lines = []
    for transform in ("none", "log" if (labels_B > 0).all() else "yeo-johnson"):
        values = [_out_of_fold(member, x_BF, labels_B, layout, fold_B, config.trees, transform) for member in MEMBERS]
        errors_B = blended(labels_B, values, "regression") - labels_B
        lines.append({
            "set": name, "labels": words, "molecules": str(len(rows)), "skewness": f"{stats.skew(labels_B):.2f}",
            "map": transform, "rmse": f"{np.sqrt((errors_B**2).mean()):.5g}", "mae": f"{np.abs(errors_B).mean():.5g}",
        })  # fmt: skip
        print(lines[-1], flush=True)
    return lines


def _out_of_fold(
    member: str,
    x_BF: np.ndarray,
    labels_B: np.ndarray,
    layout: Layout,
    fold_B: np.ndarray,
    trees: int,
    transform: TransformName,
) -> np.ndarray:
    """Predictions of a member in the unit of the labels, each of the fold that it has not seen."""
    out_B = np.empty(len(labels_B))
    for fold in range(int(fold_B.max()) + 1):
        train_B = fold_B != fold
        own = fit_transform(transform, labels_B[train_B])
        mapped_B = own.forward(labels_B[train_B])
        mean, std = mapped_B.mean(), mapped_B.std()
        training = Training(
            x_BF[train_B], (mapped_B - mean) / std, layout, False, 1, derive_seed(0, f"maps {member}", fold),
            FitOptions(trees=trees),
        )  # fmt: skip
        out_B[~train_B] = own.inverse(fit_member(member, training).predict(x_BF[~train_B]) * std + mean)
    return out_B


def page(lines: list[Line]) -> str:
    """What a map changes, over sets and of each."""
    pairs = [(one, other) for one, other in zip(lines[::2], lines[1::2], strict=True)]
    logs = {
        error: np.array([np.log(float(mapped[error]) / float(plain[error])) for plain, mapped in pairs])
        for error in ("mae", "rmse")
    }
    sentence = (
        f"**With the map the mean absolute error changes by {change_of(logs['mae'])}, the RMSE by "
        f"{change_of(logs['rmse'])}**, in the geometric mean over {len(pairs)} sets. In brackets: on how many it is "
        f"lower, and Wilcoxon's p. So `transform=auto` takes a map from a skewness of 1 where `--metric mae` is asked "
        f"for, and from one of 2 otherwise."
    )
    rows = [
        [
            plain["set"], plain["labels"], plain["molecules"], plain["skewness"], mapped["map"],
            *(f"{100 * np.expm1(logs[error][place]):+.1f} %" for error in ("mae", "rmse")),
        ]
        for place, (plain, mapped) in enumerate(pairs)
    ]  # fmt: skip
    heads = ["set", "labels", "molecules", "skewness", "map", "change of the MAE", "change of the RMSE"]
    return "\n".join(
        [INTRODUCTION, textwrap.fill(sentence, _WIDTH, break_on_hyphens=False), "", *markdown_table(heads, rows), ""]
    )


INTRODUCTION = """# Labels that are somewhat skewed: a map or none

Drawn from `label_maps/label_maps.csv` by `python benchmarks/label_maps.py -o OUT --page docs/results`.

`transform=auto` learns the logarithm, or Yeo and Johnson's map, of labels with a skewness of 2 or more. Is it worth it
from 1 on? Judged out of fold on the training and validation parts of each set, at most 700 molecules, in three folds of
whole scaffolds; no test part was looked at. Labels that are logarithms were taken to a power, so that they are skewed.
Members are those of `fast`, with the representation of `dnd-base`. It has learned labels of ESOL, FreeSolv,
Lipophilicity and BP, both ways alike. Errors are those of the blend in the unit of the labels; one seed.
"""


def main() -> None:
    """Measure what is missing and draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the lines")
    parser.add_argument("--sets", nargs="+", default=list(LABELS), choices=list(LABELS))
    parser.add_argument("--page", type=Path, help=f"folder of the page, which also gets {NAME}/{NAME}.csv")
    options = parser.parse_args()
    set_threads(1)
    lines = complete(options.out / f"{NAME}.csv", options.sets, lambda line: line["set"], measured)
    show(NAME, lines, page(lines), options.page)


if __name__ == "__main__":
    main()
