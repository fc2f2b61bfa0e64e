"""The MODEL folder of a student that a model was compressed into: how far it is from it, how sure, and for what.

Of labels it knows those of the model's own test part alone, which chose nothing. Its intervals come from molecules
without a label that it did not learn from: there the model's interval says how far a label may lie from the model, and
the student lies elsewhere. So labels are drawn from the model's intervals, and the width is the conformal quantile of
their distance to the student. The sets of classes are the model's own, as the student learned the calibrated
probabilities that these look at. The domain is that of the labelled molecules, as far as these were given.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float

from dnd.chemistry.identity import identities_of, molecule_identity
from dnd.chemistry.splits import Split
from dnd.common.compute import numpy_generator
from dnd.common.errors import CorruptFileError, InputError
from dnd.common.log import LOGGER, RESULT
from dnd.common.model_folder import ModelFolder
from dnd.common.runs import read_record, write_record
from dnd.finetuning.evaluation import comparison_table, part_metrics, predictions_table
from dnd.finetuning.labelled_data import LabelledMolecules
from dnd.finetuning.outcome import training_facts
from dnd.finetuning.verdict import Judged as JudgedModels
from dnd.finetuning.verdict import judge_beside_baselines
from dnd.models.students.encoders import MOST_MOLECULES, WHOLE, RepresentationLimits
from dnd.predictor.applicability_domain import FEWEST_REFERENCES, Domain, fit_domain, write_domain
from dnd.predictor.ensemble import run_over, to_raw_units
from dnd.predictor.metrics import significant, with_prediction
from dnd.predictor.model_folder import KNOWN, Member, predictor_config, write_predictor
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target, groups_of, on_learned_scale
from dnd.predictor.uncertainty.calibration import (
    Calibration,
    Chosen,
    GroupCalibration,
    Judged,
    TargetCalibration,
    write_calibration,
)
from dnd.predictor.uncertainty.intervals import ConformalIntervals, HeldOut, Predicted, conformal_quantile
from dnd.store.featurize import Featurized, as_store, featurize_smiles, valid_molecules
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting
from dnd.tables.molecules import as_molecules
from dnd.tables.writers import csv_text, rows_of_csv
from dnd.training.settings import TrainResult

# Molecules without labels that a model teaches a student: how they are chosen, and the model's predictions for them.
#
# They come from tables of the user's and from the pool that ships. The rows of a table are drawn where they are too
# many, each molecule counts once, and the model's test molecules are left out, so that they can test the student too.
# What the model says is kept in sealed pieces, so that a run that was killed asks again for one piece at most.

DRUGLIKE = "druglike"
"""In place of a table: 20,000 molecules that ship with the package, most of them drug-like."""

POOL = Path(str(resources.files("dnd") / "data" / "druglike.smi.gz"))
FEWEST_MOLECULES = 50
_MOST_IN_A_PIECE, _NUMBERS = 2_000, 100_000  # molecules and predictions; a kill costs one piece


@dataclass(frozen=True)
class Unlabelled:
    """Molecules that a model teaches a student, each once.

    Attributes:
        smiles: canonical, standardized where the model is for such molecules.
        known_B: whether the model learned a label of the molecule.
        store: their graphs as the student sees them.
    """

    smiles: list[str]
    known_B: Bool[np.ndarray, "molecules"]
    store: Store


def read_unlabelled(
    tables: Sequence[str | Path],
    teacher: Predictor,
    hydrogens: HydrogenSetting,
    judged: set[str],
    *,
    smiles_column: str | None,
    most: int,
    seed: int,
    jobs: int,
) -> Unlabelled:
    """The molecules of some tables.

    Args:
        tables: files of any format that `dnd` reads, or `druglike` for the pool that ships.
        teacher: model that tells which of them it was trained or tested on.
        hydrogens: as the student sees molecules.
        judged: identities that are left out.
        smiles_column: SMILES column of the tables; None = that of the model, else found by name or content.
        most: largest number of rows of a table; larger tables are subsampled at random.
        seed: random seed of the draw.
        jobs: worker processes.

    Raises:
        InputError: a table can't be read, or too few molecules are left.
    """
    found: dict[str, Featurized] = {}
    for number, table in enumerate(tables):
        texts = _texts(table, smiles_column, teacher)
        if len(texts) > most:
            drawn = np.sort(numpy_generator(seed, "unlabelled rows", number).permutation(len(texts))[:most])
            LOGGER.info(f"{table}: {most} of {len(texts)} rows drawn at random")
            texts = [texts[row] for row in drawn.tolist()]
        before = len(found)
        for one in featurize_smiles(texts, hydrogens, standardize=teacher.parts.standardize, jobs=jobs):
            identity = molecule_identity(one.smiles) if one.graph is not None else ""
            if identity and identity not in judged:
                found.setdefault(identity, one)
        LOGGER.info(f"{table}: {len(found) - before} new molecules in {len(texts)} rows")
    if len(found) < FEWEST_MOLECULES:
        raise InputError(
            "too few molecules to teach a student",
            found=len(found),
            expected=f"at least {FEWEST_MOLECULES} that the model was not judged by",
            next_step=f"Add a table with --molecules, or leave it out for the {DRUGLIKE} molecules that ship",
        )
    known = teacher.knows(list(found))
    known_B = np.zeros(len(found), bool) if known is None else np.array(known, bool)
    molecules = list(found.values())
    return Unlabelled([one.smiles for one in molecules], known_B, as_store(molecules, hydrogens))


def _texts(table: str | Path, smiles_column: str | None, teacher: Predictor) -> list[str]:
    if str(table) == DRUGLIKE:
        return as_molecules(POOL).texts
    return as_molecules(Path(table), smiles_column, remembered=teacher.smiles_column).texts


def taught_values(teacher: Predictor, smiles: Sequence[str], folder: Path) -> Float[np.ndarray, "molecules targets"]:
    """What a model says of molecules, in the targets' units or as probabilities; NaN rows where it says nothing.

    Args:
        teacher: the model.
        smiles: canonical.
        folder: folder of the pieces; existing pieces are not computed again.
    """
    targets = len(teacher.targets)
    size = min(_MOST_IN_A_PIECE, max(100, _NUMBERS // targets))
    pieces = []
    for number, start in enumerate(range(0, len(smiles), size)):
        path, texts = folder / f"piece-{number:04d}.json", list(smiles[start : start + size])
        if not path.is_file():
            values_BC, _ = teacher.predict_values(texts, as_given=True)
            rows = [[None if math.isnan(value) else value for value in row] for row in values_BC.tolist()]
            write_record(path, {"values": rows})
            LOGGER.info(f"the model has predicted {start + len(texts)} of {len(smiles)} molecules")
        piece = np.array(read_record(path)["values"], dtype=np.float64)
        if piece.shape != (len(texts), targets):
            raise CorruptFileError(
                f"{path} has predictions of other molecules", found=piece.shape, expected=(len(texts), targets)
            )
        pieces.append(piece)
    return np.concatenate(pieces)


TEST = "test_predictions.csv"
TEACHER = "the_model_it_was_made_of"
DRAWS = 5  # labels of each molecule that is held out
_DEVIATIONS = 1.6449  # of a normal distribution, within which nine tenths of it lie
_KEPT = (
    *("task", "task_reason", "per_target", "metric", "metrics", "targets", "files", "split", "counts", "replicates"),
    *("duplicates_across_parts", "duplicates_in_training_and_test"),
)
Array = Float[np.ndarray, "molecules targets"]


@dataclass(frozen=True)
class Compressed:
    """A student that was taught, before it is judged.

    Attributes:
        saved: the MODEL folder of its teacher.
        teacher: the model.
        member: the student.
        training: how its training went.
        unlabelled: molecules that it was taught.
        part: which of them it learned from, and which were held out.
        values_BC: the teacher's predictions for them.
        test: the teacher's test part.
        hydrogens: as the student sees molecules.
        record: record of the run.
    """

    saved: ModelFolder
    teacher: Predictor
    member: Member
    training: TrainResult
    unlabelled: Unlabelled
    part: Split
    values_BC: Array
    test: LabelledMolecules
    hydrogens: HydrogenSetting
    record: Mapping[str, Any]

    def student_values(self, source: Any, rows: np.ndarray) -> Array:
        """What the student says, in the targets' units or as probabilities."""
        network = self.member.network
        if not len(rows):
            return np.empty((0, len(self.member.targets)))
        return to_raw_units(run_over(network, network.student, source, rows), self.member.targets)

    def embed(self, rows: np.ndarray) -> Float[np.ndarray, "rows dim"]:
        """Representations of molecules that it was taught."""
        return run_over(self.member.network.embed, self.member.network.student, self.unlabelled.store, rows)


