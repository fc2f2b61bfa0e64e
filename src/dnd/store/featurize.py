"""SMILES to graphs in memory: the valid molecules as a store, and a reason for each of the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from jaxtyping import Int

from dnd.chemistry.molecule import MolecularGraph
from dnd.chemistry.parse import parse_smiles, without_isotopes
from dnd.common.errors import internal_reason, isolating
from dnd.common.processes import process_count
from dnd.graphs.fast.graphs import rewritten_graphs
from dnd.graphs.features import featurize
from dnd.store.reader import Store
from dnd.store.schema import HydrogenSetting, StoreRow

# SMILES to graphs, once: the in-memory cache from which every epoch and every prediction reads without parsing.


PARALLEL_FROM = 2000  # below, starting the processes costs more than it saves
_CHUNK = 512


@dataclass(frozen=True)
class Featurized:
    """One outcome of featurising: a graph with its canonical SMILES, or a reason.

    Attributes:
        graph: None where there is no molecule.
        smiles: canonical SMILES, or the text as given.
        stage: stage in which it failed; empty if it did not.
        reason: why it failed; empty when it did not.
        given: canonical SMILES of what was given, where standardization made another molecule of it.
    """

    graph: MolecularGraph | None
    smiles: str
    stage: str = ""
    reason: str = ""
    given: str = ""


def featurize_smiles(
    texts: Sequence[str], hydrogens: HydrogenSetting, *, standardize: bool = False, jobs: int = 1
) -> list[Featurized]:
    """Parse and featurise; one outcome per text, in order, never an exception.

    Args:
        texts: SMILES.
        hydrogens: a student sees explicit hydrogens with `all_both` only.
        standardize: take the largest organic part of each, neutral; see `chemistry/identity.py`.
        jobs: worker processes; used from 2,000 molecules on. 0 = one per processor.
    """
    explicit = hydrogens == "all_both"
    jobs = process_count(jobs)
    if len(texts) < PARALLEL_FROM or jobs < 2:
        return _featurize_all(texts, explicit, standardize)
    from dnd.common.workers import Rows, compute_in_copies  # small predictions need no other process

    chunks = [texts[start : start + _CHUNK] for start in range(0, len(texts), _CHUNK)]
    settings = {"explicit": explicit, "standardize": standardize}
    rows = Rows(lambda chunk: [[text] for text in chunk], _failed, lambda found: list(chain.from_iterable(found)))
    computed = compute_in_copies(f"{__name__}:featurizer", chunks, jobs=jobs, settings=settings, rows=rows)
    return list(chain.from_iterable(computed))


def _failed(row: Sequence[str], reason: str) -> list[Featurized]:
    """A molecule that kills or hangs the process that parses it."""
    return [Featurized(None, row[0], "features", f"RDKit fails at this molecule: {reason}")]


def featurizer(explicit: bool, standardize: bool) -> Callable[[Sequence[str]], list[Featurized]]:
    """The function of a chunk of texts that `featurize_smiles` shares out."""
    return partial(_featurize_all, explicit=explicit, standardize=standardize)


def as_store(molecules: Iterable[Featurized], hydrogens: HydrogenSetting) -> Store:
    """The molecules as a store in memory; all must have a graph."""
    rows = [
        StoreRow(row=number, source="memory", smiles=molecule.smiles, graph=molecule.graph)
        for number, molecule in enumerate(molecules)
        if molecule.graph is not None
    ]
    return Store.from_rows(rows, hydrogens=hydrogens)


def _featurize_all(texts: Sequence[str], explicit: bool, standardize: bool) -> list[Featurized]:
    quick = [None] * len(texts) if explicit else _rewritten(texts)
    if standardize:
        from dnd.chemistry.identity import may_change  # few models ask for it

        quick = [None if outcome is None or may_change(outcome[0]) else outcome for outcome in quick]
    return [
        Featurized(outcome[1], outcome[0]) if outcome is not None else _featurize(text, explicit, standardize)
        for text, outcome in zip(texts, quick, strict=True)
    ]


def _rewritten(texts: Sequence[str]) -> Sequence[tuple[str, MolecularGraph] | None]:
    """The quick way for those it can take; what makes it raise goes the slow way alone, and has its reason there."""
    found, _ = isolating(rewritten_graphs, texts, "")
    return found


def _featurize(text: str, explicit: bool, standardize: bool) -> Featurized:
    molecule = given = without_isotopes(parse_smiles(text))
    if standardize:
        from dnd.chemistry.identity import standard_form  # few models ask for it

        molecule = standard_form(given)
    if not molecule.ok:
        return Featurized(None, text, molecule.stage, molecule.reason)
    try:
        graph = featurize(molecule.mol, explicit_hydrogens=explicit)
        return Featurized(graph, molecule.smiles, given=given.smiles if given.ok and given is not molecule else "")
    except Exception as error:  # one row never ends a file
        return Featurized(None, text, "features", internal_reason(error))


# Texts that may be molecules → the valid ones as a store, and a reason for each of the others.


@dataclass(frozen=True)
class ValidMolecules:
    """The usable part of a list of SMILES.

    Attributes:
        store: their graphs.
        places: their positions in the list, ascending.
        smiles: their canonical SMILES.
        errors: per position of the list the reason why it can't be used; empty where it can.
        given: the canonical SMILES before standardization.
    """

    store: Store
    places: Int[np.ndarray, "valid"]
    smiles: list[str]
    errors: list[str]
    given: list[str]


def valid_molecules(
    smiles: Sequence[str], hydrogens: HydrogenSetting, jobs: int = 1, *, standardize: bool = False
) -> ValidMolecules:
    """Parse and featurise; what is not text (None, NaN of a data frame) counts as an empty SMILES."""
    texts = [text if isinstance(text, str) else "" for text in smiles]
    molecules = featurize_smiles(texts, hydrogens, standardize=standardize, jobs=jobs)
    places = np.array([place for place, one in enumerate(molecules) if one.graph is not None], dtype=np.int64)
    valid = [molecules[place] for place in places]
    reasons = [molecule.reason for molecule in molecules]
    given = [molecule.given or molecule.smiles for molecule in valid]
    return ValidMolecules(as_store(valid, hydrogens), places, [molecule.smiles for molecule in valid], reasons, given)
