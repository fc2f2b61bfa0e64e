"""Every regular expression on text that is read answers a megabyte of its worst case within a second."""

from __future__ import annotations

import re
import time
from ast import literal_eval
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

import dnd
from dnd.chemistry.notation import foreign_notation, is_selfies
from dnd.tables.labels import gives_units, is_decimal_comma, is_decimal_point, unit_of_name
from dnd.tables.readers import id_column_of, may_be_smiles
from dnd.tables.sdf import field_name
from dnd.tables.streams import is_counts_line
from dnd.tables.writers import guarded

PACKAGE = Path(dnd.__file__).parent
MEGABYTE = 2**20

# Where each stands → texts, repeated up to a megabyte, on which it would have most to do.
WORST = {
    "chemistry/descriptor_parts.py": ["1 ", "1 1 = ", "a", "1 -1 ", "1 1 = va"],
    "chemistry/identity.py": ["[S", "[", "->", "N#[N+", "[S+", "[11"],
    "chemistry/molecule.py": ["[", "[C", "C", "Br", "]", "!"],
    "chemistry/parse.py": ["[12:34:56] ", " ", "SMILES Parse Error:", "\t", "C", "Cl", "R1", "(C"],
    "cli/options.py": ["1", "+1", "1,", "1,0", "0"],
    "common/errors.py": ["`", "`a", "--", "--a", "--a-", "-a", "dnd ", "dnd a --", "--a b "],
    "common/compute.py": ["cuda:", "cuda:1", "1"],
    "common/log.py": ["<", "<a", "</"],
    "conformers/formats.py": [
        "smiles",
        "smiles ",
        "smiles=",
        "charge ",
        "charge=1",
        " ",
        "smiles = '",
        "charge\t",
        "properties ",
        "1.0",
    ],
    "common/config.py": ["1", "1.", " ", "1.1 "],
    "export/featurizer.py": ["[C]", "[Cl]", "[", "C"],
    "finetuning/splits.py": ["kfold:1", "1", "kfold:1x1"],
    "graphs/fast/graphs.py": ["C", "@", "@@", "!", "[", "[C", "@", "[C@", "%", "=", "[H", "1"],
    "models/teachers/teachers.py": ["distance.box", "update_net.", "1"],
    "prediction/files.py": ["embedding_", "embedding_1", "1"],
    "report/figures.py": ["<svg ", ' width="', ' height="1" width="1"'],
    "report/html.py": ["\x00", "a"],
    "serve/models.py": ["a", "\ud800"],
    "store/writer.py": ["1", "1.", ".1", ": ", " for input", " 1"],
    "tables/labels.py": ["9", "+9", "1e", "a.", "9,0", "~9", "9 (9", "9x10", "ca. ", "=>"],
    "tables/molecules.py": ["0", "a", "0a"],
    "tables/sdf.py": ["M  V30 COUNTS ", "M  V30 COUNTS", " ", "1", "M  V30 COUNTS 1 "],
}
# Patterns that are only reached through functions, which bound the text first: function → texts, repeated likewise.
GUARDED: dict[str, tuple[list[Callable[[str], object]], list[str]]] = {
    "chemistry/notation.py": (
        [foreign_notation, is_selfies],
        ["a", "C", "[C", "[C]", "A", "Ala-", "A1", "[;", "(", " "],
    ),
    "tables/labels.py": (
        [is_decimal_comma, is_decimal_point, unit_of_name, lambda text: gives_units("a", [text])],
        ["1", "1,", "1.", ",.", "1 ", "-", "e1", "1,111", "a ", "a (", "log ", "A_", "nM/", "%", "10^1 "],
    ),
    "tables/readers.py": (
        [may_be_smiles, lambda text: id_column_of([text])],
        ["mol_", "id", "C", "[C", "[", "1", "%1", "Cl"],
    ),
    "tables/writers.py": ([guarded], ["+", "-1", "-1.", "-a ", "+ ", "-1|", "-a/", "="]),
}
# Patterns of those modules that only these functions use.
BEHIND = {"_A_UNIT", "_IN_BRACKETS", "_AT_THE_END", "_LOGARITHM"}
# On texts of our own (requirements of installed packages), or on the last hundred letters of a name.
OURS = {"common/about.py", "finetuning/check_data.py"}
CALL = re.compile(r"\bre\.(compile|match|search|sub|fullmatch|findall|finditer|split)\(")


def test_every_regular_expression_is_listed() -> None:
    found = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if CALL.search(path.read_text())}
    assert found == {*WORST, *GUARDED, *OURS}, "give a new one the texts on which it has most to do"


@pytest.mark.parametrize("module", WORST)
def test_a_megabyte_of_the_worst_takes_less_than_a_second(module: str) -> None:
    loaded = import_module(f"dnd.{module.removesuffix('.py').replace('/', '.')}")
    patterns = [value for name, value in vars(loaded).items() if isinstance(value, re.Pattern) and name not in BEHIND]
    source = (PACKAGE / module).read_text()
    literals = re.findall(r"re\.(?:sub|split|search|findall|fullmatch)\(\s*(r?\"[^\n\"]*\"|r'[^\n']*')", source)
    patterns += [re.compile(literal_eval(one)) for one in literals]
    assert patterns
    for pattern in patterns:
        for text in WORST[module]:
            for ending in ("", "!", "\n"):
                worst = (text * (MEGABYTE // len(text) + 1))[:MEGABYTE] + ending
                long = worst.encode() if isinstance(pattern.pattern, bytes) else worst
                started = time.process_time()
                pattern.match(long)
                pattern.fullmatch(long)
                for _ in pattern.finditer(long):
                    pass
                assert time.process_time() - started < 1.0, (pattern.pattern, text)


@pytest.mark.parametrize("module", GUARDED)
def test_a_function_in_front_of_patterns_takes_less_than_a_second(module: str) -> None:
    functions, texts = GUARDED[module]
    for function in functions:
        for text in texts:
            for ending in ("", "!", "\n"):
                started = time.process_time()
                function((text * (MEGABYTE // len(text) + 1))[:MEGABYTE] + ending)
                assert time.process_time() - started < 1.0, (function, text)


def test_fields_and_counts_of_an_sdf_take_no_time_whatever_the_line() -> None:
    started = time.process_time()
    for text in ("<", "<>", ">", "> <", " "):
        line = ">" + text * MEGABYTE
        field_name(line)
        is_counts_line(line.encode())
    assert time.process_time() - started < 1.0
    assert field_name(">  <logS>") == "logS"
    assert field_name("> 25 <a<b>c>  (7)") == "a<b>c"
    assert field_name("> DT12") is None
    assert field_name(">" + "<" * 5000) is None
    assert is_counts_line(b"  1  0  0  0  0  0  0  0  0  0999 V2000\r\n")
    assert not is_counts_line(b"  1  0  0  0  0  0  0  0  0  0999 V2001\n")
