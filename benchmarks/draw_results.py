"""Draws the tables of the result pages from the files of raw results beside them.

    python benchmarks/draw_results.py            # writes the tables into their pages
    python benchmarks/draw_results.py --check    # says which table differs from its file, and fails if one does

A drawn table stands between `<!-- drawn from FILE: NAME -->` and `<!-- end of NAME -->` and has a function here, by its
name in `DRAWN`. A table of results without a file says so in its section, with the words of `NOT_KEPT`. Any other table
is marked with `BY_HAND` and where its entries are from. `docs/results/README.md` lists all of them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import encoder_arms
import fast_features
from result_lines import read_records
from scipy import stats

from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX, TARGETS
from dnd.reproduction.budgets import BUDGETS
from dnd.reproduction.ccmd import write_ccmd
from dnd.reproduction.further_sets import BIOGEN, MOLECULEACE
from dnd.reproduction.label_efficiency import curves_of, draw_label_efficiency
from dnd.reproduction.locality import Row, pattern_of
from dnd.reproduction.multitask import write_multitask
from dnd.reproduction.protocol import FOUR_SETS, Request, plan
from dnd.reproduction.results import Record
from dnd.reproduction.systems import CONFORMERS, STUDENTS, SYSTEMS, TABLE_1, TABLE_2, TEACHERS
from dnd.reproduction.table_report import write_table
from dnd.reproduction.tables import Entry, entries, gain_by_pretraining, metric_name, pooling_name

DOCS = Path(__file__).resolve().parents[1] / "docs"
RESULTS = DOCS / "results"
NOT_KEPT = "Measured once; the raw lines were not kept."
BY_HAND = "<!-- by hand from "  # settings, judgements, numbers counted on paper
_MARKER = re.compile(
    r"<!-- drawn from (?P<file>\S+): (?P<name>[\w-]+) -->\n(?P<text>.*?)\n?<!-- end of (?P=name) -->", re.DOTALL
)
_CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
_MEASURED = re.compile(r"(?<![\d.])\d+\.\d+(?!\.?\d)")
_SOURCE = re.compile(r"<!-- by hand from |\.csv|\.jsonl?\b|results/\w+/`")
# RandInit with layer decay was part of the QM9 table of before its protocol was corrected.
_OLD_TABLE_6 = ("randinit-0.65", *TABLE_2)
_OLD_TABLES = (("table1", TABLE_1), ("table6", _OLD_TABLE_6))
"""Whole tables of the `cpu` run and their systems. Its cells have the keys of 0.1.0, so no plan of today lists them."""
_REQUESTS = (
    *(Request(what, BUDGETS["small"]) for what in ("table1", "students", "teachers", "conformers")),
    Request("table6", BUDGETS["small"], systems=TABLE_2),
)
"""Whole tables of `dnd reproduce` at other budgets."""
_REPORTS = {("small", "ccmd"): write_ccmd, ("small", "multitask"): write_multitask}
"""Budget and name of each whole report of `dnd reproduce` that is no table of systems, and what writes it."""


def main() -> None:
    """Write or check every drawn table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [f"{page.relative_to(DOCS)}: {name}" for page in pages() for name in redraw(page, write=not check)]
    stale += [str(path.relative_to(DOCS)) for path in redraw_tables(write=not check)]
    print("\n".join(stale) or "every drawn table is that of its file")
    if check and stale:
        sys.exit("run python benchmarks/draw_results.py")


# Drawn by the scripts that measure, such as `handedness.py` and `encoder_value.py`, whose tests compare them.
DRAWN_BY_SCRIPTS = frozenset(
    {
        "handedness.md",
        "features.md",
        "compress.md",
        "encoder-value.md",
        "properties.md",
        "points.md",
        "who_judges.md",
        "forest_trees.md",
        "few_labels.md",
        "conformer_quality.md",
    }
)


def pages() -> list[Path]:
    """The pages whose numbers are results."""
    return [
        page for page in [*sorted(RESULTS.glob("*.md")), DOCS / "performance.md"] if page.name not in DRAWN_BY_SCRIPTS
    ]


