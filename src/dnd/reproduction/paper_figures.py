"""Figure 3, loss curves of runs; Figure 5, how many labels a student needs; and `dnd analyse`, which draws them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnd.chemistry.splits import Split
from dnd.common.compute import derive_seed, numpy_generator
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import MANIFEST, read_json, sha256_file, write_text
from dnd.common.log import LOGGER
from dnd.common.model_folder import read_model
from dnd.finetuning.labelled_data import LabelledMolecules, read_labelled
from dnd.finetuning.splits import partitions
from dnd.finetuning.students import student_settings
from dnd.finetuning.tasks import check_targets, choose_task
from dnd.models.students.base import Student
from dnd.models.students.encoders import build_student, load_encoder
from dnd.report.attention import AttentionAnalysis, analyse_attention, draw_attention
from dnd.report.figures import MARKERS, Finding, draw_loss_curves, drawing, plain, table_text
from dnd.report.plots import LINES, PALETTE
from dnd.reproduction.benchmarks import PARTS, load_benchmark
from dnd.reproduction.data_statistics import (
    SetStatistics,
    draw_overlap,
    draw_statistics,
    overlap_with_store,
    statistics_of_smiles,
    statistics_of_store,
)
from dnd.reproduction.grid import WORKER, run_grid
from dnd.reproduction.results import Cell, Record
from dnd.reproduction.significance import Seeds
from dnd.reproduction.systems import SYSTEMS
from dnd.reproduction.tables import LARGER_IS_BETTER, metric_name, pooling_name, seeds_of
from dnd.store.reader import Store
from dnd.tables.molecules import open_molecules
from dnd.training.logs import LOG, read_log

# Figure 3: loss curves of runs, from their `metrics.jsonl`.


_VALID = ("valid_loss", "held_out_loss", "loss")  # held-out loss of an evaluation, by the name its stage gives it
_WINDOWS = 200  # points of the smoothed step loss


@dataclass(frozen=True)
class RunCurves:
    """Losses of one run by optimizer step.

    Attributes:
        steps: (step, loss) of each window of steps, the mean of the batches in it.
        train: (step, loss) of training molecules in evaluation mode; empty where the stage measures none.
        valid: (step, loss) of held-out molecules.
        last: the last evaluation, all its numbers.
    """

    steps: list[tuple[float, float]]
    train: list[tuple[float, float]]
    valid: list[tuple[float, float]]
    last: Mapping[str, Any]


def read_curves(folder: Path | str) -> RunCurves:
    """The losses that a run logged.

    Raises:
        InputError: the folder holds no log, or the log no step.
    """
    path = Path(folder) / LOG
    if not path.is_file():
        raise InputError(f"{folder} holds no {LOG}", expected="the folder of a training run")
    records = read_log(path)
    steps = [(record["step"], record["loss"]) for record in records if record["kind"] == "step"]
    evaluations = [record for record in records if record["kind"] == "evaluation"]
    if not steps:
        raise InputError(f"{path} holds no step", next_step="Let the run make a step first")
    name = next((name for name in _VALID if any(name in record for record in evaluations)), _VALID[0])
    return RunCurves(
        _windows([(step, loss) for step, loss in steps if loss is not None]),
        _points(evaluations, "train_loss"),
        _points(evaluations, name),
        evaluations[-1] if evaluations else {},
    )


def draw_curves(runs: Mapping[str, RunCurves], *, name: str = "curves") -> Finding:
    """One panel per run: step loss, training molecules and held-out molecules in evaluation mode."""
    with drawing(columns=len(runs), width=4.4) as (figure, grid):
        for axes, (title, run) in zip(grid[0], runs.items(), strict=True):
            curves = {"each step": run.steps, "training molecules": run.train, "held-out molecules": run.valid}
            draw_loss_curves(axes, {key: points for key, points in curves.items() if points}, title=title)
    rows: list[Sequence[object]] = []
    for title, run in runs.items():
        for kind, points in (("step", run.steps), ("train", run.train), ("valid", run.valid)):
            rows += [(title, kind, int(step), float(loss)) for step, loss in points]
    sentence = " ".join(_describe(title, run) for title, run in runs.items())
    return Finding(name, figure, ("run", "curve", "step", "loss"), rows, sentence)


def _describe(title: str, run: RunCurves) -> str:
    train = run.train[-1][1] if run.train else run.steps[-1][1]
    if not run.valid:
        return f"{title}: training loss {train:.4g} at the end, nothing held out."
    valid = run.valid[-1][1]
    text = f"{title}: training loss {train:.4g}, held-out loss {valid:.4g}, gap {valid - train:+.2g}"
    explained = {key: value for key, value in run.last.items() if key.startswith("valid_") and key.endswith("_r2")}
    known = [f"{key[6:-3]} R² {value:.3f}" for key, value in explained.items() if value is not None]
    return f"{text}{'; held-out ' + ', '.join(known) if known else ''}."


def _points(evaluations: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(record["step"], record[key]) for record in evaluations if record.get(key) is not None]


def _windows(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Means over at most `_WINDOWS` windows of consecutive steps, so that a long run stays readable."""
    pieces = np.array_split(np.array(points, dtype=np.float64), min(_WINDOWS, len(points)))
    return [(float(piece[-1, 0]), float(piece[:, 1].mean())) for piece in pieces]


