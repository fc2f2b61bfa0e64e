"""What each atom adds to a prediction: computed, checked against the prediction, and drawn.

Over 500 lines because what is drawn is what was computed, number by number."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D
from rdkit.Geometry import Point2D
from rdkit.rdBase import BlockLogs
from scipy.special import logit

from dnd.chemistry.identity import molecule_for_model
from dnd.chemistry.molecule import InvalidMolecule, Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.config import nearest
from dnd.common.errors import ConfigError, InputError, note_rows
from dnd.common.files import MANIFEST, write_bytes, write_text
from dnd.common.log import LOGGER
from dnd.finetuning.prepared_labels import describe_targets
from dnd.predictor.metrics import significant
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import AS_IT_IS, Transform, groups_of, on_learned_scale
from dnd.report.html import drawn_svg
from dnd.tables.molecules import open_molecules
from dnd.tables.readers import Row
from dnd.tables.writers import csv_text

# How much each atom adds to a prediction, by changing it and predicting again.
#
# .. math:: c_i = f(M) - \frac{1}{|V_i|} \sum_{M' \in V_i} f(M')
#
# :math:`V_i` are the valid molecules that come from M when atom i is replaced by another of C, N, O and F. It is a
# difference to chemical alternatives, so it needs nothing of a model but predictions: networks, forests and blends are
# explained alike, and they are asked about whole molecules only, not about graphs with holes. An atom that nothing can
# replace (such as one with four bonds among C, N, O and F that is carbon already) is left out, and the molecule without
# it is taken instead.
#
# The contributions need not sum to the prediction, and an atom that many alternatives do as well has a small one even
# if the molecule needs it. Source: ours, after the atom-wise removal of Sheridan, J. Chem. Inf. Model. 59 (2019) 1324,
# and the weights of RDKit's similarity maps (Riniker and Landrum, J. Cheminform. 5 (2013) 43).


Predict = Callable[[Sequence[str]], Float[np.ndarray, "molecules outputs"]]
ELEMENTS = (6, 7, 8, 9)  # C, N, O, F
LIMIT_ATOMS = 200  # heavy; every atom costs up to four predictions
_MASKED_AT_ONCE = 2048


@dataclass(frozen=True)
class Explained:
    """One molecule with its contributions.

    Attributes:
        smiles: canonical; the atoms are in its order.
        symbols: elements of the atoms.
        output_C: output of the model for it; NaN where a target has none.
        atoms_NC: contributions, in the unit of the outputs; NaN where the model says nothing of the target, 0 for an
            atom that can be neither changed nor left out.
    """

    smiles: str
    symbols: tuple[str, ...]
    output_C: Float[np.ndarray, "outputs"]
    atoms_NC: Float[np.ndarray, "atoms outputs"]


def explain(predict: Predict, smiles: Sequence[str], *, standardize: bool = False) -> list[Explained | str]:
    """Contributions of each molecule's heavy atoms, or the reason why there are none.

    Args:
        predict: outputs of the model for SMILES as they are, NaN where there is no molecule; for classes as log-odds.
        smiles: SMILES in any spelling.
        standardize: explain the form that a model sees which standardizes.
    """
    asked: list[str] = []
    plans: list[_Plan | str] = []
    for text in smiles:
        plan = _plan(molecule_for_model(text, standardize), len(asked))
        plans.append(plan)
        asked += [] if isinstance(plan, str) else plan.texts
    distinct = list(dict.fromkeys(asked))
    chunks = [predict(distinct[start : start + _MASKED_AT_ONCE]) for start in range(0, len(distinct), _MASKED_AT_ONCE)]
    place = {text: number for number, text in enumerate(distinct)}
    outputs_BC = np.concatenate(chunks)[[place[text] for text in asked]] if distinct else np.zeros((0, 0))
    return [plan if isinstance(plan, str) else plan.result(outputs_BC) for plan in plans]


def variants_of(mol: Chem.Mol, atom: int) -> list[str]:
    """Canonical SMILES of the valid molecules in which `atom` is another of C, N, O and F; else without it."""
    found = [_changed(mol, atom, number) for number in ELEMENTS if number != mol.GetAtomWithIdx(atom).GetAtomicNum()]
    valid = [text for text in found if text is not None]
    if valid or mol.GetNumAtoms() < 2:
        return valid
    without = _changed(mol, atom, 0)
    return [without] if without is not None else []


@dataclass(frozen=True)
class _Plan:
    """What is asked about one molecule: itself and, for each atom, its variants."""

    smiles: str
    symbols: tuple[str, ...]
    start: int
    variants: list[list[str]]

    @property
    def texts(self) -> list[str]:
        return [self.smiles, *(text for own in self.variants for text in own)]

    def result(self, outputs_BC: np.ndarray) -> Explained | str:
        own_C = outputs_BC[self.start]
        if not np.isfinite(own_C).any():
            return "the model has no prediction for it"
        atoms_NC, place = np.zeros((len(self.variants), len(own_C))), self.start + 1
        atoms_NC[:, ~np.isfinite(own_C)] = np.nan  # such as a target for small molecules only
        for atom, texts in enumerate(self.variants):
            changed_VC = outputs_BC[place : place + len(texts)]
            changed_VC = changed_VC[np.isfinite(changed_VC[:, np.isfinite(own_C)]).all(axis=1)]
            if len(changed_VC):
                atoms_NC[atom] = own_C - changed_VC.mean(axis=0)
            place += len(texts)
        return Explained(self.smiles, self.symbols, own_C, atoms_NC)


def _plan(outcome: Molecule | InvalidMolecule, start: int) -> _Plan | str:
    if not outcome.ok:
        return outcome.reason
    mol = outcome.mol
    if mol.GetNumAtoms() > LIMIT_ATOMS:
        return f"{mol.GetNumAtoms()} atoms; contributions are computed up to {LIMIT_ATOMS}"
    with BlockLogs():
        variants = [variants_of(mol, atom) for atom in range(mol.GetNumAtoms())]
    return _Plan(outcome.smiles, tuple(atom.GetSymbol() for atom in mol.GetAtoms()), start, variants)


def _changed(mol: Chem.Mol, place: int, number: int) -> str | None:
    """The molecule with another element at `place`, without the atom for 0; None if that is not a valid molecule."""
    changed = Chem.RWMol(mol)
    try:
        if number == 0:
            Chem.Kekulize(changed, clearAromaticFlags=True)
            _fill_up(changed, place)
            changed.RemoveAtom(place)
        else:
            atom = changed.GetAtomWithIdx(place)
            atom.SetAtomicNum(number)
            atom.SetFormalCharge(0)
            atom.SetNumExplicitHs(0)
            atom.SetNoImplicit(False)
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
        Chem.SanitizeMol(changed)
        return str(Chem.MolToSmiles(changed))
    except (Chem.MolSanitizeException, ValueError, RuntimeError):
        return None


def _fill_up(mol: Chem.RWMol, place: int) -> None:
    """Give hydrogens to the neighbours of an atom that goes, where RDKit adds none, as at a centre of chirality."""
    for bond in mol.GetAtomWithIdx(place).GetBonds():
        atom = bond.GetOtherAtom(mol.GetAtomWithIdx(place))
        if atom.GetNoImplicit():
            atom.SetNumExplicitHs(atom.GetNumExplicitHs() + int(bond.GetValenceContrib(atom)))
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)


# A molecule coloured by the contributions of its atoms, with a scale: the same picture as SVG and as PNG.
#
# Of several parts, such as a drug and its counter-ion, the largest is coloured and a line names the others: their atoms
# change the prediction too, but a colour on a chloride says nothing of the drug. RDKit's fonts have no µ, Å or °, so
# the lines under the scale are written by the browser in the SVG and by Pillow in the PNG.


WIDTH, HEIGHT = 420, 356
_SCALE_HEIGHT = 76
_LINES_FROM, _LINE_HEIGHT, _FONT_SIZE = HEIGHT - 27, 16, 12
_RAISES, _LOWERS = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)  # Okabe and Ito: orange and blue, safe for the colour-blind
_STEPS = 41
_STRONGEST, _GAMMA = 0.85, 0.7  # a full colour would hide the symbol; small contributions still show


def draw_svg(mol: Chem.Mol, atoms_N: Float[np.ndarray, "atoms"], caption: str, limit: float | None = None) -> str:
    """An `<svg>` element.

    Args:
        mol: atoms in the order of `atoms_N`.
        atoms_N: contributions.
        caption: under the scale.
        limit: contribution of the strongest colour; the largest of the molecule when None.

    Raises:
        ValueError: there is no 2D layout.
    """
    text = str(_draw(rdMolDraw2D.MolDraw2DSVG, mol, atoms_N, limit))
    drawn = drawn_svg(text)
    written = "".join(
        f'<text x="{WIDTH / 2}" y="{_LINES_FROM + number * _LINE_HEIGHT}" text-anchor="middle" fill="#1a1a1a" '
        f'font-family="sans-serif" font-size="{_FONT_SIZE}">{_markup(line)}</text>\n'
        for number, line in enumerate(_lines(mol, caption))
    )
    return drawn.removesuffix("</svg>") + written + "</svg>"


def draw_png(mol: Chem.Mol, atoms_N: Float[np.ndarray, "atoms"], caption: str, limit: float | None = None) -> bytes:
    """The bytes of a PNG file; arguments as for `draw_svg`."""
    from matplotlib.font_manager import findfont
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.open(io.BytesIO(bytes(_draw(rdMolDraw2D.MolDraw2DCairo, mol, atoms_N, limit))))
    pen, font = ImageDraw.Draw(picture), ImageFont.truetype(findfont("DejaVu Sans"), _FONT_SIZE)
    for number, line in enumerate(_lines(mol, caption)):
        place = (WIDTH / 2, _LINES_FROM + number * _LINE_HEIGHT)
        pen.text(place, line, fill="#1a1a1a", font=font, anchor="ms")
    written = io.BytesIO()
    picture.save(written, "PNG")
    return written.getvalue()


def largest_part(mol: Chem.Mol) -> tuple[list[int], list[str]]:
    """Atoms of the largest part of a molecule, one with carbon before any other, and the SMILES of the other parts."""
    parts = sorted(Chem.GetMolFrags(mol), key=lambda atoms: (-_carbons(mol, atoms), -len(atoms), atoms[0]))
    others = [str(Chem.MolFragmentToSmiles(mol, list(atoms))) for atoms in parts[1:]]
    return list(parts[0]) if parts else [], others


def _carbons(mol: Chem.Mol, atoms: Sequence[int]) -> int:
    return sum(mol.GetAtomWithIdx(atom).GetAtomicNum() == 6 for atom in atoms)


def _lines(mol: Chem.Mol, caption: str) -> list[str]:
    """What stands under the scale."""
    others = largest_part(mol)[1]
    return [_plain(caption), *([_plain(f"not coloured: {', '.join(dict.fromkeys(others))}")] if others else [])]


def _draw(drawer_class: Any, mol: Chem.Mol, atoms_N: np.ndarray, limit: float | None) -> Any:
    coloured = largest_part(mol)[0]
    top = limit or float(np.abs(atoms_N[coloured]).max(initial=0.0)) or 1.0
    drawer = drawer_class(WIDTH, HEIGHT, WIDTH, HEIGHT - _SCALE_HEIGHT)
    options = drawer.drawOptions()
    options.useBWAtomPalette()
    options.highlightRadius = 0.4
    try:
        prepared: Any = rdMolDraw2D.PrepareMolForDrawing(mol, addChiralHs=False)
        atoms = {atom: _colour(float(atoms_N[atom]) / top) for atom in coloured}
        bonds = {
            bond.GetIdx(): _colour(float(atoms_N[bond.GetBeginAtomIdx()] + atoms_N[bond.GetEndAtomIdx()]) / 2 / top)
            for bond in prepared.GetBonds()
            if bond.GetBeginAtomIdx() in atoms
        }
        drawer.DrawMolecule(
            prepared,
            highlightAtoms=list(atoms),
            highlightAtomColors=atoms,
            highlightBonds=list(bonds),
            highlightBondColors=bonds,
        )
    except RuntimeError as error:
        raise ValueError(f"no 2D layout: {error}") from error
    _draw_scale(drawer, top)
    drawer.FinishDrawing()
    return drawer.GetDrawingText()


def _draw_scale(drawer: Any, top: float) -> None:
    left, width, bottom = 110.0, 200.0, HEIGHT - 46.0
    drawer.SetFillPolys(True)
    for step in range(_STEPS):
        drawer.SetColour(_colour(2 * step / (_STEPS - 1) - 1))
        start = left + width * step / _STEPS
        drawer.DrawRect(Point2D(start, bottom - 14), Point2D(start + width / _STEPS + 0.5, bottom), True)
    drawer.SetColour((0.1, 0.1, 0.1))
    drawer.SetFontSize(12)
    for text, x, y in (
        (f"lowers -{top:.2g}", left - 52, bottom - 7),
        (f"raises +{top:.2g}", left + width + 52, bottom - 7),
    ):
        drawer.DrawString(text, Point2D(x, y), 0, True)


def _colour(share: float) -> tuple[float, float, float]:
    """White for 0, orange for 1, blue for −1."""
    strength = min(1.0, abs(share)) ** _GAMMA * _STRONGEST
    red, green, blue = (1 - strength + strength * part / 255 for part in (_RAISES if share > 0 else _LOWERS))
    return red, green, blue


def _plain(text: str) -> str:
    """Without control characters, and short enough for the picture."""
    cleaned = "".join(letter if letter.isprintable() else " " for letter in text)
    return cleaned if len(cleaned) <= 60 else cleaned[:59] + "…"


def _markup(line: str) -> str:
    """As the text of an element; an equals sign is written so that no name looks like an attribute."""
    return escape(line).replace("=", "&#61;")


# A model's answers, asked and drawn: a file of molecules, a list of them, or those of a report.


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
        two: names of the classes 0 and 1 of a target of two; the log-odds are those of the second.
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
    two: tuple[str, ...] = ()

    @property
    def positive(self) -> str:
        """Name of the class 1 of a target of two; empty where it has none."""
        return self.two[1] if self.two else ""


@dataclass(frozen=True)
class ExplainSummary:
    """Result of explaining a file.

    Attributes:
        rows: number of rows read.
        explained: number of rows with contributions.
        skipped: rows beyond the limit.
        first_error: the first row without contributions and its reason; empty when there is none.
        attention: what the attention map shows, or why there is none; empty if no student of the model has attention.
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
        return [*found, f"attention: {self.attention}"] if self.attention else found


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
        InputError: the input can't be read, or `out` has an explanation already, whose pictures would stay, or
            is a finished folder, such as a model.
        ConfigError: no such target.
    """
    if (out / MOLECULES).exists():
        raise InputError(f"{out} already contains an explanation", next_step="Choose another folder with --out")
    if (out / MANIFEST).exists():  # of a model, which has a file `molecules.csv` too
        raise InputError(f"{out} is a finished folder of another kind", next_step="Choose another folder with --out")
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
        prediction: prediction in the unit of the target, or the probability of the class; NaN without an explanation.
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
    svg: str = field(default="", repr=False)
    error: str = ""


def explain_molecules(predictor: Predictor, smiles: Sequence[str], targets: Sequence[str] = ()) -> list[Explanation]:
    """Explain the predictions of molecules; an `Explanation` per molecule and target, in order.

    Args:
        predictor: the model.
        smiles: SMILES in any spelling.
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
    reason = answer if isinstance(answer, str) else _unsaid(answer, question)
    if reason or isinstance(answer, str):
        return Explanation(text, question.name, error=reason)
    column, class_name, prediction = _answer(answer, question)
    try:
        svg, error = draw_svg(*_drawn(answer, question)), ""
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
            if isinstance(one, str) or _unsaid(one, question):
                drawings.append("")
            else:
                drawings.append(draw_svg(*_drawn(one, question)))
        except ValueError:
            drawings.append("")
    return drawings