def redraw(page: Path, *, write: bool) -> list[str]:
    """Names of the tables of `page` that differ from their files; with `write` they are replaced."""
    stale: list[str] = []

    def drawn(match: re.Match[str]) -> str:
        name, lines = match["name"], DRAWN[match["name"]](page.parent / match["file"])
        if "\n".join(lines) != match["text"]:
            stale.append(name)
        return "\n".join([match[0].partition("\n")[0], *lines, f"<!-- end of {name} -->"])

    text = page.read_text(encoding="utf-8")
    found = _MARKER.sub(drawn, text)
    if write and stale:
        page.write_text(found, encoding="utf-8")
    return stale


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
    """Figure 5 at the `small` budget, with mean pooling."""
    own = [one for one in cells_of(Request("fig5", BUDGETS["small"])) if one.settings.get("pooling") == "mean"]
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


def cells_of(request: Request) -> list[Record]:
    """The finished cells of a table or figure that are in the repository."""
    keys = {cell.key for cell in plan(request)}
    return [one for one in read_records(RESULTS / request.budget.name / "results.jsonl.gz") if one.key in keys]


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


def unaccounted(text: str) -> list[str]:
    """Heads of the tables of a page that are neither drawn from a file nor said to have none nor marked as by hand.

    `NOT_KEPT` holds to the end of its section (`##`), `BY_HAND` for the table in the next line.
    """
    heads: list[str] = []
    excused = False
    lines = ["", *_MARKER.sub("", text).splitlines()]
    for before, line in pairwise(lines):
        if line.startswith(("# ", "## ")):
            excused = False
        excused = excused or NOT_KEPT in line
        begins = line.startswith("|") and not before.startswith("|")
        if begins and not excused and not before.startswith(BY_HAND):
            heads.append(line)
    return heads


def unsourced(text: str) -> list[str]:
    """Heads of the sections (`##`) of a page whose sentences have measured numbers, and that name no file of them.

    A section has a source where something in it is drawn or by hand from a file, or where it names a file of raw lines
    or says, with `NOT_KEPT`, that there is none.
    """
    found = []
    for section in re.split(r"(?m)^(?=## )", text)[1:]:
        sentences = "\n".join(line for line in _CODE.sub("", section).splitlines() if not line.startswith(("|", "#")))
        sourced = _MARKER.search(section) or _SOURCE.search(section) or NOT_KEPT in " ".join(section.split())
        if _MEASURED.search(sentences) and not sourced:
            found.append(section.partition("\n")[0])
    return found


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


# --- docs/results/cpu and docs/results/small: cells of `dnd reproduce --budget cpu` and `--budget small`


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
    return table(["system", *heads], rows)


def beside_controls(systems: Sequence[str], path: Path) -> list[str]:
    """Means of systems on the four sets of the open questions, and the mean gain of each over its control."""
    held = {(entry.system, entry.dataset): entry for entry in entries(read_records(path)) if entry.pooling == "mean"}
    systems = [name for name in systems if all((name, dataset) in held for dataset in FOUR_SETS)]
    rows = []
    for name in systems:
        control = SYSTEMS[name].control
        row = [SYSTEMS[name].label, *(f"{held[name, dataset].mean:.4g}" for dataset in FOUR_SETS), ""]
        if control in systems and control != name:
            gains = [_gain(held[name, dataset], held[control, dataset]) for dataset in FOUR_SETS]
            row[-1] = f"{100 * statistics.mean(gains):+.1f} %, {sum(one > 0 for one in gains)} of {len(gains)}"
        rows.append(row)
    heads = [_head(held[systems[0], dataset]) for dataset in FOUR_SETS]
    return table(["system", *heads, "mean gain over its control, better on"], rows)


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
    """Mean gain of each pretrained system of Table 1 over both kinds of random weights, by pooling and task."""
    held = {(entry.dataset, entry.system, entry.pooling): entry for entry in entries(read_records(path))}
    values = [name for name in BENCHMARKS if BENCHMARKS[name].task == "regression"]
    classes = [name for name in BENCHMARKS if name not in (*values, *_FEW_OF_A_CLASS)]
    rows = []
    for name in [one for one in TABLE_1 if SYSTEMS[one].upstream not in ("random", "classical")]:
        for pooling in ("mean", "virtual_node"):
            row = [f"{SYSTEMS[name].label} {pooling_name(pooling)}"]
            for control in ("randinit-1.0", "randinit-0.65"):
                pairs = {n: (held[n, name, pooling], held[n, control, pooling]) for n in (*values, *classes)}
                gains = [_gain(*pairs[n]) for n in values]
                areas = [pairs[n][0].mean - pairs[n][1].mean for n in classes]
                row.append(f"{100 * statistics.mean(gains):+.1f} %, {sum(one > 0 for one in gains)} of {len(gains)}")
                row.append(f"{statistics.mean(areas):+.3f}, {sum(one > 0 for one in areas)} of {len(areas)}")
            rows.append(row)
    heads = [f"{kind}, against layer decay {decay}" for decay in ("1.0", "0.65") for kind in ("values", "classes")]
    return table(["system", *heads], rows)


