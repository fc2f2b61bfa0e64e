"""Work that a stopped finetuning does not do again: features by molecule, and what classical members have learned.

It lies in `.work` of the MODEL folder, whose lock the run holds. Each piece is a file of arrays, written atomically,
and a record with its SHA-256, written after it; a piece that is damaged is made again. Arrays come back bit for bit, so
a run that was resumed ends with the numbers of one that was not. Pieces go when the model is sealed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dnd.common.errors import CorruptFileError
from dnd.common.files import read_plain_file, write_bytes
from dnd.common.sealed_records import read_record, write_record
from dnd.predictor.classical.features import Features

FOLDER = ".work"  # which `common.runs.drop_scaffolding` removes when the model is sealed
KEEP_FROM_S = 1.0
"""Seconds of work below which a piece is not worth its file."""
KEEP_EVERY_S = 30.0
_LIMIT_BYTES = 16 * 2**30

Arrays = Mapping[str, np.ndarray]


class KeptWork:
    """Pieces of work by name.

    Args:
        folder: the MODEL folder; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder / FOLDER

    def get(self, name: str) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """The arrays of a piece and what was said about it; None where it is not there, or not as it was written."""
        if self._folder is None or not (self._folder / f"{name}.json").is_file():
            return None
        try:
            record = read_record(self._folder / f"{name}.json")
            data = read_plain_file(self._folder / f"{name}.safetensors", _LIMIT_BYTES)
            if hashlib.sha256(data).hexdigest() != record["sha256"]:
                return None
            return load(data), record["about"]
        except (CorruptFileError, KeyError, SafetensorError):
            return None

    def put(self, name: str, arrays: Arrays, about: Mapping[str, Any], seconds: float) -> None:
        """Keep a piece of work if the seconds it took are worth a file.

        Args:
            name: fit for a file.
            arrays: arrays of any shape, also empty ones.
            about: plain values.
        """
        if self._folder is None or seconds < KEEP_FROM_S:
            return
        data = save({key: np.ascontiguousarray(values) for key, values in arrays.items()})
        write_bytes(self._folder / f"{name}.safetensors", data)
        record = {"sha256": hashlib.sha256(data).hexdigest(), "about": dict(about)}
        write_record(self._folder / f"{name}.json", record)


class KeptFeatures:
    """Features by molecule, see `features_of`; what is computed is kept twice a minute.

    Args:
        work: where the pieces lie.
        sets: the feature sets, in order; pieces of others are left alone.
    """

    def __init__(self, work: KeptWork, sets: Sequence[str]) -> None:
        self._work, self._sets = work, list(sets)
        self._known: dict[
            str, tuple[np.ndarray, np.ndarray, str]
        ] = {}  # SMILES → places and bits that are not 0, reason
        self._pieces, self._width = 0, 0
        while (found := work.get(self._name())) is not None and found[1]["sets"] == self._sets:
            self._take(*found)
            self._pieces += 1
        self._new: list[str] = []
        self._since = time.monotonic()

    def get(self, smiles: Sequence[str]) -> Features | None:
        """The features of these molecules, where all are kept."""
        if not all(text in self._known for text in smiles):
            return None
        bits_BF = np.zeros((len(smiles), self._width), np.uint32)
        refused = {}
        for row, text in enumerate(smiles):
            places, bits, reason = self._known[text]
            bits_BF[row, places] = bits
            refused.update({row: reason} if reason else {})
        return Features(bits_BF.view(np.float32), refused)

    def put(self, smiles: Sequence[str], part: Features) -> None:
        """Keep the features of these molecules."""
        bits_BF = np.ascontiguousarray(part.x_BF).view(np.uint32)  # as bits, so that -0.0 is no 0
        self._width = bits_BF.shape[1]
        for row, text in enumerate(smiles):
            places = np.flatnonzero(bits_BF[row]).astype(np.int32)
            self._known[text] = (places, bits_BF[row, places], part.refused.get(row, ""))
        self._new += smiles
        if time.monotonic() - self._since >= KEEP_EVERY_S:
            self.keep()

    def keep(self) -> None:
        """Write what is new."""
        if not self._new:
            return
        new = list(dict.fromkeys(self._new))
        places, bits, reasons = zip(*(self._known[text] for text in new), strict=True)
        arrays = {
            "counts": np.array([len(own) for own in places]),
            "places": np.concatenate(places),
            "bits": np.concatenate(bits),
        }
        refused = {text: reason for text, reason in zip(new, reasons, strict=True) if reason}
        about = {"sets": self._sets, "smiles": new, "width": self._width, "refused": refused}
        self._work.put(self._name(), arrays, about, time.monotonic() - self._since)
        self._pieces, self._new, self._since = self._pieces + 1, [], time.monotonic()

    def _name(self) -> str:
        return f"features-{self._pieces:04d}"

    def _take(self, arrays: Arrays, about: Mapping[str, Any]) -> None:
        ends = np.cumsum(arrays["counts"])[:-1]
        self._width = int(about["width"])
        rows = zip(about["smiles"], np.split(arrays["places"], ends), np.split(arrays["bits"], ends), strict=True)
        for text, places, bits in rows:
            self._known[text] = (places, bits, about["refused"].get(text, ""))
