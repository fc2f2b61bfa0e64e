"""What is said is true wherever it is said: messages that were read beside the conditions that raise them."""

from __future__ import annotations

import fcntl
import math
from pathlib import Path

import numpy as np
import pytest

from dnd.chemistry.splits import Split
from dnd.common.compute import choose_device
from dnd.common.errors import ConfigError, InputError, StorageError
from dnd.common.files import folder_lock, read_json
from dnd.finetuning.data_checks import check_learnable
from dnd.finetuning.finetune import finetune
from dnd.finetuning.splits import partitions
from dnd.finetuning.tasks import check_targets
from dnd.finetuning.verdict import Judged, judge_beside_baselines
from dnd.prediction.evaluate import evaluate_file
from dnd.predictor.predictor import Predictor
from dnd.pretraining.settings import DistillConfig
from dnd.report.model_report import write_model_report
from finetuning_toys import molecules, quietly, tiny_config, write_csv
from support.said import said

SMILES = molecules()
SIZES = [float(len(text)) for text in SMILES]


def test_a_model_without_baselines_is_not_compared_and_has_its_metric(tmp_path: Path):
    """Every report of such a run said that its test part had no metric, above a table with it."""
    data = write_csv(tmp_path / "d.csv", {"smiles": SMILES, "y": SIZES})
    metrics = quietly(data, tmp_path / "m", ["y"], "loop.epochs=1", "baselines=false").metrics
    (verdict,) = metrics["verdicts"]
    assert verdict["sentence"].startswith("y: typical error ")
    assert verdict["sentence"].endswith("; not compared with a baseline.")
    assert math.isfinite(metrics["parts"]["test"]["rmse"])
    assert verdict["own"]["value"] == pytest.approx(metrics["parts"]["test"]["rmse"])
    for text in ((tmp_path / "m" / "card.md").read_text(), write_model_report(tmp_path / "m").read_text()):
        assert "not compared with a baseline" in text
        assert "can't judge" not in text
        assert "no rmse" not in text


def test_a_model_with_baselines_is_compared_and_a_test_part_without_labels_says_so():
    from dnd.predictor.targets import Target

    values_BC, count = np.arange(30.0)[:, None], 30
    part = Split(np.arange(20), np.arange(20, 22), np.arange(22, count))
    names = [f"C{'C' * row}" for row in range(count)]
    target = Target("y", "regression")
    with_one = Judged([target], values_BC, names, [(part, values_BC)], {"mean": [values_BC + 1.0]})
    (verdict,) = judge_beside_baselines(with_one, per_target=False)
    assert "not compared" not in verdict.sentence()
    assert "against 1" in verdict.sentence()
    unlabelled = np.where(np.arange(count)[:, None] < 22, values_BC, math.nan)
    alone = Judged([target], unlabelled, names, [(part, values_BC)], {})
    (verdict,) = judge_beside_baselines(alone, per_target=False)
    assert verdict.sentence() == "y: the test part can't judge the model: no usable label."


def test_rows_in_no_part_are_not_called_test_labels(tmp_path: Path):
    """With lists of row numbers, rows may be in no part: their labels judge nothing."""
    labels = [10.0**place for place in np.linspace(0, 4, 50)] + [-5.0] * 4
    data = write_csv(tmp_path / "d.csv", {"smiles": SMILES, "y": labels})
    for name, rows in {"a": range(40), "b": range(40, 45), "c": range(45, 51)}.items():
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))
    files = ",".join(str(tmp_path / name) for name in "abc")
    lines: list[str] = []
    with said(lines):
        finetune(
            data, tmp_path / "m", ["y"],
            tiny_config(f"split=index:{files}", "loop.epochs=1", "transform=log"), encoder="random",
        )  # fmt: skip
    assert [line for line in lines if "not above 0" in line] == [
        "note: target y: 1 test label is not above 0 and can be judged in its unit only"
    ]
    assert "51 molecules of 54 rows; 3 in no part of the split; 0 left out" in lines  # not all 54
    counts = read_json(tmp_path / "m" / "metrics.json")["counts"]
    assert (counts["molecules"], counts["different"], counts["labels"], counts["in_no_part"]) == (51, 51, 51, 3)
    found = evaluate_file(Predictor.load(tmp_path / "m", device="cpu"), data)  # all 54 rows
    assert found["notes"][-1:] == ["target y: 4 labels are not above 0 and can be judged in its unit only"]