def table_6(path: Path) -> list[str]:
    """Table 6."""
    return means_table(entries(read_records(path)), _OLD_TABLE_6, [f"{QM9_PREFIX}{name}" for name in TARGETS])


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
    return table(["system", *heads], rows)


def report_table(write_report: Callable[[Sequence[Record], Path], str], path: Path) -> list[str]:
    """The table of a report of `dnd reproduce`."""
    with tempfile.TemporaryDirectory() as scratch:
        text = write_report(read_records(path), Path(scratch))
    return [line for line in text.splitlines() if line.startswith("|")]


def conformer_quality(path: Path) -> list[str]:
    """What the geometries are worth."""
    labels = {"DFT": "DFT", "MMFF": "MMFF94s", "raw ETKDG": "ETKDGv3, unrelaxed"}
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [
            [
                labels[row["conformers"]],
                f"{float(row['bond_shift']):.3f} Å",
                f"{float(row['denoising_explained']):.3f}",
                f"{float(row['distill_r2']):.3f}",
                f"{float(row['valid_rmse']):.3f}",
                f"{float(row['test_rmse']):.3f} ± {float(row['test_rmse_std']):.3f}",
            ]
            for row in csv.DictReader(stream)
        ]
    heads = [
        "conformers", "bonded distances differ from DFT by", "noise explained", "distillation R²",
        "ESOL, validation RMSE", "ESOL, test RMSE",
    ]  # fmt: skip
    return table(heads, rows)


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
    return table(["property", "additive share", "NODE", "GRAPH", "gain of NODE"], rows)


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


# --- docs/results/predictor.jsonl: cells of `benchmarks/compare.py`


