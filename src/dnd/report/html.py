"""One self-contained HTML report: no outside resource, light and dark, readable on a phone.

A report is data: a title and sections. Whatever comes from a user (names, SMILES, column titles, file names) is
escaped here, in one place; only `Figure.svg` is taken as markup and must come from `plots`, `figures` or RDKit.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from xml.parsers import expat

from dnd.common.errors import InputError
from dnd.common.files import package_versions, write_text
from dnd.common.log import shown
from dnd.predictor.metrics import significant

# What a drawing may be that goes into a page: SVG whose tags and attributes run nothing and fetch nothing.

_TAGS = {
    *("svg", "g", "defs", "path", "use", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan"),
    *("title", "desc", "style", "clipPath", "mask", "pattern", "linearGradient", "radialGradient", "stop", "image"),
    *("marker", "symbol", "metadata"),
}
# Which no XML may hold, not even as a reference; labels come from files.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def drawn_svg(text: str) -> str:
    """The `<svg>` element of what a drawing program wrote, without prologue, comments and illegal characters."""
    parts = _ILLEGAL.sub(" ", text[text.index("<svg") :]).split("<!--")
    return (parts[0] + "".join(part.partition("-->")[2] for part in parts[1:])).strip()


class SvgCheck:
    """Reads the tags of a drawing."""

    def __init__(self) -> None:
        self.problem, self._in_style = "", False

    @classmethod
    def of(cls, svg: str) -> str:
        """What is wrong with a drawing, or nothing."""
        check, parser = cls(), expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = check._start, check._end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = check._text, check._doctype
        if not svg.lstrip().startswith("<svg"):
            return f"it begins with {svg.lstrip()[:20]!a}"
        try:
            parser.Parse(svg.strip(), True)
        except (expat.ExpatError, UnicodeError) as error:
            return f"no XML, {error}"
        return check.problem

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2]
        known = tag in _TAGS or name.partition(":")[0] in ("rdf", "cc", "dc", "rdkit")
        self.problem = self.problem or ("" if known else f"a tag {name}")
        self._in_style = tag == "style"
        for key, value in attributes.items():
            own = key.rpartition(":")[2].lower()
            if own.startswith("on") or (own in ("href", "src") and not value.startswith(("#", "data:image/"))):
                self.problem = self.problem or f"an attribute {key}={value[:40]!r}"
            elif not key.startswith("xmlns"):
                self._css(value)

    def _end(self, name: str) -> None:
        self._in_style = False

    def _text(self, text: str) -> None:
        if self._in_style:
            self._css(text)

    def _css(self, text: str) -> None:
        for part in text.lower().split("url(")[1:]:
            if not part.lstrip(" \"'").startswith(("#", "data:image/")):
                self.problem = self.problem or f"a reference url({part[:40]}"
        if "@import" in text.lower() or "javascript:" in text.lower():
            self.problem = self.problem or "a reference in a style"

    def _doctype(self, name: str, *_: object) -> None:
        self.problem = self.problem or "a document type"


# A page: a title and sections.


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by an empty line."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Code:
    """Text shown as it is: commands, settings, versions."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Table:
    """A table; numbers are right-aligned, `None` is a dash.

    Attributes:
        columns: their heads.
        rows: cells: text, numbers or None.
        title: heading of the section.
        note: a line under the table.
        best: numbers of rows to set in bold.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    note: str = ""
    best: Sequence[int] = ()


@dataclass(frozen=True)
class Figure:
    """A drawing as an `<svg>` element of ours."""

    svg: str
    title: str = ""
    caption: str = ""


@dataclass(frozen=True)
class Molecules:
    """Molecules drawn by RDKit, each with a caption; one that can't be drawn is shown as text."""

    smiles: Sequence[str]
    captions: Sequence[str] = ()
    title: str = ""
    note: str = ""


