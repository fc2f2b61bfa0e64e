"""The denoising stage: its loss, its held-out metrics, the TEACHER folder, resuming, bad conformers, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.chemistry.molecule import Conformers, MolecularGraph
from dnd.cli.main import main
from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.models.teachers.base import Teacher, TeacherConfig
from dnd.models.teachers.fast_pairs.pairs import CoincidentAtomsError
from dnd.models.teachers.teachers import load_noise_head, load_teacher
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective, denoise, gaussian_noise
from dnd.store.reader import Store
from dnd.store.schema import StoreRow
from dnd.training.settings import LoopConfig

SMALL = TeacherConfig(width=16, num_layers=2, num_heads=4, num_rbf=16)


def molecule(row: int, atoms: int, conformers: int = 1) -> StoreRow:
    generator = np.random.default_rng(row)
    grid = np.stack(np.meshgrid(*[np.arange(3.0)] * 3), -1).reshape(-1, 3)
    positions = 1.4 * grid[generator.permutation(27)[:atoms]] + 0.05 * generator.normal(size=(conformers, atoms, 3))
    graph = MolecularGraph(np.zeros((atoms, 9), int), np.zeros((0, 2), int), np.zeros((0, 3), int))
    return StoreRow(row, "toy", f"C{row}", graph, Conformers(generator.choice([1, 6, 8], atoms), positions))


def store_of(molecules: int, conformers: int = 1) -> Store:
    return Store.from_rows([molecule(row, 4 + row % 5, conformers) for row in range(molecules)], hydrogens="all_both")


def config_of(**loop: object) -> DenoiseConfig:
    settings = {"epochs": 2, "batch_size": 8, "learning_rate": 2e-3, "weight_decay": 0.0, "device": "cpu"}
    return DenoiseConfig(teacher=SMALL, loop=LoopConfig(**{**settings, **loop}), holdout_fraction=0.2)


def test_loss_is_the_mean_square_to_epsilon() -> None:
    objective = DenoisingObjective(store_of(10), config_of())
    batch = objective.load_batch(np.array([3, 1]), epoch=4)
    offsets = batch.conformers.atom_offsets.numpy()
    assert np.array_equal(batch.epsilon_A3.numpy(), gaussian_noise(1, 4, np.array([3, 1]), offsets))
    seen = []

    class Spy(Teacher):
        def forward(self, conformers, *, collect_layers=False):  # type: ignore[no-untyped-def]
            seen.append(conformers.positions_A3)

    class Zero(torch.nn.Module):
        def forward(self, output: object) -> torch.Tensor:
            return torch.zeros_like(batch.epsilon_A3)

    objective.teacher, objective.head = Spy(), Zero()
    result = objective(batch, 0)
    torch.testing.assert_close(seen[0], batch.conformers.positions_A3 + 0.04 * batch.epsilon_A3)
    assert result.loss.item() == pytest.approx(batch.epsilon_A3.square().mean().item())
    assert result.weight.item() == len(batch.epsilon_A3)
    assert result.parts["trivial"].item() == 1
    assert result.parts["floor"].item() == pytest.approx(2 * 6 / (3 * len(batch.epsilon_A3)))


def test_conformers_take_turns() -> None:
    objective = DenoisingObjective(store_of(4, conformers=3), config_of())
    rows = np.array([2])
    positions = [objective.load_batch(rows, epoch).conformers.positions_A3 for epoch in range(4)]
    assert torch.equal(positions[0], positions[3])
    assert not torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[1], positions[2])


def test_every_training_row_once_and_no_held_out_row() -> None:
    objective = DenoisingObjective(store_of(40), config_of())
    planned = np.concatenate(objective.plan_epoch(1))
    assert sorted(planned) == objective.train_rows.sample().tolist()
    assert len(objective.holdout_rows) == 8
    assert not set(planned) & set(objective.holdout_rows)


def test_evaluation_is_fixed_and_does_not_depend_on_batches() -> None:
    store = store_of(30)
    first = DenoisingObjective(store, config_of()).eval()
    second = DenoisingObjective(store, config_of(batch_size=3)).eval()
    assert first.evaluate() == first.evaluate()
    assert second.evaluate() == pytest.approx(first.evaluate(), rel=1e-5)
    counts = store.conformer_atom_counts[first.holdout_rows]
    assert first.evaluate()["floor"] == pytest.approx(2 * len(counts) / counts.sum())


def test_denoise_learns_and_leaves_a_teacher(tmp_path: Path) -> None:
    """One molecule again and again: most of its noise can be predicted."""
    rows = [molecule(0, 8) for _ in range(120)]
    store = Store.from_rows(rows, hydrogens="all_both")
    summary = denoise(store, tmp_path / "teacher", config_of(epochs=8, learning_rate=5e-3))
    assert summary.finished
    assert summary.metrics["held_out_loss"] < 0.95
    assert summary.metrics["held_out_loss"] > summary.metrics["floor"] == pytest.approx(2 / 8)
    teacher, config = load_teacher(tmp_path / "teacher")
    assert config["hydrogens"] == "all_both"
    assert config["sigma"] == 0.04
    assert config["store"] == store.fingerprint
    objective = DenoisingObjective(store, config_of())
    objective.teacher, objective.head = teacher, load_noise_head(tmp_path / "teacher")
    assert objective.evaluate() == pytest.approx(summary.metrics, rel=1e-6)
    card = (tmp_path / "teacher" / "card.md").read_text()
    assert f"{summary.metrics['held_out_loss']:.4f}" in card
    assert "0.2500" in card
    with pytest.raises(InputError, match="already contains"):
        denoise(store, tmp_path / "teacher", config_of())
    again = denoise(store, tmp_path / "teacher", config_of(), resume=True)
    assert again.metrics == summary.metrics


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    store = store_of(60, conformers=2)
    denoise(store, tmp_path / "whole", config_of(epochs=3))
    stopped = denoise(store, tmp_path / "parts", config_of(epochs=3, stop_after_s=0.0))
    assert not stopped.finished
    for _ in range(40):
        stopped = denoise(store, tmp_path / "parts", config_of(epochs=3, stop_after_s=0.02), resume=True)
        if stopped.finished:
            break
    else:
        denoise(store, tmp_path / "parts", config_of(epochs=3), resume=True)
    for name in ("model.safetensors", "noise_head.safetensors"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_nothing_held_out_keeps_the_last_weights(tmp_path: Path) -> None:
    config = DenoiseConfig(teacher=SMALL, loop=config_of(epochs=1).loop, holdout_fraction=0.0)
    summary = denoise(store_of(12), tmp_path / "teacher", config)
    assert summary.metrics == {}
    assert "nothing was held out" in (tmp_path / "teacher" / "card.md").read_text()


def test_bad_stores_are_refused(tmp_path: Path) -> None:
    bare = molecule(0, 5)
    bare = StoreRow(bare.row, bare.source, bare.smiles, bare.graph)
    with pytest.raises(InputError, match="without a conformer"):
        denoise(Store.from_rows([bare] * 4), tmp_path / "a", config_of())
    broken = molecule(1, 5)
    broken.conformers.positions_JA3[0, 3] = broken.conformers.positions_JA3[0, 2] + 0.01
    rows = [molecule(row, 6) for row in range(5)] + [broken]
    with pytest.raises(CoincidentAtomsError, match=r"C1 \(toy row 1\): atoms 2 and 3 coincide"):
        denoise(Store.from_rows(rows), tmp_path / "b", config_of())


def test_large_noise_may_bring_atoms_near() -> None:
    objective = DenoisingObjective(store_of(20), DenoiseConfig(teacher=SMALL, sigma=0.6))
    assert torch.isfinite(objective(objective.load_batch(np.arange(20), 0), 0).loss)


def test_settings_are_checked() -> None:
    for words in (["sigma=0"], ["teacher.width=30"], ["teacher.name=schnet"], ["loop.precision=bf16"], ["sigmma=1"]):
        with pytest.raises(ConfigError):
            load_config(DenoiseConfig, "denoise-tiny", words)


@pytest.mark.parametrize("recipe", ["tiny", "small", "gpu", "paper"])
def test_recipes_load(recipe: str) -> None:
    config = load_config(DenoiseConfig, f"denoise-{recipe}")
    assert config.sigma == 0.04
    assert config.loop.weight_decay == 0
    assert (recipe == "paper") == (config.teacher.width == 768)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "open", classmethod(lambda cls, path: store_of(40)))
    words = ["denoise", str(tmp_path / "store"), "-o", str(tmp_path / "teacher"), "--recipe", "tiny", "loop.epochs=1"]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "a finished teacher" in out
    assert "predicting zero gives 1.0000" in out
    lines = (tmp_path / "teacher" / "metrics.jsonl").read_text().splitlines()
    assert {"loss", "trivial", "floor"} <= json.loads(lines[0]).keys()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sigma": np.inf}, "sigma"),
        ({"holdout_fraction": 1.0}, "at least 0, below 1"),
        ({"holdout_fraction": 0.0, "loop": LoopConfig(patience=2)}, "need held-out molecules"),
        ({"holdout_fraction": 0.0, "loop": LoopConfig(schedule="plateau")}, "need held-out molecules"),
    ],
)
def test_settings_that_nothing_would_come_of_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DenoiseConfig(**changes)
