"""One record to one row of the store, or the reason why not; runs in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from rdkit import Chem

from dnd.chemistry.identity import connectivity_key
from dnd.chemistry.molecule import Conformers, Molecule
from dnd.chemistry.parse import parse_smiles, without_isotopes
from dnd.common.workers import Failure, Work
from dnd.conformers.atom_matching import Misfit, Placed, place
from dnd.conformers.generate import Generated, generate_conformers
from dnd.conformers.records import Record
from dnd.graphs.features import featurize
from dnd.store.auxiliary import CALCULATE
from dnd.store.schema import ConformerSource, HydrogenSetting, Reject, StoreRow
from dnd.store.settings import PrepareConfig
from dnd.store.writer import geometry_problem, row_problem

_BLOCK = 32  # records that are sent to another machine together: from 0.05 s of work to a minute


@dataclass(frozen=True, kw_only=True)
class Conversion(Work):
    """Records to rows or rejects, each with its connectivity key.

    Attributes:
        calculates: whether quantum values are calculated where a record has none.
    """

    calculates: bool = False

    @classmethod
    def of(cls, config: PrepareConfig, *, connectivity: bool) -> Conversion:
        """The conversion of a run.

        Args:
            config: its settings, resolved.
            connectivity: compute the connectivity keys too.
        """
        settings = {
            "hydrogens": config.hydrogens,
            "conformers": config.conformers,
            "num_conformers": config.num_conformers,
            "seed": config.seed,
            "connectivity": connectivity,
            "auxiliary": config.auxiliary,
            "quantum": bool(config.quantum),
        }
        calculates = CALCULATE in config.quantum
        return cls(
            function=f"{__name__}:make_converter",
            settings=settings,
            timeout_s=config.timeout_s,
            block=_BLOCK,
            packages=("rdkit", "numpy", *(["tblite"] if calculates else [])),
            calculates=calculates,
        )

    def recovered(self, item: Record, failure: Failure) -> tuple[StoreRow | Reject, str]:
        """The row of a record that a worker failed at, without its quantum values, or a reject of stage `worker`."""
        result: tuple[StoreRow | Reject, str] | Failure = failure
        if self.calculates and item.quantum is None:
            # The calculation may be what took too long, or died: the molecule is kept without it.
            with self.pool() as pool:
                result = next(pool.map([replace(item, quantum=failure.reason)]))
        if isinstance(result, Failure):
            return Reject(item.row, item.source, "".join(item.smiles[:1]), "worker", result.reason), ""
        return result


def keys_of_records(timeout_s: float) -> Work:
    """The work of `key_of_record`, with seconds for each; a record that fails has a `Failure`."""
    return Work(function=f"{__name__}:key_of_record", timeout_s=timeout_s, block=_BLOCK)


def make_converter(
    hydrogens: HydrogenSetting,
    conformers: ConformerSource,
    num_conformers: int,
    seed: int,
    connectivity: bool,
    auxiliary: Sequence[str] = (),
    quantum: bool = False,
) -> Callable[[Record], tuple[StoreRow | Reject, str]]:
    """The function that worker processes run on each record.

    Args:
        hydrogens: which hydrogens are explicit.
        conformers: no conformers, those of the input, or generated ones.
        num_conformers: K, for generated ones.
        seed: the run's seed.
        connectivity: compute the connectivity key too.
        auxiliary: names of auxiliary columns to compute.
        quantum: make the quantum columns.

    Returns:
        A function from a record to its row, or the reason why there is none, and its connectivity key, empty
        unless asked for.
    """
    further = _auxiliary_maker(auxiliary)
    electrons = _quantum_maker(quantum)

    def convert(record: Record) -> tuple[StoreRow | Reject, str]:
        def reject(stage: str, reason: str, smiles: str = "") -> tuple[Reject, str]:
            return Reject(record.row, record.source, smiles or "".join(record.smiles[:1]), stage, reason), ""

        if record.problem is not None:
            return reject("read", record.problem)
        placed = _molecule(record) if conformers != "file" else place(record)
        if isinstance(placed, Misfit):
            return reject(placed.stage, placed.reason, placed.smiles)
        molecule = placed.molecule
        made = _conformers(placed, hydrogens, conformers, num_conformers, seed, record)
        if isinstance(made, str):
            return reject("conformer", made, molecule.smiles)
        full, method = made
        explicit = hydrogens == "all_both"
        graph = featurize(molecule.mol, explicit_hydrogens=explicit)
        row = StoreRow(
            row=record.row,
            source=record.source,
            smiles=molecule.smiles,
            graph=graph,
            conformers=_wanted_atoms(full, hydrogens, molecule.mol.GetNumAtoms()),
            conformer_method=method,
            targets=np.array(record.targets, dtype=np.float32),
            auxiliary=further(molecule.mol, full, explicit),
        )
        problem = row_problem(row, hydrogens)
        if problem is not None:
            return reject("check", problem, molecule.smiles)
        columns, failure = electrons(record, placed, graph, full, explicit_hydrogens=explicit)
        row = replace(row, auxiliary={**row.auxiliary, **columns}, quantum_failure=failure)
        return row, connectivity_key(molecule.mol) if connectivity else ""

    return convert


def _auxiliary_maker(
    names: Sequence[str],
) -> Callable[[Chem.Mol, Conformers | None, bool], dict[str, np.ndarray]]:
    """What gives a molecule its auxiliary columns; RDKit's descriptors are loaded only where some are wanted."""
    if not names:
        return lambda mol, full, explicit: {}
    from dnd.store.auxiliary import auxiliary_values

    return lambda mol, full, explicit: auxiliary_values(
        names, mol, None if full is None else full.positions_JA3[0], explicit_hydrogens=explicit
    )


