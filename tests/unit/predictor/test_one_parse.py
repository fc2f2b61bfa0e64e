"""How often RDKit parses and writes a molecule in a prediction with a blend."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from rdkit import Chem

from dnd.predictor.predictor import Predictor

GOLDEN = Path(__file__).parents[2] / "golden"
BLEND = GOLDEN / "predictor-blend"
MARKED = [
    "OC[C@H]1O[C@@H](n2cnc3c(N)ncnc32)[C@H](O)[C@@H]1O",
    "F/C=C/[C@@H](C)\\C=C/Cl",
    "[Na+].[O-]C(=O)[C@@H](N)C",
    "CCO.CCN",
    "C[N+](C)(C)CC([O-])=O",
]
ORDINARY = [f"{'C' * chain}{end}" for chain in range(1, 11) for end in ("O", "N", "Cl", "c1ccccc1", "C(=O)NC")]


def test_the_columns_of_a_blend_are_those_of_its_predictions() -> None:
    predictor = Predictor.load(BLEND, device="cpu")
    assert predictor.columns == list(predictor.predict(["CCO"]))[1:-1]
    assert predictor.predict(["no molecule"])["error"] != [""]


@pytest.mark.parametrize("model", ["predictor-blend", "predictor-regression"])
@pytest.mark.parametrize("texts", [ORDINARY, [*MARKED], ["CCO"]], ids=["many", "marked", "one"])
def test_a_prediction_parses_and_writes_each_molecule_once(
    model: str, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor.load(GOLDEN / model, device="cpu")
    counts: Counter[str] = Counter()
    for name in ("MolFromSmiles", "MolToSmiles"):
        original = getattr(Chem, name)

        def counted(*args: Any, name: str = name, original: Any = original, **named: Any) -> Any:
            counts[name] += 1
            return original(*args, **named)

        monkeypatch.setattr(Chem, name, counted)
    assert predictor.predict(texts)["error"] == [""] * len(texts)
    assert counts == {"MolFromSmiles": len(texts), "MolToSmiles": len(texts)}
