"""A finished grid as Markdown, CSV and a self-contained HTML report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnd.common.config import load_config
from dnd.common.files import write_text
from dnd.common.log import markdown_safe
from dnd.pretraining.baselines.infomax3d import ContrastConfig
from dnd.pretraining.denoise import DenoiseConfig
from dnd.pretraining.settings import DistillConfig, PretrainConfig
from dnd.report.figures import bar_chart, guarded_table
from dnd.report.html import Code, Figure, Report, Section, Table, Text, write_report
from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX, TARGETS
from dnd.reproduction.budgets import Budget
from dnd.reproduction.results import Record
from dnd.reproduction.significance import Significance, holm, mean_over_sets
from dnd.reproduction.systems import CLASSICAL, SYSTEMS
from dnd.reproduction.tables import (
    LEVEL,
    Comparison,
    Entry,
    compare,
    csv_rows,
    entries,
    gain_by_pretraining,
    is_better,
    metric_name,
    pooling_name,
)

_CLASSICAL = "the best classical model"
_OTHERS = ("randinit-0.65", "3dinfomax", _CLASSICAL)
_QM9_TABLES = ("table2", "table6")


def write_table(what: str, budget: Budget, records: Sequence[Record], folder: Path) -> str:
    """Write `what`.md, .csv and .html into `folder` and return the Markdown."""
    found = sorted(entries(records), key=_order)
    failed = [record for record in records if record.status == "failed"]
    sections: list[Section] = [Text(_introduction(what, budget, records, found)), _overview(found)]
    verdicts = "\n".join(_verdicts(found))
    sections.append(Code(verdicts, title="Over all data sets"))
    against = {rival: _comparisons(found, rival) for rival in (None, _CLASSICAL)}
    for dataset in dict.fromkeys(entry.dataset for entry in found):
        sections += _dataset_sections([entry for entry in found if entry.dataset == dataset], against)
    if failed:
        rows = [[record.key, record.reason] for record in failed]
        sections.append(Table(["cell", "reason"], rows, title="Cells without a result"))
    text = _markdown(f"{_title(what)}, budget {budget.name}", sections)
    write_text(folder / f"{what}.md", markdown_safe(text))
    columns, lines = csv_rows(found)
    write_text(folder / f"{what}.csv", guarded_table(columns, lines))
    write_report(folder / f"{what}.html", Report(f"{_title(what)}, budget {budget.name}", sections))
    return text


_TITLES = {
    "conformers": "Conformers per molecule in denoising and distillation",
    "students": "Students of one teacher",
    "teachers": "Teachers of one student",
    "locality": "NODE against GRAPH",
}


def _title(what: str) -> str:
    if what in _TITLES:
        return _TITLES[what]
    return f"{what.capitalize().replace('Table', 'Table ')} of D&D, ours beside the paper's"


def _introduction(what: str, budget: Budget, records: Sequence[Record], found: Sequence[Entry]) -> str:
    stores = [record for record in records if record.kind == "prepare" and record.status == "done"]
    pretraining = stores[0].result["molecules"] if stores else 0
    files = ", ".join(str(name) for name, _ in stores[0].settings["files"]) if stores else "nothing"
    hours = sum(record.seconds for record in records) / 3600
    seeds = sorted({entry.counts for entry in found})
    machines = ", ".join(sorted({record.machine for record in records if record.machine})) or "unknown"
    student, recipe, words = _settings(records)
    most = f"at most {budget.most_molecules} molecules of each data set" if budget.most_molecules else "all molecules"
    if what in _QM9_TABLES:
        most = "the same training molecules for every system, none of them pretrained on"
    return (
        f"Pretraining: {pretraining:,} molecules of {files} (the paper: 3,378,309 of PCQM4Mv2 for Table 1, 50,000 of "
        f"QM9 for Tables 2 and 6). Student: {student}. Epochs of pretraining: {_lengths(records)}. Finetuning: "
        f"{recipe} with {', '.join(words) or 'no change'}; {most}. Pretrainings × finetuning seeds (seeds alone where "
        f"nothing was pretrained): {', '.join(seeds) or 'none'}. Values are test scores of the best validation epoch, "
        f"mean ± sample deviation of the pretrainings' means, or of the seeds where there is one pretraining.\n\n"
        f"{len(records)} cells, {hours:.2f} process hours on {machines}. The paper's numbers are for its own sizes; "
        f"those of BP, MP, RI and logP are for other molecules. Absolute values are not comparable where sizes differ."
    )


# Of a finetuning's settings: those that differ by cell, or that no result depends on.
_BY_CELL = ("split=", "baselines=", "jobs=", "pooling=", "layer_decay=", "loop.seed=", "student.", "hydrogens=")


def _settings(records: Sequence[Record]) -> tuple[str, str, list[str]]:
    """Student, recipe and words of the finetunings, as their cells have them."""
    done = [record for record in records if record.status == "done"]
    words = [word for record in done for word in record.settings.get("config", ())]
    students = [word.removeprefix("student.") for word in dict.fromkeys(words) if word.startswith("student.")]
    finetunings = [record for record in done if record.kind == "finetune"]
    if not finetunings:
        return ", ".join(students) or "none", "none", []
    first = finetunings[0].settings
    own = [word for word in first["config"] if not word.startswith(_BY_CELL)]
    return ", ".join(students) or "none", str(first["recipe"]), own


def _lengths(records: Sequence[Record]) -> str:
    """Epochs of every kind of pretraining; the paper has 30 of denoising (its source's) and 100 of distillation."""
    classes = {
        "denoise": DenoiseConfig,
        "distill": DistillConfig,
        "contrast": ContrastConfig,
        "pretrain": PretrainConfig,
    }
    found: dict[str, set[int]] = {}
    for record in records:
        if record.kind in classes and record.status == "done":
            config: Any = load_config(classes[record.kind], record.settings.get("recipe"), record.settings["config"])
            name = config.method if record.kind == "pretrain" else record.kind
            found.setdefault(name, set()).add(config.loop.epochs)
    return ", ".join(f"{name} {'/'.join(map(str, sorted(own)))}" for name, own in found.items()) or "none"


def _overview(found: Sequence[Entry]) -> Table:
    datasets = list(dict.fromkeys(entry.dataset for entry in found))
    rows: list[list[object]] = []
    for label in dict.fromkeys(_label(entry) for entry in found):
        own = {entry.dataset: entry for entry in found if _label(entry) == label}
        rows.append([label, *(own[name].mean if name in own else None for name in datasets)])
    heads = [f"{_name(name)} {metric_name(_metric(found, name))}" for name in datasets]
    return Table(["system", *heads], rows, title="Ours, means over pretrainings and seeds")


Against = Mapping[str | None, Mapping[int, Comparison]]  # rival (None = each system's control) → entry's id → outcome


def _dataset_sections(found: Sequence[Entry], against: Against) -> list[Section]:
    first = found[0]
    values = [entry.mean for entry in found]
    best = max(range(len(found)), key=lambda place: values[place] if is_better(first.metric, 1, 0) else -values[place])
    rows: list[list[object]] = []
    for entry in found:
        row: list[object] = [_label(entry), _pm(entry.mean, entry.deviation), entry.counts, _paper(entry)]
        rows.append([*row, *(_shown(against[rival].get(id(entry))) for rival in (None, _CLASSICAL))])
    sizes = f"{_sizes(first.sizes)} molecules"
    if first.sizes != first.full:
        sizes += f" (the whole set: {_sizes(first.full)})"
    tests = [sum(one.corrected is not None for one in against[rival].values()) for rival in (None, _CLASSICAL)]
    note = (
        f"{sizes}, training / validation / test. Comparisons: relative gain over the control (random weights with one "
        f"rate for all layers, unless said otherwise) with the same pooling, and over the classical model with the "
        f"best validation score. A p-value is over pretrainings, each the mean of its finetuning seeds (paired "
        f"t-test; Welch's against classical models), corrected by Holm for the {tests[0]} and {tests[1]} such "
        f"comparisons of the whole table; * = below {LEVEL}. Without a second pretraining there is none. Bold: best "
        f"mean."
    )
    heads = ["system", f"ours, {metric_name(first.metric)}", "n", "paper", "against its control", "against classical"]
    labels = [_label(entry) for entry in found]
    chart = bar_chart(labels, values, [entry.deviation or 0.0 for entry in found], axis_label=metric_name(first.metric))
    return [Table(heads, rows, title=_name(first.dataset), note=note, best=[best]), Figure(chart)]


def _verdicts(found: Sequence[Entry]) -> list[str]:
    """One line per system, pooling and rival: its mean gain over all data sets, tested over pretrainings."""
    lines: list[tuple[str, Significance]] = []
    for name, pooling in dict.fromkeys(
        (entry.system, entry.pooling) for entry in found if entry.system not in CLASSICAL
    ):
        own = [entry for entry in found if (entry.system, entry.pooling) == (name, pooling)]
        for rival in dict.fromkeys((SYSTEMS[name].control, *_OTHERS)):
            pairs = [(entry, other) for entry in own if name != rival and (other := _rival(found, entry, rival))]
            gains = [gain for first, second in pairs if (gain := gain_by_pretraining(first, second))]
            if gains:
                mean, test = mean_over_sets(gains)
                wins = sum(float(np.mean(list(one.values()))) > 0 for one in gains)
                label = SYSTEMS[rival].label if rival in SYSTEMS else f"{rival} (its mean, as a constant)"
                text = f"{_label(own[0])} against {label}: better on {wins} of {len(gains)} data sets"
                lines.append((f"{text}, mean gain {100 * mean:+.1f} %", test))
    corrected = holm([test.p_value for _, test in lines])
    shown = [f"{text}; {_test_text(test, value)}." for (text, test), value in zip(lines, corrected, strict=True)]
    return shown or ["Nothing to compare."]


def _test_text(test: Significance, corrected: float | None) -> str:
    if corrected is None:
        return "one pretraining, so there is no test"
    return f"p = {corrected:.2g} over {test.count} pretrainings, corrected for the lines of this list"


def _comparisons(found: Sequence[Entry], rival: str | None) -> dict[int, Comparison]:
    """The comparisons of a whole table against one rival, by the id of the entry; None = each system's control."""
    pairs = []
    for entry in found:
        name = rival or SYSTEMS[entry.system].control
        other = _rival(found, entry, name)
        if entry.system not in CLASSICAL and entry.system != name and other is not None:
            pairs.append((entry, other))
    return {id(first): one for (first, _), one in zip(pairs, compare(pairs), strict=True)}


def _rival(found: Sequence[Entry], entry: Entry, name: str) -> Entry | None:
    """The entry of a rival on the same data set with the same pooling."""
    same = [one for one in found if one.dataset == entry.dataset]
    if name == _CLASSICAL:
        return _best_classical(same)
    return next((one for one in same if one.system == name and one.pooling == entry.pooling), None)


def _best_classical(found: Sequence[Entry]) -> Entry | None:
    """The classical model that the validation part prefers, so that the test part has not chosen its own opponent."""
    best: Entry | None = None
    for entry in found:
        if entry.system in CLASSICAL and (best is None or is_better(entry.metric, entry.valid, best.valid)):
            best = entry
    return best


def _shown(result: Comparison | None) -> str:
    if result is None or math.isnan(result.gain):
        return ""
    mark = "*" if result.verdict != "open" else ""
    p_value = f"p = {result.corrected:.2g}, " if result.corrected is not None else ""
    return f"{100 * result.gain:+.1f} %{mark} ({p_value}{result.test.subject})"


def _markdown(title: str, sections: Sequence[Section]) -> str:
    lines = [f"# {title}", ""]
    for section in sections:
        if isinstance(section, Figure):
            continue  # charts are in the HTML report
        if section.title:
            lines += [f"## {section.title}", ""]
        if isinstance(section, Text):
            lines += [section.text, ""]
        elif isinstance(section, Code):
            lines += [*(f"- {line}" for line in section.text.splitlines()), ""]
        elif isinstance(section, Table):
            lines += ["| " + " | ".join(map(str, section.columns)) + " |", "|---" * len(section.columns) + "|"]
            for number, row in enumerate(section.rows):
                lines.append("| " + " | ".join(_cell(cell, number in section.best) for cell in row) + " |")
            lines += ["", *([section.note, ""] if section.note else [])]
    return "\n".join(lines)


def _cell(cell: object, bold: bool) -> str:
    text = "–" if cell is None else f"{cell:.4g}" if isinstance(cell, float) else str(cell).replace("|", "\\|")
    return f"**{text}**" if bold and text else text


def _label(entry: Entry) -> str:
    return f"{SYSTEMS[entry.system].label} {pooling_name(entry.pooling)}".strip()


def _name(dataset: str) -> str:
    if dataset.startswith(QM9_PREFIX):
        target = dataset.removeprefix(QM9_PREFIX)
        return f"QM9 {target}, {TARGETS[target][0]}"
    return BENCHMARKS[dataset].paper_name


def _metric(found: Sequence[Entry], dataset: str) -> str:
    return next(entry.metric for entry in found if entry.dataset == dataset)


def _order(entry: Entry) -> tuple[int, int, str]:
    names = [*BENCHMARKS, *(f"{QM9_PREFIX}{target}" for target in TARGETS)]
    return names.index(entry.dataset), list(SYSTEMS).index(entry.system), entry.pooling


def _pm(mean: float, deviation: float | None) -> str:
    return f"{mean:.4g}" if deviation is None else f"{mean:.4g} ± {deviation:.2g}"


def _paper(entry: Entry) -> str:
    return _pm(*entry.paper) if entry.paper else "–"


def _sizes(sizes: Sequence[int]) -> str:
    return " / ".join(f"{size:,}" for size in sizes)
