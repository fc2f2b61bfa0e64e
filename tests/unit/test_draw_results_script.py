"""Every table of results is drawn from a file in the repository, or says that there is none."""

from pathlib import Path
from types import ModuleType

import pytest

from benchmark_scripts import load_script


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    return load_script("draw_results")


def test_every_drawn_table_is_that_of_its_file(draw: ModuleType) -> None:
    """Fails when a page or a file was changed alone; `python benchmarks/draw_results.py` draws them anew."""
    assert {page.name: draw.redraw(page, write=False) for page in draw.pages()} == {
        page.name: [] for page in draw.pages()
    }
    assert draw.drawn_reproduce.redraw_tables(write=False) == []


def test_every_name_is_drawn_somewhere(draw: ModuleType) -> None:
    names = [
        match["name"] for page in draw.pages() for match in draw._MARKER.finditer(page.read_text(encoding="utf-8"))
    ]
    assert set(names) == set(draw.DRAWN)


def test_every_other_table_says_where_it_is_from(draw: ModuleType) -> None:
    assert {page.name: draw.unaccounted(page.read_text(encoding="utf-8")) for page in draw.pages()} == {
        page.name: [] for page in draw.pages()
    }


def test_every_section_with_numbers_says_where_they_are_from(draw: ModuleType) -> None:
    assert {page.name: draw.unsourced(page.read_text(encoding="utf-8")) for page in draw.pages()} == {
        page.name: [] for page in draw.pages()
    }
    section = "# A page\n\n## A section\n\nIt took 3.5 seconds.\n"
    assert draw.unsourced(section) == ["## A section"]
    assert draw.unsourced(section + "\nMeasured once; the raw lines\nwere not kept.\n") == []
    assert draw.unsourced(section + "\n[All lines](raw.csv)\n") == []
    assert draw.unsourced("# A page\n\n## A section\n\n`3.5`, and Python 3.11.7\n") == []


def test_the_inventory_names_every_page_and_every_raw_file(draw: ModuleType) -> None:
    text = (draw.RESULTS / "README.md").read_text(encoding="utf-8")
    for page in draw.pages():
        if page.name != "README.md":
            assert f"{page.name})" in text, page.name
    for path in sorted(draw.RESULTS.rglob("*")):
        if path.suffix in (".csv", ".json", ".jsonl", ".gz", ".txt"):
            assert path.relative_to(draw.RESULTS).as_posix() in text, path


PAGE = """# A page

<!-- drawn from raw.txt: fig3 -->
| a |
<!-- end of fig3 -->

| a | b |
|---|---|
| 1 | 2 |

## Another section
{note}
| c |
|---|
<!-- by hand from the paper -->
| d |
|---|
"""


def test_a_changed_file_is_noticed_and_drawn(draw: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (tmp_path / "raw.txt").write_text("| new |\n")
    assert draw.redraw(page, write=False) == ["fig3"]
    assert page.read_text() == PAGE
    draw.redraw(page, write=True)
    assert page.read_text() == PAGE.replace("| a |\n<!-- end", "| new |\n<!-- end")
    assert draw.redraw(page, write=False) == []


def test_tables_without_a_file_are_found(draw: ModuleType) -> None:
    assert draw.unaccounted(PAGE.format(note="")) == ["| a | b |", "| c |"]
    assert draw.unaccounted(PAGE.format(note=draw.NOT_KEPT)) == ["| a | b |"]
