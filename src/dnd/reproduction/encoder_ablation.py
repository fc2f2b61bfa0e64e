"""What each teacher is worth: students taught alike by different teachers, finetuned alike, and the tables of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy import stats

from dnd.common.config import from_dict, look_up, to_dict
from dnd.common.errors import InputError
from dnd.common.files import MANIFEST, read_json
from dnd.models.teachers.teachers import load_teacher
from dnd.pretraining.settings import DistillConfig, TermWeights
from dnd.pretraining.teacher_outputs import weights_digest
from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.frozen_models import FROZEN_MODELS
from dnd.reproduction.pretrain_base import STUDENTS, TARGETS, TEACHER, store_folders
from dnd.reproduction.results import Cell, Record
from dnd.reproduction.tables import LARGER_IS_BETTER, is_better, metric_name, paper_best, wilcoxon_test
from dnd.store.reader import Store, union

# What each teacher is worth: students taught by 3D, by descriptors, by both and by nothing, finetuned alike.
#
# The variants of a student differ in their terms only: same stores, same held-out molecules, same epochs and batches.
# Finetuning is the same for all, with one learning rate for all layers, so that random weights are at no disadvantage.


REGRESSION_SETS = tuple(name for name, entry in BENCHMARKS.items() if entry.task == "regression")
NEITHER = "neither"
_3D = ("node", "graph", "global_tokens", "local_atoms", "distances", "surface", "radii")
_QUANTUM = ("quantum", "quantum_atoms", "quantum_bonds")
_DESCRIPTORS = ("descriptors", "fingerprints", "avalon", "charges")
# Terms of each variant. Charges are Gasteiger's, a function of the graph, so they count with the descriptors.
VARIANTS: dict[str, tuple[str, ...]] = {
    "3d": _3D,
    "descriptors": _DESCRIPTORS,
    "both": (*_3D, *_DESCRIPTORS),
    "quantum": _QUANTUM,
    "3d+quantum": (*_3D, *_QUANTUM),
    "all": (*_3D, *_QUANTUM, *_DESCRIPTORS),
    "all+labels": (*_3D, *_QUANTUM, *_DESCRIPTORS, "labels"),
    NEITHER: (),
}
ARMS = ("3d", "quantum", "3d+quantum", "descriptors", "all", "all+labels", NEITHER)
"""Those that the encoder at scale is compared in."""

FOUR = ("3d", "descriptors", "both", NEITHER)


@dataclass(frozen=True)
class Ablation:
    """What is compared.

    Attributes:
        base: folder of `dnd pretrain-base`, whose stores and teacher are used.
        student: the settings that all variants share, with the weights of all terms.
        shipped: student of `base` that replaces the variant with exactly its settings, if there is one.
        variants: names of `VARIANTS`; `neither` is the control.
        datasets: labelled sets.
        fractions: fractions of the training labels.
        seeds: number of finetuning seeds, from 1, of each data set; small sets need more.
        most_molecules: largest number of molecules of a data set, over all parts; none = all.
        recipe: recipe of finetuning.
        finetune: further finetuning settings, `key=value`.
        frozen: models on frozen representations, of `FROZEN_MODELS`.
        finetuned: whether students are finetuned.
        data_dir: where the data sets are looked for first.
    """

    base: Path
    student: DistillConfig
    shipped: str = "dnd-base"
    variants: tuple[str, ...] = FOUR
    datasets: tuple[str, ...] = tuple(BENCHMARKS)
    fractions: tuple[float, ...] = (1.0, 0.1)
    seeds: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(BENCHMARKS, 5))
    most_molecules: int | None = None
    recipe: str = "finetune-small"
    finetune: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    finetuned: bool = True
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Refuse names that there are not."""
        for name in self.variants:
            look_up(VARIANTS, name, "variant")
        for name in self.datasets:
            look_up(BENCHMARKS, name, "data set")
        for name in self.frozen:
            look_up(dict.fromkeys(FROZEN_MODELS), name, "frozen model")


def variant_config(student: DistillConfig, variant: str) -> DistillConfig:
    """The student's settings with the weights of the variant's terms only, and the heads that are left."""
    weights = {name: weight for name, weight in student.weights().items() if name in VARIANTS[variant]}
    heads = tuple(name for name in student.heads if name in weights)
    return replace(student, level="custom", terms=TermWeights(**weights), heads=heads)


