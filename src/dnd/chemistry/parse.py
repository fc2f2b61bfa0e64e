"""Text to `Molecule`: limits first, then RDKit, the density of bonds, and canonical atom order."""

from __future__ import annotations

import itertools
import logging
import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from rdkit import Chem, rdBase
from rdkit.Chem import rdAbbreviations, rdmolops

from dnd.chemistry.molecule import InvalidMolecule, Molecule, molecule_problem, text_problem, without_extension
from dnd.common.errors import InputError

# How densely the atoms of a molecule are bound, and what is refused because some features would not end.
#
# Searches for paths take longer by the number of neighbours with each bond: 14 atoms bound all to all keep RDKit's
# Chi4n busy for 10 minutes, and Avalon's fingerprint did not end in 90 seconds. Chemistry is far from there: C60 has
# 44,000 walks of six bonds and ferrocene 64,000, where 10 atoms bound all to all have 5 million. The parser refuses
# such molecules, so that every command treats them alike.

WALK = 6
"""Bonds of the walks counted."""
MOST_WALKS = 3_000_000
"""Largest number of walks of `WALK` bonds. Below, every search over paths of four bonds ends within a second."""


class TooDenseError(InputError):
    """The atoms of a molecule are bound so densely that a feature of it would not be found in bounded time."""


def may_be_dense(
    num_atoms: Int[np.ndarray, "..."] | int, most_neighbours: Int[np.ndarray, "..."] | int
) -> Bool[np.ndarray, "..."]:
    r"""Whether the walks have to be counted: there are at most :math:`N d^6` of N atoms with up to d neighbours each.

    With up to four neighbours, so for all of organic chemistry, no molecule within the limits of the parser needs it.
    """
    return np.asarray(num_atoms * most_neighbours**WALK > MOST_WALKS)


def density_problem(mol: Chem.Mol) -> str | None:
    """Why a parsed molecule is too densely bound to be read; None when it's not."""
    if not may_be_dense(mol.GetNumAtoms(), max(map(Chem.Atom.GetDegree, mol.GetAtoms()), default=0)):
        return None
    found = walks(mol)
    if found <= MOST_WALKS:
        return None
    return (
        f"atoms bound too densely: {mol.GetNumAtoms()} atoms with {mol.GetNumBonds()} bonds have {found:.2g} walks of "
        f"{WALK} bonds, at most {MOST_WALKS:.2g} are read"
    )


def walks(mol: Chem.Mol) -> float:
    r"""Number of walks of six bonds: the sum of the entries of :math:`A^6`, A the adjacency matrix."""
    adjacency_NN = (Chem.GetAdjacencyMatrix(mol) > 0).astype(float)
    reached_N = np.ones(len(adjacency_NN))
    for _ in range(WALK):
        reached_N = adjacency_NN @ reached_N
    return float(reached_N.sum())


def refuse_dense(mol: Chem.Mol, what: str, most_walks: float = MOST_WALKS) -> None:
    """Raise `TooDenseError` if the molecule has more than `most_walks` walks of six bonds.

    Args:
        mol: the molecule.
        what: the feature that would be computed, as the message names it.
        most_walks: largest number accepted.
    """
    found = walks(mol)
    if found > most_walks:
        raise TooDenseError(
            f"{what} of such a densely bonded molecule can't be computed in bounded time",
            found=f"{mol.GetNumAtoms()} atoms with {mol.GetNumBonds()} bonds and {found:.2g} walks of {WALK} bonds",
            expected=f"at most {most_walks:.2g}",
            next_step="Leave the molecule out.",
        )


# RDKit writes the reason of a failed parse to its log; here it's caught and handed on as a value.


LIMIT_REASON = 160
"""Longest reason in characters."""

_LOCK = threading.Lock()
_LOGGER = logging.getLogger("rdkit")
_TIME_STAMP = re.compile(r"^\[\d\d:\d\d:\d\d\]\s*")
_PREFIX = re.compile(r"^SMILES Parse Error:\s*")
_CLEARER = {"Range Error": "a number points outside the molecule, such as a bond to an atom that is not there"}
_NO_REASON = "RDKit refuses it and gives no reason"
_TORN_REASON = "RDKit refuses it where there are characters that are not ASCII"

