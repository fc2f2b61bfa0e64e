"""SMILES of graphs that no chemist draws and that searches over atoms, paths, rings and symmetries are slow on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from rdkit import Chem

Bonds = Iterable[tuple[int, int]]
_WITHOUT_LIMIT = (0, 26, 40, 57, 92)  # a dummy and metals: any number of bonds


def smiles_of(elements: list[int], bonds: Bonds, *, aromatic: bool = False, hydrogens: int | None = None) -> str:
    """The text of a graph as it is, valences or not."""
    mol = Chem.RWMol()
    for element in elements:
        atom = Chem.Atom(element)
        atom.SetIsAromatic(aromatic)
        if hydrogens is not None:
            atom.SetNoImplicit(True)
            atom.SetNumExplicitHs(hydrogens)
        mol.AddAtom(atom)
    kind = Chem.BondType.AROMATIC if aromatic else Chem.BondType.SINGLE
    for one, other in sorted({(min(pair), max(pair)) for pair in bonds if pair[0] != pair[1]}):
        mol.AddBond(one, other, kind)
    return str(Chem.MolToSmiles(mol, canonical=False))


def dense(draw: random.Random) -> str:
    """8 to 60 atoms, bound at random with a share of all possible bonds."""
    atoms, share = draw.randint(8, 60), draw.choice([0.05, 0.1, 0.2, 0.4, 0.7, 1.0])
    pairs = [(i, j) for i in range(atoms) for j in range(i) if draw.random() < share]
    elements = draw.choice([[draw.choice(_WITHOUT_LIMIT)] * atoms, [draw.choice(_WITHOUT_LIMIT) for _ in range(atoms)]])
    return smiles_of(elements, pairs)


def regular(draw: random.Random) -> str:
    """Up to 60 atoms with the same number of neighbours each: little for a canonical form to go by."""
    degree, atoms = draw.choice([3, 3, 4, 4, 5, 6]), 2 * draw.randint(4, 30)
    ends = [atom for atom in range(atoms) for _ in range(degree)]
    draw.shuffle(ends)
    pairs = zip(ends[::2], ends[1::2], strict=True)
    element = draw.choice([6, 14] if degree <= 4 else [26, 0])
    return smiles_of([element] * atoms, pairs, aromatic=degree == 3 and draw.random() < 0.5)


def circulant(draw: random.Random) -> str:
    """Up to 60 atoms around a circle, each bound to those at the same distances: as symmetric as can be."""
    atoms, steps = draw.randint(8, 60), draw.sample(range(1, 5), draw.choice([1, 2, 2, 3]))
    pairs = [(i, (i + step) % atoms) for i in range(atoms) for step in steps]
    element = 6 if len(steps) <= 2 else draw.choice(_WITHOUT_LIMIT)
    return smiles_of([element] * atoms, pairs)


def cage(draw: random.Random) -> str:
    """A prism, an antiprism or a stack of rings, of carbon, aromatic or not."""
    width, height = draw.randint(3, 30), draw.randint(2, 4)
    twist = draw.choice([False, True])
    ring = [(width * level + i, width * level + (i + 1) % width) for level in range(height) for i in range(width)]
    posts = [(width * level + i, width * (level + 1) + i) for level in range(height - 1) for i in range(width)]
    slant = [
        (width * level + i, width * (level + 1) + (i + 1) % width) for level in range(height - 1) for i in range(width)
    ]
    element = 6 if height == 2 and not twist else 26
    aromatic = element == 6 and draw.random() < 0.5
    return smiles_of([element] * (width * height), [*ring, *posts, *(slant if twist else [])], aromatic=aromatic)


def strip(draw: random.Random) -> str:
    """A ladder or a wider strip of squares or hexagons, up to 400 rings."""
    height, rings = draw.choice([2, 2, 3, 4]), draw.choice([1, 5, 20, 60, 120, 200, 255, 300, 400])
    width = max(2, 1 + rings // (height - 1))
    hexagons = draw.random() < 0.5
    pairs = []
    for x in range(width):
        for y in range(height):
            if x + 1 < width:
                pairs.append((x * height + y, (x + 1) * height + y))
            if y + 1 < height and not (hexagons and (x + y) % 2):
                pairs.append((x * height + y, x * height + y + 1))
    return smiles_of([6] * (width * height), pairs, aromatic=hexagons and draw.random() < 0.5)


def chain(draw: random.Random) -> str:
    """A chain of up to 1,000 atoms of a repeated piece, with double bonds, centres, rings or charges."""
    piece = draw.choice(
        ["C", "CC(C)", "C(=O)N", "/C=C/C", "[C@H](O)", "[C@@H](F)", "c1ccc(cc1)", "C1CC1", "[Si](C)(C)O", "C#C", "N=N",
         "S(=O)(=O)", "OP(=O)(O)", "[13CH2]", "[NH2+]", "C(C(F)(F)F)", "[C@]1(F)C[C@H]1", "N1CCN(CC1)"]
    )  # fmt: skip
    atoms = sum(letter.isalpha() and letter != "H" for letter in piece)
    text = piece * max(1, draw.choice([5, 50, 200, 400, 500, 511, 513, 1000]) // max(1, atoms))
    return text + "C" if piece.endswith(")") or piece[-1] in "/=#" else text


def atom(draw: random.Random) -> str:
    """One atom of any element, any isotope, any number of hydrogens and any charge, alone or at the end of a chain."""
    element = Chem.GetPeriodicTable().GetElementSymbol(draw.randint(1, 118))
    isotope = draw.choice(["", "", str(draw.choice([0, 1, 2, 13, 999, 65535, 65536, draw.randint(1, 65535)]))])
    hydrogens = draw.choice(["", "", "H", f"H{draw.choice([0, 2, 3, 4, 9, 127, 128, 200, 255, 256])}"])
    size = draw.choice([1, 2, 4, 15, 126, 127, 128])
    charge = draw.choice(["", "", f"+{size}", f"-{size}", "++", "--"])
    text = f"[{isotope}{element}{hydrogens}{charge}]"
    return draw.choice([text, text, f"C{text}", f"{text}.{text}", ".".join([text] * draw.choice([3, 16, 17]))])


def decorated(draw: random.Random) -> str:
    """An atom with up to 60 neighbours that are alike, or several such atoms in a row."""
    centre = draw.choice(["[U]", "[Fe]", "*", "[Si]", "[P]", "[Xe]"])
    arm = draw.choice(["(C)", "(F)", "([H])", "(C(C)(C)C)", "([C@H](F)Cl)", "(c1ccccc1)", "(=O)", "(->[Fe])"])
    return (centre + arm * draw.choice([1, 4, 6, 12, 22, 60])) * draw.choice([1, 1, 2, 8])


KINDS: dict[str, Callable[[random.Random], str]] = {
    one.__name__: one for one in (dense, regular, circulant, cage, strip, chain, atom, decorated)
}
