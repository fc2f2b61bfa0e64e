"""`--search`: chosen on validation alone, resumable to the same trials, written down."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dnd.common.errors import ConfigError, InputError
from dnd.common.files import verify_folder
from dnd.finetuning import search
from dnd.finetuning.finetune import _plan
from dnd.finetuning.labelled_data import LabelledFile
from dnd.finetuning.search import JOURNAL, Score, search_settings
from dnd.finetuning.settings import Clock, FinetuneConfig
from finetuning_toys import quietly, tiny_config, write_regression
from support.said import said

optuna = pytest.importorskip("optuna")


class Runs:
    """Trials without training: the score is a function of the settings; one of them may be stopped."""

    def __init__(self, metric: str = "valid_rmse", stop_at: int | None = None, fail_at: int | None = None) -> None:
        self.metric, self.stop_at, self.fail_at, self.seen = metric, stop_at, fail_at, []

    def __call__(self, config: FinetuneConfig, folder: Path) -> Score | None:
        number = int(folder.name.removeprefix("trial-"))
        self.seen.append((number, config.loop.learning_rate, config.loop.batch_size, config.head))
        if number == self.fail_at:
            raise KeyboardInterrupt
        if number == self.stop_at:
            return None
        value = abs(config.loop.learning_rate - 1e-3) * 1000 + (config.head == "linear")
        return Score(self.metric, value, {self.metric: value, "valid_loss": 1.0}, 0.1)


def found(out: Path, runs: Runs, trials: int = 8, *words: str, **options: object):
    config = tiny_config("loop.learning_rate=2e-3", *words)
    return search_settings(config, trials, out, runs, digest="d", **options)


def test_the_best_validation_score_is_kept_and_never_behind_the_start(tmp_path: Path):
    runs = Runs()
    config, record = found(tmp_path, runs)
    values = [trial["value"] for trial in record["trials"]]
    assert len(values) == 8
    assert record["best"] == values.index(min(values))
    assert runs.seen[0][1:] == (2e-3, 128, "mlp") or runs.seen[0][1] == 2e-3
    assert config.loop.learning_rate == record["trials"][record["best"]]["settings"]["loop.learning_rate"]
    assert min(values) <= values[0]
    assert not (tmp_path / "search").exists()


def test_larger_is_better_for_an_auc(tmp_path: Path):
    _, record = found(tmp_path, Runs("valid_rocauc"))
    values = [trial["value"] for trial in record["trials"]]
    assert record["larger_is_better"]
    assert record["best"] == values.index(max(values))


@pytest.mark.parametrize("cut", [{"stop_at": 5}, {"fail_at": 6}])
def test_a_search_that_was_cut_short_ends_with_the_same_trials(tmp_path: Path, cut: dict[str, int]):
    whole = found(tmp_path / "whole", Runs())
    if "stop_at" in cut:
        assert found(tmp_path / "parts", Runs(**cut)) is None
    else:
        with pytest.raises(KeyboardInterrupt):
            found(tmp_path / "parts", Runs(**cut))
    again = Runs()
    assert found(tmp_path / "parts", again) == whole
    assert again.seen[0][0] == next(iter(cut.values()))


def test_other_settings_or_data_are_refused(tmp_path: Path):
    found(tmp_path, Runs(), 1)
    with pytest.raises(InputError, match="other data or settings"):
        found(tmp_path, Runs(), 2, "pooling=virtual_node")


def test_the_trials_from_one_encoder_are_not_those_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(search, "trial_runner", lambda plan: Runs())
    files, out = [LabelledFile(write_regression(tmp_path), ("size",))], tmp_path / "model"
    plan = _plan(files, tiny_config(), "random")
    search.searched(plan, 1, out, Clock(None))
    other = replace(plan, record={**plan.record, "encoder": "encoder", "encoder_sha256": "0" * 64})
    with pytest.raises(InputError, match="from another encoder"):
        search.searched(other, 1, out, Clock(None))


def test_time_that_is_up_starts_no_further_trial(tmp_path: Path):
    assert len(found(tmp_path, Runs(), seconds=0.0)[1]["trials"]) == 1


def test_a_search_that_does_not_fit_into_the_time_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines: list[str] = []
    plan = _plan([LabelledFile(write_regression(tmp_path), ("size",))], tiny_config(), "random")
    monkeypatch.setattr(search, "seconds_per_epoch", lambda plan, part: 1e6)
    with said(lines):
        assert search.searched(plan, 3, tmp_path / "model", Clock(10.0)) is plan
    assert lines[-1].startswith("plan: left out the search")


def test_what_cannot_be_searched_is_said_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ConfigError, match="needs one split"):
        found(tmp_path, Runs(), 3, "split=kfold")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match=r"pip install 'dnd-mol\[search\]'"):
        found(tmp_path, Runs())
    assert not list(tmp_path.iterdir())


def test_a_finetuning_with_a_search(tmp_path: Path):
    data = write_regression(tmp_path)
    summary = quietly(data, tmp_path / "model", ["size"], "loop.epochs=2", search=3)
    record = summary.metrics["search"]
    parts = {"settings", "metric", "value", "epoch_scores", "seconds"}
    assert [set(trial) for trial in record["trials"]] == [parts] * 3
    assert all(name.startswith("valid_") for trial in record["trials"] for name in trial["epoch_scores"])
    config = json.loads((tmp_path / "model" / "config.json").read_text())["training"]["settings"]
    best = record["trials"][record["best"]]["settings"]
    assert config["loop"]["epochs"] == best["loop.epochs"]
    assert (tmp_path / "model" / JOURNAL).is_file()
    again = quietly(data, tmp_path / "model", ["size"], "loop.epochs=2", search=3, resume=True)
    assert again.metrics == summary.metrics
    verify_folder(tmp_path / "model", kind="predictor", format_version=1)


def test_the_first_trial_has_the_dropout_of_the_run_itself(tmp_path: Path):
    words = ("student.dropout=0.25",)
    _, random = found(tmp_path / "random", Runs(), 1, *words)
    _, pretrained = found(tmp_path / "pretrained", Runs(), 1, *words, encoder="dnd-base")
    _, given = found(tmp_path / "given", Runs(), 1, "regularization.dropout=0.15", encoder="dnd-base")
    dropouts = [one["trials"][0]["settings"]["regularization.dropout"] for one in (random, pretrained, given)]
    assert dropouts == [0.25, 0.0, 0.15]
