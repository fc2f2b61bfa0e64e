"""Denoise and distill: molecular property prediction with 3D knowledge and no conformer at prediction time.

The public list is small and loads lazily, so `import dnd` costs milliseconds.
"""

from __future__ import annotations

import sys

if sys.argv[:1] == ["-m"]:  # `python -m dnd`: before anything else is imported, for it may stand in a received folder
    from dnd.common.processes import forget_current_folder

    forget_current_folder()

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dnd.prediction.estimator import DndClassifier, DndEmbedder, DndRegressor
    from dnd.predictor.predictor import Predictor, load

_PUBLIC = {
    "DndClassifier": "dnd.prediction.estimator",
    "DndEmbedder": "dnd.prediction.estimator",
    "DndRegressor": "dnd.prediction.estimator",
    "Predictor": "dnd.predictor.predictor",
    "load": "dnd.predictor.predictor",
}
__version__ = "0.1.0"
__all__ = ["DndClassifier", "DndEmbedder", "DndRegressor", "Predictor", "__version__", "load"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'dnd' has no attribute {name!r}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
