"""`dnd check`: a labelled table → what it holds, and what `dnd finetune` would do with it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dnd.cli.options import (
    Censored,
    Decimal,
    LabelledTable,
    Measured,
    Missing,
    SmilesColumn,
    Standardize,
    label_settings,
)
from dnd.common.log import counted
from dnd.finetuning.check_data import DataFacts, TargetFacts, next_line
from dnd.predictor.metrics import significant

# What `dnd check` prints: the facts of a table in plain lines, with a histogram for each target.

_WIDTH = 40  # of the longest bar
_SHOWN = 5
_MOST_TARGETS = 20  # that are described in full
_LONGEST = 160  # characters of a list of names


def check_lines(facts: DataFacts) -> Iterator[str]:
    """One line at a time."""
    yield from _molecule_lines(facts)
    for target in facts.targets[:_MOST_TARGETS]:
        yield ""
        yield from _target_lines(target)
    if len(facts.targets) > _MOST_TARGETS:
        more = facts.targets[_MOST_TARGETS:]
        yield ""
        yield f"{len(more)} more columns may be targets: {', '.join(target.name for target in more)}"
    yield from (f"note: {note}" for note in facts.notes)
    for name, why in facts.others.items():
        yield f"no target: {name}: {why}"
    for first, second, correlation in facts.leaks:
        yield (
            f"warning: columns {first} and {second} order the molecules alike (rank correlation {correlation:.3f}): "
            f"one may be the other in another unit, or computed from it"
        )
    yield ""
    yield from _plan_lines(facts)


def first_lines(facts: DataFacts) -> Iterator[str]:
    """The same at the start of a finetuning, without what it says itself when it has read all rows."""
    yield from _molecule_lines(facts)
    for target in facts.targets[:_MOST_TARGETS]:
        if not target.problem:
            yield from _range_lines(target)


def _molecule_lines(facts: DataFacts) -> Iterator[str]:
    drawn = f", {facts.looked_at} of them drawn at random and examined" if facts.looked_at < facts.rows else ""
    yield f"{facts.path}: {counted(facts.rows, 'row')}{drawn}"
    named = f"; names of the molecules in {facts.id_column}" if facts.id_column else ""
    yield f"SMILES in column {facts.smiles_column}{named}"
    different = counted(facts.different, "different molecule")
    yield f"{counted(facts.molecules, 'row')} with a molecule, {different}"
    for reason, places in facts.invalid.items():
        yield f"left out: {_rows(places)}: {reason}"
    if facts.salts:
        hint = "; --standardize learns their largest organic part, neutral" if facts.standardized is None else ""
        yield f"salts and solvates: {_rows(facts.salts)}{hint}"
    if facts.mixtures:
        yield f"mixtures of molecules of similar size: {_rows(facts.mixtures)}"
    if facts.standardized is not None:
        yield f"standardized: {_rows(facts.standardized)} changed to their largest organic part, neutral"
    if facts.duplicates:
        smiles, places = facts.duplicates[0]
        many = "molecule is" if len(facts.duplicates) == 1 else "molecules are"
        yield f"{len(facts.duplicates)} {many} in more than one row, such as {smiles[:60]} ({_rows(places)})"


def _rows(places: Sequence[int]) -> str:
    listed = ", ".join(map(str, places[:_SHOWN])) + (" ..." if len(places) > _SHOWN else "")
    return f"{counted(len(places), 'row')} ({listed})"


def _target_lines(target: TargetFacts) -> Iterator[str]:
    if target.problem:
        yield f"target {target.name}: can't be learned as it is"
        yield f"  {target.problem}"
        return
    first, *bars = _range_lines(target)
    yield first
    for note in target.notes:
        yield f"  {note}"
    if target.added:
        yield f"  finetune stops here without {' '.join(target.added)}"
    yield from bars
    if target.repeats is not None:
        yield f"  replicates: {target.repeats.sentence().removeprefix(target.name + ': ')}"
    yield f"  task: {target.task}"
    if target.transform_reason:
        yield f"  {target.transform_reason}"


def _range_lines(target: TargetFacts) -> Iterator[str]:
    """How many labels there are, and how they are spread."""
    unit = f", in {target.unit}" if target.unit and target.classes is None else ""
    yield f"target {target.name}: {target.labels} labels{unit}"
    if target.classes is not None:
        yield from _bars(target.classes)
        return
    low, median, high = map(significant, (target.low, target.median, target.high))
    limits = target.cells is not None and target.rules.censored != "drop" and target.cells.above + target.cells.below
    yield f"  {low} to {high}, median {median}{', with limits counted as values' if limits else ''}"
    edges = [significant(edge) for edge in target.edges]
    named = [f"{low} to {high}" for low, high in itertools.pairwise(edges)]
    yield from _bars(dict(zip(named, target.counts, strict=True)) if len(set(named)) == len(named) else {})


def _bars(counts: Mapping[str, int]) -> Iterator[str]:
    """A bar for each name, of one sign at least where there is a label; ASCII, for terminals of every encoding."""
    width, most = max(map(len, counts), default=0), max(counts.values(), default=0)
    width = min(width, _WIDTH)
    for name, count in counts.items():
        bar = "#" * max(round(_WIDTH * count / most), 1) if count else ""
        yield f"  {name[:_WIDTH]:>{width}} |{bar} {count}".rstrip()


def _plan_lines(facts: DataFacts) -> Iterator[str]:
    if facts.split is not None:
        train, valid, test = facts.split
        if facts.split_problem:
            yield f"note: {facts.split_problem}"
        yield (
            f"finetune would learn {', '.join(facts.chosen)}; split: {facts.split_name}, training / validation / test: "
            f"{train} / {valid} / {test}"
        )
        others = [target.name for target in facts.targets if not target.problem and target.name not in facts.chosen]
        if others:
            yield f"not learned with it: {_first(others)}; --target-columns NAME for each adds it"
    else:
        yield f"finetune would stop: {facts.split_problem}"
    line = next_line(facts)
    if line:
        yield f"next: {line}"


def _first(names: Sequence[str]) -> str:
    """As many names as fit into a line or two, and how many more there are; `--json` has all."""
    most = next((place for place in range(1, len(names)) if len(", ".join(names[: place + 1])) > _LONGEST), len(names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if most < len(names) else "")


def check_json(facts: DataFacts) -> dict[str, Any]:
    """The facts as plain values, the next line with them."""
    return {**asdict(facts), "next": next_line(facts)}


def check(
    data: LabelledTable,
    target_columns: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN", help="Columns with labels; by default every column that can be learned."),
    ] = None,
    smiles_column: SmilesColumn = None,
    missing: Missing = None,
    measured: Measured = None,
    censored: Censored = None,
    decimal: Decimal = None,
    standardize: Standardize = False,
    as_json: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="JSON file for all findings.")] = None,
) -> None:
    """Summarise a labelled table in seconds, with its problems and the command to run next."""
    from dnd.common.config import from_dict
    from dnd.common.files import write_json
    from dnd.finetuning.check_data import check_data
    from dnd.tables.labels import LabelRules
    from dnd.tables.writers import require_other_file

    if as_json is not None:
        require_other_file(data, str(as_json))
    facts = check_data(
        data,
        target_columns=target_columns or (),
        smiles_column=smiles_column,
        rules=from_dict(LabelRules, label_settings(missing, measured, censored, decimal)),
        standardize=standardize,
    )
    for line in check_lines(facts):
        typer.echo(line)
    if as_json is not None:
        write_json(as_json, check_json(facts))
        typer.echo(f"written: {as_json}")
