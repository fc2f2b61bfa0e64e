"""What a MODEL folder says of itself: how sure it is and where it may be used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dnd.finetuning.calibration import Calibration, write_calibration
from dnd.finetuning.calibration_text import sentences
from dnd.finetuning.dataset import LabelledMolecules
from dnd.finetuning.domain import fit_domain, write_domain
from dnd.finetuning.metrics import TaskKind
from dnd.finetuning.transforms import Transform


def write_trust(
    folder: Path,
    embed: Callable[[np.ndarray], np.ndarray],
    rows: np.ndarray,
    molecules: LabelledMolecules,
    calibration: Calibration,
    kinds: Sequence[TaskKind],
    source: str,
    transforms: Sequence[Transform],
) -> list[str]:
    """Write calibration and domain into a MODEL folder that is not sealed yet.

    Args:
        folder: the MODEL folder.
        embed: representations of given molecules, which measure distance.
        rows: molecules that were trained on.
        molecules: the data.
        calibration: see `calibrate`.
        kinds: of the targets.
        source: what the calibration was learned from, in words.
        transforms: of the targets.

    Returns:
        What was learned, in words.
    """
    lines = sentences(calibration, molecules.names, kinds, source, transforms)
    write_calibration(folder, calibration, lines)
    domain = fit_domain([molecules.smiles[row] for row in rows], lambda places: embed(rows[places]))
    if domain is not None:
        write_domain(folder, domain)
    return lines
