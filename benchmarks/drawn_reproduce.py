"""Tables of result pages from the cells of `dnd reproduce`: `docs/results/cpu` and `docs/results/small`."""

from __future__ import annotations

import csv
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import claims
from result_lines import RESULTS, markdown_table, read_records

from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX, TARGETS
from dnd.reproduction.budgets import BUDGETS
from dnd.reproduction.ccmd import write_ccmd
from dnd.reproduction.label_efficiency import curves_of, draw_label_efficiency
from dnd.reproduction.locality import Row, pattern_of
from dnd.reproduction.multitask import write_multitask
from dnd.reproduction.protocol import FOUR_SETS, Request, plan
from dnd.reproduction.results import Record
from dnd.reproduction.systems import CONFORMERS, STUDENTS, SYSTEMS, TABLE_1, TABLE_2, TABLE_6, TEACHERS
from dnd.reproduction.table_report import write_table
from dnd.reproduction.tables import Entry, entries, gain_by_pretraining, metric_name, pooling_name

# RandInit with layer decay was part of the QM9 table of before its protocol was corrected.
_OLD_TABLE_6 = ("randinit-0.65", *TABLE_2)
_OLD_TABLES = (("table1", TABLE_1), ("table6", _OLD_TABLE_6))
"""Whole tables of the `cpu` run and their systems. Its cells have the keys of 0.1.0, so no plan of today lists them."""
_OPEN_QUESTIONS = {
    name: Request(name, BUDGETS["small"], systems=tuple(systems), upstream_seeds=(1,))
    for name, systems in (("students", STUDENTS), ("teachers", TEACHERS), ("conformers", CONFORMERS))
}
"""Tables of one pretraining, which share cells with Table 1 of three."""
_REQUESTS = (
    Request("table1", BUDGETS["small"]),
    Request("table6", BUDGETS["small"]),
    *_OPEN_QUESTIONS.values(),
)
"""Whole tables of `dnd reproduce` at other budgets."""
_REPORTS = {("small", "ccmd"): write_ccmd, ("small", "multitask"): write_multitask}
"""Budget and name of each whole report of `dnd reproduce` that is no table of systems, and what writes it."""


def redraw_tables(*, write: bool) -> list[Path]:
    """The whole tables of `dnd reproduce` that differ from their cells; with `write` they are replaced."""
    stale = []
    records = read_records(RESULTS / "cpu" / "results.jsonl.gz")
    for what, systems in _OLD_TABLES:
        draw = partial(write_table, what, BUDGETS["cpu"], cells_of_table(records, what, systems))
        stale += _redraw_whole("cpu", what, draw, write=write)
    for request in _REQUESTS:
        own = cells_of(request)
        draw = partial(write_table, request.what, request.budget, own)
        stale += _redraw_whole(request.budget.name, request.what, draw, write=write)
    for (budget, what), write_report in _REPORTS.items():
        records = read_records(RESULTS / budget / "results.jsonl.gz")
        stale += _redraw_whole(budget, what, partial(write_report, records), write=write)
    return stale + _redraw_whole("small", "fig5", figure_5, write=write, kinds=("csv", "txt"))


def figure_5(folder: Path) -> None:
    """Figure 5 at the `small` budget, with mean pooling, from one pretraining."""
    cells = cells_of(Request("fig5", BUDGETS["small"], upstream_seeds=(1,)))
    own = [one for one in cells if one.settings.get("pooling") == "mean"]
    order = list(BENCHMARKS)
    own.sort(key=lambda one: order.index(one.settings["dataset"]))
    curves = curves_of(own, {name: benchmark.paper_name for name, benchmark in BENCHMARKS.items()})
    draw_label_efficiency(curves, name="fig5").write(folder)


def _redraw_whole(
    budget: str, what: str, draw: Callable[[Path], object], *, write: bool, kinds: Sequence[str] = ("md", "csv")
) -> list[Path]:
    """The files of a report where they differ from what `draw` writes into a folder."""
    stale = []
    with tempfile.TemporaryDirectory() as scratch:
        draw(Path(scratch))
        for name in (f"{what}.{kind}" for kind in kinds):
            path, drawn = RESULTS / budget / name, (Path(scratch) / name).read_text(encoding="utf-8")
            if not path.is_file() or drawn != path.read_text(encoding="utf-8"):
                stale.append(path)
                if write:
                    path.write_text(drawn, encoding="utf-8")
    return stale


