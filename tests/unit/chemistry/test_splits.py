"""Splits: OGB's official scaffold indices, and the laws of the others."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from dnd.chemistry.parse import parse_smiles
from dnd.chemistry.splits import (
    Split,
    column_split,
    k_fold_split,
    random_split,
    scaffold_of,
    scaffold_split,
    scaffolds_of,
)
from dnd.common.errors import ConfigError, InputError
from ogb_reference import DATA, smiles_of

OFFICIAL = ("esol", "freesolv", "bace", "bbbp")
REBUILT = ("clintox", "lipo", "sider", "tox21", "toxcast", "hiv")


def check_published(name: str) -> None:
    split = scaffold_split(smiles_of(name))
    for part, rows in split.parts().items():
        with gzip.open(DATA / f"ogbg_mol{name}" / "split" / "scaffold" / f"{part}.csv.gz") as stream:
            np.testing.assert_array_equal(rows, np.loadtxt(stream, dtype=np.int64))


@pytest.mark.parametrize("name", OFFICIAL)
def test_scaffold_split_reproduces_the_official_indices(name: str) -> None:
    check_published(name)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", REBUILT)
def test_scaffold_split_reproduces_the_rebuilt_indices(name: str) -> None:
    check_published(name)


def assert_partition(split: Split, n: int) -> None:
    rows = np.concatenate(list(split.parts().values()))
    assert sorted(rows.tolist()) == list(range(n))
    for part in split.parts().values():
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()


def test_scaffold_split_shares_no_scaffold() -> None:
    smiles = smiles_of("freesolv")
    split = scaffold_split(smiles)
    assert_partition(split, len(smiles))
    scaffolds = np.array(scaffolds_of(smiles))
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        shared = set(scaffolds[split.parts()[first]]) & set(scaffolds[split.parts()[second]])
        assert not shared


def test_scaffold_split_names_the_row_that_does_not_parse() -> None:
    with pytest.raises(InputError, match="row 1 has no scaffold: found unclosed ring"):
        scaffold_split(["CCO", "C1CC"])


def test_scaffold_of_a_relaxed_complex() -> None:
    outcome = parse_smiles("O=C1O[Al]23(OC1=O)(OC(=O)C(=O)O2)OC(=O)C(=O)O3")
    assert outcome.relaxed
    assert "Fe" in scaffold_of(outcome.mol, outcome.relaxed)
    assert scaffold_of(parse_smiles("CCO").mol) == ""


@pytest.mark.parametrize("n", [0, 1, 9, 100, 101])
def test_random_split_is_a_partition_by_its_seed(n: int) -> None:
    split = random_split(n, seed=3)
    assert_partition(split, n)
    assert len(split.train) == n * 8 // 10
    again = random_split(n, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(split.parts().values(), again.parts().values(), strict=True))
    if n >= 100:
        assert not np.array_equal(split.test, random_split(n, seed=4).test)


def test_k_folds_test_every_row_once() -> None:
    folds = [k_fold_split(23, folds=5, fold=fold, seed=1) for fold in range(5)]
    for split in folds:
        assert_partition(split, 23)
    assert sorted(np.concatenate([split.test for split in folds]).tolist()) == list(range(23))
    assert sorted(np.concatenate([split.valid for split in folds]).tolist()) == list(range(23))
    assert {len(split.test) for split in folds} == {4, 5}


@pytest.mark.parametrize(("folds", "fold"), [(2, 0), (11, 0), (5, 5), (5, -1)])
def test_k_folds_out_of_range_are_refused(folds: int, fold: int) -> None:
    with pytest.raises(ConfigError):
        k_fold_split(10, folds=folds, fold=fold)


def test_column_split_reads_the_usual_words() -> None:
    split = column_split(["train", "Test", " VAL ", "", "training", "validation"])
    assert [part.tolist() for part in split.parts().values()] == [[0, 4], [2, 5], [1]]


def test_column_split_refuses_other_words_and_empty_parts() -> None:
    with pytest.raises(InputError, match=r"row 1 of the split column: found 'tset'.*Did you mean test"):
        column_split(["train", "tset"])
    with pytest.raises(InputError, match="says 'test'"):
        column_split(["train", "valid"])


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1)])
def test_fractions_must_sum_to_one(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError):
        random_split(10, fractions)
    with pytest.raises(ConfigError):
        scaffold_split(["C"] * 10, fractions)
