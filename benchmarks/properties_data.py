"""Data of `dnd-properties`: which measured and calculated values teach it, and which molecules judge it.

Apart from `properties.py`, which trains, for it is what a reader of the card asks about first: where labels come from,
how they are split, and what is left out. A molecule that judges one property, or that is in
`data/held_out_molecules.txt.gz`, teaches none, whatever its spelling and stereochemistry (connectivity block of the
InChIKey). A molecule of the validation part of one property may teach another, but nothing says its own value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dnd.chemistry.identity import connectivity_key, molecule_identity
from dnd.chemistry.parse import parse_smiles, read_smiles
from dnd.common.compute import numpy_generator
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.store.schema import HydrogenSetting
from dnd.tables.molecules import as_molecules, key_digest, read_key_list

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT = ROOT / "data" / "held_out_molecules.txt.gz"
POOL = ROOT / "src" / "dnd" / "data" / "druglike.smi.gz"
ENCODER = "dnd-base"
HYDROGENS: HydrogenSetting = "teacher_all_student_heavy"
FOREST_ROWS, FOREST_CALCULATED = 3_000, 1_500
"""Training molecules that a forest learns from at most, of measured and of calculated properties."""
FEWEST_ROWS, MOST_REPEATS = 3_000, 3
"""A set with fewer training molecules is taught several times in an epoch, up to so often."""
PARTS = ("train", "valid", "test")
XTB, DFT = "xtb", "qm9"
SMALL_MOLECULES = 9
"""Heavy atoms of the largest molecules of QM9."""


@dataclass(frozen=True)
class Property:
    """A column of `dnd-properties`.

    Attributes:
        name: of the output column.
        source: data set of `data/`, `xtb` or `qm9`.
        column: of the labels of that source.
        title: what it is, in a few words.
        unit: of the value; empty for a class or a ratio.
        kind: of the target.
        bad_at: one sentence for the card.
    """

    name: str
    source: str
    column: str
    title: str
    unit: str = ""
    kind: Literal["regression", "classification"] = "regression"
    bad_at: str = ""


def _tox21(column: str, assay: str) -> Property:
    name = "tox21_" + column.lower().replace("-", "_")
    bad = "Rare actives and one cell assay: a low probability is not safety."
    return Property(name, "tox21", column, f"Tox21: active, {assay}", kind="classification", bad_at=bad)


def _xtb(name: str, title: str, unit: str, bad_at: str) -> Property:
    return Property(name, XTB, name, title, unit, bad_at=bad_at)


_SOLVENTS = "A calculation with ALPB on one conformer, not a measurement; ions and zwitterions."
_ORBITALS = "GFN2-xTB's orbital energies, not those of DFT and not measured potentials; long conjugated systems."
PROPERTIES: tuple[Property, ...] = (
    Property("solubility", "esol", "measured log solubility in mols per litre", "solubility in water", "log10(mol/L)",
             bad_at="Salts and ionised drugs; ESOL has few molecules above 400 g/mol."),
    Property("logd", "lipo", "exp", "octanol-water distribution at pH 7.4", "log10",
             bad_at="Drug-like molecules of one company only; unusual acids and bases."),
    Property("logp", "logp", "logP", "octanol-water partition of the neutral form", "log10",
             bad_at="Permanently charged molecules and metal complexes."),
    Property("hydration_free_energy", "freesolv", "expt", "hydration free energy", "kcal/mol",
             bad_at="Anything larger than some 20 heavy atoms: few hundred small molecules taught it."),
    Property("boiling_point", "bp", "bp_C", "boiling point at 1 atm", "°C",
             bad_at="Salts, and molecules that decompose first."),
    Property("melting_point", "mp", "mp_C", "melting point", "°C",
             bad_at="Crystal packing and polymorphs, which no graph shows; salts."),
    Property("refractive_index", "ri", "refractive_index", "refractive index, sodium D line, about 20 °C", "",
             bad_at="Solids and drug-like molecules: liquids of some 5 to 15 heavy atoms taught it."),
    Property("blood_brain_barrier", "bbbp", "p_np", "passes the blood-brain barrier", kind="classification",
             bad_at="Active transport and efflux; three in four molecules of the data pass, so most are called so."),
    Property("fda_approved", "clintox", "FDA_APPROVED", "approved by the FDA, against failed for toxicity",
             kind="classification", bad_at="Says how like a drug a molecule is, not whether it would be approved."),
    Property("clinical_toxicity", "clintox", "CT_TOX", "failed clinical trials for toxicity", kind="classification",
             bad_at="Few toxic molecules taught and judged it; says nothing of doses."),
    Property("hiv_inhibition", "hiv", "HIV_active", "inhibits HIV replication in cells", kind="classification",
             bad_at="One screen of the 1990s; new mechanisms."),
    Property("bace1_inhibition", "bace", "Class", "inhibits beta-secretase 1", kind="classification",
             bad_at="Chemical series unlike those of the data, which are inhibitors throughout."),
    _tox21("NR-AR", "androgen receptor"),
    _tox21("NR-AR-LBD", "androgen receptor, ligand-binding domain"),
    _tox21("NR-AhR", "aryl hydrocarbon receptor"),
    _tox21("NR-Aromatase", "aromatase"),
    _tox21("NR-ER", "oestrogen receptor"),
    _tox21("NR-ER-LBD", "oestrogen receptor, ligand-binding domain"),
    _tox21("NR-PPAR-gamma", "PPAR gamma"),
    _tox21("SR-ARE", "oxidative stress"),
    _tox21("SR-ATAD5", "genotoxicity"),
    _tox21("SR-HSE", "heat shock"),
    _tox21("SR-MMP", "mitochondrial membrane potential"),
    _tox21("SR-p53", "p53"),
    _xtb("solvation_water", "solvation free energy in water, GFN2-xTB", "kcal/mol", _SOLVENTS),
    _xtb("solvation_octanol", "solvation free energy in octanol, GFN2-xTB", "kcal/mol", _SOLVENTS),
    _xtb("solvation_hexane", "solvation free energy in hexane, GFN2-xTB", "kcal/mol", _SOLVENTS),
    _xtb("homo", "energy of the highest occupied orbital, GFN2-xTB", "eV", _ORBITALS),
    _xtb("lumo", "energy of the lowest empty orbital, GFN2-xTB", "eV", _ORBITALS),
    _xtb("gap", "gap between both orbitals, GFN2-xTB", "eV", _ORBITALS),
    _xtb("dipole", "dipole moment of one conformer, GFN2-xTB", "debye",
         "Flexible molecules: it hangs on the conformer."),
    Property("polarisability", DFT, "alpha", "isotropic polarisability, B3LYP/6-31G(2df,p)", "bohr³",
             bad_at="For molecules of at most 9 heavy atoms of C, N, O only."),
    Property("heat_capacity", DFT, "cv", "heat capacity at 298 K, gas, B3LYP/6-31G(2df,p)", "cal/(mol K)",
             bad_at="For molecules of at most 9 heavy atoms of C, N, O only."),
)  # fmt: skip
MEASURED = tuple(dict.fromkeys(one.source for one in PROPERTIES if one.source in BENCHMARKS))
_LICENCES = {
    XTB: "calculated for this package (MIT); structures: QM9 (CC0), ChEMBL, ZINC, MOSES and MUV lists",
    DFT: "QM9 (CC0)",
}
_TITLES = {XTB: "GFN2-xTB on conformers", DFT: "QM9"}


def data_of(source: str) -> tuple[str, str]:
    """Name and licence of a source, for the card."""
    if source in BENCHMARKS:
        return BENCHMARKS[source].paper_name, BENCHMARKS[source].licence
    return _TITLES[source], _LICENCES[source]


@dataclass
class Molecules:
    """Molecules by canonical SMILES, with what is known of them; a row per molecule, a column per property.

    Attributes:
        smiles: canonical.
        keys: digest of the connectivity of each.
        labels_BC: measured or calculated values; NaN = none.
        part_BC: 0 = no label, 1 = training, 2 = validation, 3 = test part of the property.
        pooled_B: whether it is of the pool of molecules without labels.
        calculated_B: whether it is there for its calculated values alone.
    """

    smiles: list[str]
    keys: list[str]
    labels_BC: np.ndarray
    part_BC: np.ndarray
    pooled_B: np.ndarray
    calculated_B: np.ndarray

    def write(self, path: Path) -> None:
        """Into one file without pickles."""
        text = np.frombuffer(json.dumps([self.smiles, self.keys]).encode(), np.uint8)
        arrays = {
            "labels": self.labels_BC,
            "part": self.part_BC,
            "pooled": self.pooled_B,
            "calculated": self.calculated_B,
        }
        np.savez_compressed(path, text=text, **arrays)

    @classmethod
    def read(cls, path: Path) -> Molecules:
        """The inverse of `write`."""
        with np.load(path, allow_pickle=False) as found:
            smiles, keys = json.loads(found["text"].tobytes())
            return cls(smiles, keys, found["labels"], found["part"], found["pooled"], found["calculated"])


def small_and_calculated(molecules: Molecules) -> np.ndarray:
    """Which molecules are there for a calculation alone, and are no larger than those of QM9."""
    found_B = molecules.calculated_B.copy()
    for row in np.flatnonzero(found_B):
        found_B[row] = read_smiles(molecules.smiles[row])[0].GetNumHeavyAtoms() <= SMALL_MOLECULES
    return found_B


@dataclass
class _Row:
    key: str
    values: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    pooled: bool = False
    calculated: bool = True


class _Rows:
    """Molecules as they come, each parsed once."""

    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}
        self._of_text: dict[str, str] = {}

    def add(self, text: str) -> _Row | None:
        """The row of a SMILES; None where it is none that the model could see."""
        if text not in self._of_text:
            molecule = parse_smiles(text)
            smiles = molecule_identity(molecule.smiles) if molecule.ok else ""
            self._of_text[text] = smiles
            if smiles and smiles not in self.rows:
                self.rows[smiles] = _Row(key_digest(connectivity_key(molecule.mol)))
        smiles = self._of_text[text]
        return self.rows[smiles] if smiles else None


def collect(data: Path, most: int | None) -> Molecules:
    """All molecules with their labels and parts.

    Args:
        data: folder with qm9/qm9_3d.npz, qm9/qm9_props.npz and druglike_etkdg/druglike_etkdg.npz.
        most: of each part of each source; None = as many as there are to be. For rehearsals.
    """
    rows = _Rows()
    for name in MEASURED:
        for place, part, text, values in _cut(_measured(name), most):
            _note(rows.add(text), place, part, values, measured=True)
    for source in (_xtb_labels(data), _dft_labels(data)):
        for place, part, text, values in _cut(source, most):
            _note(rows.add(text), place, part, values, measured=False)
    pool = as_molecules(POOL).texts
    for text in pool if most is None else pool[:: max(1, len(pool) // (2 * most))]:
        row = rows.add(text)
        if row is not None:
            row.pooled = True
    return _without_what_judges(rows.rows)


Labelled = tuple[tuple[int, ...], int, str, list[float]]


def _places(source: str) -> tuple[int, ...]:
    return tuple(place for place, one in enumerate(PROPERTIES) if one.source == source)


def _measured(name: str) -> Iterator[Labelled]:
    """Rows of a data set: columns of `PROPERTIES`, part, SMILES, labels."""
    data, places = load_benchmark(name, ROOT / "data"), _places(name)
    columns = [data.names.index(PROPERTIES[place].column) for place in places]
    for number, part in enumerate(PARTS, start=1):
        rows = data.parts[part]
        if name == "hiv" and part == "train":  # all that are active and 5,000 of the others
            active_B = data.targets_BC[rows, 0] == 1
            others = np.random.default_rng(0).permutation(rows[~active_B])[:5_000]
            rows = np.sort(np.concatenate([rows[active_B], others]))
        for row in np.random.default_rng(1).permutation(rows).tolist():
            yield places, number, data.smiles[row], data.targets_BC[row, columns].tolist()


_KNOWN_TO_BASE = 30 * 300  # drug-like calculations that `dnd-base` has learned from; those made later judge
_JUDGING = 1_000  # of the test part; the others that are new are the validation part
_QM9_TRAINING = 12_000


def _xtb_labels(data: Path) -> Iterator[Labelled]:
    """GFN2-xTB: drug-like molecules and a part of QM9 teach; drug-like ones that `dnd-base` has not seen judge."""
    places = _places(XTB)
    for name, file in (("druglike_etkdg", "druglike_etkdg/druglike_etkdg.npz"), ("qm9_3d", "qm9/qm9_3d.npz")):
        with np.load(ROOT / "data" / "encoder" / f"{name}-quantum.npz", allow_pickle=False) as found:
            numbers, values = found["rows"], found["molecules"]
            names = [one for one, _ in json.loads(str(found["about"]))["molecules"]]
        with np.load(data / file, allow_pickle=False) as found:
            texts = found["smiles"]
        columns = [names.index(PROPERTIES[place].column) for place in places]
        order = np.random.default_rng(2).permutation(len(numbers))
        if name == "druglike_etkdg":
            known = _known_rows(len(texts))
            new = [place for place in order.tolist() if int(numbers[place]) not in known]
            part_of = dict.fromkeys(new[:_JUDGING], 3) | dict.fromkeys(new[_JUDGING:], 2)
        else:
            order, part_of = order[:_QM9_TRAINING], {}
        for place in order.tolist():
            own = values[place, columns].astype(float).tolist()
            yield places, part_of.get(place, 1), texts[numbers[place]].decode(), own


def _known_rows(molecules: int) -> set[int]:
    """Rows of the drug-like calculations that there were when `dnd-base` was made: the first 30 pieces of 300."""
    order = numpy_generator(0, "quantum labels of druglike_etkdg.npz").permutation(molecules)  # as quantum_labels.py
    return set(order[:_KNOWN_TO_BASE].tolist())


def _dft_labels(data: Path) -> Iterator[Labelled]:
    """QM9: molecules that `dnd-base` has seen teach, others judge."""
    places = _places(DFT)
    with np.load(ROOT / "data" / "encoder" / "qm9_3d-quantum.npz", allow_pickle=False) as found:
        seen = found["rows"]
    with np.load(data / "qm9" / "qm9_props.npz", allow_pickle=False) as found:
        names, values_BC = found["names"].tolist(), found["props"]
    with np.load(data / "qm9" / "qm9_3d.npz", allow_pickle=False) as found:
        texts = found["smiles"]
    values_BC = values_BC[:, [names.index(PROPERTIES[place].column) for place in places]].astype(float)
    known_B, seen_B = np.isfinite(values_BC).all(axis=1), np.zeros(len(texts), bool)
    seen_B[seen] = True
    order = np.random.default_rng(3).permutation(len(texts))
    teach, judge = order[(known_B & seen_B)[order]][:_QM9_TRAINING], order[(known_B & ~seen_B)[order]]
    for part, rows in ((1, teach), (2, judge[:_JUDGING]), (3, judge[_JUDGING : 2 * _JUDGING])):
        for row in rows.tolist():
            yield places, part, texts[row].decode(), values_BC[row].tolist()


def _cut(labelled: Iterator[Labelled], most: int | None) -> Iterator[Labelled]:
    """At most so many of each part."""
    counts = {1: 0, 2: 0, 3: 0}
    for one in labelled:
        counts[one[1]] += 1
        if most is None or counts[one[1]] <= most:
            yield one


def _note(row: _Row | None, places: Sequence[int], part: int, values: Sequence[float], *, measured: bool) -> None:
    if row is None:
        return
    row.calculated &= not measured
    for place, value in zip(places, values, strict=True):
        if np.isfinite(value):
            row.values.setdefault(place, []).append((part, value))


def _without_what_judges(rows: dict[str, _Row]) -> Molecules:
    """Each label with the strictest part that it has; training labels of molecules that judge are dropped."""
    strict = {row.key for row in rows.values() for own in row.values.values() if max(own)[0] == 3}
    strict |= read_key_list(HELD_OUT)
    valid: dict[int, set[str]] = {}
    for row in rows.values():
        for place, own in row.values.items():
            if max(own)[0] == 2:
                valid.setdefault(place, set()).add(row.key)
    labels_BC = np.full((len(rows), len(PROPERTIES)), np.nan)
    part_BC = np.zeros(labels_BC.shape, np.int8)
    for number, row in enumerate(rows.values()):
        for place, own in row.values.items():
            part = max(own)[0]
            if part == 1 and (row.key in strict or row.key in valid.get(place, ())):
                continue
            values = [value for its, value in own if its == part]
            mean = float(np.mean(values))
            labels_BC[number, place] = round(mean) if PROPERTIES[place].kind == "classification" else mean
            part_BC[number, place] = part
    keys = [row.key for row in rows.values()]
    pooled_B = np.array([row.pooled and row.key not in strict for row in rows.values()])
    calculated_B = np.array([row.calculated and not row.pooled for row in rows.values()])
    return Molecules(list(rows), keys, labels_BC, part_BC, pooled_B, calculated_B)