@dataclass(frozen=True)
class Gallery:
    """Drawings of molecules as `<svg>` elements of ours, each with a caption; an empty one is shown as text.

    Attributes:
        svgs: the drawings.
        captions: one for each.
        texts: text shown instead of an empty drawing.
        title: heading of the section.
        note: a line under the drawings.
    """

    svgs: Sequence[str]
    captions: Sequence[str]
    texts: Sequence[str]
    title: str = ""
    note: str = ""


Section = Text | Code | Table | Figure | Molecules | Gallery


@dataclass(frozen=True)
class Report:
    """A title, a line under it, and sections in their order."""

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    versions: dict[str, str] = field(default_factory=package_versions)


def write_report(path: Path | str, report: Report) -> Path:
    """Write `report` to `path` atomically.

    Example:
        `write_report("report.html", Report("Solubility", [Table(["model", "RMSE"], [["D&D", 0.91]])]))`
    """
    write_text(Path(path), render(report))
    return Path(path)


def render(report: Report) -> str:
    """The HTML of `report`.

    Raises:
        InputError: a figure's markup refers to something outside the file or holds a script.
    """
    body = "\n".join(_section(section) for section in report.sections)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    subtitle = f"<p class=lead>{_html(report.subtitle)}</p>" if report.subtitle else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; "
        'img-src data:">\n'
        f"<title>{_html(report.title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{_html(report.title)}</h1>\n{subtitle}\n{body}\n"
        f"<footer>Versions: {_html(versions)}</footer>\n</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    heading = f"<h2>{_html(section.title)}</h2>\n" if section.title else ""
    if isinstance(section, Text):
        body = "\n".join(f"<p>{_html(part)}</p>" for part in _paragraphs(section.text))
    elif isinstance(section, Code):
        body = f"<pre>{_html(section.text)}</pre>"
    elif isinstance(section, Table):
        body = _table(section)
    elif isinstance(section, Figure):
        caption = f"<figcaption>{_html(section.caption)}</figcaption>" if section.caption else ""
        body = f"<figure>{_own_svg(section.svg)}{caption}</figure>"
    elif isinstance(section, Gallery):
        body = _gallery(section)
    else:
        body = _molecules(section)
    return f"<section>\n{heading}{body}\n</section>"


def _html(text: str) -> str:
    """Text of a page: no markup, and no character that would turn the text around."""
    return escape(shown(text))


def _paragraphs(text: str) -> list[str]:
    lines = [line if line.strip() else "" for line in text.strip().splitlines()]
    return [part for part in "\n".join(lines).split("\n\n") if part.strip()]


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_html(str(column))}</th>' for column in table.columns)
    rows = []
    for number, row in enumerate(table.rows):
        mark = " class=best" if number in table.best else ""
        rows.append(f"<tr{mark}>{''.join(_cell(value) for value in row)}</tr>")
    note = f"<p class=note>{_html(table.note)}</p>" if table.note else ""
    lines = "\n".join(rows)
    return f"<div class=scroll><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table></div>{note}"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "<td class=number>–</td>"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        text = f"{value:,}" if isinstance(value, int) else significant(value)
        return f"<td class=number>{text}</td>"
    kind = " class=number" if _is_interval(str(value)) else ""
    return f"<td{kind}>{_html(str(value))}</td>"


def _is_interval(text: str) -> bool:
    """Whether a cell is a number and its deviation, which is a number for the eye too."""
    value, sign, deviation = text.partition(" ± ")
    return bool(sign) and all(set(part) <= set("0123456789.e+-") and part for part in (value, deviation))


def _molecules(section: Molecules) -> str:
    captions = [*section.captions, *[""] * (len(section.smiles) - len(section.captions))]
    cards = []
    for smiles, caption in zip(section.smiles, captions, strict=False):
        drawn = draw_molecule(smiles)
        picture = f"<div class=molecule>{drawn}</div>" if drawn else f"<pre>{_html(smiles)}</pre>"
        cards.append(f"<figure>{picture}<figcaption>{_html(caption or smiles)}</figcaption></figure>")
    note = f"<p class=note>{_html(section.note)}</p>" if section.note else ""
    return f"<div class=molecules>{''.join(cards)}</div>{note}"


