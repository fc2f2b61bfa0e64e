"""From files to the encoders that ship: what is left out, what the cards say, that a second call does nothing again."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import read_json, sha256_file
from dnd.common.runs import RUN_RECORD, read_record
from dnd.conformers.formats import open_arrays
from dnd.conformers.quantum import QuantumLabels, make_labeller
from dnd.models.students.encoders import load_encoder
from dnd.prediction.embedder import Embedder
from dnd.pretraining.settings import AUXILIARY
from dnd.reproduction.pretrain_base import BaseResult, pretrain_base
from dnd.reproduction.pretraining_labels import BaseConfig
from dnd.store.reader import Store, union
from dnd.store.schema import QUANTUM_FIELDS
from support.said import said

QM9 = Path(__file__).parents[2] / "data" / "qm9_300.npz"
DRUGS = ["CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "ClC(Cl)(Cl)Cl", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CCCCCl"]


def tiny(**changes: object) -> BaseConfig:
    return replace(load_config(BaseConfig, "base-tiny", ["most_molecules=40", "labels=gap"]), **changes)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseResult, list[str]]:
    folder = tmp_path_factory.mktemp("base")
    (folder / "druglike.smi").write_text("\n".join(DRUGS) + "\n")
    (folder / "mine.csv").write_text("smiles\nCCCCCl\n")
    lines: list[str] = []
    inputs, own, config = [QM9, folder / "druglike.smi"], [folder / "mine.csv"], tiny()
    at_once = replace(config, tokengt=replace(config.tokengt, loop=replace(config.tokengt.loop, stop_after_s=0.0)))
    stopped = pretrain_base(inputs, folder / "out", at_once, exclude=own)
    assert not stopped.finished  # in the last of four stages
    assert not (folder / "out" / "encoders").exists()
    with said(lines):
        done = pretrain_base(inputs, folder / "out", config, exclude=own)
    return folder, done, lines


def test_every_input_has_its_store_and_test_molecules_are_left_out(made: tuple[Path, BaseResult, list[str]]) -> None:
    folder, _, _ = made
    qm9 = Store.open(folder / "out" / "stores" / "0-qm9_300")
    drugs = Store.open(folder / "out" / "stores" / "1-druglike")
    assert qm9.manifest["settings"]["conformers"] == "file"
    assert drugs.manifest["settings"]["conformers"] == "etkdg"
    assert qm9.target_columns == ["gap"]
    assert drugs.target_columns == []
    kept = set(drugs.smiles())
    assert "CCCCCl" not in kept  # in the user's file
    listed = (folder / "out" / "excluded.csv").read_text()
    assert "freesolv" in listed
    assert "CC(=O)Oc1ccccc1C(=O)O" in kept


def test_encoders_are_small_quick_and_the_same_for_every_spelling(made: tuple[Path, BaseResult, list[str]]) -> None:
    folder, done, _ = made
    assert done.finished
    assert done.encoders.keys() == {"dnd-base", "dnd-tokengt"}
    for name, path in done.encoders.items():
        started = time.monotonic()
        student, config = load_encoder(path)
        assert time.monotonic() - started < 1.0
        assert config["name"] == name
        exact, _ = load_encoder(folder / "out" / "students" / name)
        for key, value in exact.state_dict().items():
            assert torch.allclose(value, student.state_dict()[key], atol=2e-3), key
        vectors = Embedder.load(path, device="cpu").embed(["OCC", "CCO", "C(C)O"])
        assert np.allclose(vectors, vectors[0], atol=1e-5)


def test_the_card_says_what_was_measured(made: tuple[Path, BaseResult, list[str]]) -> None:
    folder, done, lines = made
    card = (done.encoders["dnd-base"] / "card.md").read_text()
    measured = read_json(folder / "out" / "measured.json")
    assert measured["teacher"].keys() <= {"qm9_300.npz", "druglike.smi"}
    for source, values in measured["teacher"].items():
        assert 0 < values["floor"] < values["trivial"]
        assert f"| {source} | {values['molecules']:.0f} | {values['held_out_loss']:.4f}" in card
    metrics = load_encoder(folder / "out" / "students" / "dnd-base")[1]["metrics"]
    for name in AUXILIARY & tiny().base.weights().keys():
        assert f"| {name} (auxiliary) |" in card
        assert f"{metrics[f'valid_{name}_r2']:.3f}" in card
    for words in ("esol, freesolv", "enantiomers", "trained on C, N, O", "half precision changes", "min wall", "CC0"):
        assert words in card, words
    assert any(line.startswith("encoder dnd-tokengt") for line in lines)


def test_a_second_call_changes_nothing_and_other_settings_are_refused(
    made: tuple[Path, BaseResult, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done, _ = made
    before = {path: sha256_file(path) for path in (folder / "out" / "encoders").rglob("*") if path.is_file()}
    inputs, own = [QM9, folder / "druglike.smi"], [folder / "mine.csv"]
    again = pretrain_base(inputs, folder / "out", tiny(), exclude=own)
    assert again == done
    assert before == {path: sha256_file(path) for path in before}
    assert not (folder / "out" / "targets").exists()
    with pytest.raises(InputError, match="other settings"):
        pretrain_base(inputs, folder / "out", tiny(most_molecules=41), exclude=own)


def test_a_change_that_is_allowed_reaches_the_stage_that_was_stopped(tmp_path: Path) -> None:
    def stopping(epochs: int) -> BaseConfig:
        config = tiny(benchmarks=("none",))
        loop = replace(config.denoise.loop, stop_after_s=0.0, epochs=epochs)
        return replace(config, denoise=replace(config.denoise, loop=loop))

    assert not pretrain_base([QM9], tmp_path / "out", stopping(3)).finished
    with pytest.raises(InputError, match="other settings"):
        pretrain_base([QM9], tmp_path / "out", stopping(4))
    assert not pretrain_base([QM9], tmp_path / "out", stopping(4), allow_change=True).finished
    assert read_record(tmp_path / "out" / "teacher" / RUN_RECORD)["settings"]["settings"]["loop"]["epochs"] == 4


def test_wrong_names_are_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="Did you mean esol"):
        tiny(benchmarks=("esoll",))
    with pytest.raises(InputError, match=r"there is no file .*nothing\.npz"):
        pretrain_base([tmp_path / "nothing.npz"], tmp_path / "out", tiny())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="one process"):
        pretrain_base([QM9], tmp_path / "out", tiny())
    assert not (tmp_path / "out").exists()
    for name in ("cpu", "gpu"):
        assert load_config(BaseConfig, name, stage="base").base.needs_teacher


def test_quantum_labels_go_to_the_input_that_they_name(tmp_path: Path) -> None:
    pytest.importorskip("tblite", reason="needs the extra `quantum`")
    source, label = open_arrays(QM9), make_labeller()
    outcomes = {record.row: label(record) for record in source.records if record.row < 60}
    QuantumLabels.of(QM9.name, 300, outcomes).write(tmp_path / "labels.npz")
    (tmp_path / "druglike.smi").write_text("\n".join(DRUGS) + "\n")
    config = tiny(quantum=(str(tmp_path / "labels.npz"),), benchmarks=("none",))
    config = replace(config, denoise=replace(config.denoise, loop=replace(config.denoise.loop, stop_after_s=0.0)))
    inputs = [QM9, tmp_path / "druglike.smi"]
    assert not pretrain_base(inputs, tmp_path / "out", config).finished
    stores = [Store.open(path) for path in sorted((tmp_path / "out" / "stores").iterdir())]
    assert [set(QUANTUM_FIELDS) <= set(store.auxiliary) for store in stores] == [True, False]
    values, _ = union(stores).read_auxiliary("quantum", np.arange(sum(map(len, stores))))
    known = np.isfinite(values.reshape(-1, 9)).all(1)
    assert known[: len(stores[0])].sum() == len(stores[0]) == 40  # of 60 molecules with labels, which are drawn first
    assert not known[len(stores[0]) :].any()
    with pytest.raises(InputError, match="none of the inputs"):
        pretrain_base(inputs[1:], tmp_path / "other", config)


def test_a_term_without_its_column_is_refused_at_once() -> None:
    with pytest.raises(ConfigError, match=r"quantum_bonds of dnd-base.*quantum = "):
        load_config(BaseConfig, "base-tiny", ["base.terms.quantum_bonds=0.1"])
    with pytest.raises(ConfigError, match="auxiliary = "):
        tiny(auxiliary=("descriptors",))


@pytest.mark.parametrize("setting", ["most_molecules", "most_smiles"])
def test_a_number_that_leaves_nothing_to_read_is_refused_at_once(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting} must be above 0"):
        tiny(**{setting: 0})


def test_a_union_reads_like_its_parts(made: tuple[Path, BaseResult, list[str]]) -> None:
    folder, _, _ = made
    first, second = (Store.open(path) for path in sorted((folder / "out" / "stores").iterdir()))
    both = union([first, second])
    assert len(both) == len(first) + len(second)
    assert both.target_columns == ["gap"]
    assert np.isnan(both.targets[len(first) :]).all()
    assert np.array_equal(both.targets[: len(first)], first.targets, equal_nan=True)
    rows = np.array([len(first) + 1, 3])
    assert both.sources(rows) == ["druglike.smi", "qm9_300.npz"]
    alone, _ = second.read_auxiliary("charges", np.array([1]))
    assert np.array_equal(both.read_auxiliary("charges", rows)[0][: len(alone)], alone, equal_nan=True)
    assert both.fingerprint not in (first.fingerprint, second.fingerprint)
    assert union([first, second]).fingerprint == both.fingerprint
