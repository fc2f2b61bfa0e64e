"""Time and memory of a teacher's training step (forward, backward) as ratios to two references on the same weights.

`dense`: the equations of the equivariant transformer written out on padded `(B, T, T, F)` tensors, plain autograd.
`torchmdnet`: the published package, where it can be imported. Each implementation runs in a process of its own, so
peak memory is its own. Times are CPU seconds of one thread, the median of the repetitions: on a shared machine they
are steadier than those of the clock.

    python benchmarks/teacher_step.py                 # the table
    python benchmarks/teacher_step.py --repeat 3 --molecules 64 --case 128x6 --size qm9
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor, nn

from dnd.graphs.batch import ConformerBatch, padding_index
from dnd.teacher.config import TeacherConfig
from dnd.teacher.contract import TeacherOutput
from dnd.teacher.equivariant_transformer import EquivariantTransformer
from dnd.teacher.noise_head import NoiseHead
from dnd.teacher.radial import cosine_cutoff

CASES = {"64x4": (64, 4), "128x6": (128, 6), "256x8": (256, 8)}
SMILES = {
    "qm9": ["CC(C)CC(=O)CO", "C1CCC2OC2C1O", "CC1(C)OCC1C#N", "OCC1CC=CC1", "CN1C=NC2=C1C=CN2", "CCC(C)(O)C1CO1"],
    "drug": [
        "CN1CCN(CC1)C2=Nc3cc(Cl)ccc3Nc4ccccc4C2CCCCC",
        "CC(C)Cc1ccc(cc1)C(C)C(=O)NCCc2ccc(O)c(OC)c2",
        "COc1ccc2nc(sc2c1)N3CCN(CC3)C(=O)C4CCCCC4CN",
        "CC(C)NCC(O)COc1ccc(CCOCC2CC2)cc1",
    ],
}


class DenseReference(nn.Module):
    """The same network as `EquivariantTransformer`, each equation one line, nothing shared or recomputed."""

    def __init__(self, teacher: EquivariantTransformer) -> None:
        super().__init__()
        self.teacher = teacher

    def forward(self, conformers: ConformerBatch) -> TeacherOutput:
        et = self.teacher
        index, real = padding_index(conformers.atom_offsets)
        position, numbers = conformers.positions_A3[index], conformers.atomic_numbers_A[index]
        size = index.shape[1]
        offset = position[:, None] - position[:, :, None]
        itself = torch.eye(size, dtype=torch.bool)
        zero = itself | ~(real[:, None] & real[:, :, None])
        distance = torch.where(zero, 1.0, offset.square().sum(-1)).sqrt()
        distance = torch.where(zero, 0.0, distance)
        near = real[:, None] & real[:, :, None] & (distance < et.cutoff)
        unit = offset / torch.where(zero, 1.0, distance)[..., None]
        cutoff = cosine_cutoff(distance, et.cutoff) * near
        radial = et.distance_expansion(distance.flatten()).view(*distance.shape, -1)
        embedding = et.neighbor_embedding
        filters = embedding.distance_proj(radial) * (cutoff * ~itself)[..., None]
        around = (filters * embedding.embedding(numbers)[:, None]).sum(2)
        x = embedding.combine(torch.cat([et.embedding(numbers), around], -1))
        v = x.new_zeros(*x.shape[:2], 3, x.shape[-1])
        for layer in et.attention_layers:
            dx, dv = self.layer(layer, x, v, radial, cutoff, unit, near)
            x, v = x + dx, v + dv
        return TeacherOutput(et.out_norm(x)[real], v[real])

    @staticmethod
    def layer(layer, x, v, radial, cutoff, unit, near):  # type: ignore[no-untyped-def]
        heads, width = layer.num_heads, x.shape[-1]
        h = layer.layernorm(x)
        split = [*x.shape[:2], heads, -1]
        q, k, val = (linear(h).view(split) for linear in (layer.q_proj, layer.k_proj, layer.v_proj))
        silu = nn.functional.silu
        dk = silu(layer.dk_proj(radial)).unflatten(-1, (heads, -1))
        dv = silu(layer.dv_proj(radial)).unflatten(-1, (heads, -1)) * near[..., None, None]
        attention = silu((q[:, :, None] * k[:, None] * dk).sum(-1)) * cutoff[..., None]
        s0, s1, s2 = (val[:, None] * dv).chunk(3, dim=-1)
        message = (s0 * attention[..., None]).sum(2).flatten(2)
        s1, s2 = s1.flatten(3), s2.flatten(3)
        gathered = [
            (v[:, None, :, axis] * s1 + s2 * unit[..., axis, None]).sum(2) for axis in range(3)
        ]  # axis by axis, so that no pairs x 3 x width tensor is made
        o1, o2, o3 = layer.o_proj(message).split(width, -1)
        p1, p2, p3 = layer.vec_proj(v).split(width, -1)
        return (p1 * p2).sum(2) * o2 + o3, p3 * o1[:, :, None] + torch.stack(gathered, 2)


class TorchmdReference(nn.Module):
    """torchmd-net's ET with the weights of ours."""

    def __init__(self, teacher: EquivariantTransformer, neighbours: int) -> None:
        super().__init__()
        from torchmdnet.models.torchmd_et import TorchMD_ET

        config = teacher.config
        self.et = TorchMD_ET(
            hidden_channels=config.width, num_layers=config.num_layers, num_rbf=config.num_rbf, trainable_rbf=False,
            num_heads=config.num_heads, cutoff_upper=config.cutoff, max_num_neighbors=neighbours,
        )  # fmt: skip
        missing, unexpected = self.et.load_state_dict(teacher.state_dict(), strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= {"distance.box"}, missing

    def forward(self, conformers: ConformerBatch) -> TeacherOutput:
        x, v, *_ = self.et(conformers.atomic_numbers_A, conformers.positions_A3, conformers.batch_A)
        return TeacherOutput(x, v)


def conformers_of(size: str, molecules: int) -> ConformerBatch:
    from rdkit import Chem
    from rdkit.Chem import AllChem

    numbers, positions = [], []
    for smiles in SMILES[size]:
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMolecule(mol, randomSeed=7)
        numbers.append([atom.GetAtomicNum() for atom in mol.GetAtoms()])
        positions.append(mol.GetConformer().GetPositions())
    picks = [index % len(numbers) for index in range(molecules)]
    offsets = np.concatenate([[0], np.cumsum([len(numbers[pick]) for pick in picks])])
    return ConformerBatch(
        torch.tensor([number for pick in picks for number in numbers[pick]]),
        torch.from_numpy(np.concatenate([positions[pick] for pick in picks]).astype(np.float32)),
        torch.from_numpy(offsets),
        torch.arange(int(offsets[-1])),
    )


def measure(kind: str, case: str, size: str, molecules: int, repeat: int) -> dict[str, float]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width, layers = CASES[case]
    conformers = conformers_of(size, molecules)
    teacher, head = EquivariantTransformer(TeacherConfig(width=width, num_layers=layers)), NoiseHead(width)
    neighbours = int(conformers.atom_offsets.diff().max())
    network: nn.Module = teacher
    if kind != "dnd":
        network = DenseReference(teacher) if kind == "dense" else TorchmdReference(teacher, neighbours)

    def step() -> Tensor:
        loss: Tensor = head(network(conformers)).square().sum()
        loss.backward()
        return loss.detach()

    one = conformers_of(size, 1)
    head(network(one)).square().sum().backward()  # compile, load libraries
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds, forward = [], []
    for _ in range(repeat):
        started = time.process_time()
        loss = step()
        seconds.append(time.process_time() - started)
        with torch.no_grad():
            started = time.process_time()
            network(conformers)
            forward.append(time.process_time() - started)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "step_s": statistics.median(seconds),
        "forward_s": statistics.median(forward),
        "peak_mb": peak / 1024,
        "loss": float(loss),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", choices=CASES, action="append")
    parser.add_argument("--size", choices=SMILES, action="append")
    parser.add_argument("--kind", choices=["dnd", "dense", "torchmdnet"], action="append")
    parser.add_argument("--molecules", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        kind, case, size = options.measure
        print(json.dumps(measure(kind, case, size, options.molecules, options.repeat)))
        return
    print("size  case   implementation  step s  forward s  peak MB   loss      step vs dnd  memory vs dnd")
    for size in options.size or SMILES:
        for case in options.case or CASES:
            ours: dict[str, float] = {}
            for kind in options.kind or ["dnd", "dense", "torchmdnet"]:
                words = [sys.executable, str(Path(__file__)), "--measure", kind, case, size]
                words += ["--molecules", str(options.molecules), "--repeat", str(options.repeat)]
                run = subprocess.run(words, capture_output=True, text=True, check=False)
                if run.returncode:
                    print(f"{size:5} {case:6} {kind:15} failed: {run.stderr.strip().splitlines()[-1][:80]}")
                    continue
                found = json.loads(run.stdout.strip().splitlines()[-1])
                ours = ours or found
                print(
                    f"{size:5} {case:6} {kind:15} {found['step_s']:6.2f} {found['forward_s']:10.2f} "
                    f"{found['peak_mb']:8.0f}   {found['loss']:.4e} {found['step_s'] / ours['step_s']:8.2f} x "
                    f"{found['peak_mb'] / max(ours['peak_mb'], 1):11.2f} x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
