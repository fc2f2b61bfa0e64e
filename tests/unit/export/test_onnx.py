"""Exported models: the values of `dnd predict`, from files that need neither torch nor dnd."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")

import onnxruntime
from rdkit import Chem

from dnd.chemistry.molecule import LIMITS
from dnd.cli.main import main
from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.export import featurizer
from dnd.export.export import export_onnx
from dnd.export.graph import Graph, value_nodes
from dnd.export.students import network_nodes
from dnd.finetuning.compress import CompressConfig, compress
from dnd.graphs.identifiers import laplacian_identifiers
from dnd.models.students.base import OPTIONAL_SETTINGS, StudentConfig
from dnd.models.students.encoders import build_student
from dnd.predictor.ensemble import PropertyNetwork, run_over, to_raw_units
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target, Transform
from dnd.predictor.uncertainty.calibration import Calibration, Chosen, GroupCalibration, TargetCalibration
from dnd.predictor.uncertainty.classes import Isotonic, Platt, Temperature
from dnd.store.featurize import valid_molecules
from finetuning_toys import quietly, tiny_model, write_classes, write_csv, write_regression

DIVERSE = Path(__file__).parents[2] / "data" / "diverse_20000.smi.gz"
# Single atoms, no bond, stereo, charges, salts, metals, isotopes, atom maps, relaxed valences, radicals, large.
SPECIAL = [
    "C", "[Na+].[Cl-]", "O", "F/C=C/F", "F/C=C\\F", "N[C@@H](C)C(=O)O", "N[C@H](C)C(=O)O", "C[N+](C)(C)C", "[CH3]",
    "Cl[Al-](Cl)(Cl)(Cl)Cl", "[2H]OC([2H])([2H])C", "[13CH4]", "[CH3:1][OH:2]", "c1ccccc1.OS(=O)(=O)O",
    "C1CC1(C)[B-](F)(F)F", "C" * 300, "OCC", "CCO", "[U]", "*CC", "C#N", "CC(=O)OC1=CC=CC=C1C(O)=O",
    "C[C@H](F)/C=C/[C@@H](Cl)Br", "[H][H]", "c1ccc2c(c1)c1ccccc1c1ccccc21", "FS(F)(F)(F)(F)F",
    "[Fe+2].[O-]C(=O)C.[O-]C(=O)C",
]  # fmt: skip
# Two eigenvalues of the Laplacian are equal, whatever hash and order of the atoms add to it.
SYMMETRIC = [
    "Cl.Cl.C(CNCC1=CC=CC=C1)NCC1=CC=CC=C1", "c1ccc(CN2CCCNCCN(Cc3ccccc3)CCCNCC2)cc1",
    "O=[N+]([O-])c1ccc(C=CC=CC=Cc2ccc([N+](=O)[O-])cc2)cc1", "c1cc(-c2ccc(OCCCN3CCCCC3)cc2)ccc1OCCCN1CCCCC1",
    "O=S(=O)(O)c1ccc(N=Nc2ccc(S(=O)(=O)O)cc2)cc1", "Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl.Cl",
    "C12C3C4C1C5C2C3C45", "CN1CCN(C2=[S+][Cu-3]3([S+]=C(N4CCN(C)CC4)[SH+]3)[SH+]2)CC1",
]  # fmt: skip
SALTS = [
    "CC(=O)[O-].[Na+]", "C[NH3+].[Cl-]", "O.O.CCO", "[NH3+]CC(=O)[O-]", "C[N+](C)(C)CC(=O)[O-].[K+]",
    "C[S+](C)[O-]", "[O-][N+](=O)c1ccccc1.[Na+].[Cl-]", "N[C@@H](C)C(=O)[O-].[Li+]", "[Na+].[Na+].[O-]S(=O)(=O)[O-]",
    "[Fe+2].c1cc[cH-]c1.c1cc[cH-]c1", "[SbH6+3]",
]  # fmt: skip


def clique(atoms: int) -> str:
    """Atoms bound all to all, which no command reads."""
    mol = Chem.RWMol()
    for atom in range(atoms):
        mol.AddAtom(Chem.Atom("Pt"))
        for other in range(atom):
            mol.AddBond(other, atom, Chem.BondType.SINGLE)
    return str(Chem.MolToSmiles(mol))


BAD = [
    "", "no molecule", "C1CC", "C(C)(C)(C)(C)C", "CCO ethanol", "C~C",
    ".".join("C" * 33), "C" + "(" * 257 + "C" + ")" * 257, "C" * 1100, "C" * 4097, clique(12),
]  # fmt: skip
SETTINGS = {
    "explicit_hydrogens": False,
    "identifiers": {"kind": "laplacian", "columns": 16},
    "limits": asdict(LIMITS),
}


def diverse(count: int) -> list[str]:
    with gzip.open(DIVERSE, "rt") as stream:
        every = [line.split()[0] for line in stream]
    return every[:: max(1, len(every) // count)][:count]


def session(graph: Graph) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(graph.model("a test").SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("explicit", "standardize"), [(False, False), (True, False), (False, True)])
def test_features_are_those_of_dnd(explicit: bool, standardize: bool):
    smiles = [*SPECIAL, *SALTS, *diverse(60)]
    found = valid_molecules(smiles, "all_both" if explicit else "heavy_both", standardize=standardize)
    assert not any(found.errors)
    graph = found.store.read(np.arange(len(smiles))).graph
    settings = {**SETTINGS, "explicit_hydrogens": explicit, "standardize": standardize, "identifiers": None}
    inputs = featurizer.features(smiles, settings)
    assert np.array_equal(inputs["atom_features"], graph.node_features_NF)
    assert np.array_equal(inputs["bond_ends"], graph.edge_index_2E)
    assert np.array_equal(inputs["bond_features"], graph.edge_features_EF)
    assert np.array_equal(inputs["molecule_of_atom"], graph.batch_N)
    assert np.array_equal(inputs["atoms_per_molecule"], graph.atoms_per_molecule_B)


def test_what_is_no_molecule_has_a_reason_in_both():
    assert all(valid_molecules(BAD, "heavy_both").errors)
    assert all(isinstance(featurizer.read(text, SETTINGS["limits"]), str) for text in BAD)
    with pytest.raises(ValueError, match="no molecule"):
        featurizer.features(["CCO", "no molecule"], SETTINGS)


def test_what_is_no_number_has_a_reason_as_in_dnd():
    class Broken:
        def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
            return [np.stack([inputs["atoms_per_molecule"], 1 / (3.0 - inputs["atoms_per_molecule"])], axis=1)]

    model = object.__new__(featurizer.Exported)
    model.settings = {**SETTINGS, "identifiers": None, "targets": [{"name": "a"}, {"name": "b"}]}
    model.session = Broken()  # type: ignore[assignment]
    with np.errstate(divide="ignore"):
        values, reasons = model.predict(["CC", "CCO", "no molecule"])
    assert values[0].tolist() == [2.0, 1.0]
    assert np.isnan(values[1:]).all()
    assert [bool(reason) for reason in reasons] == [False, True, True]


NETWORKS = {
    "gine": (StudentConfig("gine", 24, 3), "mean", "mlp"),
    "gine with its node": (StudentConfig("gine", 24, 2), "virtual_node", "linear"),
    "gine bounded": (StudentConfig("gine", 24, 3, bounded=True), "virtual_node", "mlp"),
    "gine plain": (StudentConfig("gine", 24, 2, virtual_node=False, residual=False), "min_max_mean_sum", "mlp"),
    "tokengt": (StudentConfig("tokengt", 32, 2, num_heads=4), "mean", "mlp"),
    "tokengt with its token": (StudentConfig("tokengt", 32, 2, num_heads=4, final_norm=False), "virtual_node", "mlp"),
    "tokengt with random identifiers": (StudentConfig("tokengt", 32, 2, num_heads=4, identifiers="orf"), "mean", "mlp"),
    "pna": (StudentConfig("pna", 24, 3), "mean", "mlp"),
    "pna of 3DInfomax": (StudentConfig("pna", 24, 2), "min_max_mean_sum", "pna"),
    "gcn": (StudentConfig("gcn", 24, 2), "mean", "mlp"),
    "graphsage": (StudentConfig("graphsage", 24, 2), "mean", "linear"),
    "gatv2": (StudentConfig("gatv2", 24, 2, num_heads=4), "mean", "mlp"),
    "gps": (StudentConfig("gps", 24, 2, num_heads=4), "mean", "mlp"),
}
NEED_GEOMETRIC = {"gcn", "graphsage", "gatv2", "gps"}


def identifiers_of(config: StudentConfig) -> dict[str, Any] | None:
    kind = "walks" if config.name == "gps" else config.identifiers
    return {"kind": kind, "columns": config.num_identifiers} if config.num_identifiers else None


def test_every_student_has_a_form():
    assert {config.name for config, _, _ in NETWORKS.values()} == set(OPTIONAL_SETTINGS)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_says_the_same(name: str):
    config, pooling, head = NETWORKS[name]
    if config.name in NEED_GEOMETRIC:
        pytest.importorskip("torch_geometric", reason="the extra gnn is not installed")
    torch.manual_seed(0)
    network = PropertyNetwork(build_student(config), pooling, head, 3)
    for module in network.modules():  # statistics and gains that are not those of a new network
        if isinstance(module, torch.nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2.0)
        if getattr(module, "weight", None) is not None and module.weight.ndim == 1:
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    network.eval()
    graph = Graph()
    graph.output(network_nodes(graph, network), "outputs", "float32", ["molecules", 3])
    running, smiles = session(graph), [*SPECIAL, *diverse(40)]
    found = valid_molecules(smiles, "heavy_both").store
    expected = run_over(network, network.student, found, np.arange(len(smiles)))
    settings = {**SETTINGS, "identifiers": identifiers_of(config)}
    scale = np.abs(expected).max(axis=1, keepdims=True)
    for rows in ([0], list(range(5)), list(range(len(smiles)))):
        outputs = running.run(None, featurizer.features([smiles[row] for row in rows], settings))[0]
        assert (np.abs(outputs - expected[rows]) <= 1e-5 * np.maximum(1, scale[rows])).all()


def test_units_transforms_and_calibration_are_those_of_the_model():
    bend = Transform("yeo-johnson", centre=3.0, width=2.0, power=0.4, low=-2.5, high=3.0)
    targets = (
        Target("plain", mean=2.0, std=3.0),
        Target("log", mean=-1.0, std=0.5, transform=Transform("log", low=-2.0, high=1.0)),
        Target("bent", mean=0.1, std=1.2, transform=bend),
        Target("straight", transform=replace(bend, power=0.0)),
        Target("raw class", kind="classification"),
        Target("platt", kind="classification"),
        Target("isotonic", kind="classification"),
        *(Target(f"g{name}", kind="multiclass", group="g", class_name=name) for name in "abc"),
        Target("last", mean=5.0),
    )
    line = Isotonic((0.0, 0.2, 0.200001, 0.9, 1.0), (0.01, 0.1, 0.4, 0.7, 0.95))
    chosen = [Chosen()] * 5 + [Chosen(platt=Platt(1.3, -0.4)), Chosen(isotonic=line), *[Chosen()] * 4]
    group = GroupCalibration("g", 7, 3, Chosen(temperature=Temperature(1.7)))
    calibration = Calibration(tuple(map(TargetCalibration, chosen)), groups=(group,))
    outputs = np.random.default_rng(0).normal(0, 2.5, (200, len(targets))).astype(np.float32)
    graph = Graph()
    start = graph.input("outputs", "float32", ["molecules", len(targets)])
    graph.output(value_nodes(graph, start, targets, calibration), "values", "float64", ["molecules", len(targets)])
    values = session(graph).run(None, {"outputs": outputs})[0]
    assert np.allclose(
        values, calibration.scaled(to_raw_units(outputs.astype(np.float64), targets)), rtol=1e-10, atol=1e-10
    )


RUN = """
import json, sys
sys.path.insert(0, ".")
from featurizer import Exported
values, reasons = Exported(".").predict(json.load(open("in.json")))
json.dump([values.tolist(), reasons], open("out.json", "w"))
assert not {"torch", "dnd", "pandas", "sklearn"} & set(sys.modules), "more than RDKit, NumPy and onnxruntime is loaded"
"""


def away(folder: Path, smiles: list[str]) -> tuple[np.ndarray, list[str]]:
    """What the exported files say in a process of their own."""
    (folder / "in.json").write_text(json.dumps(smiles))
    subprocess.run([sys.executable, "-c", RUN], cwd=folder, check=True, timeout=300)
    values, reasons = json.loads((folder / "out.json").read_text())
    return np.array(values, dtype=float), reasons


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("export"))


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("student", ["gine", "tokengt", "tokengt orf", "pna", "gps"])
def test_the_files_alone_predict_as_dnd_does(model: Path, tmp_path: Path, student: str, count: int):
    if student != "gine":
        name, *identifiers = student.split()
        options = [f"student.name={name}", "student.width=32", "student.num_layers=2"]
        options += [f"student.identifiers={one}" for one in identifiers]
        options += ["student.num_heads=4"] if name != "pna" else ["pooling=min_max_mean_sum", "head=pna"]
        model = tiny_model(tmp_path, *options)
    main_exits(["export", str(model), "-o", str(tmp_path / "away")])
    smiles = [*SPECIAL, *SYMMETRIC, *BAD, *diverse(count)]
    values, reasons = away(tmp_path / "away", smiles)
    expected = Predictor.load(model, device="cpu").predict(smiles)
    assert [bool(reason) for reason in reasons] == [bool(reason) for reason in expected["error"]]
    assert sum(map(bool, reasons)) == len(BAD)
    wanted = np.asarray(expected["size_pred"])
    known = ~np.isnan(wanted)
    std = Predictor.load(model, device="cpu").parts.members[0].targets[0].std
    assert np.isnan(values[~known]).all()
    assert (np.abs(values[known, 0] - wanted[known]) / np.maximum(std, np.abs(wanted[known]))).max() <= 1e-5


def test_the_identifiers_are_those_of_dnd_where_symmetry_repeats_eigenvalues():
    smiles = [*SYMMETRIC, *SPECIAL, *diverse(60)]
    found = valid_molecules(smiles, "heavy_both")
    expected_NI = laplacian_identifiers(found.store.read(np.arange(len(smiles))).graph, 16).numpy()
    assert np.abs(featurizer.features(smiles, SETTINGS)["identifiers"] - expected_NI).max() <= 1e-5


@pytest.mark.timeout(600)
@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "student", [("encoder=random", "student.name=gine", "student.width=16"), ("encoder=dnd-base",)]
)
def test_a_compressed_blend_is_exported_as_any_other_model(tmp_path: Path, student: tuple[str, ...], count: int):
    blend = ("blend.classical=ridge,forest_descriptors", "blend.students=false", "blend.folds=2", "blend.trees=5")
    quietly(write_regression(tmp_path), tmp_path / "blend", ["size"], *blend)
    brief = ("loop.epochs=1", "loop.batch_size=16", "jobs=1", "loop.device=cpu", *student)
    config = load_config(CompressConfig, None, brief)
    library = write_csv(tmp_path / "library.csv", {"smiles": diverse(80)})
    small = compress(tmp_path / "blend", tmp_path / "small", [library], config).folder
    export_onnx(small, tmp_path / "away")
    smiles = [*SPECIAL, *SYMMETRIC, *diverse(count)]
    values, reasons = away(tmp_path / "away", smiles)
    wanted = np.asarray(Predictor.load(small, device="cpu").predict(smiles)["size_pred"])
    std = Predictor.load(small, device="cpu").parts.members[0].targets[0].std
    assert not any(reasons)
    assert (np.abs(values[:, 0] - wanted) / np.maximum(std, np.abs(wanted))).max() <= 1e-5


def main_exits(arguments: list[str], code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == code


def test_a_model_of_standard_forms_is_exported_with_that_step(tmp_path: Path):
    model = tiny_model(tmp_path, "standardize=true")
    export_onnx(model, tmp_path / "away")
    values, reasons = away(tmp_path / "away", [*SALTS, "CCO"])
    assert not any(reasons)
    expected = Predictor.load(model, device="cpu").predict_values([*SALTS, "CCO"])[0]
    assert np.allclose(values, expected, rtol=1e-4)
    assert values[2] == values[-1]  # ethanol with and without its water


def test_probabilities_of_two_targets(tmp_path: Path):
    quietly(write_classes(tmp_path), tmp_path / "model", ["ring", "hetero"])
    export_onnx(tmp_path / "model", tmp_path / "away")
    values, _ = away(tmp_path / "away", ["c1ccccc1O", "CCO"])
    expected = Predictor.load(tmp_path / "model", device="cpu").predict(["c1ccccc1O", "CCO"])
    assert np.allclose(values, np.stack([expected["ring_pred"], expected["hetero_pred"]], axis=1), atol=1e-6)
    settings = json.loads((tmp_path / "away" / "settings.json").read_text())
    assert [(one["name"], one["kind"]) for one in settings["targets"]] == [
        ("ring", "classification"),
        ("hetero", "classification"),
    ]


def test_what_ships_has_the_same_values_and_the_same_empty_cells(tmp_path: Path):
    export_onnx("dnd-properties", tmp_path / "away")
    smiles = ["CCO", "Cn1cnc2c1c(=O)n(C)c(=O)n2C", "no molecule"]
    values, reasons = away(tmp_path / "away", smiles)
    expected, why = Predictor.load("dnd-properties", device="cpu").predict_values(smiles)
    assert [bool(reason) for reason in reasons] == [bool(reason) for reason in why] == [False, False, True]
    assert np.allclose(values, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert np.isnan(expected).sum(axis=1)[:2].tolist() == [0, 2]  # polarisability and heat capacity of caffeine


def test_blends_and_taken_folders_are_refused(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    blend = Path(__file__).parents[2] / "golden" / "predictor-blend"
    main_exits(["export", str(blend), "-o", str(tmp_path / "away")], 2)
    assert (
        "found 1 students and 1 classical members. Make one student of it with `dnd compress`"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "away").exists()
    with pytest.raises(InputError, match="exists already"):
        export_onnx(model, tmp_path)
    main_exits(["export", str(model), "-o", str(tmp_path / "away"), "--format", "onx"], 2)
    assert "unknown format 'onx'" in capsys.readouterr().err


def test_without_the_extra_one_line_says_what_to_install(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "dnd.export.graph")
    with pytest.raises(ConfigError, match=r"needs the package onnx. pip install 'dnd-mol\[onnx\]'"):
        export_onnx(model, tmp_path / "away")
