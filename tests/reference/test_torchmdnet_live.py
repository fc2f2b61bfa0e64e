"""The equivariant transformer and noise head against the installed torchmd-net, where there is one."""

from __future__ import annotations

import warnings

import pytest
import torch

from dnd.graphs.batch import ConformerBatch
from dnd.models.teachers.base import NoiseHead, TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.models.teachers.teachers import load_torchmd_state

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    torchmd_et = pytest.importorskip("torchmdnet.models.torchmd_et")
    output_modules = pytest.importorskip("torchmdnet.models.output_modules")

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("vector_cutoff", [False, True])
def test_equal_to_torchmdnet(vector_cutoff: bool) -> None:
    torch.manual_seed(1)
    reference = torchmd_et.TorchMD_ET(
        hidden_channels=64, num_layers=4, num_rbf=64, trainable_rbf=False, num_heads=8, max_num_neighbors=80,
        vector_cutoff=vector_cutoff,
    )  # fmt: skip
    reference_head = output_modules.EquivariantVectorOutput(64)
    tensors = {f"model.representation_model.{name}": value for name, value in reference.state_dict().items()}
    tensors |= {f"model.output_model_noise.{name}": value for name, value in reference_head.state_dict().items()}
    teacher = EquivariantTransformer(TeacherConfig(width=64, num_layers=4, vector_cutoff=vector_cutoff))
    head = NoiseHead(64)
    load_torchmd_state(teacher, head, tensors)

    sizes = torch.tensor([20, 1, 45, 8])
    lattice = 1.3 * torch.cartesian_prod(*(torch.arange(4.0),) * 3)
    positions = torch.cat([lattice[torch.randperm(64)[:size]] for size in sizes]) + 0.1 * torch.randn(74, 3)
    numbers = torch.tensor([1, 6, 7, 8])[torch.randint(4, (74,))]
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
    conformers = ConformerBatch(numbers, positions, offsets, torch.arange(74))
    x, v, *_ = reference(numbers, positions, conformers.batch_A)
    noise = reference_head.pre_reduce(x, v, numbers, positions, conformers.batch_A)
    output = teacher(conformers)
    torch.testing.assert_close(output.scalars_AD, x, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(output.vectors_A3D, v, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(head(output), noise, atol=1e-5, rtol=1e-5)
    noise.square().sum().backward()
    head(output).square().sum().backward()
    expected = dict(reference.named_parameters())
    for name, parameter in teacher.named_parameters():
        scale = float(expected[name].grad.abs().max().clamp(min=1))
        torch.testing.assert_close(parameter.grad, expected[name].grad, atol=2e-5 * scale, rtol=1e-4)