def predictor(path: Path) -> list[str]:
    """Scores and costs of all systems, as `compare.py` draws them."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines: list[str] = _script("compare").table(records)
    return lines


def claims(path: Path) -> list[str]:
    """Gains against each rival, as `claims.py` draws them."""
    lines: list[str] = _script("claims").gains(path)
    return lines


def _script(name: str) -> ModuleType:
    """A script beside this one."""
    spec = spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where a dataclass looks for the names in its annotations
    spec.loader.exec_module(module)
    return module


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
    return table(
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
    return table(["set", *heads], lines)


# --- docs/results/further: cells of `benchmarks/compare.py` on MoleculeACE and Biogen

_OURS_LABELS = {
    "fast": "`fast`", "best": "`best`", "maplight": "MapLight, rebuilt", "svm-ecfp": "SVM on ECFP, rebuilt",
    "rf-counts": "forest on counts", "rf-both": "forest on counts and descriptors", "chemprop": "chemprop 2",
}  # fmt: skip
_PUBLISHED_LABELS = {
    "CheMeleon": "CheMeleon, published", "SVM": "SVM on ECFP, published", "minimol": "MiniMol + MLP, published",
    "RF_Morgan": "forest on Morgan, published", "Chemprop": "chemprop, published",
}  # fmt: skip


def moleculeace(path: Path) -> list[str]:
    """Errors on the fifteen sets beside published ones on the same split."""
    found = errors_by_system(path, MOLECULEACE)
    beside = published_errors()
    lines = _table_of_errors({**found["value"], **beside["value"]}, MOLECULEACE)
    cliffs = _table_of_errors({**found["cliff_value"], **beside["cliff_value"]}, MOLECULEACE)[-1]
    return [*lines, cliffs.replace("| mean |", "| mean on activity cliffs |")]


def biogen(path: Path) -> list[str]:
    """Errors on the six endpoints."""
    return _table_of_errors(errors_by_system(path, BIOGEN)["value"], BIOGEN)


def fourteen(path: Path) -> list[str]:
    """`fast` of 0.1.0, of 0.2.0 and since then on the paper's sets: scores, means over seeds, and CPU seconds."""
    compared, of_0_2 = (
        [json.loads(line) for line in one.read_text(encoding="utf-8").splitlines()]
        for one in (path.parent.parent / "predictor.jsonl", path)
    )
    of_0_1 = [line for line in compared if line["versions"]["dnd"] == "0.1.0"]
    since = [line for line in compared if line["versions"]["dnd"] != "0.1.0"]
    rows = []
    for name in BENCHMARKS:
        runs = [
            [one for one in lines if (one["dataset"], one["system"]) == (name, "fast")]
            for lines in (of_0_1, of_0_2, since)
        ]
        if not all(runs):
            continue
        assert len({tuple(sorted(one["seed"] for one in own)) for own in runs}) == 1, f"{name} has the same seeds"
        sizes, metric = runs[-1][0]["molecules"], runs[-1][0]["metric"]
        values = [statistics.fmean(one["value"] for one in own) for own in runs]
        best = max(values) if metric == "rocauc" else min(values)
        rows.append([
            f"{name} ({metric})", f"{sum(sizes.values())} of {runs[-1][0]['available']}", str(len(runs[-1])),
            *(_bold(f"{value:.3f}", value == best) for value in values),
            *(f"{statistics.fmean(one['cpu_seconds'] for one in own):.0f}" for own in runs),
        ])  # fmt: skip
    names = ["0.1.0", "0.2.0", "since"]
    return table(["set", "molecules", "seeds", *names, *(f"CPU s, {name}" for name in names)], rows)


def finetuned(path: Path) -> list[str]:
    """A student finetuned from an encoder and from random weights: scores, and the change in the mean over seeds."""
    runs: dict[str, dict[bool, dict[int, dict]]] = {}
    for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        runs.setdefault(line["dataset"], {}).setdefault(line["encoder"] == "random", {})[line["seed"]] = line
    rows, changes = [], {"rocauc": [], "error": []}
    for name in (name for name in BENCHMARKS if len(runs.get(name, {})) == 2):
        seeds = sorted(runs[name][True].keys() & runs[name][False].keys())
        random, taught = ([runs[name][kind][seed]["value"] for seed in seeds] for kind in (True, False))
        first = runs[name][False][seeds[0]]
        kind = "rocauc" if first["metric"] == "rocauc" else "error"
        mean, before = statistics.fmean(taught), statistics.fmean(random)
        changes[kind].append(mean - before if kind == "rocauc" else mean / before - 1)
        rows.append([
            f"{name} ({first['metric']})", f"{sum(first['molecules'].values())} of {first['available']}",
            str(len(seeds)),
            f"{before:.3f}", _bold(f"{mean:.3f}", (changes[kind][-1] > 0) == (kind == "rocauc")),
            _changed(changes[kind][-1], kind),
        ])  # fmt: skip
    for kind, sets in (("error", "regression"), ("rocauc", "classes")):
        if found := changes[kind]:
            better = sum((one > 0) == (kind == "rocauc") for one in found)
            shown = f"{_changed(statistics.fmean(found), kind)}, better on {better} of {len(found)}"
            rows.append([f"mean of {sets}", "", "", "", "", shown])
    return table(["set", "molecules", "seeds", "random weights", "`dnd-base`", "change"], rows)


