"""K generated conformers per molecule: denoising cycles through them by epoch, distillation takes one or their mean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from distillation_toys import TEACHER, toy_config, toy_teacher_folder
from dnd.models.teachers.teachers import load_teacher
from dnd.pretraining.denoise import HELD_OUT, DenoiseConfig, DenoisingObjective, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.teacher_outputs import run_teacher
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig
from dnd.training.settings import LoopConfig

SMILES = ("CCO", "CCCO", "CCCCN", "CC(C)CO", "OCCN", "CCOCC", "CCCC=O", "NCCCO")
LOOP = LoopConfig(epochs=4, batch_size=4, device="cpu", learning_rate=1e-3)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("conformers")
    (folder / "m.csv").write_text("smiles\n" + "\n".join(SMILES) + "\n")
    config = PrepareConfig(conformers="etkdg", num_conformers=3, hydrogens="teacher_all_student_heavy")
    prepare([folder / "m.csv"], folder / "store", config)
    return Store.open(folder / "store")


def positions(store: Store, conformer: int) -> torch.Tensor:
    return store.read(np.arange(len(store)), conformer=conformer).conformers.positions_A3


def test_denoising_sees_another_conformer_in_each_epoch_and_the_first_when_judged(store: Store) -> None:
    assert store.num_conformers_of(np.arange(len(store))).tolist() == [3] * len(SMILES)
    objective = DenoisingObjective(store, DenoiseConfig(TEACHER, LOOP))
    rows = np.arange(len(store))
    seen = [objective.load_batch(rows, epoch).conformers.positions_A3 for epoch in range(4)]
    for epoch, positions_A3 in enumerate(seen):
        torch.testing.assert_close(positions_A3, positions(store, epoch % 3), rtol=0, atol=0)
    assert not any(torch.allclose(seen[0], seen[other], atol=0.05) for other in (1, 2))
    judged = objective.load_batch(rows, HELD_OUT).conformers.positions_A3
    torch.testing.assert_close(judged, seen[0], rtol=0, atol=0)


@pytest.mark.parametrize("level", ["node", "graph"])
def test_distillation_takes_the_first_conformer_or_the_mean_over_all(store: Store, tmp_path: Path, level: str) -> None:
    teacher = load_teacher(toy_teacher_folder(tmp_path / "t", hydrogens="teacher_all_student_heavy"))[0]
    rows = np.array([5, 0, 2])
    targets = {}
    for conformers in ("first", "mean"):
        config = toy_config(level=level, conformers=conformers)
        objective = DistillationObjective(store, teacher, config)
        batch = objective.with_targets(objective.load_batch(rows, 1))
        targets[conformers] = batch.teacher_LND if level == "node" else batch.teacher_LBD
        each = [run_teacher(teacher, store.read(rows, conformer=k), objective.request) for k in range(3)]
        wanted = [one[0 if level == "node" else 1] for one in each]
        expected = wanted[0] if conformers == "first" else torch.stack(wanted).mean(0)
        torch.testing.assert_close(targets[conformers].float(), expected, atol=3e-3, rtol=1e-3)
    assert not torch.allclose(targets["first"], targets["mean"], atol=3e-3)


def test_both_stages_run_on_the_store(store: Store, tmp_path: Path) -> None:
    taught = denoise(store, tmp_path / "teacher", DenoiseConfig(TEACHER, LOOP, holdout_fraction=0.25))
    assert taught.metrics["held_out_loss"] > 0
    found = distill(store, tmp_path / "teacher", tmp_path / "encoder", toy_config(conformers="mean"))
    assert np.isfinite(found.metrics["valid_node_r2"])
