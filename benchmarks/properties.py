"""Make `dnd-properties`, the properties that ship ready-made: from encoder, labels and blends to one student.

    python benchmarks/properties.py all DATA OUT       every step that is not done yet; an hour and a half of a core
    python benchmarks/properties.py STEP DATA OUT      collect, blends, forests, soft, student or write
    python benchmarks/properties.py compare DATA OUT   the blends and each course beside what ships (validation parts)
    python benchmarks/properties.py calibrate DATA OUT what ships, for classes that had too few molecules before
    python benchmarks/properties.py draw               the table of docs/results/properties.md

DATA has qm9/qm9_3d.npz with qm9_props.npz, and druglike_etkdg/druglike_etkdg.npz (data/README.md says what they are);
all else is in the repository. `properties_data.py` says which labels teach, which judge, and what is left out.

1. collect: every molecule, its labels, and the part that each label is in.
2. blends: `best` on the training labels of each measured data set, `fast` on those of the large ones.
3. forests: a random forest on counts of the same training labels, to stand beside the student.
4. soft: what every blend says of the training molecules of all small sets, and of a part of those of the large ones and
   of the pool of unlabelled molecules.
5. student: from the body of `dnd-base`, one network learns measured and calculated values where there are some, and
   what the blends say elsewhere, in six courses with different molecules.
6. write: the validation parts teach intervals and probabilities, the test parts are read and judge, a property that is
   not better than the mean of its training part is dropped, and the MODEL folder is written with its card.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from properties_data import (
    ENCODER,
    FEWEST_ROWS,
    FOREST_CALCULATED,
    FOREST_ROWS,
    HYDROGENS,
    MEASURED,
    MOST_REPEATS,
    PROPERTIES,
    Molecules,
    Property,
    collect,
    small_and_calculated,
)
from properties_folder import (
    MODEL,
    PAGE,
    RESULTS,
    drawn,
    judge,
    lines_of,
    read_raw,
    recalibrate,
    write_folder,
    write_raw,
)
from safetensors.torch import save

from dnd.chemistry.parse import read_smiles
from dnd.chemistry.splits import Split
from dnd.common.config import load_config
from dnd.common.files import read_json, sha256_file, write_bytes, write_text
from dnd.common.log import LOGGER, PROGRESS, told
from dnd.common.model_folder import load_strictly, read_tensors
from dnd.common.runs import read_record, write_record
from dnd.finetuning.compress import CompressionObjective
from dnd.finetuning.evaluation import fit_forests
from dnd.finetuning.finetune import finetune
from dnd.finetuning.outcome import training_facts
from dnd.finetuning.settings import FinetuneConfig
from dnd.finetuning.students import initial_student, probe_head
from dnd.models.students.encoders import half_precision
from dnd.predictor.classical.features import Layout, count_fingerprints, features_of
from dnd.predictor.ensemble import PropertyNetwork, run_over, to_raw_units
from dnd.predictor.metrics import score
from dnd.predictor.model_folder import Member
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target
from dnd.store.featurize import valid_molecules
from dnd.store.reader import Store
from dnd.tables.writers import csv_text
from dnd.training.loop import train
from dnd.training.settings import LoopConfig

POOL_ROWS, LARGE_ROWS, SMALL_ROWS = 5_000, 8_000, 8_000
"""Molecules of the pool and of the large sets that the blends explain, and calculated ones of QM9's size that teach."""
PIECE = 500
MOST_FOR_BEST, TIME_LIMIT_S = 5_000, 900
"""Training molecules from which on the blend is of `fast`, and wall seconds that one of `best` may take."""


def places_of(source: str) -> list[int]:
    """Columns of a source."""
    return [place for place, one in enumerate(PROPERTIES) if one.source == source]


def training_rows(molecules: Molecules, source: str, most: int | None = None) -> np.ndarray:
    """Molecules with a training label of a source, at most so many, drawn at random."""
    rows = np.flatnonzero((molecules.part_BC[:, places_of(source)] == 1).any(axis=1))
    return np.sort(np.random.default_rng(4).permutation(rows)[:most])


def blended(molecules: Molecules) -> list[str]:
    """The measured sets, each of which has a blend."""
    return [name for name in MEASURED if len(training_rows(molecules, name))]


