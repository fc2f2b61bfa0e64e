"""Each half of a part is predicted at the epoch that the other half prefers, and a resumed run knows it still."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from dnd.chemistry.splits import Split
from dnd.common.compute import derive_seed
from dnd.common.files import read_json
from dnd.finetuning import finetune, students
from dnd.finetuning.objective import HalfChoice, SupervisedObjective
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student, save_encoder
from dnd.predictor.ensemble import PropertyNetwork
from dnd.predictor.targets import Target
from dnd.predictor.uncertainty.intervals import conformal_half_width
from dnd.store.featurize import valid_molecules
from dnd.training.settings import LoopConfig
from finetuning_toys import heavy_atoms, molecules, quietly, write_csv


def test_each_half_is_predicted_at_the_epoch_that_the_other_prefers():
    choice = HalfChoice(7, 2, seed=1)
    first, second = choice.halves
    assert sorted(np.concatenate([first, second])) == list(range(7))
    # The first half prefers epoch 1, the second epoch 0.
    for epoch, scores in enumerate([(0.1, 0.9), (0.8, 0.2), (0.5, 0.5)]):
        choice.note(np.full((7, 2), float(epoch)), lambda half, by=scores: by[int(np.array_equal(half, second))])
    found = choice.predictions_VC.numpy()
    assert (found[second] == 1.0).all()
    assert (found[first] == 0.0).all()


def test_a_half_that_cannot_say_takes_the_last_epoch():
    choice = HalfChoice(4, 1, seed=0)
    for epoch in range(3):
        choice.note(np.full((4, 1), float(epoch)), lambda half: math.nan)
    assert (choice.predictions_VC.numpy() == 2.0).all()


@pytest.mark.parametrize("valid", [[8], [7, 8, 9]])
def test_a_half_without_a_label_takes_the_last_epoch_and_not_the_first(valid: list[int]):
    """Its loss is 0 at every epoch, so that the first would never be replaced; a part of one row has such a half."""
    store = valid_molecules(molecules()[:10], "heavy_both").store
    labels = np.arange(10.0)[:, None]
    labels[[7, 9]] = np.nan  # so one half has the label of row 8, and the other one has none
    partition = Split(np.arange(7), np.array(valid), np.array([6]))
    network = PropertyNetwork(build_student(StudentConfig("gine", width=16, num_layers=2)), "mean", "linear", 1)
    target = Target("y", mean=3.0, std=2.0)
    objective = SupervisedObjective(
        network, store, labels, (target,), partition, loop=LoopConfig(), layer_decay=1.0, balanced=False
    )
    found = students.probe_head(objective, 40, seed=0, keep_last=True).halves_VC
    last = network.head(students._embedded(objective, partition.valid)).detach().numpy()
    choice = HalfChoice(len(valid), 1, derive_seed(0, "halves"))
    lacking = next(half for half in choice.halves if valid.index(8) not in half)
    other = np.setdiff1d(np.arange(len(valid)), lacking)
    assert np.array_equal(found[other], last[other])


def test_it_is_less_flattering_than_the_epoch_that_the_whole_part_prefers():
    rng = np.random.default_rng(0)
    labels = rng.normal(size=(40, 1))
    own, halved = [], []
    for seed in range(30):
        epochs = rng.normal(size=(50, 40, 1))  # predictions that know nothing of the labels: an error of sqrt(2)
        choice = HalfChoice(40, 1, seed)
        for predictions in epochs:
            choice.note(predictions, lambda half, p=predictions: -float(((p - labels)[half] ** 2).mean()))
        own.append(min(float(((one - labels) ** 2).mean()) for one in epochs))
        halved.append(float(((choice.predictions_VC.numpy() - labels) ** 2).mean()))
    expected = float((labels**2).mean()) + 1.0
    assert np.mean(own) < 0.75 * expected
    assert np.mean(halved) == pytest.approx(expected, rel=0.1)


def test_a_checkpoint_has_it():
    choice, resumed = HalfChoice(5, 1, seed=3), HalfChoice(5, 1, seed=3)
    choice.note(np.ones((5, 1)), lambda half: 1.0)
    resumed.load_state_dict(choice.state_dict())
    resumed.note(np.zeros((5, 1)), lambda half: 0.5)
    assert (resumed.predictions_VC.numpy() == 1.0).all()


def test_copies_of_a_molecule_are_in_one_half_when_a_head_alone_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    given = []

    class Noted(HalfChoice):
        def __init__(self, *settings: object) -> None:
            given.append(settings)
            super().__init__(*settings)

    student = build_student(StudentConfig("gine", width=16, num_layers=2)).eval()
    save_encoder(tmp_path / "encoder", student, {"hydrogens": "heavy_both"}, "# Encoder")
    smiles = [text for text in molecules() for _ in range(2)]
    table = write_csv(tmp_path / "two.csv", {"smiles": smiles, "size": [heavy_atoms(text) for text in smiles]})
    monkeypatch.setattr(students, "HalfChoice", Noted)
    quietly(table, tmp_path / "model", ["size"], "probe_steps=20", encoder=tmp_path / "encoder")
    ((_, _, _, identities),) = given
    assert len(identities) == 2 * len(set(identities)) > 0


def test_intervals_of_a_student_are_learned_from_the_halves_of_its_validation_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    smiles = molecules()
    table = write_csv(tmp_path / "t.csv", {"smiles": smiles, "size": [heavy_atoms(text) for text in smiles]})
    results: list[students.MemberResult] = []

    def kept(*given: object, **named: object) -> students.MemberResult | None:
        results.append(students.train_member(*given, **named))
        return results[-1]

    monkeypatch.setattr(finetune, "train_member", kept)
    quietly(
        table, tmp_path / "model", ["size"], "ensemble=2", "fractions=0.5,0.4,0.1", "loop.epochs=8", encoder="random"
    )
    first, second = results
    held_out = (first.halves_VC + second.halves_VC)[:, 0] / 2
    labels = np.array([heavy_atoms(smiles[row]) for row in first.partition.valid])
    found = read_json(tmp_path / "model" / "calibration.json")["calibration"]["targets"][0]
    assert found["half_width"] == pytest.approx(conformal_half_width(labels - held_out))
