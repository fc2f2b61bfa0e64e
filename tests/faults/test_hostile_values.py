"""A folder of which one value is what no run of ours writes, sealed by its sender: refused in one line, or harmless."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile_values import attack, changed
from safetensors.numpy import load_file, save_file

import dnd
from dnd.common.errors import CorruptFileError
from dnd.common.files import read_manifest, safe_join, write_manifest
from dnd.conformers.formats import open_arrays
from dnd.prediction.embedder import load_embedder

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


# Files of two folders that were swapped, and files that no run writes.


def taken(tmp_path: Path, name: str) -> Path:
    """A copy of a golden folder."""
    return Path(shutil.copytree(Path(__file__).parents[1] / "golden" / name, tmp_path / "received"))


def sealed_again(folder: Path, **extra: int) -> None:
    """Seal a folder as its sender would."""
    manifest = read_manifest(folder)
    write_manifest(folder, kind=manifest["kind"], format_version=extra.get("version", manifest["format_version"]))


def arrays_changed(folder: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    file = folder / name
    save_file({key: np.array(change(array), order="C") for key, array in load_file(file).items()}, file)
    sealed_again(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda array: array[:-1],
        lambda array: array[None],
        lambda array: array[:0],
        lambda array: array.astype(np.int64),
        lambda array: array.astype(bool),
        lambda array: np.zeros_like(array),
        lambda array: array[..., : array.shape[-1] // 2],
    ],
    ids=["short", "an axis more", "empty", "integers", "truths", "zeros", "narrow"],
)
@pytest.mark.parametrize("name", ["domain.safetensors", "limits.safetensors"])
def test_arrays_of_another_model_are_refused_when_it_is_loaded(
    tmp_path: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """They were an internal error of each row."""
    folder = taken(tmp_path, "formats-1/predictor")
    if not (folder / name).is_file():
        limits = {f"whole.{one}": np.ones(3, np.float32) for one in ("centre", "deviation")}
        save_file(limits, folder / name)
    arrays_changed(folder, name, change)
    with pytest.raises(CorruptFileError):
        dnd.load(folder, device="cpu")


def test_an_encoder_whose_weights_overflow_gives_a_reason_for_each_molecule(tmp_path: Path) -> None:
    """They were rows without numbers, exit code 0."""
    folder = taken(tmp_path, "formats-1/encoder")
    arrays_changed(folder, "model.safetensors", lambda array: np.full_like(array, 3e38) if array.ndim else array)
    values_BD, reasons = load_embedder(folder, device="cpu").embed_with_errors(["CCO", "C1CC"])
    assert np.isnan(values_BD).all()
    assert ["no finite number" in reason for reason in reasons] == [True, False]


@pytest.mark.parametrize(("name", "kind"), [("predictor", "model"), ("encoder", "encoder")])
def test_hydrogens_that_there_are_not_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    """Any word was taken for heavy_both."""
    folder = taken(tmp_path, f"formats-1/{name}")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hydrogens": "none"}))
    sealed_again(folder)
    with pytest.raises(CorruptFileError, match="names no setting of hydrogens"):
        dnd.load(folder, device="cpu") if kind == "model" else dnd.embed(["CCO"], folder)


def test_an_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """The last was taken, where other readers take the first."""
    folder = taken(tmp_path, "formats-1/predictor")
    text = (folder / "config.json").read_text().rstrip()
    (folder / "config.json").write_text(f'{text[:-1]}, "hydrogens": "all_both"}}')
    sealed_again(folder)
    with pytest.raises(CorruptFileError, match="'hydrogens' twice in one object"):
        dnd.load(folder, device="cpu")


@pytest.mark.parametrize("version", [0, -1, 99, True])
def test_a_format_that_there_never_was_is_refused(tmp_path: Path, version: int) -> None:
    folder = taken(tmp_path, "formats-1/predictor")
    sealed_again(folder, version=version)
    with pytest.raises(CorruptFileError, match="unknown format"):
        dnd.load(folder, device="cpu")


@pytest.mark.parametrize("name", ["a" * 5000, "a\nb", "a\x1b[31m", "a\0b"])
def test_a_name_that_no_run_gives_a_file_is_refused(tmp_path: Path, name: str) -> None:
    """A long one was an internal error, one with a line break two lines of a message."""
    with pytest.raises(CorruptFileError) as caught:
        safe_join(tmp_path, name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("shape", [(10**12,), (3 * 10**9,)])
def test_an_npz_that_unpacks_to_gigabytes_is_refused(tmp_path: Path, shape: tuple[int]) -> None:
    """Three megabytes took three gigabytes, and an announced terabyte was `out of memory`."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("Z.npy", "w") as out:
        out.write(header.getvalue())
        for _ in range(30):
            out.write(bytes(10**7))
    with pytest.raises(CorruptFileError, match="far more than it holds"):
        open_arrays(tmp_path / "x.npz")