def scarce(molecules: Molecules) -> list[str]:
    """Those of few molecules, which are taught several times."""
    return [name for name in blended(molecules) if len(training_rows(molecules, name)) < FEWEST_ROWS]


def without_surplus(molecules: Molecules) -> Molecules:
    """The same, where of QM9's molecules no more teach than there are to."""
    small = np.flatnonzero(small_and_calculated(molecules) & (molecules.part_BC == 1).any(axis=1))
    surplus = np.random.default_rng(7).permutation(small)[SMALL_ROWS:]
    return without_labels(molecules, surplus)


def without_labels(molecules: Molecules, rows: np.ndarray) -> Molecules:
    """The same without the training labels of some rows."""
    part_BC = molecules.part_BC.copy()
    part_BC[rows] = np.where(part_BC[rows] == 1, 0, part_BC[rows])
    return replace(molecules, part_BC=part_BC, labels_BC=np.where(part_BC > 0, molecules.labels_BC, np.nan))


# 2. Blends.


def fit_blends(molecules: Molecules, out: Path, names: Sequence[str]) -> None:
    """A blend per data set; its test part is the validation part of the set."""
    for name in names:
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
        recipe = "best" if len(train) < MOST_FOR_BEST else "fast"
        words += [f"blend.time_limit_s={TIME_LIMIT_S}"] if recipe == "best" else []
        config = load_config(FinetuneConfig, recipe, words, stage="finetune")
        finetune(table, folder, names, config, encoder=ENCODER, resume=folder.is_dir())


def compare(molecules: Molecules, out: Path, results: Path) -> None:
    """A line per property, on validation parts: what ships, a measured one's blend, the student after each course."""
    valid = np.flatnonzero((molecules.part_BC == 2).any(axis=1))
    store = valid_molecules([molecules.smiles[row] for row in valid], HYDROGENS).store
    members = {"shipped": Predictor.load(MODEL, device="cpu").parts.members[0]}
    members |= {f"course_{course + 1}": student_of(out, course)[0] for course in range(last_course(out) + 1)}
    said = {name: validation_values(member, store, len(valid)) for name, member in members.items()}
    lines = []
    for place, one in enumerate(PROPERTIES):
        known_B = molecules.part_BC[valid, place] == 2
        metric = "rmse" if one.kind == "regression" else "rocauc"
        labels_B1 = molecules.labels_BC[valid[known_B], place, None]
        students = [score(metric, labels_B1, values_BC[known_B, place, None]).value for values_BC in said.values()]
        sizes = [len(training_rows(molecules, one.source)), len(labels_B1)]
        blend = f"{blend_score(out, one, metric):.5g}" if one.source in MEASURED else ""
        lines.append([one.name, one.source, *sizes, metric, blend, *(f"{value:.5g}" for value in students)])
    columns = ["property", "set", "training", "validation", "metric", "blend", *members]
    write_text(results / "blends.csv", csv_text(columns, lines))


def blend_score(out: Path, one: Property, metric: str) -> float:
    """Score of a property's blend on the validation part of its set."""
    metrics = read_json(out / "blends" / one.source / "metrics.json")["parts"]["test"]
    found: float = metrics.get("targets", {one.name: metrics})[one.name][metric]
    return found


def validation_values(member: Member, store: Store, count: int) -> np.ndarray:
    """What a student says of molecules, a column per property of `PROPERTIES`, in raw units."""
    values_BC = to_raw_units(run_over(member.network, member.network.student, store, np.arange(count)), member.targets)
    place_of = {target.name: place for place, target in enumerate(member.targets)}
    return values_BC[:, [place_of[one.name] for one in PROPERTIES]]


# 3. Forests beside the student.


def fit_each_forest(molecules: Molecules, out: Path) -> None:
    """Predictions of a forest on counts for the test part of each source."""
    for source in dict.fromkeys(one.source for one in PROPERTIES):
        path, places = out / "forests" / f"{source}.json", places_of(source)
        if path.is_file():
            continue
        train = training_rows(molecules, source, FOREST_ROWS if source in MEASURED else FOREST_CALCULATED)
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
    """Molecules that blends explain: those of the small sets, and a part of those of large ones and of the pool."""
    small = np.unique(np.concatenate([training_rows(molecules, name) for name in scarce(molecules)]))
    large = [training_rows(molecules, name) for name in blended(molecules) if name not in scarce(molecules)]
    others = np.setdiff1d(np.concatenate([np.empty(0, np.int64), *large]), small)
    generator = np.random.default_rng(6)
    pool = generator.permutation(np.flatnonzero(molecules.pooled_B))[:POOL_ROWS]
    return np.unique(np.concatenate([small, generator.permutation(others)[:LARGE_ROWS], pool]))


