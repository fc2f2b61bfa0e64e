"""What each teacher of the encoder adds: seven arms of equal budget, as frozen features beside descriptors.

    python benchmarks/encoder_ablation.py OUT --base BASE --only-frozen --frozen --datasets esol --seeds 1 \\
      --variants 3d quantum 3d+quantum descriptors all all+labels neither
    python benchmarks/encoder_arms.py random OUT
    python benchmarks/encoder_value.py OUT --encoders $(python benchmarks/encoder_arms.py list OUT)
    cp OUT/scores.csv docs/results/encoder/arms.csv && python benchmarks/encoder_arms.py curves OUT
    python benchmarks/draw_results.py

The first command distils the arms. The second writes an encoder of the same kind with random weights. The third
judges all of them on 32 data sets. The last draws the tables of docs/results/encoder-arms.md. `QUESTIONS` was written
down before the first score was there.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from result_lines import read_lines
from scipy import stats

from dnd.common.compute import derive_seed
from dnd.common.config import from_dict
from dnd.common.files import read_json, write_text
from dnd.models.students.encoders import build_student, save_encoder
from dnd.pretraining.settings import DistillConfig
from dnd.report.figures import table_text
from dnd.reproduction.further_sets import FURTHER_SETS
from dnd.reproduction.significance import holm
from dnd.training.logs import read_log

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
CURVES = RESULTS / "encoder" / "arms_curves.csv"
ARMS = {
    "3d": "3d",
    "quantum": "quantum",
    "3d+quantum": "3d-quantum",
    "descriptors": "taught-descriptors",
    "all": "all",
    "all+labels": "all-labels",
}
"""Arm of the ablation → its name here, where `+` joins features."""
RANDOM = "random"
SHARED_TERMS = ("node", "quantum", "descriptors")


@dataclass(frozen=True)
class Question:
    """A comparison of two kinds of features over the regression sets."""

    text: str
    ours: str
    control: str


BESIDE = "descriptors+"
QUESTIONS = (
    Question("random weights beside descriptors", BESIDE + "random", "descriptors"),
    Question("`3d` beside descriptors", BESIDE + "3d", "descriptors"),
    Question("`quantum` beside descriptors", BESIDE + "quantum", "descriptors"),
    Question("`3d-quantum` beside descriptors", BESIDE + "3d-quantum", "descriptors"),
    Question("`3d-quantum` against random weights, beside descriptors", BESIDE + "3d-quantum", BESIDE + "random"),
    Question("`3d-quantum` against `3d`, beside descriptors", BESIDE + "3d-quantum", BESIDE + "3d"),
    Question("`taught-descriptors` beside descriptors", BESIDE + "taught-descriptors", "descriptors"),
    Question("`all` against `taught-descriptors`, beside descriptors", BESIDE + "all", BESIDE + "taught-descriptors"),
    Question("`all-labels` against `all`, beside descriptors", BESIDE + "all-labels", BESIDE + "all"),
    Question("`3d-quantum` against random weights, alone", "3d-quantum", "random"),
    Question("`all` against `taught-descriptors`, alone", "all", "taught-descriptors"),
)


def main() -> None:
    """Run one of the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["random", "list", "curves"])
    parser.add_argument("out", type=Path, help="folder of the ablation")
    options = parser.parse_args()
    folders = arm_folders(options.out)
    if options.step == "random":
        write_random(folders["all"], options.out / RANDOM)
    elif options.step == "curves":
        write_curves(folders, CURVES)
    else:
        words = {**folders, RANDOM: options.out / RANDOM}
        print(" ".join(f"{name}={folder}" for name, folder in words.items()))


def arm_folders(out: Path) -> dict[str, Path]:
    """Encoder of each arm that is finished."""
    found = {}
    for variant, name in ARMS.items():
        for folder in sorted((out / "cells").glob(f"encoder/{variant}-*/encoder")):
            if (folder / "manifest.json").is_file():
                found[name] = folder
    return found


def write_random(like: Path, folder: Path) -> None:
    """An encoder of the same kind with random weights."""
    import torch

    config = from_dict(DistillConfig, read_json(like / "config.json")["settings"])
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(0, "random encoder"))
        student = build_student(config.student)
    description = {"stage": "random", "hydrogens": read_json(like / "config.json")["hydrogens"], "seed": 0}
    save_encoder(folder, student, description, "# Random weights, seed 0\n")


