"""A STORE whose sender wrote what no molecule has, and sealed it: refused in one line when it is opened."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dnd.common.compute import choose_device
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import write_manifest
from dnd.store.featurize import featurize_smiles
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.schema import AUXILIARY_FIELDS
from dnd.store.settings import PrepareConfig


def everywhere(new: Any) -> Callable[[list[Any]], list[Any]]:
    return lambda cells: [[new] * len(cell) for cell in cells]


CHANGES: dict[str, tuple[str, Callable[[list[Any]], list[Any]], str]] = {
    "bonds to another atom": ("bonds", everywhere(9999), "a bond to an atom that does not exist"),
    "half of a bond": ("bonds", lambda cells: [[0] for _ in cells], "of the wrong length"),
    "atom features": ("node_features", everywhere(250), "node_features out of range"),
    "bond features": ("bond_features", everywhere(250), "bond_features out of range"),
    "no number": ("positions", everywhere(math.nan), "a position that is not finite"),
    "few positions": ("positions", lambda cells: [cell[:2] for cell in cells], "positions of the wrong length"),
    "many conformers": ("num_conformers", lambda cells: [200 for _ in cells], "positions of the wrong length"),
    "no atoms": ("node_features", lambda cells: [[] for _ in cells], "a row without atoms"),
    "no SMILES": ("smiles", lambda cells: [None for _ in cells], "a row without a value"),
    "few targets": ("targets", lambda cells: [[] for _ in cells], "another number of targets"),
    "targets of one row": ("targets", lambda cells: [[1.0], [1.0, 2.0]], "another number of targets"),
    "few charges": ("charges", lambda cells: [[0.0] for _ in cells], "charges of the wrong length"),
    "no surface": ("surface", lambda cells: [[] for _ in cells], "surface of the wrong length"),
    "uneven descriptors": ("descriptors", lambda cells: [cells[0], cells[1][1:]], "descriptors of the wrong length"),
    "fingerprint places": ("fingerprints", everywhere(1024), "fingerprints out of range"),
    "places of Avalon": ("avalon", everywhere(1024), "avalon out of range"),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "a.csv").write_text("smiles,y\nCCO,1\nc1ccccc1O,2\n")
    config = PrepareConfig(conformers="etkdg", target_columns=("y",), auxiliary=tuple(AUXILIARY_FIELDS))
    prepare([folder / "a.csv"], folder / "store", config)
    return folder / "store"


def sealed(folder: Path, column: str, change: Callable[[list[Any]], list[Any]]) -> None:
    """Change a column of the only shard, and seal the folder as a sender would."""
    path = folder / "shard-00000.arrow"
    table = pa.ipc.open_file(path.read_bytes()).read_all()
    place = table.schema.get_field_index(column)
    cells = pa.array(change(table.column(place).to_pylist()), table.schema.field(place).type)
    table = table.set_column(place, table.schema.field(place), cells)
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_batch(table.combine_chunks().to_batches()[0])
    manifest = json.loads((folder / "manifest.json").read_text())
    own = ("digest", "files", "kind", "format_version", "versions")
    extra = {name: value for name, value in manifest.items() if name not in own}
    write_manifest(folder, kind="store", format_version=manifest["format_version"], extra=extra)


@pytest.mark.parametrize("name", CHANGES)
def test_a_shard_that_holds_no_molecules_is_refused(store: Path, tmp_path: Path, name: str) -> None:
    column, change, reason = CHANGES[name]
    shutil.copytree(store, tmp_path / "store")
    sealed(tmp_path / "store", column, change)
    with pytest.raises(CorruptFileError, match=f"shard-00000.arrow holds what no molecule has: found .*{reason}"):
        Store.open(tmp_path / "store")


def test_the_same_shard_written_again_is_read(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store, tmp_path / "store")
    sealed(tmp_path / "store", "bonds", lambda cells: cells)
    assert len(Store.open(tmp_path / "store")) == 2


@pytest.mark.parametrize("name", ["foo", "cpu:x", "meta", "CPU", ""])
def test_an_unknown_device_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="unknown device"):
        choose_device(name)


def test_fewer_than_no_processes_are_refused() -> None:
    with pytest.raises(ConfigError, match="jobs must be at least 0: found -1"):
        featurize_smiles(["CCO"], "heavy_both", jobs=-1)