# Choosing where the log goes also switches it on, so this comes first. From here on RDKit is silent in the whole
# process, for the user's own calls as well; `rdBase.EnableLog("rdApp.error")` lets it speak again. `BlockLogs` around
# each call of ours would keep this to ourselves, at 9 µs a call, of which a molecule has many.
rdBase.LogToPythonLogger()
rdBase.DisableLog("rdApp.*")


class _Keep(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def logged_reason(action: Callable[[], object]) -> str:
    """Run `action`, a call of RDKit that fails, and return in one line the error it logs, else the first warning.

    Failures are rare, so running the call a second time under capture costs little.
    """
    keep = _Keep()
    with _LOCK:
        handlers, _LOGGER.handlers = _LOGGER.handlers, [keep]
        for name in ("rdApp.error", "rdApp.warning"):
            rdBase.EnableLog(name)
        try:
            action()
        except SystemError:  # RDKit's message quotes half of a character, which Python can't decode
            return _TORN_REASON
        finally:
            rdBase.DisableLog("rdApp.*")
            _LOGGER.handlers = handlers
    worst_first = sorted(keep.records, key=lambda record: -record.levelno)
    lines = [line for record in worst_first for line in record.getMessage().splitlines()]
    cleaned = [_PREFIX.sub("", _TIME_STAMP.sub("", line)).strip() for line in lines]
    told = [line for line in cleaned if line and not line.startswith("*") and not line.endswith("Violation")]
    reason = _CLEARER.get(told[0], told[0]) if told else _NO_REASON
    return reason if len(reason) <= LIMIT_REASON else reason[: LIMIT_REASON - 1] + "…"  # RDKit repeats the input


# Complexes of metals, boron and other main-group elements that RDKit's valence check refuses.
#
# Of the 67,246 distinct SMILES of the ten OGB sets there are 15 (7 in HIV, 8 in Tox21): hypervalent aluminium, boron
# and germanium. OGB kept them, with an older RDKit; so they're read without the valence check, and marked.


_ALL_BUT_VALENCE = rdmolops.SANITIZE_ALL ^ rdmolops.SANITIZE_PROPERTIES

VALENCE_IS_STRICT = frozenset({1, 6, 7, 8, 9})
"""One bond too many at H, C, N, O or F is a slip of the pen, not chemistry that a program is too young for."""


def sanitize_without_valence(mol: Chem.Mol) -> None:
    """Sanitise in place as `Chem.MolFromSmiles` does, except for the valence check.

    Raises:
        Chem.MolSanitizeException: something else is wrong, such as aromaticity.
    """
    mol.UpdatePropertyCache(strict=False)
    Chem.SanitizeMol(mol, sanitizeOps=_ALL_BUT_VALENCE)
    Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def relax(raw: Chem.Mol, parse: Callable[[], object]) -> Chem.Mol | str:
    """Sanitise a molecule that RDKit refused, if too high a valence of a relaxable element was the only reason.

    Args:
        raw: the molecule, unsanitised; it's changed in place.
        parse: the call that refused it, for its message.

    Returns:
        The molecule, or the reason why it is still rejected.
    """
    raw.UpdatePropertyCache(strict=False)
    problems = Chem.DetectChemistryProblems(raw)
    if not problems:  # an aromatic atom with too many bonds shows only while RDKit assigns the double bonds
        return logged_reason(parse)
    reason = _strict_problem(raw, problems)
    if reason is not None:
        return reason
    try:
        sanitize_without_valence(raw)
    except Chem.MolSanitizeException as error:
        return str(error)
    return _strict_problem(raw, Chem.DetectChemistryProblems(raw)) or raw


def _strict_problem(mol: Chem.Mol, problems: Sequence[Any]) -> str | None:
    """Message of the first problem that is more than a valence which may be relaxed."""
    for problem in problems:
        is_valence = problem.GetType() == "AtomValenceException"
        if not is_valence or mol.GetAtomWithIdx(problem.GetAtomIdx()).GetAtomicNum() in VALENCE_IS_STRICT:
            return str(problem.Message())
    return None


# One spelling and one atom order for a molecule, however it came.
#
# RDKit's canonical SMILES is rewritten and reparsed until it no longer changes (RDKit 2026.09: once for all 67,246
# distinct SMILES of the ten OGB sets). Ten random spellings of each gave one form, but for a stereoisomer of
# hexachlorocyclohexane: there RDKit's writer of random SMILES turns out the mirror image, by InChI too, so the two
# forms are two molecules.


MAX_ROUNDS = 8


def canonical_form(
    mol: Chem.Mol, relaxed: bool, text: str
) -> tuple[Molecule, Int[np.ndarray, "atoms"]] | InvalidMolecule:
    """The molecule in the atom order of its canonical SMILES, and where each of its atoms was in `mol`.

    Args:
        mol: sanitised, hydrogens implicit, no atom maps.
        relaxed: whether the SMILES has to be reparsed without the valence check.
        text: the text that `mol` was parsed from, which may be canonical already; empty if there is none.

    Returns:
        Molecule and order, or the reason why there is no canonical form.
    """
    problem = molecule_problem(mol.GetNumAtoms()) or density_problem(mol)
    if problem is not None:
        return InvalidMolecule(problem, "limits", text)
    order, spelling = np.arange(mol.GetNumAtoms()), text
    for _ in range(MAX_ROUNDS):
        smiles = Chem.MolToSmiles(mol)
        if ":" in smiles:  # maps are dropped, so it's a bond
            return InvalidMolecule("an aromatic bond is not in a ring", "chemistry", text)
        if smiles == spelling:
            break
        reparsed = _reparse(smiles, relaxed)
        if reparsed is None or reparsed.GetNumAtoms() != len(order):
            return InvalidMolecule(f"its canonical SMILES does not parse back: {smiles}", "canonical", text)
        order = order[_written_order(mol)]
        mol, spelling = reparsed, smiles
    problem = text_problem(spelling)  # it may have more ring digits than the text it came from, and is read again
    if problem is not None:
        return InvalidMolecule(f"its canonical SMILES is beyond what is read: {problem}", "canonical", text)
    return Molecule(mol, spelling, relaxed), order


def _written_order(mol: Chem.Mol) -> Int[np.ndarray, "atoms"]:
    """Atom indices in the order in which the last `Chem.MolToSmiles(mol)` wrote them."""
    return np.array(mol.GetProp("_smilesAtomOutputOrder").strip("[],").split(","), dtype=np.int64)


def _reparse(smiles: str, relaxed: bool) -> Chem.Mol | None:
    if not relaxed:
        return Chem.MolFromSmiles(smiles)
    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    try:
        if mol is not None:
            sanitize_without_valence(mol)
    except Chem.MolSanitizeException:
        return None
    return mol


# Text to `Molecule`: limits first, then RDKit, then canonical atom order.
#
# Law of the canonical order: the atoms of a `Molecule` stand in the order in which its canonical SMILES names them, so
# every spelling of a molecule gives the same graph, chirality and stereo columns included.


_SOURCE = "_dnd_source_atom"


def parse_smiles(text: str, *, relaxed: bool = True) -> Molecule | InvalidMolecule:
    """Parse one SMILES.

    Args:
        text: the SMILES; blanks around it are ignored.
        relaxed: read metal, boron and other complexes whose valence RDKit refuses without the valence check, and mark
            them. Never applied where H, C, N, O or F has too many bonds.

    Returns:
        The molecule in canonical atom order, or the reason why there is none. Never raises on any string.

    Example:
        >>> parse_smiles("OCC").smiles
        'CCO'
        >>> parse_smiles("C1CC").reason
        "unclosed ring for input: 'C1CC'"
    """
    read = read_smiles(text, relaxed=relaxed)
    if isinstance(read, InvalidMolecule):
        return read
    try:
        outcome = canonical_form(*read, text.strip())
    except (RuntimeError, ValueError) as error:
        return _given_up(text, error)
    return replace(outcome, text=text) if isinstance(outcome, InvalidMolecule) else outcome[0]


def read_smiles(text: str, *, relaxed: bool = True) -> tuple[Chem.Mol, bool] | InvalidMolecule:
    """As `parse_smiles`, without the canonical order.

    Returns:
        The RDKit molecule in the atom order of `text`, without atom maps, and whether its valences were relaxed.
    """
    stripped = text.strip()
    problem = text_problem(stripped)
    if problem is None and "[C]" in stripped:
        from dnd.chemistry.notation import is_selfies  # few texts have a bare carbon

        if is_selfies(stripped):
            return InvalidMolecule("the text is SELFIES, not a SMILES", "parse", text)
    if problem is not None:
        return InvalidMolecule(_named(problem, stripped), "limits", text)
    extension = stripped[len(without_extension(stripped)) :]
    try:
        mol = Chem.MolFromSmiles(stripped)
        is_relaxed = mol is None
        read = _read_relaxed(stripped, relaxed) if is_relaxed else mol
    except (RuntimeError, ValueError) as error:
        return _given_up(text, error)
    if is_relaxed:
        if isinstance(read, InvalidMolecule):
            reason = _named(read.reason, stripped) if read.stage == "parse" else read.reason
            return replace(read, text=text, reason=reason)
        mol = read
    mixed = _settle_extension(mol, extension) if extension else None
    if mixed is not None:
        return InvalidMolecule(mixed, "chemistry", text)
    if ":" in stripped:
        _drop_atom_maps(mol)
    return mol, is_relaxed


def _named(reason: str, text: str) -> str:
    """The reason, and what the text is where that can be told."""
    from dnd.chemistry.notation import foreign_notation  # few texts are none

    kind = foreign_notation(text)
    if kind is None:
        return reason
    short = reason if len(reason) <= LIMIT_REASON - 40 else reason[: LIMIT_REASON - 41] + "…"
    return f"{short}; the text is {kind}, not a SMILES"


def _settle_extension(mol: Chem.Mol, extension: str) -> str | None:
    """Make a molecule say what the extension of its CXSMILES does, and return why it can't; None when it can."""
    problem = no_single_molecule(mol)
    if problem is not None:
        return problem
    drop_unknown_configurations(mol, relative=_relative_atoms(mol, extension))
    return None


_REPEATS = frozenset({"SRU", "MON", "MER", "COP", "CRO", "MOD", "GRA", "ANY"})
"""Kinds of brackets around a part that is repeated; other brackets name a part, or a component of a mixture."""
_ANY_ATOM = frozenset({"AtomNull", "AtomAtomicNum 0 = val", "AtomAtomicNum 1 != val"})
"""What RDKit says of `*`, `R` and `A`, which are dummy atoms as `*` in a SMILES is."""
_QUERY_LABELS = frozenset({"Q_e", "X_e", "M_e", "QH_p", "XH_p", "MH_p"})

_FURTHER_GROUPS = frozenset(
    {
        "Pr", "Bu", "cPr", "Ph", "Bn", "Bz", "Ar", "Boc", "Cbz", "Fmoc", "Ts", "Ms", "Tf", "TMS", "TBS", "TBDMS",
        "TIPS",
        "MeO", "EtO", "PhO", "BnO", "tBuO", "OPh", "OBn", "OtBu", "MeS", "MeNH", "NHMe", "Me2N", "NMe2", "BocNH",
        "NHBoc", "MeO2C", "CO2Me", "EtO2C",
    }
)  # fmt: skip
"""Labels of atoms that stand for groups, beside those that RDKit knows."""
_SUBSTITUENT = re.compile(r"R\d{0,2}'{0,2}")
_OF_ELEMENTS = re.compile(r"(?:Cl|Br|Si|Se|[HBCNOFPSI\d()+-])+")
_HEAVY = re.compile(r"Cl|Br|Si|Se|[BCNOFPSI]")
_LONGEST_LABEL = 40


def no_single_molecule(mol: Chem.Mol) -> str | None:
    """Why an RDKit molecule stands for many molecules, or for a part of one; None when it doesn't.

    A mol block, the extension of a CXSMILES and a molecule that was made from SMARTS can say so beside their atoms and
    bonds. Canonical SMILES leaves that out, and shows `[O,N]` as oxygen or a substituent as a molecule.
    """
    if any(bond.HasProp("_MolFileBondEndPts") for bond in mol.GetBonds()):
        return "a bond to an open position, or to several atoms at once, is not part of a single molecule"
    kinds = {group.GetProp("TYPE") for group in Chem.GetMolSubstanceGroups(mol) if group.HasProp("TYPE")}
    if kinds & _REPEATS or mol.HasProp("_molLinkNodes"):
        return "a drawing of a polymer or of repeated parts is not a single molecule"
    for atom in mol.GetAtoms():
        if _is_query(atom):
            return f"atom {atom.GetIdx() + 1} has a list or a condition; that is a query, not a molecule"
        label = atom.GetProp("atomLabel") if atom.HasProp("atomLabel") else ""
        alias = atom.GetProp("molFileAlias").strip() if atom.HasProp("molFileAlias") else label
        if atom.GetAtomicNum() and _stands_for_a_group(alias):
            return f"atom {atom.GetIdx() + 1} is labelled {alias}, a group of atoms, so this is not the whole molecule"
        if atom.GetAtomicNum() and (atom.HasProp("molAttchpt") or label.startswith("_AP")):
            return f"atom {atom.GetIdx() + 1} is a point of attachment; that is a substituent, not a molecule"
    if any(bond.HasQuery() for bond in mol.GetBonds()):
        return "a bond of several kinds; that is a query, not a molecule"
    return None


def _stands_for_a_group(label: str) -> bool:
    """Whether the label of an atom, as of the carbon that an older program drew for a phenyl, is more than its name.

    `CF3`, `OMe`, `Ph` and `R1` are; `CH3`, `NH2` and the names `C12` and `a` are not.
    """
    if not 0 < len(label) <= _LONGEST_LABEL:
        return False
    if label in _group_labels() or _SUBSTITUENT.fullmatch(label):
        return True
    return _OF_ELEMENTS.fullmatch(label) is not None and len(_HEAVY.findall(label)) > 1


@cache
def _group_labels() -> frozenset[str]:
    return _FURTHER_GROUPS.union(one.label for one in rdAbbreviations.GetDefaultAbbreviations())


def _is_query(atom: Chem.Atom) -> bool:
    if not atom.HasQuery():
        return bool(atom.HasProp("atomLabel")) and atom.GetProp("atomLabel") in _QUERY_LABELS
    return atom.GetAtomicNum() > 0 or atom.DescribeQuery().strip() not in _ANY_ATOM


def _relative_atoms(mol: Chem.Mol, extension: str) -> list[int]:
    """Atoms whose configuration CXSMILES marks as relative, which RDKit passes over.

    `|r|` marks all, `|r:0,2|` the molecules 0 and 2 of a mixture, counted as they are written. Where it is not sure
    which ones are meant, since some are grouped (`f:`) or a number is of none, all are.
    """
    fields = "".join(extension.strip(" \t|").split("$")[::2]).split(",")  # without the names of atoms
    begin = next((place for place, field in enumerate(fields) if field == "r" or field.startswith("r:")), None)
    if begin is None:
        return []
    numbers = [fields[begin][2:], *itertools.takewhile(str.isdecimal, fields[begin + 1 :])]
    fragments = sorted(Chem.GetMolFrags(mol))
    is_sure = all(text.isdecimal() and int(text) < len(fragments) for text in numbers)
    if not is_sure or any(field.startswith("f:") for field in fields):
        return [*range(mol.GetNumAtoms())]
    return [atom for text in numbers for atom in fragments[int(text)]]


def drop_unknown_configurations(mol: Chem.Mol, *, relative: Iterable[int] = ()) -> None:
    """Take the configuration, in place, from each centre of a racemate or of an enantiomer that is not known.

    Canonical SMILES would show such a centre as if its configuration were known.

    Args:
        mol: a sanitised molecule.
        relative: atoms that are such centres besides those that its stereo groups name.
    """
    groups = [group for group in mol.GetStereoGroups() if group.GetGroupType() != Chem.StereoGroupType.STEREO_ABSOLUTE]
    unknown = {*relative, *(atom.GetIdx() for group in groups for atom in group.GetAtoms())}
    for index in unknown:
        mol.GetAtomWithIdx(index).SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    if unknown:
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)


