"""`dnd explain`: molecules drawn with what each atom adds to their predictions, the numbers, and attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logit

from dnd.chemistry.parse import parse_smiles
from dnd.common.config import nearest
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import write_bytes, write_text
from dnd.finetuning.class_labels import describe_targets
from dnd.models.students.tokengt import TokenGT
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import groups_of
from dnd.report.attention import map_attention
from dnd.report.contributions import Explained, draw_png, draw_svg, explain
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import Row, kind_of
from dnd.tables.sdf import is_sdf
from dnd.tables.streams import STANDARD_INPUT
from dnd.tables.writers import csv_text

LIMIT_TARGETS = 4  # drawn without being asked for
CONTRIBUTIONS, MOLECULES = "contributions.csv", "molecules.csv"
LOG_ODDS = "log-odds"
_EDGE = 1e-6
_CHUNK = 64


@dataclass(frozen=True)
class _Question:
    """One target, and which column of the model's outputs is explained.

    Attributes:
        name: of the target.
        columns: its outputs; several for a target of several classes, of which the predicted one is explained.
        classes: their names.
        unit: of the contributions.
    """

    name: str
    columns: range
    classes: tuple[str, ...]
    unit: str


@dataclass(frozen=True)
class ExplainSummary:
    """What became of a file.

    Attributes:
        rows: read.
        explained: with contributions.
        skipped: rows beyond the limit.
        first_error: the first row without contributions and its reason; empty when there is none.
        attention: what the attention map shows, or why there is none.
    """

    rows: int
    explained: int
    skipped: int
    first_error: str
    attention: str

    def lines(self) -> list[str]:
        """The same in words."""
        found = [f"{self.explained} of {self.rows} molecules explained"]
        if self.skipped:
            found.append(f"{self.skipped} rows were left out; --most-molecules draws more")
        if self.first_error:
            found.append(f"first row without an explanation (all: {MOLECULES}): {self.first_error}")
        return [*found, f"attention: {self.attention}"]


def explain_file(
    predictor: Predictor,
    source: Path | str,
    out: Path,
    *,
    smiles_column: str | None = None,
    targets: Sequence[str] = (),
    most_molecules: int = 100,
    say: Callable[[str], None] = lambda line: None,
) -> ExplainSummary:
    """Draw the molecules of a file, or a single one, with the contributions of their atoms.

    Args:
        predictor: the model; networks, classical models and blends are asked in the same way.
        source: a file of molecules, or a SMILES.
        out: folder for the pictures (`row-00000-<target>.svg` and `.png`), `contributions.csv` (an atom per line),
            `molecules.csv` (a row of the input per line, with the reason where there is nothing) and `attention.*`.
        smiles_column: where the SMILES are; None = where they were in training, else found by name or content.
        targets: to explain; the first four when empty.
        most_molecules: rows that are explained; the others are listed only.
        say: receives a line about targets that are left out.

    Raises:
        InputError: the input can't be read.
        ConfigError: no such target.
    """
    questions = _questions(predictor, targets, say)
    rows = _rows(source, smiles_column, predictor.smiles_column)
    files: list[list[object]] = []
    atoms: list[list[object]] = []
    explained, first_error, first = 0, "", ""
    for start in range(0, min(len(rows), most_molecules), _CHUNK):
        chunk = rows[start : min(start + _CHUNK, most_molecules)]
        found = explain(lambda texts: _log_odds(predictor, texts), [row.smiles for row in chunk])
        for row, one in zip(chunk, found, strict=True):
            number, text, problem = row.number, row.smiles, row.problem
            reason = problem or (one if isinstance(one, str) else "")
            if reason or isinstance(one, str):
                files.append([number, text, *[None] * len(questions), reason])
                first_error = first_error or f"row {row.place}: {reason}"
                continue
            said = [_write_one(out, number, question, one, atoms) for question in questions]
            problems = "; ".join(dict.fromkeys(problem for _, problem in said if problem))
            files.append([number, text, *[value for value, _ in said], problems])
            explained, first = explained + 1, first or one.smiles
    skipped = rows[most_molecules:]
    files += [[row.number, row.smiles, *[None] * len(questions), "beyond --most-molecules"] for row in skipped]
    header = ["row", "smiles", *(f"{question.name}_pred" for question in questions), "error"]
    write_text(out / MOLECULES, csv_text(header, files))
    columns = ["row", "smiles", "target", "class", "atom", "element", "contribution", "unit"]
    write_text(out / CONTRIBUTIONS, csv_text(columns, atoms))
    attention = _attention(predictor, first, out)
    return ExplainSummary(len(rows), explained, len(skipped), first_error, attention)


def draw_answers(predictor: Predictor, asked: Sequence[tuple[str, str]]) -> list[str]:
    """An SVG for each pair of a SMILES and a target; empty where there is nothing to draw.

    Raises:
        ConfigError: no such target.
    """
    found = explain(lambda texts: _log_odds(predictor, texts), [smiles for smiles, _ in asked])
    drawings = []
    for one, (_, target) in zip(found, asked, strict=True):
        (question,) = _questions(predictor, [target], say=lambda line: None)
        try:
            drawings.append("" if isinstance(one, str) else _picture(one, question)[0])
        except ValueError:
            drawings.append("")
    return drawings


def _write_one(
    out: Path, number: int, question: _Question, one: Explained, atoms: list[list[object]]
) -> tuple[object, str]:
    """Write the pictures and add the lines of one target; returns the prediction and what went wrong."""
    column, class_name, prediction = _answer(one, question)
    for place, (symbol, added) in enumerate(zip(one.symbols, one.atoms_AC[:, column], strict=True)):
        atoms.append([number, one.smiles, question.name, class_name, place, symbol, float(added), question.unit])
    stem = f"row-{number:05d}-{_file_name(question.name)}"
    try:
        svg, png = _picture(one, question)
    except ValueError as error:
        return class_name or prediction, f"not drawn, {error}"
    write_text(out / f"{stem}.svg", svg + "\n")
    write_bytes(out / f"{stem}.png", png)
    return class_name or prediction, ""


def _answer(one: Explained, question: _Question) -> tuple[int, str, float]:
    """The output that is explained, the name of its class, and the prediction as the model gives it."""
    column = question.columns[int(one.output_C[question.columns].argmax())]
    class_name = question.classes[column - question.columns.start] if question.classes else ""
    value = float(one.output_C[column])
    return column, class_name, float(1 / (1 + np.exp(-value))) if question.unit == LOG_ODDS else value


def _picture(one: Explained, question: _Question) -> tuple[str, bytes]:
    """SVG and PNG.

    Raises:
        ValueError: RDKit has no 2D layout.
    """
    column, class_name, prediction = _answer(one, question)
    outcome = parse_smiles(one.smiles)
    assert outcome.ok, "it was parsed before"
    shown = f"{class_name} {prediction:.2f}".strip() if question.unit == LOG_ODDS else f"{prediction:.4g}"
    caption = f"{question.name}: {shown}; per atom" + (f", {question.unit}" if question.unit else "")
    atoms_A = one.atoms_AC[:, column]
    return draw_svg(outcome.mol, atoms_A, caption), draw_png(outcome.mol, atoms_A, caption)


def _questions(predictor: Predictor, wanted: Sequence[str], say: Callable[[str], None]) -> list[_Question]:
    groups = groups_of(predictor.targets)
    by_name: dict[str, _Question] = {}
    spans = {group.name: group for group in groups}
    singles = {target.name: column for column, target in enumerate(predictor.targets) if not target.group}
    for entry in describe_targets(predictor.targets, groups):
        name: str = entry["name"]
        if name in spans:
            by_name[name] = _Question(name, spans[name].columns, spans[name].classes, LOG_ODDS)
        else:
            column, unit = singles[name], entry["unit"] if entry["kind"] == "regression" else LOG_ODDS
            by_name[name] = _Question(name, range(column, column + 1), (), unit)
    for name in wanted:
        if name not in by_name:
            raise ConfigError(f"the model has no target {name!r}", next_step=nearest(name, by_name))
    if not wanted and len(by_name) > LIMIT_TARGETS:
        say(f"the first {LIMIT_TARGETS} of {len(by_name)} targets; --target-columns names others")
    return [by_name[name] for name in wanted or list(by_name)[:LIMIT_TARGETS]]


def _log_odds(predictor: Predictor, texts: Sequence[str]) -> Float[np.ndarray, "molecules outputs"]:
    """Values in their units; probabilities as log-odds, which still move where a probability is near 0 or 1."""
    values_NC, _ = predictor.predict_values(texts)
    classes = [column for column, target in enumerate(predictor.targets) if target.kind != "regression"]
    values_NC[:, classes] = logit(values_NC[:, classes].clip(_EDGE, 1 - _EDGE))
    return values_NC


def _rows(source: Path | str, smiles_column: str | None, remembered: str | None) -> list[Row]:
    """The rows without their other cells; a text that names no file is a SMILES.

    Raises:
        InputError: the input can't be read; or the text names no file and is no SMILES either.
    """
    text = str(source)
    if not _exists(source) and text != STANDARD_INPUT:
        parsed = parse_smiles(text)
        if parsed.ok and smiles_column is not None:
            raise ConfigError("a single SMILES has no columns", next_step="Leave --smiles-column out")
        if parsed.ok:
            return [Row(0, text, {}, place=1)]
        if kind_of(text) is None and not is_sdf(text):
            expected = "a SMILES, or the name of a file"
            raise InputError(f"{text[:60]!r} is neither", found=parsed.reason, expected=expected)
    with open_molecules(source, smiles_column, remembered=remembered) as table:
        return [Row(row.number, row.smiles, {}, row.problem, row.place) for row in table]


def _exists(source: Path | str) -> bool:
    try:
        return Path(source).exists()
    except OSError:  # a long SMILES is too long for a name
        return False


def _attention(predictor: Predictor, smiles: str, out: Path) -> str:
    students: list[Any] = [member.network.student for member in predictor.parts.members]
    own = next((student for student in students if isinstance(student, TokenGT)), None)
    if own is None:
        return "none, the model has no student with attention (tokengt)"
    if not smiles:
        return "none, no molecule was explained"
    try:
        finding = map_attention(own, smiles, predictor.parts.hydrogens)
    except InputError as error:
        return f"none, {error}"
    finding.write(out)
    return finding.sentence


def _file_name(target: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in target)[:60]