def test_a_word_in_no_part_is_outside_of_the_parts_that_are_learned(tmp_path: Path):
    labels = [*SIZES[:50], *["high"] * 4]
    data = write_csv(tmp_path / "d.csv", {"smiles": SMILES, "y": labels})
    for name, rows in {"a": range(40), "b": range(40, 45), "c": range(45, 50)}.items():
        (tmp_path / name).write_text("".join(f"{row}\n" for row in rows))
    files = ",".join(str(tmp_path / name) for name in "abc")
    lines: list[str] = []
    with said(lines):
        finetune(data, tmp_path / "m", ["y"], tiny_config(f"split=index:{files}", "loop.epochs=1"), encoder="random")
    (line,) = (line for line in lines if "count as missing" in line)
    assert (
        "4 labels outside of the training and validation parts count as missing, because they are not numbers" in line
    )


def test_rows_of_index_files_without_a_label_are_not_called_unusable_molecules():
    lines: list[str] = []
    with said(lines):
        index_parts(["0\n1\n2\n", "3\n", "4\n9\n"], used=[0, 1, 2, 3, 4])
    assert lines == ["note: 1 rows of the index files are left out: no valid molecule, no label, or not drawn"]


def index_parts(contents: list[str], used: list[int]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{place}.txt" for place in range(3)]
        for path, content in zip(paths, contents, strict=True):
            path.write_text(content)
        split = "index:" + ",".join(map(str, paths))
        partitions(split, [SMILES[row] for row in used], rows_B=np.array(used), num_rows=10)


def test_what_has_no_two_classes_is_said_of_what_lacks_them():
    zeros, ones = np.zeros(20), np.ones(20)
    with pytest.raises(InputError, match=r"^each target has one class only: found target a .* target b "):
        check_targets(np.stack([zeros, ones], axis=1), ["a", "b"], "classification")
    with pytest.raises(InputError, match=r"^there is one class only: found target a "):
        check_targets(zeros[:, None], ["a"], "classification")
    both = np.tile([0.0, 1.0], 10)
    none = np.where(np.arange(20) < 10, math.nan, both)
    part = Split(np.arange(10), np.arange(10, 12), np.arange(12, 20))
    with pytest.raises(InputError, match="has no two classes of any target: found no label of a"):
        check_learnable(none[:, None], ["a"], ["classification"], [part], with_valid=False)
    other = Split(np.arange(10, 20), np.arange(0, 5), np.arange(5, 10))
    labels_BC = np.stack([both, none], axis=1)
    found = check_learnable(labels_BC, ["a", "b"], ["classification"] * 2, [part, other], with_valid=False)
    assert found == ["target b has no label in the training part of a fold: it can't be learned"]


def test_a_folder_whose_disk_has_no_locks_is_not_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_locks(stream: object, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(StorageError, match="can't be locked: found No locks available"), folder_lock(tmp_path / "x"):
        pass


def test_a_device_that_is_none_is_unknown_and_not_missing():
    for name in ("cuda-1", "cudaX", "gpu", "cuda:", "cuda:-1"):
        with pytest.raises(ConfigError, match="unknown device"):
            choose_device(name)
    with pytest.raises(ConfigError, match=r"device=cuda:99, but torch sees no|there is no device cuda:99"):
        choose_device("cuda:99")


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_a_limit_that_is_refused_is_not_among_what_is_expected(fraction: float):
    with pytest.raises(ConfigError, match="expected above 0, below 1"):
        DistillConfig(holdout_fraction=fraction)


def test_columns_of_one_name_are_counted_right(tmp_path: Path):
    path = tmp_path / "t.csv"
    path.write_text("smiles,y,y,y\n" + "".join(f"{text},0,1,2\n" for text in SMILES))
    with pytest.raises(InputError, match=r"has more than one column named 'y'\. Rename all but one"):
        quietly(path, tmp_path / "model", ["y"])