# Figure 5: how many labels a pretrained student needs, with nested subsets of the training labels.


_COLUMNS = 5


@dataclass(frozen=True)
class Curve:
    """Test scores of one system on one data set by fraction of the training labels.

    Attributes:
        dataset: name shown.
        label: label of the system.
        metric: metric of the scores.
        points: fraction → (training molecules, score by upstream and finetuning seed).
    """

    dataset: str
    label: str
    metric: str
    points: Mapping[float, tuple[int, Mapping[Seeds, float]]]

    def mean(self, fraction: float) -> float:
        """Mean over seeds at a fraction."""
        return float(np.mean(list(self.points[fraction][1].values())))

    def deviation(self, fraction: float) -> float:
        """Sample deviation over seeds at a fraction; 0 for one seed."""
        values = list(self.points[fraction][1].values())
        return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def curves_of(records: Sequence[Record], names: Mapping[str, str]) -> list[Curve]:
    """Curves from the finetuning cells of a grid; `names` are those of the data sets as shown.

    Raises:
        InputError: no cell is finished.
    """
    groups: dict[tuple[str, str, str], dict[float, dict[Seeds, Record]]] = {}
    for record in records:
        if record.kind == "finetune" and record.status == "done" and record.result.get("test") is not None:
            settings = record.settings
            by_fraction = groups.setdefault((settings["dataset"], settings["system"], settings["pooling"]), {})
            by_fraction.setdefault(settings["fraction"], {})[seeds_of(record)] = record
    if not groups:
        reason = next((record.reason for record in records if record.status == "failed"), "nothing to run")
        raise InputError("no finetuning is finished, so there is no curve", found=reason)
    found = []
    for (dataset, name, pooling), by_fraction in groups.items():
        points = {
            fraction: (
                next(iter(seeds.values())).result["molecules"]["train"],
                {seed: float(record.result["test"]) for seed, record in seeds.items()},
            )
            for fraction, seeds in sorted(by_fraction.items())
        }
        metric = next(iter(next(iter(by_fraction.values())).values())).result["metric"]
        label = f"{SYSTEMS[name].label} {pooling_name(pooling)}" if name in SYSTEMS else name
        found.append(Curve(names.get(dataset, dataset), label, metric, points))
    return found


