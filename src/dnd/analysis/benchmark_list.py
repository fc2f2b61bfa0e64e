"""The registry of the paper's data sets: files, targets, metric, unit, checksum, licence and source of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_OGB_URL = "http://snap.stanford.edu/ogb/data/graphproppred/csv_mol_download/{}.zip"


@dataclass(frozen=True)
class Benchmark:
    """One data set of the paper.

    Attributes:
        name: as on the command line.
        paper_name: as in the tables of the paper.
        group: `ogb` or `physchem`.
        folder: names under which its folder or archive may lie; empty for a single table.
        table: its file in the repository's `data/`.
        task: kind of targets.
        metric: the one the paper reports: `rmse`, `rocauc`, or `mae_z`, the MAE in standard deviations of the labels.
        targets: target columns; empty = every column but SMILES and identifiers.
        unit: of the targets.
        split: rule that made the parts.
        molecules: rows of the table.
        sha256: of the decompressed table that ships with this repository.
        licence: what its source states.
        source: where it is to be had.
        paper_molecules: rows that the paper's Table 4 gives.
    """

    name: str
    paper_name: str
    group: Literal["ogb", "physchem"]
    folder: tuple[str, ...]
    table: str
    task: Literal["regression", "classification"]
    metric: Literal["rmse", "rocauc", "mae_z"]
    targets: tuple[str, ...]
    unit: str
    split: str
    molecules: int
    sha256: str
    licence: str
    source: str
    paper_molecules: int


# SHA-256 of the decompressed tables in this repository's data/.
_SHA256 = {
    "esol": "e0e44dadd39f6e354e2e90069ed180a8283dd636cd74f7331d34e308c52714b1",
    "freesolv": "d97c77b3ffafba0b1002bdab2b2ecf5f5b4783e12eb8d519031b3684ac2d1742",
    "lipo": "9cc2ab0aab44259ab2ef6d04d234f92df599066c6af7aeca2b1cc0290a564fe6",
    "bace": "b60661da634240472d147509f7d56330e1f3179115e84b69350e9df5827e67d4",
    "bbbp": "5d9d6309781d6f981afca1bb4c764876017e65a83b8cc3d307358955b534b7b9",
    "clintox": "e525bf2f9b6ce710e8c3ae8c10a6c667e4866ec94d5f117de3a27fc39897108b",
    "hiv": "6b19c03f3ce433b3ecc36c0ef6184d5c93cf721444dd906c914d991c1d9c1dd9",
    "sider": "acb46946b2f1611100d20199a61c6c52ecf2d7ce08e09a02baee78814ef4bb3a",
    "tox21": "7a98419f81e817d062d4d4c844af6e8b25d173532641ea3e43a35f1ebb1400b8",
    "toxcast": "ef12b200c1e727f46dda0c4c7071ed3503e378daaacfa78ecc4ff7c8d3556ae5",
    "bp": "77a47a9fcf616b11e0f1f03f7785f3d19ec08085ba73f5262ac947e29f5a6280",
    "mp": "34b11c5c30be9002edfd686d1821fecf130df86b06da26fb76a26d4a710dbd2b",
    "ri": "b99d589e91824493f15234c3a1b7ad2cf4fc88f40e5347137f83afc058f7d94a",
    "logp": "fe83082922b9d21a51115b74e0b43c2fca2b436a5b664fe1f80a0d1dccd28ece",
}


def _ogb(
    name: str, paper_name: str, archive: str, metric: Literal["rmse", "rocauc"], unit: str, molecules: int
) -> Benchmark:
    folder = f"ogbg_mol{name}"
    return Benchmark(
        name=name, paper_name=paper_name, group="ogb", folder=(folder, folder.replace("_", "-"), archive),
        table=f"ogb/{folder}/mapping/mol.csv.gz", task="regression" if metric == "rmse" else "classification",
        metric=metric, targets=(), unit=unit, split="OGB scaffold 8:1:1", molecules=molecules, sha256=_SHA256[name],
        licence="MIT (OGB, MoleculeNet)", source=_OGB_URL.format(archive), paper_molecules=molecules,
    )  # fmt: skip


def _physchem(
    name: str, paper_name: str, target: str, unit: str, molecules: int, paper_molecules: int, licence: str
) -> Benchmark:
    return Benchmark(
        name=name, paper_name=paper_name, group="physchem", folder=(), table=f"physchem/{name}.csv.gz",
        task="regression", metric="mae_z", targets=(target,), unit=unit, split="random 8:1:1", molecules=molecules,
        sha256=_SHA256[name], licence=licence, source="the folder data/physchem of the source repository of dnd",
        paper_molecules=paper_molecules,
    )  # fmt: skip


_ENTRIES = (
    _ogb("esol", "ESOL", "esol", "rmse", "log10(mol/L)", 1128),
    _ogb("freesolv", "FreeSolv", "freesolv", "rmse", "kcal/mol", 642),
    _ogb("lipo", "Lipo", "lipophilicity", "rmse", "log D at pH 7.4", 4200),
    _ogb("bace", "BACE", "bace", "rocauc", "", 1513),
    _ogb("bbbp", "BBBP", "bbbp", "rocauc", "", 2039),
    _ogb("clintox", "ClinTox", "clintox", "rocauc", "", 1477),
    _ogb("hiv", "HIV", "hiv", "rocauc", "", 41127),
    _ogb("sider", "SIDER", "sider", "rocauc", "", 1427),
    _ogb("tox21", "Tox21", "tox21", "rocauc", "", 7831),
    _ogb("toxcast", "ToxCast", "toxcast", "rocauc", "", 8576),
    _physchem("bp", "BP", "bp_C", "°C", 9037, 7111, "BSD-3-Clause (OPERA copy), MIT (chemicals)"),
    _physchem("mp", "MP", "mp_C", "°C", 19945, 21744, "CC0 (Bradley Open Melting Point Dataset)"),
    _physchem("ri", "RI", "refractive_index", "1", 3044, 7304, "MIT (chemicals)"),
    _physchem("logp", "logP", "logP", "log10", 17601, 29458, "BSD-3-Clause (OPERA copy), not stated (JBR copy)"),
)
BENCHMARKS: dict[str, Benchmark] = {entry.name: entry for entry in _ENTRIES}
