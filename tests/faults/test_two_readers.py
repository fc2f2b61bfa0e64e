"""The quick way from a SMILES to a graph and the plain one agree: what one refuses, the other never reads."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from dnd.chemistry.notation import foreign_notation
from dnd.chemistry.parse import parse_smiles
from dnd.graphs.fast.graphs import rewrite
from dnd.store.featurize import featurize_smiles

CORPUS = Path(__file__).parents[1] / "corpus" / "smiles.tsv"
SELFIES = ["[C][C][O]", "[C][C]", "[C][Cl]", "[C][C][C][Branch1][C][F][O]"]


def corpus() -> list[str]:
    with CORPUS.open(encoding="utf-8", newline="") as stream:
        cells = [json.loads(row["text"]) for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)]
    return [cell for cell in cells if isinstance(cell, str)]


def test_the_quick_way_reads_nothing_that_the_plain_way_refuses():
    read = 0
    for text in [*corpus(), *SELFIES]:
        quick, plain = rewrite(text), parse_smiles(text)
        if quick is not None:
            assert plain.ok, text
            assert quick.smiles == plain.smiles, text
            read += 1
    assert read > 50


@pytest.mark.parametrize("text", SELFIES)
def test_selfies_are_named_in_small_and_in_large_tables(text: str):
    for count in (1, 40):
        outcomes = featurize_smiles([text] * count, "heavy_both")
        assert {outcome.graph is None and "SELFIES" in outcome.reason for outcome in outcomes} == {True}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CHEMBL545", "a number of a database"),
        ("CID 702", "a number of a database"),
        ("DB00898", "a number of a database"),
        ("C2H6O", "a formula"),
        ("NaHCO3", "a formula"),
        ("XYHZ2", None),
    ],
)
def test_a_text_is_named_for_what_it_is(text: str, name: str | None):
    assert foreign_notation(text) == name
