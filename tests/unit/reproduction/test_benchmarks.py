import gzip
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.reproduction.benchmarks import BENCHMARKS, PARTS, load_benchmark, random_parts

DATA = Path(__file__).resolve().parents[3] / "data"
SMALL = [name for name in BENCHMARKS if name != "toxcast"]


@pytest.mark.parametrize("name", SMALL)
def test_a_shipped_set_is_what_the_registry_says(name: str) -> None:
    data = load_benchmark(name)
    assert data.as_shipped
    assert data.targets_BC.shape == (data.benchmark.molecules, len(data.names))
    assert all(text == text.strip() and text for text in data.smiles)
    sizes = [len(data.parts[part]) for part in PARTS]
    assert sum(sizes) == len(data.smiles)
    assert abs(sizes[0] - 0.8 * len(data.smiles)) <= 1
    if data.benchmark.task == "classification":
        assert set(np.unique(data.targets_BC[~np.isnan(data.targets_BC)])) <= {0.0, 1.0}


def test_known_numbers() -> None:
    assert load_benchmark("tox21").targets_BC.shape[1] == 12
    assert np.isnan(load_benchmark("tox21").targets_BC).mean() == pytest.approx(0.171, abs=0.001)
    assert len(load_benchmark("sider").names) == 27
    assert load_benchmark("esol").targets_BC[0, 0] == -0.77


def test_an_ogb_archive_is_read_as_it_comes(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "esol.zip", "w") as archive:
        for path in (DATA / "ogb" / "ogbg_molesol").rglob("*.csv.gz"):
            archive.write(path, Path("esol") / path.relative_to(DATA / "ogb" / "ogbg_molesol"))
    data, shipped = load_benchmark("esol", tmp_path), load_benchmark("esol")
    assert data.path == tmp_path / "esol.zip"
    assert data.smiles == shipped.smiles
    assert all((data.parts[part] == shipped.parts[part]).all() for part in PARTS)


def test_data_dir_comes_first_and_another_table_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "ri.csv.gz").write_bytes(gzip.compress(b"smiles,refractive_index\n" + b"CCO,1.36\n" * 10))
    data = load_benchmark("ri", tmp_path)
    assert len(data.smiles) == 10
    assert not data.as_shipped


def test_missing_and_damaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dnd.reproduction.benchmarks.search_path", lambda folder: [tmp_path])
    with pytest.raises(InputError, match=r"bp is missing.*physchem"):
        load_benchmark("bp")
    with pytest.raises(InputError, match=r"esol is missing.*esol\.zip"):
        load_benchmark("esol")
    with pytest.raises(ConfigError, match="Did you mean esol"):
        load_benchmark("essol")
    (tmp_path / "bp.csv.gz").write_bytes(b"not gzip")
    with pytest.raises(CorruptFileError, match="gzip"):
        load_benchmark("bp")
    (tmp_path / "bp.csv.gz").write_bytes(gzip.compress(b"smiles,bp_C\nCCO,warm\n"))
    with pytest.raises(CorruptFileError, match="row 0"):
        load_benchmark("bp")
    shutil.copytree(DATA / "ogb" / "ogbg_molesol", tmp_path / "ogbg_molesol")
    (tmp_path / "ogbg_molesol" / "split" / "scaffold" / "valid.csv.gz").write_bytes(gzip.compress(b"1\n2\n"))
    with pytest.raises(CorruptFileError, match="each row once"):
        load_benchmark("esol")
    (tmp_path / "ogbg_molesol" / "split" / "scaffold" / "valid.csv.gz").unlink()
    with pytest.raises(InputError, match=r"valid\.csv\.gz is missing"):
        load_benchmark("esol")


def test_random_parts_are_fixed_and_disjoint() -> None:
    parts = random_parts(101)
    assert [len(parts[part]) for part in PARTS] == [80, 10, 11]
    assert sorted(np.concatenate(list(parts.values()))) == list(range(101))
    assert all((random_parts(101)[part] == parts[part]).all() for part in PARTS)
    assert (random_parts(101, seed=1)["test"] != parts["test"]).any()
