"""Which versions made an artefact; recorded in every store, checkpoint, model and result."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

_PACKAGES = ("dnd", "torch", "rdkit", "pyarrow", "numpy", "safetensors", "scikit-learn")


@cache
def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result; read from metadata, so nothing heavy is imported."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # a source tree on PYTHONPATH, or a machine without RDKit
            versions[name] = "not installed"
    return versions
