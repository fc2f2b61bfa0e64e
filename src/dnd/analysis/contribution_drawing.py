"""A molecule coloured by the contributions of its atoms, with a scale: the same picture as SVG and as PNG."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Geometry import Point2D

from dnd.analysis.svg import drawn_svg

WIDTH, HEIGHT = 420, 340
_SCALE_HEIGHT = 60
_RAISES, _LOWERS = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)  # Okabe and Ito: orange and blue, safe for the colour-blind
_STEPS = 41
_STRONGEST, _GAMMA = 0.85, 0.7  # a full colour would hide the symbol; small contributions still show


def draw_svg(mol: Chem.Mol, atoms_A: Float[np.ndarray, "atoms"], caption: str, limit: float | None = None) -> str:
    """An `<svg>` element.

    Args:
        mol: atoms in the order of `atoms_A`.
        atoms_A: contributions.
        caption: under the scale.
        limit: contribution of the strongest colour; the largest of the molecule when None.

    Raises:
        ValueError: there is no 2D layout.
    """
    text = str(_draw(rdMolDraw2D.MolDraw2DSVG, mol, atoms_A, caption, limit))
    return drawn_svg(text)


def draw_png(mol: Chem.Mol, atoms_A: Float[np.ndarray, "atoms"], caption: str, limit: float | None = None) -> bytes:
    """The bytes of a PNG file; arguments as for `draw_svg`."""
    return bytes(_draw(rdMolDraw2D.MolDraw2DCairo, mol, atoms_A, caption, limit))


def _draw(drawer_class: Any, mol: Chem.Mol, atoms_A: np.ndarray, caption: str, limit: float | None) -> Any:
    top = limit or float(np.abs(atoms_A).max(initial=0.0)) or 1.0
    drawer = drawer_class(WIDTH, HEIGHT, WIDTH, HEIGHT - _SCALE_HEIGHT)
    options = drawer.drawOptions()
    options.useBWAtomPalette()
    options.highlightRadius = 0.4
    try:
        prepared: Any = rdMolDraw2D.PrepareMolForDrawing(mol, addChiralHs=False)
        atoms = {atom: _colour(float(value) / top) for atom, value in enumerate(atoms_A)}
        bonds = {
            bond.GetIdx(): _colour(float(atoms_A[bond.GetBeginAtomIdx()] + atoms_A[bond.GetEndAtomIdx()]) / 2 / top)
            for bond in prepared.GetBonds()
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
    _draw_scale(drawer, top, caption)
    drawer.FinishDrawing()
    return drawer.GetDrawingText()


def _draw_scale(drawer: Any, top: float, caption: str) -> None:
    left, width, bottom = 110.0, 200.0, HEIGHT - 30.0
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
        (_plain(caption), WIDTH / 2, HEIGHT - 14),
    ):
        drawer.DrawString(text, Point2D(x, y), 0, True)


def _colour(share: float) -> tuple[float, float, float]:
    """White for 0, orange for 1, blue for −1."""
    strength = min(1.0, abs(share)) ** _GAMMA * _STRONGEST
    red, green, blue = (1 - strength + strength * part / 255 for part in (_RAISES if share > 0 else _LOWERS))
    return red, green, blue


def _plain(text: str) -> str:
    """Without RDKit's markup for labels, and short enough for the picture."""
    cleaned = re.sub(r"[<>&]", " ", "".join(letter if letter.isprintable() else " " for letter in text))
    return cleaned if len(cleaned) <= 60 else cleaned[:59] + "…"
