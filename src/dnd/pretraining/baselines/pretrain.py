"""Store → ENCODER folder by one of the further baselines of the QM9 table: GraphCL, ProPred, DisPred or ConfGen.

The first three are here: pretraining on two views of a graph, on a property, or on distances of atoms.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from dnd.common.compute import torch_generator
from dnd.common.config import look_up, to_dict
from dnd.common.errors import InputError
from dnd.graphs.batch import GraphBatch, MoleculeBatch, atom_pairs, padding_index
from dnd.models.students.encoders import build_student
from dnd.pretraining.baselines.confgen import ConfGenObjective
from dnd.pretraining.baselines.infomax3d import contrastive_step
from dnd.pretraining.encoder_folder import PretrainSummary, finished_before, seal_encoder
from dnd.pretraining.heads import LabelHead, ProjectionHead
from dnd.pretraining.objective import PretrainingObjective, initial_weights, require_conformers
from dnd.pretraining.settings import PretrainConfig
from dnd.store.reader import Store
from dnd.training.distributed import run_lock
from dnd.training.loop import train
from dnd.training.settings import StepLoss

# GraphCL (You et al., NeurIPS 2020): two copies of a graph, each with some atoms dropped, should look alike.

DROPPED_SHARE = 0.2
TEMPERATURE = 0.1


def drop_atoms(graph: GraphBatch, share: float, generator: torch.Generator) -> GraphBatch:
    """Every molecule without a random `share` of its atoms, rounded down, and without their bonds.

    Args:
        graph: B molecules on any device.
        share: share of the atoms of each molecule, 0 to below 1, so at least one stays.
        generator: on the CPU, so that a device does not change the draw.
    """
    batch_N, size_B = graph.batch_N, graph.atoms_per_molecule_B
    chance_N = torch.rand(len(batch_N), generator=generator).to(batch_N.device)
    order_N = (batch_N + chance_N.double()).argsort()  # by molecule, random within it
    rank_N = torch.arange(len(batch_N), device=batch_N.device) - graph.atom_offsets[batch_N]
    kept_N = torch.empty_like(batch_N, dtype=torch.bool)
    kept_N[order_N] = rank_N >= (size_B * share).long()[batch_N]
    return subgraph(graph, kept_N)


def subgraph(graph: GraphBatch, kept_N: Bool[Tensor, "atoms"]) -> GraphBatch:
    """The atoms with `kept_N` and the bonds between them, renumbered; every molecule stays, in the same order."""
    number_N = kept_N.cumsum(0) - 1
    kept_E = kept_N[graph.edge_index_2E].all(dim=0)
    return GraphBatch(
        graph.node_features_NF[kept_N],
        number_N[graph.edge_index_2E[:, kept_E]],
        graph.edge_features_EF[kept_E],
        _offsets(graph.batch_N[kept_N], graph.num_molecules),
        _offsets(graph.edge_batch_E[kept_E], graph.num_molecules),
    )


def _offsets(molecule_X: Tensor, num_molecules: int) -> Tensor:
    counts_B = torch.bincount(molecule_X, minlength=num_molecules)
    return torch.cat([counts_B.new_zeros(1), counts_B.cumsum(0)])


class GraphCLObjective(PretrainingObjective):
    """GraphCL with atom dropping, as the QM9 table of 3DInfomax runs it.

    Source: You et al., "Graph Contrastive Learning with Augmentations"; 20 % of the atoms of both copies, τ = 0.1 and
    the NT-Xent of `infomax3d.py` as in the public code of 3DInfomax.

    Args:
        store: molecules; no conformers are read.
        config: settings of the run.
    """

    def __init__(self, store: Store, config: PretrainConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction, contrastive=True)
        self.require_pairs()
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.head = ProjectionHead(self.student, config.out_width, config.readout)

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """NT-Xent of two copies whose dropped atoms follow from `seed`."""
        views = []
        for copy in range(2):
            graph = drop_atoms(batch.graph, DROPPED_SHARE, torch_generator(seed, "dropped atoms", copy))
            views.append(self.head(self.student(graph), graph).float())
        return contrastive_step(views[0], views[1], TEMPERATURE, gather=self.training)


# ProPred: supervised pretraining on a property that many molecules have, as the QM9 table of 3DInfomax runs it.


class ProPredObjective(PretrainingObjective):
    """L1 on one target column, in standard deviations of the training labels.

    Source: the baseline of that name in Stärk et al., 3DInfomax (ICML 2022). Theirs is the Gibbs free energy that
    comes with GEOM-Drugs; ours is the column `target` of the store, such as `u0_atom` or `g4mp2_atomization`.

    Args:
        store: molecules with the labels.
        config: settings of the run.

    Raises:
        InputError: the store has no such column, or nothing to learn in it.
    """

    def __init__(self, store: Store, config: PretrainConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        assert config.target is not None  # the settings see to it
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.head = LabelHead(
                self.student, store, config.target, self.train_rows.sample(), self.holdout_rows, config.readout
            )

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Mean absolute error; `parts` has that of predicting the training mean, and the error in the column's unit."""
        error, constant, count = self.head(self.student(batch.graph), batch)
        parts = {"loss_of_the_mean": constant, "mae": error.detach() * self.head.deviation}
        return StepLoss(error, parts, torch.tensor(float(count)))


