"""Sums of feature vectors: few combinations are looked up, many are added, and both are the plain sum."""

from __future__ import annotations

import pytest
import torch

from dnd.chemistry.molecule import ATOM_FEATURE_SIZES, BOND_FEATURE_SIZES
from dnd.models.students.base import FeatureEmbedding


@pytest.mark.parametrize(("sizes", "looked_up"), [(BOND_FEATURE_SIZES, True), (ATOM_FEATURE_SIZES, False)])
def test_the_sum_of_one_vector_per_feature_and_its_gradient(sizes, looked_up):
    torch.manual_seed(0)
    embedding = FeatureEmbedding(sizes, 5)
    assert bool(len(embedding.combinations_XF)) == looked_up
    features = torch.stack([torch.randint(size, (40,)) for size in sizes], dim=1)
    table = embedding.table.detach().clone().requires_grad_()
    tables, weight = torch.split(table, list(sizes)), torch.randn(40, 5)
    plain = sum(tables[column][features[:, column]] for column in range(len(sizes)))
    found = embedding(features)
    torch.testing.assert_close(found, plain)
    (found * weight).sum().backward()
    (plain * weight).sum().backward()
    torch.testing.assert_close(embedding.table.grad, table.grad)


def test_no_items_are_no_vectors():
    assert FeatureEmbedding(BOND_FEATURE_SIZES, 5)(torch.zeros(0, 3, dtype=torch.long)).shape == (0, 5)
