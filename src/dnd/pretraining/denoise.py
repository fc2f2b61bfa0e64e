"""The denoising stage: store of conformers → TEACHER folder."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from dnd.common.compute import derive_seed
from dnd.common.config import to_dict
from dnd.common.errors import InputError
from dnd.common.model_folder import FORMAT_VERSION, read_model
from dnd.common.runs import already_finished, drop_scaffolding
from dnd.graphs.batch import ConformerBatch, MoleculeBatch
from dnd.models.teachers.base import NoiseHead, TeacherConfig
from dnd.models.teachers.fast_pairs.pairs import CoincidentAtomsError, check_closest_approach
from dnd.models.teachers.teachers import KIND, build_teacher, save_teacher
from dnd.pretraining.objective import StoreObjective, initial_weights
from dnd.store.reader import Store
from dnd.training.distributed import is_main_rank, run_lock
from dnd.training.loop import TrainResult, train
from dnd.training.settings import LoopConfig, StepLoss

# Gaussian noise for denoising, a pure function of (seed, epoch, molecule): whatever batch a molecule is in.


HELD_OUT = -1
"""In place of the epoch: the noise of evaluation, the same every time."""

_STEP = np.uint64(0x9E3779B97F4A7C15)


def gaussian_noise(
    seed: int, epoch: int, rows_B: Int[np.ndarray, "molecules"], offsets: Int[np.ndarray, "offsets"]
) -> Float[np.ndarray, "atoms 3"]:
    r"""Standard normal noise :math:`\epsilon` of Eq. 3 for each atom and axis.

    Counter-based: word c of molecule b is the finaliser of SplitMix64 at (key of b) + c · step, one word per
    coordinate, turned into a normal by Box and Muller. So it is vectorised over the batch and yet does not depend on
    which molecules are in it, on their order, on a worker or on a rank.

    Args:
        seed: random seed of the run.
        epoch: a new draw each epoch; `HELD_OUT` for evaluation.
        rows_B: row of each molecule in its store.
        offsets: `(B + 1,)` atoms of each molecule.

    Returns:
        `(atoms, 3)` float32, without unit; multiply by sigma for angstrom.
    """
    key = np.uint64(derive_seed(seed, "noise", epoch))
    with np.errstate(over="ignore"):
        keys_B = _mix(key + _mix(rows_B.astype(np.uint64) * _STEP))
        counts_B = np.diff(offsets) * 3
        counter = np.arange(1, counts_B.sum() + 1) - np.repeat(3 * offsets[:-1], counts_B)
        words = _mix(np.repeat(keys_B, counts_B) + counter.astype(np.uint64) * _STEP)
    radius = np.sqrt(-2.0 * np.log(((words >> np.uint64(32)) + 0.5) * 2.0**-32))
    angle = (words & np.uint64(0xFFFFFFFF)) * (2.0 * np.pi * 2.0**-32)
    noise: np.ndarray = (radius * np.cos(angle)).astype(np.float32).reshape(-1, 3)
    return noise


def remove_mean(
    noise_A3: Float[np.ndarray, "atoms 3"], offsets: Int[np.ndarray, "offsets"]
) -> Float[np.ndarray, "atoms 3"]:
    """Noise without its translation: the mean over each molecule's atoms is subtracted."""
    counts_B = np.diff(offsets)
    mean_B3 = np.add.reduceat(noise_A3, offsets[:-1], axis=0) / counts_B[:, None]
    return (noise_A3 - np.repeat(mean_B3, counts_B, axis=0)).astype(np.float32)


