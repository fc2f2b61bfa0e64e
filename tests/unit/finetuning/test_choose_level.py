"""`--level auto`: what is compared, what is kept and said, what is refused before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distillation_toys import toy_config, toy_store, toy_teacher_folder
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import verify_folder
from dnd.finetuning import choose_level
from dnd.finetuning.choose_level import ChoiceConfig, choice_config, choose, distill_best_level
from dnd.finetuning.labelled_data import LabelledFile
from dnd.models.students.encoders import load_encoder
from dnd.pretraining.settings import TermWeights
from dnd.training.settings import LoopConfig
from finetuning_toys import tiny_config, write_regression
from support.said import said

LOOP = LoopConfig(epochs=1, batch_size=16, device="cpu", learning_rate=1e-3)


def run(folder: Path, target: str = "size", **changes: object):
    teacher = folder / "teacher"
    if not teacher.exists():
        toy_teacher_folder(teacher)
    options = {key: changes.pop(key) for key in ("resume", "say") if key in changes}
    data = LabelledFile(write_regression(folder), (target,))
    choice = ChoiceConfig(tiny_config("loop.epochs=1"), seeds=2)
    config = toy_config(loop=LOOP, **changes)
    return distill_best_level(toy_store(30), teacher, folder / "out", data, config, choice, **options)


def test_the_kept_encoder_is_the_better_one_and_its_folder_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: dict[str, dict[str, torch.Tensor]] = {}
    seal = choose_level._seal

    def remember(out: Path, found: choose_level.LevelChoice) -> None:
        weights.update({level: load_encoder(out / "levels" / level)[0].state_dict() for level in choose_level.LEVELS})
        seal(out, found)

    monkeypatch.setattr(choose_level, "_seal", remember)
    lines: list[str] = []
    with said(lines):
        found = run(tmp_path)
    means = {level: sum(values) / 2 for level, values in found.scores.items()}
    assert found.kept == min(means, key=means.__getitem__)
    assert found.margin == pytest.approx(abs(means["node"] - means["graph"]))
    student, config = load_encoder(tmp_path / "out")
    assert all(torch.equal(tensor, weights[found.kept][name]) for name, tensor in student.state_dict().items())
    assert any(not torch.equal(tensor, weights["node"][name]) for name, tensor in weights["graph"].items())
    assert config["level"] == found.kept
    assert config["choice"]["scores"] == found.scores
    assert config["choice"]["metric"] == "rmse"
    assert config["choice"]["seeds"] == [1, 2]
    card = (tmp_path / "out" / "card.md").read_text()
    assert all(line in card and line in lines for line in found.lines())
    assert "toy.csv" in card
    manifest = verify_folder(tmp_path / "out", kind="encoder", format_version=1)
    assert {"card.md", "config.json", "holdout.json", "limits.safetensors", "model.safetensors", "run.json"} == set(
        manifest["files"]
    )
    assert not (tmp_path / "out" / "levels").exists()
    with said(lines):
        assert run(tmp_path, resume=True) == found
    with pytest.raises(InputError, match="finished encoder"):
        run(tmp_path)


def test_a_stopped_choice_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose_level, "_compare", lambda *given: None)
    assert run(tmp_path) is None
    with pytest.raises(InputError, match="--resume"):
        run(tmp_path)
    monkeypatch.undo()
    assert run(tmp_path, resume=True) is not None


def test_only_a_difference_beyond_the_seeds_is_called_clear() -> None:
    clear = choose("rmse", {"node": [1.0, 1.1, 0.9], "graph": [2.0, 2.12, 1.9]}, (1, 2, 3))
    assert (clear.kept, clear.clear) == ("node", True)
    assert clear.lines()[-1].startswith("node is better than graph by 1.01")
    chance = choose("rmse", {"node": [1.0, 2.0, 3.0], "graph": [2.0, 1.0, 2.9]}, (1, 2, 3))
    assert not chance.clear
    assert chance.lines()[-1].startswith("no clear difference: graph is ahead of node")
    larger = choose("rocauc", {"node": [0.6, 0.61], "graph": [0.8, 0.81]}, (1, 2))
    assert larger.kept == "graph"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"target": "sise"}, "no column 'sise'"),
        ({"terms": TermWeights(node=0.5)}, "weights of terms"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_trained(
    tmp_path: Path, changes: dict[str, object], error: str
) -> None:
    with pytest.raises(InputError, match=error):
        run(tmp_path, **changes)
    assert not (tmp_path / "out").exists()


def test_words_of_the_command_line_reach_the_brief_finetuning() -> None:
    config = choice_config(["seeds=5", "finetune.loop.epochs=2"])
    assert (config.seeds, config.finetune.loop.epochs) == (5, 2)
    assert config.finetune.baselines is False
    folds = (["finetune.split=kfold"], ["finetune.split=kfold:5"], ["finetune.split=kfold:5x3"])
    ignored = (["finetune.blend.trees=5"], ["finetune.blend.classical=ridge"], ["finetune.folds=4"])
    for words in (["seeds=1"], *folds, *ignored, ["finetune.loop.epoch=2"]):
        with pytest.raises(ConfigError):
            choice_config(words)