def draw_label_efficiency(curves: Sequence[Curve], *, name: str = "labels") -> Finding:
    """A panel per data set: score against the number of training molecules, one line per system, ± deviation."""
    datasets = list(dict.fromkeys(curve.dataset for curve in curves))
    columns = min(_COLUMNS, len(datasets))
    lines = -(-len(datasets) // columns)
    with drawing(columns, lines, width=3.4, height=2.8) as (figure, grid):
        for place, axes in enumerate(grid.ravel()):
            if place >= len(datasets):
                axes.set_axis_off()
                continue
            own = [curve for curve in curves if curve.dataset == datasets[place]]
            for number, curve in enumerate(own):
                sizes = [count for count, _ in curve.points.values()]
                means = [curve.mean(fraction) for fraction in curve.points]
                errors = [curve.deviation(fraction) for fraction in curve.points]
                axes.errorbar(
                    sizes, means, errors, color=PALETTE[number % len(PALETTE)], ls=LINES[number % len(LINES)],
                    marker=MARKERS[number % len(MARKERS)], ms=3, capsize=2, label=plain(curve.label),
                )  # fmt: skip
            axes.set(title=plain(datasets[place]), xlabel="training molecules", ylabel=metric_name(own[0].metric))
            if place == 0:
                axes.legend()
    rows: list[Sequence[object]] = []
    for curve in curves:
        for fraction, (count, by_seed) in curve.points.items():
            rows += [(curve.dataset, curve.label, fraction, count, *seeds, value) for seeds, value in by_seed.items()]
    columns_csv = ("dataset", "system", "fraction", "train_molecules", "upstream_seed", "seed", "score")
    return Finding(name, figure, columns_csv, rows, _sentence(curves))


def _sentence(curves: Sequence[Curve]) -> str:
    """On how many data sets each pretrained system with its smallest subset is comparable to RandInit with all labels.

    Comparable: its mean is not worse than RandInit's by more than RandInit's deviation over seeds.
    """
    parts = []
    controls = [curve for curve in curves if "RandInit" in curve.label and 1.0 in curve.points]
    for label in dict.fromkeys(curve.label for curve in curves if "RandInit" not in curve.label):
        for control_label in dict.fromkeys(curve.label for curve in controls):
            pairs = [
                (curve, control)
                for curve in curves
                for control in controls
                if curve.label == label and control.label == control_label and curve.dataset == control.dataset
            ]
            good = [curve.dataset for curve, control in pairs if _comparable(curve, control)]
            if pairs:
                fraction = min(pairs[0][0].points)
                parts.append(
                    f"{label} with {100 * fraction:.0f} % of the training labels is comparable to {control_label} with "
                    f"all of them on {len(good)} of {len(pairs)} data sets ({', '.join(good) or 'none'})."
                )
    return " ".join(parts) or "There is no pair of a pretrained system and RandInit to compare."


def _comparable(curve: Curve, control: Curve) -> bool:
    sign = 1.0 if curve.metric in LARGER_IS_BETTER else -1.0
    worse_by = sign * (control.mean(1.0) - curve.mean(min(curve.points)))
    return worse_by <= control.deviation(1.0)


# `dnd analyse`: statistics, overlap, loss curves, attention and label efficiency of the user's own files and runs.

RANDOM = "random"


def analyse_statistics(
    inputs: Sequence[Path], datasets: Sequence[str], data_dir: Path | None, smiles_column: str | None
) -> Finding:
    """Table 4 of stores, files of molecules and data sets of the paper.

    Raises:
        InputError: nothing is named, or a file can't be read.
    """
    found: dict[str, SetStatistics] = {}
    for name in datasets:
        found[name] = statistics_of_smiles(load_benchmark(name, data_dir).smiles)
    for path in inputs:
        is_store = (path / MANIFEST).is_file()
        found[path.name] = (
            statistics_of_store(Store.open(path)) if is_store else statistics_of_smiles(_smiles(path, smiles_column))
        )
    if not found:
        raise InputError(
            "no molecules are named", expected="files, stores, or --datasets", next_step="Try --datasets esol"
        )
    return draw_statistics(found)


def analyse_overlap(
    inputs: Sequence[Path], datasets: Sequence[str], data_dir: Path | None, store: Path, smiles_column: str | None
) -> Finding:
    """Table 3 of files of molecules and data sets of the paper against a store.

    Raises:
        InputError: nothing is named, or a file can't be read.
    """
    sets = {name: load_benchmark(name, data_dir).smiles for name in datasets}
    sets |= {path.name: _smiles(path, smiles_column) for path in inputs}
    if not sets:
        raise InputError("no molecules are named", expected="files, or --datasets", next_step="Try --datasets bp,mp")
    pretraining = Store.open(store)
    return draw_overlap({name: overlap_with_store(smiles, pretraining) for name, smiles in sets.items()}, store.name)


def analyse_curves(runs: Sequence[Path]) -> Finding:
    """Figure 3 of run folders."""
    return draw_curves({name: read_curves(run) for name, run in _named(runs).items()})


def analyse_attention_of(encoders: Sequence[str], store_path: Path, molecules: int, seed: int) -> Finding:
    """Figure 4 of ENCODER folders; `random` is a student with the architecture of the first folder and fresh weights.

    Molecules that an encoder trained on are left out where its folder says which it held out of this store.
    """
    store = Store.open(store_path)
    folders = [Path(name) for name in encoders if name != RANDOM]
    if not folders:
        raise InputError("no encoder is named", expected="at least one ENCODER folder in addition to `random`")
    rows = _held_out(folders, store)
    rows = np.sort(numpy_generator(seed, "attention").permutation(rows)[:molecules])
    students: dict[str, Student] = {}
    if RANDOM in encoders:
        students["RandInit"] = _fresh(load_encoder(folders[0])[0], seed)
    for name, folder in _named(folders).items():
        students[name] = load_encoder(folder)[0]
    analyses: dict[str, AttentionAnalysis] = {
        name: analyse_attention(student, store, rows, seed=seed) for name, student in students.items()
    }
    return draw_attention(analyses)


def analyse_labels(
    data: Path,
    target_columns: Sequence[str],
    encoder: Path,
    out: Path,
    *,
    smiles_column: str | None = None,
    fractions: Sequence[float] = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0),
    seeds: int = 3,
    split: str = "scaffold",
    recipe: str = "finetune-small",
    settings: Sequence[str] = (),
    jobs: int = 1,
    worker: Sequence[str] = WORKER,
) -> Finding:
    """Figure 5 of a labelled table: an encoder against RandInit of the same architecture on nested subsets of labels.

    Raises:
        InputError: see `read_labelled` and `partitions`; or no finetuning ended.
        ConfigError: a fraction out of range.
    """
    if not fractions or min(fractions) <= 0 or max(fractions) != 1:
        raise ConfigError("fractions are out of range", found=list(fractions), expected="above 0, and 1 among them")
    molecules = read_labelled(data, target_columns, "heavy_both", smiles_column=smiles_column)
    words = next((own for own in molecules.classes if own), None)
    if words:
        raise InputError("label efficiency is for values and for classes 0 and 1", found=f"labels such as {words[0]}")
    task, reason = choose_task(molecules.targets_BC, molecules.names, "auto")
    if (
        task == "classification"
        and not np.isin(molecules.targets_BC[~np.isnan(molecules.targets_BC)], (0.0, 1.0)).all()
    ):
        raise InputError("label efficiency is for values and for classes 0 and 1", found=reason)
    check_targets(molecules.targets_BC, molecules.names, task)
    LOGGER.info(f"task: {reason}")
    table = out / "labelled.csv"
    _write_labelled(table, molecules, partitions(split, molecules.texts)[0])
    common = {
        "dataset": data.name,
        "table_sha256": sha256_file(table),
        "targets": list(molecules.names),
        "task": task,
        "pooling": "mean",
        "most_molecules": None,
        "recipe": recipe,
        "encoder_sha256": read_model(encoder, kind="encoder").manifest["files"]["model.safetensors"]["sha256"],
    }
    cells = _efficiency_cells(common, table, encoder, sorted(fractions), seeds, settings)
    summary = run_grid(cells, out, jobs=jobs, worker=worker)
    return draw_label_efficiency(curves_of(list(summary.records.values()), {}))