def write_curves(folders: Mapping[str, Path], path: Path) -> None:
    """1 - R² of held-out molecules of every term after each epoch, a line per arm, epoch and term."""
    lines = []
    for name, folder in folders.items():
        description = read_json(folder / "config.json")
        batch = description["settings"]["loop"]["batch_size"]
        for record in read_log(folder / "metrics.jsonl"):
            if record["kind"] != "evaluation":
                continue
            for term in description["terms"]:
                if (explained := record.get(f"valid_{term}_r2")) is not None:
                    lines.append([name, str(record["step"] * batch), term, f"{1 - explained:.4f}"])
    write_text(path, table_text(["arm", "molecules_seen", "term", "unexplained"], lines))


@dataclass(frozen=True)
class Change:
    """Relative changes of an error over data sets.

    Attributes:
        mean: mean of the relative changes; negative = better.
        better: number of sets with a smaller error.
        sets: number of sets.
        p: of a Wilcoxon test over the sets; None where there are fewer than six.
    """

    mean: float
    better: int
    sets: int
    p: float | None


def changes(lines: Sequence[dict[str, str]], question: Question, task: str, part: str) -> Change | None:
    """Change of the error from the control to ours over the sets of a task; None where no set has both."""
    found = {(one["features"], one["set"]): float(one[part]) for one in lines if one["task"] == task}
    sets = sorted({name for features, name in found if features == question.ours and (question.control, name) in found})
    if not sets:
        return None
    change = np.array([found[question.ours, name] / found[question.control, name] - 1 for name in sets])
    tested = len(sets) > 5 and bool(np.any(change != 0))
    p = float(stats.wilcoxon(change).pvalue) if tested else None
    return Change(float(change.mean()), int((change < 0).sum()), len(sets), p)


def tables(path: Path) -> list[str]:
    """The tables of the page: of the questions, of all features, and of what was learned.

    Args:
        path: the lines of `encoder_value.py`; the curves lie beside them.
    """
    lines, curves = read_lines(path), read_lines(path.with_name(CURVES.name))
    further = [one for one in lines if one["set"] in FURTHER_SETS]
    title = "The same on MoleculeACE's and Biogen's sets alone, whose molecules taught no label:"
    return [
        *_questions(lines), "", title, "", *_questions(further), "", *_features(lines), "", *_curves(curves),
    ]  # fmt: skip


def _questions(lines: Sequence[dict[str, str]]) -> Iterator[str]:
    yield "| what against what | out of fold | p | p, Holm | test parts | p | p, Holm | classes, test |"
    yield "|---|---|---|---|---|---|---|---|"
    columns = {
        (task, part): [changes(lines, question, task, part) for question in QUESTIONS]
        for task, part in (("regression", "out_of_fold"), ("regression", "test"), ("classification", "test"))
    }
    for place, question in enumerate(QUESTIONS):
        cells = []
        for part in ("out_of_fold", "test"):
            column = columns["regression", part]
            corrected = holm([one.p if one else None for one in column])
            cells += [_shown(column[place]), _p(column[place].p if column[place] else None), _p(corrected[place])]
        yield f"| {question.text} | {' | '.join(cells)} | {_shown(columns['classification', 'test'][place])} |"


def _features(lines: Sequence[dict[str, str]]) -> Iterator[str]:
    """Change of the error of all features against descriptors alone."""
    yield "## All features against descriptors alone"
    yield ""
    yield "| features | regression, out of fold | regression, test | classes, test |"
    yield "|---|---|---|---|"
    for features in dict.fromkeys(one["features"] for one in lines):
        if features == "descriptors":
            continue
        against = Question("", features, "descriptors")
        cells = [
            _shown(changes(lines, against, task, part))
            for task, part in (("regression", "out_of_fold"), ("regression", "test"), ("classification", "test"))
        ]
        yield f"| {features} | {' | '.join(cells)} |"


def _curves(curves: Sequence[dict[str, str]]) -> Iterator[str]:
    """A table for each of three terms that several arms share, an arm per row, by molecules seen."""
    yield "## Learning curves"
    yield ""
    yield "1 - R² of held-out molecules, by thousands of molecules seen ([every term](encoder/arms_curves.csv))."
    for term in SHARED_TERMS:
        own = [line for line in curves if line["term"] == term]
        seen = sorted({int(line["molecules_seen"]) for line in own})
        yield from ("", f"`{term}`:", "", f"| arm | {' | '.join(f'{one / 1000:.0f}' for one in seen)} |")
        yield "|---" * (1 + len(seen)) + "|"
        for arm in dict.fromkeys(line["arm"] for line in own):
            left = {int(line["molecules_seen"]): line["unexplained"] for line in own if line["arm"] == arm}
            yield f"| {arm} | {' | '.join(left.get(one, '') for one in seen)} |"


def _shown(change: Change | None) -> str:
    return "–" if change is None else f"{100 * change.mean:+.1f} % ({change.better} of {change.sets})"


def _p(p: float | None) -> str:
    return "–" if p is None else f"{p:.2g}"


if __name__ == "__main__":
    main()