def _changed(change: float, kind: str) -> str:
    return f"{change:+.3f}" if kind == "rocauc" else f"{100 * change:+.1f} %"


def large_sets(path: Path) -> list[str]:
    """`fast` with and without the Gaussian process on sets beyond 5,000 molecules."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [
            [
                row["set"], row["molecules"], "with" if "gaussian" in row["members"] else "without",
                f"{float(row['mae_out_of_fold']):.3f}", f"{float(row['mae_test']):.3f}",
                f"{float(row['cpu_seconds']):.0f}", row["peak_mb"],
            ]
            for row in csv.DictReader(stream)
        ]  # fmt: skip
    heads = ["set", "development molecules", "process", "MAE out of fold", "MAE, test", "CPU s", "peak MB"]
    return table(heads, rows)


def errors_by_system(path: Path, sets: Sequence[str]) -> dict[str, dict[str, dict[str, float]]]:
    """`value` or `cliff_value` → label of a system → set → mean over seeds; of systems that have all sets.

    Lines of `fast` are those of `path`, lines of others those of `rivals.jsonl` beside it.
    """
    runs: dict[tuple[str, str, str], list[float]] = {}
    texts = [one.read_text(encoding="utf-8") for one in (path, path.with_name("rivals.jsonl"))]
    for line in map(json.loads, "".join(texts).splitlines()):
        for kind in ("value", "cliff_value"):
            if line["dataset"] in sets and kind in line:
                runs.setdefault((kind, line["system"], line["dataset"]), []).append(line[kind])
    found: dict[str, dict[str, dict[str, float]]] = {"value": {}, "cliff_value": {}}
    for kind, own in found.items():
        for system, label in _OURS_LABELS.items():
            if all((kind, system, name) in runs for name in sets):
                own[label] = {name: statistics.fmean(runs[kind, system, name]) for name in sets}
    return found


def published_errors() -> dict[str, dict[str, dict[str, float]]]:
    """The same from the files of published numbers on MoleculeACE."""
    found: dict[str, dict[str, dict[str, float]]] = {"value": {}, "cliff_value": {}}
    folder = DOCS.parent / "data/moleculeace"
    kinds = {"overall test rmse": "value", "cliff test rmse": "cliff_value"}
    for row in _packed_rows(folder / "published_chemeleon_repository.csv.gz"):
        if row["model"] in _PUBLISHED_LABELS:
            own = found[kinds[row["metric"]]].setdefault(_PUBLISHED_LABELS[row["model"]], {})
            own[row["target"]] = float(row["mean"])
    for row in _packed_rows(folder / "published_moleculeace_paper.csv.gz"):
        if (row["algorithm"], row["descriptor"], row["augmentation"]) == ("SVM", "ECFP", "0"):
            for kind, name in (("value", "rmse"), ("cliff_value", "cliff_rmse")):
                found[kind].setdefault(_PUBLISHED_LABELS["SVM"], {})[row["dataset"]] = float(row[name])
    return found


def _packed_rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _table_of_errors(found: dict[str, dict[str, float]], sets: Sequence[str]) -> list[str]:
    """A row per set, then who is ahead of the first system on how many, and the means."""
    first = next(iter(found))
    rows = []
    for name in sets:
        least = min(own[name] for own in found.values())
        rows.append([name, *(_bold(f"{own[name]:.3f}", own[name] == least) for own in found.values())])
    behind = [sum(own[name] > found[first][name] for name in sets) for own in found.values()]
    tests = [
        "–"
        if label == first
        else f"{count} of {len(sets)} (p = {stats.wilcoxon([found[first][n] - own[n] for n in sets]).pvalue:.2g})"
        for (label, own), count in zip(found.items(), behind, strict=True)
    ]
    means = [statistics.fmean(own[name] for name in sets) for own in found.values()]
    rows.append([f"{first} is ahead on", *tests])
    rows.append(["mean", *(_bold(f"{mean:.3f}", mean == min(means)) for mean in means)])
    return table(["set", *found], rows)


def _bold(text: str, yes: bool) -> str:
    return f"**{text}**" if yes else text


# --- docs/results/performance: repetitions of `dnd bench`


def bench_tables(path: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The tables of a bench by title and reference."""
    found = json.loads(path.read_text(encoding="utf-8"))["tables"]
    return {(one["title"], one["reference"]): one for one in found}