def _write_labelled(path: Path, molecules: LabelledMolecules, partition: Split) -> None:
    """The molecules with their labels and the part that each is in, as the cells read them."""
    part_of = {int(row): part for part in PARTS for row in getattr(partition, part)}
    rows = [
        [text, *(None if np.isnan(value) else repr(float(value)) for value in labels), part_of[row]]
        for row, (text, labels) in enumerate(zip(molecules.texts, molecules.targets_BC, strict=True))
    ]
    write_text(path, table_text(["smiles", *molecules.names, "split"], rows))


def _efficiency_cells(
    common: Mapping[str, Any],
    table: Path,
    encoder: Path,
    fractions: Sequence[float],
    seeds: int,
    settings: Sequence[str],
) -> list[Cell]:
    """A finetuning from random weights and one from the encoder for every fraction and seed."""
    fixed = ("split=column:split", "baselines=false", "jobs=1")
    random_words = [*student_settings(str(encoder), RANDOM), "layer_decay=1.0"]
    places = {"table": str(table.resolve())}
    systems: tuple[tuple[str, str, list[str], dict[str, str]], ...] = (
        ("random", "randinit-1.0", random_words, places),
        ("encoder", encoder.resolve().name, [], {**places, "encoder": str(encoder.resolve())}),
    )
    cells = []
    for key, name, own, paths in systems:
        for fraction in fractions:
            for seed in range(1, seeds + 1):
                value = {**common, "system": name, "fraction": fraction, "seed": seed}
                value["config"] = [*own, *settings, *fixed, f"loop.seed={seed}"]
                cells.append(Cell(f"{key}/labels-{100 * fraction:g}/seed-{seed}", "finetune", value, (), paths))
    return cells


def _smiles(path: Path, smiles_column: str | None) -> list[str]:
    with open_molecules(path, smiles_column) as table:
        return [row.smiles for row in table]


def _named(folders: Sequence[Path]) -> Mapping[str, Path]:
    """Folders by name; where two have one name, by their whole path."""
    names = [folder.resolve().name for folder in folders]
    return {
        name if names.count(name) == 1 else str(folder): folder for name, folder in zip(names, folders, strict=True)
    }


def _held_out(folders: Sequence[Path], store: Store) -> np.ndarray:
    from dnd.pretraining.encoder_folder import HOLDOUT

    rows = set(range(len(store)))
    for folder in folders:
        if (folder / HOLDOUT).is_file():
            held_out = read_json(folder / HOLDOUT)
            if held_out["store"] == store.fingerprint:
                rows &= set(held_out["rows"])
    if not rows:
        raise InputError("the encoders held out no molecule in common", next_step="Use a store of other molecules")
    return np.array(sorted(rows), dtype=np.int64)


def _fresh(student: Student, seed: int) -> Student:
    import torch

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(seed, "student"))
        return build_student(student.config)
