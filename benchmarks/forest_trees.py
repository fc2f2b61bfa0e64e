"""How many trees the forests of `best` need, and which of its forests earn their time; never judged on a test part.

    python benchmarks/forest_trees.py OUT [--sets NAME ...] [--page docs/results]     half an hour of a core

The training and validation parts of each set, at most 1,200 molecules, are dealt into three folds of whole scaffolds.
The classical members of `best` are fitted to what they see there, boosting with one seed instead of three. Forests are
grown once, with the most trees; a smaller one is their first trees and takes its share of the time.
"""

from __future__ import annotations

import argparse
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from encoder_value import judged_molecules
from fast_features import CHOSEN, blended, error_of, representations
from result_lines import Line, complete, show
from scipy import stats

from dnd.common.compute import derive_seed, set_threads
from dnd.common.config import load_config
from dnd.finetuning.classical import FitOptions, Training, fit_member, is_forest
from dnd.finetuning.fold_data import scaffold_folds
from dnd.finetuning.settings import BlendConfig, FinetuneConfig
from dnd.predictor.classical.array_models import Trees
from dnd.predictor.classical.features import FIRST_SETS, Layout, features_of

NAME = "forest_trees"
MOST, MOST_TREES, FOLDS = 1_200, 300, 3
TREES = (50, 100, 200, MOST_TREES)
SETS = (
    "freesolv", "esol", "lipo", "bace", "bbbp", "clintox", "biogen-hppb", "biogen-rppb", "biogen-hlm",
    "CHEMBL2034_Ki", "CHEMBL1871_Ki", "CHEMBL218_EC50",
)  # fmt: skip
OTHERS = ("ridge", "gaussian_process", "boosting")
FORESTS = ("forest_descriptors", "forest_counts", "forest")
BLENDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "three forests of 300 trees": (300, FORESTS),
    "of 200": (200, FORESTS),
    "of 100": (100, FORESTS),
    "of 50": (50, FORESTS),
    "100, without that on all features": (100, ("forest_descriptors", "forest_counts")),
    "100, without that on counts": (100, ("forest_descriptors", "forest")),
    "100, that on descriptors alone": (100, ("forest_descriptors",)),
    "no forest": (0, ()),
}
FIRST, CHOSEN_BLEND, NONE = "three forests of 300 trees", "100, without that on all features", "no forest"

INTRODUCTION = """# How many trees, and which forests

Drawn from `forest_trees/forest_trees.csv` by `python benchmarks/forest_trees.py OUT --page docs/results`.

The recipe `best` had three forests of 300 trees: on descriptors and representation (`forest_descriptors`), on counts
(`forest_counts`), and on all three (`forest`). Judged out of fold on the training and validation parts of each set, at
most 1,200 molecules, in three folds of whole scaffolds. No test part was looked at. Errors are RMSE, or the log loss of
classes; the weights of a blend are fitted to the predictions that judge it, for all blends alike. The encoder learned
labels of the six sets of the paper, not of the others.
"""


def measured(name: str) -> list[Line]:
    """A line per member, forest size and blend of a set."""
    options = argparse.Namespace(most=MOST, most_targets=1)
    molecules, targets_BC, is_test, texts, task = judged_molecules(name, options)
    known_B = ~np.isnan(targets_BC[~is_test, 0])
    rows = np.flatnonzero(~is_test)[known_B]
    smiles, y_B = [molecules.smiles[row] for row in rows], targets_BC[rows, 0]
    fold_B = scaffold_folds([text for text, known in zip(texts, known_B, strict=True) if known], FOLDS, 0, smiles)
    embedding_BD = representations(molecules.store)[CHOSEN][rows]
    layout = Layout(embedding_BD.shape[1], FIRST_SETS + blend_of_best().fingerprints)
    x_BF = features_of(smiles, embedding_BD, layout).x_BF
    values, seconds = {}, {}
    for member in (*OTHERS, *FORESTS):
        for trees, values_B, spent in out_of_fold(member, x_BF, y_B, layout, fold_B, task == "classification"):
            values[member, trees], seconds[member, trees] = values_B, spent
    lines = []
    for (member, trees), values_B in values.items():
        lines.append((member, trees, error_of(y_B, values_B, task), seconds[member, trees]))
    for blend, (trees, forests) in BLENDS.items():
        own = [*((one, 0) for one in OTHERS), *((one, trees) for one in forests)]
        spent = sum(seconds[one] for one in own)
        lines.append((blend, trees, error_of(y_B, blended(y_B, [values[one] for one in own], task), task), spent))
    print(name, [line[2] for line in lines[-len(BLENDS) :]], flush=True)
    fields = ("what", "trees", "error", "cpu_s")
    return [
        {"set": name, "molecules": str(len(y_B)), **dict(zip(fields, (w, str(t), e, f"{s:.2f}"), strict=True))}
        for w, t, e, s in lines
    ]


