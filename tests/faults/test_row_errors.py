"""A row that raises costs that row: its neighbours are as they would be without it, and the command says so."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dnd.chemistry.parse import parse_smiles
from dnd.cli.main import main
from dnd.common.errors import INTERNAL, isolating
from dnd.predictor.classical import features
from dnd.predictor.predictor import Predictor
from dnd.store import featurize
from dnd.store.featurize import featurize_smiles

MODEL = Path(__file__).parents[1] / "golden" / "predictor-regression"


def strip_of_squares(width: int = 100, height: int = 4) -> str:
    """A strip of squares written column by column: nine ring digits in the text, more in its canonical form."""
    order = [(x, y) for x in range(width) for y in (range(height) if x % 2 == 0 else range(height - 1, -1, -1))]
    at = {place: index for index, place in enumerate(order)}
    bonds = {tuple(sorted((at[x, y], at[to]))) for x, y in order for to in ((x + 1, y), (x, y + 1)) if to in at}
    rings = sorted(bonds - {(index, index + 1) for index in range(len(order) - 1)})
    free, digit, text = list(range(1, 10)), {}, ""
    for index in range(len(order)):
        text += "C"
        for ring in (ring for ring in rings if ring[1] == index):
            text += str(digit[ring])
            free.append(digit.pop(ring))
            free.sort()
        for ring in (ring for ring in rings if ring[0] == index):
            digit[ring] = free.pop(0)
            text += str(digit[ring])
    return text


@pytest.mark.parametrize(
    "text", ["[CH128]", "[CH255]", "[XeH200]", "[C-127]", "[65535C]", "[U+127]", strip_of_squares()]
)
def test_a_molecule_beyond_a_library_s_bounds_has_a_reason_and_its_neighbours_their_values(text: str) -> None:
    outcome = parse_smiles(text)
    assert outcome.ok or outcome.reason
    alone = Predictor.load(MODEL, device="cpu").predict(["CCO", "", "CCN"])
    beside = Predictor.load(MODEL, device="cpu").predict(["CCO", text, "CCN"])
    for name, values in alone.items():
        assert [values[0], values[2]] == [beside[name][0], beside[name][2]], name
    assert not beside["error"][1].startswith(INTERNAL)


def test_what_is_accepted_can_be_read_again() -> None:
    read = parse_smiles(strip_of_squares())
    assert not read.ok or parse_smiles(read.smiles).ok


def broken_for(bad: str, real, where: int = 0):
    """`real`, which raises for `bad`."""

    def broken(*arguments, **options):
        texts = arguments[where]
        if bad in (texts if isinstance(texts, (list, tuple)) else [texts]):
            raise AssertionError("a mistake of ours")
        return real(*arguments, **options)

    return broken


def test_a_mistake_of_ours_costs_its_row_and_the_command_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import dnd.predictor.predictor as module

    monkeypatch.setattr(module, "valid_molecules", broken_for("CCCl", module.valid_molecules))
    table, out = tmp_path / "x.csv", tmp_path / "p.csv"
    table.write_text("smiles\nCCO\nCCCl\nCCN\nC1CC\nCCCl\n")
    with pytest.raises(SystemExit) as end:
        main(["predict", str(table), "-m", str(MODEL), "-o", str(out), "--device", "cpu"])
    assert end.value.code == 5
    assert "2 rows failed with an internal error" in capsys.readouterr().err
    with open(out, newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["smiles"] for row in rows] == ["CCO", "CCCl", "CCN", "C1CC", "CCCl"]
    assert rows[1]["error"] == "internal error: AssertionError: a mistake of ours" == rows[4]["error"]
    assert rows[0]["error"] == rows[2]["error"] == ""
    assert "unclosed ring" in rows[3]["error"]
    monkeypatch.undo()
    expected = Predictor.load(MODEL, device="cpu").predict(["CCO", "", "CCN", "C1CC", ""])
    name = next(column for column in expected if column.endswith("_pred"))
    assert float(rows[2][name]) == pytest.approx(expected[name][2], rel=1e-7)


def test_a_mistake_of_ours_costs_its_row_where_the_values_alone_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As estimators and explanations do; one molecule cost them all."""
    import dnd.predictor.predictor as module

    predictor = Predictor.load(MODEL, device="cpu")
    expected, _ = predictor.predict_values(["CCO", "", "CCN"])
    monkeypatch.setattr(module, "valid_molecules", broken_for("CCCl", module.valid_molecules))
    values, reasons = predictor.predict_values(["CCO", "CCCl", "CCN"])
    assert np.array_equal(values, expected, equal_nan=True)
    assert reasons == ["", "internal error: AssertionError: a mistake of ours", ""]


