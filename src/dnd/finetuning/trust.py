"""What a MODEL folder says of itself: how sure it is and where it may be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnd.chemistry.splits import Split
from dnd.finetuning.calibration import Calibration, sentences, write_calibration
from dnd.finetuning.dataset import LabelledMolecules
from dnd.finetuning.domain import fit_domain, write_domain
from dnd.finetuning.metrics import TaskKind
from dnd.finetuning.network import run_over
from dnd.finetuning.predictor_folder import Member


def write_trust(
    folder: Path,
    member: Member,
    molecules: LabelledMolecules,
    partitions: Sequence[Split],
    calibration: Calibration,
    kinds: Sequence[TaskKind],
) -> list[str]:
    """Write calibration and domain into a MODEL folder that is not sealed yet.

    Args:
        folder: the MODEL folder.
        member: the first, whose representations measure distance.
        molecules: the data.
        partitions: one, or one per fold; training molecules of any of them are in the domain.
        calibration: see `calibrate`.
        kinds: of the targets.

    Returns:
        What was learned, in words.
    """
    lines = sentences(calibration, molecules.names, kinds, len(partitions))
    write_calibration(folder, calibration, lines)
    train = np.unique(np.concatenate([partition.train for partition in partitions]))
    network = member.network

    def embed(places: np.ndarray) -> np.ndarray:
        return run_over(network.embed, network.student, molecules.store, train[places])

    domain = fit_domain([molecules.smiles[row] for row in train], embed)
    if domain is not None:
        write_domain(folder, domain)
    return lines
