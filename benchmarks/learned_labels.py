"""Give an ENCODER folder the list of the molecules whose measured labels it learned, as `dnd pretrain-base` does now.

    python benchmarks/learned_labels.py ENCODER OUT WORK

The measured labels are made again from the data sets that the heads name, without the molecules that were left
out: validation and test parts, and the list of held-out molecules. OUT is ENCODER with the list. WORK keeps the tables.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dnd.models.students.encoders import load_encoder, load_heads, load_limits, save_encoder
from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.pretraining_labels import MEASURED, excluded_keys, find_files, learned_labels, measured_table


def main(encoder: Path, out: Path, work: Path) -> None:
    """Write OUT."""
    work.mkdir(parents=True, exist_ok=True)
    student, config = load_encoder(encoder)
    heads = load_heads(encoder)
    assert heads is not None, "the encoder has heads"
    sets = [name for name in dict.fromkeys(one.data_set for one in heads.properties) if name in BENCHMARKS]
    forbidden = [
        *excluded_keys(work, tuple(BENCHMARKS), None, 1),
        *find_files(["held_out_molecules.txt.gz"], None, "list"),
    ]
    measured_table(work / MEASURED, sets, forbidden, None, jobs=1)
    learned = learned_labels(work / MEASURED, heads)
    card = (encoder / "card.md").read_text(encoding="utf-8") + learned.card_line()
    save_encoder(out, student, config, card, half=True, heads=heads, limits=load_limits(encoder), learned=learned)
    print(f"{len(learned.digest_K)} molecules with measured labels")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]))
