"""What a run comes down to, and what it must not leave behind."""

from __future__ import annotations

import hashlib
from pathlib import Path


def outcome(folder: Path) -> dict[str, str]:
    """SHA-256 of the log and of every file of the last checkpoint but its manifest, which names the run."""
    last = max((folder / "checkpoints").glob("step-*"))
    files = [path for path in last.iterdir() if path.name != "manifest.json"] + [folder / "metrics.jsonl"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path.exists()}


def scraps(folder: Path) -> list[Path]:
    """Temporary files and folders left behind."""
    return [path for path in folder.rglob("*") if ".tmp-" in path.name]
