"""What is shown is data: no name of the user's commands a terminal, becomes markup, or decides about a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dnd.cli.main import main
from dnd.common.errors import InputError
from dnd.common.log import shown
from dnd.common.model_folder import write_model
from dnd.report.figures import drawing, plain, to_svg
from dnd.report.html import Figure, Report, SvgCheck, Table, Text, drawn_svg, render

MODEL = Path(__file__).parents[1] / "golden" / "predictor-regression"
ESCAPES = ["\x1b]0;OWNED\x07", "\x1b[2J", "\x9b2J", "a\rb", "\x08\x7f", "‮eman", " x", "\ud800", "\x00"]
NAMES = [
    "c onload=1", "no onset=0", "url(x)", "</text><script>alert(1)</script>", "<svg onload=x>", "a\x00b\x1b[2J", "$x^$",
    "&#0;", "]]>", "<!-- ", "-->", "'\"", "µ≥1", "_hidden", "@import url(//x)", "javascript:x", "\x85 x", "￿",
]  # fmt: skip


@pytest.mark.parametrize("text", ESCAPES)
def test_no_control_character_is_shown_as_it_is(text: str) -> None:
    seen = shown(f"name {text}\tend\n")
    assert seen.replace("\n", "").replace("\t", "").isprintable()
    assert seen.startswith("name ")
    assert seen.endswith("\tend\n")
    assert shown(seen) == seen


def test_names_are_shown_as_they_are() -> None:
    for name in ("µ in °C", "ß-Carotin", "溶解度", "a b", r"C/C=C\C", "👩"):
        assert shown(name) == name


@pytest.mark.parametrize("words", [["explain", "C\x1b]0;X\x07(", "-o", "OUT"], ["predict", "no\x1b]0;X\x07.csv"]])
def test_lines_of_the_command_are_escaped(tmp_path: Path, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([*(word.replace("OUT", str(tmp_path / "o")) for word in words), "-m", str(MODEL)])
    said = "".join(capfd.readouterr())
    assert "\x1b" not in said
    assert "\x07" not in said
    assert r"\x1b]0;X" in said


def test_names_of_columns_are_escaped_in_errors_and_cells_stay_data(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "x.csv"
    table.write_text("smiles,n\x1b]0;X\x07same\nCCO,\x1b[2J\n")
    with pytest.raises(SystemExit):
        main(["finetune", str(table), "--target-columns", "n\x1b]0;X\x07amx", "-o", str(tmp_path / "m")])
    assert "\x1b" not in "".join(capfd.readouterr())
    command = [str(Path(sys.executable).with_name("dnd")), "predict", str(table), "-m", str(MODEL), "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert "CCO,\x1b[2J," in done.stdout  # a pipe gets the cells byte for byte
    assert "\x1b" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_no_name_decides_whether_a_report_is_written(name: str) -> None:
    with drawing() as (figure, axes):
        axes[0, 0].plot([0, 1], [0, 1], label=plain(name))
        axes[0, 0].set_title(plain(name))
        axes[0, 0].legend()
        svg = to_svg(figure)
    assert SvgCheck.of(svg) == ""
    text = render(Report(name, [Figure(svg, name, name), Text(name, name), Table([name], [[name]], name, name)], name))
    for markup in ("<script", "<svg onload", "\x1b", "\x00"):
        assert markup not in text
    assert text.count("<svg") == 1


@pytest.mark.parametrize(
    "markup",
    [
        "<script>alert(1)</script>", "<rect onload='x'/>", "<RECT ONLOAD='x'/>", "<image href='http://x/y.png'/>",
        "<use xlink:href='//x#y'/>", "<foreignObject/>", "<a href='javascript:x'/>", "<style>@import 'x';</style>",
        "<rect style='fill: url(http://x)'/>", "<style>a { fill: URL( 'x' ) }</style>", "<iframe/>", "<g",
        "<animate attributeName='href' values='javascript:x'/>", "<set/>", "</svg><svg>",
    ],
)  # fmt: skip
def test_a_drawing_that_runs_or_fetches_is_refused(markup: str) -> None:
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' xmlns:xlink='http://www.w3.org/1999/xlink'>{markup}</svg>"
    assert SvgCheck.of(svg)
    with pytest.raises(InputError, match="not a plain SVG"):
        render(Report("t", [Figure(svg)]))
    assert SvgCheck.of(f"<!DOCTYPE svg [<!ENTITY a 'b'>]>{svg}")


def test_comments_and_characters_that_no_xml_may_hold_are_left_out() -> None:
    assert drawn_svg("<?xml?>\n<svg><!-- a --><g/>\x00\x1b<!-- b\n --></svg>\n") == "<svg><g/>  </svg>"


def test_a_card_holds_no_tag_and_no_control_character(tmp_path: Path) -> None:
    card = "# A\n\n<script>alert(1)</script> a<b 1 < 2 <!-- x --> \x1b[2J </td>\n"
    write_model(tmp_path, kind="encoder", config={}, tensors={}, card=card)
    written = (tmp_path / "card.md").read_text()
    assert written == "# A\n\n&lt;script>alert(1)&lt;/script> a&lt;b 1 < 2 &lt;!-- x --> \\x1b[2J &lt;/td>\n"
    assert json.loads((tmp_path / "manifest.json").read_text())["files"]["card.md"]