def _quantum_maker(wanted: bool) -> Callable[..., tuple[dict[str, np.ndarray], str | None]]:
    """`quantum_columns`, or what makes no column where none are wanted."""
    if not wanted:
        return lambda record, placed, graph, full, explicit_hydrogens: ({}, None)
    from dnd.store.auxiliary import quantum_columns

    return quantum_columns


def key_of_record(record: Record) -> str | Reject:
    """`connectivity_key` of a record of any layout, or why there is no molecule."""
    if record.problem is not None:
        return Reject(record.row, record.source, "".join(record.smiles[:1]), "read", record.problem)
    placed = _molecule(record)
    if isinstance(placed, Misfit):
        return Reject(record.row, record.source, placed.smiles, placed.stage, placed.reason)
    return connectivity_key(placed.molecule.mol)


def _molecule(record: Record) -> Placed | Misfit:
    """The molecule of a record whose own coordinates, if any, are not wanted, as models see it."""
    problem = None
    for text in record.smiles:
        outcome = without_isotopes(parse_smiles(text))
        if isinstance(outcome, Molecule):
            return Placed(outcome, np.empty(0, dtype=np.int64))
        problem = problem or Misfit("parse", outcome.reason, text)
    return problem or place(record)


def _conformers(
    placed: Placed, hydrogens: HydrogenSetting, source: ConformerSource, num_conformers: int, seed: int, record: Record
) -> tuple[Conformers | None, str] | str:
    """Conformers with all the atoms that there are, and how they were made; or why there are none."""
    if source == "none":
        return None, "none"
    heavy = placed.molecule.mol.GetNumAtoms()
    hidden = sum(atom.GetTotalNumHs() for atom in placed.molecule.mol.GetAtoms())
    if source == "file":
        if placed.positions_A3 is None:
            return "no 3D coordinates; --conformers etkdg makes some"
        numbers_A, positions_JA3, method = placed.atomic_numbers_A, placed.positions_A3[None], record.method
    else:
        elements = [atom.GetAtomicNum() for atom in placed.molecule.mol.GetAtoms()]
        numbers_A = np.array(elements + [1] * hidden, dtype=np.int64)
        generated = _sound(record.generated_JA3, record.method, placed.molecule)
        if not isinstance(generated, Generated):  # RDKit does what was not done beforehand, or not well
            made = generate_conformers(placed.molecule, num_conformers, seed, relax=source == "etkdg")
            generated = made if isinstance(made, str) else _sound(made.positions_JA3, made.method, placed.molecule)
        if isinstance(generated, str):
            return generated
        positions_JA3, method = generated.positions_JA3, generated.method
    if heavy < len(numbers_A) < heavy + hidden:
        found = f"{len(numbers_A) - heavy} of {hidden} hydrogens have coordinates"
        return f"{found}: a charge, a radical or a hydrogen may be lost"
    if hydrogens != "heavy_both" and len(numbers_A) < heavy + hidden:
        return f"{len(numbers_A) - heavy} of {hidden} hydrogens have coordinates; --hydrogens heavy_both needs none"
    return Conformers(numbers_A.astype(np.int64), positions_JA3), method


def _sound(
    positions_JA3: Float[np.ndarray, "conformers atoms 3"] | None, method: str, molecule: Molecule
) -> Generated | str:
    """The generated conformers whose bonds are possible; what is wrong with the first where none is."""
    if positions_JA3 is None:
        return "no conformer was generated"
    graph = featurize(molecule.mol, explicit_hydrogens=True)
    if positions_JA3.shape[1] != graph.num_atoms:
        return f"{positions_JA3.shape[1]} atoms were generated of {graph.num_atoms}"
    numbers_A = graph.node_features_NF[:, 0].astype(np.int64) + 1
    problems = [geometry_problem(positions, numbers_A, graph.bonds_U2) for positions in positions_JA3]
    if all(problems):
        return f"generated geometry is broken: {problems[0]}"
    return Generated(positions_JA3[[number for number, problem in enumerate(problems) if not problem]], method)


def _wanted_atoms(full: Conformers | None, hydrogens: HydrogenSetting, heavy: int) -> Conformers | None:
    """The atoms that the hydrogen setting wants."""
    if full is None or hydrogens != "heavy_both":
        return full
    return Conformers(full.atomic_numbers_A[:heavy], full.positions_JA3[:, :heavy])