def equal_budget(config: DistillConfig, molecules: int, with_conformers: int) -> DistillConfig:
    """The settings with as many molecules seen, in all, as a variant that learns from every molecule.

    A variant whose terms all need a conformer learns from the molecules that have one, so it has more epochs of them.
    """
    if not config.needs_only_conformers or not 0 < with_conformers < molecules:
        return config
    epochs = max(1, round(config.loop.epochs * molecules / with_conformers))
    return replace(config, loop=replace(config.loop, epochs=epochs))


def plan(ablation: Ablation) -> list[Cell]:
    """A cell per encoder and per finetuning, encoders first.

    Raises:
        InputError: `base` holds no stores, or no teacher.
    """
    stores = store_folders(ablation.base)
    if not stores:
        raise InputError(f"{ablation.base} holds no stores", next_step="Name a folder of `dnd pretrain-base`")
    opened = [Store.open(path) for path in stores]
    every = union(opened)
    teacher, _ = load_teacher(ablation.base / TEACHER)
    identity = {"stores": [store.fingerprint for store in opened], "teacher": weights_digest(teacher)}
    paths = {"stores": [str(path.resolve()) for path in stores], "teacher": str((ablation.base / TEACHER).resolve())}
    cells: list[Cell] = []
    for variant in ablation.variants:
        if variant != NEITHER:
            config = equal_budget(variant_config(ablation.student, variant), len(every), len(every.with_conformers()))
            # One after another where they read the teacher's outputs, which the first one writes for all.
            after = tuple(cell.key for cell in cells if "targets" in cell.paths)[-1:] if config.needs_teacher else ()
            own = {**paths, **_finished(ablation, config)}
            if config.needs_teacher:
                own["targets"] = str((ablation.base / TARGETS).resolve())
            settings = {**identity, "config": to_dict(config)}
            cells.append(Cell(f"encoder/{variant}", "distill_from_stores", settings, after, own))
    finetunings = _finetunings(ablation, every.hydrogens) if ablation.finetuned else ()
    return [*cells, *finetunings, *_frozen(ablation, every.hydrogens)]


def _finished(ablation: Ablation, config: DistillConfig) -> dict[str, str]:
    """The student of `base` as a path, if it was distilled with these settings; how it was resumed is none of them."""
    folder = ablation.base / STUDENTS / ablation.shipped
    if not (folder / MANIFEST).is_file():
        return {}
    recorded = from_dict(DistillConfig, read_json(folder / "config.json")["settings"])
    alike = replace(recorded, loop=replace(recorded.loop, allow_change=config.loop.allow_change))
    return {"finished": str(folder.resolve())} if alike == config else {}


def _finetunings(ablation: Ablation, hydrogens: str) -> Iterator[Cell]:
    random = [f"student.{key}={value}" for key, value in asdict(ablation.student.student).items() if value is not None]
    paths = {"data_dir": str(ablation.data_dir.resolve())} if ablation.data_dir else {}
    for dataset in ablation.datasets:
        for fraction in ablation.fractions:
            for variant in ablation.variants:
                own = [*random, f"hydrogens={hydrogens}"] if variant == NEITHER else []
                for seed in range(1, ablation.seeds[dataset] + 1):
                    words = [
                        "layer_decay=1.0", *ablation.finetune, "split=column:split", "baselines=false", "jobs=1",
                        f"loop.seed={seed}", *own,
                    ]  # fmt: skip
                    settings = {
                        "dataset": dataset,
                        "most_molecules": ablation.most_molecules,
                        "fraction": fraction,
                        "system": variant,
                        "pooling": "mean",
                        "seed": seed,
                        "recipe": ablation.recipe,
                        "config": words,
                    }
                    key = f"{dataset}/{variant}/labels-{round(100 * fraction)}/seed-{seed}"
                    yield Cell(key, "finetune", settings, () if own else (f"encoder/{variant}",), paths)


def _frozen(ablation: Ablation, hydrogens: str) -> Iterator[Cell]:
    """A cell per model on a frozen representation; `neither` has random weights, beside descriptors these alone."""
    paths = {"data_dir": str(ablation.data_dir.resolve())} if ablation.data_dir else {}
    choices = itertools.product(ablation.frozen, ablation.datasets, ablation.fractions, ablation.variants)
    for model, dataset, fraction, variant in choices:
        for seed in range(1, ablation.seeds[dataset] + 1):
            settings = {
                "dataset": dataset,
                "most_molecules": ablation.most_molecules,
                "fraction": fraction,
                "system": variant,
                "model": model,
                "seed": seed,
                "hydrogens": hydrogens,
                **({"student": asdict(ablation.student.student)} if variant == NEITHER else {}),
            }
            key = f"{dataset}/{variant}/frozen-{model}/labels-{round(100 * fraction)}/seed-{seed}"
            yield Cell(key, "frozen", settings, () if variant == NEITHER else (f"encoder/{variant}",), paths)


