"""Gives an encoder that was made without limits the limits of its representations, from its training files.

    python benchmarks/encoder_limits.py src/dnd/data/encoders/dnd-tokengt \
        --inputs DATA/qm9/qm9_3d.npz DATA/druglike_etkdg/druglike_etkdg.npz \
        DATA/cascade_dft/cascade_dft.npz DATA/equireact_dft/equireact_dft.npz

4,000 molecules of the files are drawn, of each file in the share that it had in the training (at most 40,000 of a
file), without those of `data/held_out_molecules.txt.gz`. `limits.safetensors` and a line of the card are written and
the folder is sealed again; its weights stay as they are. An encoder made now has limits from the start. It takes
a minute. What the limits change is printed: the share of the drawn molecules with a component beyond them, and the
largest robust deviation of a molecule of 400 atoms with and without.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rdkit import Chem

from dnd.common.model_folder import read_model
from dnd.models.students.encoders import (
    DEVIATIONS,
    RepresentationLimits,
    load_encoder,
    load_heads,
    load_limits,
    save_encoder,
)
from dnd.prediction.embedder import Embedder
from dnd.store.featurize import as_store, featurize_smiles

MOLECULES, MOST_OF_FILE, SEED = 4_000, 40_000, 0
HELD_OUT = Path(__file__).parent.parent / "data" / "held_out_molecules.txt.gz"
LARGE = "C" * 400


def main() -> None:
    """Write the limits, and print what they change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--inputs", type=Path, nargs="+", required=True)
    given = parser.parse_args()
    smiles = drawn(given.inputs)
    student, config = load_encoder(given.encoder)
    molecules = [one for one in featurize_smiles(smiles, config["hydrogens"]) if one.graph is not None]
    store = as_store(molecules, config["hydrogens"])
    limits = RepresentationLimits.measured(student, store, np.arange(len(store)))
    card = read_model(given.encoder, kind="encoder").text("card.md").rstrip().splitlines()
    card = [line for line in card if not line.startswith("- representations of `embed`")]
    card.append(
        f"- representations of `embed` are kept within {DEVIATIONS:g} robust deviations of the median over "
        f"{len(store):,} training molecules"
    )
    config = {name: value for name, value in config.items() if name != "heads"}
    heads = load_heads(given.encoder)
    save_encoder(given.encoder, student, config, "\n".join([*card, ""]), half=True, heads=heads, limits=limits)
    report(given.encoder, [one.smiles for one in molecules])


def drawn(paths: Sequence[Path]) -> list[str]:
    """SMILES of training molecules."""
    held_out = set(gzip.decompress(HELD_OUT.read_bytes()).decode().split())
    generator, found = np.random.default_rng(SEED), list[str]()
    texts = [[text.decode() for text in np.load(path, allow_pickle=False)["smiles"]] for path in paths]
    total = sum(min(len(own), MOST_OF_FILE) for own in texts)
    for own in texts:
        count = round(MOLECULES * min(len(own), MOST_OF_FILE) / total)
        order = iter(generator.permutation(len(own)).tolist())
        chosen = list[str]()
        while len(chosen) < count:
            text = own[next(order)]
            if digest(text) not in held_out:
                chosen.append(text)
        found += chosen
    return found


def digest(smiles: str) -> str:
    """As in the list of molecules that are held out."""
    mol = Chem.MolFromSmiles(smiles)
    key = Chem.MolToInchiKey(mol)[:14] if mol is not None else ""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def report(folder: Path, smiles: Sequence[str]) -> None:
    """Print what the limits change."""
    bounded = Embedder.load(folder, device="cpu")
    assert bounded.limits is not None
    free = Embedder(bounded.student, bounded.hydrogens, device="cpu")
    centre_D = bounded.limits.tensors["mean.centre"].numpy()
    deviation_D = np.maximum(bounded.limits.tensors["mean.deviation"].numpy(), 1e-9)
    known = free.embed(list(smiles))
    changed = (known != bounded.embed(list(smiles))).any(axis=1).mean()
    large = [np.abs((one.embed([LARGE]) - centre_D) / deviation_D).max() for one in (free, bounded)]
    print(f"{folder.name}: {changed:.2%} of the drawn molecules are changed")
    print(f"largest |z| of an alkane of 400 atoms: {large[0]:.1f} without, {large[1]:.1f} with limits")
    assert load_limits(folder) is not None


if __name__ == "__main__":
    main()
