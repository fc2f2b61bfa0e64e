"""A chiral teacher tells mirror images apart and nothing else changes."""

from __future__ import annotations

import pytest
import torch

from dnd.common.config import from_dict, to_dict
from dnd.common.errors import ConfigError
from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.layers import Handedness

SMALL = {"width": 16, "num_layers": 2, "num_heads": 4, "num_rbf": 16}
MIRROR = torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64)
# A carbon with four neighbours, angstrom; the first three atoms lie in the mirror plane of the achiral molecule.
TETRAHEDRON = torch.tensor([[0, 0, 0], [1, 1, 0], [1, -1, 0], [-1, 0, 1], [-1, 0, -1]], dtype=torch.float64)
BROMOCHLOROFLUOROMETHANE = [6, 1, 9, 17, 35]
DICHLOROFLUOROMETHANE = [6, 1, 9, 17, 17]


def conformer(atomic_numbers: list[int], positions: torch.Tensor) -> ConformerBatch:
    count = len(atomic_numbers)
    return ConformerBatch(torch.tensor(atomic_numbers), positions, torch.tensor([0, count]), torch.arange(count))


def scalars(teacher: EquivariantTransformer, atomic_numbers: list[int], positions: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return teacher(conformer(atomic_numbers, positions)).scalars_AD


def built(*, chiral: bool, seed: int = 1) -> EquivariantTransformer:
    torch.manual_seed(seed)
    return EquivariantTransformer(TeacherConfig(**SMALL, chiral=chiral)).double().eval()


def random_rotation(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))
    return basis * torch.linalg.det(basis)


def test_enantiomers_differ_only_for_a_chiral_teacher() -> None:
    for chiral in (False, True):
        teacher = built(chiral=chiral)
        hand, other = (scalars(teacher, BROMOCHLOROFLUOROMETHANE, TETRAHEDRON * mirror) for mirror in (1.0, MIRROR))
        difference = (hand - other).abs().amax(1)
        assert (difference > 1e-3).all() if chiral else (difference < 1e-12).all()


@pytest.mark.parametrize("seed", range(3))
def test_rotations_and_permutations_change_nothing(seed: int) -> None:
    teacher, turn = built(chiral=True), random_rotation(seed)
    before = scalars(teacher, BROMOCHLOROFLUOROMETHANE, TETRAHEDRON)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed)).tolist()
    moved = (TETRAHEDRON @ turn.T + 4.0)[order]
    after = scalars(teacher, [BROMOCHLOROFLUOROMETHANE[atom] for atom in order], moved)
    torch.testing.assert_close(after, before[order], rtol=0, atol=1e-10)


def test_the_mirror_image_of_an_achiral_molecule_is_the_molecule() -> None:
    """Its two chlorine atoms, which the mirror exchanges, differ from each other by their handedness alone."""
    teacher = built(chiral=True)
    hand, other = (scalars(teacher, DICHLOROFLUOROMETHANE, TETRAHEDRON * mirror) for mirror in (1.0, MIRROR))
    torch.testing.assert_close(other, hand[[0, 1, 2, 4, 3]], rtol=0, atol=1e-10)
    torch.testing.assert_close(other[:3], hand[:3], rtol=0, atol=1e-10)
    assert (hand[3] - hand[4]).abs().max() > 1e-3


def test_a_planar_molecule_has_no_handedness() -> None:
    teacher = built(chiral=True)
    positions = torch.randn(6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 2
    positions[:, 2] = 0
    positions = positions @ random_rotation(7).T
    hand, other = (scalars(teacher, [6, 7, 8, 1, 9, 17], positions * mirror) for mirror in (1.0, MIRROR))
    torch.testing.assert_close(other, hand, rtol=0, atol=1e-10)


def test_reflection_turns_the_sign_and_rotation_does_not() -> None:
    torch.manual_seed(0)
    handedness = Handedness(16).double()
    vectors = torch.randn(7, 3, 16, dtype=torch.float64)
    expected = handedness(vectors)
    assert (expected.abs().amax(1) > 1e-3).all()
    torch.testing.assert_close(handedness(vectors * MIRROR[:, None]), -expected)
    torch.testing.assert_close(handedness(random_rotation(2) @ vectors), expected)
    assert (handedness(torch.zeros_like(vectors)) == 0).all()


def test_off_has_the_weights_and_the_outputs_of_a_teacher_without_it() -> None:
    plain, chiral = built(chiral=False), built(chiral=True)
    added = {name for name, _ in chiral.named_parameters()} - {name for name, _ in plain.named_parameters()}
    assert added == {f"handedness_layers.{layer}.{part}.weight" for layer in range(2) for part in ("combine", "mix")}
    weights = plain.state_dict()
    chiral.load_state_dict(weights, strict=False)
    for layer in chiral.handedness_layers:
        torch.nn.init.zeros_(layer.mix.weight)
    found, expected = (scalars(teacher, BROMOCHLOROFLUOROMETHANE, TETRAHEDRON) for teacher in (chiral, plain))
    assert torch.equal(found, expected)


def test_settings_of_an_older_teacher_mean_off() -> None:
    older = to_dict(TeacherConfig(**SMALL))
    del older["chiral"]
    assert from_dict(TeacherConfig, older) == TeacherConfig(**SMALL)


def test_painn_refuses_it() -> None:
    with pytest.raises(ConfigError, match="chiral"):
        from_dict(TeacherConfig, {"name": "painn", "chiral": True})