# The tables of the ablation of the teachers: errors, paired changes against random weights, and the bars.
#
# Changes are paired by seed: mean of the differences, relative to the control for errors and as they are for ROC-AUC,
# half-width of the 95 % interval (Student's t), and a star where it leaves out 0. They are over the finetuning seeds of
# one pretraining, uncorrected for their number, and data sets are not counted as trials: they share molecules.


REGRESSION, CLASSIFICATION = "regression", "classification"
Key = tuple[str, str, float]  # data set, variant, fraction


@dataclass(frozen=True)
class Scores:
    """Finished finetunings.

    Attributes:
        parts: `valid` or `test` → (data set, variant, fraction) → score by seed.
        metrics: metrics of each data set.
        sizes: training molecules by (data set, fraction).
        failed: keys of cells that failed, with the reason.
    """

    parts: Mapping[str, Mapping[Key, Mapping[int, float]]]
    metrics: Mapping[str, str]
    sizes: Mapping[tuple[str, float], int]
    failed: Mapping[str, str] = field(default_factory=dict)

    def mean(self, part: str, key: Key) -> float:
        """Mean over seeds; NaN where nothing is finished."""
        return float(np.mean(list(self.parts[part][key].values()))) if key in self.parts[part] else float("nan")

    def kinds(self) -> dict[str, list[str]]:
        """Data sets with errors and data sets with ROC-AUC; an empty kind is left out."""
        larger = {name: metric in LARGER_IS_BETTER for name, metric in self.metrics.items()}
        kinds = {REGRESSION: False, CLASSIFICATION: True}
        found = {kind: [name for name in larger if larger[name] == wanted] for kind, wanted in kinds.items()}
        return {kind: names for kind, names in found.items() if names}

    def change(self, part: str, key: Key) -> tuple[float, float] | None:
        """Change against the control and its half-width, relative for errors; None with fewer than two pairs."""
        dataset, _, fraction = key
        ours, control = (self.parts[part].get(one, {}) for one in (key, (dataset, NEITHER, fraction)))
        seeds = sorted(ours.keys() & control.keys())
        if len(seeds) < 2:
            return None
        mine, other = [ours[seed] for seed in seeds], [control[seed] for seed in seeds]
        change, half = paired_change(mine, other)
        scale = 1.0 if self.metrics[dataset] in LARGER_IS_BETTER else float(np.mean(other))
        return change / scale, half / scale


