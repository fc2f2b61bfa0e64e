"""Where the molecules with conformers for a reproduction come from: the user's files, QM9, or the shipped slice."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from dnd.analysis.benchmarks import search_path
from dnd.common.errors import InputError

QM9_FILES = ("qm9_3d.npz", "dsgdb9nsd.xyz.tar.bz2", "dsgdb9nsd.xyz.tar", "dsgdb9nsd.xyz", "gdb9.sdf", "gdb9.sdf.gz")
PCQM4MV2_FILES = ("pcqm4m-v2-train.sdf", "pcqm4m-v2-train.sdf.gz", "pcqm4m-v2-train.sdf.tar.gz")
QM9_SOURCE = "https://doi.org/10.6084/m9.figshare.c.978904.v5 (dsgdb9nsd.xyz.tar.bz2)"
PCQM4MV2_SOURCE = "https://ogb.stanford.edu/docs/lsc/pcqm4mv2/ (pcqm4m-v2-train.sdf.tar.gz)"
_FOLDERS = ("", "qm9", "QM9", "pcqm4m-v2", "PCQM4Mv2")
# Energy label for ProPred, by what the file has.
_ENERGIES = {".npz": "g4mp2_atomization", ".sdf": ""}


def qm9_slice() -> Path:
    """The slice of QM9 that ships with the package: 2,500 molecules with DFT conformers and some labels."""
    return Path(str(resources.files("dnd.data") / "qm9_slice.npz"))


def find_pretraining(given: Sequence[Path | str], data_dir: Path | str | None, *, full_size: bool) -> list[Path]:
    """Files to pretrain on.

    Args:
        given: those the user names; taken as they are.
        data_dir: where to look otherwise.
        full_size: whether the budget is that of the paper, which wants PCQM4Mv2 and takes nothing less.

    Raises:
        InputError: a named file is missing, or PCQM4Mv2 where it is wanted; the message says where it is to be had.
    """
    if given:
        missing = [path for path in map(Path, given) if not path.exists()]
        if missing:
            raise InputError(f"there is no file {missing[0]}", next_step="Check --pretraining")
        return [Path(path) for path in given]
    if full_size:
        found = _find(PCQM4MV2_FILES, data_dir)
        if found is None:
            raise InputError(
                "PCQM4Mv2 is missing",
                found=f"no {PCQM4MV2_FILES[0]}",
                next_step=f"Get it from {PCQM4MV2_SOURCE} and point --data-dir at its folder, or name other files with "
                "--pretraining",
            )
        return [found]
    return [_find(QM9_FILES, data_dir) or qm9_slice()]


def find_qm9(data_dir: Path | str | None, *, fewest: int) -> Path:
    """QM9 with labels, for Tables 2 and 6; the shipped slice where `fewest` labelled molecules are in it.

    Raises:
        InputError: there is no QM9 that large; the message says where it is to be had.
    """
    labelled = tuple(name for name in QM9_FILES if not name.startswith("gdb9"))  # the SDF holds no labels
    found = _find(labelled, data_dir)
    if found is not None:
        return found
    if fewest <= 400:  # molecules of the slice with all eight labels
        return qm9_slice()
    raise InputError(
        "QM9 is missing",
        found=f"none of {', '.join(labelled)}",
        next_step=f"Get it from {QM9_SOURCE} and point --data-dir at its folder",
    )


def energy_label(path: Path) -> str:
    """The energy that ProPred learns: G4MP2 atomisation energy, or U0 of the original files."""
    return _ENERGIES.get(path.suffix, "u0")


def _find(names: Sequence[str], data_dir: Path | str | None) -> Path | None:
    candidates = (folder / sub / name for name in names for folder in search_path(data_dir) for sub in _FOLDERS)
    return next((path for path in candidates if path.exists()), None)
