"""How results look in a notebook: small tables and drawn molecules as HTML, with everything of the user's escaped."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from dnd.report.html import draw_molecule

LIMIT_ROWS = 20
_PICTURE = (150, 110)  # pixels


def facts_view(title: str, facts: Mapping[str, object]) -> str:
    """A heading and a line per fact."""
    rows = "".join(f"<tr><th style='text-align:left'>{escape(k)}</th>{_cell(v)}</tr>" for k, v in facts.items())
    return f"<div><b>{escape(title)}</b><table>{rows}</table></div>"


def molecules_view(smiles: Sequence[str], columns: Mapping[str, Sequence[object]], labels: Iterable[object]) -> str:
    """A table with a drawn molecule in front of each row; the first `LIMIT_ROWS` rows.

    Args:
        smiles: one per row; one that can't be drawn is shown as text.
        columns: further columns, in order.
        labels: labels of the rows.
    """
    names = ["", "molecule", *columns]
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    shown = zip(range(LIMIT_ROWS), labels, smiles, strict=False)
    rows = "".join(
        f"<tr><th>{escape(str(label))}</th><td style='background:#fff'>{_picture(text)}</td>"
        + "".join(_cell(cells[row]) for cells in columns.values())
        + "</tr>"
        for row, label, text in shown
    )
    more = len(smiles) - LIMIT_ROWS
    note = f"<p>{more:,} more rows: to_pandas() has them all</p>" if more > 0 else ""
    return f"<div><table><tr>{head}</tr>{rows}</table>{note}</div>"


def figures_view(svgs: Sequence[str], captions: Sequence[str]) -> str:
    """Drawings of ours side by side, each with a caption; the first `LIMIT_ROWS`."""
    cards = "".join(
        f"<figure style='display:inline-block;margin:4px;background:#fff;color:#222'>{svg}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for svg, caption in list(zip(svgs, captions, strict=True))[:LIMIT_ROWS]
    )
    more = len(svgs) - LIMIT_ROWS
    return f"<div>{cards}{f'<p>{more:,} more</p>' if more > 0 else ''}</div>"


def _picture(smiles: str) -> str:
    drawing = draw_molecule(smiles, width=_PICTURE[0], height=_PICTURE[1]) if smiles else None
    return drawing or f"<code>{escape(smiles)}</code>"


def _cell(value: object) -> str:
    """A number with three significant digits to the right, text to the left."""
    if isinstance(value, float) or type(value).__name__.startswith("float"):
        number = float(str(value))
        return f"<td style='text-align:right'>{'' if number != number else f'{number:.3g}'}</td>"
    if isinstance(value, int):
        return f"<td style='text-align:right'>{value:,}</td>"
    return f"<td style='text-align:left'>{'' if value is None else escape(str(value))}</td>"