def paired_change(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Mean of the paired differences and the half-width of its 95 % interval (Student's t)."""
    differences = np.subtract(ours, theirs)
    error = float(np.std(differences, ddof=1)) / np.sqrt(len(differences))
    return float(np.mean(differences)), float(stats.t.ppf(0.975, len(differences) - 1) * error)


def scores_of(records: Sequence[Record], model: str | None = None) -> Scores:
    """Scores of the finished cells of a grid.

    Args:
        records: records of the cells.
        model: on frozen representations; the finetunings when None.
    """
    parts: dict[str, dict[Key, dict[int, float]]] = {"valid": {}, "test": {}}
    metrics, sizes = {}, {}
    for record in records:
        own = record.kind == "finetune" if model is None else record.settings.get("model") == model
        if not own or record.kind not in ("finetune", "frozen") or record.status != "done":
            continue
        settings, result = record.settings, record.result
        key = (settings["dataset"], settings["system"], settings["fraction"])
        for part, values in parts.items():
            if result[part] is not None:
                values.setdefault(key, {})[settings["seed"]] = float(result[part])
        metrics[key[0]] = result["metric"]
        sizes[key[0], key[2]] = result["molecules"]["train"]
    failed = {record.key: record.reason for record in records if record.status == "failed"}
    return Scores(parts, metrics, sizes, failed)


def ablation_page(scores: Scores, variants: Sequence[str], fractions: Sequence[float]) -> str:
    """All tables as Markdown."""
    lines: list[str] = []
    for fraction in fractions:
        for part in ("test", "valid"):
            lines += [
                f"## {100 * fraction:.0f} % of the labels, {part} part",
                "",
                *_errors(scores, variants, fraction, part),
            ]
            lines += ["", f"Change against `{NEITHER}`, paired over seeds:", ""]
            lines += [*_changes(scores, variants, fraction, part), ""]
    lines += ["## Bars", "", *_bars(scores, variants, fractions), ""]
    if scores.failed:
        lines += ["## Failed cells", "", *(f"- `{key}`: {reason}" for key, reason in scores.failed.items()), ""]
    return "\n".join(lines)


def _errors(scores: Scores, variants: Sequence[str], fraction: float, part: str) -> Iterator[str]:
    yield f"| data set | metric | training molecules | {' | '.join(variants)} |"
    yield "|---" * (3 + len(variants)) + "|"
    for dataset, metric in scores.metrics.items():
        cells = [_shown(scores.parts[part].get((dataset, name, fraction), {})) for name in variants]
        size = scores.sizes.get((dataset, fraction), 0)
        yield f"| {dataset} | {metric_name(metric)} | {size:,} | {' | '.join(cells)} |"


def _shown(by_seed: Mapping[int, float]) -> str:
    values = list(by_seed.values())
    if not values:
        return "–"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread} ({len(values)})"


def _changes(scores: Scores, variants: Sequence[str], fraction: float, part: str) -> Iterator[str]:
    ours = [name for name in variants if name != NEITHER]
    yield f"| data set | {' | '.join(ours)} |"
    yield "|---" * (1 + len(ours)) + "|"
    for kind, datasets in scores.kinds().items():
        means: dict[str, list[float]] = {name: [] for name in ours}
        for dataset in datasets:
            found = {name: scores.change(part, (dataset, name, fraction)) for name in ours}
            for name, change in found.items():
                means[name] += [change[0]] if change is not None else []
            yield f"| {dataset} | {' | '.join(_shown_change(change, kind) for change in found.values())} |"
        yield f"| mean of {kind} | {' | '.join(_mean_change(means[name], kind) for name in ours)} |"


def _shown_change(found: tuple[float, float] | None, kind: str) -> str:
    if found is None:
        return "–"
    change, half = found
    text = f"{100 * change:+.1f} ± {100 * half:.1f} %" if kind == REGRESSION else f"{change:+.3f} ± {half:.3f}"
    return f"{text}{' *' if abs(change) > half else ''}"


def _mean_change(changes: Sequence[float], kind: str) -> str:
    if not changes:
        return "–"
    better = -1 if kind == REGRESSION else 1
    wins, ranked = sum(better * change > 0 for change in changes), wilcoxon_test(changes)
    test = "" if ranked is None else f", Wilcoxon over data sets p = {ranked:.2g}"
    return f"{_mean(changes, kind)} (better on {wins} of {len(changes)}{test})"


def _mean(changes: Sequence[float], kind: str) -> str:
    mean = float(np.mean(changes))
    return f"{100 * mean:+.1f} %" if kind == REGRESSION else f"{mean:+.3f}"


def _bars(scores: Scores, variants: Sequence[str], fractions: Sequence[float]) -> Iterator[str]:
    """Each variant against what was asked of the encoder that ships."""
    full, few = max(fractions), min(fractions)
    for name in [one for one in variants if one != NEITHER]:
        for kind, all_datasets in scores.kinds().items():
            datasets = [one for one in all_datasets if (one, name, full) in scores.parts["test"]]
            if not datasets:
                continue
            changes = [found[0] for one in datasets if (found := scores.change("test", (one, name, full))) is not None]
            measure = "error" if kind == REGRESSION else "ROC-AUC"
            mean = _mean(changes, kind) if changes else "not known"
            yield f"- {name}, {kind}: mean change of the test {measure} {mean}"
            with_paper = [(one, best) for one in datasets if (best := paper_best(one)) is not None]
            beaten = [
                one for one, best in with_paper
                if is_better(scores.metrics[one], scores.mean("test", (one, name, full)), best)
            ]  # fmt: skip
            yield (
                f"  - better than the paper's best number on {len(beaten)} of {len(with_paper)} data sets that have "
                f"one ({', '.join(beaten) or 'none'}; only the OGB sets have the paper's split)"
            )
            if few < full:
                good = [one for one in datasets if _as_good(scores, one, name, few, full)]
                yield (
                    f"  - with {100 * few:.0f} % of the labels as good as `{NEITHER}` with the most (mean within one "
                    f"deviation) on {len(good)} of {len(datasets)} ({', '.join(good) or 'none'})"
                )


def _as_good(scores: Scores, dataset: str, name: str, few: float, full: float) -> bool:
    control = list(scores.parts["test"].get((dataset, NEITHER, full), {}).values())
    ours = scores.mean("test", (dataset, name, few))
    if not control or np.isnan(ours):
        return False
    spread = float(np.std(control, ddof=1)) if len(control) > 1 else 0.0
    mean = float(np.mean(control))
    return ours >= mean - spread if scores.metrics[dataset] in LARGER_IS_BETTER else ours <= mean + spread
