"""The distillation objective: frozen teacher, clean conformer, student and projections that learn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.common.compute import numpy_generator
from dnd.common.errors import InputError
from dnd.common.log import LOGGER
from dnd.graphs.batch import GraphBatch, MoleculeBatch
from dnd.models.students.base import StudentOutput
from dnd.models.students.encoders import Property, PropertyHeads, build_student
from dnd.models.teachers.base import Teacher
from dnd.pretraining.auxiliary import build_auxiliary
from dnd.pretraining.distill_losses import node_distillation_loss, solid_part, with_conformers
from dnd.pretraining.distill_terms import DistillationTerm, build_terms, request_of
from dnd.pretraining.heads import LabelHead, ProjectionHead
from dnd.pretraining.objective import PretrainingObjective, RunningMean, initial_weights
from dnd.pretraining.settings import AUXILIARY, DistillConfig
from dnd.pretraining.teacher_outputs import (
    DistillationBatch,
    TargetCache,
    build_cache,
    cache_bytes,
    naming_molecules,
    run_teacher,
)
from dnd.store.reader import Store
from dnd.training.distributed import is_main_rank
from dnd.training.settings import StepLoss, Terms

# How much of the teacher there is to explain, so that a loss means something: variance, R², a floor without learning.


# Columns of OGB's atom features: element (atomic number minus 1), degree, membership in a ring.
_LOOKUP_COLUMNS = [0, 2, 8]


@dataclass
class TargetMoments:
    r"""Sums over a data set from which the loss of any constant prediction follows.

    With weights :math:`w_x` and normaliser M, the loss of the constant c is
    :math:`\frac{1}{M} (\sum w t^2 - 2 c \sum w t + c^2 \sum w)`, averaged over layers and features.
    """

    weight: float = 0.0
    normaliser: float = 0.0
    first_LD: Tensor = field(default_factory=lambda: torch.zeros(()))
    second_LD: Tensor = field(default_factory=lambda: torch.zeros(()))

    def add(self, term: DistillationTerm, targets_LXD: Float[Tensor, "layers items dim"], graph: GraphBatch) -> None:
        """Take in one batch."""
        targets = targets_LXD.double().cpu()
        weight_X = term.item_weights(targets_LXD, graph).double().cpu()
        self.weight += float(weight_X.sum())
        self.normaliser += term.normaliser(graph)
        self.first_LD = self.first_LD + (weight_X[:, None] * targets).sum(dim=1)
        self.second_LD = self.second_LD + (weight_X[:, None] * targets.square()).sum(dim=1)

    @property
    def mean_LD(self) -> Float[Tensor, "layers dim"]:
        """The best constant prediction."""
        return self.first_LD / self.weight

    def constant_loss(self, constant_LD: Float[Tensor, "layers dim"]) -> float:
        """The term's loss when every prediction is `constant_LD`; with the mean, the variance. 0 of nothing."""
        if not self.normaliser:
            return 0.0
        total_LD = self.second_LD - 2 * constant_LD * self.first_LD + constant_LD.square() * self.weight
        return float(total_LD.mean() / self.normaliser)


def explained(loss: float, variance: float) -> float:
    """R² = 1 - loss / variance: 1 explains everything, 0 is no better than the mean, below 0 worse than it.

    Where there is no variance there is nothing to explain, and R² is 0.
    """
    return 1.0 - loss / variance if variance > 0 else 0.0


class AtomLookup:
    """A table of mean targets by (element, degree, in a ring): what NODE costs without learning anything.

    An atom whose key was not in the training part gets the mean of its element, and that failing the overall mean.
    """

    def __init__(self) -> None:
        self._sums: dict[tuple[int, ...], tuple[Tensor, int]] = {}

    def add(self, features_NF: Int[Tensor, "atoms features"], targets_ND: Float[Tensor, "atoms dim"]) -> None:
        """Take in the atoms of one batch."""
        keys_NF, targets = features_NF[:, _LOOKUP_COLUMNS].cpu(), targets_ND.double().cpu()
        for length in (0, 1, len(_LOOKUP_COLUMNS)):
            if length:
                unique, index_N = torch.unique(keys_NF[:, :length], dim=0, return_inverse=True)
            else:
                unique, index_N = torch.empty(1, 0, dtype=torch.int64), torch.zeros(len(targets), dtype=torch.int64)
            sums = torch.zeros(len(unique), targets.shape[1], dtype=targets.dtype).index_add_(0, index_N, targets)
            counts = torch.bincount(index_N, minlength=len(unique)).tolist()
            for key, total, count in zip(map(tuple, unique.tolist()), sums, counts, strict=True):
                old_total, old_count = self._sums.get(key, (torch.zeros(()), 0))
                self._sums[key] = (old_total + total, old_count + count)

    def predict(self, features_NF: Int[Tensor, "atoms features"]) -> Float[Tensor, "atoms dim"]:
        """The table's entry of every atom, float64 on the CPU."""
        keys_NF = features_NF[:, _LOOKUP_COLUMNS].cpu()
        unique, index_N = torch.unique(keys_NF, dim=0, return_inverse=True)
        rows = []
        for key in map(tuple, unique.tolist()):
            total, count = next(self._sums[short] for short in (key, key[:1], ()) if short in self._sums)
            rows.append(total / count)
        return torch.stack(rows)[index_N]


