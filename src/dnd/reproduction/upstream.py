"""The cells that finetuning needs: a store, a teacher per seed, and an encoder per system and seed.

Each runs once, and all tables and figures of one results folder share them. The molecules of the store are the same
for all seeds; a seed stands for the weights that teacher and student begin with, the noise, the order of the batches
and the held-out part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnd.common.config import read_recipe
from dnd.common.errors import InputError
from dnd.common.files import MANIFEST, sha256_file
from dnd.models.students.base import OPTIONAL_SETTINGS
from dnd.models.students.encoders import FOLDER
from dnd.reproduction.benchmarks import energy_label, find_pretraining, find_qm9
from dnd.reproduction.budgets import Budget
from dnd.reproduction.results import Cell
from dnd.reproduction.systems import MOST_CONFORMERS, System
from dnd.training.settings import LoopConfig

if TYPE_CHECKING:
    from dnd.reproduction.protocol import Request

STORE_SEED = 1  # of the draw of pretraining molecules, which all pretrainings share
MOLECULES, QM9 = "molecules", "qm9"
LABELS = f"{QM9}/labels"


def encoder_key(track: str, one: System, seed: int) -> str:
    """Key of the cell that makes the encoder of a system with an upstream seed."""
    variant = one.name if one.words else one.variant
    parts = [one.upstream, variant, one.student, one.teacher]
    return f"{store_track(track, one)}/seed-{seed}/{'-'.join(part for part in parts if part)}"


def store_track(track: str, one: System) -> str:
    """Beginning of the keys of a store and what is made from it."""
    return f"{track}/conformers" if one.num_conformers else track


def student_words(budget: Budget, track: str, one: System) -> list[str]:
    """The student of a system: the table's, or another one of the size that the budget has for message passing."""
    table = budget.pna if track == QM9 else budget.tokengt
    if not one.student:
        return list(table)
    if one.student == "tokengt":
        return list(budget.tokengt)
    return [f"student.name={one.student}", *(word for word in budget.pna if not word.startswith("student.name="))]


def regularization_words(budget: Budget, words: Sequence[str]) -> list[str]:
    """Dropout rates and batch norm momentum of finetuning, as far as the student that `words` describe has them."""
    named = [word.partition("=")[2] for word in words if word.startswith("student.name=")]
    own = {"dropout", *OPTIONAL_SETTINGS[named[-1] if named else "tokengt"]}
    return [f"regularization.{name}={value}" for name, value in budget.regularization.items() if name in own]


def pretraining_seeds(request: Request, one: System) -> Sequence[int]:
    """The seeds of a system's pretrainings: the request's, or the first where one encoder ships."""
    return request.upstream_seeds[:1] if one.upstream == "shipped" else request.upstream_seeds


def upstream_cells(request: Request, track: str, systems: Sequence[System], seeds: Sequence[int]) -> Iterator[Cell]:
    """Stores, teachers and encoders of `systems`, what is needed first."""
    wanted = [one for one in systems if one.upstream != "classical"]
    trained = [one for one in wanted if one.upstream not in ("random", "shipped")]
    energy = ""
    if trained:
        inputs, problem = _inputs(request, track)
        # On QM9 whether ProPred is asked for or not: another choice of systems takes over what is made already.
        labelled = track == QM9 or any(one.variant == "propred" for one in trained)
        energy = energy_label(inputs[0]) if inputs and labelled else ""
        for one in {store_track(track, one): one for one in trained}.values():
            yield _store(request, track, one, energy, inputs, problem)
    for seed in seeds:
        for one in wanted:
            if one.upstream == "distill":
                yield _teacher(request.budget, track, one, seed)
            if one.upstream != "shipped" or seed == seeds[0]:
                yield _encoder(request, track, one, seed, energy)


def _inputs(request: Request, track: str) -> tuple[list[Path], str]:
    budget = request.budget
    if track == QM9:
        return located(lambda: [find_qm9(request.data_dir, fewest=sum(budget.qm9_molecules))])
    full_size = budget.pretraining_molecules is None and budget.name == "paper"
    return located(lambda: find_pretraining(request.pretraining, request.data_dir, full_size=full_size))


