"""What each teacher of the shipped encoder is worth: the tables of docs/results/encoder.md.

usage: python benchmarks/encoder_ablation.py OUT --base BASE [--student dnd-base|dnd-tokengt] [--most-molecules N] …
       python benchmarks/encoder_ablation.py OUT --tiny

BASE is a folder of `dnd pretrain-base`: its stores and its teacher are used. Variants (3D only, descriptors only, both,
neither) are distilled with the settings of its student, differing in their terms only, and finetuned on 14 data sets
with 100 % and 10 % of the labels, five seeds each (`--seeds 3 esol=5`: three, and five on ESOL). The arms of the
encoder at scale are `--variants 3d quantum 3d+quantum descriptors all all+labels neither`; all see as many molecules.
`--frozen ridge gp forest ridge+descriptors` adds models on the representation as it is, `--only-frozen` finetunes
nothing. Every cell is kept: a second call goes on. The tables are written to OUT/encoder.md. `--tiny` does it all in
about a minute, from the slice of QM9 in the package, and proves nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dnd.common.config import from_dict, load_config
from dnd.common.files import package_versions, read_json, write_text
from dnd.common.runs import RUN_RECORD
from dnd.reproduction.benchmarks import BENCHMARKS, qm9_slice
from dnd.reproduction.encoder_ablation import FOUR, VARIANTS, Ablation, ablation_page, plan, scores_of
from dnd.reproduction.frozen_models import FROZEN_MODELS
from dnd.reproduction.grid import run_grid
from dnd.reproduction.pretrain_base import pretrain_base
from dnd.reproduction.pretraining_labels import BaseConfig


def main() -> None:
    """Run the cells of the ablation that are missing and write its page."""
    options = arguments()
    ablation = tiny_ablation(options) if options.tiny else chosen_ablation(options)
    summary = run_grid(plan(ablation), options.out, jobs=options.jobs)
    records = list(summary.records.values())
    page = ablation_page(scores_of(records), ablation.variants, ablation.fractions) if ablation.finetuned else ""
    for model in ablation.frozen:
        own = ablation_page(scores_of(records, model), ablation.variants, ablation.fractions)
        page += f"\n# Frozen representation, {model}\n\n{own}"
    versions = package_versions()
    head = [
        "# What each teacher of the encoder is worth",
        "",
        f"Student {ablation.student.student.name}, width {ablation.student.student.width}, "
        f"{ablation.student.student.num_layers} layers; seeds {seeds_text(ablation.seeds)}; at most "
        f"{ablation.most_molecules or 'all'} molecules per data set; recipe {ablation.recipe} with "
        f"{' '.join(ablation.finetune) or 'nothing changed'}; versions "
        f"{', '.join(f'{name} {versions[name]}' for name in ('dnd', 'torch', 'rdkit'))}.",
        "",
    ]
    write_text(options.out / "encoder.md", "\n".join([*head, page]))
    print(f"{options.out / 'encoder.md'}: {len(summary.failed)} cells failed")


def chosen_ablation(options: argparse.Namespace) -> Ablation:
    """The ablation of the command line; the student's settings are those that its run recorded."""
    if options.base is None:
        raise SystemExit("name a folder of `dnd pretrain-base` with --base, or use --tiny")
    recorded = read_json(options.base / RUN_RECORD)["settings"]["settings"]
    student = from_dict(BaseConfig, recorded).students()[options.student]
    if options.epochs is not None:
        student = replace(student, loop=replace(student.loop, epochs=options.epochs))
    return Ablation(
        base=options.base,
        student=student,
        shipped=options.student,
        variants=tuple(options.variants),
        datasets=tuple(options.datasets),
        fractions=tuple(options.fractions),
        seeds=seed_counts(options.seeds, options.datasets),
        most_molecules=options.most_molecules,
        recipe=options.recipe,
        finetune=tuple(options.finetune),
        frozen=tuple(options.frozen),
        finetuned=not options.only_frozen,
        data_dir=options.data_dir,
    )


def tiny_ablation(options: argparse.Namespace) -> Ablation:
    """Every variant on 60 molecules of one data set, from 100 molecules of QM9."""
    config = load_config(BaseConfig, "base-tiny")
    base = options.out / "base"
    pretrain_base([qm9_slice()], base, config, data_dir=options.data_dir)
    return Ablation(
        base=base,
        student=config.base,
        variants=tuple(VARIANTS),
        datasets=("esol",),
        fractions=(1.0, 0.5),
        seeds={"esol": 2},
        most_molecules=60,
        finetune=("loop.epochs=2",),
        frozen=("ridge", "ridge+descriptors"),
        data_dir=options.data_dir,
    )


def seed_counts(words: Sequence[str], datasets: Sequence[str]) -> dict[str, int]:
    """`3 esol=5` → number of seeds of each data set."""
    general = next((int(word) for word in words if "=" not in word), 5)
    own = dict(word.split("=") for word in words if "=" in word)
    if unknown := sorted(own.keys() - set(datasets)):
        raise SystemExit(f"--seeds names {', '.join(unknown)}, which is not among --datasets")
    return {name: int(own.get(name, general)) for name in datasets}


def seeds_text(counts: Mapping[str, int]) -> str:
    """`5 (esol, freesolv), 3 (lipo)`."""
    found = sorted(set(counts.values()), reverse=True)
    return ", ".join(f"{count} ({', '.join(name for name in counts if counts[name] == count)})" for count in found)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--student", default="dnd-base", help="whose settings the variants share")
    parser.add_argument("--epochs", type=int, help="of each distillation, instead of the student's own")
    parser.add_argument("--variants", nargs="+", default=list(FOUR), choices=list(VARIANTS))
    parser.add_argument("--datasets", nargs="+", default=list(BENCHMARKS))
    parser.add_argument("--fractions", nargs="+", type=float, default=[1.0, 0.1])
    parser.add_argument("--seeds", nargs="+", default=["5"], help="number, or also `esol=5` for one data set")
    parser.add_argument("--most-molecules", type=int)
    parser.add_argument("--recipe", default="finetune-small")
    parser.add_argument("--finetune", nargs="*", default=[], help="key=value settings of finetuning")
    parser.add_argument("--frozen", nargs="*", default=[], choices=FROZEN_MODELS, help="models on the representation")
    parser.add_argument("--only-frozen", action="store_true", help="finetune nothing")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
