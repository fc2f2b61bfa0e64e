"""`benchmarks/feature_ablation.py`: its page is drawn from its file, and no test molecule gets into a cell."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmark_scripts import BENCHMARKS, load_script
from dnd.chemistry.parse import parse_smiles
from dnd.reproduction.benchmarks import load_benchmark

RESULTS = BENCHMARKS.parent / "docs/results"


@pytest.fixture(scope="module")
def ablation() -> ModuleType:
    return load_script("feature_ablation")


def test_the_page_is_what_the_file_says(ablation: ModuleType) -> None:
    lines = ablation.read_lines(RESULTS / "features/scores.csv")
    assert "\n".join(ablation.page(lines)) + "\n" == (RESULTS / "features.md").read_text()


def test_a_mean_is_over_dealings_and_says_over_how_many(ablation: ModuleType) -> None:
    line = dict.fromkeys(ablation.FIELDS, "") | {"data": "esol", "molecules": "9", "scheme": "own", "member": "ridge"}
    page = ablation.page([line | {"rmse": "1.0", "cpu_s": "2"}, line | {"rmse": "3.0", "cpu_s": "4"}])
    assert "| ridge | own | 2.000 (2) | 3.0 |" in page


def test_no_molecule_of_a_test_part_is_looked_at_and_a_cell_is_not_repeated(
    ablation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-o", str(tmp_path / "scores.csv"), "--rows", "30", "--data", "freesolv", "--members", "ridge"]
    monkeypatch.setattr("sys.argv", ["feature_ablation.py", *words, "--dealings", "0"])
    ablation.main()
    smiles, labels_B, x_BF, layout = ablation._features("freesolv", 30)
    data = load_benchmark("freesolv")
    test = {parse_smiles(data.smiles[row]).smiles for row in data.parts["test"]}
    assert len(smiles) == len(labels_B) == len(x_BF) == 30
    assert x_BF.shape[1] == layout.width
    assert not test & set(smiles)
    before = (tmp_path / "scores.csv").read_text()
    (line,) = ablation.read_lines(tmp_path / "scores.csv")
    assert 0 < float(line["rmse"]) < 3 * np.std(labels_B)
    ablation.main()
    assert (tmp_path / "scores.csv").read_text() == before
