"""Make `dnd-properties`, the properties that ship ready-made: from encoder, labels and blends to one student.

    python benchmarks/properties.py all DATA OUT       every step that is not done yet; some 25 minutes of a core
    python benchmarks/properties.py STEP DATA OUT      collect, blends, forests, soft, labels, student or write
    python benchmarks/properties.py draw               the table of docs/results/properties.md

DATA has qm9/qm9_3d.npz with qm9_props.npz, and druglike_etkdg/druglike_etkdg.npz (data/README.md says what they are);
all else is in the repository. `properties_data.py` says which labels teach, which judge, and what is left out.

1. collect: every molecule, its labels, and the part that each label is in.
2. blends: the recipe `fast` on the training labels of each measured data set of few molecules.
3. forests: a random forest on counts of the same training labels, to stand beside the student.
4. soft: what every blend says of the training molecules of all small sets and of the pool of unlabelled molecules.
5. labels: from the body of `dnd-base`, one network learns measured and calculated values.
6. student: the same network learns on, now also what the blends say where there is no label.
7. write: the validation parts teach intervals and probabilities, the test parts are read and judge, a property that is
   not better than the mean of its training part is dropped, and the MODEL folder is written with its card.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from properties_data import (
    DFT,
    MEASURED,
    PROPERTIES,
    ROOT,
    SMALL_MOLECULES,
    Molecules,
    Property,
    collect,
    data_of,
)
from safetensors.torch import save

from dnd.chemistry.parse import read_smiles
from dnd.chemistry.splits import Split
from dnd.common.config import load_config
from dnd.common.files import package_versions, sha256_file, write_bytes, write_text
from dnd.common.log import LOGGER, PROGRESS, told
from dnd.common.model_folder import load_strictly, read_tensors
from dnd.common.sealed_records import read_record, write_record
from dnd.finetuning.baselines import fit_forests, mean_prediction
from dnd.finetuning.class_labels import describe_targets
from dnd.finetuning.compress import Apprentice
from dnd.finetuning.evaluation import part_metrics
from dnd.finetuning.finetune import finetune
from dnd.finetuning.outcome import training_facts
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.students import initial_student, probe_head
from dnd.finetuning.verdict import Judged, Verdict, judge_beside_baselines
from dnd.models.students.encoders import encoder_folder, half_precision
from dnd.predictor.applicability_domain import Domain, fit_domain, write_domain
from dnd.predictor.classical.features import count_fingerprints, features_of
from dnd.predictor.metrics import metric_names, score, significant
from dnd.predictor.model_folder import KNOWN, Member, known_molecules, predictor_config, write_predictor
from dnd.predictor.network import PropertyNetwork, run_over, to_raw_units
from dnd.predictor.predictor import Predictor
from dnd.predictor.ready_made import LIMITS, PROPERTIES_FILE, ReadyMade, properties_text
from dnd.predictor.targets import Target
from dnd.predictor.uncertainty.calibration import Calibration, write_calibration
from dnd.predictor.uncertainty.fitting import calibrate
from dnd.store.featurize import valid_molecules
from dnd.store.schema import HydrogenSetting
from dnd.training.loop import train
from dnd.training.settings import LoopConfig

ENCODER, HYDROGENS = "dnd-base", "teacher_all_student_heavy"
MODEL = ROOT / "src" / "dnd" / "data" / "models" / "dnd-properties"
RESULTS = ROOT / "docs" / "results" / "properties"
PAGE = ROOT / "docs" / "results" / "properties.md"
BEGIN, END = "<!-- drawn from properties/properties.csv -->", "<!-- end of properties -->"
FOREST_ROWS = 1_500
"""Training molecules that a forest learns from at most."""
FEWEST_ROWS, MOST_REPEATS = 3_000, 3
"""A set with fewer training molecules has a blend, and is taught several times in an epoch, up to so often."""
POOL_ROWS, SMALL_ROWS = 3_000, 8_000
"""Molecules of the pool that the blends explain, and calculated ones of QM9's size that teach."""
PIECE = 500
hydrogens: HydrogenSetting = HYDROGENS  # type: ignore[assignment]


