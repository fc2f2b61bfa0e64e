"""A finished grid as Markdown, CSV and a self-contained HTML report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dnd.common.files import write_text
from dnd.report.figures import bar_chart, guarded_table
from dnd.report.html import Code, Figure, Report, Section, Table, Text, write_report
from dnd.reproduction.benchmarks import BENCHMARKS, QM9_PREFIX, TARGETS
from dnd.reproduction.budgets import Budget
from dnd.reproduction.results import Record
from dnd.reproduction.tables import (
    CLASSICAL,
    LEVEL,
    SYSTEMS,
    Entry,
    compare,
    csv_rows,
    entries,
    is_better,
    metric_name,
    pooling_name,
    sign_test,
)

BASELINE = "randinit-1.0"
_OTHERS = ("randinit-0.65", "3dinfomax")
_QM9_TABLES = ("table2", "table6")


def write_table(what: str, budget: Budget, records: Sequence[Record], folder: Path) -> str:
    """Write `what`.md, .csv and .html into `folder` and return the Markdown."""
    found = sorted(entries(records), key=_order)
    failed = [record for record in records if record.status == "failed"]
    sections: list[Section] = [Text(_introduction(what, budget, records, found)), _overview(found)]
    verdicts = "\n".join(_verdicts(found))
    sections.append(Code(verdicts, title="Over all data sets"))
    for dataset in dict.fromkeys(entry.dataset for entry in found):
        sections += _dataset_sections([entry for entry in found if entry.dataset == dataset])
    if failed:
        rows = [[record.key, record.reason] for record in failed]
        sections.append(Table(["cell", "reason"], rows, title="Cells without a result"))
    text = _markdown(f"{_title(what)}, budget {budget.name}", sections)
    write_text(folder / f"{what}.md", text)
    columns, lines = csv_rows(found)
    write_text(folder / f"{what}.csv", guarded_table(columns, lines))
    write_report(folder / f"{what}.html", Report(f"{_title(what)}, budget {budget.name}", sections))
    return text


def _title(what: str) -> str:
    return f"{what.capitalize().replace('Table', 'Table ')} of D&D, ours beside the paper's"


def _introduction(what: str, budget: Budget, records: Sequence[Record], found: Sequence[Entry]) -> str:
    stores = [record for record in records if record.kind == "prepare" and record.status == "done"]
    pretraining = stores[0].result["molecules"] if stores else 0
    files = ", ".join(str(name) for name, _ in stores[0].settings["files"]) if stores else "nothing"
    hours = sum(record.seconds for record in records) / 3600
    seeds = sorted({len(entry.by_seed) for entry in found})
    machines = ", ".join(sorted({record.machine for record in records if record.machine})) or "unknown"
    student = ", ".join(budget.pna if what in _QM9_TABLES else budget.tokengt)
    most = f"at most {budget.most_molecules} molecules of each data set" if budget.most_molecules else "all molecules"
    if what in _QM9_TABLES:
        most = "the same training molecules for every system, none of them pretrained on"
    return (
        f"Pretraining: {pretraining:,} molecules of {files} (the paper: 3,378,309 of PCQM4Mv2 for Table 1, 50,000 of "
        f"QM9 for Tables 2 and 6). Student: {student}. Finetuning: {budget.finetune_recipe} with "
        f"{', '.join(budget.finetune) or 'no change'}; {most}. Seeds: {', '.join(map(str, seeds)) or 'none'}. "
        f"Values are test scores of the best validation epoch, mean ± sample deviation over seeds.\n\n"
        f"{len(records)} cells, {hours:.2f} process hours on {machines}. The paper's numbers are for its own sizes; "
        f"those of BP, MP, RI and logP are for other molecules. Absolute values are not comparable where sizes differ."
    )


def _overview(found: Sequence[Entry]) -> Table:
    datasets = list(dict.fromkeys(entry.dataset for entry in found))
    rows: list[list[object]] = []
    for label in dict.fromkeys(_label(entry) for entry in found):
        own = {entry.dataset: entry for entry in found if _label(entry) == label}
        rows.append([label, *(own[name].mean if name in own else None for name in datasets)])
    heads = [f"{_name(name)} {metric_name(_metric(found, name))}" for name in datasets]
    return Table(["system", *heads], rows, title="Ours, means over seeds")


def _dataset_sections(found: Sequence[Entry]) -> list[Section]:
    first = found[0]
    baselines = {entry.pooling: entry for entry in found if entry.system == BASELINE}
    classical = _best_classical(found)
    values = [entry.mean for entry in found]
    best = max(range(len(found)), key=lambda place: values[place] if is_better(first.metric, 1, 0) else -values[place])
    rows: list[list[object]] = []
    for entry in found:
        against = baselines.get(entry.pooling)
        row: list[object] = [_label(entry), _pm(entry.mean, entry.deviation), len(entry.by_seed), _paper(entry)]
        row.append(_comparison(entry, against) if against and entry.system not in CLASSICAL else "")
        row.append(_comparison(entry, classical) if classical and entry.system not in CLASSICAL else "")
        rows.append(row)
    sizes = f"{_sizes(first.sizes)} molecules"
    if first.sizes != first.full:
        sizes += f" (the whole set: {_sizes(first.full)})"
    note = (
        f"{sizes}, training / validation / test. Comparisons: relative gain over RandInit with layer decay 1.0 of the "
        f"same pooling, and over the classical model with the best test mean; * = a paired t-test over n seeds "
        f"supports it, p < {LEVEL}. Bold: best mean."
    )
    heads = ["system", f"ours, {metric_name(first.metric)}", "n", "paper", "against RandInit 1.0", "against classical"]
    labels = [_label(entry) for entry in found]
    chart = bar_chart(labels, values, [entry.deviation or 0.0 for entry in found], axis_label=metric_name(first.metric))
    return [Table(heads, rows, title=_name(first.dataset), note=note, best=[best]), Figure(chart)]


def _verdicts(found: Sequence[Entry]) -> list[str]:
    """One line per pretrained system: on how many data sets it is better, and what a sign test says."""
    lines = []
    for name in dict.fromkeys(entry.system for entry in found):
        if name in CLASSICAL or name == BASELINE:
            continue
        for other in (BASELINE, *_OTHERS, "the best classical model"):
            if other == name:
                continue
            gains, supported = _gains(found, name, other)
            if gains:
                wins, decided, p_value = sign_test(gains)
                label = SYSTEMS[other].label if other in SYSTEMS else other
                lines.append(
                    f"{SYSTEMS[name].label} against {label}: better on {wins} of {decided} (data set, pooling) pairs, "
                    f"sign test p = {p_value:.3g}; median gain {100 * float(np.median(gains)):+.1f} %; paired "
                    f"tests over seeds support {supported['better']} better, {supported['worse']} worse."
                )
    return lines or ["Nothing to compare."]


def _gains(found: Sequence[Entry], name: str, other: str) -> tuple[list[float], dict[str, int]]:
    gains, supported = [], {"better": 0, "worse": 0, "open": 0}
    for entry in found:
        if entry.system != name:
            continue
        same = [one for one in found if one.dataset == entry.dataset]
        rival = next((one for one in same if one.system == other and one.pooling == entry.pooling), None)
        rival = _best_classical(same) if other not in SYSTEMS else rival
        if rival is not None:
            comparison = compare(entry, rival)
            if comparison.seeds:
                gains.append(comparison.gain)
                supported[comparison.verdict] += 1
    return gains, supported


def _best_classical(found: Sequence[Entry]) -> Entry | None:
    best: Entry | None = None
    for entry in found:
        if entry.system in CLASSICAL and (best is None or is_better(entry.metric, entry.mean, best.mean)):
            best = entry
    return best


def _comparison(entry: Entry, other: Entry) -> str:
    if entry is other:
        return ""
    result = compare(entry, other)
    if not result.seeds:
        return ""
    mark = "*" if result.verdict != "open" else ""
    p_value = f"p = {result.p_value:.2g}, " if result.p_value is not None else ""
    return f"{100 * result.gain:+.1f} %{mark} ({p_value}n = {result.seeds})"


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
