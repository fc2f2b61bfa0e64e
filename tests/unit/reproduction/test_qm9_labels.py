"""Labelled molecules of QM9 and those to pretrain on: how many there are, and that none is both."""

from pathlib import Path

import pytest

from dnd.chemistry.identity import connectivity_key
from dnd.chemistry.molecule import Molecule
from dnd.chemistry.parse import parse_smiles
from dnd.common.errors import InputError
from dnd.common.runs import write_record
from dnd.reproduction.benchmarks import _fitting, draw_labelled, qm9_slice
from dnd.reproduction.cell_runners import prepare_store, qm9_labels
from dnd.reproduction.results import OUTCOME_FILE, STORE, TABLE, Work
from dnd.store.reader import Store

PAPER = (50_000, 17_748, 13_083)


def test_the_papers_sizes_leave_the_pretraining_its_50_000() -> None:
    """QM9 without its uncharacterised molecules has 130,831; a spare 2 % covers molecules of one constitution."""
    assert _fitting(PAPER, 130_831 - 51_000) == [50_000, 16_748, 13_083]
    assert _fitting(PAPER, 90_000) == list(PAPER)
    shrunk = _fitting(PAPER, 40_415)
    assert shrunk == [24_999, 8_873, 6_541]
    assert sum(shrunk) <= 40_415
    with pytest.raises(InputError, match="too few molecules"):
        _fitting(PAPER, 29)


def test_labels_give_way_to_the_pretraining() -> None:
    smiles, _, split, available = draw_labelled(qm9_slice(), (300, 60, 40))
    assert available >= len(smiles)
    few, _, parts, _ = draw_labelled(qm9_slice(), (300, 60, 40), reserved=2_390)
    assert parts.count("train") + parts.count("valid") + parts.count("test") == len(few) < len(smiles)
    assert few == smiles[: len(few)]
    assert split.count("train") >= parts.count("train")


def keys(texts: list[str]) -> set[str]:
    molecules = [one for text in texts if isinstance(one := parse_smiles(text), Molecule)]
    return {connectivity_key(one.mol) or "" for one in molecules}


def test_the_store_has_the_number_asked_for_and_no_labelled_molecule(tmp_path: Path) -> None:
    """Almost all of a file is labelled or pretrained on, as with QM9 at the paper's sizes."""
    inputs = {"inputs": [str(qm9_slice())], "problem": ""}
    (tmp_path / "labels").mkdir()
    settings = {"molecules": [250, 80, 60], "reserved": 2_000, "targets": ["mu", "alpha", "homo", "lumo", "gap", "r2",
                "zpve", "cv"]}  # fmt: skip
    counted = qm9_labels(Work(settings, inputs, {}, tmp_path / "labels"))["molecules"]
    write_record(tmp_path / "labels" / OUTCOME_FILE, {})  # as a cell of version 0.1.0, which vouches for no file
    own = {"molecules": 2_000, "hydrogens": "all_both", "conformers": "auto", "targets": [], "seed": 1}
    needs = {"qm9/labels": tmp_path / "labels"}
    (tmp_path / "store").mkdir()
    assert prepare_store(Work(own, inputs, needs, tmp_path / "store"))["molecules"] >= 1990
    labelled = [line.split(",")[0] for line in (tmp_path / "labels" / TABLE).read_text().splitlines()[1:]]
    assert len(labelled) == counted > 300
    assert not keys(labelled) & keys(Store.open(tmp_path / "store" / STORE).smiles())
