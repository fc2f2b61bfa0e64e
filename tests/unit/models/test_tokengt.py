"""TokenGT beyond the contract: fast and explicit attention agree, regularisation, giants, what training draws."""

from __future__ import annotations

import pytest
import torch

from dnd.models.students.base import StudentConfig
from dnd.models.students.tokengt import PackedAttention, TokenGT, TransformerLayer, token_layout
from student_batches import batch_of, random_molecule, unbonded

CONFIG = StudentConfig("tokengt", 32, 2, num_heads=4, num_identifiers=8, identifier_dropout=0.0)
SIZES = [5, 9, 9, 1, 14]


@pytest.fixture
def graph():
    return batch_of([random_molecule(atoms, seed) for seed, atoms in enumerate(SIZES)] + [unbonded(2, 9)])


def test_explicit_and_fused_attention_agree(graph):
    torch.manual_seed(0)
    layer, layout = TransformerLayer(CONFIG, 0.0).eval(), token_layout(graph)
    tokens = torch.randn(int(layout.lengths.sum()), 32)
    maps = []
    torch.testing.assert_close(layer(tokens, layout, maps), layer(tokens, layout), atol=1e-6, rtol=1e-5)
    assert len(maps) == graph.num_molecules


def test_the_padded_form_for_gpus_agrees(graph):
    torch.manual_seed(0)
    attention, layout = PackedAttention(32, 4, 0.0), token_layout(graph)
    tokens = torch.randn(int(layout.lengths.sum()), 32)
    padded = attention.out(attention._attend_padded(attention.query_key_value(tokens), layout))
    torch.testing.assert_close(padded, attention(tokens, layout), atol=1e-6, rtol=1e-5)


def test_attention_maps_are_in_the_order_of_the_batch(graph):
    student = TokenGT(CONFIG).eval()
    maps = student.attention_maps(graph)
    tokens = (graph.atoms_per_molecule_B + graph.edge_offsets.diff() + 2).tolist()
    assert [attention.weights_Htt.shape for attention in maps[0]] == [(4, count, count) for count in tokens]
    alone = student.attention_maps(batch_of([random_molecule(14, 4)]))
    torch.testing.assert_close(maps[1][4].weights_Htt, alone[1][0].weights_Htt, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(maps[1][4].weights_Htt.sum(2), torch.ones(4, tokens[4]))


def test_no_position_is_padding(graph):
    """Packed: as many rows as tokens, each used once, and runs that cover them."""
    layout = token_layout(graph)
    total = int(layout.lengths.sum())
    assert sorted(layout.source_T.tolist()) == list(range(total))
    assert sum(count * length for count, length in layout.runs) == total
    assert [length for _, length in layout.runs] == sorted({length for _, length in layout.runs})


def test_drop_path_skips_whole_molecules_and_keeps_the_mean():
    layer = TransformerLayer(CONFIG, 0.25).train()
    layout = token_layout(batch_of([random_molecule(6, 1)] * 400))
    torch.manual_seed(0)
    branch = layer._drop_path(torch.ones(int(layout.lengths.sum()), 1), layout)[:, 0]
    per_molecule = branch.view(400, -1)
    assert torch.equal(per_molecule, per_molecule[:, :1].expand_as(per_molecule))
    assert sorted(set(per_molecule[:, 0].tolist())) == pytest.approx([0, 4 / 3])
    assert float(per_molecule.mean()) == pytest.approx(1, abs=0.1)


def test_drop_path_rises_linearly():
    config = StudentConfig("tokengt", 32, 4, num_heads=4, drop_path=0.1)
    assert [layer.drop_path for layer in TokenGT(config).layers] == pytest.approx([0.025, 0.05, 0.075, 0.1])


def test_training_flips_signs_of_eigenvectors(graph):
    student = TokenGT(CONFIG).train()
    results = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append(student(graph).atoms_ND)
    assert not torch.allclose(*results)


def test_giants_are_never_dropped():
    """600 atoms and 1,200 directed bonds: over the reference's silent limits."""
    graph = batch_of([random_molecule(600, 1), random_molecule(5, 2)])
    student = TokenGT(StudentConfig("tokengt", 16, 1, num_heads=2, num_identifiers=4)).eval()
    with torch.no_grad():
        output = student(graph)
    assert output.atoms_ND.shape == (605, 16)
    assert torch.isfinite(output.atoms_ND).all()


def test_final_norm_is_a_switch(graph):
    with_norm = TokenGT(CONFIG).eval()(graph).atoms_ND
    torch.testing.assert_close(with_norm.mean(1), torch.zeros(len(with_norm)), atol=1e-5, rtol=0)
    without = TokenGT(StudentConfig("tokengt", 32, 1, num_heads=4, final_norm=False))
    assert not [name for name, _ in without.named_parameters() if "final_norm" in name]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(graph, dtype):
    student = TokenGT(CONFIG).eval()
    expected = student(graph).atoms_ND
    output = student.to(dtype)(graph).atoms_ND
    assert output.dtype == dtype
    torch.testing.assert_close(
        output.to(torch.float32), expected, atol=0.1 if dtype == torch.bfloat16 else 1e-4, rtol=0
    )


def test_identifiers_of_a_molecule_are_computed_once_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """They took 6 % of the training of a small student on drug-like molecules."""
    student = TokenGT(CONFIG).train()
    graph = batch_of([random_molecule(5, 1), random_molecule(8, 2)])
    torch.manual_seed(1)
    first = student(graph).atoms_ND
    monkeypatch.setattr("dnd.graphs.identifiers.laplacian_identifiers", lambda *_: pytest.fail("computed again"))
    torch.manual_seed(1)
    assert torch.equal(student(graph).atoms_ND, first)
