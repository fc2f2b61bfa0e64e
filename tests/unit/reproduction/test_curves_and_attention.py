import json
from pathlib import Path

import numpy as np
import pytest
import torch
from molecule_store import store_of

from dnd.common.errors import InputError
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student
from dnd.models.students.tokengt import AttentionMap, TokenGT
from dnd.report.attention import analyse_attention, draw_attention
from dnd.reproduction.loss_curves import draw_curves, read_curves

SMILES = ["CCO", "c1ccccc1", "CC(C)C(=O)O", "C", "CCCCCC", "CN"]


def write_log(folder: Path) -> None:
    folder.mkdir()
    lines = [{"kind": "step", "step": step, "loss": 1 / step} for step in range(1, 501)]
    lines.append(
        {"kind": "evaluation", "epoch": 1, "step": 250, "train_loss": 0.3, "valid_loss": 0.4, "valid_node_r2": 0.5}
    )
    lines.append(
        {"kind": "evaluation", "epoch": 2, "step": 500, "train_loss": 0.1, "valid_loss": 0.2, "valid_node_r2": 0.9}
    )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')


def test_curves_of_a_run(tmp_path: Path) -> None:
    write_log(tmp_path / "run")
    curves = read_curves(tmp_path / "run")
    assert len(curves.steps) == 200
    assert curves.steps[-1][0] == 500
    assert curves.valid == [(250, 0.4), (500, 0.2)]
    finding = draw_curves({"D&D-NODE": curves})
    assert finding.sentence == "D&D-NODE: training loss 0.1, held-out loss 0.2, gap +0.1; held-out node R² 0.900."
    assert ("D&D-NODE", "train", 500, 0.1) in finding.rows
    with pytest.raises(InputError, match="no metrics"):
        read_curves(tmp_path)


def tokengt(seed: int = 0) -> TokenGT:
    torch.manual_seed(seed)
    student = build_student(StudentConfig("tokengt", width=16, num_layers=3, num_heads=4, num_identifiers=4))
    assert isinstance(student, TokenGT)
    return student


class DistanceStudent(TokenGT):
    """Layer 0 scores fall with distance, layer 1 is constant and looks at itself only."""

    def attention_maps(self, graph, identifiers_NI=None):
        maps = [[], []]
        for number in range(graph.num_molecules):
            first, last = graph.atom_offsets[number], graph.atom_offsets[number + 1]
            positions = self.positions[first:last]
            tokens = int(last - first) + 2 + int(graph.edge_offsets[number + 1] - graph.edge_offsets[number])
            scores = torch.full((1, tokens, tokens), 1e3)
            scores[0, 2 : 2 + len(positions), 2 : 2 + len(positions)] = -torch.cdist(positions, positions)
            maps[0].append(AttentionMap(scores, torch.ones(1, tokens, tokens) / tokens))
            maps[1].append(AttentionMap(torch.ones(1, tokens, tokens), torch.eye(tokens)[None]))
        return maps


def test_attention_that_is_distance_is_found() -> None:
    store = store_of(SMILES)
    student = DistanceStudent(StudentConfig("tokengt", width=16, num_layers=2, num_heads=4))
    student.positions = store.read(np.arange(len(SMILES))).conformers.positions_A3
    analysis = analyse_attention(student, store, np.arange(len(SMILES)))
    assert analysis.correlation_LH[0, 0] == pytest.approx(1.0, abs=1e-5)
    assert analysis.permuted_LH[0, 0] < 0.9
    assert analysis.correlation_LH[1, 0] == 0.0
    assert (analysis.molecules, analysis.skipped, analysis.constant) == (4, 2, 4)
    assert analysis.distance_LH[0, 0] == pytest.approx(analysis.uniform, rel=1e-5)
    assert analysis.distance_LH[1, 0] == pytest.approx(0.0, abs=1e-6)


def test_attention_of_a_random_student(tmp_path: Path) -> None:
    store = store_of(SMILES)
    analysis = analyse_attention(tokengt(), store, np.arange(len(SMILES)))
    assert analysis.correlation_LH.shape == (3, 4)
    assert (analysis.correlation_LH >= 0).all()
    assert (analysis.correlation_LH <= 1).all()
    finding = draw_attention({"RandInit": analysis, "again": analysis})
    assert len(finding.rows) == 24
    assert "of 12 heads" in finding.sentence
    assert len(finding.write(tmp_path)) == 4


def test_students_and_stores_without_attention_or_distance() -> None:
    store = store_of(["C", "CO"])
    with pytest.raises(InputError, match="three atoms"):
        analyse_attention(tokengt(), store, np.arange(2))
    with pytest.raises(InputError, match="no attention maps"):
        analyse_attention(build_student(StudentConfig("gine", width=8, num_layers=1)), store, np.arange(2))
