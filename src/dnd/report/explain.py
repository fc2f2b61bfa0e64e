"""`dnd explain`: molecules drawn with what each atom adds to their predictions, the numbers, and attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import logit

from dnd.chemistry.parse import parse_smiles
from dnd.common.config import nearest
from dnd.common.errors import ConfigError, InputError, note_rows
from dnd.common.files import write_bytes, write_text
from dnd.common.log import LOGGER
from dnd.finetuning.class_labels import describe_targets
from dnd.predictor.metrics import significant
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import AS_IT_IS, Transform, groups_of, on_learned_scale
from dnd.report.contributions import Explained, draw_png, draw_svg, explain
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import Row
from dnd.tables.writers import csv_text

_LONGEST_NAME = 60
LIMIT_TARGETS = 4  # drawn without being asked for
CONTRIBUTIONS, MOLECULES = "contributions.csv", "molecules.csv"
LOG_ODDS = "log-odds"
_EDGE = 1e-6
_CHUNK = 64


@dataclass(frozen=True)
class _Question:
    """One target, and which column of the model's outputs is explained.

    Attributes:
        name: name of the target.
        columns: its outputs; several for a target of several classes, of which the predicted one is explained.
        classes: their names.
        unit: unit of the contributions.
        file: its name in the names of files.
        transform: through which the target is learned; its contributions are on the learned scale.
    """

    name: str
    columns: range
    classes: tuple[str, ...]
    unit: str
    file: str = ""
    transform: Transform = AS_IT_IS


@dataclass(frozen=True)
class ExplainSummary:
    """Result of explaining a file.

    Attributes:
        rows: number of rows read.
        explained: number of rows with contributions.
        skipped: rows beyond the limit.
        first_error: the first row without contributions and its reason; empty when there is none.
        attention: what the attention map shows, or the reason why there is none.
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
            found.append(f"{self.skipped} rows were left out; --most-molecules raises the limit")
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
) -> ExplainSummary:
    """Draw the molecules of a file, or a single one, with the contributions of their atoms.

    Args:
        predictor: the model; networks, classical models and blends are treated alike.
        source: a file of molecules, or a SMILES.
        out: folder for the pictures (`row-00000-<target>.svg` and `.png`), `contributions.csv` (an atom per line),
            `molecules.csv` (a row of the input per line, with the reason where there is nothing) and `attention.*`.
        smiles_column: SMILES column; None = that of the training data, else found by name or content.
        targets: targets to explain; the first four when empty.
        most_molecules: largest number of explained rows; further rows are listed only.

    Raises:
        InputError: the input can't be read.
        ConfigError: no such target.
    """
    questions = _questions(predictor, targets)
    rows = _rows(source, smiles_column, predictor.smiles_column)
    files: list[list[object]] = []
    atoms: list[list[object]] = []
    explained, first_error, first = 0, "", ""
    for start in range(0, min(len(rows), most_molecules), _CHUNK):
        chunk = rows[start : min(start + _CHUNK, most_molecules)]
        found = _explained(predictor, [row.smiles for row in chunk])
        for row, one in zip(chunk, found, strict=True):
            number, text, problem = row.number, row.smiles, row.problem
            reason = problem or (one if isinstance(one, str) else "")
            note_rows([reason])
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


@dataclass(frozen=True)
class Explanation:
    """What each heavy atom of a molecule adds to one prediction.

    Attributes:
        smiles: canonical, the atoms in its order; as passed where there is no explanation.
        target: name of the target.
        class_name: the predicted class of a target of several; empty for others.
        prediction: in the unit of the target, or the probability of the class; NaN where there is no explanation.
        unit: unit of the contributions; `log-odds` for classes.
        symbols: elements of the atoms.
        atoms_N: contributions.
        svg: the molecule coloured by them; empty where there is no drawing.
        error: why there is no explanation or no drawing.
    """

    smiles: str
    target: str
    class_name: str = ""
    prediction: float = float("nan")
    unit: str = ""
    symbols: tuple[str, ...] = ()
    atoms_N: Float[np.ndarray, "atoms"] = field(default_factory=lambda: np.empty(0))
    svg: str = ""
    error: str = ""


def explain_molecules(predictor: Predictor, smiles: Sequence[str], targets: Sequence[str] = ()) -> list[Explanation]:
    """Explain the predictions of molecules; an `Explanation` per molecule and target, in order.

    Args:
        predictor: the model.
        smiles: in any spelling.
        targets: names of targets; the first four when empty.

    Raises:
        ConfigError: no such target.
    """
    questions = _questions(predictor, targets)
    answers = _explained(predictor, smiles)
    return [
        _explanation(text, answer, question)
        for text, answer in zip(smiles, answers, strict=True)
        for question in questions
    ]


def _explanation(text: str, answer: Explained | str, question: _Question) -> Explanation:
    if isinstance(answer, str):
        return Explanation(text, question.name, error=answer)
    column, class_name, prediction = _answer(answer, question)
    try:
        svg, error = _picture(answer, question)[0], ""
    except ValueError as problem:
        svg, error = "", f"not drawn, {problem}"
    atoms_N = answer.atoms_NC[:, column]
    return Explanation(
        answer.smiles, question.name, class_name, prediction, question.unit, answer.symbols, atoms_N, svg, error
    )


