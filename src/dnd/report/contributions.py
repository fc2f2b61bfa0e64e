"""How much each atom adds to a prediction, and the molecule coloured by it."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Geometry import Point2D
from rdkit.rdBase import BlockLogs

from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.standardize import molecule_for_model
from dnd.report.svg import drawn_svg

# How much each atom adds to a prediction, by changing it and predicting again.
#
# .. math:: c_i = f(M) - \frac{1}{|V_i|} \sum_{M' \in V_i} f(M')
#
# :math:`V_i` are the valid molecules that come from M when atom i is replaced by another of C, N, O and F. It is a
# difference to chemical alternatives, so it needs nothing of a model but predictions: networks, forests and blends are
# explained alike, and they are asked about whole molecules only, not about graphs with holes. An atom that nothing can
# replace (such as one with four bonds among C, N, O and F that is carbon already) is left out, and the molecule without
# it is taken instead.
#
# The contributions need not sum to the prediction, and an atom that many alternatives do as well has a small one even
# if the molecule needs it. Source: ours, after the atom-wise removal of Sheridan, J. Chem. Inf. Model. 59 (2019) 1324,
# and the weights of RDKit's similarity maps (Riniker and Landrum, J. Cheminform. 5 (2013) 43).
#


Predict = Callable[[Sequence[str]], Float[np.ndarray, "molecules outputs"]]
ELEMENTS = (6, 7, 8, 9)  # C, N, O, F
LIMIT_ATOMS = 200  # heavy; every atom costs up to four predictions
_CHUNK = 2048


@dataclass(frozen=True)
class Explained:
    """One molecule with its contributions.

    Attributes:
        smiles: canonical; the atoms are in its order.
        symbols: elements of the atoms.
        output_C: what the model says of it.
        atoms_NC: contributions, in the unit of the outputs.
    """

    smiles: str
    symbols: tuple[str, ...]
    output_C: Float[np.ndarray, "outputs"]
    atoms_NC: Float[np.ndarray, "atoms outputs"]


def explain(predict: Predict, smiles: Sequence[str], *, standardize: bool = False) -> list[Explained | str]:
    """Contributions of each molecule's heavy atoms, or the reason why there are none.

    Args:
        predict: outputs of the model for SMILES as they are, NaN where there is no molecule; for classes as log-odds.
        smiles: in any spelling.
        standardize: explain the form that a model sees which standardizes.
    """
    asked: list[str] = []
    plans: list[_Plan | str] = []
    for text in smiles:
        plan = _plan(molecule_for_model(text, standardize), len(asked))
        plans.append(plan)
        asked += [] if isinstance(plan, str) else plan.texts
    distinct = list(dict.fromkeys(asked))
    chunks = [predict(distinct[start : start + _CHUNK]) for start in range(0, len(distinct), _CHUNK)]
    place = {text: number for number, text in enumerate(distinct)}
    outputs_BC = np.concatenate(chunks)[[place[text] for text in asked]] if distinct else np.zeros((0, 0))
    return [plan if isinstance(plan, str) else plan.result(outputs_BC) for plan in plans]


def variants_of(mol: Chem.Mol, atom: int) -> list[str]:
    """Canonical SMILES of the valid molecules in which `atom` is another of C, N, O and F; else without it."""
    found = [_changed(mol, atom, number) for number in ELEMENTS if number != mol.GetAtomWithIdx(atom).GetAtomicNum()]
    valid = [text for text in found if text is not None]
    if valid or mol.GetNumAtoms() < 2:
        return valid
    without = _changed(mol, atom, 0)
    return [without] if without is not None else []


@dataclass(frozen=True)
class _Plan:
    """What is asked about one molecule: itself and, for each atom, its variants."""

    smiles: str
    symbols: tuple[str, ...]
    start: int
    variants: list[list[str]]

    @property
    def texts(self) -> list[str]:
        return [self.smiles, *(text for own in self.variants for text in own)]

    def result(self, outputs_BC: np.ndarray) -> Explained | str:
        own_C = outputs_BC[self.start]
        if not np.isfinite(own_C).all():
            return "the model has no prediction for it"
        atoms_NC, place = np.zeros((len(self.variants), len(own_C))), self.start + 1
        for atom, texts in enumerate(self.variants):
            changed_VC = outputs_BC[place : place + len(texts)]
            changed_VC = changed_VC[np.isfinite(changed_VC).all(axis=1)]
            if len(changed_VC):
                atoms_NC[atom] = own_C - changed_VC.mean(axis=0)
            place += len(texts)
        return Explained(self.smiles, self.symbols, own_C, atoms_NC)


def _plan(outcome: Molecule | InvalidMolecule, start: int) -> _Plan | str:
    if not outcome.ok:
        return outcome.reason
    mol = outcome.mol
    if mol.GetNumAtoms() > LIMIT_ATOMS:
        return f"{mol.GetNumAtoms()} atoms; contributions are computed up to {LIMIT_ATOMS}"
    with BlockLogs():
        variants = [variants_of(mol, atom) for atom in range(mol.GetNumAtoms())]
    return _Plan(outcome.smiles, tuple(atom.GetSymbol() for atom in mol.GetAtoms()), start, variants)


def _changed(mol: Chem.Mol, place: int, number: int) -> str | None:
    """The molecule with another element at `place`, without the atom for 0; None if that is not a valid molecule."""
    changed = Chem.RWMol(mol)
    try:
        if number == 0:
            Chem.Kekulize(changed, clearAromaticFlags=True)
            changed.RemoveAtom(place)
        else:
            atom = changed.GetAtomWithIdx(place)
            atom.SetAtomicNum(number)
            atom.SetFormalCharge(0)
            atom.SetNumExplicitHs(0)
            atom.SetNoImplicit(False)
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        Chem.SanitizeMol(changed)
        return str(Chem.MolToSmiles(changed))
    except (Chem.MolSanitizeException, ValueError, RuntimeError):
        return None


# A molecule coloured by the contributions of its atoms, with a scale: the same picture as SVG and as PNG.
#
# Of several parts, such as a drug and its counter-ion, the largest is coloured and a line names the others: their atoms
# change the prediction too, but a colour on a chloride says nothing of the drug. RDKit's fonts have no µ, Å or °, so
# the lines under the scale are written by the browser in the SVG and by Pillow in the PNG.


WIDTH, HEIGHT = 420, 356
_SCALE_HEIGHT = 76
_LINES_FROM, _LINE_HEIGHT, _FONT_SIZE = HEIGHT - 27, 16, 12
_RAISES, _LOWERS = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)  # Okabe and Ito: orange and blue, safe for the colour-blind
_STEPS = 41
_STRONGEST, _GAMMA = 0.85, 0.7  # a full colour would hide the symbol; small contributions still show


def draw_svg(mol: Chem.Mol, atoms_N: Float[np.ndarray, "atoms"], caption: str, limit: float | None = None) -> str:
    """An `<svg>` element.

    Args:
        mol: atoms in the order of `atoms_N`.
        atoms_N: contributions.
        caption: under the scale.
        limit: contribution of the strongest colour; the largest of the molecule when None.

    Raises:
        ValueError: there is no 2D layout.
    """
    text = str(_draw(rdMolDraw2D.MolDraw2DSVG, mol, atoms_N, limit))
    drawn = drawn_svg(text)
    written = "".join(
        f'<text x="{WIDTH / 2}" y="{_LINES_FROM + number * _LINE_HEIGHT}" text-anchor="middle" fill="#1a1a1a" '
        f'font-family="sans-serif" font-size="{_FONT_SIZE}">{_markup(line)}</text>\n'
        for number, line in enumerate(_lines(mol, caption))
    )
    return drawn.removesuffix("</svg>") + written + "</svg>"


def draw_png(mol: Chem.Mol, atoms_N: Float[np.ndarray, "atoms"], caption: str, limit: float | None = None) -> bytes:
    """The bytes of a PNG file; arguments as for `draw_svg`."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.open(io.BytesIO(bytes(_draw(rdMolDraw2D.MolDraw2DCairo, mol, atoms_N, limit))))
    pen, font = ImageDraw.Draw(picture), ImageFont.truetype(findfont("DejaVu Sans"), _FONT_SIZE)
    for number, line in enumerate(_lines(mol, caption)):
        place = (WIDTH / 2, _LINES_FROM + number * _LINE_HEIGHT)
        pen.text(place, line, fill="#1a1a1a", font=font, anchor="ms")
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def largest_part(mol: Chem.Mol) -> tuple[list[int], list[str]]:
    """Atoms of the largest part of a molecule, one with carbon before any other, and the SMILES of the other parts."""
    parts = sorted(Chem.GetMolFrags(mol), key=lambda atoms: (-_carbons(mol, atoms), -len(atoms), atoms[0]))
    others = [str(Chem.MolFragmentToSmiles(mol, list(atoms))) for atoms in parts[1:]]
    return list(parts[0]) if parts else [], others


