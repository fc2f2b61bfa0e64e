"""Draws the tables of the result pages from the files of raw results beside them.

    python benchmarks/draw_results.py            # writes the tables into their pages
    python benchmarks/draw_results.py --check    # says which table differs from its file, and fails if one does

A drawn table stands between `<!-- drawn from FILE: NAME -->` and `<!-- end of NAME -->` and has a function by its name
in `DRAWN`, in the `drawn_*.py` of its kind of raw lines. A table of results without a file says so in its section, with
the words of `NOT_KEPT`. Any other table is marked with `BY_HAND` and where its entries are from.
`docs/results/README.md` lists all of them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import drawn_performance
import drawn_predictor
import drawn_reproduce
import encoder_arms
import fast_features
from result_lines import DOCS, RESULTS

NOT_KEPT = "Measured once; the raw lines were not kept."
BY_HAND = "<!-- by hand from "  # settings, judgements, numbers counted on paper
_MARKER = re.compile(
    r"<!-- drawn from (?P<file>\S+): (?P<name>[\w-]+) -->\n(?P<text>.*?)\n?<!-- end of (?P=name) -->", re.DOTALL
)
_CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
_MEASURED = re.compile(r"(?<![\d.])\d+\.\d+(?!\.?\d)")
_SOURCE = re.compile(r"<!-- by hand from |\.csv|\.jsonl?\b|results/\w+/`")


def main() -> None:
    """Write or check every drawn table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [f"{page.relative_to(DOCS)}: {name}" for page in pages() for name in redraw(page, write=not check)]
    stale += [str(path.relative_to(DOCS)) for path in drawn_reproduce.redraw_tables(write=not check)]
    print("\n".join(stale) or "every drawn table is that of its file")
    if check and stale:
        sys.exit("run python benchmarks/draw_results.py")


# Drawn by the scripts that measure, such as `handedness.py` and `encoder_value.py`, whose tests compare them.
DRAWN_BY_SCRIPTS = frozenset(
    {
        "handedness.md",
        "features.md",
        "compress.md",
        "encoder-value.md",
        "properties.md",
        "points.md",
        "who_judges.md",
        "forest_trees.md",
        "few_labels.md",
        "label_maps.md",
        "conformer_quality.md",
    }
)


def pages() -> list[Path]:
    """The pages whose numbers are results."""
    return [
        page for page in [*sorted(RESULTS.glob("*.md")), DOCS / "performance.md"] if page.name not in DRAWN_BY_SCRIPTS
    ]


def redraw(page: Path, *, write: bool) -> list[str]:
    """Names of the tables of `page` that differ from their files; with `write` they are replaced."""
    stale: list[str] = []

    def drawn(match: re.Match[str]) -> str:
        name, lines = match["name"], DRAWN[match["name"]](page.parent / match["file"])
        if "\n".join(lines) != match["text"]:
            stale.append(name)
        return "\n".join([match[0].partition("\n")[0], *lines, f"<!-- end of {name} -->"])

    text = page.read_text(encoding="utf-8")
    found = _MARKER.sub(drawn, text)
    if write and stale:
        page.write_text(found, encoding="utf-8")
    return stale


def unaccounted(text: str) -> list[str]:
    """Heads of the tables of a page that are neither drawn from a file nor said to have none nor marked as by hand.

    `NOT_KEPT` holds to the end of its section (`##`), `BY_HAND` for the table in the next line.
    """
    heads: list[str] = []
    excused = False
    lines = ["", *_MARKER.sub("", text).splitlines()]
    for before, line in pairwise(lines):
        if line.startswith(("# ", "## ")):
            excused = False
        excused = excused or NOT_KEPT in line
        begins = line.startswith("|") and not before.startswith("|")
        if begins and not excused and not before.startswith(BY_HAND):
            heads.append(line)
    return heads


def unsourced(text: str) -> list[str]:
    """Heads of the sections (`##`) of a page whose sentences have measured numbers, and that name no file of them.

    A section has a source where something in it is drawn or by hand from a file, or where it names a file of raw lines
    or says, with `NOT_KEPT`, that there is none.
    """
    found = []
    for section in re.split(r"(?m)^(?=## )", text)[1:]:
        sentences = "\n".join(line for line in _CODE.sub("", section).splitlines() if not line.startswith(("|", "#")))
        sourced = _MARKER.search(section) or _SOURCE.search(section) or NOT_KEPT in " ".join(section.split())
        if _MEASURED.search(sentences) and not sourced:
            found.append(section.partition("\n")[0])
    return found


DRAWN: dict[str, Callable[[Path], list[str]]] = {
    **drawn_reproduce.DRAWN,
    **drawn_predictor.DRAWN,
    **drawn_performance.DRAWN,
    "arms": encoder_arms.tables,
    "fast-features": fast_features.tables,
    "fast-test": fast_features.test_tables,
}


if __name__ == "__main__":
    main()