def _gallery(section: Gallery) -> str:
    cards = []
    for svg, caption, text in zip(section.svgs, section.captions, section.texts, strict=True):
        picture = f"<div class=molecule>{_own_svg(svg)}</div>" if svg else f"<pre>{_html(text)}</pre>"
        cards.append(f"<figure>{picture}<figcaption>{_html(caption)}</figcaption></figure>")
    note = f"<p class=note>{_html(section.note)}</p>" if section.note else ""
    return f'<div class="molecules large">{"".join(cards)}</div>{note}'


def draw_molecule(smiles: str, *, width: int = 220, height: int = 160) -> str | None:
    """The molecule as an `<svg>` element, or None where RDKit can't draw it."""
    from rdkit.Chem.Draw import rdMolDraw2D

    from dnd.chemistry.parse import parse_smiles

    outcome = parse_smiles(smiles)
    if not outcome.ok:
        return None
    drawer = rdMolDraw2D.MolDraw2DSVG(width, height)
    try:
        rdMolDraw2D.PrepareAndDrawMolecule(drawer, outcome.mol)
    except (ValueError, RuntimeError):  # no 2D layout, such as for some complexes of metals
        return None
    drawer.FinishDrawing()
    text = str(drawer.GetDrawingText())
    return _own_svg(drawn_svg(text))


def _own_svg(svg: str) -> str:
    """`svg` if it is one element that refers to nothing outside itself; figures are ours, so this catches slips.

    Its tags and attributes are checked, but not its text: a name from the user may contain anything.
    """
    found = SvgCheck.of(svg)
    if found:
        raise InputError("a figure is not a plain SVG drawing", found=found, expected="<svg …>")
    return svg.strip()


_CSS = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #1d2125; --soft: #5b6670; --line: #d5dbe0; --panel: #f4f6f8;
  --shade: #0004; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181b; --ink: #e4e8ec; --soft: #9aa5af; --line: #343b42; --panel: #1e2327; --shade: #fff4; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .6rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 1.8rem 0 .5rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere; }
p { margin: .5rem 0; overflow-wrap: anywhere; }
.lead { color: var(--soft); font-size: 1.05rem; }
.note, figcaption, footer { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto;
  background: linear-gradient(to right, var(--page) 40%, transparent) left / 3rem 100% no-repeat local,
    linear-gradient(to left, var(--page) 40%, transparent) right / 3rem 100% no-repeat local,
    linear-gradient(to right, var(--shade), transparent) left / 1rem 100% no-repeat scroll,
    linear-gradient(to left, var(--shade), transparent) right / 1rem 100% no-repeat scroll; }
table { border-collapse: collapse; font-size: .92rem; min-width: 60%; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.best td { font-weight: 700; }
pre { background: var(--panel); padding: .7rem; overflow-x: auto; font-size: .82rem; border-radius: 6px; }
figure { margin: .6rem 0; }
figure > svg { width: 100%; max-width: 40rem; height: auto; display: block; }
.molecules { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem; }
.large { grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
.molecules figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; padding: .4rem; }
.molecule { background: #ffffff; border-radius: 4px; }
.molecule svg { width: 100%; height: auto; display: block; }
footer { margin: 2rem 0 1rem; border-top: 1px solid var(--line); padding-top: .5rem; }
@media print {
  :root { color-scheme: light; --page: #fff; --ink: #000; --soft: #444; --line: #bbb; --panel: #fff; --shade: #fff0; }
  body { font-size: 10pt; }
  main { max-width: none; padding: 0; }
  .scroll { overflow: visible; background: none; }
  table { font-size: 8.5pt; }
  .number { white-space: normal; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  h2 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  figure > svg { max-width: 11cm; }
}
"""
