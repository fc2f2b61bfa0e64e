"""Balanced scaffold, cluster, ordered and given splits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator
from rdkit.ML.Cluster import Butina

from dnd.chemistry import splits as group_splits
from dnd.chemistry.splits import (
    CLUSTER_DISTANCE,
    Split,
    balanced_scaffold_split,
    cluster_split,
    k_fold_split,
    scaffolds_of,
)
from dnd.common.errors import InputError
from dnd.finetuning.splits import index_split, ordered_split
from finetuning_toys import RINGS, TAILS

CHAINS = [f"{tail}{'C' * length}" for length in range(2, 6) for tail in TAILS]
SMILES = [f"{tail}C{ring}" for ring in (*RINGS, *(f"C1CC1C{ring}" for ring in RINGS)) for tail in TAILS[1:]] + CHAINS


def owners(split: Split) -> np.ndarray:
    found = np.full(len(SMILES), -1)
    for part, rows in enumerate(split.parts().values()):
        assert (found[rows] == -1).all()
        found[rows] = part
    assert (found >= 0).all()
    return found


@pytest.mark.parametrize("rule", [balanced_scaffold_split, cluster_split])
def test_groups_stay_whole_and_seeds_differ(rule: object) -> None:
    splits = [rule(SMILES, (0.6, 0.2, 0.2), seed) for seed in range(3)]
    assert (owners(rule(SMILES, (0.6, 0.2, 0.2), 1)) == owners(splits[1])).all()
    assert len({tuple(split.test.tolist()) for split in splits}) > 1
    for split in splits:
        assert 0 < len(split.train) <= 0.6 * len(SMILES)
        assert 0 < len(split.valid) <= 0.2 * len(SMILES)
        assert len(split.test) > 0


def test_scaffolds_are_in_one_part_and_the_largest_train() -> None:
    scaffolds = np.array(scaffolds_of(SMILES))
    for seed in range(5):
        owner = owners(balanced_scaffold_split(SMILES, (0.5, 0.25, 0.25), seed))
        assert all(len(set(owner[scaffolds == scaffold])) == 1 for scaffold in set(scaffolds))
        assert (owner[scaffolds == ""] == 0).all()  # 36 chains, over half of a quarter; the others are 8 each


def test_clusters_are_those_of_rdkit_by_its_own_recipe() -> None:
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)
    prints = [generator.GetFingerprint(Chem.MolFromSmiles(text)) for text in SMILES]
    pairs = [
        1 - value
        for row in range(1, len(prints))
        for value in DataStructs.BulkTanimotoSimilarity(prints[row], prints[:row])
    ]
    owner = owners(cluster_split(SMILES, (0.6, 0.2, 0.2)))
    clusters = Butina.ClusterData(pairs, len(prints), CLUSTER_DISTANCE, isDistData=True)
    assert len(clusters) > 5
    assert all(len(set(owner[list(cluster)])) == 1 for cluster in clusters)


def test_too_many_molecules_for_clusters_are_refused_with_a_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_splits, "LIMIT_CLUSTERED", 10)
    with pytest.raises(InputError, match=r"expected at most 10.*scaffold-balanced"):
        cluster_split(SMILES)


def test_oldest_rows_train_and_equal_values_stay_together() -> None:
    years = ["2019", "2001", "", "2019", "2005", "2010", "2010", "2012", "2020", "2003", "2004"]
    split, line = ordered_split(years, (0.6, 0.2, 0.2))
    assert not line
    assert [[years[row] for row in part] for part in split.parts().values()] == [
        ["2001", "2005", "2010", "2010", "2003", "2004"],
        ["2012"],
        ["2019", "2019", "2020"],
    ]


def test_dates_are_ordered_as_dates() -> None:
    dates = ["2021-03-01", "1999-12-31T23:00:00", "2020-01-01", "2020-01-02", "2022-01-01"]
    split, _ = ordered_split(dates, (0.6, 0.2, 0.2))
    assert [part.tolist() for part in split.parts().values()] == [[1, 2, 3], [0], [4]]
    with pytest.raises(InputError, match=r"row 1: '3/1/2020' is not an ISO date"):
        ordered_split(["2020-01-01", "3/1/2020"])
    with pytest.raises(InputError, match="not a number"):
        ordered_split(["1", "inf"])


def test_copies_of_a_molecule_are_in_the_part_of_its_earliest_measurement() -> None:
    molecules = ["old", "a", "b", "c", "d", "e", "new", "old", "new", "a", "late", "old"]
    years = ["2001", "2002", "2003", "2004", "2005", "2006", "2007", "2008", "2009", "2010", "2011", ""]
    split, line = ordered_split(years, (0.6, 0.2, 0.2), identities=molecules)
    assert [[molecules[row] for row in part] for part in split.parts().values()] == [
        ["old", "a", "b", "c", "d", "old", "a"],
        ["e"],
        ["new", "new", "late"],
    ]
    assert line == (
        "note: 2 later rows of 2 molecules are in the part of their earliest row, so the test part has molecules that "
        "were new then"
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.one_of(st.none(), st.integers(0, 12))), min_size=3, max_size=40),
)
def test_the_test_part_of_a_time_split_has_molecules_that_were_new_then(rows: list[tuple[int, int | None]]) -> None:
    molecules = [str(molecule) for molecule, _ in rows]
    split, _ = ordered_split(["" if year is None else str(year) for _, year in rows], (0.5, 0.25, 0.25), (), molecules)
    first = {name: min((y for m, y in rows if str(m) == name and y is not None), default=None) for name in molecules}
    seen = [{molecules[row] for row in part} for part in split.parts().values()]
    assert sum(map(len, seen)) == len(set().union(*seen))
    ends = [[first[name] for name in own] for own in seen]
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        assert all(a < b for a in ends[earlier] for b in ends[later])  # type: ignore[operator]
    assert sorted(np.concatenate(list(split.parts().values()))) == [r for r, (_, y) in enumerate(rows) if y is not None]


def test_index_files_give_rows_of_the_input(tmp_path: Path) -> None:
    for name, text in (("train", "index\n0\n5\n2\n"), ("valid", "7\n"), ("test", "9\n1\n")):
        (tmp_path / f"{name}.csv").write_text(text)
    paths = [tmp_path / f"{name}.csv" for name in ("train", "valid", "test")]
    split, lost = index_split(paths, np.array([0, 2, 3, 5, 7, 9]))  # rows 1, 4, 6 and 8 could not be used
    assert [part.tolist() for part in split.parts().values()] == [[0, 1, 3], [4], [5]]
    assert lost == 1
    with pytest.raises(InputError, match="row 0 is listed twice"):
        index_split([paths[0], paths[0], paths[2]], np.arange(10))
    with pytest.raises(InputError, match="three files"):
        index_split(paths[:2], np.arange(10))
    with pytest.raises(InputError, match="can't be opened"):
        index_split([*paths[:2], tmp_path / "no.csv"], np.arange(10))
    paths[1].write_text("row\n1\nnone\n")
    with pytest.raises(InputError, match="'none'"):
        index_split(paths, np.arange(10))


def test_repeats_draw_new_folds() -> None:
    first, again, other = (k_fold_split(40, 4, 0, seed=3, repeat=repeat).test.tolist() for repeat in (0, 0, 1))
    assert first == again != other