def _write_one(
    out: Path, number: int, question: _Question, one: Explained, atoms: list[list[object]]
) -> tuple[object, str]:
    """Write the pictures and add the lines of one target; returns the prediction and what went wrong."""
    if reason := _unsaid(one, question):
        return None, reason
    column, class_name, prediction = _answer(one, question)
    said = class_name or (question.two[int(prediction > 0.5)] if question.two else prediction)  # as `predict` says it
    explained = class_name or question.positive
    for place, (symbol, added) in enumerate(zip(one.symbols, one.atoms_NC[:, column], strict=True)):
        atoms.append([number, one.smiles, question.name, explained, place, symbol, float(added), question.unit])
    stem = f"row-{number:05d}-{question.file}"
    try:
        drawn = _drawn(one, question)
        svg, png = draw_svg(*drawn), draw_png(*drawn)
    except ValueError as error:
        return said, f"not drawn, {error}"
    write_text(out / f"{stem}.svg", svg + "\n")
    write_bytes(out / f"{stem}.png", png)
    return said, ""


def _unsaid(one: Explained, question: _Question) -> str:
    """Why there is nothing to explain of a target; empty where there is."""
    known = np.isfinite(one.output_C[question.columns]).all()
    return "" if known else f"the model has no prediction of {question.name} for it"


