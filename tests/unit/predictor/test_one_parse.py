"""How often RDKit parses and writes a molecule in a prediction with a blend."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rdkit import Chem

from dnd.predictor.predictor import Predictor

BLEND = Path(__file__).parents[2] / "golden/predictor-blend"
ORDINARY = [f"{'C' * chain}{end}" for chain in range(1, 11) for end in ("O", "N", "Cl", "c1ccccc1", "C(=O)NC")]


def test_the_columns_of_a_blend_are_those_of_its_predictions() -> None:
    predictor = Predictor.load(BLEND, device="cpu")
    assert predictor.columns == list(predictor.predict(["CCO"]))[1:-1]
    assert predictor.predict(["no molecule"])["error"] != [""]


def test_a_prediction_with_a_blend_writes_each_molecule_once_and_parses_it_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predictor = Predictor.load(BLEND, device="cpu")
    counts: Counter[str] = Counter()
    for name in ("MolFromSmiles", "MolToSmiles"):
        original = getattr(Chem, name)

        def counted(*args: Any, name: str = name, original: Any = original, **named: Any) -> Any:
            counts[name] += 1
            return original(*args, **named)

        monkeypatch.setattr(Chem, name, counted)
    assert predictor.predict(ORDINARY)["error"] == [""] * len(ORDINARY)
    assert counts["MolToSmiles"] == len(ORDINARY)  # the canonical SMILES
    # One for the canonical SMILES and the graph, and one of the canonical SMILES for the classical features (in other
    # processes from 200 molecules on), so that every spelling has the same; the domain looks at those.
    assert len(ORDINARY) <= counts["MolFromSmiles"] <= 2 * len(ORDINARY)