def _mix(words: np.ndarray) -> np.ndarray:
    """Finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every input bit changes each output bit half the time."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed


# How much of the noise no denoiser can know: the rigid motions of a molecule.


LINEAR_EXTENT = 0.05
"""Angstrom. A molecule whose root-mean-square extent across its axis is below this is linear."""


def rotational_freedom(
    positions_A3: Float[np.ndarray, "atoms 3"], offsets: Int[np.ndarray, "offsets"]
) -> Int[np.ndarray, "molecules"]:
    """Rotations of each molecule that move an atom: 3, 2 for linear ones (all of two atoms), 0 for a single atom.

    Args:
        positions_A3: angstrom.
        offsets: `(B + 1,)`.
    """
    counts_B = np.diff(offsets)
    positions = positions_A3.astype(np.float64)
    mean_B3 = np.add.reduceat(positions, offsets[:-1], axis=0) / counts_B[:, None]
    centred = positions - np.repeat(mean_B3, counts_B, axis=0)
    spread_B33 = np.add.reduceat(centred[:, :, None] * centred[:, None], offsets[:-1], axis=0) / counts_B[:, None, None]
    across_B = np.linalg.eigvalsh(spread_B33)[:, :2].sum(-1)
    freedom = np.where(across_B < LINEAR_EXTENT**2, 2, 3)
    return np.where(counts_B == 1, 0, freedom)


def denoising_bounds(
    rotations_B: Int[np.ndarray, "molecules"], counts_B: Int[np.ndarray, "molecules"], *, centred: bool
) -> tuple[float, float]:
    r"""Loss of a denoiser that predicts 0, and the lower bound of the loss.

    The noise of a molecule of N atoms has 3N directions. A denoiser sees the noisy conformer and is equivariant, so to
    first order in sigma it can't see the noise along translations (3) and rotations (r = 3, fewer if linear): there
    the best prediction is 0, with an expected squared error of 1 per direction. Averaged over atoms and axes

    .. math:: \text{floor} = \frac{\sum_b (3 + r_b)}{3 \sum_b N_b}, \quad \text{trivial} = 1

    which is 2/N for a non-linear molecule and 1 for a single atom. Noise without its mean has no translation left:
    the floor is then :math:`\sum_b r_b / 3 \sum_b N_b` and the trivial value :math:`1 - B / \sum_b N_b`.
    Own derivation.

    Args:
        rotations_B: see `rotational_freedom`.
        counts_B: atoms of each molecule.
        centred: whether the mean of the noise was removed.

    Returns:
        Trivial value and floor.
    """
    directions = 3.0 * float(counts_B.sum())
    translations = 3.0 * len(counts_B)
    if centred:
        return 1.0 - translations / directions, float(rotations_B.sum()) / directions
    return 1.0, (translations + float(rotations_B.sum())) / directions


# Denoising (Eq. 3-5): the loss that trains a teacher, as an objective of the training loop.


@dataclass(frozen=True)
class DenoiseConfig:
    """Settings of the denoising stage.

    Attributes:
        teacher: architecture.
        loop: training; the recipes `denoise-*` have the settings that suit each size.
        sigma: standard deviation of the noise per coordinate, angstrom. D&D does not state it; 0.04 is the value of
            Zaidi et al. for PCQM4Mv2.
        remove_mean: whether to remove the translation from the noise; not in the paper.
        holdout_fraction: share of the molecules that is held out to select the weights.
        num_conformers: number of conformers of each molecule to use, the first ones, one after the other by epoch; none
            = all.
    """

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    sigma: float = 0.04
    remove_mean: bool = False
    holdout_fraction: float = 0.02
    num_conformers: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that can't work."""
        if not 0 < self.sigma < np.inf:
            raise ValueError(f"sigma is {self.sigma}, expected a finite number above 0 angstrom")
        if not 0 <= self.holdout_fraction < 1:
            raise ValueError(f"holdout_fraction is {self.holdout_fraction}, expected at least 0, below 1")
        if self.holdout_fraction == 0 and (self.loop.patience is not None or self.loop.schedule == "plateau"):
            raise ValueError(
                "loop.patience and loop.schedule=plateau need held-out molecules, but holdout_fraction is 0"
            )
        if self.num_conformers is not None and self.num_conformers < 1:
            raise ValueError(f"num_conformers is {self.num_conformers}, expected at least 1")
        if self.loop.precision == "bf16":
            raise ValueError("teachers are trained in fp32; noise of 0.04 angstrom is lost in the digits of bf16")


@dataclass(frozen=True)
class NoisyBatch(MoleculeBatch):
    """A batch with noise drawn for it; `conformers` are the clean ones.

    Attributes:
        epsilon_A3: standard normal noise of Eq. 3, without unit.
        bounds: `(2,)` trivial loss and floor, see `denoising_bounds`.
    """

    epsilon_A3: Float[Tensor, "conformer_atoms 3"]
    bounds: Float[Tensor, "2"]