def cells_of(request: Request, path: Path | None = None) -> list[Record]:
    """The finished cells of a table or figure, in the results file `path` or that of the budget in the repository."""
    keys = {cell.key for cell in plan(request)}
    path = path or RESULTS / request.budget.name / "results.jsonl.gz"
    return [one for one in read_records(path) if one.key in keys]


def cells_of_table(records: Sequence[Record], what: str, systems: Sequence[str]) -> list[Record]:
    """The cells of a table of the `cpu` run: its own data sets and systems, and the pretrainings of its track."""
    of_qm9 = what == "table6"
    found = []
    for record in records:
        dataset = str(record.settings.get("dataset", record.key))
        in_table = record.settings.get("system", systems[0]) in systems and "/ccmd-" not in record.key
        fraction = record.settings.get("fraction", 1.0)
        if dataset.startswith("qm9") == of_qm9 and in_table and fraction >= 1 and "distill-ccmd" not in record.key:
            found.append(record)
    return found


def means_table(found: Sequence[Entry], systems: Sequence[str], datasets: Sequence[str]) -> list[str]:
    """Means by system, pooling and data set, of the systems that were run."""
    held = {(entry.system, entry.pooling, entry.dataset): entry for entry in found if entry.dataset in datasets}
    poolings = list(dict.fromkeys(pooling for _, pooling, _ in held))
    lines = [
        (one, pooling) for one in systems for pooling in poolings if any((one, pooling, n) in held for n in datasets)
    ]
    several = len({pooling for pooling in poolings if pooling}) > 1
    heads = [_head(next(entry for entry in held.values() if entry.dataset == name)) for name in datasets]
    rows = []
    for one, pooling in lines:
        label = f"{SYSTEMS[one].label} {pooling_name(pooling) if several else ''}".strip()
        cells = [held.get((one, pooling, name)) for name in datasets]
        rows.append([label, *("–" if entry is None else f"{entry.mean:.4g}" for entry in cells)])
    return markdown_table(["system", *heads], rows)


def beside_controls(request: Request, path: Path) -> list[str]:
    """Means of systems on the four sets of the open questions, and the mean gain of each over its control."""
    held = {(one.system, one.dataset): one for one in entries(cells_of(request, path)) if one.pooling == "mean"}
    systems = [name for name in request.systems if all((name, dataset) in held for dataset in FOUR_SETS)]
    rows = []
    for name in systems:
        control = SYSTEMS[name].control
        row = [SYSTEMS[name].label, *(f"{held[name, dataset].mean:.4g}" for dataset in FOUR_SETS), ""]
        if control in systems and control != name:
            gains = [_gain(held[name, dataset], held[control, dataset]) for dataset in FOUR_SETS]
            row[-1] = f"{100 * statistics.mean(gains):+.1f} %, {sum(one > 0 for one in gains)} of {len(gains)}"
        rows.append(row)
    heads = [_head(held[systems[0], dataset]) for dataset in FOUR_SETS]
    return markdown_table(["system", *heads, "mean gain over its control, better on"], rows)


def _gain(entry: Entry, control: Entry) -> float:
    """Mean relative gain over pretrainings, positive = better."""
    return statistics.mean(gain_by_pretraining(entry, control).values())


def table_1(path: Path) -> list[str]:
    """Table 1 on the sets that were run."""
    found = entries(read_records(path))
    datasets = [name for name in BENCHMARKS if any(entry.dataset == name for entry in found)]
    return means_table(found, TABLE_1, datasets)


_FEW_OF_A_CLASS = ("hiv",)  # two active molecules in the reduced test part: its ROC-AUC moves by 0.5 with one of them


