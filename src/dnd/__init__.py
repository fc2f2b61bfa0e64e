"""Denoise and distill: molecular property prediction with 3D knowledge and no conformer at prediction time.

The public list is small and loads lazily, so `import dnd` costs milliseconds. It is documented, as one page, in
`docs/reference/python.md`.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":  # which has neither the locks of folders nor the signals that every verb relies on
    raise ImportError("dnd runs on Linux and macOS; on Windows, install it within WSL, the Windows Subsystem for Linux")

if sys.argv[:1] == ["-m"]:  # `python -m dnd`: before anything else is imported, for it may stand in a received folder
    from dnd.common.processes import forget_current_folder

    forget_current_folder()

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnd.interface.answers import embed, explain, load, predict, screen
    from dnd.interface.model import Predictor
    from dnd.interface.stages import compress, denoise, distill, finetune, prepare
    from dnd.prediction.estimator import DndClassifier, DndEmbedder, DndRegressor

_PUBLIC = {
    "prepare": "dnd.interface.stages",
    "denoise": "dnd.interface.stages",
    "distill": "dnd.interface.stages",
    "finetune": "dnd.interface.stages",
    "compress": "dnd.interface.stages",
    "load": "dnd.interface.answers",
    "Predictor": "dnd.interface.model",
    "predict": "dnd.interface.answers",
    "embed": "dnd.interface.answers",
    "screen": "dnd.interface.answers",
    "explain": "dnd.interface.answers",
    "DndRegressor": "dnd.prediction.estimator",
    "DndClassifier": "dnd.prediction.estimator",
    "DndEmbedder": "dnd.prediction.estimator",
}
__all__ = [
    "DndClassifier",
    "DndEmbedder",
    "DndRegressor",
    "Predictor",
    "__version__",
    "compress",
    "denoise",
    "distill",
    "embed",
    "explain",
    "finetune",
    "load",
    "predict",
    "prepare",
    "screen",
]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dnd' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