def median_of(one: dict[str, Any], name: str, key: str = "seconds") -> float:
    """Median over the repetitions of a line, in seconds."""
    return statistics.median(next(line[key] for line in one["lines"] if line["name"] == name))


def ratio_of(one: dict[str, Any], name: str, digits: int = 1, *, with_range: bool = True) -> str:
    """A ratio with its range over the repetitions."""
    ratio = one["ratios"][name]
    text = f"{ratio['ratio']:.{digits}f}"
    low, high = (f"{value:.{digits}f}" for value in ratio["range"])
    return f"{text} ({low}-{high})" if with_range and low != high else text


def added_memory(one: dict[str, Any], name: str) -> float:
    """MiB at the peak of a line."""
    return float(next(line["peak_mb"] for line in one["lines"] if line["name"] == name))


def default_model(path: Path) -> list[str]:
    """What the default model costs, against RDKit's descriptors and two forests."""
    rdkit, forests = "RDKit CalcMolDescriptors", "random forests on counts and on descriptors"
    lean = "the 118 that members see beside a representation"
    labels = {
        ("SMILES -> answer", rdkit): {
            rdkit: "RDKit's `MolFromSmiles` and `CalcMolDescriptors`",
            "a model of the default recipe": "a model of the default recipe, with intervals and domain",
            "the 33 ready-made properties": "the 33 ready-made properties, with intervals and domain",
            "one student of the size of dnd-base": "one student of the size of `dnd-base`, values alone",
        },
        ("SMILES -> descriptors", rdkit): {
            "the same 217 in blocks": "the 217 descriptors in blocks",
            lean: f"{lean[:7]} descriptors{lean[7:]}",
        },
        ("table -> model", forests): {
            forests: "fit two random forests, on counts and on descriptors",
            "dnd finetune, with report and baselines": "the whole `dnd finetune`, with these forests and the report",
        },
    }
    rows = []
    for key, names in labels.items():
        one = bench_tables(path)[key]
        rows += [[label, f"{1000 * median_of(one, name):.3g}", ratio_of(one, name, 2)] for name, label in names.items()]
    return table(["what", "ms per molecule", "times as fast as the first of its kind (range)"], rows)


def graphs(path: Path) -> list[str]:
    """SMILES to graphs."""
    tables = bench_tables(path)
    title = "SMILES -> graph arrays"
    parse, ogb = tables[title, "RDKit MolFromSmiles"], tables[title, "ogb smiles2graph"]
    labels = {
        "RDKit MolFromSmiles": "RDKit `MolFromSmiles`",
        "graph, atoms as written": "graph, atoms as written (`dnd.graphs.fast.graphs.written_graphs`)",
        "graph, canonical order": "graph, canonical order",
        "ogb smiles2graph": "ogb `smiles2graph`",
    }
    rows = [
        [label, f"{1000 * median_of(parse, name):.3f}", f"{parse['ratios'][name]['ratio']:.2f}", ratio_of(ogb, name)]
        for name, label in labels.items()
    ]
    return table(["SMILES → graph", "ms per molecule", "of RDKit's parse rate", "of ogb's rate (range)"], rows)


