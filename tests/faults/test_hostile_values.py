"""A folder of which one value is what no run of ours writes, sealed by its sender: refused in one line, or harmless."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hostile_values import attack, changed
from safetensors.numpy import load_file, save_file

import dnd
from dnd.common.errors import CorruptFileError
from dnd.common.files import read_manifest, write_manifest

FOLDERS = Path(__file__).parents[1] / "golden" / "formats-1"
WIDE = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.mark.parametrize("count", [25, pytest.param(1000, marks=WIDE)])
@pytest.mark.parametrize("name", ["predictor", "encoder"])
def test_a_value_from_elsewhere_is_refused_or_harmless(name: str, count: int) -> None:
    counts = attack(FOLDERS / name, count)
    assert set(counts) <= {"refused", "answers"}, counts
    assert sum(counts.values()) == count
    assert counts["refused"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("training",), "x"),
        (("training",), [[]]),
        (("training", "settings"), 3),
        (("training", "settings", "labels"), "x"),
        (("members", 0, "scale", 0), "../../etc/passwd"),
        (("members", 0, "scale", 0), 0),
    ],
)
def test_what_ended_in_an_internal_error(tmp_path: Path, path: tuple[str | int, ...], value: object) -> None:
    folder = tmp_path / "model"
    shutil.copytree(FOLDERS / "predictor", folder)
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("training", {}).setdefault("settings", {})
    (folder / "config.json").write_text(json.dumps(changed(config, path, value)))
    write_manifest(
        folder, kind="predictor", format_version=json.loads((folder / "manifest.json").read_text())["format_version"]
    )
    with pytest.raises(CorruptFileError, match=r"config\.json does not describe a predictor"):
        dnd.load(folder, device="cpu")


@pytest.mark.parametrize("golden", ["predictor-regression", "predictor-classes", "predictor-blend"])
def test_weights_that_overflow_give_a_reason_and_no_empty_row(tmp_path: Path, golden: str) -> None:
    """Numbers that are finite in the file, and whose sums are not."""
    folder = tmp_path / "m"
    shutil.copytree(Path(__file__).parents[1] / "golden" / golden, folder)
    file = next(iter(sorted(folder.glob("model*.safetensors"))))
    arrays = load_file(file)
    for name in ("head.0.weight", "head.0.bias", "head.2.weight"):
        arrays[name] = np.full_like(arrays[name], 3e38)
    save_file(arrays, file)
    manifest = read_manifest(folder)
    write_manifest(folder, kind=manifest["kind"], format_version=manifest["format_version"])
    model = dnd.load(folder)
    texts = ["CCO", "c1ccccc1", "C1CC"]
    found = model.predict(texts)
    assert ["no finite number" in reason for reason in found["error"]] == [True, True, False]
    for name, values in found.items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            assert np.isnan(values).all(), name
    values_BC, reasons = model.predict_values(texts)
    assert np.isnan(values_BC).all()
    assert ["no finite number" in reason for reason in reasons] == [True, True, False]