def places_of(source: str) -> list[int]:
    """Columns of a source."""
    return [place for place, one in enumerate(PROPERTIES) if one.source == source]


def training_rows(molecules: Molecules, source: str, most: int | None = None) -> np.ndarray:
    """Molecules with a training label of a source, at most so many, drawn at random."""
    rows = np.flatnonzero((molecules.part_BC[:, places_of(source)] == 1).any(axis=1))
    return np.sort(np.random.default_rng(4).permutation(rows)[:most])


def blended(molecules: Molecules) -> list[str]:
    """The sets of few molecules; the others teach by their labels alone."""
    return [name for name in MEASURED if 0 < len(training_rows(molecules, name)) < FEWEST_ROWS]


def heavy_atoms(molecules: Molecules) -> np.ndarray:
    """Of each molecule."""
    return np.array([read_smiles(text)[0].GetNumHeavyAtoms() for text in molecules.smiles])


def without_surplus(molecules: Molecules) -> Molecules:
    """The same, where of QM9's molecules no more teach than there are to."""
    is_small_B = molecules.calculated_B & (heavy_atoms(molecules) <= SMALL_MOLECULES)
    small = np.flatnonzero(is_small_B & (molecules.part_BC == 1).any(axis=1))
    surplus = np.random.default_rng(7).permutation(small)[SMALL_ROWS:]
    part_BC = molecules.part_BC.copy()
    part_BC[surplus] = np.where(part_BC[surplus] == 1, 0, part_BC[surplus])
    return replace(molecules, part_BC=part_BC, labels_BC=np.where(part_BC > 0, molecules.labels_BC, np.nan))


# 2. Blends.


