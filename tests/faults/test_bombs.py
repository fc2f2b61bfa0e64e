"""3.8: model folders made to harm, each with a manifest that vouches for it: refused in one line, and nothing runs."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import struct
import sys
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from dnd.common.about import diagnose
from dnd.common.errors import DndError, InputError
from dnd.common.files import write_manifest
from dnd.predictor.predictor import Predictor
from dnd.tables.molecules import open_molecules

MODEL = Path(__file__).parents[1] / "golden" / "formats-1" / "predictor"
WATCHED = {
    *("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect"),
    "pickle.find_class",
}
_seen: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in WATCHED:
        _seen.append(event)


sys.addaudithook(_watch)


class Runs:
    """Unpickled, it leaves a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


def weights(content: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
    return lambda folder, canary: (folder / "model.safetensors").write_bytes(content(canary)) and None


def tensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path, Path], None]:
    def deed(folder: Path, canary: Path) -> None:
        found = load_file(folder / "model.safetensors")
        change(found)
        save_file(found, folder / "model.safetensors")

    return deed


def config(change: Callable[[dict[str, Any]], object]) -> Callable[[Path, Path], None]:
    def deed(folder: Path, canary: Path) -> None:
        value = json.loads((folder / "config.json").read_text())
        change(value)
        (folder / "config.json").write_text(json.dumps(value))

    return deed


def torch_zip(canary: Path) -> bytes:
    stream = io.BytesIO()
    torch.save(Runs(canary), stream)
    return stream.getvalue()


def numpy_objects(canary: Path) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([Runs(canary)], dtype=object), allow_pickle=True)
    return stream.getvalue()


def slipping_zip(canary: Path) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../canary", "x")
    return stream.getvalue()


def header(text: str, data: bytes = b"", length: int | None = None) -> Callable[[Path], bytes]:
    raw = text.encode()
    return lambda canary: struct.pack("<Q", len(raw) if length is None else length) + raw + data


def link(folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/etc/passwd")


def first(tensors_by_name: dict[str, torch.Tensor]) -> str:
    return next(name for name, tensor in tensors_by_name.items() if tensor.ndim == 2)


_TWO = '{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"b":{"dtype":"F32","shape":[4],"data_offsets":[8,24]}}'
BOMBS: dict[str, Callable[[Path, Path], None]] = {
    "pickle": weights(lambda canary: pickle.dumps(Runs(canary))),
    "torch zip": weights(torch_zip),
    "numpy objects": weights(numpy_objects),
    "zip that leaves its folder": weights(slipping_zip),
    "empty weights": weights(lambda canary: b""),
    "header of 2^63 bytes": weights(header("{}", length=2**63)),
    "header of 200 MB announced": weights(header("{}", length=200 * 2**20)),
    "header that is no JSON": weights(header("{not json")),
    "tensors that overlap": weights(header(_TWO, bytes(24))),
    "a tensor of 10^18": weights(header('{"a":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4]}}')),
    "other weights": weights(header('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4))),
    "weight that is not a number": tensors(lambda found: found[first(found)].fill_(torch.nan)),
    "weight of another shape": tensors(lambda found: found.update({first(found): torch.zeros(3, 3)})),
    "weight missing": tensors(lambda found: found.pop(first(found))),
    "weight too many": tensors(lambda found: found.update({"more": torch.zeros(1)})),
    "width of 10^9": config(lambda value: value["members"][0]["student"].update(width=10**9)),
    "layers without end": config(lambda value: value["members"][0]["student"].update(num_layers=10**9)),
    "a class from elsewhere": config(lambda value: value["members"][0]["student"].update(name="os.system")),
    "a setting from elsewhere": config(lambda value: value["members"][0]["student"].update(run="touch canary")),
    "members that are text": config(lambda value: value.update(members="x")),
    "JSON without end": lambda folder, canary: (folder / "config.json").write_text("[" * 200_000) and None,
    "link": link,
}


@pytest.fixture
def bombed(scratch: Path) -> Iterator[Callable[[str], tuple[Path, Path]]]:
    global _watching

    def make(name: str) -> tuple[Path, Path]:
        folder, canary = scratch / "model", scratch / "canary"
        shutil.copytree(MODEL, folder)
        BOMBS[name](folder, canary)
        if name != "link":
            write_manifest(folder, kind="predictor", format_version=json.loads(MANIFEST)["format_version"])
        return folder, canary

    _seen.clear()
    yield make
    _watching = False


MANIFEST = (MODEL / "manifest.json").read_text()


@pytest.mark.parametrize("name", BOMBS)
def test_a_folder_made_to_harm_is_refused(name: str, bombed: Callable[[str], tuple[Path, Path]]) -> None:
    global _watching
    folder, canary = bombed(name)
    Predictor.load(MODEL, device="cpu")  # what is loaded once is loaded now
    tracemalloc.start()
    begin, _watching = time.process_time(), True
    try:
        with pytest.raises(DndError) as caught:
            Predictor.load(folder, device="cpu")
        diagnose(folder)
    finally:
        _watching = False
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert not _seen
    assert not canary.exists()
    assert time.process_time() - begin < 5
    assert peak < 200 * 2**20


def test_the_same_folder_without_a_bomb_loads(scratch: Path) -> None:
    shutil.copytree(MODEL, scratch / "model")
    (scratch / "model" / "extra.pkl").write_bytes(pickle.dumps(Runs(scratch / "canary")))
    write_manifest(scratch / "model", kind="predictor", format_version=json.loads(MANIFEST)["format_version"])
    Predictor.load(scratch / "model", device="cpu")
    assert not (scratch / "canary").exists()


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.smi", "a.tsv"])
def test_empty_lines_without_end_are_refused_in_every_text(tmp_path: Path, name: str) -> None:
    """Eight megabytes of gzip held hours of them, and a server's file could not be stopped meanwhile."""
    many = b"smiles\nCCO\n" + b"\n" * 200_000 + b"CCN\n"
    (tmp_path / name).write_bytes(gzip.compress(many) if name.endswith(".gz") else many)
    with pytest.raises(InputError, match="too many empty lines"), open_molecules(tmp_path / name) as table:
        list(table)
