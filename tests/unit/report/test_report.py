import math
import re
import subprocess
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from dnd.common.errors import InputError
from dnd.report.figures import bar_chart, confusion_plot, drawing, loss_curves, save_figure
from dnd.report.html import Code, Figure, Molecules, Report, SvgCheck, Table, Text, draw_molecule, render, write_report
from dnd.report.plots import Scale, calibration_plot, label_histogram, parity_plot, roc_plot

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


def texts(svg: str) -> list[str]:
    return [one.text or "" for one in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_ticks_are_round_numbers_with_the_same_decimals() -> None:
    assert [label for _, label in Scale(-11.0, 2.0).ticks()] == ["-10.0", "-7.5", "-5.0", "-2.5", "0.0", "2.5"]
    assert [label for _, label in Scale(0.0, 1.0).ticks()] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert [label for _, label in Scale(0.0, 5e7).ticks()][:2] == ["0", "1e+07"]
    assert [label for _, label in Scale(7.0, 7.0).ticks()] == ["4", "6", "8", "10"]
    assert [label for _, label in Scale(0.0, 0.0).ticks()][::2] == ["-0.4", "0.0", "0.4"]


def test_ticks_of_a_logarithmic_axis_are_decades_and_more_where_there_are_few() -> None:
    assert [label for _, label in Scale(0.3, 80_000.0, True).ticks()] == ["1", "10", "100", "1000", "10000", "100000"]
    assert [label for _, label in Scale(1.0, 20.0, True).ticks()] == ["1", "2", "5", "10", "20"]
    assert [label for _, label in Scale(1.0, 2.5, True).ticks()] == ["1", "2"]
    assert [label for _, label in Scale(100.0, 103.0, True).ticks()][::2] == ["100.0", "101.0", "102.0", "103.0"]
    assert len(Scale(1e-9, 1e12, True).ticks()) < 10
    assert Scale(5.0, 5.0, True).ticks()
    assert all(0 < value < math.inf for value, _ in Scale(1e-300, 1e300, True).ticks())
    assert all(0 < value < math.inf for value, _ in Scale(5e-324, 1.0, True).ticks())


def test_points_lie_where_their_values_are() -> None:
    scale = Scale(10.0, 1000.0, True)
    np.testing.assert_allclose(scale.shares([10.0, 100.0, 1000.0]), [0.05 / 1.1, 0.5, 1.05 / 1.1])
    svg = parity_plot([0.0, 1.0], {"model": [1.0, 0.0]})
    circle, line = re.search(r'd="M([\d.]+) ([\d.]+)a.*?zM([\d.]+) ([\d.]+)a', svg), re.search(r'points="(.*?)"', svg)
    assert circle is not None
    assert line is not None
    (left, bottom), (right, top) = [tuple(map(float, place.split(","))) for place in line[1].split()]
    radius = 14**0.5 / 2
    places = [float(number) for number in circle.groups()]
    np.testing.assert_allclose(places, [left - radius, top, right - radius, bottom], atol=0.011)


def test_a_label_histogram_stacks_the_parts_and_names_them() -> None:
    svg = label_histogram([0.1, 1.0, 10.0], {"training": [3, 1], "test": [1, 0]}, unit="µg & <b>", logarithmic=True)
    bars = [
        tuple(map(float, found)) for found in re.findall(r'y="([\d.]+)" width="[\d.]+" height="([\d.]+)" fill', svg)
    ]
    (first, second, above) = [bar for bar in bars if bar[1] != 6.0]  # without those of the legend
    assert first[1] == pytest.approx(3 * second[1], abs=0.02)
    assert above[1] == pytest.approx(second[1], abs=0.02)
    assert above[0] + above[1] == pytest.approx(first[0], abs=0.02), "on top of the first part"
    assert {"training", "test", "label (µg & <b>)", "molecules", "0.1", "1", "10"} <= set(texts(svg))
    assert "training" not in texts(label_histogram([0.0, 1.0], {"training": [3]}))


def test_curves_of_a_classifier_are_drawn_through_their_points() -> None:
    labels, probabilities = np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.1, 0.6, 0.4, 0.9])
    roc = roc_plot({"y": (labels, probabilities)}, ("inactive", "active"))
    assert {"share of inactive called active", "share of active found"} <= set(texts(roc))
    curve, chance = re.findall(r'points="(.*?)"', roc)
    corners = [tuple(map(float, place.split(","))) for place in curve.split()]
    (left, bottom), (right, top) = [tuple(map(float, place.split(","))) for place in chance.split()]
    middle = ((left + right) / 2, (bottom + top) / 2)
    np.testing.assert_allclose(
        corners, [(left, bottom), (left, middle[1]), (middle[0], middle[1]), (middle[0], top), (right, top)], atol=0.011
    )
    both = calibration_plot({"a": (labels, probabilities), "b": (labels, probabilities)}, "active")
    assert {"a", "b", "predicted probability of active"} <= set(texts(both))
    assert both.count("<polyline") == 3


def test_plots_are_well_formed_whatever_the_names() -> None:
    for svg in (
        parity_plot([1.0], {HOSTILE: [2.0], "b": [1.0], "c": [1.0], "d": [3.0]}, title=HOSTILE, unit=HOSTILE),
        label_histogram([0.0, 1.0], {HOSTILE: [1], "b": [0]}, unit=HOSTILE),
        roc_plot({HOSTILE: (np.array([0, 1]), np.array([0.2, 0.7]))}, (HOSTILE, HOSTILE)),
        calibration_plot({HOSTILE: (np.array([0, 1]), np.array([0.2, 0.7]))}, HOSTILE),
    ):
        assert not SvgCheck.of(svg)
        assert any("<script>" in text for text in texts(svg)), "shown, not run"


def test_letters_that_our_font_has_not_are_the_pages_and_no_warning() -> None:
    svg = confusion_plot(np.eye(2, dtype=int), ["名前", "b"])
    assert "名前" in svg
    assert not SvgCheck.of(svg)


def test_the_report_of_a_model_of_values_needs_no_matplotlib() -> None:
    code = "import sys, dnd.report.model_report; print('matplotlib' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True)
    assert found.stdout.strip() == "False"