def _carbons(mol: Chem.Mol, atoms: Sequence[int]) -> int:
    return sum(mol.GetAtomWithIdx(atom).GetAtomicNum() == 6 for atom in atoms)


def _lines(mol: Chem.Mol, caption: str) -> list[str]:
    """What stands under the scale."""
    others = largest_part(mol)[1]
    return [_plain(caption), *([_plain(f"not coloured: {', '.join(dict.fromkeys(others))}")] if others else [])]


def _draw(drawer_class: Any, mol: Chem.Mol, atoms_N: np.ndarray, limit: float | None) -> Any:
    coloured = largest_part(mol)[0]
    top = limit or float(np.abs(atoms_N[coloured]).max(initial=0.0)) or 1.0
    drawer = drawer_class(WIDTH, HEIGHT, WIDTH, HEIGHT - _SCALE_HEIGHT)
    options = drawer.drawOptions()
    options.useBWAtomPalette()
    options.highlightRadius = 0.4
    try:
        prepared: Any = rdMolDraw2D.PrepareMolForDrawing(mol, addChiralHs=False)
        atoms = {atom: _colour(float(atoms_N[atom]) / top) for atom in coloured}
        bonds = {
            bond.GetIdx(): _colour(float(atoms_N[bond.GetBeginAtomIdx()] + atoms_N[bond.GetEndAtomIdx()]) / 2 / top)
            for bond in prepared.GetBonds()
            if bond.GetBeginAtomIdx() in atoms
        }
        drawer.DrawMolecule(
            prepared,
            highlightAtoms=list(atoms),
            highlightAtomColors=atoms,
            highlightBonds=list(bonds),
            highlightBondColors=bonds,
        )
    except RuntimeError as error:
        raise ValueError(f"no 2D layout: {error}") from error
    _draw_scale(drawer, top)
    drawer.FinishDrawing()
    return drawer.GetDrawingText()


