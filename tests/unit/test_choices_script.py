"""`benchmarks/predictor_choices.py`: its table, its cells, and that no number of a test part gets into it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from benchmark_scripts import load_script
from dnd.finetuning.settings import FinetuneConfig


@pytest.fixture(scope="module")
def choices() -> ModuleType:
    return load_script("predictor_choices")


def line(variant: str, seed: int, value: float) -> dict:
    return {"data": "bace", "system": "fast", "variant": variant, "seed": seed, "scores": {"valid_rocauc": value}}


def test_the_table_has_means_over_seeds_and_how_many(choices: ModuleType):
    found = choices.table([line("none", 1, 0.7), line("balanced", 1, 0.8), line("none", 2, 0.72)])
    assert found[0] == "| data | system | metric | none | balanced |"
    assert found[2] == "| bace | fast | valid_rocauc | 0.7100 (2) | 0.8000 (1) |"


def test_a_cell_is_judged_off_the_test_part_and_not_repeated(
    choices: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = []

    def finetune(
        data: Path, out: Path, targets: list[str], config: FinetuneConfig, **options: object
    ) -> SimpleNamespace:
        asked.append((len(data.read_text().splitlines()), targets, config.loss, config.split, options["encoder"]))
        parts = {part: {"rmse": place} for place, part in enumerate(("train", "valid", "test"))}
        return SimpleNamespace(metrics={"parts": parts, "metrics": ["rmse"]})

    monkeypatch.setattr(choices, "finetune", finetune)
    monkeypatch.setattr(choices, "QUESTIONS", {"loss": (("l1", "mse"), ("freesolv",), ("fast", "student"))})
    monkeypatch.setattr("sys.argv", ["predictor_choices.py", "loss", "-o", str(tmp_path)])
    choices.main()
    assert asked == [(643, ["expt"], loss, "column:split", "random") for loss in ("l1", "mse")] * 2
    lines = [json.loads(text) for text in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert [one["scores"] for one in lines[1:3]] == [{"train_rmse": 0, "valid_rmse": 1}, {"valid_rmse": 1}]
    choices.main()
    assert len(asked) == 4
    assert "| freesolv | student | valid_rmse | 1.0000 (1) | 1.0000 (1) |" in capsys.readouterr().out