def read_test_part(saved: ModelFolder, teacher: Predictor, hydrogens: HydrogenSetting, jobs: int) -> LabelledMolecules:
    """The labelled test molecules of a model, which it was not fitted on; none if it was made of folds."""
    rows = rows_of_csv(io.StringIO(saved.text(TEST), newline="")) if saved.holds(TEST) else []
    standardize = teacher.parts.standardize
    found = valid_molecules([row["smiles"] for row in rows], hydrogens, jobs, standardize=standardize)
    knows = teacher.knows(identities_of(found.smiles)) or [False] * len(found.smiles)
    is_new_B = ~np.array(knows, bool) & ("folds" not in saved.json("splits.json"))
    rows = [rows[place] for place in found.places[is_new_B].tolist()]
    found = valid_molecules([row["smiles"] for row in rows], hydrogens, jobs, standardize=standardize)
    targets, groups = teacher.targets, groups_of(teacher.targets)
    labels = [[_label(row, target) for target in targets] for row in rows]
    numbers = np.array([int(row["row"]) for row in rows], dtype=np.int64)
    return LabelledMolecules(
        store=found.store,
        rows_B=numbers,
        texts=[row["smiles"] for row in rows],
        smiles=found.smiles,
        targets_BC=np.array(labels, dtype=np.float64).reshape(len(rows), len(targets)),
        names=tuple(target.name for target in targets),
        extra=[],
        num_rows=len(rows),
        rejects=[],
        files=(TEST,),
        groups=groups,
        class_names=tuple(target.classes for target in targets),
        ids=tuple(row["id"] for row in rows) if rows and "id" in rows[0] else (),
        places=tuple(numbers.tolist()),
    )


