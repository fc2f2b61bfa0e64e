"""What each teacher is worth: students taught by 3D, by descriptors, by both and by nothing, finetuned alike.

The variants of a student differ in their terms only: same stores, same held-out molecules, same epochs and batches.
Finetuning is the same for all, with one learning rate for all layers, so that random weights are at no disadvantage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from dnd.analysis.benchmark_list import BENCHMARKS
from dnd.analysis.pretrain_base import STORES, STUDENTS, TARGETS, TEACHER
from dnd.analysis.results import Cell
from dnd.common.config import from_dict, to_dict
from dnd.common.errors import InputError
from dnd.common.files import MANIFEST, read_json
from dnd.common.registry import look_up
from dnd.distillation.settings import DistillConfig, TermWeights
from dnd.distillation.targets import weights_digest
from dnd.store.reader import Store
from dnd.teacher.saved import load_teacher

REGRESSION_SETS = tuple(name for name, entry in BENCHMARKS.items() if entry.task == "regression")
NEITHER = "neither"
_3D = ("node", "graph", "global_tokens", "local_atoms", "distances", "surface", "radii")
_QUANTUM = ("quantum", "quantum_atoms", "quantum_bonds")
_DESCRIPTORS = ("descriptors", "fingerprints", "charges")
# Terms of each variant. Charges are Gasteiger's, a function of the graph, so they count with the descriptors; labels of
# quantum chemistry are in none of the four, only in what ships.
VARIANTS: dict[str, tuple[str, ...]] = {
    "3d": _3D,
    "descriptors": _DESCRIPTORS,
    "both": (*_3D, *_DESCRIPTORS),
    "quantum": _QUANTUM,
    "shipped": (*_3D, *_DESCRIPTORS, *_QUANTUM, "labels"),
    NEITHER: (),
}
FOUR = ("3d", "descriptors", "both", NEITHER)


@dataclass(frozen=True)
class Ablation:
    """What is compared.

    Attributes:
        base: folder of `dnd pretrain-base`, whose stores and teacher are used.
        student: the settings that all variants share, with the weights of all terms.
        shipped: student of `base` that stands in for the variant with exactly its settings, if there is one.
        variants: of `VARIANTS`; `neither` is the control.
        datasets: labelled sets.
        fractions: of the training labels.
        seeds: number of finetuning seeds, from 1, of each data set; small sets need more.
        most_molecules: largest number of molecules of a data set, over all parts; none = all.
        recipe: of finetuning.
        finetune: further finetuning settings, `key=value`.
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
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        """Refuse names that there are not."""
        for name in self.variants:
            look_up(VARIANTS, name, "variant")
        for name in self.datasets:
            look_up(BENCHMARKS, name, "data set")


def variant_config(student: DistillConfig, variant: str) -> DistillConfig:
    """The student's settings with the weights of the variant's terms only."""
    weights = {name: weight for name, weight in student.weights().items() if name in VARIANTS[variant]}
    return replace(student, level="custom", terms=TermWeights(**weights))


def plan(ablation: Ablation) -> list[Cell]:
    """A cell per encoder and per finetuning, encoders first.

    Raises:
        InputError: `base` holds no stores, or no teacher.
    """
    stores = sorted((ablation.base / STORES).glob("*")) if (ablation.base / STORES).is_dir() else []
    if not stores:
        raise InputError(f"{ablation.base} holds no stores", next_step="Name a folder of `dnd pretrain-base`")
    opened = [Store.open(path) for path in stores]
    teacher, _ = load_teacher(ablation.base / TEACHER)
    identity = {"stores": [store.fingerprint for store in opened], "teacher": weights_digest(teacher)}
    paths = {"stores": [str(path.resolve()) for path in stores], "teacher": str((ablation.base / TEACHER).resolve())}
    cells: list[Cell] = []
    for variant in ablation.variants:
        if variant != NEITHER:
            config = variant_config(ablation.student, variant)
            # One after another where they read the teacher's outputs, which the first one writes for all.
            after = tuple(cell.key for cell in cells if "targets" in cell.paths)[-1:] if config.needs_teacher else ()
            own = {**paths, **_finished(ablation, config)}
            if config.needs_teacher:
                own["targets"] = str((ablation.base / TARGETS).resolve())
            settings = {**identity, "config": to_dict(config)}
            cells.append(Cell(f"encoder/{variant}", "distill_from_stores", settings, after, own))
    return [*cells, *_finetunings(ablation, opened[0].hydrogens)]


def _finished(ablation: Ablation, config: DistillConfig) -> dict[str, str]:
    """The student of `base` as a path, if it was distilled with these settings."""
    folder = ablation.base / STUDENTS / ablation.shipped
    if not (folder / MANIFEST).is_file():
        return {}
    recorded = from_dict(DistillConfig, read_json(folder / "config.json")["settings"])
    return {"finished": str(folder.resolve())} if recorded == config else {}


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
