"""A setting, a name or a file that is wrong is named so, and no row is to blame for it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import dnd
from dnd.bench.startup import added_memory
from dnd.chemistry.molecule import LIMITS
from dnd.cli.main import build_app
from dnd.common.errors import ConfigError, DndError, InputError, isolating
from dnd.common.processes import MOST_PROCESSES, process_count
from dnd.export import featurizer
from dnd.prediction.embedder import Embedder
from dnd.prediction.estimator import DndRegressor
from dnd.prediction.estimator_base import _weighted_rows
from dnd.prediction.evaluate import evaluate_file
from dnd.predictor.predictor import Predictor
from dnd.store.prepare import PrepareConfig, prepare

GOLDEN = Path(__file__).parents[1] / "golden"
MODEL = GOLDEN / "predictor-regression"


@pytest.mark.parametrize("name", ["water.xyz", "water.xyz.gz", "ligand.mol2"])
def test_a_path_of_another_format_is_no_smiles(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="there is no file"):
        dnd.predict(str(tmp_path / name), MODEL)
    (tmp_path / name).write_text("3\n\nO 0.0 0.0 0.1\nH 0.0 0.8 -0.5\nH 0.0 -0.8 -0.5\n")
    with pytest.raises(InputError, match=r"unknown kind.*Convert it to SDF"):
        dnd.predict(str(tmp_path / name), MODEL)


@pytest.mark.parametrize("verb", ["predict", "embed", "evaluate"])
def test_a_negative_number_of_jobs_is_one_line(tmp_path: Path, verb: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text("smiles,y\nCCO,1\nCC,2\n")
    words = {"embed": ["--encoder", str(GOLDEN / "formats-1/encoder"), "-o", str(tmp_path / "e.csv")]}
    own = words.get(verb, ["-m", str(MODEL), *(["--target-columns", "y"] if verb == "evaluate" else [])])
    found = CliRunner().invoke(build_app(verb), [verb, str(table), *own, "--jobs", "-1"])
    assert isinstance(found.exception, ConfigError), found.output
    for opened in (Predictor, Embedder):
        with pytest.raises(ConfigError, match="jobs must be at least 0"):
            opened.load(MODEL if opened is Predictor else GOLDEN / "formats-1/encoder", jobs=-1)


def test_more_processes_than_a_machine_can_start_are_refused() -> None:
    """100,000 threads were started one by one, until the machine had none left."""
    assert process_count(MOST_PROCESSES) == MOST_PROCESSES
    with pytest.raises(ConfigError, match="jobs must be at most 1,024: found 100000"):
        process_count(100_000)


@pytest.mark.parametrize(
    ("given", "start"),
    [
        ({"epochs": 5}, "epochs is a setting of students (networks), and recipe fast trains none: found epochs=5"),
        ({"learning_rate": -1, "recipe": "small"}, "learning_rate is out of range: found -1.0"),
        ({"batch_size": "a", "recipe": "small"}, "setting batch_size has a wrong value"),
        ({"random_state": "a"}, "setting random_state has a wrong value"),
        ({"settings": {"loop.epochs": 5}}, "loop.epochs is a setting of students"),
        ({"device": "tpu"}, "unknown device: found 'tpu'"),
    ],
)
def test_an_estimator_names_the_parameter_that_was_given(given: dict[str, object], start: str) -> None:
    with pytest.raises(ConfigError) as refused:
        DndRegressor(**given)._choices()
    assert str(refused.value).startswith(start)
    assert "loop." not in str(refused.value) or "settings" in given


def test_a_python_call_names_the_argument_that_was_given(tmp_path: Path) -> None:
    for given, start in (({"seed": "a"}, "setting seed has"), ({"censored": "a"}, "setting censored has")):
        with pytest.raises(ConfigError) as refused:
            dnd.finetune("t.csv", "y", tmp_path / "m", **given)
        assert str(refused.value).startswith(start)
    with pytest.raises(ConfigError, match="setting seed has"):
        dnd.compress("m", tmp_path / "c", seed="a")


def test_a_device_that_there_is_not_is_refused_by_a_recipe_that_trains_no_network(tmp_path: Path) -> None:
    for device in ("tpu", "cuda:99"):
        with pytest.raises(ConfigError, match="device"):
            dnd.finetune(str(tmp_path / "t.csv"), "y", tmp_path / "m", device=device)


def test_an_evaluation_without_the_column_says_how_to_name_it(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("smiles,other\nCCO,1\n")
    model = Predictor.load(MODEL)
    with pytest.raises(InputError, match=f"has no column '{model.targets[0].name}'.*--target-columns"):
        evaluate_file(model, tmp_path / "t.csv")


def test_no_row_is_to_blame_for_a_setting_or_where_there_is_none() -> None:
    def refuse(items: object) -> None:
        raise ConfigError("a setting")

    def fail(items: object) -> None:
        raise ValueError("ours")

    with pytest.raises(ConfigError):
        isolating(refuse, ["a", "b"], "")
    with pytest.raises(ValueError, match="ours"):
        isolating(fail, [], "")


def test_work_of_the_benchmark_runs_in_a_fresh_process() -> None:
    with pytest.raises(DndError, match=r"os is not of dnd\.bench\."):
        added_memory("os:system", command="true")


def test_a_bad_file_of_molecules_to_exclude_leaves_no_run(tmp_path: Path) -> None:
    table, bad, out = tmp_path / "t.csv", tmp_path / "bad.csv", tmp_path / "out"
    table.write_text("smiles\nCCO\nO\n")
    bad.write_text("smiles\nCCO\nC1CC\n")
    with pytest.raises(InputError, match="can't be read"):
        prepare([table], out, PrepareConfig(exclude=(str(bad),)))
    bad.write_text("smiles\nCCO\n")
    prepare([table], out, PrepareConfig(exclude=(str(bad),)))
    assert (out / "manifest.json").is_file()


def test_an_exported_model_refuses_selfies() -> None:
    assert featurizer.read("[C][C][O]", asdict(LIMITS)) == "the text is SELFIES, not a SMILES"


@pytest.mark.parametrize("weights", [["1"] * 3, np.ones(3, complex), [1, 1e300, 1e-300], [None, 1, 1]])
def test_weights_that_mean_nothing_are_refused(weights: object) -> None:
    with pytest.raises(ValueError, match="sample_weight"):
        _weighted_rows(weights, 3)


def test_weights_of_any_numbers_are_taken() -> None:
    assert _weighted_rows(np.array([1, 0, 2], dtype=object), 3)[0] == [0, 2]
