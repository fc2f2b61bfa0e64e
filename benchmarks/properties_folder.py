"""From a taught student to the MODEL folder `dnd-properties`: calibrated, judged, written with its card and raw lines.

Apart from `properties.py`, which teaches: here, and only here, labels of test parts are read.
"""

from __future__ import annotations

import csv
import gzip
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from properties_data import (
    DFT,
    ENCODER,
    FOREST_CALCULATED,
    FOREST_ROWS,
    HYDROGENS,
    PROPERTIES,
    ROOT,
    SMALL_MOLECULES,
    Molecules,
    Property,
    data_of,
    small_and_calculated,
)
from result_lines import read_lines

from dnd.chemistry.splits import Split
from dnd.common.files import package_versions, read_json, sha256_file, write_bytes, write_manifest, write_text
from dnd.common.model_folder import FORMAT_VERSION
from dnd.finetuning.evaluation import mean_prediction, part_metrics
from dnd.finetuning.prepared_labels import describe_targets
from dnd.finetuning.verdict import Judged, Verdict, judge_beside_baselines
from dnd.models.students.encoders import encoder_folder
from dnd.predictor.applicability_domain import Domain, fit_domain, write_domain
from dnd.predictor.ensemble import PropertyNetwork, run_over, to_raw_units
from dnd.predictor.metrics import metric_names, score, significant
from dnd.predictor.model_folder import (
    KIND,
    KNOWN,
    MOST_ATOMS,
    Member,
    known_molecules,
    predictor_config,
    write_predictor,
)
from dnd.predictor.predictor import Predictor
from dnd.predictor.ready_made import PROPERTIES_FILE, ReadyMade, properties_text
from dnd.predictor.uncertainty.calibration import CALIBRATION, Calibration, TargetCalibration, write_calibration
from dnd.predictor.uncertainty.fitting import calibrate
from dnd.store.featurize import valid_molecules

FOREST = "random_forest_counts"
_POOR = 0.8  # coverage of sets made for 90 %, below which the card says so
BEGIN, END = "<!-- drawn from properties/properties.csv -->", "<!-- end of properties -->"
BLENDS = ("<!-- drawn from properties/blends.csv -->", "<!-- end of blends -->")


@dataclass(frozen=True)
class Judgement:
    """The student on validation and test parts.

    Attributes:
        smiles: of the molecules, those of the validation parts first.
        labels_BC: of the part that a molecule stands for; NaN = none.
        values_BC: what the student says, calibrated.
        part: validation and test rows.
        beside: what the training mean and the forest say.
        calibration: learned from the validation rows.
        verdicts: of each property, on the test rows.
        domain: where the student may be used.
    """

    smiles: list[str]
    labels_BC: np.ndarray
    values_BC: np.ndarray
    part: Split
    beside: dict[str, np.ndarray]
    calibration: Calibration
    verdicts: list[Verdict]
    domain: Domain

    def of(self, kept: Sequence[int]) -> Judgement:
        """The same of some properties."""
        return replace(
            self,
            labels_BC=self.labels_BC[:, kept],
            values_BC=self.values_BC[:, kept],
            beside={name: values[:, kept] for name, values in self.beside.items()},
            calibration=Calibration(tuple(self.calibration.targets[one] for one in kept), self.calibration.coverage),
            verdicts=[self.verdicts[place] for place in kept],
        )