def ask_blends(molecules: Molecules, out: Path) -> None:
    """Pieces of predictions of all blends, features computed once for all of them."""
    rows, blends = taught_rows(molecules), {}
    for number, start in enumerate(range(0, len(rows), PIECE)):
        path = out / "soft" / f"piece-{number:03d}.json"
        if path.is_file():
            continue
        blends = blends or {name: Predictor.load(out / "blends" / name) for name in blended(molecules)}
        own = rows[start : start + PIECE]
        found = valid_molecules([molecules.smiles[row] for row in own], HYDROGENS)
        values, shared = np.full((len(own), len(PROPERTIES)), np.nan), None
        for name, predictor in blends.items():
            blend = predictor.parts.blend
            assert blend is not None
            assert blend.encoder is not None
            shared = shared or features_of(found.smiles, None, Layout(0, blend.layout.sets))
            # Each blend sees other predictions of the encoder: none of a property that its own molecules taught.
            x_BF = np.concatenate([blend.encoder.embed(found.store), shared.x_BF], axis=1)
            values[np.ix_(found.places, places_of(name))] = predictor.predict_store(
                found.store, replace(shared, x_BF=x_BF)
            )[0]
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


def lessons(molecules: Molecules, soft_BC: np.ndarray, course: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows that teach, some repeated, and their values: known ones where there are some, else what the blends say.

    Where a label is in a validation or test part nothing is said of it, not even by a blend.

    Args:
        molecules: all of them.
        soft_BC: what the blends say; NaN = nothing.
        course: number of it; each has other ones of the molecules of which no blend says anything.
    """
    values_BC = np.where(molecules.part_BC == 1, molecules.labels_BC, np.where(molecules.part_BC == 0, soft_BC, np.nan))
    teaches_B = np.isfinite(values_BC).any(axis=1)
    silent = np.random.default_rng(8).permutation(np.flatnonzero(teaches_B & ~np.isfinite(soft_BC).any(axis=1)))
    teaches_B[silent] = False
    teaches_B[np.roll(silent, -course * OTHER_ROWS)[:OTHER_ROWS]] = True
    repeated = []
    for name in scarce(molecules):
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


RATES = (1e-3, 5e-4, 5e-4, 3e-4, 3e-4, 2e-4)
"""Highest learning rate of each course."""
PROBE_STEPS = 400
OTHER_ROWS = 24_000
"""Molecules of which no blend says anything that teach in a course, of some 50,000."""


def teach(molecules: Molecules, out: Path, course: int) -> None:
    """Train the whole network for an epoch, before the first course its head alone; the validation parts judge it.

    Args:
        molecules: all of them.
        out: folder of the run.
        course: number of it; each starts from what the one before left.
    """
    name = f"student-{course}"
    if (out / f"{name}.json").is_file():
        return
    rows, values_BC = lessons(molecules, soft_labels(molecules, out), course)
    valid = np.flatnonzero((molecules.part_BC == 2).any(axis=1))
    distinct, places = np.unique(rows, return_inverse=True)
    valid_BC = np.where(molecules.part_BC[valid] == 2, molecules.labels_BC[valid], np.nan)
    texts = [molecules.smiles[row] for row in [*distinct, *valid]]
    found = valid_molecules(texts, HYDROGENS)
    assert len(found.places) == len(texts), "every molecule was parsed before"
    if course:
        before, _ = student_of(out, course - 1)
        network, targets = before.network.train(), list(before.targets)
    else:
        targets = targets_of(values_BC[rows])
        network = PropertyNetwork(initial_student(FinetuneConfig(), ENCODER, 1), "mean", "mlp", len(targets), 1)
    part = Split(places, np.arange(len(distinct), len(texts)), np.empty(0, np.int64))
    loop = LoopConfig(
        epochs=1, batch_size=128, learning_rate=RATES[course], min_learning_rate=1e-6, warmup_epochs=0.1, seed=1,
    )  # fmt: skip
    taught_BC = np.concatenate([values_BC[distinct], valid_BC])
    objective = CompressionObjective(
        network, found.store, taught_BC, targets, part, True, loop, 0.85, value_loss="huber", select_by_loss=True
    )
    LOGGER.log(PROGRESS, f"{name}: {len(rows)} rows of {len(distinct)} molecules teach, {len(valid)} judge")
    if not course and not (out / name).is_dir():
        probe = probe_head(objective, PROBE_STEPS, 1)
        LOGGER.log(PROGRESS, f"head fitted: validation loss {probe.loss:.4f} after {probe.steps} steps")
    record = {"molecules": sha256_file(out / "molecules.npz"), "others": OTHER_ROWS, "course": course}
    result = train(objective, loop, out / name, resume=True, settings=record, title=name)
    objective.to("cpu")
    weights = {key: value.contiguous() for key, value in half_precision(network.state_dict()).items()}
    write_bytes(out / f"{name}.safetensors", save(weights))
    member = Member(network, tuple(targets), 1, 1.0, network.student.config, "mlp")
    facts = {"scale": [target.scale() for target in targets], "facts": training_facts(member, result)}
    write_record(out / f"{name}.json", facts | {"rows": len(rows), "molecules": len(distinct)})


def teach_all(molecules: Molecules, out: Path) -> None:
    """Every course that is not done."""
    for course in range(len(RATES)):
        teach(molecules, out, course)


def student_of(out: Path, course: int) -> tuple[Member, dict[str, Any]]:
    """The network after a course, matrices rounded to half precision as it ships, and the record of its training."""
    record = read_record(out / f"student-{course}.json")
    targets = [
        Target(one.name, one.unit, kind=one.kind).with_scale(scale)
        for one, scale in zip(PROPERTIES, record["scale"], strict=True)
    ]
    network = PropertyNetwork(initial_student(FinetuneConfig(), ENCODER, 1), "mean", "mlp", len(targets), 1)
    load_strictly(network, read_tensors(out / f"student-{course}.safetensors"), "the student")
    return Member(network.eval(), tuple(targets), 1, 1.0, network.student.config, "mlp"), record


def last_course(out: Path) -> int:
    """The last course that is done."""
    return max(course for course in range(len(RATES)) if (out / f"student-{course}.json").is_file())


# 6. Judged and written.


def write(molecules: Molecules, out: Path, folder: Path, results: Path) -> None:
    """Calibrate, judge, and write the MODEL folder and the raw lines."""
    last = last_course(out)
    member, record = student_of(out, last)
    soft_BC = soft_labels(molecules, out)
    taught = np.unique(np.concatenate([lessons(molecules, soft_BC, course)[0] for course in range(last + 1)]))
    record["molecules"] = len(taught)
    molecules = without_labels(molecules, np.setdiff1d(np.arange(len(molecules.smiles)), taught))
    judged = judge(molecules, member, forest_predictions(molecules, out))
    lines = lines_of(molecules, judged, record)
    write_raw(results, lines, judged)
    write_folder(folder, molecules, member, judged, lines, record)


STEPS = ("all", "collect", "blends", "forests", "soft", "student", "write", "compare", "calibrate", "draw")


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--most", type=int, help="of each part of each source, for a rehearsal that writes into OUT")
    given = parser.parse_args()
    if given.step == "draw":
        write_text(PAGE, drawn(PAGE.read_text(encoding="utf-8"), read_raw(), read_raw("blends.csv")))
        return
    out: Path = given.out
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "molecules.npz"
    if not kept.is_file():
        collect(given.data, given.most).write(kept)
    if given.step == "calibrate":
        print("calibrated: " + ", ".join(recalibrate(MODEL, RESULTS, Molecules.read(kept))))
        return
    if given.step == "compare":
        compare(Molecules.read(kept), out, RESULTS)
        return
    molecules = without_surplus(Molecules.read(kept))
    rehearsal = given.most is not None
    steps: dict[str, Callable[[], None]] = {
        "blends": lambda: fit_blends(molecules, out, blended(molecules)),
        "forests": lambda: fit_each_forest(molecules, out),
        "soft": lambda: ask_blends(molecules, out),
        "student": lambda: teach_all(molecules, out),
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
