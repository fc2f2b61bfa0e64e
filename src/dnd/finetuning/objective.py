"""The supervised objective: losses of values and classes on scaled targets, judged in raw units on whole parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dnd.chemistry.splits import Split, rows_of_molecules
from dnd.common.errors import NonFiniteError
from dnd.common.randomness import derive_seed
from dnd.finetuning.losses import (
    DEFAULT_LOSS,
    ValueLoss,
    balanced_terms,
    balanced_weights,
    beyond_limits,
    class_weights,
    cross_entropy,
    label_weights,
    masked_bce,
    masked_values,
)
from dnd.graphs.batch import MoleculeBatch
from dnd.predictor.metrics import LARGER_IS_BETTER, judge_targets, metric_names, score
from dnd.predictor.network import PropertyNetwork, run_over, to_raw_units
from dnd.predictor.targets import Target, groups_of, on_learned_scale
from dnd.store.batches import DEFAULT_POOL, MoleculeSource, plan_batches
from dnd.training.objective import Objective, StepLoss, Terms
from dnd.training.settings import LoopConfig

# What a part that stops a training says of it without flattery.
#
# The epoch with the best score on a part has that score partly by luck, so predictions of the part at that epoch look
# better than those of other molecules will be. Here each half of the part is predicted at the epoch that the other half
# prefers: cross-fitting, as for nuisance parameters in Chernozhukov et al., Econometrics Journal 21 (2018) C1. How much
# it matters is in `docs/results/predictor.md`.
#


_WORST = torch.finfo(torch.float64).min  # a checkpoint holds finite numbers only


class HalfChoice(nn.Module):
    """Two halves of a part, drawn at random, and for each the predictions at the epoch that the other one prefers.

    What it holds are buffers, so that a checkpoint has them.

    Args:
        molecules: V.
        targets: C.
        seed: random seed of the halving.
        identities: which of the V rows are one molecule: those are in one half. Empty = all are different.
    """

    predictions_VC: Tensor
    best_2: Tensor

    def __init__(self, molecules: int, targets: int, seed: int, identities: Sequence[str] = ()) -> None:
        super().__init__()
        groups = rows_of_molecules(identities or range(molecules))
        dealt = np.array_split(np.random.default_rng(seed).permutation(len(groups)), 2)
        self.halves = [np.array([row for place in half for row in groups[place]], np.int64) for half in dealt]
        self.register_buffer("predictions_VC", torch.zeros(molecules, targets, dtype=torch.float64))
        self.register_buffer("best_2", torch.full((2,), _WORST, dtype=torch.float64))

    def note(
        self,
        predictions_VC: Float[np.ndarray, "molecules targets"],
        goodness: Callable[[Int[np.ndarray, "half"]], float],
    ) -> None:
        """Look at an epoch.

        Args:
            predictions_VC: predictions for the part after the epoch.
            goodness: score of given molecules of the part, larger is better; NaN = can't be said, and then the last
                epoch is taken.
        """
        for number, half in enumerate(self.halves):
            value = goodness(half)
            if math.isnan(value) or value > float(self.best_2[number]):
                other = self.halves[1 - number]
                self.best_2[number] = _WORST if math.isnan(value) else value
                self.predictions_VC[torch.from_numpy(other)] = torch.from_numpy(predictions_VC[other]).to(
                    self.predictions_VC
                )


# Learning rate by depth: the lower a layer, the less finetuning moves it.


def layer_rate(layer: int, num_layers: int, decay: float) -> float:
    r"""Multiplier of the learning rate at depth `layer`: :math:`\gamma^{L + 1 - \text{id}}`.

    Source: D&D Table 5(c), decay 0.65; the exponent is that of the public MAE finetuning recipe it repeats. Depth 0 is
    everything before the layers, `i + 1` layer `i`, `L + 1` the final norm and the head.
    """
    return float(decay ** (num_layers + 1 - layer))


def decayed_groups(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    layer_of: Callable[[str], int],
    num_layers: int,
    *,
    decay: float,
    weight_decay: float,
) -> list[dict[str, object]]:
    """AdamW groups, one per depth and kind; one-dimensional parameters (biases, norms) are not decayed.

    Args:
        named_parameters: what to train.
        layer_of: depth of a parameter by its name, 0 to `num_layers + 1`.
        num_layers: L.
        decay: 0.65 in the paper; 1 gives one rate to all.
        weight_decay: weight decay of the matrices.

    Returns:
        Groups with `params`, `weight_decay` and `multiplier`, lowest depth first.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in named_parameters:
        if parameter.requires_grad:
            groups.setdefault((layer_of(name), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if is_matrix else 0.0,
            "multiplier": layer_rate(layer, num_layers, decay),
        }
        for (layer, is_matrix), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


# The supervised objective: losses of values and classes on scaled targets, judged in raw units on whole parts.


class SupervisedObjective(Objective):
    """Finetunes a whole network on labels; selects by the best validation epoch (OGB's convention).

    Args:
        network: student, pooling and head; all of it is trained.
        source: graphs of all molecules.
        targets_BC: labels in raw units, a row per molecule of `source`; NaN = missing.
        targets: kind and scale of each target, the scale from the training part.
        partition: positions in `source` of each part.
        balanced: the loss is the mean over targets, not over labels, and selects the epoch: a mean of metrics of
            several kinds and units would say nothing.
        loop: settings of the run.
        identities: for each molecule of the validation part what tells it from others; its rows stay in one half of
            what `HalfChoice` compares. Empty = all are different.
        layer_decay: learning rate multiplier per layer, see `layer_decay.py`.
        class_weights: let the classes of a target weigh the same in the loss, however rare they are.
        value_loss: loss for values.
        select_by_loss: the validation loss chooses the epoch, whatever the metrics say.
        sides_BC: 1 or -1 where a label is a limit and the truth is above or below it; None = all are exact. A
            prediction beyond a limit, on the side of the truth, costs nothing; one on the other side costs what it
            would cost if the limit were the label (a hinge). Limits judge nothing.
    """

    def __init__(
        self,
        network: PropertyNetwork,
        source: MoleculeSource,
        targets_BC: Float[np.ndarray, "molecules targets"],
        targets: Sequence[Target],
        partition: Split,
        balanced: bool,
        loop: LoopConfig,
        layer_decay: float,
        class_weights: bool = False,
        value_loss: ValueLoss = DEFAULT_LOSS,
        select_by_loss: bool = False,
        identities: Sequence[str] = (),
        sides_BC: Int[np.ndarray, "molecules targets"] | None = None,
    ) -> None:
        super().__init__()
        self.sides_BC = None if sides_BC is None else torch.from_numpy(sides_BC)
        self.network, self.source, self.partition, self.balanced = network, source, partition, balanced
        self.bf16_devices = network.student.bf16_devices
        self.loop, self.layer_decay, self.value_loss = loop, layer_decay, value_loss
        exact_BC = targets_BC if sides_BC is None else np.where(sides_BC == 0, targets_BC, np.nan)
        self.targets_BC, self.targets = exact_BC, list(targets)
        self.names, self.kinds = [target.name for target in targets], [target.kind for target in targets]
        self.groups, self.is_class_C = groups_of(targets), torch.tensor([kind != "regression" for kind in self.kinds])
        weights_2C = balanced_weights(torch.from_numpy(targets_BC[partition.train]))
        self.weights_2C = torch.where(self.is_class_C, weights_2C, 1.0).float() if class_weights else None
        scaled_BC = np.stack(
            [one.scaled(labels_B) for one, labels_B in zip(targets, targets_BC.T, strict=True)], axis=1
        )
        self.scaled_BC = torch.from_numpy(scaled_BC.astype(np.float32))
        main = metric_names(self.kinds)[0]
        valid_BC = exact_BC[partition.valid]
        # The accuracies of several classes move in steps, so there the validation loss chooses.
        countable = not balanced and not self.groups and not select_by_loss
        countable = countable and score(main, valid_BC, np.zeros_like(valid_BC)).value is not None
        self.best_metric = f"valid_{main}" if countable else "valid_loss"
        self.best_is_max = countable and main in LARGER_IS_BETTER
        seed = derive_seed(loop.seed, "halves")
        self.choice = HalfChoice(len(partition.valid), len(self.targets), seed, identities)

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Loss of a batch over its known labels, in scaled units."""
        outputs_BC = self.network(batch.graph).float()
        terms = self._terms(outputs_BC, self._limited(outputs_BC, batch.targets_BC, batch.rows_B))
        return StepLoss(terms.loss, terms=terms)

    def loss_of(self, outputs_BC: Tensor, rows: Int[np.ndarray, "molecules"]) -> Tensor:
        """The loss of outputs for the molecules `rows`, over known labels."""
        targets_BC = self.scaled_BC[torch.from_numpy(rows)].to(outputs_BC)
        return self._terms(outputs_BC, self._limited(outputs_BC, targets_BC, torch.from_numpy(rows))).loss

    def _limited(self, outputs_BC: Tensor, targets_BC: Tensor, rows: Tensor) -> Tensor:
        if self.sides_BC is None:
            return targets_BC
        return beyond_limits(outputs_BC, targets_BC, self.sides_BC[rows.cpu()].to(outputs_BC.device))

    def _terms(self, outputs_BC: Tensor, targets_BC: Tensor) -> Terms:
        weights_2C = None if self.weights_2C is None else self.weights_2C.to(outputs_BC)
        if self.balanced:
            is_class_C = self.is_class_C.to(outputs_BC.device)
            return balanced_terms(outputs_BC, targets_BC, is_class_C, self.groups, weights_2C, self.value_loss)
        if self.groups:
            own_K = None if weights_2C is None else weights_2C[1]
            loss, weight_BC = cross_entropy(outputs_BC, targets_BC, own_K), class_weights(targets_BC, own_K)
        elif self.kinds[0] == "regression":
            loss, weight_BC = masked_values(outputs_BC, targets_BC, self.value_loss), label_weights(targets_BC)
        else:
            loss = masked_bce(outputs_BC, targets_BC, weights_2C)
            weight_BC = label_weights(targets_BC, weights_2C)
        return Terms(loss[None], weight_BC.sum()[None])

    def plan_epoch(self, epoch: int) -> list[np.ndarray]:
        """Training rows in random batches of `batch_size`; every row once.

        Batches sorted by size would waste less padding, but few labelled molecules learn badly from them: a batch then
        has one size, and so mostly one label. Test RMSE of ESOL after 25 epochs (GINE, batch 32, seeds 1 and 2): 0.95
        and 1.00 from random batches, 1.14 and 1.23 sorted within 4 batches, 1.63 sorted as a whole (seed 1). So only
        `max_tokens`, for large sets, sorts.
        """
        train = self.partition.train
        sizes = self.source.atom_counts[train] + 2 * self.source.bond_counts[train] + 2
        batch_size = None if self.loop.max_tokens else self.loop.batch_size
        batches = plan_batches(
            sizes,
            batch_size=batch_size,
            max_tokens=self.loop.max_tokens,
            seed=self.loop.seed,
            epoch=epoch,
            pool=DEFAULT_POOL if self.loop.max_tokens else self.loop.batch_size,
        )
        return [train[rows] for rows in batches]

    def load_batch(self, rows: np.ndarray, epoch: int) -> MoleculeBatch:
        """Graphs and scaled targets of `rows`."""
        return replace(self.source.read(rows), targets_BC=self.scaled_BC[torch.from_numpy(rows)])

    def evaluate(self) -> dict[str, float]:
        """Metrics of the validation and test parts as `judge_targets` has them, and the validation loss.

        Undefined metrics are left out. The test numbers are for the learning curve; nothing is selected by them.
        """
        valid, test = self.partition.valid, self.partition.test
        outputs = run_over(self.network, self.network.student, self.source, np.concatenate([valid, test]))
        if not np.isfinite(outputs).all():
            raise NonFiniteError("predictions of the validation part are not finite", next_step="Lower learning_rate")
        loss = self.loss_of(torch.from_numpy(outputs[: len(valid)]), valid)
        found = {"valid_loss": float(loss)}
        raw_BC = to_raw_units(outputs, self.targets)
        self.choice.note(raw_BC[: len(valid)], partial(self._goodness, outputs[: len(valid)], raw_BC[: len(valid)]))
        for part, rows, predictions_BC in (
            ("valid", valid, raw_BC[: len(valid)]),
            ("test", test, raw_BC[len(valid) :]),
        ):
            judged = judge_targets(self.targets, self.targets_BC[rows], predictions_BC)
            for name in metric_names(self.kinds):
                if judged[name] is not None:
                    found[f"{part}_{name}"] = judged[name]
        return found

    def _goodness(self, outputs_VC: np.ndarray, raw_VC: np.ndarray, half: np.ndarray) -> float:
        """By what selects the epoch, larger is better; NaN where it is not defined for so few molecules."""
        rows = self.partition.valid[half]
        if self.best_metric == "valid_loss":
            return -float(self.loss_of(torch.from_numpy(outputs_VC[half]), rows))
        labels_VC, values_VC = (on_learned_scale(self.targets, one) for one in (self.targets_BC[rows], raw_VC[half]))
        found = score(metric_names(self.kinds)[0], labels_VC, values_VC).value
        return math.nan if found is None else found if self.best_is_max else -found

    def of_the_run(self) -> dict[str, Tensor]:
        """What the halves of the validation part chose."""
        return {f"choice.{name}": value for name, value in self.choice.state_dict().items()}

    def predict(self, rows: np.ndarray | None = None) -> Float[np.ndarray, "molecules targets"]:
        """Predictions in raw units or as probabilities, NaN for molecules that are not in `rows`; None = all."""
        rows = np.arange(len(self.source)) if rows is None else rows
        found_BC = np.full((len(self.source), len(self.targets)), np.nan)
        outputs = run_over(self.network, self.network.student, self.source, rows)
        found_BC[rows] = to_raw_units(outputs, self.targets)
        return found_BC

    def describe(self, rows: np.ndarray) -> list[str]:
        """One line per molecule."""
        return self.source.describe(rows)

    def parameter_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Groups by depth: the student says where each of its parameters lies, the head is on top."""
        student = self.network.student

        def layer_of(name: str) -> int:
            own = name.removeprefix("network.student.")
            return student.layer_of(own) if own != name else student.num_layers + 1

        return decayed_groups(
            self.named_parameters(), layer_of, student.num_layers, decay=self.layer_decay, weight_decay=weight_decay
        )