def molecule_from_mol(mol: Chem.Mol) -> tuple[Molecule | InvalidMolecule, Int[np.ndarray, "atoms"]]:
    """Bring an RDKit molecule, with or without explicit hydrogens, into canonical order.

    Args:
        mol: a sanitised molecule.

    Returns:
        The molecule, and for each of its atoms the index of the same atom in `mol` (empty when it's invalid).
    """
    problem = no_single_molecule(mol)
    if problem is not None:
        return InvalidMolecule(problem, "chemistry", ""), np.empty(0, dtype=np.int64)
    source = Chem.Mol(mol)
    drop_unknown_configurations(source)
    for atom in source.GetAtoms():
        atom.SetIntProp(_SOURCE, atom.GetIdx())
        atom.SetAtomMapNum(0)
    try:
        heavy = Chem.RemoveHs(source)
        relaxed = False
    except Chem.MolSanitizeException:
        heavy, relaxed = Chem.RemoveHs(source, sanitize=False), True
        sanitize_without_valence(heavy)
    outcome = canonical_form(heavy, relaxed, "")
    if isinstance(outcome, InvalidMolecule):
        return outcome, np.empty(0, dtype=np.int64)
    molecule, order = outcome
    sources = np.array([atom.GetIntProp(_SOURCE) for atom in heavy.GetAtoms()], dtype=np.int64)
    return molecule, sources[order]


