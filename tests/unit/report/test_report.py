import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from dnd.common.errors import InputError
from dnd.report.figures import bar_chart, drawing, label_histogram, loss_curves, parity_plot, save_figure
from dnd.report.html import Code, Figure, Molecules, Report, Table, Text, draw_molecule, render, write_report

HOSTILE = '<script>alert("$x$ \x00")</script>'


class Collector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]


def full_report() -> Report:
    curves = {"train": [(1, 1.0), (2, 0.5)], HOSTILE: [(1, 1.1), (2, float("nan"))]}
    return Report(
        HOSTILE,
        [
            Text(f"first\n\nsecond {HOSTILE}", title=HOSTILE),
            Table(
                ["model", HOSTILE], [[HOSTILE, 0.123456], ["none", None], ["nan", float("nan")]], best=[0], note=HOSTILE
            ),
            Figure(loss_curves(curves, title=HOSTILE, references={HOSTILE: 1.0}), caption=HOSTILE),
            Figure(
                parity_plot([0.0, 1.0, float("nan")], {HOSTILE: [0.1, 0.9, 2.0], "b": [0.2, 0.8, 1.0]}, unit=HOSTILE)
            ),
            Figure(bar_chart([HOSTILE, "b"], [1.0, 2.0], [0.1, 0.2], title=HOSTILE)),
            Molecules(["CCO", HOSTILE], captions=[HOSTILE], title="molecules"),
            Code(HOSTILE),
        ],
        subtitle=HOSTILE,
    )


def test_a_report_is_self_contained_and_escapes_everything() -> None:
    page = render(full_report())
    collector = Collector()
    collector.feed(page)
    assert "script" not in collector.tags
    assert collector.tags.count("svg") == 4
    assert all(link.startswith("#") for link in collector.links)
    assert not re.search(r"url\((?!#)", page)
    assert "&lt;script&gt;" in page
    assert ">0.123<" in page
    assert page.count("<td class=number>–</td>") == 2


def test_figures_are_well_formed_and_reproducible() -> None:
    svg = loss_curves({"a": [(0, 1.0), (1, 0.1)]}, title="loss & more")
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    assert svg == loss_curves({"a": [(0, 1.0), (1, 0.1)]}, title="loss & more")
    assert "currentColor" in svg
    assert 'width="' not in svg.split(">")[0]
    assert "viewBox" in svg.split(">")[0]


def test_figures_without_any_point_are_drawn_empty() -> None:
    for svg in (loss_curves({}), loss_curves({"a": []}), parity_plot([], {"a": []}), bar_chart([], [])):
        assert svg.startswith("<svg")


def test_save_figure_writes_both_formats(tmp_path) -> None:
    with drawing(columns=2) as (figure, axes):
        axes[0, 1].plot([0, 1], [0, 1])
        png, svg = save_figure(figure, tmp_path / "figure")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert svg.read_text().startswith("<svg")


def test_a_figure_with_an_outside_reference_is_refused(tmp_path) -> None:
    for bad in ('<svg><image href="http://x/y.png"/></svg>', "<svg onload=alert(1)></svg>", "<p>no</p>"):
        with pytest.raises(InputError, match="plain SVG"):
            write_report(tmp_path / "report.html", Report("t", [Figure(bad)]))
    assert not (tmp_path / "report.html").exists()


def test_molecules_are_drawn_or_refused() -> None:
    assert "<svg" in (draw_molecule("c1ccccc1O") or "")
    assert draw_molecule("C1CC") is None


def test_a_page_prints_and_its_tables_show_that_they_scroll() -> None:
    page = render(Report("Wide", [Table(["a", "b"], [[1, 2]])]))
    assert "@media print" in page
    assert "no-repeat local" in page, "shadows at the edges where there is more"


def test_a_parity_plot_marks_intervals_and_molecules_outside() -> None:
    measured, predicted = np.array([1.0, 10.0, 100.0]), np.array([2.0, 9.0, np.nan])
    plain = parity_plot(measured, {"model": predicted}, logarithmic=True)
    ends_2B = np.array([[1.0, np.nan, 1.0], [4.0, 20.0, 9.0]])
    drawn = parity_plot(
        measured, {"model": predicted}, logarithmic=True, ends_2B=ends_2B, outside_B=np.array([False, True, True])
    )
    assert "#d55e00" in drawn.lower()  # the frame of the one that is outside
    assert "#d55e00" not in plain.lower()
    assert plain.count("<path") < drawn.count("<path")  # one interval more
    assert "<svg" in label_histogram([0.1, 1.0, 10.0], {"training": [3, 1], "test": [1, 0]}, logarithmic=True)
