"""Two gloo ranks have the gradient that one process has for the whole batch, for every objective that trains."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from objective_ranks import CASES, gradients_of
from safetensors.torch import load_file

from dnd.training.distributed import World
from nursery import Nursery

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(Path(__file__).parent / "objective_ranks.py", tmp_path_factory.mktemp("ranks"))
    yield nursery
    nursery.close()


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_have_the_gradient_of_one_process(case: str, nursery: Nursery, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    children = [
        nursery.start("gradients", variables={**common, "RANK": str(rank)}, case=case, out=str(tmp_path / "rank"))
        for rank in range(2)
    ]
    alone = gradients_of(case, World())
    for child in children:
        assert child.wait() == 0, child.output
    for rank in range(2):
        found = load_file(tmp_path / f"rank-{rank}.safetensors")
        assert found.keys() == alone.keys()
        for name, expected in alone.items():
            off = (found[name] - expected).abs().max() / expected.abs().max().clamp(min=1)
            assert off < (1e-12 if expected.dtype == torch.float64 else 1e-6), (name, float(off))
    assert any(tensor.abs().max() > 1e-3 for name, tensor in alone.items() if "loss" not in name)


@pytest.mark.parametrize("case", ["denoise", "distill node", "finetune values"])
@pytest.mark.parametrize("ranks", [2, 5])
def test_every_training_molecule_is_one_rank_s_once_an_epoch(case: str, ranks: int) -> None:
    objective = CASES[case]()
    train = objective.partition.train if case.startswith("finetune") else objective.train_rows.sample()
    for epoch in range(2):
        seen: list[int] = []
        for rows in objective.plan_epoch(epoch):
            for rank in range(min(ranks, len(rows))):  # a further rank borrows a molecule, at weight 0
                seen += World(rank, ranks).share(rows).tolist()
        assert sorted(seen) == train.tolist()