# The distillation objective: frozen teacher, clean conformer, student and projections that learn.


# Training molecules from which the teacher's mean, its variance and the lookup table are taken.
STATISTICS_MOLECULES = 20_000


class DistillationObjective(PretrainingObjective):
    """Weighted distillation terms and auxiliary terms over a store.

    The teacher is held outside the modules, so no checkpoint and no optimizer ever sees it.

    Args:
        store: molecules whose conformers, as far as there are some, suit the teacher; see `require_suitable`.
        teacher: any teacher; it is frozen here. None where no term needs one; then any is left aside.
        config: settings of the run.
        device: where the teacher runs.
        cache_folder: folder of a cache on disk.
        deadline: when to stop filling it, see `build_cache`.

    Attributes:
        student: the part that is kept.
        constants: numbers that don't change in training: variances and the lookup's loss and R².
    """

    def __init__(
        self,
        store: Store,
        teacher: Teacher | None,
        config: DistillConfig,
        *,
        device: torch.device | None = None,
        cache_folder: Path | None = None,
        deadline: float | None = None,
    ) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        self._device = device or torch.device("cpu")
        self._frozen: tuple[Teacher, ...] = ()  # a tuple, not a submodule
        if teacher is not None and config.needs_teacher:
            self._frozen = (teacher.to(self._device).eval().requires_grad_(False),)
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.bf16_devices = self.student.bf16_devices
            self._terms = build_terms(self.student, teacher, config)
            self.terms = nn.ModuleDict(self._terms)
            train_rows = self.train_rows.sample()
            if config.task_target is not None:
                self.task = LabelHead(
                    self.student, store, config.task_target, train_rows, self.holdout_rows, config.task_readout
                )
            names = [name for name in config.weights() if name in AUXILIARY]
            every = self.train_rows.every() if "labels" in names else train_rows
            self._auxiliary = build_auxiliary(names, self.student, store, train_rows, config.loop.seed, every)
            self.auxiliary = nn.ModuleDict(self._auxiliary)
        self._weights, self._shipped = config.weights(), config.heads
        if config.select_by == "task":
            self.best_metric = "valid_task_loss"
        self.request = request_of(self._terms, config)
        from_conformers = any(term.from_conformers for term in self._auxiliary.values())
        self._wants_conformers = bool(self._terms) or from_conformers
        self._require_judgement()
        self.cache = self._build_cache(config, cache_folder, deadline)
        self._needs_layers = any(len(term.pairs) > 1 for term in self._terms.values())
        self.to(self._device)
        self.constants = self._measure_teacher()

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Weighted sum of the terms' losses; `parts` has each term's loss and R² against the training variance."""
        batch = self.with_targets(batch)
        output = self.student(batch.graph, collect_layers=self._needs_layers)
        losses: list[Tensor] = []
        counts: list[Tensor | int] = []
        parts: dict[str, Tensor] = {}
        for name, (loss, count) in self._alignment(output, batch).items():
            losses.append(self._weights[name] * loss)
            counts.append(count)
            if count:
                parts[name] = loss.detach()
                parts[f"{name}_r2"] = 1 - loss.detach() / self.constants[f"train_{name}_variance"]
        for name, auxiliary in self._auxiliary.items():
            found = auxiliary(output, batch, batch.auxiliary[name])
            losses.append(self._weights[name] * found.loss)
            counts.append(found.known)
            parts[name] = found.loss.detach()
        if "task" in self._weights:
            error, _, count = self.task(output, batch)
            losses.append(self._weights["task"] * error)
            counts.append(count)
            parts["task"] = error.detach()
        losses_X = torch.stack(losses)
        terms = Terms(losses_X, torch.stack([torch.as_tensor(count).to(losses_X) for count in counts]))
        return StepLoss(terms.loss, parts, terms=terms)

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        """The molecules with their auxiliary values, and with the teacher's outputs where they are cached."""
        batch = self.store.read(rows)
        solid = solid_part(self.store, batch) if self._wants_conformers else None
        values = {name: term.read(self.store, batch, solid) for name, term in self._auxiliary.items()}
        if self.cache is None:
            return DistillationBatch(**vars(batch), auxiliary=values, solid=solid)
        places = self.store.places_with_conformers(rows)
        places = places[places >= 0]
        teacher_LND, teacher_LBD = self.cache.read(places) if len(places) else (None, None)
        solid = None if solid is None else solid.without_conformers()
        return DistillationBatch(
            batch.graph, None, batch.targets_BC, batch.rows_B, teacher_LND, teacher_LBD, values, solid
        )

    def with_targets(self, batch: MoleculeBatch) -> DistillationBatch:
        """The batch with the teacher's outputs, which are computed now where there is no cache."""
        assert isinstance(batch, DistillationBatch)
        if not self._frozen or batch.teacher_LND is not None:
            return batch
        molecules = batch if batch.solid is None else batch.solid.molecules
        if not molecules.num_molecules:
            return batch
        with naming_molecules(self.store, molecules.rows_B.cpu().numpy()):
            teacher_LND, teacher_LBD = run_teacher(self._frozen[0], molecules, self.request)
        return replace(batch, conformers=None, teacher_LND=teacher_LND, teacher_LBD=teacher_LBD)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss, variance and R² of every term for held-out molecules and as many training molecules."""
        metrics: dict[str, float] = {}
        for part, rows in (("valid", self.holdout_rows), ("train", self.train_sample)):
            means = RunningMean()
            for batch in self.evaluation_batches(rows):
                self._add_losses(self.with_targets(batch), means)
            losses = means.values()
            known = [name for name in self._weights if f"{name}_loss" in losses]  # of some, a part may have no value
            if known:
                metrics[f"{part}_loss"] = sum(self._weights[name] * losses[f"{name}_loss"] for name in known)
            for name in known:
                if name in self._terms:
                    losses[f"{name}_variance"] = self.constants[f"{part}_{name}_variance"]
                if name != "task":
                    losses[f"{name}_r2"] = explained(losses[f"{name}_loss"], losses[f"{name}_variance"])
            metrics |= {f"{part}_{name}": value for name, value in losses.items()}
            metrics |= {name: value for name, value in self.constants.items() if name.startswith(f"{part}_lookup")}
        return metrics

    def auxiliary_record(self) -> dict[str, list[dict[str, Any]]]:
        """What the auxiliary terms took from the training rows: limits, means, deviations, frequencies."""
        return {name: term.record(self.store) for name, term in self._auxiliary.items()}

    def property_heads(self) -> PropertyHeads | None:
        """The heads that stay with the encoder, None where none was asked for."""
        chosen = {name: self._auxiliary[name] for name in self._shipped}
        properties = [
            Property(
                *_name_and_unit(entry["name"], name),
                kind=entry.get("kind", "value"),
                mean=entry["mean"],
                deviation=entry["deviation"],
            )
            for name, term in chosen.items()
            for entry in term.record(self.store)
        ]
        if not properties:
            return None
        heads = PropertyHeads(self.student.width, properties)
        for name, term in chosen.items():
            assert isinstance(term.head, ProjectionHead)
            heads.networks[name].load_state_dict(term.head.network.state_dict())
        return heads

    def _add_losses(self, batch: DistillationBatch, means: RunningMean) -> None:
        output = self.student(batch.graph, collect_layers=self._needs_layers)
        for name, (loss, count) in self._alignment(output, batch).items():
            means.add(f"{name}_loss", loss, count)
        for name, auxiliary in self._auxiliary.items():
            found = auxiliary(output, batch, batch.auxiliary[name])
            means.add(f"{name}_loss", found.loss, int(found.known))
            means.add(f"{name}_variance", found.constant, int(found.known))
        if "task" in self._weights:
            error, constant, count = self.task(output, batch)
            means.add("task_loss", error, count)
            means.add("task_loss_of_the_mean", constant, count)

    def _alignment(self, output: StudentOutput, batch: DistillationBatch) -> dict[str, tuple[Tensor, int]]:
        """Loss of each alignment term over the molecules that have a conformer, and how many items it's the mean of."""
        graph = _solid_graph(batch)
        if not graph.num_molecules:
            nothing = 0.0 * sum(parameter.sum() for parameter in self.terms.parameters())
            return {name: (nothing + 0.0 * output.atoms_ND.float().sum(), 0) for name in self._terms}
        output = output if batch.solid is None else batch.solid.select(output)
        return {
            name: (
                term.distance(term.states(output, graph), term.targets(batch, self.request), graph),
                term.normaliser(graph),
            )
            for name, term in self._terms.items()
        }

    def _require_judgement(self) -> None:
        """Refuse to choose an epoch by nothing, and say which terms have no part in the choice.

        Raises:
            InputError: no term is known of any held-out molecule.
        """
        names = [name for name in self._weights if not self._is_held_out(name)]
        if len(names) == len(self._weights):
            raise InputError(
                "no held-out molecule has a value of any term, so no epoch could be chosen",
                found=f"{len(self.holdout_rows)} held out, terms {', '.join(names)}",
                next_step="Raise holdout_fraction or change loop.seed",
            )
        if names and is_main_rank():
            LOGGER.warning(
                f"note: no held-out molecule has a value of {', '.join(names)}: such terms have no part in the choice "
                "of the epoch"
            )

    def _is_held_out(self, name: str) -> bool:
        """Whether a term is known of a held-out molecule; the task term refuses what has none by itself."""
        if name == "task":
            return True
        if name in self._terms:
            return len(with_conformers(self.store, self.holdout_rows)) > 0
        term = self._auxiliary[name]
        for start in range(0, len(self.holdout_rows), self.loop.batch_size):
            batch = self.store.read(self.holdout_rows[start : start + self.loop.batch_size])
            if term.is_known(term.read(self.store, batch, solid_part(self.store, batch))):
                return True
        return False

    def _measure_teacher(self) -> dict[str, float]:
        """Variance of the teacher per term and part, and what the lookup table leaves; all about the training mean."""
        constants: dict[str, float] = {}
        if not self._terms:
            return constants
        sample = with_conformers(self.store, self.train_rows.sample())
        order = numpy_generator(self.loop.seed, "statistics").permutation(sample)
        rows = order[:STATISTICS_MOLECULES]
        known, lookup = {name: TargetMoments() for name in self._terms}, AtomLookup()
        for batch in map(self.with_targets, self.evaluation_batches(np.sort(rows))):
            self._take_in(batch, known)
            if "node" in self._terms:
                lookup.add(batch.graph.node_features_NF, self._terms["node"].targets(batch, self.request)[0])
        for name, moment in known.items():
            if not moment.constant_loss(moment.mean_LD) > 0:
                raise InputError(
                    f"the teacher's outputs are all equal: there is nothing to learn at level {name}",
                    found=f"variance 0 over {len(rows)} molecules",
                )
        for part, part_rows in (("valid", self.holdout_rows), ("train", self.train_sample)):
            moments, floor = {name: TargetMoments() for name in self._terms}, RunningMean()
            solid_rows = with_conformers(self.store, part_rows)
            for batch in map(self.with_targets, self.evaluation_batches(solid_rows)):
                self._take_in(batch, moments)
                if "node" in self._terms:
                    targets_ND = self._terms["node"].targets(batch, self.request)[0].cpu()
                    loss = node_distillation_loss(lookup.predict(batch.graph.node_features_NF), targets_ND.double())
                    floor.add("lookup_loss", loss, len(targets_ND))
            for name, moment in moments.items():
                constants[f"{part}_{name}_variance"] = moment.constant_loss(known[name].mean_LD)
            constants |= floor.values(f"{part}_")
            if (loss_of_lookup := constants.get(f"{part}_lookup_loss")) is not None:
                variance = constants[f"{part}_node_variance"]
                constants[f"{part}_lookup_r2"] = explained(loss_of_lookup, variance)
        return constants

    def _take_in(self, batch: DistillationBatch, moments: dict[str, TargetMoments]) -> None:
        for name, term in self._terms.items():
            moments[name].add(term, term.targets(batch, self.request), _solid_graph(batch))

    def _build_cache(self, config: DistillConfig, folder: Path | None, deadline: float | None) -> TargetCache | None:
        if not self._frozen:
            return None
        (teacher,) = self._frozen
        solid = self.store.with_conformers()
        choice, size = config.cache, cache_bytes(teacher, solid, self.request)
        if choice == "auto" and config.loop.epochs == 1 and config.conformers == "first":
            choice = "off"
        elif choice == "auto":
            small = size <= config.cache_memory_mb * 2**20 and config.loop.stop_after_s is None
            choice = "memory" if small or folder is None else "disk"
        if choice == "off" or size == 0:
            return None
        return build_cache(
            teacher,
            solid,
            self.request,
            device=self._device,
            folder=folder if choice == "disk" else None,
            deadline=deadline,
        )


def _solid_graph(batch: DistillationBatch) -> GraphBatch:
    """The graphs of the molecules that the teacher's outputs are of."""
    return batch.graph if batch.solid is None else batch.solid.molecules.graph


def _name_and_unit(recorded: str, term: str) -> tuple[str, str, str]:
    """Name, term and unit of a property: `solvation_water, kcal/mol` taken apart; a column of a store says no unit.

    Only calculated values are taken apart: the name of a column may have a comma of its own.
    """
    name, _, unit = recorded.partition(", ") if term == "quantum" else (recorded, "", "")
    return name, term, unit