def _answer(one: Explained, question: _Question) -> tuple[int, str, float]:
    """The output that is explained, the name of its class, and the prediction as the model gives it."""
    column = question.columns[int(one.output_C[question.columns].argmax())]
    class_name = question.classes[column - question.columns.start] if question.classes else ""
    value = float(one.output_C[column])
    if question.unit == LOG_ODDS:
        return column, class_name, float(1 / (1 + np.exp(-value)))
    return column, class_name, float(question.transform.unjudged(np.array([value]))[0])


def _drawn(one: Explained, question: _Question) -> tuple[Chem.Mol, Float[np.ndarray, "atoms"], str]:
    """What a picture shows: the molecule, the contributions of its atoms, and the line under it."""
    column, class_name, prediction = _answer(one, question)
    outcome = parse_smiles(one.smiles)
    assert outcome.ok, "it was parsed before"
    of_class = class_name or question.positive
    shown = f"{of_class} {prediction:.2f}".strip() if question.unit == LOG_ODDS else significant(prediction)
    caption = f"{question.name}: {shown}; per atom" + (f", {question.unit}" if question.unit else "")
    return outcome.mol, one.atoms_NC[:, column], caption


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
            two = predictor.targets[column].classes
            by_name[name] = _Question(name, range(column, column + 1), (), unit, transform=own, two=two)
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
        return ""
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
