"""Graphs that searches do not end on: each row is answered or has a reason in bounded time, its neighbours unharmed."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from strange_graphs import KINDS

from dnd.chemistry.identity import connectivity_key, molecule_identity
from dnd.chemistry.parse import parse_smiles
from dnd.chemistry.splits import scaffolds_of
from dnd.common.errors import INTERNAL
from dnd.predictor.classical.features import FIRST_SETS, FURTHER, Layout, features_of
from dnd.predictor.predictor import Predictor
from dnd.store.auxiliary import auxiliary_values
from dnd.store.featurize import featurize_smiles
from dnd.store.schema import AUXILIARY_FIELDS

MODEL = Path(__file__).parents[1] / "golden" / "predictor-blend"
SECONDS = 60  # of the processor, for all that any verb does with a row: a search without an end, not a speed
NEIGHBOURS = ["CCO", "c1ccccc1N", "CC(=O)[O-].[Na+]"]
TEXTS = st.builds(lambda kind, seed: KINDS[kind](random.Random(seed)), st.sampled_from(sorted(KINDS)), st.integers(0))
"""A kind of graph and the seed of one: what is shrunk is neither, but a failure names the text."""


@pytest.fixture(scope="module")
def model() -> Predictor:
    predictor = Predictor.load(MODEL, device="cpu")
    predictor.predict(NEIGHBOURS)  # what is made once is no cost of a row
    features_of(NEIGHBOURS, None, Layout(sets=(*FIRST_SETS, *FURTHER)))
    return predictor


def check_graphs(text: str) -> None:
    """All verbs begin here: with either kind of hydrogens, alone or in a batch that goes the quick way."""
    for hydrogens in ("heavy_both", "all_both"):
        alone = featurize_smiles([text], hydrogens)[0]
        batch = featurize_smiles([*NEIGHBOURS, text, *NEIGHBOURS, *NEIGHBOURS], hydrogens)
        assert (batch[3].smiles, batch[3].reason) == (alone.smiles, alone.reason)
        assert (alone.graph is None) == bool(alone.reason)
        assert [one.reason for one in batch if one is not batch[3]] == [""] * 9


def check_features(text: str) -> None:
    """Prepare, check, exclusions, splits and classical models."""
    read = parse_smiles(text)
    if not read.ok:
        assert read.reason
        return
    assert parse_smiles(read.smiles).ok
    assert molecule_identity(read.smiles)
    assert connectivity_key(read.mol)
    assert len(scaffolds_of([read.smiles])) == 1
    auxiliary_values(AUXILIARY_FIELDS, read.mol, None, explicit_hydrogens=False)
    layout = Layout(sets=(*FIRST_SETS, *FURTHER))
    beside, alone = features_of([*NEIGHBOURS, read.smiles], None, layout), features_of(NEIGHBOURS, None, layout)
    assert np.array_equal(beside.x_BF[:3], alone.x_BF)
    assert np.isfinite(beside.x_BF).all()
    assert beside.refused.keys() <= {3}


def check_predictions(text: str, model: Predictor) -> None:
    """The neighbours' values do not change, and the row has a value or a reason."""
    alone, beside = model.predict(NEIGHBOURS), model.predict([*NEIGHBOURS, text])
    for name, values in alone.items():
        for one, other in zip(values, beside[name], strict=False):
            numbers = isinstance(one, float) and isinstance(other, float)
            assert (other == pytest.approx(one, rel=1e-6, nan_ok=True)) if numbers else one == other, name
    assert beside["error"][3] or np.isfinite([beside[name][3] for name in beside if name.endswith("_pred")]).all()


def check_row(text: str, model: Predictor) -> None:
    began = time.process_time()
    check_graphs(text)
    check_features(text)
    check_predictions(text, model)
    assert time.process_time() - began < SECONDS


QUIET = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "phases": (Phase.generate,),  # a seed has no smaller one
}


@pytest.mark.timeout(900)
@settings(max_examples=16, **QUIET)
@given(text=TEXTS)
def test_a_strange_graph_costs_its_row_at_most(text: str, model: Predictor) -> None:
    check_row(text, model)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@settings(max_examples=5000, **QUIET)
@given(text=TEXTS)
def test_thousands_of_strange_graphs(text: str, model: Predictor) -> None:
    check_row(text, model)


def test_features_that_rdkit_gives_up_on_cost_one_row() -> None:
    layout = Layout(sets=("atom_pairs", "torsions"))
    found = features_of(["CCO", "C[SiH255-4]", "CCN"], None, layout)
    assert found.refused.keys() == {1}
    assert found.refused[1].startswith(INTERNAL)
    assert np.array_equal(found.x_BF[[0, 2]], features_of(["CCO", "CCN"], None, layout).x_BF)