def predictions(path: Path) -> list[str]:
    """SMILES to predictions, against the 3D route."""
    one = bench_tables(path)["SMILES -> prediction", "ETKDG + MMFF94s + teacher 8x256"]
    labels = {
        "ETKDG + MMFF94s + teacher 8x256": "ETKDG + MMFF94s + teacher 8x256 (20 molecules)",
        "dnd-base": "`dnd-base` (192 x 5)",
        "gine-small": "`gine-small` (128 x 4)",
        "gine": "`gine` (300 x 5)",
        "tokengt-small": "`tokengt-small` (128 x 6, 8 heads)",
        "tokengt-table5b": "`tokengt-table5b` (128 x 12, 32 heads)",
    }
    rows = [
        [label, f"{1000 * median_of(one, name):.3g}", ratio_of(one, name, 0), f"{added_memory(one, name):.0f}"]
        for name, label in labels.items()
    ]
    return table(["SMILES → prediction", "ms per molecule", "times as fast as the 3D route (range)", "MiB added"], rows)


def stages(path: Path) -> list[str]:
    """Where a prediction's time goes."""
    names = ("dnd-base", "gine-small", "tokengt-small")
    tables = {name: bench_tables(path)[f"stages of {name}", f"{name}, whole"] for name in names}
    labels = {
        "graphs": "graphs in canonical order",
        "parse": "of which RDKit's parse",
        "store and batches": "store in memory and batches",
        "forward": "forward",
    }
    rows = []
    for stage, label in labels.items():
        shares = [100 * tables[name]["ratios"][stage]["ratio"] for name in names]
        rows.append([label, *(f"{share:.0f} %" if share >= 0.95 else f"{share:.1f} %" for share in shares)])
    return table(["Share of the whole", *(f"`{name}`" for name in names)], rows)


def training_steps(path: Path) -> list[str]:
    """TokenGT, packed against padded."""
    tables = bench_tables(path)
    padded, packed, sorted_ = "padded, random batches", "packed, random batches", "packed, batches by length"
    labels = {
        "tokengt-small, forward": "`tokengt-small` forward, 256 molecules, 128 a batch",
        "tokengt-small, training step": "`tokengt-small` training step",
        "tokengt-table5b, forward": "`tokengt-table5b` forward, 64 molecules a batch",
        "tokengt-table5b, training step": "`tokengt-table5b` training step",
    }
    rows = []
    for title, label in labels.items():
        one = tables[title, padded]
        speeds = [f"{one['ratios'][name]['ratio']:.1f} x" for name in (packed, sorted_)]
        memory = f"{added_memory(one, padded):.0f} → {added_memory(one, sorted_):.0f}"
        rows.append([label, f"{1000 * median_of(one, padded):.1f} ms", *speeds, memory])
    heads = ["TokenGT", "padded, random", "packed, random", "packed, by length", "MiB padded → packed"]
    return table(heads, rows)


def pipeline(path: Path) -> list[str]:
    """The share of reading in a step."""
    labels = {
        "teacher 128x6, denoising": "teacher 128 x 6, denoising",
        "tokengt-small, distillation, cached teacher": "`tokengt-small`, distillation, cached teacher",
        "gine-small, distillation, cached teacher": "`gine-small`, distillation, cached teacher",
    }
    rows = []
    for title, label in labels.items():
        one = bench_tables(path)[title, "training step"]
        shares = [
            100 * one["ratios"][name]["ratio"] for name in ("read and pack the batch", "plan the epoch, per step")
        ]
        step = f"{1000 * median_of(one, 'training step'):.3g} ms"
        rows.append([label, step, *(f"{share:.2g} %" for share in shares)])
    return table(["", "step", "read and pack", "plan"], rows)


def startup(path: Path) -> list[str]:
    """Whole processes."""
    one = bench_tables(path)["whole processes", "python, nothing imported"]
    labels = {
        "python, nothing imported": "python, nothing imported",
        "import dnd": "`import dnd`",
        "dnd --help": "`dnd --help`",
        "import torch": "`import torch`",
        "dnd predict, one molecule": "`dnd predict`, one molecule, `gine-small`",
    }
    rows = []
    for name, label in labels.items():
        times = [median_of(one, name, key) for key in ("seconds", "wall_seconds")]
        rows.append([label, *(f"{value:#.2g}" for value in times), f"{added_memory(one, name):.0f}"])
    return table(["", "CPU s", "clock s", "MiB"], rows)


