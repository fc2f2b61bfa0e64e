"""A folder of which one value is what no run of ours writes, sealed by its sender: refused in one line, or harmless."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hostile_values import attack, changed

import dnd
from dnd.common.errors import CorruptFileError
from dnd.common.files import write_manifest

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
