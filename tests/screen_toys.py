"""Workers of a screen without a model: numbers from the text, and molecules that kill, hang or slow down."""

from __future__ import annotations

import os
import time
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from dnd.prediction.screen.chunks import Candidate
from dnd.predictor.predictor import Column

WORKER = "screen_toys:make_stub"


def value(smiles: str) -> float:
    """A number with many ties."""
    return float(zlib.crc32(smiles.encode()) % 1000)


def make_stub(model: str, digest: str) -> Callable[[Sequence[Candidate]], dict[str, Column]]:
    pause_s = float(os.environ.get("TOY_PAUSE_S", "0"))

    def chunk_columns(chunk: Sequence[Candidate]) -> dict[str, Column]:
        time.sleep(pause_s)
        texts = ["" if candidate.problem else candidate.text for candidate in chunk]
        if "KILL" in texts:
            os._exit(9)
        if os.environ.get("TOY_ONCE") and not os.path.exists(os.environ["TOY_ONCE"]):
            open(os.environ["TOY_ONCE"], "x").close()
            os._exit(9)
        if "RAISE" in texts:
            raise ValueError("odd molecule")
        errors = [candidate.problem or ("" if text else "empty") for candidate, text in zip(chunk, texts, strict=True)]
        numbers = [float("nan") if error else value(text) for text, error in zip(texts, errors, strict=True)]
        return {"smiles": [one.text for one in chunk], "size_pred": np.array(numbers), "error": errors}

    return chunk_columns


def make_vectors(folder: str, pooling: str | None) -> Callable[[Sequence[Candidate]], dict[str, Column]]:
    """The same for `dnd embed`: one number for each row."""
    columns = make_stub(folder, "")

    def chunk_vectors(chunk: Sequence[Candidate]) -> dict[str, Column]:
        found = columns(chunk)
        return {"embedding": np.array(found["size_pred"])[:, None], "error": found["error"]}

    return chunk_vectors