def blend_of_best() -> BlendConfig:
    """The settings of `best`."""
    return load_config(FinetuneConfig, "best", stage="finetune").blend


def out_of_fold(
    member: str, x_BF: np.ndarray, y_B: np.ndarray, layout: Layout, fold_B: np.ndarray, classes: bool
) -> Iterator[tuple[int, np.ndarray, float]]:
    """Number of trees (0 where there is no choice), predictions and CPU seconds of all folds."""
    sizes = TREES if is_forest(member) else (0,)
    found_TB, started = np.empty((len(sizes), len(y_B))), time.process_time()
    for fold in range(FOLDS):
        train = fold_B != fold
        mean, std = (0.0, 1.0) if classes else (y_B[train].mean(), y_B[train].std())
        seed, options = derive_seed(0, f"trees {member}", fold), FitOptions(trees=MOST_TREES)
        training = Training(x_BF[train], (y_B[train] - mean) / std, layout, classes, 1, seed, options)
        model = fit_member(member, training)
        for place, trees in enumerate(sizes):
            own = model.first(trees) if isinstance(model, Trees) and trees else model
            found_TB[place, ~train] = own.predict(x_BF[~train]) * std + mean
    spent = time.process_time() - started
    for trees, found_B in zip(sizes, found_TB, strict=True):
        yield trees, found_B, spent * (trees / MOST_TREES if trees else 1.0)


def page(lines: list[Line]) -> str:
    """Change of the error against the first blend, CPU seconds, and the errors of each set."""
    found = {(line["set"], line["what"]): line for line in lines if line["what"] in BLENDS}
    sets = list(dict.fromkeys(line["set"] for line in lines))
    text = [INTRODUCTION, "| blend | error against the first | CPU s of all sets |", "|---|---|---|"]
    for blend in BLENDS:
        logs = [np.log(float(found[one, blend]["error"]) / float(found[one, FIRST]["error"])) for one in sets]
        change = "" if blend == FIRST else change_of(np.array(logs))
        text.append(f"| {blend} | {change} | {sum(float(found[one, blend]['cpu_s']) for one in sets):.0f} |")
    text += ["", *decision(found, sets)]
    text += [
        "",
        "*Error*: change in the geometric mean over sets, on how many it is lower, Wilcoxon's p over sets.",
        "",
    ]
    text += [f"| set | molecules | {' | '.join(BLENDS)} |", "|---" * (len(BLENDS) + 2) + "|"]
    for one in sets:
        cells = [f"{float(found[one, blend]['error']):.4f}" for blend in BLENDS]
        text.append(f"| {one} | {found[one, FIRST]['molecules']} | {' | '.join(cells)} |")
    return "\n".join([*text, ""])


def decision(found: dict[tuple[str, str], Line], sets: list[str]) -> list[str]:
    """What the recipe has since, with the time that it takes."""
    first, now, none = (sum(float(found[one, blend]["cpu_s"]) for one in sets) for blend in (FIRST, CHOSEN_BLEND, NONE))
    words = (
        f"**`best` has forests of 100 trees and none on all features since.** The forests of these blends then take "
        f"{now - none:.0f} CPU seconds instead of {first - none:.0f}, and the error is the same. Without any forest it "
        "is larger. `forest_counts` stays although it does not help here, because with more than six targets there is "
        "no Gaussian process, and then it is one of few members that see counts."
    )
    return textwrap.wrap(words, 120, break_on_hyphens=False)


def change_of(logs: np.ndarray) -> str:
    """Geometric mean of ratios, on how many sets it is below 1, and Wilcoxon's p."""
    p_value = f"; p = {stats.wilcoxon(logs).pvalue:.2g}" if len(logs) > 5 and np.any(logs) else ""
    return f"{100 * np.expm1(logs.mean()):+.2f} % ({(logs < 0).sum()} of {len(logs)}{p_value})"


def main() -> None:
    """Measure what is missing and draw the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--page", type=Path, help=f"folder of the page, which also gets {NAME}/{NAME}.csv")
    options = parser.parse_args()
    set_threads(1)
    lines = complete(options.out / f"{NAME}.csv", options.sets, lambda line: line["set"], measured)
    show(NAME, lines, page(lines), options.page)


if __name__ == "__main__":
    main()
