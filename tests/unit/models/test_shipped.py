"""Encoders by name: found, verified, quick, half precision on disk and float32 in memory; a wrong name is helped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.finetuning.students import encoder_choice
from dnd.models.students import encoders as shipped
from dnd.models.students.base import Pooling, StudentConfig
from dnd.models.students.encoders import (
    DEFAULT_ENCODER,
    DEVIATIONS,
    RepresentationLimits,
    build_student,
    encoder_folder,
    half_precision,
    load_encoder,
    load_limits,
    save_encoder,
    shipped_encoders,
)
from dnd.prediction.embedder import Embedder, load_embedder
from dnd.prediction.estimator import DndRegressor
from dnd.store.featurize import as_store, featurize_smiles

SPELLINGS = ["OC(=O)c1ccccc1OC(C)=O", "CC(=O)Oc1ccccc1C(=O)O", "c1ccc(OC(C)=O)c(c1)C(O)=O"]


@pytest.fixture
def toy_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """An encoder `toy-base` that ships; returns its student."""
    torch.manual_seed(0)
    student = build_student(StudentConfig("gine", 32, 3)).eval()
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "encoders")
    save_encoder(tmp_path / "encoders" / "toy-base", student, {"hydrogens": "heavy_both"}, "# Encoder\n", half=True)
    monkeypatch.chdir(tmp_path)
    return student


def test_a_name_is_a_verified_encoder_in_float32(toy_base: torch.nn.Module, tmp_path: Path) -> None:
    student, config = load_encoder("toy-base")
    assert config["hydrogens"] == "heavy_both"
    for name, tensor in student.state_dict().items():
        exact = toy_base.state_dict()[name]
        assert tensor.dtype == exact.dtype
        assert torch.allclose(tensor, exact, atol=1e-3) if tensor.ndim > 1 else torch.equal(tensor, exact)
    weights = tmp_path / "encoders" / "toy-base" / "model.safetensors"
    assert weights.stat().st_size < 0.65 * sum(4 * value.numel() for value in toy_base.state_dict().values())
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(CorruptFileError):
        load_encoder("toy-base")


def test_every_spelling_has_the_same_vector(toy_base: torch.nn.Module) -> None:
    vectors, errors = load_embedder("toy-base", device="cpu").embed_with_errors([*SPELLINGS, "no molecule"])
    assert np.allclose(vectors[:3], vectors[0], atol=1e-5)
    assert errors[:3] == ["", "", ""]
    assert errors[3]


def test_an_estimator_finetunes_from_a_name_and_records_which_weights(toy_base: torch.nn.Module) -> None:
    smiles = ["C" * length for length in range(1, 13)] + ["O" + "C" * length for length in range(1, 9)]
    labels = [float(len(text)) for text in smiles]
    quick = {"recipe": "small", "epochs": 1, "batch_size": 8, "device": "cpu"}
    model = DndRegressor(encoder="toy-base", **quick).fit(smiles, labels)
    assert np.isfinite(model.predict(["CCO"])).all()
    assert model.predictor_.parts.members[0].student.width == 32
    with pytest.raises(InputError, match="Did you mean toy-base"):
        DndRegressor(encoder="toy-bas", **quick).fit(smiles, labels)


def test_an_unknown_name_is_told_the_nearest_and_those_there(toy_base: torch.nn.Module) -> None:
    with pytest.raises(InputError, match=r"one of: toy-base.*Did you mean toy-base"):
        load_encoder("toy-bse")
    with pytest.raises(InputError, match="is not a folder"):
        load_embedder("nowhere/at/all")


def test_a_word_that_could_mean_both_is_refused(toy_base: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "toy-base").mkdir()
    with pytest.raises(InputError, match=r"Write \./toy-base"):
        encoder_folder("toy-base")
    assert encoder_folder("./toy-base") == Path("toy-base")


def test_half_precision_refuses_what_it_cannot_hold() -> None:
    with pytest.raises(CorruptFileError, match="does not fit half precision"):
        half_precision({"w": torch.full((2, 2), 1e6)})
    kept = half_precision({"variance": torch.full((2,), 1e-9), "steps": torch.tensor(3)})
    assert kept["variance"][0] == pytest.approx(1e-9)
    assert kept["steps"].dtype == torch.int64


def test_all_that_ships_loads_and_is_small_together() -> None:
    students = {name: load_encoder(encoder_folder(name).resolve()) for name in shipped_encoders()}
    assert all(config["hydrogens"] for _, config in students.values())
    files = [path for name in students for path in encoder_folder(name).iterdir()]
    assert sum(path.stat().st_size for path in files) < 25 * 2**20


def test_the_default_is_there() -> None:
    assert DEFAULT_ENCODER in shipped_encoders()
    assert {"dnd-base", "dnd-tokengt"} <= set(shipped_encoders())


@pytest.mark.parametrize("name", shipped_encoders())
def test_what_ships_is_carded_and_the_same_for_every_spelling(name: str) -> None:
    vectors = load_embedder(name, device="cpu").embed(SPELLINGS)
    assert np.ptp(vectors, axis=0).max() < 1e-5
    others = load_embedder(name, device="cpu").embed(["CCO", "c1ccccc1"])
    assert np.abs(others[0] - others[1]).max() > 0.1, "it tells molecules apart"
    card = (encoder_folder(name) / "card.md").read_text()
    for heading in ("## Data", "## Teacher, held-out molecules", "## What it is bad at", "## Compute"):
        assert heading in card


def test_random_weights_where_a_student_is_described_and_never_beside_an_encoder() -> None:
    assert encoder_choice(None, ["loop.epochs=1"]) == DEFAULT_ENCODER
    assert encoder_choice(None, ["student.width=16"]) == "random"
    assert encoder_choice("random", ["student.width=16"]) == "random"
    with pytest.raises(ConfigError, match=r"student.width=16 is for --encoder random: found encoder folder"):
        encoder_choice("folder", ["student.width=16"])


ODD = ("C" * 400, "C1CC1." * 20 + "C", "[U]", "OCC" * 100, "c1ccccc1" * 40, "[Na+].[Cl-]", "CC(=O)Oc1ccccc1C(=O)O")


@pytest.mark.parametrize("name", shipped_encoders())
@pytest.mark.parametrize("pooling", ["mean", "virtual_node", "min_max_mean_sum"])
def test_representations_are_bounded_for_any_molecule(name: str, pooling: Pooling) -> None:
    limits = load_limits(name)
    assert limits is not None
    centre_D, deviation_D = (limits.tensors[f"{pooling}.{part}"].numpy() for part in ("centre", "deviation"))
    embedder = Embedder.load(name, pooling=pooling, device="cpu")
    values_XD = embedder.embed(ODD)
    assert np.isfinite(values_XD).all()
    assert (np.abs(values_XD - centre_D) <= DEVIATIONS * deviation_D * 1.001 + 1e-6).all()
    free = Embedder(embedder.student, embedder.hydrogens, pooling=pooling, device="cpu")
    assert np.array_equal(values_XD[-1], free.embed(ODD)[-1]), "a drug is what it was"


def test_an_encoder_without_limits_is_as_it_was(toy_base: torch.nn.Module) -> None:
    assert load_limits("toy-base") is None
    embedder = Embedder.load("toy-base", device="cpu")
    assert embedder.limits is None
    assert np.isfinite(embedder.embed(ODD)).all()


def test_limits_are_those_of_the_molecules_and_stay_with_the_encoder(tmp_path: Path) -> None:
    student = build_student(StudentConfig("gine", 8, 2)).eval()
    store = as_store(featurize_smiles(["C" * length for length in range(1, 40)], "heavy_both"), "heavy_both")
    limits = RepresentationLimits.measured(student, store, np.arange(len(store)))
    free = Embedder(student, "heavy_both", device="cpu").embed(["C" * length for length in range(1, 40)])
    low, middle, high = np.quantile(free, [0.25, 0.5, 0.75], axis=0)
    assert np.allclose(limits.tensors["mean.centre"], middle, atol=1e-5)
    assert np.allclose(limits.tensors["mean.deviation"], (high - low) / 1.349, atol=1e-5)
    save_encoder(tmp_path / "encoder", student, {"hydrogens": "heavy_both"}, "# Encoder\n", limits=limits)
    again = load_limits(tmp_path / "encoder")
    assert again is not None
    assert all(torch.equal(again.tensors[name], values) for name, values in limits.tensors.items())
    with pytest.raises(CorruptFileError, match="not limits"):
        RepresentationLimits.of_tensors({"mean.deviation": torch.tensor([-1.0])}, "file")
    limits.require_width("mean", 8, tmp_path)
    with pytest.raises(CorruptFileError, match="limits of other representations"):
        limits.require_width("mean", 3, tmp_path)