def judge(molecules: Molecules, member: Member, forest_BC: np.ndarray) -> Judgement:
    """Calibrate on the validation parts and judge on the test parts.

    Args:
        molecules: all of them.
        member: the student as it ships.
        forest_BC: what the forests say of the test parts.
    """
    rows, labels_BC, part = judged_rows(molecules)
    found = valid_molecules([molecules.smiles[row] for row in rows], HYDROGENS)
    assert len(found.places) == len(rows), "every molecule was parsed before"
    outputs = run_over(member.network, member.network.student, found.store, np.arange(len(rows)))
    domain = domain_of(molecules)
    folds, calibration = calibrate(
        [(part, to_raw_units(outputs, member.targets))],
        labels_BC,
        [one.kind for one in PROPERTIES],
        similarity_B=domain.similarity(found.smiles),
        identities=found.smiles,
    )
    train_BC = np.where(molecules.part_BC == 1, molecules.labels_BC, np.nan)
    mean_BC = mean_prediction(train_BC, np.arange(len(train_BC)))[: len(rows)]
    beside = {"mean": mean_BC, FOREST: forest_BC[rows]}
    judged = Judged(member.targets, labels_BC, found.smiles, folds, {name: [one] for name, one in beside.items()})
    verdicts = judge_beside_baselines(judged, per_target=True)
    return Judgement(found.smiles, labels_BC, folds[0][1], part, beside, calibration, verdicts, domain)


def judged_rows(molecules: Molecules) -> tuple[np.ndarray, np.ndarray, Split]:
    """Rows of the validation parts, then of the test parts, with their labels of that part alone."""
    rows, labels = [], []
    for part in (2, 3):
        own = np.flatnonzero((molecules.part_BC == part).any(axis=1))
        rows.append(own)
        labels.append(np.where(molecules.part_BC[own] == part, molecules.labels_BC[own], np.nan))
    edge, end = len(rows[0]), len(rows[0]) + len(rows[1])
    return np.concatenate(rows), np.concatenate(labels), Split(np.arange(0), np.arange(edge), np.arange(edge, end))


def domain_of(molecules: Molecules) -> Domain:
    """Of molecules with a measured training label and of calculated ones beyond QM9's size, by structure alone."""
    teaches_B = (molecules.part_BC == 1).any(axis=1)
    own_B = teaches_B & ~small_and_calculated(molecules)
    smiles = [molecules.smiles[row] for row in np.flatnonzero(own_B)]
    found = fit_domain(smiles, lambda rows: np.zeros((len(rows), 1), np.float32))
    assert found is not None, "there are thousands of molecules"
    return found.by_structure()


# Raw lines.


