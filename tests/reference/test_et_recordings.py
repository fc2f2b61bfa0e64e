"""The equivariant transformer and its noise head repeat the recorded outputs of the published implementations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers import equivariant_transformer
from dnd.models.teachers.base import NoiseHead, TeacherConfig, TeacherOutput
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.layers import ExpNormBasis, cosine_cutoff
from dnd.models.teachers.teachers import load_torchmd_state

FOLDER = Path(__file__).parent
SMALL = {"width": 32, "num_layers": 3, "num_heads": 4, "num_rbf": 16, "max_atomic_number": 20}


def recording(name: str) -> dict[str, np.ndarray]:
    with np.load(FOLDER / name) as arrays:
        return {key: arrays[key] for key in arrays.files}


def build(
    data: dict[str, np.ndarray], dtype: torch.dtype, **settings: bool
) -> tuple[EquivariantTransformer, NoiseHead]:
    teacher, head = EquivariantTransformer(TeacherConfig(**SMALL, **settings)), NoiseHead(32)
    tensors = {key.removeprefix("w."): torch.from_numpy(value) for key, value in data.items() if key.startswith("w.")}
    if not settings.get("whiten_vectors"):
        tensors.pop("representation_model.out_norm_vec.weight", None)
    load_torchmd_state(teacher, head, tensors)
    return teacher.to(dtype), head.to(dtype)


def batch(data: dict[str, np.ndarray], positions: np.ndarray, dtype: torch.dtype) -> ConformerBatch:
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(data["in.n_atoms"])]))
    placed = torch.from_numpy(positions).to(dtype)
    return ConformerBatch(torch.from_numpy(data["in.z"]), placed, offsets, torch.arange(len(placed)))


def assert_equal(found: torch.Tensor, expected: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(found.detach().double().numpy(), expected, rtol=0, atol=tolerance)


PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


@pytest.fixture(scope="module")
def plain() -> dict[str, np.ndarray]:
    return recording("et_torchmdnet.npz")


@pytest.fixture(scope="module")
def whitened() -> dict[str, np.ndarray]:
    return recording("et_denoising_whitened.npz")


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("cell_bytes", [1, 4 * 2**20])
def test_outputs_equal_torchmdnet(
    plain: dict[str, np.ndarray],
    dtype: torch.dtype,
    tolerance: float,
    cell_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(
        equivariant_transformer.CELL_BYTES,
        "cpu",
        cell_bytes,
    )
    teacher, head = build(plain, dtype)
    output = teacher(batch(plain, plain["in.pos"], dtype), collect_layers=True)
    assert_equal(output.scalars_AD, plain["out64.x"], tolerance)
    assert_equal(output.vectors_A3D, plain["out64.vec"], tolerance)
    assert_equal(head(output), plain["out64.head"], tolerance)
    scalars = plain["out64.x_embed"]
    for layer in range(3):
        scalars = scalars + plain[f"out64.dx.{layer}"]
        assert_equal(output.layers[layer], scalars, tolerance)
    lone = plain["in.n_atoms"][:-1].sum()
    assert (output.vectors_A3D[lone:] == 0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_gradients_equal_torchmdnet(plain: dict[str, np.ndarray], dtype: torch.dtype, tolerance: float) -> None:
    teacher, head = build(plain, dtype)
    conformers = batch(plain, plain["in.pos"], dtype)
    conformers.positions_A3.requires_grad_()
    scalar = (head(teacher(conformers)) * torch.from_numpy(plain["in.grad_weight"]).to(dtype)).sum()
    scalar.backward()
    assert scalar.item() == pytest.approx(float(plain["out64.grad.scalar"]), abs=tolerance)
    assert_equal(conformers.positions_A3.grad, plain["out64.grad.pos"], tolerance)
    named = {"representation_model." + name: weight for name, weight in teacher.named_parameters()}
    named |= {"output_model_noise." + name: weight for name, weight in head.named_parameters()}
    recorded = [key for key in plain if key.startswith("out64.grad.") and key.endswith("weight")]
    assert len(recorded) == 4
    for key in recorded:
        assert_equal(named[key.removeprefix("out64.grad.")].grad, plain[key], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_plain_equations_equal_torchmdnet(
    plain: dict[str, np.ndarray], dtype: torch.dtype, tolerance: float
) -> None:
    teacher, head = build(plain, dtype)
    teacher.kernel = "plain"
    conformers = batch(plain, plain["in.pos"], dtype)
    conformers.positions_A3.requires_grad_()
    output = teacher(conformers)
    assert_equal(output.scalars_AD, plain["out64.x"], tolerance)
    assert_equal(output.vectors_A3D, plain["out64.vec"], tolerance)
    (head(output) * torch.from_numpy(plain["in.grad_weight"]).to(dtype)).sum().backward()
    assert_equal(conformers.positions_A3.grad, plain["out64.grad.pos"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_vector_cutoff_equals_torchmdnet(plain: dict[str, np.ndarray], dtype: torch.dtype, tolerance: float) -> None:
    teacher, head = build(plain, dtype, vector_cutoff=True)
    output = teacher(batch(plain, plain["in.pos"], dtype))
    assert_equal(output.scalars_AD, plain["out64.vector_cutoff.x"], tolerance)
    assert_equal(output.vectors_A3D, plain["out64.vector_cutoff.vec"], tolerance)
    assert_equal(head(output), plain["out64.vector_cutoff.head"], tolerance)


def test_radial_functions_equal_torchmdnet(plain: dict[str, np.ndarray]) -> None:
    teacher, _ = build(plain, torch.float64)
    distances = torch.from_numpy(plain["in.rbf_distance"])
    assert_equal(teacher.distance_expansion(distances), plain["out64.rbf"], 1e-12)
    assert_equal(cosine_cutoff(distances, 5.0), plain["out64.cutoff"], 1e-12)
    fresh = ExpNormBasis(16, 5.0)
    assert_equal(fresh.means, plain["w.representation_model.distance_expansion.means"], 1e-6)
    np.testing.assert_allclose(fresh.betas, plain["w.representation_model.distance_expansion.betas"], rtol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance", "loose"), [(torch.float64, 1e-9, 1e-9), (torch.float32, 1e-5, 5e-4)])
def test_whitened_outputs_equal_the_denoising_reference(
    whitened: dict[str, np.ndarray], dtype: torch.dtype, tolerance: float, loose: float
) -> None:
    teacher, head = build(whitened, dtype, whiten_vectors=True)
    output = teacher(batch(whitened, whitened["in.pos"], dtype))
    assert_equal(output.scalars_AD, whitened["out64.clean.x"], tolerance)
    assert_equal(output.vectors_A3D, whitened["out64.clean.vec"], loose)
    assert_equal(head(output), whitened["out64.clean.head"], loose)
    for draw in range(2):
        noisy = whitened["in.pos"].astype(np.float64) + whitened["in.noise"][draw].astype(np.float64)
        found: TeacherOutput = teacher(batch(whitened, noisy, dtype))
        assert_equal(head(found), whitened[f"out64.noisy{draw}.head"], loose)
        epsilon = torch.from_numpy(whitened["in.noise"][draw].astype(np.float64) / 0.04)
        loss = (head(found).double() - epsilon).square().mean().item()
        assert loss == pytest.approx(float(whitened[f"out64.noisy{draw}.loss_eps"]), abs=loose)


def test_whitening_can_be_left_out(whitened: dict[str, np.ndarray]) -> None:
    teacher, head = build(whitened, torch.float64)
    output = teacher(batch(whitened, whitened["in.pos"], torch.float64))
    assert_equal(output.vectors_A3D, whitened["out64.no_whitening.clean.vec"], 1e-10)
    assert_equal(head(output), whitened["out64.no_whitening.clean.head"], 1e-10)


def test_whitened_gradients_equal_the_denoising_reference(whitened: dict[str, np.ndarray]) -> None:
    teacher, head = build(whitened, torch.float64, whiten_vectors=True)
    noisy = whitened["in.pos"].astype(np.float64) + whitened["in.noise"][0].astype(np.float64)
    target = torch.from_numpy(whitened["out64.noisy0.target_standardised"])
    (head(teacher(batch(whitened, noisy, torch.float64))) - target).square().mean().backward()
    weights = {"representation_model." + name: weight for name, weight in teacher.named_parameters()}
    weights |= {"output_model_noise." + name: weight for name, weight in head.named_parameters()}
    for key in whitened:
        if key.startswith("out64.noisy0.grad."):
            assert_equal(weights[key.removeprefix("out64.noisy0.grad.")].grad, whitened[key], 1e-9)
    norm = torch.stack([weight.grad.norm() for weight in weights.values() if weight.grad is not None]).norm()
    assert norm.item() == pytest.approx(float(whitened["out64.noisy0.grad_global_norm"]), rel=1e-9)