# DisPred: predict the distance of every pair of atoms from the 2D graph.


NUM_HEADS = 2
_MEDIAN_MOLECULES = 2000  # 300 pairs each are enough for a median


class DistanceHead(nn.Module):
    r"""One transformer layer over the atoms of a molecule, then a symmetric function of two atom states.

    .. math:: \hat d_{ij} = \operatorname{softplus}\bigl(f([h_i, h_j]) + f([h_j, h_i])\bigr)

    Source: the baseline "distance prediction" of Stärk et al., 3DInfomax (ICML 2022): a transformer layer with two
    heads, then an MLP on concatenated atom states, made symmetric.

    Args:
        width: width of the student, even.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(width, NUM_HEADS, 2 * width, dropout=0.0, batch_first=True)
        self.network = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(
        self, atoms_ND: Float[Tensor, "atoms dim"], graph: GraphBatch, pairs_2P: Int[Tensor, "2 pairs"]
    ) -> Float[Tensor, "pairs"]:
        """Distance in angstrom of every pair in `pairs_2P`, numbered over the batch."""
        index_Bn, real_Bn = padding_index(graph.atom_offsets)
        attended_BnD = self.attention(atoms_ND[index_Bn], src_key_padding_mask=~real_Bn)
        states_ND = attended_BnD[real_Bn]
        first_PD, second_PD = states_ND[pairs_2P[0]], states_ND[pairs_2P[1]]
        both = self.network(torch.cat([first_PD, second_PD], 1)) + self.network(torch.cat([second_PD, first_PD], 1))
        return nn.functional.softplus(both[:, 0].float())


def distance_loss(predicted_P: Float[Tensor, "pairs"], distance_P: Float[Tensor, "pairs"]) -> Float[Tensor, ""]:
    r""":math:`\frac{1}{P} \sum_p |\hat d_p - d_p|`, the mean absolute error in angstrom; 0 where there is no pair."""
    return (predicted_P - distance_P).abs().sum() / max(len(predicted_P), 1)


class DisPredObjective(PretrainingObjective):
    """L1 on the distances of all pairs of graph atoms of each molecule.

    Args:
        store: molecules with conformers.
        config: settings of the run.

    Attributes:
        median: median distance of the training pairs, angstrom.

    Raises:
        InputError: the store has no conformers, or its training or held-out molecules have no pair of atoms.
    """

    def __init__(self, store: Store, config: PretrainConfig) -> None:
        super().__init__(store, config.loop, config.holdout_fraction)
        require_conformers(store)
        rows = self.train_rows.sample()
        distance_P = distances(store.read(rows[:: -(-len(rows) // _MEDIAN_MOLECULES)]))[1]
        if not len(distance_P) or store.atom_counts[self.holdout_rows].max() < 2:
            raise InputError(
                "no distance to learn, or none to judge by",
                found="only single atoms among the training or the held-out molecules",
                next_step="Use more molecules or raise holdout_fraction",
            )
        self.median = float(distance_P.median())
        with initial_weights(config.loop.seed):
            self.student = build_student(config.student)
            self.head = DistanceHead(self.student.width)

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        """Mean absolute error in angstrom; `parts` has that of one constant, the median of the training pairs."""
        pairs_2P, distance_P = distances(batch)
        predicted_P = self.head(self.student(batch.graph).atoms_ND, batch.graph, pairs_2P)
        loss = distance_loss(predicted_P, distance_P)
        parts = {"loss_of_the_median": distance_loss(torch.full_like(distance_P, self.median), distance_P)}
        return StepLoss(loss, parts, torch.tensor(float(len(distance_P))))


def distances(batch: MoleculeBatch) -> tuple[Int[Tensor, "2 pairs"], Float[Tensor, "pairs"]]:
    """Every unordered pair of graph atoms of a molecule, numbered over the batch, and its distance in angstrom."""
    assert batch.conformers is not None
    pairs_2P = atom_pairs(batch.graph.atom_offsets)
    positions_N3 = batch.conformers.positions_A3[batch.conformers.graph_atoms_N]
    return pairs_2P, (positions_N3[pairs_2P[0]] - positions_N3[pairs_2P[1]]).norm(dim=1)


# The run, whichever of the four is chosen.

METHODS: dict[str, Callable[[Store, PretrainConfig], PretrainingObjective]] = {
    "graphcl": GraphCLObjective,
    "propred": ProPredObjective,
    "dispred": DisPredObjective,
    "confgen": ConfGenObjective,
}


def pretrain(
    store: Store | Path | str,
    out: Path | str,
    config: PretrainConfig | None = None,
    *,
    resume: bool = False,
) -> PretrainSummary:
    """Pretrain a student by GraphCL, ProPred, DisPred or ConfGen; all heads are dropped at the end.

    Args:
        store: a store or its folder; with conformers for `dispred` and `confgen`, with labels for `propred`.
        out: the ENCODER folder.
        config: settings; the defaults of `PretrainConfig` when None.
        resume: continue an interrupted run with the same settings.

    Raises:
        ConfigError: there is no such method.
        InputError: the store lacks what the method needs, or `out` holds something else.

    Example:
        >>> pretrain("qm9-store", "encoder", PretrainConfig(method="dispred"))  # doctest: +SKIP
    """
    config, out = config or PretrainConfig(), Path(out)
    if (summary := finished_before(out, resume=resume)) is not None:
        return summary
    store = store if isinstance(store, Store) else Store.open(store)
    objective = look_up(METHODS, config.method, "method")(store, config)
    with run_lock(out):
        return finished_before(out, resume=resume) or _pretrain(objective, out, config, resume)


def _pretrain(objective: PretrainingObjective, out: Path, config: PretrainConfig, resume: bool) -> PretrainSummary:
    """`pretrain` in a folder that is ours alone."""
    settings = {"store": objective.store.fingerprint, "settings": to_dict(config)}
    title = f"pretrain {config.method}"
    result = train(objective, config.loop, out, resume=resume, settings=settings, title=title, held=True)
    description = {"stage": "pretrain", "method": config.method, "settings": to_dict(config)}
    card = [
        f"A 2D student pretrained by the baseline `{config.method}`; its heads are dropped.",
        "",
        *(f"- {name.replace('_', ' ')}: {value:.4g}" for name, value in result.best.items()),
    ]
    return seal_encoder(out, objective.student, objective, result, description, card)