def draw_answers(predictor: Predictor, asked: Sequence[tuple[str, str]]) -> list[str]:
    """An SVG for each pair of a SMILES and a target; empty where there is nothing to draw.

    Raises:
        ConfigError: no such target.
    """
    found = _explained(predictor, [smiles for smiles, _ in asked])
    drawings = []
    for one, (_, target) in zip(found, asked, strict=True):
        (question,) = _questions(predictor, [target])
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
    for place, (symbol, added) in enumerate(zip(one.symbols, one.atoms_NC[:, column], strict=True)):
        atoms.append([number, one.smiles, question.name, class_name, place, symbol, float(added), question.unit])
    stem = f"row-{number:05d}-{question.file}"
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
    if question.unit == LOG_ODDS:
        return column, class_name, float(1 / (1 + np.exp(-value)))
    return column, class_name, float(question.transform.unjudged(np.array([value]))[0])


def _picture(one: Explained, question: _Question) -> tuple[str, bytes]:
    """SVG and PNG.

    Raises:
        ValueError: RDKit has no 2D layout.
    """
    column, class_name, prediction = _answer(one, question)
    outcome = parse_smiles(one.smiles)
    assert outcome.ok, "it was parsed before"
    shown = f"{class_name} {prediction:.2f}".strip() if question.unit == LOG_ODDS else significant(prediction)
    caption = f"{question.name}: {shown}; per atom" + (f", {question.unit}" if question.unit else "")
    atoms_N = one.atoms_NC[:, column]
    return draw_svg(outcome.mol, atoms_N, caption), draw_png(outcome.mol, atoms_N, caption)


def _questions(predictor: Predictor, wanted: Sequence[str]) -> list[_Question]:
    groups = groups_of(predictor.targets)
    by_name: dict[str, _Question] = {}
    spans = {group.name: group for group in groups}
    singles = {target.name: column for column, target in enumerate(predictor.targets) if not target.group}
    for entry in describe_targets(predictor.targets, groups):
        name: str = entry["name"]
        if name in spans:
            by_name[name] = _Question(name, spans[name].columns, spans[name].classes, LOG_ODDS)
        else:
            column, own = singles[name], predictor.targets[singles[name]].transform
            unit = own.judged_unit(entry["unit"]) if entry["kind"] == "regression" else LOG_ODDS
            by_name[name] = _Question(name, range(column, column + 1), (), unit, transform=own)
    for (name, question), file in zip(by_name.items(), file_names(list(by_name)), strict=True):
        by_name[name] = replace(question, file=file)
    for name in wanted:
        if name not in by_name:
            raise ConfigError(f"the model has no target {name!r}", next_step=nearest(name, by_name))
    if not wanted and len(by_name) > LIMIT_TARGETS:
        LOGGER.info(f"the first {LIMIT_TARGETS} of {len(by_name)} targets; choose others with --target-columns")
    return [by_name[name] for name in wanted or list(by_name)[:LIMIT_TARGETS]]


def _explained(predictor: Predictor, smiles: Sequence[str]) -> list[Explained | str]:
    """The contributions, of the form that the model sees."""
    return explain(lambda texts: _log_odds(predictor, texts), smiles, standardize=predictor.parts.standardize)


def _log_odds(predictor: Predictor, texts: Sequence[str]) -> Float[np.ndarray, "molecules outputs"]:
    """Values on the learned scale; probabilities as log-odds, which still move where a probability is near 0 or 1."""
    values_BC = on_learned_scale(predictor.targets, predictor.predict_values(list(texts), as_given=True)[0])
    classes = [column for column, target in enumerate(predictor.targets) if target.kind != "regression"]
    values_BC[:, classes] = logit(values_BC[:, classes].clip(_EDGE, 1 - _EDGE))
    return values_BC


def _rows(source: Path | str, smiles_column: str | None, remembered: str | None) -> list[Row]:
    """The rows without their other cells; a text that names no file is a SMILES."""
    with open_molecules(source, smiles_column, remembered=remembered, or_smiles=True) as table:
        return [Row(row.number, row.smiles, {}, row.problem, row.place) for row in table]


def _attention(predictor: Predictor, smiles: str, out: Path) -> str:
    students: list[Any] = [member.network.student for member in predictor.parts.members]
    own = next((student for student in students if student.config.name == "tokengt"), None)
    if own is None:
        return "none, the model has no student with attention (tokengt)"
    if not smiles:
        return "none, no molecule was explained"
    from dnd.report.attention import map_attention  # of a student with attention only

    try:
        finding = map_attention(own, smiles, predictor.parts.hydrogens)
    except InputError as error:
        return f"none, {error}"
    finding.write(out)
    return finding.sentence


def file_names(targets: Sequence[str]) -> list[str]:
    """A name for the files of each target, all different; one that is not the target's own begins with its place."""
    plain = ["".join(one if one.isascii() and (one.isalnum() or one in "-_") else "_" for one in n) for n in targets]
    folded = [name.casefold() for name in targets]  # some disks do not tell `LogS` from `logS`
    own = [
        name == target
        and 0 < len(name) <= _LONGEST_NAME
        and not name[0].isdigit()
        and folded.count(name.casefold()) == 1
        for name, target in zip(plain, targets, strict=True)
    ]
    return [
        name if is_own else f"{place}-{name[:_LONGEST_NAME]}"
        for place, (name, is_own) in enumerate(zip(plain, own, strict=True))
    ]
