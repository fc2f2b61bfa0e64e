"""Systems of the demo side by side, and the page that `dnd demo` leaves."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from dnd.report.figures import bar_chart, loss_curves, parity_plot
from dnd.report.html import Code, Figure, Molecules, Report, Section, Table, Text, write_report
from dnd.training.logs import read_log

# Systems of the demo side by side, and what paired seeds say of their difference.


@dataclass(frozen=True)
class System:
    """What one way to a model reached on ESOL.

    Attributes:
        name: as in the paper.
        valid: RMSE on the validation part, one value per seed.
        test: RMSE on the test part, one value per seed.
    """

    name: str
    valid: list[float]
    test: list[float]


def compare(systems: list[System]) -> str:
    """What the test part says of D&D against RandInit (paired over seeds) and the best classical baseline."""
    distilled, random, *classical = systems
    best = min(classical, key=lambda system: float(np.mean(system.valid)))  # chosen on validation, never on test
    ours, forest = float(np.mean(distilled.test)), float(np.mean(best.test))
    change, half_width = paired_change(distilled.test, random.test)
    clear = "lowers" if change < 0 else "RAISES"
    effect = clear if abs(change) > half_width else "makes no clear difference to"
    return (
        f"Distillation {effect} the test RMSE against random weights (change {change:+.3f} ± {half_width:.3f}, 95 % "
        f"interval of {len(distilled.test)} paired seeds). The distilled student "
        f"{'beats' if ours < forest else 'does NOT beat'} the classical baseline that validation prefers "
        f"({ours:.3f} against {forest:.3f}, {best.name}). This is a small run: 2,500 molecules of pretraining, not "
        f"millions."
    )


def paired_change(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Mean of the paired differences and the half-width of its 95 % interval (Student's t)."""
    differences = np.subtract(ours, theirs)
    error = float(np.std(differences, ddof=1)) / np.sqrt(len(differences))
    return float(np.mean(differences)), float(stats.t.ppf(0.975, len(differences) - 1) * error)


def table_lines(systems: list[System]) -> Iterator[str]:
    """The systems side by side as lines of text."""
    yield f"   {'ESOL, RMSE in log mol/L':34}{'validation':>12}{'test':>16}"
    for system in systems:
        spread = f" ± {np.std(system.test, ddof=1):.3f}" if len(system.test) > 1 else ""
        yield f"   {system.name:34}{np.mean(system.valid):>12.3f}{f'{np.mean(system.test):.3f}{spread}':>16}"


# The page that `dnd demo` leaves: systems side by side, loss curves, parity plots, molecules, commands.


WORST = 6
MEASURED, PREDICTED = "logS", "logS_pred"

COMMANDS = """\
dnd prepare  qm9_slice.npz -o store --hydrogens teacher_all_student_heavy --jobs 2
dnd denoise  store -o teacher --recipe demo
dnd distill  store --teacher teacher -o encoder --recipe demo
dnd finetune esol.csv.gz -o model --target-columns logS --encoder encoder --recipe demo loop.seed=1   # and 2, 3
dnd finetune esol.csv.gz -o randinit --target-columns logS --encoder random --recipe demo loop.seed=1   # and 2, 3
dnd predict  new.csv -m model -o predictions.csv"""


def write_demo_report(
    out: Path,
    systems: Sequence[System],
    sentence: str,
    predictions: list[dict[str, str]],
    denoising: dict[str, float],
    distillation: dict[str, float],
) -> Path:
    """Write `report.html` into the demo's folder and return its path."""
    sections: list[Section] = [
        Text(sentence, title="What came out"),
        _systems_table(systems),
        Figure(
            bar_chart(
                [s.name for s in systems], [float(np.mean(s.test)) for s in systems], axis_label="test RMSE, log mol/L"
            ),
            caption="Shorter is better. D&D-NODE and RandInit are the same network with the same finetuning.",
        ),
        _denoising_figure(out / "teacher", denoising),
        _distillation_figure(out / "encoder", distillation),
        *_parity(out / "models"),
        _new_molecules(predictions),
        Code(COMMANDS, title="The same by hand"),
    ]
    subtitle = "2,500 QM9 molecules → teacher → student → ESOL with OGB's scaffold split (902 / 113 / 113)"
    return write_report(out / "report.html", Report("dnd demo: denoise and distill", sections, subtitle))


def _systems_table(systems: Sequence[System]) -> Table:
    rows = [
        [
            system.name,
            len(system.test),
            f"{np.mean(system.valid):.3f}",
            f"{np.mean(system.test):.3f}",
            f"{np.std(system.test, ddof=1):.3f}" if len(system.test) > 1 else None,
        ]
        for system in systems
    ]
    best = int(np.argmin([np.mean(system.test) for system in systems]))
    return Table(
        ["system", "seeds", "validation RMSE", "test RMSE", "deviation over seeds"],
        rows,
        title="ESOL: systems side by side",
        note="Aqueous solubility in log mol/L. The paper prints 1.049 for RandInit and 1.010 for D&D-NODE (mean "
        "pooling, 3 seeds, pretrained on 3.4 million molecules).",
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


def _parity(models: Path) -> list[Section]:
    ours, random = (_test_rows(models / f"{name}-seed1") for name in ("DD-NODE", "RandInit"))
    measured = [float(row[MEASURED]) for row in ours]
    predicted = {
        "D&D-NODE": [float(row[PREDICTED]) for row in ours],
        "RandInit": [float(row[PREDICTED]) for row in random],
    }
    errors = np.abs(np.subtract(predicted["D&D-NODE"], measured))
    worst = np.argsort(-errors)[:WORST]
    captions = [f"measured {measured[row]:.2f}, predicted {predicted['D&D-NODE'][row]:.2f}" for row in worst]
    return [
        Figure(parity_plot(measured, predicted, unit="log mol/L"), title="Test part, seed 1"),
        Molecules([ours[row]["smiles"] for row in worst], captions, title="Worst errors of D&D-NODE, seed 1"),
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
        note="A row that is no molecule keeps its place and gets a reason.",
    )