def scaling_points(path: Path, axis: str) -> list[dict[str, str]]:
    """The measurements along one axis."""
    with open(path, newline="", encoding="utf-8") as stream:
        return [row for row in csv.DictReader(stream) if row["axis"] == axis]


def by_atoms(path: Path) -> list[str]:
    """Time and memory against the size of a molecule."""
    points = {(row["what"], row["value"]): row for row in scaling_points(path, "atoms")}
    names = list(dict.fromkeys(what for what, _ in points))
    rows = [
        [value, *(f"{float(points[name, value]['cpu_ms']):.2g}" if float(points[name, value]["cpu_ms"]) < 100
                  else f"{float(points[name, value]['cpu_ms']):.0f}" for name in names)]
        for value in dict.fromkeys(value for _, value in points)
    ]  # fmt: skip
    for row in rows:
        for place, name in enumerate(names, 1):
            memory = float(points[name, row[0]]["peak_mb"])
            row[place] += f" ({memory:.0f})" if memory >= 10 else f" ({memory:.1f})"
    heads = [f"`{name}`" if "teacher" not in name else "teacher 64 x 4" for name in names]
    return table(["Atoms", *heads], rows)


def by_molecules(path: Path) -> list[str]:
    """A training step against the size of the store."""
    rows = [
        [
            f"{int(row['value']):,}",
            f"{float(row['cpu_ms']):.0f}",
            f"{float(row['peak_mb']):.0f}",
            f"{float(row['own_mb']):.0f}",
        ]
        for row in scaling_points(path, "molecules")
    ]
    heads = ["Molecules in the store", "CPU ms per step of 64", "MiB at the peak", "of which its own at the end"]
    return table(heads, rows)


def by_rows(path: Path) -> list[str]:
    """A prediction against the length of its file."""
    rows = [
        [
            f"{int(row['value']):,}",
            f"{float(row['cpu_ms']):.2f}",
            f"{float(row['peak_mb']):.0f}",
            f"{float(row['own_mb']):.0f}",
        ]
        for row in scaling_points(path, "rows")
    ]
    return table(["Rows of the file", "CPU ms per row", "MiB at the peak", "of which its own at the end"], rows)


DRAWN: dict[str, Callable[[Path], list[str]]] = {
    "table1": table_1,
    "table1-gains": gains_of_table_1,
    "students": partial(beside_controls, STUDENTS),
    "teachers": partial(beside_controls, TEACHERS),
    "conformers": partial(beside_controls, CONFORMERS),
    "few-labels": few_labels_of_table_1,
    "multitask": partial(report_table, write_multitask),
    "table6": table_6,
    "ccmd-ablation": ccmd_ablation,
    "ccmd": partial(report_table, write_ccmd),
    "conformer-quality": conformer_quality,
    "locality": locality,
    "locality-pattern": locality_pattern,
    "fig3": sentence,
    "fig4": sentence,
    "fig5": label_efficiency,
    "fig5-sentence": sentence,
    "claims": claims,
    "predictor": predictor,
    "moleculeace": moleculeace,
    "biogen": biogen,
    "fourteen": fourteen,
    "finetuned": finetuned,
    "arms": encoder_arms.tables,
    "large-sets": large_sets,
    "fast-features": fast_features.tables,
    "fast-test": fast_features.test_tables,
    "default-model": default_model,
    "graphs": graphs,
    "predictions": predictions,
    "stages": stages,
    "training-steps": training_steps,
    "pipeline": pipeline,
    "startup": startup,
    "by-atoms": by_atoms,
    "by-molecules": by_molecules,
    "by-rows": by_rows,
}


def _head(entry: Entry) -> str:
    if entry.dataset.startswith(QM9_PREFIX):
        target = entry.dataset.removeprefix(QM9_PREFIX)
        return f"{target}, {TARGETS[target][0]}"
    return f"{BENCHMARKS[entry.dataset].paper_name} {metric_name(entry.metric)}"


def _metric(metric: str) -> str:
    return metric_name(metric).rpartition(" ")[0]


if __name__ == "__main__":
    main()