def without_isotopes(molecule: Molecule | InvalidMolecule) -> Molecule | InvalidMolecule:
    """The molecule of the usual isotopes: what models see, so that `CC[18OH]`, `[2H]OCC` and `CCO` are one.

    A centre that is chiral only by isotopes loses its configuration, and deuterium counts as hydrogen.

    Returns:
        `molecule` itself if it has no isotope.
    """
    if isinstance(molecule, InvalidMolecule) or not has_isotopes(molecule.mol):
        return molecule
    return molecule_from_mol(of_usual_isotopes(molecule.mol))[0]


def has_isotopes(mol: Chem.Mol) -> bool:
    """Whether an atom of `mol` is of a stated isotope."""
    return any(atom.GetIsotope() for atom in mol.GetAtoms())


def of_usual_isotopes(mol: Chem.Mol) -> Chem.Mol:
    """A copy whose atoms are of no stated isotope, in the same order; see `without_isotopes`."""
    plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
        is_end = any(bond.GetBondType() == Chem.BondType.DOUBLE for bond in atom.GetBonds())
        if is_end and atom.GetTotalNumHs(includeNeighbors=True) > 1:  # they are equal now: neither has a side
            for bond in atom.GetBonds():
                bond.SetStereo(Chem.BondStereo.STEREONONE)
                bond.SetBondDir(Chem.BondDir.NONE)
    return plain