def test_features_that_raise_cost_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    import dnd.store.featurize as module

    monkeypatch.setattr(module, "rewritten_graphs", broken_for("CCCl", module.rewritten_graphs))
    real = module.featurize
    monkeypatch.setattr(
        module, "featurize", lambda mol, **options: real(mol, **options) if mol.GetNumAtoms() != 5 else 1 / 0
    )
    texts = ["CCO", "CCCl", "CCN", "CC*CC"] * 4
    found = featurize_smiles(texts, "heavy_both")
    assert [one.graph is not None for one in found] == [True, True, True, False] * 4
    assert found[3].reason == "internal error: ZeroDivisionError: division by zero"


def test_the_rows_to_blame_are_found_and_full_memory_is_none_of_them() -> None:
    def compute(items):
        if any(item < 0 for item in items):
            raise ValueError("negative")
        return [item * 2 for item in items]

    found, reasons = isolating(compute, [1, -2, 3, 4, -5], 0)
    assert found == [2, 0, 6, 8, 0]
    assert reasons == {1: "internal error: ValueError: negative", 4: "internal error: ValueError: negative"}
    for error in (MemoryError(), RuntimeError("CUDA out of memory. Tried")):

        def full(items, error=error):
            raise error

        with pytest.raises(type(error)):
            isolating(full, [1, 2], 0)


def test_a_full_output_ends_with_its_own_code_and_sentence() -> None:
    command = [str(Path(sys.executable).with_name("dnd")), "predict", "-", "-m", str(MODEL), "--device", "cpu"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, input="smiles\nCCO\n", stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 74, done.stderr
    assert done.stderr == "dnd: cannot write the output: No space left on device. Free space, then run it again\n"


def killed_by_uranium(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, texts_of: Callable) -> None:
    """Let a function of a chunk end its process at one molecule, as a fault of RDKit would."""
    own = getattr(module, name)

    def deadly(chunk: object, *given: object, **named: object) -> object:
        if "[U]" in texts_of(chunk):
            os.kill(os.getpid(), signal.SIGKILL)
        return own(chunk, *given, **named)

    monkeypatch.setattr(module, name, deadly)


def test_a_molecule_that_kills_the_process_that_parses_it_is_a_row_with_a_reason(monkeypatch: pytest.MonkeyPatch):
    killed_by_uranium(monkeypatch, featurize, "_featurize_all", lambda chunk: chunk)
    texts = ["CCO"] * featurize.PARALLEL_FROM
    texts[700] = "[U]"
    found = featurize_smiles(texts, "heavy_both", jobs=2)
    assert [place for place, one in enumerate(found) if one.graph is None] == [700]
    assert found[700].reason == "RDKit fails at this molecule: worker died: signal 9"
    assert {one.smiles for place, one in enumerate(found) if place != 700} == {"CCO"}


def test_a_molecule_that_kills_the_process_of_its_features_is_refused_alone(monkeypatch: pytest.MonkeyPatch):
    killed_by_uranium(monkeypatch, features, "_computed", lambda chunk: chunk[0])
    texts = ["CCO", "CCN"] * features.PARALLEL_FROM
    texts[150] = "[U]"
    found = features.features_of(texts, None, jobs=2)
    assert found.refused == {150: "RDKit fails at the features of this molecule: worker died: signal 9"}
    assert not found.x_BF[150].any()
    assert np.array_equal(found.x_BF[151], found.x_BF[1])
    assert np.array_equal(found.x_BF[152], found.x_BF[0])
