"""Which molecules the members of a blend learn from, fold by fold, and what they see of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from dnd.chemistry.splits import Split, molecule_scaffolds, rows_of_molecules
from dnd.common.compute import numpy_generator
from dnd.common.log import LOGGER
from dnd.common.processes import processors
from dnd.finetuning.classical import FitOptions, FoldData, KeptWork
from dnd.finetuning.prepared_labels import with_groups
from dnd.finetuning.settings import Clock
from dnd.finetuning.students import Plan, initial_student
from dnd.finetuning.tasks import fit_targets, scale_labels
from dnd.models.students.base import Student
from dnd.models.students.encoders import RANDOM, LearnedLabels, PropertyHeads, load_heads, load_learned_labels
from dnd.predictor.applicability_domain import similarity_out_of_fold
from dnd.predictor.classical.features import FIRST_SETS, Layout, features_of
from dnd.predictor.ensemble import FrozenEncoder
from dnd.predictor.targets import TaskKind

# Folds for predictions out of fold: whole scaffolds, so that a member is judged on molecules unlike its own.


LIMIT_SHARE = 0.5  # of a fold: a scaffold that fills more of it is split, or one fold would hold half of the molecules


def scaffold_folds(
    smiles: Sequence[str], folds: int, seed: int, identities: Sequence[str] = ()
) -> Int[np.ndarray, "molecules"]:
    """The fold of each molecule, from 0; the folds are about equally large.

    Scaffolds are dealt out whole, the largest first, each to the smallest fold so far. Molecules without rings share no
    scaffold: each counts for itself, and so do the molecules of a scaffold that would fill half a fold or more. Rows of
    one molecule are never apart: what is predicted out of fold would come from a model that knows the copy.

    Args:
        smiles: SMILES of all rows.
        folds: at most the number of molecules.
        seed: random seed of the order among equally large scaffolds.
        identities: identities of the molecules; empty = every row is a molecule of its own.
    """
    known: Sequence[Hashable] = identities or range(len(smiles))
    scaffolds = molecule_scaffolds(smiles, identities)
    groups = rows_of_molecules(scaffold or own for scaffold, own in zip(scaffolds, known, strict=True))
    largest = max(1, int(LIMIT_SHARE * len(smiles) / folds))
    pieces = [rows for rows in groups if len(rows) <= largest]
    for rows in (rows for rows in groups if len(rows) > largest):
        pieces += [[rows[place] for place in own] for own in rows_of_molecules(known[row] for row in rows)]
    shuffled = [pieces[place] for place in numpy_generator(seed, "blend folds").permutation(len(pieces))]
    fold_B, sizes = np.empty(len(smiles), np.int64), [0] * folds
    for piece in sorted(shuffled, key=len, reverse=True):
        smallest = sizes.index(min(sizes))
        fold_B[piece] = smallest
        sizes[smallest] += len(piece)
    return fold_B


# Which molecules the members of a blend learn from, and what they see of them.


LEAST_ROC_AUC = 0.8  # of a class on held-out molecules; weaker ones are many and add nothing
LIMIT_LEARNED = 0.05  # of the development or of the test molecules, of which a head may know the answer
FEWEST_JUDGED, FEWEST_OF_A_CLASS = 100, 5  # labels by which weights and intervals are settled
_FEATURE_SHARE = 0.35  # of what is left of a time limit
_FEATURE_PILOT, _FEWEST_ROWS = 50, 200


def frozen_encoder(plan: Plan) -> tuple[FrozenEncoder | None, dict[str, float]]:
    """The encoder as it was before finetuning; None for random weights, whose representation says little.

    Beside it, for each data set whose properties the members see, the share of the test molecules that it taught.
    """
    if plan.encoder == RANDOM:
        return None, {}
    student: Student = initial_student(plan.config, plan.encoder, seed=0)
    heads, of_test = _heads(plan)
    return FrozenEncoder(student.eval(), plan.config.pooling, heads), of_test


def _heads(plan: Plan) -> tuple[PropertyHeads | None, dict[str, float]]:
    """The encoder's ready-made properties of the terms that the members see: values, and classes that it predicts well.

    A measured property is left out where its data set taught the encoder more than a few of the development molecules,
    or of the test molecules: of these the head knows the answer, which may be the very label, and of new molecules it
    does not. The test part is asked for its molecules alone, never for a label.
    """
    heads = load_heads(plan.encoder) if plan.config.blend.properties else None
    if heads is None:
        return None, {}
    of_development, of_test = _learned_shares(plan)
    shares = {name: max(share, of_test[name]) for name, share in of_development.items()}
    kept: list[int] = []
    left_out: dict[str, str] = {}
    for place, one in enumerate(heads.properties):
        is_weak = one.kind == "class" and one.scores.get("roc_auc", 0.0) < LEAST_ROC_AUC
        if one.term not in plan.config.blend.properties or is_weak:
            continue
        if one.data_set and (share := shares.get(one.data_set, 1.0)) > LIMIT_LEARNED:
            left_out[one.data_set] = f"{share:.0%}" if one.data_set in shares else "unknown"
        else:
            kept.append(place)
    if left_out:
        names = ", ".join(f"{name} ({share})" for name, share in left_out.items())
        LOGGER.info(
            f"features: left out predicted {names}: of so many of these molecules the encoder learned the label"
        )
    seen = {heads.properties[place].data_set for place in kept}
    of_test = {name: share for name, share in of_test.items() if name in seen}
    if any(of_test.values()):
        names = ", ".join(f"{name} ({share:.1%})" for name, share in of_test.items() if share)
        LOGGER.info(f"features: the encoder learned labels of some test molecules: {names}")
    return heads.kept(kept), of_test


def _learned_shares(plan: Plan) -> tuple[dict[str, float], dict[str, float]]:
    """Of the development and of the test molecules the share that each data set taught the encoder."""
    learned = load_learned_labels(plan.encoder)
    if learned is None:
        return {}, {}
    every = [every_development_row(plan.parts), np.concatenate([part.test for part in plan.parts])]
    own, test = ({plan.molecules.identities[row] for row in rows} for rows in every)
    return learned.share(own), learned.share(test) if test else dict.fromkeys(learned.sets, 0.0)


def judged_labels(
    labels_BC: Float[np.ndarray, "molecules targets"],
    kinds: Sequence[TaskKind],
    identities: Sequence[str],
    rows: Int64[np.ndarray, "rows"],
    learned: LearnedLabels | None,
) -> Float[np.ndarray, "molecules targets"]:
    """The labels by which weights, calibration and the choice among students are made; NaN = none.

    The label of a development molecule whose measured labels taught the encoder is none of them: its representation may
    hold the answer, so that the error out of fold of a member that sees it is too low. Where fewer than `FEWEST_JUDGED`
    labels of a target would be left, all are kept, and a line says so.

    Args:
        labels_BC: labels of all molecules, without limits such as `>10`.
        kinds: tasks of the targets.
        identities: identities of all molecules.
        rows: development molecules.
        learned: what the encoder learned; None = no measured label.
    """
    if learned is None:
        return labels_BC
    own = [identities[row] for row in rows]
    sets = [name for name, share in learned.share(own).items() if share > LIMIT_LEARNED]
    taught = rows[learned.knows(own, sets)]
    if not len(taught):
        return labels_BC
    without_BC = labels_BC.copy()
    without_BC[taught] = np.nan
    enough_C = np.array([_can_judge(*one) for one in zip(without_BC[rows].T, kinds, strict=True)])
    others = "the others" if enough_C.all() else "the others, of targets that have enough of them,"
    LOGGER.info(
        f"{len(taught)} of {len(rows)} molecules have measured labels that taught the encoder ({', '.join(sets)}): "
        + (f"{others} decide weights and intervals" if enough_C.any() else "their errors out of fold are too low")
    )
    return np.where(enough_C, without_BC, labels_BC)


def _can_judge(labels_B: Float[np.ndarray, "molecules"], kind: TaskKind) -> bool:
    """Whether enough labels are known, and of two classes enough of the rarer one."""
    known = labels_B[~np.isnan(labels_B)]
    rarer = min((known == 0).sum(), (known == 1).sum()) if kind == "classification" else FEWEST_OF_A_CLASS
    return len(known) >= FEWEST_JUDGED and bool(rarer >= FEWEST_OF_A_CLASS)


def feature_layout(plan: Plan, encoder: FrozenEncoder | None) -> Layout:
    """The columns that classical members see."""
    return Layout(encoder.width if encoder else 0, FIRST_SETS + plan.config.blend.fingerprints)


def rows_with_features(plan: Plan, clock: Clock, kept: KeptWork) -> Bool[np.ndarray, "molecules"]:
    """Molecules that classical members may look at: all, or as many as the limits allow, drawn at random.

    A run that is resumed takes those that it drew before. The time that is left now would draw others, and folds would
    then hold molecules that the half trained student of the fold has learned from.
    """
    before = kept.get("rows") if clock.is_limited else None
    if before is not None:
        return before[0]["rows"]
    count, limit = len(plan.molecules.smiles), plan.config.blend.classical_rows
    reason = f"classical members learn from at most {limit}"
    if clock.is_limited:
        few = [plan.molecules.smiles[row] for row in range(0, count, max(1, count // _FEATURE_PILOT))]
        started = clock.spent()
        features_of(few, None, feature_layout(plan, None), jobs=1)
        each = max(1e-4, (clock.spent() - started) / len(few))
        affordable = max(_FEWEST_ROWS, int(clock.share(_FEATURE_SHARE) / each))
        if affordable < min(count, 2 * limit):
            limit, reason = max(_FEWEST_ROWS, affordable // 2), "time limit"
    found_B = np.zeros(count, bool)
    if len(plan.parts) > 1:
        largest = max(len(development(part)) for part in plan.parts)
        pools = [(np.arange(count), limit * count // largest)]  # of these a member learns from `limit`
    else:
        (part,) = plan.parts
        pools = [(development(part), limit), (part.test, limit)]
    for number, (rows, most) in enumerate(pools):
        drawn = numpy_generator(plan.config.split_seed, "blend rows", number).permutation(len(rows))[:most]
        found_B[rows[drawn]] = True
    wanted = sum(len(rows) for rows, _ in pools)
    if found_B.sum() < wanted:
        LOGGER.info(
            f"plan: {found_B.sum()} of {wanted} molecules drawn for the classical members and the blend ({reason})"
        )
    if clock.is_limited:
        kept.put("rows", {"rows": found_B}, {})
    return found_B


def development(partition: Split) -> Int64[np.ndarray, "rows"]:
    """Molecules of the training and the validation part, ascending."""
    return np.sort(np.concatenate([partition.train, partition.valid]))


def every_development_row(parts: Sequence[Split]) -> Int64[np.ndarray, "rows"]:
    """Those that are development molecules of a partition, ascending."""
    return np.unique(np.concatenate([development(part) for part in parts]))


def fold_data(
    plan: Plan,
    partition: Split,
    x_BF: np.ndarray,
    place_B: np.ndarray,
    judged_BC: np.ndarray,
    encoder: FrozenEncoder | None,
) -> FoldData:
    """What the classical members of a partition share: folds, and the scale of the targets."""
    molecules, config = plan.molecules, plan.config
    has_features_B = place_B[development(partition)] >= 0
    rows, others = (development(partition)[which_B] for which_B in (has_features_B, ~has_features_B))
    identities = [molecules.identities[row] for row in rows]
    texts = molecules.smiles if config.standardize else molecules.texts
    num_folds = max(2, min(config.blend.folds, len(set(identities)) // 2))
    targets = fit_targets(
        scale_labels(molecules.targets_BC, rows, others),
        molecules.names,
        config.units,
        plan.tasks.kinds,
        standardise=True,
        transforms=plan.transforms,
        weight_B=molecules.weights_of(np.concatenate([rows, others])),
    )
    return FoldData(
        x_BF=x_BF,
        place_B=place_B,
        targets_BC=molecules.targets_BC,
        judged_BC=judged_BC,
        targets=tuple(with_groups(targets, molecules.groups, molecules.class_names)),
        layout=feature_layout(plan, encoder),
        rows=rows,
        folds=scaffold_folds([texts[row] for row in rows], num_folds, config.split_seed, identities),
        num_folds=num_folds,
        seed=config.loop.seed,
        identity_B=np.unique(np.asarray(molecules.identities), return_inverse=True)[1].astype(np.int64),
        options=FitOptions(
            threads=config.loop.threads or config.jobs or processors(),
            trees=config.blend.trees,
            boosting_seeds=config.blend.boosting_seeds,
            balanced=config.class_weights == "balanced",
        ),
        weight_B=molecules.weight_B,
    )


def similarity_to_training(
    smiles: Sequence[str], data: FoldData, judged: Int64[np.ndarray, "rows"]
) -> Float[np.ndarray, "molecules"]:
    """Similarity of each molecule to the nearest one that its prediction is learned from; NaN if there is none.

    Args:
        smiles: canonical, all molecules.
        data: development molecules and their folds.
        judged: molecules of the test part.
    """
    found_B = np.full(len(smiles), np.nan)
    found_B[data.rows], found_B[judged] = similarity_out_of_fold(
        [smiles[row] for row in data.rows], data.folds, [smiles[row] for row in judged]
    )
    return found_B
