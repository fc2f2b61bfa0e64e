"""Systems of the demo side by side, and the page that `dnd demo` leaves."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from dnd.chemistry.splits import Split
from dnd.common.compute import numpy_generator
from dnd.report.figures import bar_chart, loss_curves
from dnd.report.html import Code, Figure, Molecules, Report, Section, Table, Text, write_report
from dnd.report.plots import parity_plot
from dnd.training.logs import read_log

# Systems of the demo side by side, and what their errors on the same molecules say of their difference.


FINETUNED = "D&D-NODE, finetuned"
_RESAMPLES = 5000


@dataclass(frozen=True)
class System:
    """What one way to a model reached on ESOL.

    Attributes:
        name: name of the model.
        valid_rmse: on the validation part, log mol/L.
        errors_B: signed errors on the test part, log mol/L.
    """

    name: str
    valid_rmse: float
    errors_B: Float[np.ndarray, "molecules"]

    @classmethod
    def of(cls, name: str, predicted_B: np.ndarray, labels_B: np.ndarray, split: Split) -> System:
        """Judge predictions of all molecules."""
        errors_B = predicted_B - labels_B
        return cls(name, float(np.sqrt(np.mean(errors_B[split.valid] ** 2))), errors_B[split.test])

    @property
    def test_rmse(self) -> float:
        """On the test part, log mol/L."""
        return float(np.sqrt(np.mean(self.errors_B**2)))


@dataclass(frozen=True)
class Knowledge:
    """How well a label of QM9 follows from frozen representations.

    Attributes:
        label: its name.
        distilled: R² out of fold, on the representations of the distilled student.
        untrained: the same, of the same network with random weights.
    """

    label: str
    distilled: float
    untrained: float


def knowledge_sentence(knowledge: Sequence[Knowledge]) -> str:
    """What frozen representations say of distillation."""
    better = sum(one.distilled > one.untrained for one in knowledge)
    medians = (np.median([getattr(one, name) for one in knowledge]) for name in ("distilled", "untrained"))
    ours, theirs = (f"{value:.2f}" for value in medians)
    return (
        f"A ridge regression predicts {better} of {len(knowledge)} properties of QM9 better from the frozen distilled "
        f"student than from the same network with random weights (median R² {ours} against {theirs}); the student "
        f"never saw these properties."
    )


def compare(systems: Sequence[System]) -> str:
    """What the test part says of the finetuned student beside the best classical model."""
    finetuned, *others = systems
    classical = min(others, key=lambda system: system.valid_rmse)  # chosen on validation, never on test
    low, high = paired_interval(finetuned, classical)
    words = "better than" if high < 0 else "worse than" if low > 0 else "level with"
    return (
        f"On ESOL's test part the finetuned student is {words} the classical model that validation prefers, "
        f"{classical.name}: RMSE {finetuned.test_rmse:.2f} against {classical.test_rmse:.2f} log mol/L, change "
        f"{finetuned.test_rmse - classical.test_rmse:+.2f}, 95 % interval {low:+.2f} to {high:+.2f}. This is a small "
        f"run: a few passes over 2,500 molecules, not many over millions."
    )


def paired_interval(ours: System, theirs: System) -> tuple[float, float]:
    """The 95 % interval of the difference in test RMSE, by resampling the test molecules with their errors."""
    rows_JB = numpy_generator(0, "demo resamples").integers(len(ours.errors_B), size=(_RESAMPLES, len(ours.errors_B)))
    rmse = [np.sqrt(np.mean(system.errors_B[rows_JB] ** 2, axis=1)) for system in (ours, theirs)]
    low, high = np.quantile(rmse[0] - rmse[1], (0.025, 0.975))
    return float(low), float(high)


def table_lines(systems: Sequence[System]) -> Iterator[str]:
    """The systems side by side as lines of text."""
    yield f"   {'ESOL, RMSE in log mol/L':34}{'validation':>12}{'test':>8}"
    for system in systems:
        yield f"   {system.name:34}{system.valid_rmse:>12.3f}{system.test_rmse:>8.3f}"


# The page that `dnd demo` leaves: systems side by side, loss curves, parity plots, molecules, commands.


WORST = 6
MEASURED, PREDICTED = "logS", "logS_pred"

COMMANDS = """\
dnd prepare  qm9_slice.npz -o store --hydrogens teacher_all_student_heavy --jobs 2
dnd denoise  store -o teacher --recipe demo
dnd distill  store --teacher teacher -o encoder --recipe demo
dnd finetune esol.csv.gz -o model --target-columns logS --encoder encoder --recipe demo
dnd predict  new.csv -m model -o predictions.csv"""


def write_demo_report(
    out: Path,
    systems: Sequence[System],
    knowledge: Sequence[Knowledge],
    sentence: str,
    predictions: list[dict[str, str]],
    denoising: dict[str, float],
    distillation: dict[str, float],
) -> Path:
    """Write `report.html` into the demo's folder and return its path."""
    sections: list[Section] = [
        Text(sentence, title="Results"),
        _systems_table(systems),
        Figure(
            bar_chart([s.name for s in systems], [s.test_rmse for s in systems], axis_label="test RMSE, log mol/L"),
            caption="Shorter is better. The forests are untuned, and hard to beat on a thousand molecules.",
        ),
        _denoising_figure(out / "teacher", denoising),
        _distillation_figure(out / "encoder", distillation),
        _knowledge_table(knowledge),
        *_parity(out / "model"),
        _new_molecules(predictions),
        Code(COMMANDS, title="The same by hand"),
    ]
    subtitle = "2,500 QM9 molecules → teacher → student → ESOL with OGB's scaffold split (902 / 113 / 113)"
    return write_report(out / "report.html", Report("dnd demo: denoise and distill", sections, subtitle))