def gains_of_table_1(path: Path) -> list[str]:
    """Mean gain of each pretrained system of Table 1 over both kinds of random weights, by pooling and task.

    A gain is that over sets of the means over pretrainings; in brackets are the lowest and highest of a pretraining.
    """
    held = {(entry.dataset, entry.system, entry.pooling): entry for entry in entries(read_records(path))}
    values = [name for name in BENCHMARKS if BENCHMARKS[name].task == "regression"]
    classes = [name for name in BENCHMARKS if name not in (*values, *_FEW_OF_A_CLASS)]
    rows = []
    for name in [one for one in TABLE_1 if SYSTEMS[one].upstream not in ("random", "classical")]:
        for pooling in ("mean", "virtual_node"):
            row = [f"{SYSTEMS[name].label} {pooling_name(pooling)}"]
            for control in ("randinit-1.0", "randinit-0.65"):
                pairs = {n: (held[n, name, pooling], held[n, control, pooling]) for n in (*values, *classes)}
                gains = [{seed: 100 * gain for seed, gain in gain_by_pretraining(*pairs[n]).items()} for n in values]
                row += [_over_sets(gains, ".1f", " %"), _over_sets([_differences(*pairs[n]) for n in classes], ".3f")]
            rows.append(row)
    heads = [f"{kind}, against layer decay {decay}" for decay in ("1.0", "0.65") for kind in ("values", "classes")]
    return markdown_table(["system", *heads], rows)


def _differences(entry: Entry, control: Entry) -> dict[int, float]:
    """Difference of the means by pretraining."""
    theirs = control.by_pretraining
    return {seed: mean - theirs[seed] for seed, mean in entry.by_pretraining.items() if seed in theirs}


def _over_sets(by_set: Sequence[Mapping[int, float]], digits: str, unit: str = "") -> str:
    """Mean over sets, its range over pretrainings if there are several, and on how many sets it is positive."""
    means = [statistics.mean(own.values()) for own in by_set]
    shared = set.intersection(*map(set, by_set))
    each = [statistics.mean(own[seed] for own in by_set) for seed in shared]
    spread = f" ({min(each):+{digits}} to {max(each):+{digits}})" if len(each) > 1 else ""
    return f"{statistics.mean(means):+{digits}}{unit}{spread}, {sum(one > 0 for one in means)} of {len(means)}"


def table_6(path: Path) -> list[str]:
    """Table 6."""
    systems = ("randinit-0.65", *TABLE_6)
    return means_table(entries(read_records(path)), systems, [f"{QM9_PREFIX}{name}" for name in TARGETS])


def ccmd_ablation(path: Path) -> list[str]:
    """CCMD's alignments by a teacher without labels, finetuned."""
    held = {(entry.system, entry.dataset): entry for entry in entries(read_records(path))}
    names = {
        "randinit-1.0": "RandInit, layer decay 1.0",
        "ccmd-global": "global only",
        "ccmd-mean": "global + local mean (1/N)",
        "coordinated": "coordinated (1/N²)",
    }
    datasets = ("esol", "bp", "ri")
    rows = []
    for name, label in names.items():
        own = [held[name, dataset] for dataset in datasets]
        rows.append([label, *(f"{entry.mean:.3f} ± {entry.deviation or 0:.3f}" for entry in own)])
    heads = [f"{BENCHMARKS[name].paper_name} {_metric(BENCHMARKS[name].metric)}" for name in datasets]
    return markdown_table(["system", *heads], rows)


def report_table(write_report: Callable[[Sequence[Record], Path], str], path: Path) -> list[str]:
    """The table of a report of `dnd reproduce`."""
    with tempfile.TemporaryDirectory() as scratch:
        text = write_report(read_records(path), Path(scratch))
    return [line for line in text.splitlines() if line.startswith("|")]


def read_locality(path: Path) -> list[Row]:
    """The lines of `benchmarks/locality.py`."""
    with open(path, newline="", encoding="utf-8") as stream:
        return [
            (row["dataset"], float(row["additive_share"]), int(row["upstream_seed"]), float(row["gain_of_node"]),
             float(row["node"]), float(row["graph"]))
            for row in csv.DictReader(stream)
        ]  # fmt: skip


def locality(path: Path) -> list[str]:
    """Locality of each property beside the two distillations."""
    rows = []
    for name, share, _, gain, node, graph in sorted(read_locality(path), key=lambda row: -row[1]):
        target = name.removeprefix(QM9_PREFIX)
        label = (
            f"QM9 {target}, MAE"
            if name not in BENCHMARKS
            else (f"{BENCHMARKS[name].paper_name}, {_metric(BENCHMARKS[name].metric)}")
        )
        rows.append([label, f"{share:.2f}", f"{node:.4g}", f"{graph:.4g}", f"{100 * gain:+.1f} %"])
    return markdown_table(["property", "additive share", "NODE", "GRAPH", "gain of NODE"], rows)


