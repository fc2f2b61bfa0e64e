"""Molecules, networks and stores to measure with; all made from data that ships."""

from __future__ import annotations

import csv
import gzip
import io
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from dnd.common.errors import InputError
from dnd.common.randomness import derive_seed, numpy_generator
from dnd.models.students.base import Student, StudentConfig, preset
from dnd.models.students.encoders import build_student, load_encoder, shipped_encoders
from dnd.predictor.model_folder import Member, PredictorParts, predictor_config
from dnd.predictor.network import PropertyNetwork
from dnd.predictor.targets import Target
from dnd.reproduction.benchmarks import load_benchmark
from dnd.store.featurize import as_store, featurize_smiles
from dnd.store.prepare import prepare
from dnd.store.reader import Store
from dnd.store.settings import PrepareConfig

SEED = 0


def drug_like_smiles(count: int) -> tuple[list[str], str]:
    """`count` SMILES drawn at random, again and again where there are fewer, and where they are from.

    The lipophilicity set (27 heavy atoms on average) where the data of the repository are at hand, else the solubility
    set that ships with the package (13).
    """
    try:
        texts, name = load_benchmark("lipo").smiles, "ogbg-mollipo"
    except InputError:
        packed = (resources.files("dnd.data") / "esol.csv.gz").read_bytes()
        table = csv.DictReader(io.StringIO(gzip.decompress(packed).decode()))
        texts, name = [row["smiles"] for row in table], "esol"
    order = numpy_generator(SEED, "bench").permutation(len(texts))
    return [texts[order[number % len(texts)]] for number in range(count)], name


def graph_store(smiles: list[str]) -> Store:
    """The valid ones of `smiles` as a store in memory."""
    molecules = featurize_smiles(smiles, "heavy_both")
    return as_store([molecule for molecule in molecules if molecule.graph is not None], "heavy_both")


def qm9_store(folder: Path, count: int) -> Store:
    """The first molecules of the QM9 slice as a store on disk, hydrogens in the conformers only."""
    config = PrepareConfig(hydrogens="teacher_all_student_heavy", limit=count)
    with resources.as_file(resources.files("dnd.data") / "qm9_slice.npz") as path:
        prepare([path], folder, config)
    return Store.open(folder)


def drug_store(folder: Path, count: int) -> Store:
    """Drug-like molecules with generated conformers and all hydrogens, about 50 atoms each, as a store on disk."""
    table = folder.with_suffix(".smi")
    table.write_text("\n".join(drug_like_smiles(count)[0]), encoding="utf-8")
    prepare([table], folder, PrepareConfig(hydrogens="teacher_all_student_heavy", conformers="etkdg"))
    return Store.open(folder)


def student_config(name: str) -> StudentConfig:
    """The settings of a preset or of an encoder that ships with the package."""
    return load_encoder(name)[0].config if name in shipped_encoders() else preset(name)


def random_student(name: str) -> Student:
    """The student of `student_config(name)` with random weights, in evaluation mode."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(SEED, "student"))
        return build_student(student_config(name)).eval()


def random_predictor(name: str) -> PredictorParts:
    """A predictor of one target with random weights, as `dnd finetune` would leave it."""
    network = PropertyNetwork(random_student(name), "mean", "mlp", 1).eval()
    targets = (Target("y"),)
    members = (Member(network, targets, SEED, 1.0, network.student.config, "mlp"),)
    config = predictor_config(members, targets, "heavy_both", {})
    return PredictorParts(members, targets, "regression", "heavy_both", config)


def tokens_of(store: Store) -> np.ndarray:
    """TokenGT's tokens of each molecule: atoms, directed bonds, [graph] and [null]."""
    tokens: np.ndarray = store.atom_counts[:] + 2 * store.bond_counts[:] + 2
    return tokens