def _store(request: Request, track: str, one: System, energy: str, inputs: list[Path], problem: str) -> Cell:
    budget = request.budget
    molecules = budget.qm9_pretraining if track == QM9 else budget.pretraining_molecules
    flat = any(path.suffix in (".csv", ".smi", ".tsv") for path in inputs)
    settings: dict[str, Any] = {
        "molecules": budget.conformer_molecules if one.num_conformers else molecules,
        "hydrogens": "all_both" if track == QM9 else request.hydrogens,
        "conformers": "etkdg" if flat or one.num_conformers else "auto",
        "targets": [energy] if energy else [],
        "seed": STORE_SEED,
        "files": identities(inputs),
    }
    if one.num_conformers:
        settings["num_conformers"] = MOST_CONFORMERS  # all systems use the first of them, so of the same molecules
    needs = (LABELS,) if track == QM9 else ()
    return Cell(f"{store_track(track, one)}/prepare", "prepare", settings, needs, input_paths(inputs, problem))


def _teacher_key(track: str, one: System, seed: int) -> str:
    """Ends in the stage's name, by which an encoder finds it."""
    conformers = f"first-{one.num_conformers}" if one.num_conformers else ""
    passes = f"passes-{one.passes}" if one.passes > 1 else ""
    variant = "-".join(part for part in (one.teacher, conformers, passes) if part)
    return "/".join(part for part in (store_track(track, one), f"seed-{seed}", variant, "denoise") if part)


def _teacher(budget: Budget, track: str, one: System, seed: int) -> Cell:
    own = [f"teacher.name={one.teacher}"] if one.teacher else []
    own += [f"num_conformers={one.num_conformers}"] if one.num_conformers else []
    words = [*budget.denoise, *own, f"loop.seed={seed}"]
    settings = training_settings(budget, "denoise", track, words, one.passes)
    return Cell(_teacher_key(track, one, seed), "denoise", settings, (f"{store_track(track, one)}/prepare",))


def _encoder(request: Request, track: str, one: System, seed: int, energy: str) -> Cell:
    budget, key = request.budget, encoder_key(track, one, seed)
    student = student_words(budget, track, one)
    if one.upstream == "random":
        hydrogens = "all_both" if track == QM9 else request.hydrogens
        return Cell(key, "random_encoder", {"config": student, "hydrogens": hydrogens, "seed": seed})
    if one.upstream == "shipped":
        manifest = sha256_file(FOLDER / one.variant / MANIFEST)  # which has the digests of the weights
        return Cell(key, "shipped_encoder", {"name": one.variant, "manifest": manifest})
    words = [*budget.pretrain, *student, f"loop.seed={seed}", *_variant(one, energy)]
    prepare = f"{store_track(track, one)}/prepare"
    needs = (prepare, _teacher_key(track, one, seed)) if one.upstream == "distill" else (prepare,)
    return Cell(key, one.upstream, training_settings(budget, one.upstream, track, words, one.passes), needs)


def training_settings(budget: Budget, stage: str, track: str, words: list[str], passes: int = 1) -> dict[str, Any]:
    """Settings of a training cell: words on top of a recipe, where the budget has one."""
    recipe = budget.recipe(stage, track)
    if passes > 1:
        stated = [int(word.partition("=")[2]) for word in words if word.startswith("loop.epochs=")]
        by_default = read_recipe(recipe)["loop"]["epochs"] if recipe else LoopConfig().epochs
        epochs = stated[-1] if stated else by_default
        words = [*words, f"loop.epochs={passes * epochs}"]
    return {"config": words} if recipe is None else {"recipe": recipe, "config": words}


def _variant(one: System, energy: str) -> list[str]:
    if one.upstream == "distill":
        return [f"level={one.variant}", *one.words]
    if one.upstream == "contrast":
        return list(one.words)
    return [f"method={one.variant}", *([f"target={energy}"] if one.variant == "propred" else [])]


def located(find: Callable[[], list[Path]]) -> tuple[list[Path], str]:
    """The files, or why there are none: then the cell that reads them fails with that reason and the others run."""
    try:
        return find(), ""
    except InputError as error:
        return [], str(error)


def identities(inputs: list[Path]) -> list[list[Any]]:
    """Name and size of each file: what a cell's identity has of them, since folders differ from machine to machine."""
    return [[path.name, path.stat().st_size if path.is_file() else 0] for path in inputs]


def input_paths(inputs: list[Path], problem: str) -> dict[str, Any]:
    """The paths of a cell that reads `inputs`."""
    return {"inputs": [str(path.resolve()) for path in inputs], "problem": problem}