def _draw_scale(drawer: Any, top: float) -> None:
    left, width, bottom = 110.0, 200.0, HEIGHT - 46.0
    drawer.SetFillPolys(True)
    for step in range(_STEPS):
        drawer.SetColour(_colour(2 * step / (_STEPS - 1) - 1))
        start = left + width * step / _STEPS
        drawer.DrawRect(Point2D(start, bottom - 14), Point2D(start + width / _STEPS + 0.5, bottom), True)
    drawer.SetColour((0.1, 0.1, 0.1))
    drawer.SetFontSize(12)
    for text, x, y in (
        (f"lowers -{top:.2g}", left - 52, bottom - 7),
        (f"raises +{top:.2g}", left + width + 52, bottom - 7),
    ):
        drawer.DrawString(text, Point2D(x, y), 0, True)


def _colour(share: float) -> tuple[float, float, float]:
    """White for 0, orange for 1, blue for −1."""
    strength = min(1.0, abs(share)) ** _GAMMA * _STRONGEST
    red, green, blue = (1 - strength + strength * part / 255 for part in (_RAISES if share > 0 else _LOWERS))
    return red, green, blue


def _plain(text: str) -> str:
    """Without control characters, and short enough for the picture."""
    cleaned = "".join(letter if letter.isprintable() else " " for letter in text)
    return cleaned if len(cleaned) <= 60 else cleaned[:59] + "…"


def _markup(line: str) -> str:
    """As the text of an element; an equals sign is written so that no name looks like an attribute."""
    return escape(line).replace("=", "&#61;")