def conformer_order(mol: Chem.Mol, order: Int[np.ndarray, "atoms"]) -> Int[np.ndarray, "conformer_atoms"]:
    """All atoms of `mol` in the order of a conformer: those of the graph, then the hydrogens the graph leaves out.

    Args:
        mol: the molecule given to `molecule_from_mol`.
        order: the order it returned.

    Returns:
        Indices into `mol`. The hydrogens are grouped by the graph atom they're bound to, ascending, which is the
        order of `Chem.AddHs` on the canonical molecule.
    """
    place = {int(index): new for new, index in enumerate(order)}
    hydrogens = [atom for atom in mol.GetAtoms() if atom.GetIdx() not in place]
    parents = [place[atom.GetNeighbors()[0].GetIdx()] for atom in hydrogens]  # only bound hydrogens are left out
    ranked = sorted(range(len(hydrogens)), key=lambda index: (parents[index], hydrogens[index].GetIdx()))
    return np.concatenate([order, np.array([hydrogens[index].GetIdx() for index in ranked], dtype=np.int64)])


def _read_relaxed(text: str, allowed: bool) -> Chem.Mol | InvalidMolecule:
    raw = Chem.MolFromSmiles(text, sanitize=False)
    if raw is None:
        return InvalidMolecule(logged_reason(lambda: Chem.MolFromSmiles(text, sanitize=False)), "parse", text)
    raw.UpdatePropertyCache(strict=False)
    relaxed = relax(Chem.RemoveHs(raw, sanitize=False), lambda: Chem.MolFromSmiles(text))
    if isinstance(relaxed, str) or not allowed:
        reason = relaxed if isinstance(relaxed, str) else logged_reason(lambda: Chem.MolFromSmiles(text))
        return InvalidMolecule(reason, "chemistry", text)
    return relaxed


def _given_up(text: str, error: Exception) -> InvalidMolecule:
    """A condition of RDKit's own that a molecule does not meet, such as 128 hydrogens on an atom."""
    said = " ".join(str(error).replace("Pre-condition Violation", "").split())
    return InvalidMolecule(f"RDKit gave up: {said[:150]}", "parse", text)


def _drop_atom_maps(mol: Chem.Mol) -> None:
    for atom in mol.GetAtoms():
        atom.SetAtomMapNum(0)
