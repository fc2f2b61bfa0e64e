"""Conformers from a GPU library that is not here: a stand-in of RDKit's checks what is asked, kept and left over."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from dnd.common.errors import ConfigError
from dnd.conformers.generate import nvmolkit_is_available, with_conformers
from dnd.conformers.records import Record
from dnd.store import settings
from dnd.store.convert import make_converter
from dnd.store.schema import StoreRow
from dnd.store.settings import PrepareConfig, describe_run, resolve

SMILES = ["CCO", "c1ccccc1O", "[Na+].[Cl-]", "C[B-](C)(C)C", "not one", "CC(=O)NC", "CCCCN"]


@pytest.fixture
def nvmolkit(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A fake nvMolKit that embeds with RDKit, fails at amides, and notes its calls."""
    calls: list[Any] = []

    def embed(mols: list[Any], params: Any, confsPerMolecule: int = 1, **_: Any) -> None:
        assert params.useRandomCoords
        calls.append(("embed", len(mols), confsPerMolecule, params.randomSeed))
        for mol in mols:
            if not mol.HasSubstructMatch(AMIDE):
                rdDistGeom.EmbedMultipleConfs(mol, confsPerMolecule, params)

    def optimize(mols: list[Any], maxIters: int = 200, properties: Any = None, **_: Any) -> list[list[float]]:
        assert len(properties) == len(mols)
        calls.append(("relax", len(mols), maxIters))
        for mol in mols:
            rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=maxIters, mmffVariant="MMFF94s")
        return [[0.0] * mol.GetNumConformers() for mol in mols]

    package = ModuleType("nvmolkit")
    for name, attribute, function in (
        ("embedMolecules", "EmbedMolecules", embed),
        ("mmffOptimization", "MMFFOptimizeMoleculesConfs", optimize),
    ):
        module = ModuleType(f"nvmolkit.{name}")
        setattr(module, attribute, function)
        monkeypatch.setitem(sys.modules, f"nvmolkit.{name}", module)
    monkeypatch.setitem(sys.modules, "nvmolkit", package)
    return calls


def _amide() -> Any:
    from rdkit import Chem

    return Chem.MolFromSmarts("C(=O)N")


AMIDE = _amide()


def records() -> list[Record]:
    return [Record(row, "list.smi", "smiles", (text,)) for row, text in enumerate(SMILES)]


def test_what_the_gpu_did_is_kept_and_the_rest_goes_to_rdkit(nvmolkit: list[Any]) -> None:
    done = list(with_conformers(iter(records()), num_conformers=2, seed=5, relax=True, chunk=4))
    assert [record.row for record in done] == list(range(len(SMILES)))
    assert [record.generated_JA3 is not None for record in done] == [True, True, False, False, False, False, True]
    assert [call[:3] for call in nvmolkit] == [("embed", 2, 2), ("relax", 2, 400), ("embed", 2, 2), ("relax", 1, 400)]
    convert = make_converter("teacher_all_student_heavy", "etkdg", 2, 5, False)
    outcomes = [convert(record)[0] for record in done]
    methods = {row.smiles: row.conformer_method for row in outcomes if isinstance(row, StoreRow)}
    assert methods["CCO"] == "nvmolkit+mmff94s"
    assert methods["CNC(C)=O"] == "etkdg+mmff94s"
    ethanol = outcomes[0]
    assert isinstance(ethanol, StoreRow)
    assert ethanol.conformers is not None
    assert ethanol.conformers.positions_JA3.shape == (2, 9, 3)


def test_a_chunk_that_starts_at_the_same_record_has_the_same_seed(nvmolkit: list[Any]) -> None:
    list(with_conformers(iter(records()), num_conformers=1, seed=5, relax=False, chunk=3))
    seeds = [call[3] for call in nvmolkit]
    nvmolkit.clear()
    list(with_conformers(iter(records()[3:]), num_conformers=1, seed=5, relax=False, chunk=3))
    assert [call[3] for call in nvmolkit] == seeds[1:]


def test_broken_geometry_and_a_broken_driver_are_rdkits_work(
    nvmolkit: list[Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    convert = make_converter("heavy_both", "etkdg", 1, 0, False)
    crushed = Record(0, "x", "smiles", ("CCO",), generated_JA3=np.zeros((1, 9, 3), np.float32), method="nvmolkit")
    row = convert(crushed)[0]
    assert isinstance(row, StoreRow)
    assert row.conformer_method == "etkdg+mmff94s"

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(sys.modules["nvmolkit.embedMolecules"], "EmbedMolecules", fail)
    done = list(with_conformers(iter(records()), num_conformers=1, seed=0, relax=True, chunk=10))
    assert all(record.generated_JA3 is None for record in done)
    assert "RDKit makes 7 conformers: CUDA error: out of memory" in caplog.text


def test_the_backend_is_chosen_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    table = tmp_path / "list.smi"
    table.write_text("CCO\n")
    from dnd.conformers.formats import open_sources

    def resolved(backend: str, conformers: str = "etkdg") -> PrepareConfig:
        config = PrepareConfig(conformers=conformers, conformer_backend=backend)  # type: ignore[arg-type]
        return resolve(config, open_sources([table]))

    assert not nvmolkit_is_available()
    assert resolved("auto").conformer_backend == "rdkit"
    assert "conformer_backend" not in describe_run([], resolved("auto"))
    with pytest.raises(ConfigError, match=r"dnd-mol\[gpu\]"):
        resolved("nvmolkit")
    monkeypatch.setattr(settings, "nvmolkit_is_available", lambda: True)
    assert resolved("auto").conformer_backend == resolved("nvmolkit").conformer_backend == "nvmolkit"
    assert resolved("nvmolkit", "none").conformer_backend == "rdkit"
    assert describe_run([], resolved("auto"))["conformer_backend"] == "nvmolkit"