class DenoisingObjective(StoreObjective):
    r"""Predict the noise that was added to a conformer.

    .. math:: \tilde R = R + \sigma \epsilon, \quad \epsilon \sim N(0, I), \quad
        L = \frac{1}{3 \sum_b N_b} \sum_{i, c} (\hat\epsilon_{ic}(\tilde R) - \epsilon_{ic})^2

    Source: D&D, Eq. 3-5; Zaidi et al., ICLR 2023. The target is :math:`\epsilon` itself: no running normaliser. A
    prediction of 0 has loss 1, and rigid motion keeps the loss above a floor of about 2/N; both are logged.

    Args:
        store: molecules with conformers; conformer number `epoch` modulo J in each epoch.
        config: settings.
    """

    def __init__(self, store: Store, config: DenoiseConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        self.config = config
        with initial_weights(config.loop.seed, "teacher"):
            self.teacher = build_teacher(config.teacher)
            self.head = NoiseHead(config.teacher.width)
        self.teacher.closest_approach = 1e-3  # noise may bring atoms near; the clean conformer is checked instead
        self.best_metric = "held_out_loss" if len(self.holdout_rows) else None

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Mean squared error over atoms and axes; the noise is in the batch, so `seed` is not used."""
        assert isinstance(batch, NoisyBatch)
        error_A3 = self._predict(batch) - batch.epsilon_A3
        parts = {"trivial": batch.bounds[0], "floor": batch.bounds[1]}
        weight = torch.tensor(float(len(error_A3)), device=error_A3.device)
        return StepLoss(error_A3.square().mean(), parts, weight=weight)

    def load_batch(self, rows: np.ndarray, epoch: int) -> NoisyBatch:
        """Read molecules and draw their noise.

        Raises:
            CoincidentAtomsError: a clean conformer has two atoms at one place; the message names the molecule.
        """
        number = max(epoch, 0)
        batch = self.store.read(rows, conformer=number % (self.config.num_conformers or number + 1))
        assert batch.conformers is not None
        conformers = batch.conformers
        try:
            check_closest_approach(conformers)
        except CoincidentAtomsError as error:
            raise error.named(self.store.describe(rows[[error.molecule]])[0]) from error
        offsets = conformers.atom_offsets.numpy()
        noise = gaussian_noise(self.config.loop.seed, epoch, rows, offsets)
        if self.config.remove_mean:
            noise = remove_mean(noise, offsets)
        rotations = rotational_freedom(conformers.positions_A3.numpy(), offsets)
        bounds = denoising_bounds(rotations, np.diff(offsets), centred=self.config.remove_mean)
        return NoisyBatch(**vars(batch), epsilon_A3=torch.from_numpy(noise), bounds=torch.tensor(bounds))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Held-out loss with fixed noise, its bounds, and `explained`: the predicted share of what can be predicted."""
        return self.measure(self.holdout_rows)

    @torch.no_grad()
    def measure(self, rows: np.ndarray) -> dict[str, float]:
        """`evaluate` on any rows; an empty result for no rows. The noise of a row does not depend on the others."""
        if not len(rows):
            return {}
        device = next(self.parameters()).device
        squares, trivial, floor, atoms = 0.0, 0.0, 0.0, 0
        for part in self.evaluation_rows(rows, self.store.conformer_atom_counts, even=True):
            batch = self.load_batch(part, HELD_OUT).to(device)
            count = len(batch.epsilon_A3)
            squares += float((self._predict(batch) - batch.epsilon_A3).square().mean()) * count
            trivial, floor = trivial + float(batch.bounds[0]) * count, floor + float(batch.bounds[1]) * count
            atoms += count
        loss, trivial, floor = squares / atoms, trivial / atoms, floor / atoms
        explained = (trivial - loss) / (trivial - floor) if trivial > floor else 0.0
        return {"held_out_loss": loss, "trivial": trivial, "floor": floor, "explained": explained}

    def _predict(self, batch: NoisyBatch) -> Float[Tensor, "conformer_atoms 3"]:
        clean = batch.conformers
        assert isinstance(clean, ConformerBatch)
        noisy = replace(clean, positions_A3=clean.positions_A3 + self.config.sigma * batch.epsilon_A3)
        prediction: Tensor = self.head(self.teacher(noisy))
        return prediction


# Store → TEACHER folder: the denoising stage.


@dataclass(frozen=True)
class DenoiseSummary:
    """Result of a denoising.

    Attributes:
        folder: the TEACHER folder.
        metrics: held-out loss, trivial value, floor and explained share of the kept weights; empty if nothing was held
            out or the run was stopped.
        finished: False when `loop.stop_after_s` ended it early.
    """

    folder: Path
    metrics: dict[str, float]
    finished: bool


def denoise(
    store: Store | Path | str,
    out: Path | str,
    config: DenoiseConfig | None = None,
    *,
    resume: bool = False,
) -> DenoiseSummary:
    """Train a teacher on the conformers of a store.

    Args:
        store: a store or its folder.
        out: the TEACHER folder.
        config: settings; the defaults of `DenoiseConfig` when None.
        resume: continue an interrupted run with the same settings.

    Raises:
        InputError: the store has molecules without a conformer, or `out` holds something else.

    Example:
        >>> denoise("qm9-store", "teacher")  # doctest: +SKIP
    """
    config, out = config or DenoiseConfig(), Path(out)
    if (summary := taught_before(out, resume=resume)) is not None:
        return summary
    store = store if isinstance(store, Store) else Store.open(store)
    if not store.has_conformers:
        raise InputError(
            f"{store.path or 'the store'} has molecules without a conformer",
            next_step="Make it with `dnd prepare --conformers etkdg`, or from a file that has coordinates",
        )
    with run_lock(out):
        return taught_before(out, resume=resume) or _denoise(store, out, config, resume)


def taught_before(out: Path, *, resume: bool) -> DenoiseSummary | None:
    """The summary of a finished TEACHER in `out`, or None if there is still work to do.

    Raises:
        InputError: there is a finished teacher and `resume` is not set.
        CorruptFileError: the folder is damaged or of another kind.
    """
    if not already_finished(out, kind=KIND, format_version=FORMAT_VERSION, resume=resume):
        return None
    return DenoiseSummary(out, read_model(out, kind=KIND).config["metrics"], True)


def _denoise(store: Store, out: Path, config: DenoiseConfig, resume: bool) -> DenoiseSummary:
    """`denoise` in a folder that is ours alone."""
    objective = DenoisingObjective(store, config)
    settings = {"store": store.fingerprint, "settings": to_dict(config)}
    result = train(objective, config.loop, out, resume=resume, settings=settings, title="denoise", held=True)
    if not result.finished:
        return DenoiseSummary(out, {}, False)
    if not is_main_rank():
        return DenoiseSummary(out, result.best, True)  # rank 0 writes the TEACHER
    description = {
        "hydrogens": store.hydrogens,
        "sigma": config.sigma,
        "store": store.fingerprint,
        "molecules": len(store),
        "metrics": result.best,
        "settings": to_dict(config),
    }
    card = _card(store, config, objective, result)
    save_teacher(out, objective.teacher, objective.head, config.teacher, description, card)
    drop_scaffolding(out)
    return DenoiseSummary(out, result.best, True)


def _card(store: Store, config: DenoiseConfig, objective: DenoisingObjective, result: TrainResult) -> str:
    teacher, metrics = config.teacher, result.best
    weights = sum(parameter.numel() for parameter in objective.teacher.parameters())
    lines = [
        "# Teacher",
        "",
        f"A 3D network ({teacher.name}, width {teacher.width}, {teacher.num_layers} layers, {weights:,} weights) "
        f"trained to predict noise of {config.sigma} Å added to conformers (D&D, Eq. 3-5).",
        "",
        f"- data: {len(objective.train_rows):,} molecules, {len(objective.holdout_rows):,} held out; hydrogens "
        f"`{store.hydrogens}`; store `{store.fingerprint[:12]}`",
        f"- training: {result.steps:,} steps, {config.loop.epochs} epochs; kept: step {result.best_step:,}",
    ]
    return "\n".join([*lines, *_card_metrics(metrics), ""])


def _card_metrics(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return ["- held-out loss: nothing was held out"]
    return [
        f"- held-out loss: {metrics['held_out_loss']:.4f}; predicting zero gives {metrics['trivial']:.4f}, and "
        f"rigid motion allows no model below about {metrics['floor']:.4f}",
        f"- explained: {100 * metrics['explained']:.1f} % of what can be predicted",
    ]
