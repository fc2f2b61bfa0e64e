"""A store in memory and a tiny teacher on disk, so that a whole distillation takes a second."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from dnd.chemistry.molecule import BOND_FEATURE_SIZES, Conformers, MolecularGraph
from dnd.models.students.base import StudentConfig
from dnd.models.teachers.base import NoiseHead, Teacher, TeacherConfig
from dnd.models.teachers.teachers import build_teacher, save_teacher
from dnd.pretraining.settings import DistillConfig
from dnd.store.reader import Store
from dnd.store.schema import StoreRow
from dnd.training.settings import LoopConfig

TEACHER = TeacherConfig(width=16, num_layers=3, num_heads=2, num_rbf=8)
STUDENT = StudentConfig("tokengt", 16, 2, num_heads=2, num_identifiers=4)


def toy_row(index: int, hydrogens: str, conformers: int, max_atoms: int = 9) -> StoreRow:
    """A chain of C, N and O on a jittered zigzag; hydrogens, where wanted, one angstrom off."""
    generator = np.random.default_rng(index)
    atoms = int(generator.integers(2, max_atoms))
    elements = generator.choice([6, 7, 8], atoms)
    nodes = np.zeros((atoms, 9), dtype=np.int64)
    nodes[:, 0], nodes[:, 2] = elements - 1, np.where((np.arange(atoms) % (atoms - 1)) == 0, 1, 2)
    bonds = np.stack([np.arange(atoms - 1), np.arange(1, atoms)], axis=1)
    features = np.stack([generator.integers(0, size, atoms - 1) for size in BOND_FEATURE_SIZES], axis=1)
    steps = np.stack([np.arange(atoms) * 1.2, np.arange(atoms) % 2 * 0.8, np.zeros(atoms)], axis=1)
    positions = steps + generator.normal(0, 0.1, (conformers, atoms, 3))
    numbers = elements
    if hydrogens == "teacher_all_student_heavy":
        numbers = np.concatenate([elements, np.ones(atoms, dtype=np.int64)])
        positions = np.concatenate([positions, positions + np.array([0.0, 0.0, 1.0])], axis=1)
    graph = MolecularGraph(nodes, bonds, features)
    geometry = Conformers(numbers, positions.astype(np.float32))
    label = np.array([float(elements.sum()), np.nan if index % 3 else 1.0], dtype=np.float32)
    return StoreRow(index, "toy.sdf", f"molecule {index}", graph, geometry, "dft", label)


def toy_store(molecules: int = 60, *, hydrogens: str = "heavy_both", conformers: int = 1) -> Store:
    rows = [toy_row(index, hydrogens, conformers) for index in range(molecules)]
    return Store.from_rows(rows, hydrogens=hydrogens, target_columns=("energy", "rare"))


def toy_teacher(seed: int = 0) -> Teacher:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_teacher(TEACHER).eval()


def toy_teacher_folder(folder: Path, *, hydrogens: str = "heavy_both", seed: int = 0) -> Path:
    description = {"hydrogens": hydrogens, "sigma": 0.04, "store": "", "molecules": 0, "metrics": {}}
    save_teacher(folder, toy_teacher(seed), NoiseHead(TEACHER.width), TEACHER, description, "# Teacher\n")
    return folder


def toy_config(**changes: object) -> DistillConfig:
    loop = changes.pop("loop", LoopConfig(epochs=2, batch_size=8, device="cpu", learning_rate=1e-3, checkpoint_every=3))
    settings = {"student": STUDENT, "holdout_fraction": 0.2, "loop": loop, **changes}
    return DistillConfig(**settings)  # type: ignore[arg-type]
