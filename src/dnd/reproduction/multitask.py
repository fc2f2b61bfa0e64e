"""One student for several data sets against one for each: the paper's future work.

Both see the same molecules. A molecule that is in the test part of any set of the group is in no training or validation
part of another, and one of a validation part in no other training part, so nothing is learned about it beforehand;
ToxCast, for one, holds assays of Tox21.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnd.chemistry.identity import connectivity_key
from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import write_text
from dnd.report.figures import table_text
from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.labelled_table import LabelledTable, labelled_csv, labelled_table
from dnd.reproduction.results import ENCODER, MODEL, Cell, Record, Work
from dnd.reproduction.significance import Seeds, Significance, by_pretraining, holm, mean_over_sets, paired
from dnd.reproduction.systems import system
from dnd.reproduction.tables import LARGER_IS_BETTER, metric_name, wilcoxon_test
from dnd.reproduction.upstream import (
    MOLECULES,
    encoder_key,
    pretraining_seeds,
    regularization_words,
    student_words,
    upstream_cells,
)

if TYPE_CHECKING:
    from dnd.reproduction.protocol import Request

GROUPS: dict[str, tuple[str, ...]] = {
    "toxicity": ("tox21", "toxcast", "sider"),
    "properties": ("bp", "mp", "logp", "ri", "esol", "freesolv", "lipo"),
}
TOGETHER = "together"
_RANK = {"train": 0, "valid": 1, "test": 2}


def multitask_cells(request: Request) -> Iterator[Cell]:
    """The encoders, and for each group, pretraining and seed a student for all sets and one for each.

    Raises:
        ConfigError: no group has two of the data sets asked for.
    """
    one = system(request.systems[0] if request.systems else "dnd-node")
    wanted = {
        group: tuple(name for name in names if not request.datasets or name in request.datasets)
        for group, names in GROUPS.items()
    }
    groups = {group: names for group, names in wanted.items() if len(names) > 1}
    if not groups:
        known = "; ".join(f"{group}: {', '.join(names)}" for group, names in GROUPS.items())
        raise ConfigError("multitask needs two data sets of a group", found=request.datasets, expected=known)
    budget = request.budget
    paths = {"data_dir": str(request.data_dir.resolve())} if request.data_dir else {}
    yield from upstream_cells(request, MOLECULES, [one], request.upstream_seeds)
    for group, names in groups.items():
        for upstream in pretraining_seeds(request, one):
            for seed in request.seeds:
                for learned in (TOGETHER, *names):
                    words = [
                        *budget.finetune, *regularization_words(budget, student_words(budget, MOLECULES, one)),
                        "split=column:split", "baselines=false", "jobs=1", "pooling=mean", "layer_decay=1.0",
                        "select_by=loss", f"loop.seed={seed}",
                    ]  # fmt: skip
                    settings: dict[str, Any] = {
                        "group": list(names),
                        "learned": learned,
                        "most_molecules": budget.most_molecules,
                        "system": one.name,
                        "upstream_seed": upstream,
                        "seed": seed,
                        "recipe": budget.finetune_recipe,
                        "config": words,
                    }
                    key = f"multitask/{group}/{learned}/upstream-{upstream}/seed-{seed}"
                    yield Cell(key, "multitask", settings, (encoder_key(MOLECULES, one, upstream),), paths)


def multitask_student(work: Work) -> dict[str, Any]:
    """Finetune on one data set or on all of a group → test score of each."""
    from dnd.finetuning.finetune import finetune
    from dnd.finetuning.labelled_data import LabelledFile
    from dnd.finetuning.settings import FinetuneConfig

    settings = work.settings
    tables = {
        name: labelled_table(Work({**settings, "dataset": name, "fraction": 1.0}, work.paths, {}, work.folder))
        for name in settings["group"]
    }
    parts = {name: (table.smiles, table.split) for name, table in tables.items()}
    kept = without_leaks(parts)
    learned = list(tables) if settings["learned"] == TOGETHER else [settings["learned"]]
    files = []
    for name in learned:
        table, rows = tables[name], kept[name]
        names = _target_names(name, table)
        smiles, split = [table.smiles[row] for row in rows], [table.split[row] for row in rows]
        write_text(work.folder / f"{name}.csv", labelled_csv(smiles, table.targets_BC[rows], names, split))
        files.append(LabelledFile(work.folder / f"{name}.csv", names, "smiles"))
    encoder = next(folder / ENCODER for folder in work.needs.values())
    config = load_config(FinetuneConfig, settings["recipe"], settings["config"])
    summary = finetune(
        files[0].path, work.folder / MODEL, files[0].target_columns, config, also=files[1:], encoder=encoder,
        resume=True,
    )  # fmt: skip
    test = summary.metrics["parts"]["test"]["targets"]
    scores = {name: _score(name, tables[name], test) for name in learned}
    dropped = {name: len(tables[name].smiles) - len(kept[name]) for name in learned}
    text = ", ".join(f"{name} {value:.4g}" for name, value in scores.items() if value is not None)
    return {
        "test_by_dataset": scores,
        "left_out": dropped,
        "trained_on": {name: sum(tables[name].split[row] == "train" for row in kept[name]) for name in learned},
        "shared_test_molecules": shared_tests(parts),
        "summary": text,
    }


def without_leaks(tables: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> dict[str, np.ndarray]:
    """Rows of each table whose molecule is in no later part of another table: train before valid before test.

    Args:
        tables: SMILES and part of the rows of each data set. Molecules are compared by the connectivity block of the
            InChIKey; unreadable rows stay, finetuning reports them.
    """
    keys: dict[str, list[str]] = {name: [_key(text) for text in smiles] for name, (smiles, _) in tables.items()}
    latest: dict[str, int] = {}
    for name, (_, split) in tables.items():
        for key, part in zip(keys[name], split, strict=True):
            latest[key] = max(latest.get(key, 0), _RANK[part])
    return {
        name: np.array(
            [row for row, (key, part) in enumerate(zip(keys[name], split, strict=True))
             if not key or _RANK[part] == latest[key]],
            dtype=np.int64,
        )
        for name, (_, split) in tables.items()
    }  # fmt: skip


def shared_tests(tables: Mapping[str, tuple[Sequence[str], Sequence[str]]]) -> tuple[int, int]:
    """Molecules in the test parts of two or more tables, and in any; see `without_leaks`."""
    tested = [
        {_key(text) for text, part in zip(smiles, split, strict=True) if part == "test"} - {""}
        for smiles, split in tables.values()
    ]
    count = Counter(key for keys in tested for key in keys)
    return sum(number > 1 for number in count.values()), len(count)


def write_multitask(records: Sequence[Record], folder: Path) -> str:
    """Write `multitask.csv` and `multitask.md` into `folder`; returns the Markdown.

    Raises:
        InputError: no data set has both a student of its own and a common one.
    """
    alone, together = multitask_scores(records)
    names = [name for name in alone if name in together]
    if not names:
        reason = next((record.reason for record in records if record.status == "failed"), "nothing to run")
        raise InputError("no data set was learned both alone and together", found=reason)
    tests = [paired(together[name], alone[name]) for name in names]
    corrected = holm([test.p_value for test in tests])
    lines = [
        "# One student for several data sets",
        "",
        "Test scores, mean over pretrainings and seeds; gain of learning together, positive = better; p paired over n "
        "pretrainings or seeds as named, corrected by Holm for the data sets.",
        "",
        "| data set | metric | alone | together | gain | p | over |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, test, value in zip(names, tests, corrected, strict=True):
        metric = BENCHMARKS[name].metric
        means = [float(np.mean(list(by_pretraining(one[name]).values()))) for one in (alone, together)]
        gain = float(np.mean(list(_gains(name, alone, together).values())))
        shown = "" if value is None else f"{value:.2g}"
        cells = [name, metric_name(metric), f"{means[0]:.4g}", f"{means[1]:.4g}", f"{100 * gain:+.1f} %", shown]
        lines.append(f"| {' | '.join(cells)} | {test.subject} |")
    lines.append("")
    for group, members in GROUPS.items():
        own = [_gains(name, alone, together) for name in names if name in members]
        if own:
            mean, test = mean_over_sets(own)
            lines.append(
                f"- {group}: mean gain {100 * mean:+.1f} % over {len(own)} sets{_p_text(test)}"
                f"{_p_over_sets(own)}{_shared(records, group)}."
            )
    text = "\n".join([*lines, ""])
    write_text(folder / "multitask.md", text)
    rows = [
        [name, how, *seeds, value]
        for how, scores in (("alone", alone), (TOGETHER, together))
        for name in names
        for seeds, value in scores[name].items()
    ]
    write_text(folder / "multitask.csv", table_text(["dataset", "learned", "upstream_seed", "seed", "test"], rows))
    return text


def multitask_scores(records: Sequence[Record]) -> tuple[dict[str, dict[Seeds, float]], dict[str, dict[Seeds, float]]]:
    """Test score by data set, upstream and finetuning seed, of students of their own and of common ones."""
    alone: dict[str, dict[Seeds, float]] = {}
    together: dict[str, dict[Seeds, float]] = {}
    for record in records:
        if record.kind == "multitask" and record.status == "done":
            seeds = (record.settings["upstream_seed"], record.settings["seed"])
            found = together if record.settings["learned"] == TOGETHER else alone
            for name, value in record.result["test_by_dataset"].items():
                if value is not None:
                    found.setdefault(name, {})[seeds] = float(value)
    return alone, together


def _gains(
    name: str, alone: Mapping[str, Mapping[Seeds, float]], together: Mapping[str, Mapping[Seeds, float]]
) -> dict[int, float]:
    sign = 1.0 if BENCHMARKS[name].metric in LARGER_IS_BETTER else -1.0
    ours, theirs = by_pretraining(together[name]), by_pretraining(alone[name])
    return {seed: sign * (ours[seed] - theirs[seed]) / abs(theirs[seed]) for seed in ours.keys() & theirs.keys()}


def _p_over_sets(gains: Sequence[Mapping[int, float]]) -> str:
    p_value = wilcoxon_test([float(np.mean(list(one.values()))) for one in gains])
    return "" if p_value is None else f"; Wilcoxon's signed ranks over the sets, p = {p_value:.2g}"


def _shared(records: Sequence[Record], group: str) -> str:
    """What a test over data sets rests on: how far their test molecules are different ones."""
    for record in records:
        if record.key.startswith(f"multitask/{group}/") and (found := record.result.get("shared_test_molecules")):
            return f"; {found[0]} of {found[1]} test molecules are in the test part of more than one set"
    return ""


def _p_text(test: Significance) -> str:
    return "" if test.p_value is None else f", p = {test.p_value:.2g} over {test.count} pretrainings"


def _target_names(dataset: str, table: LabelledTable) -> tuple[str, ...]:
    """Unique in a group, whatever the columns of the files are called."""
    return tuple(f"{dataset}_{number}" for number in range(len(table.names)))


def _score(dataset: str, table: LabelledTable, targets: Mapping[str, Mapping[str, float | None]]) -> float | None:
    """The data set's own metric, the mean over its countable targets."""
    metric = table.metric.removesuffix("_z")
    values = [targets[name][metric] for name in _target_names(dataset, table) if name in targets]
    known = [value for value in values if value is not None]
    scale = table.scale if table.metric.endswith("_z") else 1.0
    return float(np.mean(known)) / scale if known else None


def _key(text: str) -> str:
    outcome = parse_smiles(text)
    return connectivity_key(outcome.mol) if isinstance(outcome, Molecule) else ""
