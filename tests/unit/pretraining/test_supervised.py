"""The supervised teacher of CCMD: its token's symmetries, what it learns, and that distillation reads the token."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from conformance.teacher_suite import conformers_of, random_molecule, rotation
from distillation_toys import TEACHER, toy_config, toy_row, toy_store, toy_teacher
from dnd.common.errors import ConfigError
from dnd.graphs.batch import MoleculeBatch
from dnd.models.students.base import StudentConfig
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.fast_pairs.pairs import CoincidentAtomsError
from dnd.models.teachers.layers import MoleculeToken
from dnd.models.teachers.teachers import build_teacher, load_teacher
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective
from dnd.pretraining.distill import distill
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.settings import DistillConfig, TermWeights
from dnd.pretraining.supervised_teacher import SuperviseConfig, SupervisedTeacherObjective, supervise
from dnd.pretraining.teacher_outputs import TargetRequest, run_teacher
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig
from dnd.training.settings import LoopConfig

CONFIG = TeacherConfig(width=16, num_layers=2, num_heads=4, num_rbf=16, molecule_token=True)
QM9 = Path(__file__).parents[2] / "data" / "qm9_300.npz"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("supervised") / "store"
    config = PrepareConfig(target_columns=("gap",), hydrogens="teacher_all_student_heavy", limit=120)
    prepare([QM9], folder, config)
    return Store.open(folder)


def test_the_token_knows_neither_place_nor_turn_nor_order_nor_neighbours() -> None:
    torch.manual_seed(0)
    teacher = build_teacher(CONFIG).double().eval()
    first, second = random_molecule(9, 1), random_molecule(5, 2)
    alone = teacher(conformers_of(first), collect_layers=True).tokens
    assert [tuple(token.shape) for token in alone] == [(1, 16), (1, 16)]
    moved = (first[0], first[1] @ rotation(3).T + 1.7)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(4))
    renumbered = ([first[0][place] for place in order.tolist()], first[1][order])
    for other in (moved, renumbered):
        for token, same in zip(alone, teacher(conformers_of(other), collect_layers=True).tokens, strict=True):
            torch.testing.assert_close(token, same, rtol=0, atol=1e-9)
    together = teacher(conformers_of(second, first), collect_layers=True).tokens
    torch.testing.assert_close(together[-1][1:], alone[-1], rtol=0, atol=1e-9)
    assert (together[-1][0] - together[-1][1]).abs().max() > 1e-3
    assert teacher(conformers_of(first)).tokens == []


def test_a_budget_of_tokens_bounds_the_batches(store: Store) -> None:
    loop = LoopConfig(batch_size=64, max_tokens=40, device="cpu")
    config = SuperviseConfig(teacher=CONFIG, holdout_fraction=0.2, loop=loop)
    sizes = store.conformer_atom_counts[:]
    plan = SupervisedTeacherObjective(store, config).plan_epoch(0)
    assert max(len(rows) * sizes[rows].max() for rows in plan) <= 40


def test_attention_weights_of_a_molecule_sum_to_one() -> None:
    """Where all atoms say the same, the token reads exactly that, however many they are."""
    torch.manual_seed(1)
    token = MoleculeToken(8, 1, 2).double()
    atoms = torch.randn(1, 8, dtype=torch.float64)
    few, many = (token([atoms.expand(n, -1)], torch.zeros(n, dtype=torch.int64), 1)[0] for n in (1, 7))
    torch.testing.assert_close(few, many, rtol=0, atol=1e-12)


def test_only_the_equivariant_transformer_has_a_token() -> None:
    with pytest.raises(ValueError, match="molecule_token belongs to the equivariant transformer"):
        TeacherConfig(name="painn", molecule_token=True)
    with pytest.raises(ConfigError, match="belongs to the equivariant transformer"):
        SuperviseConfig(teacher=TeacherConfig(name="painn"))
    assert "token.start" not in build_teacher(replace(CONFIG, molecule_token=False)).state_dict()


def config_of(**loop: object) -> SuperviseConfig:
    return SuperviseConfig(
        teacher=replace(CONFIG, molecule_token=False),
        loop=LoopConfig(**{"epochs": 12, "batch_size": 16, "learning_rate": 3e-3, "weight_decay": 0.0, **loop}),
        holdout_fraction=0.2,
    )


def test_labels_that_are_missing_have_no_part(store: Store) -> None:
    objective = SupervisedTeacherObjective(store, config_of())
    rows = np.arange(6)
    batch = objective.load_batch(rows, 0)
    whole = batch.targets_BC[:, 0].clone()
    values = torch.where(torch.isfinite(whole), whole, torch.tensor(0.3))
    known = objective(replace(batch, targets_BC=values[:, None]), 0)
    assert known.weight == 6
    half = values.clone()
    half[3:] = torch.nan
    three = objective(replace(batch, targets_BC=half[:, None]), 0)
    assert three.weight == 3
    token = objective.teacher(batch.conformers, collect_layers=True).tokens[-1]
    error = (objective.head(token)[:, 0] - (values - objective.mean) / objective.deviation).abs()
    torch.testing.assert_close(known.loss, error.mean())
    torch.testing.assert_close(three.loss, error[:3].mean())
    nothing = objective(replace(batch, targets_BC=torch.full((6, 1), torch.nan)), 0)
    assert (nothing.loss.item(), nothing.weight.item()) == (0.0, 0.0)


def test_a_teacher_learns_its_label_and_teaches_with_its_token(store: Store, tmp_path: Path) -> None:
    result = supervise(store, tmp_path / "t", config_of())
    assert result.metrics["held_out_loss"] < 0.75  # of predicting the mean it is about 0.8
    unit = result.metrics["held_out_loss"] * result.metrics["label_deviation"]
    assert result.metrics["held_out_mae"] == pytest.approx(unit)
    teacher, saved = load_teacher(tmp_path / "t")
    assert (teacher.has_token, saved["settings"]["target"]) == (True, "gap")
    batch = store.read(np.arange(4))
    _, pooled = run_teacher(teacher, batch, TargetRequest((), (0, 1)))
    tokens = teacher(batch.conformers, collect_layers=True).tokens
    torch.testing.assert_close(pooled[1], tokens[1])
    torch.testing.assert_close(pooled[0], torch.nn.functional.layer_norm(tokens[0], (16,)))
    config = DistillConfig(
        level="custom", terms=TermWeights(global_tokens=1.0, local_atoms=1.0, task=1.0), task_target="gap",
        task_readout="virtual_node", holdout_fraction=0.2,
        student=StudentConfig("tokengt", 16, 2, num_heads=2), loop=LoopConfig(epochs=2, batch_size=32),
    )  # fmt: skip
    summary = distill(store, tmp_path / "t", tmp_path / "e", config)
    assert {"valid_global_tokens_loss", "valid_local_atoms_loss", "valid_task_loss"} <= summary.metrics.keys()
    assert supervise(store, tmp_path / "t", config_of(), resume=True).metrics == result.metrics


def test_teacher_and_student_hold_out_the_same_molecules(store: Store, tmp_path: Path) -> None:
    """Else a student would be judged on molecules whose label its teacher has seen."""
    teacher = SupervisedTeacherObjective(store, config_of(seed=5))
    config = DistillConfig(
        level="custom", terms=TermWeights(task=1.0, global_tokens=1.0), task_target="gap",
        holdout_fraction=0.2, student=StudentConfig("gine", 8, 1), loop=LoopConfig(seed=5, batch_size=32),
    )  # fmt: skip
    student = DistillationObjective(store, teacher.teacher, config)
    assert np.array_equal(np.sort(teacher.holdout_rows), np.sort(student.holdout_rows))


def test_a_label_that_is_not_there_is_said(store: Store) -> None:
    with pytest.raises(ConfigError, match="unknown target column 'gapp'"):
        SupervisedTeacherObjective(store, replace(config_of(), target="gapp"))


def test_no_stage_trains_on_a_copy_of_a_held_out_molecule() -> None:
    rows = [replace(toy_row(index % 20, "heavy_both", 1), row=index) for index in range(60)]
    store = Store.from_rows(rows, target_columns=("energy", "rare"))
    loop = LoopConfig(batch_size=16, device="cpu")
    objectives = [
        DenoisingObjective(store, DenoiseConfig(TEACHER, loop, holdout_fraction=0.2)),
        SupervisedTeacherObjective(store, SuperviseConfig("energy", TEACHER, loop, 0.2)),
        DistillationObjective(store, toy_teacher(), toy_config(loop=loop)),
    ]
    held = objectives[0].holdout_rows
    assert 0 < len(held) < 30
    for objective in objectives:
        trained = np.concatenate(list(objective.plan_epoch(0)))
        assert np.array_equal(objective.holdout_rows, held)
        assert not set((trained % 20).tolist()) & set((held % 20).tolist())
        assert len(trained) + len(held) == 60


def test_an_evaluation_keeps_the_budget_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """It read batches of `batch_size` molecules, 128 by default, where a training fitted 24 padded atoms."""
    store, loop = toy_store(), LoopConfig(max_tokens=24, device="cpu")
    objectives = [
        DenoisingObjective(store, DenoiseConfig(TEACHER, loop, holdout_fraction=0.4)),
        SupervisedTeacherObjective(store, SuperviseConfig("energy", TEACHER, loop, 0.4)),
        DistillationObjective(store, toy_teacher(), toy_config(loop=loop, holdout_fraction=0.4)),
    ]
    whole = [objective.eval().evaluate() for objective in objectives]
    read, cells = Store.read, []

    def noting(self: Store, rows: np.ndarray, **settings: int) -> MoleculeBatch:
        cells.append(int(self.atom_counts[rows].max()) * len(rows))
        return read(self, rows, **settings)

    monkeypatch.setattr(Store, "read", noting)
    assert [objective.evaluate() for objective in objectives] == whole
    assert 0 < max(cells) <= 24


def test_a_broken_conformer_is_named() -> None:
    rows = [toy_row(index, "heavy_both", 1) for index in range(20)]
    rows[4].conformers.positions_JA3[0, 1] = rows[4].conformers.positions_JA3[0, 0]
    store = Store.from_rows(rows, target_columns=("energy", "rare"))
    objective = SupervisedTeacherObjective(store, SuperviseConfig("energy", TEACHER, holdout_fraction=0.2))
    with pytest.raises(CoincidentAtomsError, match=r"molecule 4 \(toy\.sdf row 4\): atoms 0 and 1 coincide"):
        objective(objective.load_batch(np.array([7, 4]), 0), 1)