def fit_blends(molecules: Molecules, out: Path) -> None:
    """A blend per small data set; its test part is the validation part of the set."""
    for name in blended(molecules):
        folder = out / "blends" / name
        if (folder / "manifest.json").is_file():
            continue
        table, places = out / "blends" / f"{name}.csv", places_of(name)
        train = training_rows(molecules, name)
        valid = np.flatnonzero((molecules.part_BC[:, places] == 2).any(axis=1))
        tenth = set(np.random.default_rng(5).permutation(train)[: len(train) // 10].tolist())
        part_of = {row: "valid" if row in tenth else "train" for row in train.tolist()} | dict.fromkeys(
            valid.tolist(), "test"
        )
        table.parent.mkdir(parents=True, exist_ok=True)
        names = [PROPERTIES[place].name for place in places]
        with open(table, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["smiles", *names, "part"])
            for row, part in part_of.items():
                own = molecules.part_BC[row, places] == (2 if part == "test" else 1)
                values = np.where(own, molecules.labels_BC[row, places], np.nan)
                writer.writerow(
                    [molecules.smiles[row], *("" if np.isnan(one) else repr(float(one)) for one in values), part]
                )
        words = [
            "split=column:part",
            "baselines=false",
            f"task={PROPERTIES[places[0]].kind}",
            "transform=none",
            "jobs=1",
        ]
        config = load_config(FinetuneConfig, "fast", words, stage="finetune")
        finetune(table, folder, names, config, encoder=ENCODER, resume=folder.is_dir())


# 3. Forests beside the student.


def fit_each_forest(molecules: Molecules, out: Path) -> None:
    """Predictions of a forest on counts for the test part of each source."""
    for source in dict.fromkeys(one.source for one in PROPERTIES):
        path, places = out / "forests" / f"{source}.json", places_of(source)
        if path.is_file():
            continue
        train = training_rows(molecules, source, FOREST_ROWS)
        test = np.flatnonzero((molecules.part_BC[:, places] == 3).any(axis=1))
        rows = np.concatenate([train, test])
        counts = count_fingerprints([read_smiles(molecules.smiles[row])[0] for row in rows])
        labels = np.where(molecules.part_BC[rows][:, places] == 1, molecules.labels_BC[rows][:, places], np.nan)
        labels[len(train) :] = np.nan
        kinds = [PROPERTIES[place].kind for place in places]
        found = fit_forests(counts, labels, np.arange(len(train)), kinds)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_record(path, {"rows": test.tolist(), "values": found.predictions_BC[len(train) :].tolist()})
        LOGGER.log(PROGRESS, f"forests of {source}: {len(train)} training molecules")


def forest_predictions(molecules: Molecules, out: Path) -> np.ndarray:
    """What the forests say, NaN where a molecule is in no test part."""
    found = np.full(molecules.labels_BC.shape, np.nan)
    for source in dict.fromkeys(one.source for one in PROPERTIES):
        record = read_record(out / "forests" / f"{source}.json")
        found[np.ix_(record["rows"], places_of(source))] = record["values"]
    return found


# 4. What the blends say.


def taught_rows(molecules: Molecules) -> np.ndarray:
    """Molecules that blends explain: those with a training label of a small set, and a part of the pool."""
    places = [place for name in blended(molecules) for place in places_of(name)]
    pool = np.random.default_rng(6).permutation(np.flatnonzero(molecules.pooled_B))[:POOL_ROWS]
    return np.union1d(np.flatnonzero((molecules.part_BC[:, places] == 1).any(axis=1)), pool)


def ask_blends(molecules: Molecules, out: Path) -> None:
    """Pieces of predictions of all blends, features computed once for all of them."""
    rows, blends = taught_rows(molecules), {}
    for number, start in enumerate(range(0, len(rows), PIECE)):
        path = out / "soft" / f"piece-{number:03d}.json"
        if path.is_file():
            continue
        blends = blends or {name: Predictor.load(out / "blends" / name) for name in blended(molecules)}
        own = rows[start : start + PIECE]
        found = valid_molecules([molecules.smiles[row] for row in own], hydrogens)
        blend = next(iter(blends.values())).parts.blend
        assert blend is not None
        assert blend.encoder is not None
        features = features_of(found.smiles, blend.encoder.embed(found.store), blend.layout)
        values = np.full((len(own), len(PROPERTIES)), np.nan)
        for name, predictor in blends.items():
            values[np.ix_(found.places, places_of(name))] = predictor.predict_store(found.store, features)[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [[None if np.isnan(one) else float(f"{one:.6g}") for one in row] for row in values.tolist()]
        write_record(path, {"rows": own.tolist(), "values": lines})
        LOGGER.log(PROGRESS, f"the blends have explained {start + len(own)} of {len(rows)} molecules")


def soft_labels(molecules: Molecules, out: Path) -> np.ndarray:
    """What the blends say; NaN elsewhere."""
    found = np.full(molecules.labels_BC.shape, np.nan)
    for path in sorted((out / "soft").glob("piece-*.json")):
        record = read_record(path)
        found[record["rows"]] = np.array(record["values"], dtype=float)
    return found


# 5. The student.


def lessons(molecules: Molecules, soft_BC: np.ndarray, others: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows that teach, some repeated, and their values: known ones where there are some, else what the blends say.

    Where a label is in a validation or test part nothing is said of it, not even by a blend.

    Args:
        molecules: all of them.
        soft_BC: what the blends say; NaN = nothing.
        others: molecules of which no blend says anything that teach at most; None = all.
    """
    values_BC = np.where(molecules.part_BC == 1, molecules.labels_BC, np.where(molecules.part_BC == 0, soft_BC, np.nan))
    teaches_B = np.isfinite(values_BC).any(axis=1)
    if others is not None:
        silent = np.flatnonzero(teaches_B & ~np.isfinite(soft_BC).any(axis=1))
        teaches_B[np.random.default_rng(8).permutation(silent)[others:]] = False
    repeated = []
    for name in blended(molecules):
        own = training_rows(molecules, name)
        repeated += [own] * (min(MOST_REPEATS, FEWEST_ROWS // len(own)) - 1)
    return np.concatenate([np.flatnonzero(teaches_B), *repeated]).astype(np.int64), values_BC


def targets_of(values_BC: np.ndarray) -> list[Target]:
    """The targets, values in deviations of what is taught."""
    found = []
    for one, values_B in zip(PROPERTIES, values_BC.T, strict=True):
        target = Target(one.name, one.unit, kind=one.kind)
        if one.kind == "regression":
            target = replace(target, mean=float(np.nanmean(values_B)), std=float(np.nanstd(values_B)))
        found.append(target)
    return found


@dataclass(frozen=True)
class Course:
    """How a network is taught.

    Attributes:
        name: of its files in OUT.
        start: the course before it, whose weights it starts from; empty = the encoder, and the head is fitted first.
        with_blends: whether what the blends say is taught beside labels.
        others: molecules of which no blend says anything that teach at most; None = all.
        epochs, learning_rate, min_learning_rate: of the training.
    """

    name: str
    start: str
    with_blends: bool
    others: int | None
    epochs: int
    learning_rate: float
    min_learning_rate: float


COURSES = {
    "labels": Course("labels", "", False, None, 1, 1e-3, 1e-4),
    "student": Course("student", "labels", True, 15_000, 1, 5e-4, 1e-6),
}
PROBE_STEPS = 400


def teach(molecules: Molecules, out: Path, course: Course) -> None:
    """Train a network on what a course teaches; the validation parts choose its epoch."""
    if (out / f"{course.name}.json").is_file():
        return
    soft_BC = soft_labels(molecules, out) if course.with_blends else np.full(molecules.labels_BC.shape, np.nan)
    rows, values_BC = lessons(molecules, soft_BC, course.others)
    valid = np.flatnonzero((molecules.part_BC == 2).any(axis=1))
    distinct, places = np.unique(rows, return_inverse=True)
    valid_BC = np.where(molecules.part_BC[valid] == 2, molecules.labels_BC[valid], np.nan)
    texts = [molecules.smiles[row] for row in [*distinct, *valid]]
    found = valid_molecules(texts, hydrogens)
    assert len(found.places) == len(texts), "every molecule was parsed before"
    if course.start:
        member, _ = student_of(out, course.start)
        network, targets = member.network.train(), list(member.targets)
    else:
        targets = targets_of(values_BC[rows])
        network = PropertyNetwork(initial_student(FinetuneConfig(), ENCODER, 1), "mean", "mlp", len(targets), 1)
    part = Split(places, np.arange(len(distinct), len(texts)), np.empty(0, np.int64))
    loop = LoopConfig(
        epochs=course.epochs, batch_size=128, learning_rate=course.learning_rate, warmup_epochs=0.1, schedule="cosine",
        min_learning_rate=course.min_learning_rate, weight_decay=0.05, clip_norm=5.0, seed=1,
    )  # fmt: skip
    objective = Apprentice(
        network, found.store, np.concatenate([values_BC[distinct], valid_BC]), targets, part, True, loop, 0.85,
        value_loss="huber", select_by_loss=True,
    )  # fmt: skip
    LOGGER.log(
        PROGRESS, f"{course.name}: {len(rows)} rows of {len(distinct)} molecules teach, {len(valid)} judge epochs"
    )
    if not course.start and not (out / course.name).is_dir():
        probe = probe_head(objective, PROBE_STEPS, 1)
        LOGGER.log(PROGRESS, f"head fitted: validation loss {probe.loss:.4f} after {probe.steps} steps")
    record = {"molecules": sha256_file(out / "molecules.npz"), "course": asdict(course)}
    result = train(objective, loop, out / course.name, resume=True, settings=record, title=course.name)
    objective.to("cpu")
    weights = {name: value.contiguous() for name, value in half_precision(network.state_dict()).items()}
    write_bytes(out / f"{course.name}.safetensors", save(weights))
    member = Member(network, tuple(targets), 1, 1.0, network.student.config, "mlp")
    facts = {"scale": [target.scale() for target in targets], "facts": training_facts(member, result)}
    write_record(out / f"{course.name}.json", facts | {"rows": len(rows), "molecules": len(distinct)})


def student_of(out: Path, name: str = "student") -> tuple[Member, dict[str, Any]]:
    """The network of a course, matrices rounded to half precision as it ships."""
    record = read_record(out / f"{name}.json")
    targets = [Target(one.name, one.unit, kind=one.kind).with_scale(scale)
               for one, scale in zip(PROPERTIES, record["scale"], strict=True)]  # fmt: skip
    network = PropertyNetwork(initial_student(FinetuneConfig(), ENCODER, 1), "mean", "mlp", len(targets), 1)
    load_strictly(network, read_tensors(out / f"{name}.safetensors"), "the student")
    return Member(network.eval(), tuple(targets), 1, 1.0, network.student.config, "mlp"), record


def of_columns(member: Member, kept: Sequence[int]) -> Member:
    """The student with some of its outputs."""
    network = PropertyNetwork(member.network.student, "mean", "mlp", len(kept), 1)
    state = member.network.state_dict()
    last = max(int(name.split(".")[1]) for name in state if name.startswith("head."))
    for end in ("weight", "bias"):
        state[f"head.{last}.{end}"] = state[f"head.{last}.{end}"][list(kept)]
    network.load_state_dict(state)
    return replace(member, network=network.eval(), targets=tuple(member.targets[place] for place in kept))


# 6. Judged and written.


def judged_rows(molecules: Molecules) -> tuple[np.ndarray, np.ndarray, Split]:
    """Rows of the validation parts and of the test parts, one behind the other, with their labels of that part alone."""
    rows, labels = [], []
    for part in (2, 3):
        own = np.flatnonzero((molecules.part_BC == part).any(axis=1))
        rows.append(own)
        labels.append(np.where(molecules.part_BC[own] == part, molecules.labels_BC[own], np.nan))
    edge, end = len(rows[0]), len(rows[0]) + len(rows[1])
    return np.concatenate(rows), np.concatenate(labels), Split(np.arange(0), np.arange(edge), np.arange(edge, end))


def write(molecules: Molecules, out: Path, folder: Path, results: Path) -> None:
    """Calibrate, judge, and write the MODEL folder and the raw lines."""
    member, record = student_of(out)
    rows, labels_BC, part = judged_rows(molecules)
    found = valid_molecules([molecules.smiles[row] for row in rows], hydrogens)
    assert len(found.places) == len(rows)
    outputs = run_over(member.network, member.network.student, found.store, np.arange(len(rows)))
    values_BC = to_raw_units(outputs, member.targets)
    domain = domain_of(molecules)
    similarity_B = domain.similarity(found.smiles)
    kinds = [one.kind for one in PROPERTIES]
    folds, calibration = calibrate(
        [(part, values_BC)], labels_BC, kinds, similarity_B=similarity_B, identities=found.smiles
    )
    beside = baselines_of(molecules, out, rows)
    judged = Judged(member.targets, labels_BC, found.smiles, folds, {name: [one] for name, one in beside.items()})
    verdicts = judge_beside_baselines(judged, per_target=True)
    lines = [
        line_of(molecules, place, verdicts[place], calibration, folds[0][1], labels_BC, part, beside, record)
        for place in range(len(PROPERTIES))
    ]
    kept = [place for place, line in enumerate(lines) if line["ships"] == "yes"]
    write_lines(results / "properties.csv", lines)
    write_predictions(results / "test_predictions.csv.gz", found.smiles, labels_BC, folds[0][1], part, kept)
    write_model_folder(folder, molecules, of_columns(member, kept), calibration, verdicts, kept, lines, domain, record,
                       (labels_BC, folds[0], beside))  # fmt: skip


def domain_of(molecules: Molecules) -> Domain:
    """Of molecules with a measured training label and of calculated ones beyond QM9's size, by structure alone."""
    teaches_B = (molecules.part_BC == 1).any(axis=1)
    own_B = teaches_B & ~(molecules.calculated_B & (heavy_atoms(molecules) <= SMALL_MOLECULES))
    smiles = [molecules.smiles[row] for row in np.flatnonzero(own_B)]
    found = fit_domain(smiles, lambda rows: np.zeros((len(rows), 1), np.float32))
    assert found is not None
    return found.by_structure()


def baselines_of(molecules: Molecules, out: Path, rows: np.ndarray) -> dict[str, np.ndarray]:
    """What the training mean and a forest say of the judged rows."""
    train_BC = np.where(molecules.part_BC == 1, molecules.labels_BC, np.nan)
    mean_BC = mean_prediction(train_BC, np.arange(len(train_BC)))[: len(rows)]
    return {"mean": mean_BC, "random_forest_counts": forest_predictions(molecules, out)[rows]}


def line_of(
    molecules: Molecules,
    place: int,
    verdict: Verdict,
    calibration: Calibration,
    values_BC: np.ndarray,
    labels_BC: np.ndarray,
    part: Split,
    beside: dict[str, np.ndarray],
    record: dict[str, Any],
) -> dict[str, Any]:
    """The raw line of a property."""
    one, own = PROPERTIES[place], calibration.targets[place]
    relation = {comparison.baseline: comparison.relation or "" for comparison in verdict.comparisons}
    test = part.test[np.isfinite(labels_BC[part.test, place])]
    scores = {
        f"{system}_{metric}": _score(metric, labels_BC[test, place], values[test, place])
        for metric in (("rmse", "mae", "r2") if one.kind == "regression" else ("rocauc", "ap"))
        for system, values in (("student", values_BC), *beside.items())
    }
    data, licence = data_of(one.source)
    judged = own.judged
    return {
        "property": one.name, "unit": one.unit, "kind": one.kind, "data": data, "licence": licence,
        "training": int((molecules.part_BC[:, place] == 1).sum()),
        "validation": int((molecules.part_BC[:, place] == 2).sum()), "test": len(test),
        **scores,
        "beside_mean": relation.get("mean", ""), "beside_forest": relation.get("random_forest_counts", ""),
        "low": _cell(verdict.own.low if verdict.own else None), "high": _cell(verdict.own.high if verdict.own else None),
        "coverage": _cell(judged.measured if own.chosen.intervals else None),
        "brier_before": _cell(judged.before if own.chosen.scaling else None),
        "brier": _cell(judged.measured if own.chosen.scaling else None),
        "set_coverage": _cell(judged.set_coverage),
        "ships": "yes" if relation.get("mean") == "better than" else "no",
        "seed": 1, "taught_molecules": record["molecules"],
        "versions": " ".join(f"{key}={value}" for key, value in package_versions().items()),
    }  # fmt: skip


def _score(metric: str, labels_B: np.ndarray, values_B: np.ndarray) -> str:
    known_B = np.isfinite(values_B)
    return _cell(score(metric, labels_B[known_B, None], values_B[known_B, None]).value if known_B.any() else None)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """The raw lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for line in lines for name in line))
    with open(path, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(lines)


def write_predictions(
    path: Path, smiles: Sequence[str], labels_BC: np.ndarray, values_BC: np.ndarray, part: Split, kept: Sequence[int]
) -> None:
    """Every test label beside what the student says."""
    lines = ["property,smiles,label,predicted"]
    for place in kept:
        for row in part.test[np.isfinite(labels_BC[part.test, place])].tolist():
            lines.append(
                f"{PROPERTIES[place].name},{smiles[row]},{labels_BC[row, place]:.6g},{values_BC[row, place]:.6g}"
            )
    write_bytes(path, gzip.compress("\n".join([*lines, ""]).encode(), 9, mtime=0))


def write_model_folder(
    folder: Path,
    molecules: Molecules,
    member: Member,
    calibration: Calibration,
    verdicts: Sequence[Verdict],
    kept: Sequence[int],
    lines: Sequence[dict[str, Any]],
    domain: Domain,
    record: dict[str, Any],
    judged: tuple[np.ndarray, tuple[Split, np.ndarray], dict[str, np.ndarray]],
) -> None:
    """The MODEL folder with the properties that ship."""
    shutil.rmtree(folder, ignore_errors=True)
    own = Calibration(tuple(calibration.targets[place] for place in kept), calibration.coverage)
    entries = [ready_made(PROPERTIES[place], lines[place]) for place in kept]
    labels_BC, (part, values_BC), beside = judged
    metrics = metrics_of(member, [verdicts[place] for place in kept], record, part, labels_BC[:, kept],
                         values_BC[:, kept], {name: one[:, kept] for name, one in beside.items()}, molecules)  # fmt: skip
    small = {PROPERTIES[place].name: SMALL_MOLECULES for place in kept if PROPERTIES[place].source == DFT}
    training = {"encoder": ENCODER, "encoder_sha256": sha256_file(encoder_folder(ENCODER) / "model.safetensors"),
                "made_by": "benchmarks/properties.py"}  # fmt: skip
    config = predictor_config([member], member.targets, hydrogens, training) | {LIMITS: small}
    write_calibration(folder, own, [verdicts[place].sentence() for place in kept])
    write_domain(folder, domain)
    learned_B = ((molecules.part_BC == 1) | (molecules.part_BC == 2)).any(axis=1)
    write_predictor(
        folder, [member], config, card=card(entries, [lines[p] for p in range(len(lines)) if p not in kept], record),
        metrics=metrics, splits={"split": "of each property its own", "train": [], "valid": [], "test": []},
        tables={PROPERTIES_FILE: properties_text(entries),
                KNOWN: known_molecules(molecules.smiles[row] for row in np.flatnonzero(learned_B))},
        half=True,
    )  # fmt: skip
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {len(kept)} properties, {size:,} bytes")


def ready_made(one: Property, line: dict[str, Any]) -> ReadyMade:
    """What `dnd properties` says of a property."""
    metric = "rmse" if one.kind == "regression" else "rocauc"
    return ReadyMade(
        name=one.name, title=one.title, unit=one.unit, kind=one.kind, data=line["data"], licence=line["licence"],
        training=line["training"], test=line["test"], metric=metric, score=float(line[f"student_{metric}"]),
        forest=float(line[f"random_forest_counts_{metric}"]), beside_forest=line["beside_forest"],
        mean=float(line[f"mean_{metric}"]), bad_at=one.bad_at,
        most_atoms=SMALL_MOLECULES if one.source == DFT else 0,
    )  # fmt: skip


def metrics_of(
    member: Member,
    verdicts: Sequence[Verdict],
    record: dict[str, Any],
    part: Split,
    labels_BC: np.ndarray,
    values_BC: np.ndarray,
    beside: dict[str, np.ndarray],
    molecules: Molecules,
) -> dict[str, Any]:
    """`metrics.json` as of any model."""
    kinds = [target.kind for target in member.targets]
    return {
        "task": "mixed", "task_reason": "values and classes of several data sets", "per_target": True,
        "metric": metric_names(kinds)[0], "metrics": list(metric_names(kinds)),
        "targets": describe_targets(member.targets, ()), "files": [], "split": "of each property its own",
        "counts": {"rows": record["molecules"], "molecules": record["molecules"], "rejected": 0,
                   "labels": int(((molecules.part_BC == 1) | (molecules.part_BC == 2)).sum())},
        "replicates": [], "members": [record["facts"]],
        "parts": part_metrics(part, labels_BC, values_BC, member.targets),
        "baselines": {
            name: {"settings": {}, "parts": part_metrics(part, np.where(np.isfinite(one), labels_BC, np.nan), one, member.targets)}
            for name, one in beside.items()
        },
        "verdicts": [one.as_dict() for one in verdicts],
    }  # fmt: skip


def card(entries: Sequence[ReadyMade], dropped: Sequence[dict[str, Any]], record: dict[str, Any]) -> str:
    """The card: a line per property, what judged it, and how it was made."""
    rows = "\n".join(
        f"| `{one.name}` | {one.title} | {one.unit or '–'} | {one.data} | {one.licence} | {one.training:,} / {one.test:,} "
        f"| {one.metric} {significant(one.score)} | {significant(one.forest)} ({one.beside_forest}) "
        f"| {significant(one.mean)} | {one.bad_at} |"
        for one in entries
    )
    words = ", ".join(f"`{line['property']}`" for line in dropped) or "none"
    return f"""# dnd-properties: {len(entries)} ready-made properties from SMILES

One student, a gine of 5 layers of 192 from the encoder `{ENCODER}`, which was taught by a 3D denoiser and by quantum
chemistry. No conformer is needed. It answers `dnd predict molecules.csv` where no model is named.

| property | what | unit | data | licence | training / test molecules | test part | forest on counts (ours is) | mean | bad at |
|---|---|---|---|---|---|---|---|---|---|
{rows}

Not better than the mean of the training part, and so not in the model: {words}.

- Test part: the official or rebuilt split of each data set (scaffolds for those of OGB, random for boiling and melting
  points, refractive index and logP; drug-like molecules that `dnd-base` had no such label of for GFN2-xTB; random for QM9).
  No molecule of a test part taught any property, whatever its stereochemistry; the validation parts chose the epoch and
  taught intervals and probabilities.
- RMSE in the unit; ROC-AUC of classes. The forest learned from at most {FOREST_ROWS:,} training molecules of the same part.
- Intervals are made for 90 % and are wider for molecules unlike those that taught. Probabilities are calibrated.
- {record["molecules"]:,} molecules taught the student: measured and calculated values where there are some; for data sets of fewer
  than {FEWEST_ROWS:,} training molecules elsewhere what a blend of the recipe `fast`, fitted on the set, says.
- `in_domain` compares with the molecules that have a measured label or a calculation of drug-like size; one answer for
  all properties. Values of QM9 are given for at most {SMALL_MOLECULES} heavy atoms and are empty beyond.
- One seed. Mixtures and salts are predicted as drawn.

Made by `python benchmarks/properties.py all DATA OUT` of the source repository, where `docs/results/properties/` has the raw
lines. Hydrogens: `{HYDROGENS}`. Weights are kept in half precision.
"""


# The page.


def table(lines: Sequence[dict[str, str]]) -> str:
    """A line per property."""
    found = [
        "| property | unit | data | training / test | metric | student | forest on counts | mean | beside the forest | "
        "coverage, made for 90 % | ships |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        metric = "rmse" if line["kind"] == "regression" else "rocauc"
        values = [line[f"{system}_{metric}"] for system in ("student", "random_forest_counts", "mean")]
        covered = f"{float(line['coverage']):.0%}" if line["coverage"] else "–"
        cells = [line["property"], line["unit"] or "–", line["data"], f"{line['training']} / {line['test']}", metric]
        cells += [f"{float(value):.3g}" for value in values]
        found.append(
            f"| {' | '.join([*cells, line['beside_forest'].removesuffix(' than').removesuffix(' with'), covered, line['ships']])} |"
        )
    return "\n".join(found)


def drawn(page: str, lines: Sequence[dict[str, str]]) -> str:
    """The page with its table drawn anew."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{table(lines)}\n{END}{rest.partition(END)[2]}"


def draw() -> None:
    """Put the table into the page."""
    with open(RESULTS / "properties.csv", newline="", encoding="utf-8") as stream:
        write_text(PAGE, drawn(PAGE.read_text(encoding="utf-8"), list(csv.DictReader(stream))))


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "step", choices=["all", "collect", "blends", "forests", "soft", "labels", "student", "write", "draw"]
    )
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--most", type=int, help="of each part of each source, for a rehearsal that writes into OUT")
    given = parser.parse_args()
    if given.step == "draw":
        draw()
        return
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "molecules.npz"
    if not kept.is_file():
        collect(given.data, given.most).write(kept)
    molecules = without_surplus(Molecules.read(kept))
    rehearsal = given.most is not None
    steps: dict[str, Callable[[], None]] = {
        "blends": lambda: fit_blends(molecules, out),
        "forests": lambda: fit_each_forest(molecules, out),
        "soft": lambda: ask_blends(molecules, out),
        "labels": lambda: teach(molecules, out, COURSES["labels"]),
        "student": lambda: teach(molecules, out, COURSES["student"]),
        "write": lambda: write(
            molecules, out, out / "model" if rehearsal else MODEL, out / "results" if rehearsal else RESULTS
        ),
    }
    torch.set_num_threads(1)
    with told(PROGRESS):
        for name, step in steps.items():
            if given.step in ("all", name):
                started = time.process_time()
                step()
                print(f"{name}: {(time.process_time() - started) / 60:.1f} minutes of a core", flush=True)


if __name__ == "__main__":
    main()