def _label(row: Mapping[str, str], target: Target) -> float:
    """The label in the column of a target, one of its classes, or a value; NaN where there is none."""
    cell = row[target.group or target.name]
    if not cell:
        return float("nan")
    if target.group:
        return float(cell == target.class_name)
    return float(target.classes.index(cell)) if target.classes else float(cell)


def write_compressed(folder: Path, made: Compressed) -> dict[str, Any]:
    """Judge the student beside its teacher, write and seal the MODEL folder; returns `metrics.json`."""
    test, targets = made.test, made.teacher.targets
    every = np.arange(len(test.smiles))
    folds = [(Split(every[:0], every[:0], every), made.student_values(test.store, every))]
    of_teacher = made.teacher.predict_values(test.smiles, as_given=True)[0] if len(every) else folds[0][1]
    metrics: dict[str, Any] = {
        name: made.saved.json("metrics.json")[name] for name in _KEPT if name in made.teacher.metrics
    }
    metrics["members"] = [training_facts(made.member, made.training)]
    metrics["parts"] = part_metrics(folds[0][0], test.targets_BC, folds[0][1], targets)
    beside = part_metrics(folds[0][0], with_prediction(test.targets_BC, of_teacher), of_teacher, targets)
    metrics["baselines"] = {TEACHER: {"settings": {}, "parts": beside}}
    metrics["compressed"] = _agreement(made)
    verdicts = []
    if len(every):
        judged = JudgedModels(targets, test.targets_BC, test.identities, folds, {TEACHER: [of_teacher]})
        verdicts = judge_beside_baselines(judged, per_target=metrics["per_target"])
    metrics["verdicts"] = [one.as_dict() for one in verdicts]
    lines = [*comparison_table(metrics), *(one.sentence() for one in verdicts), *agreement_lines(metrics)]
    domain = _domain(made)
    lines += _write_trust(folder, made, domain, folds[0][1])
    for line in lines:
        LOGGER.log(RESULT, line)
    config = predictor_config([made.member], targets, made.hydrogens, _training(made))
    write_predictor(
        folder,
        [made.member],
        config,
        limits=_limits(made),
        card=_card(config, metrics),
        metrics=metrics,
        splits={"split": metrics["split"], "train": [], "valid": [], "test": [int(row) for row in test.rows_B]},
        tables={
            TEST: predictions_table(folds, test),
            "rejects.csv": csv_text(("row", "smiles", "stage", "reason"), []),
            **({KNOWN: made.saved.text(KNOWN)} if made.saved.holds(KNOWN) else {}),
        },
    )
    LOGGER.log(RESULT, f"model: {folder}")
    return metrics