def locality_pattern(path: Path) -> list[str]:
    """Whether locality says which of the two is better."""
    rows = read_locality(path)
    sets = pattern_of([row for row in rows if row[0] in BENCHMARKS])
    values = pattern_of([row for row in rows if row[0] in BENCHMARKS and BENCHMARKS[row[0]].task == "regression"])
    qm9 = pattern_of([row for row in rows if row[0] not in BENCHMARKS])
    return [
        f"- Data sets of Table 1: {sets.sentence}",
        f"- Of these, those with values instead of classes: {values.sentence}",
        f"- Targets of QM9, which share their molecules, so that there is no test: the correlation is {qm9.whole:+.2f} "
        f"({min(qm9.left_out):+.2f} to {max(qm9.left_out):+.2f} when one is left out).",
    ]


def sentence(path: Path) -> list[str]:
    """What a figure says, as the run wrote it."""
    return path.read_text(encoding="utf-8").strip().splitlines()


def gains_against_rivals(path: Path) -> list[str]:
    """Gains against each rival, as `claims.py` draws them."""
    lines: list[str] = claims.gains(path)
    return lines


def label_efficiency(path: Path) -> list[str]:
    """Test error by system and number of training molecules, means over seeds."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    heads = list(dict.fromkeys((row["dataset"], row["train_molecules"]) for row in rows))
    scores = {
        system: [
            [float(row["score"]) for row in rows
             if (row["system"], row["dataset"], row["train_molecules"]) == (system, *head)]
            for head in heads
        ]
        for system in dict.fromkeys(row["system"] for row in rows)
    }  # fmt: skip
    return markdown_table(
        ["system", *(f"{dataset}, {molecules}" for dataset, molecules in heads)],
        [[system, *(f"{statistics.mean(values):.3g}" for values in own)] for system, own in scores.items()],
    )


def few_labels_of_table_1(path: Path) -> list[str]:
    """Test scores with the smallest subset of the training labels and with all of them, by data set."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    fractions = sorted({float(row["fraction"]) for row in rows})[:: len({row["fraction"] for row in rows}) - 1]
    systems = list(dict.fromkeys(row["system"] for row in rows))
    lines = []
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        cells = [dataset]
        for system in systems:
            for fraction in fractions:
                own = [
                    float(row["score"])
                    for row in rows
                    if (row["dataset"], row["system"], float(row["fraction"])) == (dataset, system, fraction)
                ]
                cells.append(f"{statistics.mean(own):.3g}" if own else "–")
        lines.append(cells)
    heads = [f"{system}, {100 * fraction:.0f} %" for system in systems for fraction in fractions]
    return markdown_table(["set", *heads], lines)


def _head(entry: Entry) -> str:
    if entry.dataset.startswith(QM9_PREFIX):
        target = entry.dataset.removeprefix(QM9_PREFIX)
        return f"{target}, {TARGETS[target][0]}"
    return f"{BENCHMARKS[entry.dataset].paper_name} {metric_name(entry.metric)}"


def _metric(metric: str) -> str:
    return metric_name(metric).rpartition(" ")[0]


DRAWN: dict[str, Callable[[Path], list[str]]] = {
    "table1": table_1,
    "table1-gains": gains_of_table_1,
    "students": partial(beside_controls, _OPEN_QUESTIONS["students"]),
    "teachers": partial(beside_controls, _OPEN_QUESTIONS["teachers"]),
    "conformers": partial(beside_controls, _OPEN_QUESTIONS["conformers"]),
    "few-labels": few_labels_of_table_1,
    "multitask": partial(report_table, write_multitask),
    "table6": table_6,
    "ccmd-ablation": ccmd_ablation,
    "ccmd": partial(report_table, write_ccmd),
    "locality": locality,
    "locality-pattern": locality_pattern,
    "fig3": sentence,
    "fig4": sentence,
    "fig5": label_efficiency,
    "fig5-sentence": sentence,
    "claims": gains_against_rivals,
}