def lines_of(molecules: Molecules, judged: Judgement, record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A line per property."""
    return [_line(molecules, judged, place, record) for place in range(len(PROPERTIES))]


def _line(molecules: Molecules, judged: Judgement, place: int, record: Mapping[str, Any]) -> dict[str, Any]:
    one, own, verdict = PROPERTIES[place], judged.calibration.targets[place], judged.verdicts[place]
    relation = {comparison.baseline: comparison.relation or "" for comparison in verdict.comparisons}
    test = judged.part.test[np.isfinite(judged.labels_BC[judged.part.test, place])]
    scores = {
        f"{system}_{metric}": _score(metric, judged.labels_BC[test, place], values_BC[test, place])
        for metric in (("rmse", "mae", "r2") if one.kind == "regression" else ("rocauc", "ap"))
        for system, values_BC in (("student", judged.values_BC), *judged.beside.items())
    }
    data, licence = data_of(one.source)
    count = {part: int((molecules.part_BC[:, place] == part).sum()) for part in (1, 2)}
    is_scaled = own.chosen.scaling is not None
    return {
        "property": one.name, "unit": one.unit, "kind": one.kind, "data": data, "licence": licence,
        "training": count[1], "validation": count[2], "test": len(test),
        **scores,
        "low": _cell(verdict.own and verdict.own.low), "high": _cell(verdict.own and verdict.own.high),
        "beside_mean": relation.get("mean", ""), "beside_forest": relation.get(FOREST, ""),
        "coverage": _cell(own.judged.measured if own.chosen.intervals else None),
        "brier_before": _cell(own.judged.before if is_scaled else None),
        "brier": _cell(own.judged.measured if is_scaled else None),
        "set_coverage": _cell(own.judged.set_coverage),
        "ships": "yes" if relation.get("mean") == "better than" else "no",
        "seed": 1, "taught_molecules": record["molecules"],
        "versions": " ".join(f"{key}={value}" for key, value in package_versions().items()),
    }  # fmt: skip


def _score(metric: str, labels_B: np.ndarray, values_B: np.ndarray) -> str:
    known_B = np.isfinite(values_B)
    return _cell(score(metric, labels_B[known_B, None], values_B[known_B, None]).value if known_B.any() else None)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def write_raw(folder: Path, lines: Sequence[Mapping[str, Any]], judged: Judgement) -> None:
    """The raw lines, and each test label of what ships beside what the student says."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_lines(folder, lines)
    rows = ["property,smiles,label,predicted"]
    for place, line in enumerate(lines):
        test = judged.part.test[np.isfinite(judged.labels_BC[judged.part.test, place])]
        for row in test if line["ships"] == "yes" else ():
            label, value = judged.labels_BC[row, place], judged.values_BC[row, place]
            rows.append(f"{line['property']},{judged.smiles[row]},{label:.6g},{value:.5g}")
    write_bytes(folder / "test_predictions.csv.gz", gzip.compress("\n".join([*rows, ""]).encode(), 9, mtime=0))


def _write_lines(folder: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for line in lines for name in line))
    with open(folder / "properties.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, names, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(lines)


# The MODEL folder.


def write_folder(
    folder: Path,
    molecules: Molecules,
    member: Member,
    judged: Judgement,
    lines: Sequence[Mapping[str, Any]],
    record: Mapping[str, Any],
) -> None:
    """Write the MODEL folder with the properties that are better than the mean.

    Args:
        folder: emptied first.
        molecules: all of them.
        member: the student with all outputs.
        judged: see `judge`.
        lines: see `lines_of`.
        record: of its training.
    """
    shutil.rmtree(folder, ignore_errors=True)
    kept = [place for place, line in enumerate(lines) if line["ships"] == "yes"]
    student, own = of_columns(member, kept), judged.of(kept)
    entries = [ready_made(PROPERTIES[place], lines[place]) for place in kept]
    dropped = [str(line["property"]) for line in lines if line["ships"] != "yes"]
    training = {
        "encoder": ENCODER,
        "encoder_sha256": sha256_file(encoder_folder(ENCODER) / "model.safetensors"),
        "made_by": "benchmarks/properties.py",
    }
    small = {one.name: one.most_atoms for one in entries if one.most_atoms}
    learned_B = ((molecules.part_BC == 1) | (molecules.part_BC == 2)).any(axis=1)
    write_calibration(folder, own.calibration, [one.sentence() for one in own.verdicts])
    write_domain(folder, own.domain)
    write_predictor(
        folder,
        [student],
        predictor_config([student], student.targets, HYDROGENS, training) | {MOST_ATOMS: small},
        card=card(entries, dropped, record),
        metrics=metrics_of(student, own, record),
        splits={"split": "of each property its own", "train": [], "valid": [], "test": []},
        tables={
            PROPERTIES_FILE: properties_text(entries),
            KNOWN: known_molecules(molecules.smiles[row] for row in np.flatnonzero(learned_B)),
        },
        half=True,
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {len(kept)} properties, {size:,} bytes")


def of_columns(member: Member, kept: Sequence[int]) -> Member:
    """The student with some of its outputs."""
    network = PropertyNetwork(member.network.student, "mean", "mlp", len(kept), 1)
    state = member.network.state_dict()
    last = max(int(name.split(".")[1]) for name in state if name.startswith("head."))
    for end in ("weight", "bias"):
        state[f"head.{last}.{end}"] = state[f"head.{last}.{end}"][list(kept)]
    network.load_state_dict(state)
    return replace(member, network=network.eval(), targets=tuple(member.targets[place] for place in kept))


def ready_made(one: Property, line: Mapping[str, Any]) -> ReadyMade:
    """What `dnd properties` says of a property."""
    metric, bad_at = "rmse" if one.kind == "regression" else "rocauc", one.bad_at
    if one.kind == "classification" and not line["brier"]:
        bad_at += " Its probability is not calibrated: too few molecules of a class."
    if line["set_coverage"] and float(line["set_coverage"]) < _POOR:
        bad_at += f" Its sets of likely classes held {float(line['set_coverage']):.0%} of the test part, not 90 %."
    return ReadyMade(
        name=one.name, title=one.title, unit=one.unit, kind=one.kind, data=line["data"], licence=line["licence"],
        training=int(line["training"]), test=int(line["test"]), metric=metric, score=float(line[f"student_{metric}"]),
        forest=float(line[f"{FOREST}_{metric}"]), mean=float(line[f"mean_{metric}"]),
        beside_forest=line["beside_forest"], bad_at=bad_at,
        most_atoms=SMALL_MOLECULES if one.source == DFT else 0,
    )  # fmt: skip


def metrics_of(member: Member, judged: Judgement, record: Mapping[str, Any]) -> dict[str, Any]:
    """`metrics.json` as of any model."""
    kinds, targets = [target.kind for target in member.targets], member.targets
    return {
        "task": "mixed",
        "task_reason": "values and classes of several data sets",
        "per_target": True,
        "metric": metric_names(kinds)[0],
        "metrics": list(metric_names(kinds)),
        "targets": describe_targets(targets, ()),
        "files": [],
        "split": "of each property its own",
        "counts": {"rows": record["molecules"], "molecules": record["molecules"], "rejected": 0},
        "replicates": [],
        "members": [record["facts"]],
        "parts": part_metrics(judged.part, judged.labels_BC, judged.values_BC, targets),
        "baselines": {
            name: {"settings": {}, "parts": part_metrics(judged.part, _known(judged, values_BC), values_BC, targets)}
            for name, values_BC in judged.beside.items()
        },
        "verdicts": [one.as_dict() for one in judged.verdicts],
    }


def _known(judged: Judgement, values_BC: np.ndarray) -> np.ndarray:
    """The labels of which a baseline says something."""
    return np.where(np.isfinite(values_BC), judged.labels_BC, np.nan)


def card(entries: Sequence[ReadyMade], dropped: Sequence[str], record: Mapping[str, Any]) -> str:
    """The card: a line per property, what judged it, and how it was made."""
    rows = "\n".join(f"| {' | '.join(_card_cells(one))} |" for one in entries)
    return f"""# dnd-properties: {len(entries)} ready-made properties from SMILES

One student, a gine of 5 layers of 192 from the encoder `{ENCODER}`, which was taught by a 3D denoiser and by quantum
chemistry. It needs no conformer. `dnd predict molecules.csv` asks it where no model is named.

| property | what | unit | data | licence | training, test molecules | test part | forest (student is) | mean | bad at |
|---|---|---|---|---|---|---|---|---|---|
{rows}

Not better than the mean of the training labels, and so not in the model: {", ".join(dropped) or "none"}.

- *Test part*: RMSE in the unit, or ROC-AUC. It is the official or rebuilt split of each data set: scaffolds for those
  of OGB, random for boiling and melting points, refractive index, logP and QM9. GFN2-xTB is judged by drug-like
  molecules whose calculation `{ENCODER}` had not seen; stereoisomers of QM9's may have taught `{ENCODER}`. No molecule
  of a test part taught any property, whatever its stereochemistry. The validation parts judged the courses and taught
  intervals and probabilities.
- *Forest*: a random forest on counts, fitted on at most {FOREST_ROWS:,} of the same training molecules, of calculated
  properties at most {FOREST_CALCULATED:,}.
- {record["molecules"]:,} molecules taught the student: measured and calculated values. Of a part of them, blends, one
  fitted on each measured set, said what was not measured: of the recipe `best`, of `fast` for the four large sets.
- Intervals are made for 90 % coverage and are wider for molecules unlike those that taught. Probabilities are
  calibrated unless the last column says that they are not.
- `in_domain` compares with molecules that have a measured label, or a calculation and more than {SMALL_MOLECULES} heavy
  atoms; it is one answer for all properties. Values of QM9 are empty beyond {SMALL_MOLECULES} heavy atoms.
- One seed. Salts and mixtures are predicted as drawn.

Made by `python benchmarks/properties.py all DATA OUT` of the source repository, where `docs/results/properties/` has
the raw lines. Hydrogens: `{HYDROGENS}`. Weights are kept in half precision.
"""


def _card_cells(one: ReadyMade) -> list[str]:
    relation = one.beside_forest.rpartition(" ")[0]  # without "than" or "with"
    beside = f"{significant(one.forest)} ({relation})" if relation else significant(one.forest)
    return [
        f"`{one.name}`", one.title, one.unit or "–", one.data, one.licence, f"{one.training:,}, {one.test:,}",
        f"{one.metric} {significant(one.score)}", beside, significant(one.mean), one.bad_at,
    ]  # fmt: skip


# Calibrated anew, the weights as they are.


def recalibrate(folder: Path, results: Path, molecules: Molecules) -> list[str]:
    """Calibrate the classes that ship without calibrated probabilities, where there are enough molecules by now.

    Their lines, card and list are rewritten; no weight, and nothing of any other property, changes.

    Args:
        folder: MODEL folder that ships.
        results: folder of the raw lines.
        molecules: all of them.

    Returns:
        The properties that were calibrated.
    """
    predictor = Predictor.load(folder, device="cpu")
    member, before = predictor.parts.members[0], predictor.calibration
    assert before is not None, "it was written with one"
    own = [
        place
        for place, (target, known) in enumerate(zip(member.targets, before.targets, strict=True))
        if target.kind == "classification" and known.chosen.scaling is None
    ]
    if not own:
        return []
    places = [next(p for p, one in enumerate(PROPERTIES) if one.name == member.targets[place].name) for place in own]
    values_BC, labels_BC, found = _calibrated_part(molecules, member, own, places)
    chosen = [place for place, one in enumerate(found.targets) if one.chosen.scaling is not None]
    by_place = {own[place]: found.targets[place] for place in chosen}
    targets = tuple(by_place.get(place, one) for place, one in enumerate(before.targets))
    sentences = read_json(folder / CALIBRATION)["sentences"]
    write_calibration(folder, Calibration(targets, before.coverage, before.groups), sentences)
    names = [PROPERTIES[places[place]].name for place in chosen]
    lines = _lines_with({name: found.targets[place] for name, place in zip(names, chosen, strict=True)})
    _write_lines(results, lines)
    known_BC = np.isfinite(labels_BC)
    said = {name: values_BC[known_BC[:, place], place] for name, place in zip(names, chosen, strict=True)}
    _replace_predictions(results, said)
    _rewrite_words(folder, lines)
    write_manifest(folder, kind=KIND, format_version=FORMAT_VERSION)
    return names


def _lines_with(calibrated: Mapping[str, TargetCalibration]) -> list[dict[str, str]]:
    """The raw lines with what the calibration of some properties reached on their test parts."""
    lines = read_raw()
    for line in lines:
        if line["property"] in calibrated:
            judged = calibrated[line["property"]].judged
            line |= {"brier_before": _cell(judged.before), "brier": _cell(judged.measured)}
            line |= {"set_coverage": _cell(judged.set_coverage)}
    return lines


def _rewrite_words(folder: Path, lines: Sequence[Mapping[str, str]]) -> None:
    """The list of properties and the card, from the raw lines."""
    by_name = {one.name: one for one in PROPERTIES}
    entries = [ready_made(by_name[line["property"]], line) for line in lines if line["ships"] == "yes"]
    dropped = [line["property"] for line in lines if line["ships"] != "yes"]
    write_text(folder / PROPERTIES_FILE, properties_text(entries))
    write_text(folder / "card.md", card(entries, dropped, {"molecules": int(lines[0]["taught_molecules"])}))


def _calibrated_part(
    molecules: Molecules, member: Member, own: Sequence[int], places: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, Calibration]:
    """Calibrated values and labels of the test molecules of some properties, and what the validation ones taught."""
    rows, labels_BC, part = judged_rows(molecules)
    labels_BC = labels_BC[:, places]
    known_B = np.isfinite(labels_BC).any(axis=1)
    number_B = np.cumsum(known_B) - 1
    part = Split(*(number_B[one[known_B[one]]] for one in (part.train, part.valid, part.test)))
    store = valid_molecules([molecules.smiles[row] for row in rows[known_B]], HYDROGENS)
    outputs = run_over(member.network, member.network.student, store.store, np.arange(len(store.smiles)))
    values_BC = to_raw_units(outputs, member.targets)[:, own]
    kinds = [PROPERTIES[place].kind for place in places]
    folds, found = calibrate([(part, values_BC)], labels_BC[known_B], kinds, identities=store.smiles)
    return folds[0][1][part.test], labels_BC[known_B][part.test], found


def _replace_predictions(results: Path, said: Mapping[str, np.ndarray]) -> None:
    """Write what the student says now into the lines of some properties, which are in the order of the test part."""
    path = results / "test_predictions.csv.gz"
    rows = gzip.decompress(path.read_bytes()).decode().splitlines()
    left = {name: iter(values) for name, values in said.items()}
    for place, row in enumerate(rows):
        name, *cells = row.split(",")
        if name in left:
            rows[place] = ",".join([name, *cells[:-1], f"{next(left[name]):.5g}"])
    assert all(next(rest, None) is None for rest in left.values()), "the lines are of these molecules"
    write_bytes(path, gzip.compress("\n".join([*rows, ""]).encode(), 9, mtime=0))


# The page.


def table(lines: Sequence[Mapping[str, str]]) -> str:
    """A line per property."""
    found = [
        "| property | unit | data | training / test | metric | student | forest on counts | mean | beside the forest | "
        "coverage, made for 90 % | ships |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        metric = "rmse" if line["kind"] == "regression" else "rocauc"
        values = [float(line[f"{system}_{metric}"]) for system in ("student", FOREST, "mean")]
        cells = [line["property"], line["unit"] or "–", line["data"], f"{line['training']} / {line['test']}", metric]
        cells += [f"{value:.3g}" for value in values]
        cells += [line["beside_forest"].rpartition(" ")[0] or "–"]
        covers = line["coverage"] or line["set_coverage"]  # of intervals, or of sets of classes
        cells += [f"{float(covers):.0%}" if covers else "–", line["ships"]]
        found.append(f"| {' | '.join(cells)} |")
    return "\n".join(found)


def table_of_blends(lines: Sequence[Mapping[str, str]]) -> str:
    """A line per property: its blend, the student that shipped before, and the student after each course."""
    courses = [name for name in lines[0] if name.startswith("course_")]
    heads = ["property", "training, validation", "metric", "blend", "shipped before", *courses]
    found = [f"| {' | '.join(heads).replace('_', ' ')} |", "|---" * len(heads) + "|"]
    for line in lines:
        cells = [line["property"], f"{line['training']}, {line['validation']}", line["metric"]]
        cells += [f"{float(line[system]):.3g}" if line[system] else "–" for system in ("blend", "shipped", *courses)]
        found.append(f"| {' | '.join(cells)} |")
    return "\n".join(found)


def drawn(page: str, lines: Sequence[Mapping[str, str]], blends: Sequence[Mapping[str, str]]) -> str:
    """The page with its tables drawn anew."""
    for begin, end, text in ((BEGIN, END, table(lines)), (*BLENDS, table_of_blends(blends))):
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}"
    return page


def read_raw(name: str = "properties.csv") -> list[dict[str, str]]:
    """The raw lines of the repository."""
    return read_lines(RESULTS / name)


MODEL = ROOT / "src" / "dnd" / "data" / "models" / "dnd-properties"
RESULTS = ROOT / "docs" / "results" / "properties"
PAGE = ROOT / "docs" / "results" / "properties.md"