def _knowledge_table(knowledge: Sequence[Knowledge]) -> Table:
    return Table(
        ["property of QM9", "distilled", "random weights"],
        [[one.label, f"{one.distilled:.3f}", f"{one.untrained:.3f}"] for one in knowledge],
        title="What the student knows, frozen",
        note="R² of a ridge regression on the mean over atoms, predicted in five folds; below 0 the mean is "
        "better. Denoising and distillation saw the molecules' geometries, but none of these properties.",
        best=[row for row, one in enumerate(knowledge) if one.distilled > one.untrained],
    )


def _systems_table(systems: Sequence[System]) -> Table:
    best = int(np.argmin([system.test_rmse for system in systems]))
    return Table(
        ["system", "validation RMSE", "test RMSE"],
        [[system.name, f"{system.valid_rmse:.3f}", f"{system.test_rmse:.3f}"] for system in systems],
        title="ESOL: systems side by side",
        note="Aqueous solubility in log mol/L, one seed. The paper prints 1.010 for D&D-NODE (mean pooling, 3 seeds, "
        "pretrained on 3.4 million molecules) and 1.049 for the same network finetuned from random weights.",
        best=[best],
    )


def _curves(folder: Path, step_key: str, evaluation_keys: dict[str, str]) -> dict[str, list[tuple[float, float]]]:
    """Training loss as means over 20 steps, and held-out values, from a run's log."""
    records = read_log(folder / "metrics.jsonl")
    steps = [(record["step"], record[step_key]) for record in records if record["kind"] == "step"]
    chunks = [steps[start : start + 20] for start in range(0, len(steps), 20)]
    curves = {"training": [(chunk[-1][0], float(np.mean([loss for _, loss in chunk]))) for chunk in chunks]}
    for name, key in evaluation_keys.items():
        curves[name] = [(record["step"], record[key]) for record in records if record["kind"] == "evaluation"]
    return curves


def _denoising_figure(teacher: Path, metrics: dict[str, float]) -> Figure:
    curves = _curves(teacher, "loss", {"held out": "held_out_loss"})
    references = {"predicting zero": metrics["trivial"], "floor: rigid motion": metrics["floor"]}
    return Figure(
        loss_curves(curves, references=references, y_label="mean squared error of the noise"),
        title="Denoising: the teacher",
        caption="Noise of 0.04 Å on every coordinate. No network can be below the floor, because the noise also moves "
        "and turns the molecule as a whole.",
    )


def _distillation_figure(encoder: Path, metrics: dict[str, float]) -> Figure:
    curves = _curves(encoder, "loss", {"held out": "valid_node_loss"})
    references = {"predicting the mean": metrics["valid_node_variance"], "lookup": metrics["valid_lookup_loss"]}
    return Figure(
        loss_curves(curves, references=references, y_label="mean squared error per feature"),
        title="Distillation: the student",
        caption=f"Held-out R² {metrics['valid_node_r2']:.3f}: the share of the teacher's variance over atoms that the "
        "2D student reproduces without seeing a conformer.",
    )


def _parity(model: Path) -> list[Section]:
    rows = _test_rows(model)
    measured, predicted = ([float(row[name]) for row in rows] for name in (MEASURED, PREDICTED))
    worst = np.argsort(-np.abs(np.subtract(predicted, measured)))[:WORST]
    captions = [f"measured {measured[row]:.2f}, predicted {predicted[row]:.2f}" for row in worst]
    return [
        Figure(
            parity_plot(measured, {FINETUNED: predicted}, unit="log mol/L"),
            title="Test part, finetuned student",
            caption="On the dotted line prediction and measurement are equal. The model's own page, model/report.html, "
            "has its intervals, its domain and its settings.",
        ),
        Molecules([rows[row]["smiles"] for row in worst], captions, title="Worst errors of the finetuned student"),
    ]


def _test_rows(model: Path) -> list[dict[str, str]]:
    with open(model / "test_predictions.csv", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _new_molecules(predictions: list[dict[str, str]]) -> Molecules:
    captions = [
        f"{row['name']}: log S {float(row[PREDICTED]):.2f}" if row[PREDICTED] else f"{row['name']}: {row['error']}"
        for row in predictions
    ]
    return Molecules(
        [row["smiles"] for row in predictions],
        captions,
        title="New molecules",
        note="A row without a valid molecule keeps its place and gets a reason.",
    )
