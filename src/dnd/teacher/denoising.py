"""Denoising (Eq. 3-5): the loss that trains a teacher, as an objective of the training loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dnd.common.seeds import derive_seed
from dnd.conformers.noise import HELD_OUT, gaussian_noise, remove_mean
from dnd.graphs.batch import ConformerBatch, MoleculeBatch
from dnd.store.reader import Store
from dnd.store.sections import EpochPlan, TrainingRows
from dnd.teacher.build import build_teacher
from dnd.teacher.config import TeacherConfig
from dnd.teacher.noise_head import NoiseHead
from dnd.teacher.pairs import CoincidentAtomsError, check_closest_approach
from dnd.teacher.rigid import denoising_bounds, rotational_freedom
from dnd.training.objective import Objective, StepLoss
from dnd.training.settings import LoopConfig


@dataclass(frozen=True)
class DenoiseConfig:
    """Settings of the denoising stage.

    Attributes:
        teacher: architecture.
        loop: training; the recipes `denoise-*` have the settings that suit each size.
        sigma: standard deviation of the noise per coordinate, angstrom. D&D does not state it; 0.04 is that of Zaidi
            et al. for PCQM4Mv2.
        remove_mean: take the translation out of the noise; not in the paper.
        holdout_fraction: share of the molecules that is held out to select the weights.
        num_conformers: of each molecule that are used, the first so many, one after the other by epoch; none = all.
    """

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    sigma: float = 0.04
    remove_mean: bool = False
    holdout_fraction: float = 0.02
    num_conformers: int | None = None

    def __post_init__(self) -> None:
        """Refuse settings that can't work."""
        if not self.sigma > 0:
            raise ValueError(f"sigma is {self.sigma}, expected above 0 angstrom")
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


class DenoisingObjective(Objective):
    r"""Predict the noise that was added to a conformer.

    .. math:: \tilde R = R + \sigma \epsilon, \quad \epsilon \sim N(0, I), \quad
        L = \frac{1}{3 \sum_b N_b} \sum_{i, c} (\hat\epsilon_{ic}(\tilde R) - \epsilon_{ic})^2

    Source: D&D, Eq. 3-5; Zaidi et al., ICLR 2023. The target is :math:`\epsilon` itself: no running normaliser. A
    prediction of 0 scores 1, and rigid motion keeps the loss above a floor of about 2/N; both are logged with it.

    Args:
        store: molecules with conformers; conformer number `epoch` modulo K in each epoch.
        config: settings.
    """

    def __init__(self, store: Store, config: DenoiseConfig) -> None:
        super().__init__()
        self.store, self.config = store, config
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(derive_seed(config.loop.seed, "teacher"))
            self.teacher = build_teacher(config.teacher)
            self.head = NoiseHead(config.teacher.width)
        self.teacher.closest_approach = 1e-3  # noise may bring atoms near; the clean conformer is checked instead
        self.train_rows = TrainingRows(len(store), config.holdout_fraction, config.loop.seed)
        self.held_out_rows = self.train_rows.held_out
        self.best_metric = "held_out_loss" if len(self.held_out_rows) else None

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Mean squared error over atoms and axes; the noise is in the batch, so `seed` is not used."""
        assert isinstance(batch, NoisyBatch)
        error_A3 = self._predict(batch) - batch.epsilon_A3
        parts = {"trivial": batch.bounds[0], "floor": batch.bounds[1]}
        weight = torch.tensor(float(len(error_A3)), device=error_A3.device)
        return StepLoss(error_A3.square().mean(), parts, weight=weight)

    def plan_epoch(self, epoch: int) -> Sequence[np.ndarray]:
        """Batches of training rows with molecules of similar size."""
        loop = self.config.loop
        return EpochPlan(
            self.train_rows,
            self.store.conformer_atom_counts,
            batch_size=None if loop.max_tokens else loop.batch_size,
            max_tokens=loop.max_tokens,
            seed=loop.seed,
            epoch=epoch,
        )

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
        """Held-out loss with fixed noise, its bounds, and `explained`: the share of what can be predicted that is."""
        return self.measure(self.held_out_rows)

    @torch.no_grad()
    def measure(self, rows: np.ndarray) -> dict[str, float]:
        """`evaluate` of any rows; nothing where there are none. The noise of a row does not depend on the others."""
        if not len(rows):
            return {}
        device = next(self.parameters()).device
        squares, trivial, floor, atoms = 0.0, 0.0, 0.0, 0
        by_size = rows[np.argsort(self.store.conformer_atom_counts[rows], kind="stable")]
        for part in np.array_split(by_size, -(-len(rows) // self.config.loop.batch_size)):
            batch = self.load_batch(part, HELD_OUT).to(device)
            count = len(batch.epsilon_A3)
            squares += float((self._predict(batch) - batch.epsilon_A3).square().mean()) * count
            trivial, floor = trivial + float(batch.bounds[0]) * count, floor + float(batch.bounds[1]) * count
            atoms += count
        loss, trivial, floor = squares / atoms, trivial / atoms, floor / atoms
        explained = (trivial - loss) / (trivial - floor) if trivial > floor else 0.0
        return {"held_out_loss": loss, "trivial": trivial, "floor": floor, "explained": explained}

    def describe(self, rows: np.ndarray) -> list[str]:
        """SMILES and source row of each molecule."""
        return self.store.describe(rows)

    def _predict(self, batch: NoisyBatch) -> Float[Tensor, "conformer_atoms 3"]:
        clean = batch.conformers
        assert isinstance(clean, ConformerBatch)
        noisy = replace(clean, positions_A3=clean.positions_A3 + self.config.sigma * batch.epsilon_A3)
        prediction: Tensor = self.head(self.teacher(noisy))
        return prediction
