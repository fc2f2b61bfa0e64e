"""Conformers as flat arrays in an .npz: `Z`, `R`, `n_atoms`, `smiles`, and labels as `props` and `names`.

Molecule k owns `n_atoms[k]` consecutive rows of `Z` and `R`, in the order of `AddHs(MolFromSmiles(smiles))`. `R` is
float32 in angstrom or int16 in 0.001 angstrom. `mmff`, where there is one, says by which force field a generated
conformer was relaxed. Labels may lie in a second file beside, `qm9_props.npz` for `qm9_3d.npz`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from dnd.common.errors import CorruptFileError, InputError
from dnd.conformers.records import Record, RecordSource, method_of, require_columns

_NEEDED = ("Z", "R", "n_atoms", "smiles")
_MILLI = np.float32(0.001)


def open_arrays(path: Path, target_columns: Sequence[str] = ()) -> RecordSource:
    """Open an .npz of conformers.

    Args:
        path: the file.
        target_columns: labels wanted, by name.

    Raises:
        CorruptFileError: no readable .npz, or its arrays do not fit together.
        InputError: it lacks an array or a label.
    """
    arrays = _load(path)
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise InputError(f"{path} lacks the arrays {missing}", found=sorted(arrays), expected=list(_NEEDED))
    counts = arrays["n_atoms"].astype(np.int64)
    positions, total = arrays["R"], int(counts.sum())
    if positions.shape != (total, 3) or arrays["Z"].shape != (total,) or len(arrays["smiles"]) != len(counts):
        shapes = f"R {positions.shape}, Z {arrays['Z'].shape}, {len(arrays['smiles'])} SMILES"
        raise CorruptFileError(f"arrays of {path} do not fit", found=shapes, expected=f"{total} atoms of {len(counts)}")
    if positions.dtype != np.int16 and positions.dtype.kind != "f":
        raise InputError(f"{path} has positions of an unknown unit", found=positions.dtype, expected="float32 or int16")
    targets = _targets(path, arrays, target_columns)
    return RecordSource(path.name, _records(path.name, arrays, counts, targets), True, len(counts))


def label_names(path: Path) -> list[str]:
    """Names of the labels of an .npz of conformers, in it or beside it.

    Raises:
        CorruptFileError: no readable .npz.
    """
    return _names(_labels(path, _load(path)))


def _records(
    name: str, arrays: dict[str, np.ndarray], counts: np.ndarray, targets: np.ndarray | None
) -> Iterator[Record]:
    offsets = np.concatenate([[0], np.cumsum(counts)])
    numbers, positions, smiles, relaxed_by_mmff = arrays["Z"], arrays["R"], arrays["smiles"], arrays.get("mmff")
    for row, (begin, end) in enumerate(pairwise(offsets.tolist())):
        positions_A3 = positions[begin:end]
        method = method_of(name)
        if relaxed_by_mmff is not None:
            method = "etkdg+mmff94s" if relaxed_by_mmff[row] else "etkdg+uff"
        yield Record(
            row=row,
            source=name,
            layout="smiles_with_hydrogens",
            smiles=(_text(smiles[row]),),
            atomic_numbers_A=numbers[begin:end].astype(np.int64),
            positions_A3=positions_A3 * _MILLI if positions.dtype == np.int16 else positions_A3.astype(np.float32),
            method=method,
            targets=() if targets is None else tuple(targets[row].tolist()),
        )


def _targets(path: Path, arrays: dict[str, np.ndarray], wanted: Sequence[str]) -> np.ndarray | None:
    if not wanted:
        return None
    labels = _labels(path, arrays)
    names = _names(labels)
    require_columns(path.name, names, wanted)
    if labels is not arrays and not np.array_equal(labels.get("ids", ()), arrays.get("ids", ())):
        raise InputError(f"{_beside(path)} is not the label file of {path.name}", found="other ids")
    if len(labels["props"]) != len(arrays["n_atoms"]):
        raise CorruptFileError(f"labels of {path} do not fit", found=labels["props"].shape)
    columns: np.ndarray = labels["props"][:, [names.index(name) for name in wanted]].astype(np.float32)
    return columns


def _beside(path: Path) -> Path:
    return path.with_name(path.stem.removesuffix("_3d") + "_props.npz")


def _labels(path: Path, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return arrays if "props" in arrays or not _beside(path).is_file() else _load(_beside(path))


def _names(labels: dict[str, np.ndarray]) -> list[str]:
    return [_text(name) for name in labels["names"]] if "names" in labels and "props" in labels else []


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, AttributeError) as error:
        raise CorruptFileError(f"{path} is not a readable .npz file", found=str(error)) from error


def _text(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)