def _limits(made: Compressed) -> RepresentationLimits:
    """Of the student's representations, from molecules that it was taught."""
    rows = made.part.train[:: max(1, -(-len(made.part.train) // MOST_MOLECULES))]
    return RepresentationLimits.of_values({WHOLE: torch.from_numpy(made.embed(rows))})


def _training(made: Compressed) -> dict[str, Any]:
    """How the model was made, with what the teacher's own record says of its data and of how labels are read."""
    training = dict(made.teacher.parts.config.get("training", {}))
    return {**training, "encoder": made.record["encoder"], "compressed": dict(made.record)}


def _agreement(made: Compressed) -> dict[str, Any]:
    """How far the student is from its teacher on molecules that it did not learn from; no label is needed for that."""
    rows, targets = made.part.valid, made.teacher.targets
    learned = [
        on_learned_scale(targets, values)
        for values in (made.values_BC[rows], made.student_values(made.unlabelled.store, rows))
    ]
    return {
        "teacher": made.saved.manifest["digest"],
        "molecules": len(np.unique(made.part.train)),
        "known_molecules": int(made.unlabelled.known_B.sum()),
        "held_out": len(rows),
        "targets": {
            target.name: _distance(said_V, own_V)
            for target, said_V, own_V in zip(targets, learned[0].T, learned[1].T, strict=True)
        },
    }


def _distance(said_V: np.ndarray, own_V: np.ndarray) -> dict[str, float | None]:
    """Root mean square and mean absolute difference, and the share of the teacher's variance that the student has."""
    squared, variance = float(((said_V - own_V) ** 2).mean()), float(said_V.var())
    mean = float(np.abs(said_V - own_V).mean())
    return {"rmse": squared**0.5, "mae": mean, "r2": 1 - squared / variance if variance > 0 else None}


def agreement_lines(metrics: Mapping[str, Any]) -> list[str]:
    """`_agreement` in words, one line per column."""
    found = metrics["compressed"]
    units = {target["name"]: target["unit"] for target in metrics["targets"]}
    lines = []
    for name, own in found["targets"].items():
        share = "none" if own["r2"] is None or own["r2"] <= 0 else format(own["r2"], ".1%")
        unit = f" {units[name]}" if units.get(name) else ""
        lines.append(
            f"{name}: on {found['held_out']} molecules that it did not learn from, the student differs from "
            f"its model by {significant(own['mae'])}{unit} on average and reproduces {share} of the variance "
            "of its predictions"
        )
    return lines


def _domain(made: Compressed) -> Domain | None:
    """Of the labelled molecules among those that were taught, where most are; else the teacher's, by structure."""
    rows, known = np.flatnonzero(made.unlabelled.known_B), made.teacher.known or ()
    if len(rows) >= max(FEWEST_REFERENCES, len(known) / 2):
        return fit_domain([made.unlabelled.smiles[row] for row in rows], lambda places: made.embed(rows[places]))
    return made.teacher.domain and made.teacher.domain.by_structure()


def _write_trust(folder: Path, made: Compressed, domain: Domain | None, tested_BC: Array) -> list[str]:
    """Write calibration and domain into a MODEL folder that is not sealed yet; what was learned, in words."""
    if domain is not None:
        write_domain(folder, domain)
    if made.teacher.calibration is None:
        return []
    calibration = _calibration(made, domain, tested_BC)
    lines = _calibration_words(made, calibration)
    write_calibration(folder, calibration, lines)
    return lines


def _calibration(made: Compressed, domain: Domain | None, tested_BC: Array) -> Calibration:
    known, rows, targets = made.teacher.calibration, made.part.valid, made.teacher.targets
    assert known is not None, "a model without a calibration has none to hand on"
    smiles = [made.unlabelled.smiles[row] for row in rows]
    said, _ = made.teacher.describe(smiles)
    own_VC = made.student_values(made.unlabelled.store, rows)
    near_V, near_B = (_similarity(domain, texts) for texts in (smiles, made.test.smiles))
    found = []
    for place, (target, before) in enumerate(zip(targets, known.targets, strict=True)):
        chosen = Chosen(sets=before.chosen.sets)
        if before.chosen.intervals is not None:
            low_V, high_V = (np.asarray(said[f"{target.name}_{end}"], dtype=np.float64) for end in ("low", "high"))
            predicted = Predicted(own_VC[:, place], None, target.transform, near_V)
            chosen = replace(chosen, intervals=widened(before.chosen.intervals, low_V, high_V, predicted, place))
        labels_B = made.test.targets_BC[:, place]
        tested = Predicted(tested_BC[:, place], None, target.transform, near_B)
        found.append(TargetCalibration(chosen, replace(_judged(chosen, labels_B, tested), molecules=len(rows))))
    groups = [GroupCalibration(one.name, one.first, one.classes, Chosen(sets=one.chosen.sets)) for one in known.groups]
    return Calibration(tuple(found), known.coverage, tuple(groups))


def _similarity(domain: Domain | None, smiles: Sequence[str]) -> Float[np.ndarray, "molecules"] | None:
    return None if domain is None else domain.similarity(smiles)


def widened(
    teacher: ConformalIntervals,
    low_V: Float[np.ndarray, "held_out"],
    high_V: Float[np.ndarray, "held_out"],
    predicted: Predicted,
    place: int,
) -> ConformalIntervals | None:
    r"""Intervals around a student, from the intervals around its teacher.

    Labels are drawn from a normal distribution about the middle of the teacher's interval, nine tenths of which lie
    within it; q is the conformal quantile of :math:`|T(y) - T(\hat y)| / g`, with the teacher's g of the similarity.

    Args:
        teacher: intervals of the teacher.
        low_V, high_V: its ends for molecules that the student did not learn from, in the target's unit.
        predicted: the student's predictions for them.
        place: index of the target, for the draw.
    """
    start = ConformalIntervals(1.0, None, teacher.similarity_knots, teacher.similarity_factors)
    forward = predicted.transform.forward
    low_V, high_V = forward(low_V), forward(high_V)
    usable_V = np.isfinite(low_V) & np.isfinite(high_V)
    noise_SV = numpy_generator(0, "labels within intervals", place).standard_normal((DRAWS, len(low_V)))
    labels_SV = (low_V + high_V) / 2 + noise_SV * (high_V - low_V) / (2 * _DEVIATIONS)
    ratios_SV = np.abs(labels_SV - forward(predicted.values)) / start.half_widths(predicted)
    half = conformal_quantile(ratios_SV[:, usable_V].ravel(), None) if usable_V.any() else None
    return None if half is None else replace(start, half_width=half)


def _judged(chosen: Chosen, labels_B: np.ndarray, predicted: Predicted) -> Judged:
    """What the intervals or sets of a column reach on the test part."""
    known_B = np.isfinite(labels_B)
    data = HeldOut(labels_B, predicted)[np.flatnonzero(known_B)]
    if not known_B.any():
        return Judged()
    if chosen.intervals is not None:
        return Judged(judged_on=len(data), measured=chosen.intervals.evaluate(data)["coverage"])
    if chosen.sets is not None:
        held = chosen.sets.evaluate(data)
        return Judged(set_coverage=held["coverage"], set_single=held["single"])
    return Judged()


def _calibration_words(made: Compressed, calibration: Calibration) -> list[str]:
    lines = []
    for target, one in zip(made.teacher.targets, calibration.targets, strict=True):
        if one.chosen.intervals is not None:
            line = f"{target.name}: interval {one.chosen.intervals.describe(target.transform)}, made for "
            line += f"{calibration.coverage:.0%} coverage from the intervals of the model that taught the student and "
            line += f"the distance between both on {one.judged.molecules} molecules"
            held = f"; measured coverage {one.judged.measured:.1%} of {one.judged.judged_on} test molecules"
            lines.append(line + (held if one.judged.measured is not None else ""))
        if one.chosen.sets is not None:
            line = f"{target.name}: sets of classes made for {calibration.coverage:.0%} coverage as those of the model "
            held = f"; {one.judged.set_coverage:.1%} of the test molecules have their class in the set"
            lines.append(line + "that taught the student" + (held if one.judged.set_coverage is not None else ""))
    return lines


def _card(config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    found, names = metrics["compressed"], ", ".join(target["name"] for target in metrics["targets"])
    student, table = config["members"][0]["student"], "\n".join(comparison_table(metrics))
    headline = "\n\n".join([*(one["sentence"] for one in metrics["verdicts"]), *agreement_lines(metrics)])
    return f"""# Compressed predictor of {names}

{headline}

- One student ({student["name"]}, {student["num_layers"]} layers of {student["width"]}) from the encoder \
`{config["training"]["encoder"]}`, taught by `dnd compress` what a model of several members predicts.
- It was taught {found["molecules"]} molecules without their labels; {found["known_molecules"]} of them have one that \
the model learned. {found["held_out"]} others were held out.
- The model that taught it: {metrics["task_reason"]}; manifest `{found["teacher"]}`.
- Test part: the model's own, which taught neither anything.

```
{table}
```

Input: SMILES without conformers; every spelling of a molecule gives the same prediction.
Hydrogens: `{config["hydrogens"]}`.
Predictions for molecules unlike the labelled molecules are extrapolations; `dnd predict` marks them in `in_domain`.
"""
