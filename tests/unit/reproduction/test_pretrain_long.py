"""The pretraining at scale, tiny: conformers, molecules without, and measured labels, from files to weights."""

from __future__ import annotations

import csv
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from dnd.chemistry.identity import connectivity_key, identities_of
from dnd.chemistry.parse import parse_smiles
from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import read_json, sha256_file
from dnd.models.students.encoders import load_encoder, load_heads, load_learned_labels
from dnd.prediction.embedder import Embedder
from dnd.pretraining.denoise import denoise
from dnd.pretraining.distill_objective import _name_and_unit
from dnd.pretraining.settings import TermWeights
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.pretrain_base import BaseResult, pretrain_base
from dnd.reproduction.pretraining_labels import BaseConfig, measured_table
from dnd.store.reader import Store, union
from dnd.tables.molecules import key_digest, read_key_list

QM9 = Path(__file__).parents[2] / "data" / "qm9_300.npz"
HELD_OUT = Path(__file__).parents[3] / "data" / "held_out_molecules.txt.gz"
SCRIPT = Path(__file__).parents[3] / "benchmarks" / "encoder_run.sh"
FLAT = ["CC(=O)Oc1ccccc1C(=O)O", "Cn1c(=O)c2c(ncn2C)n(C)c1=O", "CC(C)Cc1ccc(cc1)C(C)C(=O)O", "CCCCCl", "OCC(O)CO"] * 4
TERMS = TermWeights(
    node=1.0, graph=2.0, descriptors=0.2, fingerprints=0.2, avalon=0.2, charges=0.05, surface=0.1, distances=0.05,
    radii=0.05, labels=0.1,
)  # fmt: skip


def digest_of(smiles: str) -> str:
    key = connectivity_key(Chem.MolFromSmiles(smiles))
    assert key is not None
    return key_digest(key)


def tiny_long(**changes: object) -> BaseConfig:
    config = load_config(BaseConfig, "base-tiny", ["most_molecules=40", "labels=gap"])
    base = replace(config.base, terms=TERMS, heads=("labels", "descriptors"))
    base = replace(base, student=replace(base.student, bounded=True))
    auxiliary = ("descriptors", "fingerprints", "avalon", "charges", "surface")
    settings = {
        "base": base, "auxiliary": auxiliary, "benchmarks": ("freesolv",), "measured": ("freesolv",),
        "table_conformers": "none", "teacher_first": True, "encoders": ("dnd-base",), "most_molecules": 600,
    }  # fmt: skip
    return replace(config, **{**settings, **changes})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BaseResult, set[str]]:
    """A run with a list of two molecules that have labels: one of FreeSolv's training part, one of QM9."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "pool.smi").write_text("\n".join(FLAT) + "\n")
    data = load_benchmark("freesolv")
    listed = {digest_of(data.smiles[data.parts["train"][5]]), digest_of("CC(C)(C)C=O")}
    with np.load(QM9) as arrays:
        listed.add(digest_of(arrays["smiles"][17].decode()))
    (folder / "held_out.txt").write_text("".join(f"{digest}\n" for digest in sorted(listed)))
    config = tiny_long(held_out=(str(folder / "held_out.txt"),))
    inputs = [QM9, folder / "pool.smi"]
    at_once = replace(config, denoise=replace(config.denoise, loop=replace(config.denoise.loop, stop_after_s=0.0)))
    stopped = pretrain_base(inputs, folder / "out", at_once)
    assert not stopped.finished
    assert not (folder / "out" / "stores").exists()  # the teacher is first, and needs no column
    done = pretrain_base(inputs, folder / "out", config)
    return folder, done, listed


def test_a_kept_checkpoint_goes_on_elsewhere_to_the_same_bits(
    made: tuple[Path, BaseResult, set[str]], tmp_path: Path
) -> None:
    """What `encoder_run.sh` packs after a stop, restored in a new place, ends as the run that was never moved."""
    folder, _, _ = made
    store = union([Store.open(folder / "out" / "teacher-stores" / "0-qm9_300")])
    config = tiny_long().denoise
    at_once = replace(config, loop=replace(config.loop, stop_after_s=0.0))
    assert not denoise(store, tmp_path / "old" / "teacher", at_once).finished
    for words in (["pack", "old", "kept"], ["restore", "kept", "new"]):
        subprocess.run([SCRIPT, words[0], *(tmp_path / word for word in words[1:])], check=True)
    kept = [path for path in (tmp_path / "kept").rglob("*") if path.is_file()]
    assert {path.name for path in kept} >= {"run.json", "model.safetensors", "optimizer.safetensors", "state.json"}
    denoise(store, tmp_path / "new" / "teacher", config, resume=True)
    moved, stayed = (sha256_file(path / "teacher" / "model.safetensors") for path in (tmp_path / "new", folder / "out"))
    assert moved == stayed


def store_of(folder: Path, name: str) -> Store:
    (path,) = (folder / "out" / "stores").glob(f"*-{name}")
    return Store.open(path)


def test_a_listed_molecule_reaches_no_label_and_a_test_molecule_nothing(
    made: tuple[Path, BaseResult, set[str]],
) -> None:
    folder, _, listed = made
    tested = read_key_list(folder / "out" / "excluded.txt")
    data = load_benchmark("freesolv")
    assert {digest_of(data.smiles[row]) for part in ("valid", "test") for row in data.parts[part]} == tested
    for name in ("measured", "qm9_300"):
        store = store_of(folder, name)
        assert store.target_columns
        digests = {digest_of(smiles) for smiles in store.smiles()}
        assert not digests & listed
        assert not digests & tested
    teacher = Store.open(folder / "out" / "teacher-stores" / "0-qm9_300")
    assert teacher.target_columns == []
    assert teacher.auxiliary == ()
    digests = {digest_of(smiles) for smiles in teacher.smiles()}
    assert digests & listed  # its conformer has no label
    assert not digests & tested


def test_the_shipped_list_is_read_and_no_training_molecule_of_it_gets_in(tmp_path: Path) -> None:
    listed = read_key_list(HELD_OUT)
    assert len(listed) == 20_247
    columns = measured_table(tmp_path / "measured.csv", ["freesolv"], [HELD_OUT], None, jobs=1)
    assert columns == ["freesolv/expt"]
    with open(tmp_path / "measured.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    kept = {digest_of(row["smiles"]) for row in rows}
    assert len(kept) == len(rows) > 300
    data = load_benchmark("freesolv")
    trained = {digest_of(data.smiles[row]) for row in data.parts["train"]}
    assert kept == trained - listed
    assert kept < trained  # so the test sees a listed one left out


def test_molecules_without_conformers_teach_what_they_can(made: tuple[Path, BaseResult, set[str]]) -> None:
    folder, done, _ = made
    assert done.finished
    pool = store_of(folder, "pool")
    assert not pool.some_conformers
    assert {"descriptors", "avalon", "charges"} <= set(pool.auxiliary)
    metrics = load_encoder(folder / "out" / "students" / "dnd-base")[1]["metrics"]
    for name in TERMS.__dataclass_fields__:
        if getattr(TERMS, name):
            assert np.isfinite(metrics[f"valid_{name}_r2"]), name


def test_the_encoder_has_its_properties_with_units_and_scores(made: tuple[Path, BaseResult, set[str]]) -> None:
    _, done, _ = made
    path = done.encoders["dnd-base"]
    student, _ = load_encoder(path)
    assert student.config.bounded
    heads = load_heads(path)
    assert heads is not None
    (hydration,) = [one for one in heads.properties if one.name == "freesolv/expt"]
    assert hydration.unit == BENCHMARKS["freesolv"].unit
    assert hydration.scores["molecules"] == len(load_benchmark("freesolv").parts["valid"])
    assert hydration.scores["mae"] > 0
    assert -1 <= hydration.scores["correlation"] <= 1
    assert 3 < hydration.deviation < 5  # kcal/mol
    card = (path / "card.md").read_text()
    assert f"| freesolv/expt | kcal/mol | {hydration.scores['molecules']:.0f} | {hydration.scores['mae']:.3g} |" in card
    assert re.search(r"\d+ descriptors of RDKit, median", card)
    assert "| measured.csv | measured labels" in card
    first, second = re.findall(
        r"^\| ([\d,]+) \| [\d.]+ \|", card[card.index("## Learning curve") :], flags=re.MULTILINE
    )[:2]
    assert int(second.replace(",", "")) > int(first.replace(",", "")) > 0
    assert Embedder.load(path, device="cpu").embed(["CCO"]).shape == (1, 16)


def test_the_encoder_lists_the_molecules_whose_measured_labels_it_learned(
    made: tuple[Path, BaseResult, set[str]],
) -> None:
    folder, done, _ = made
    learned = load_learned_labels(done.encoders["dnd-base"])
    assert learned is not None
    assert learned.sets == ("freesolv",)
    with open(folder / "out" / "measured.csv", newline="") as stream:
        known = identities_of(parse_smiles(row["smiles"]).smiles for row in csv.DictReader(stream))
    data = load_benchmark("freesolv")
    unseen = identities_of(parse_smiles(data.smiles[row]).smiles for row in data.parts["test"])
    assert learned.share(known) == {"freesolv": 1.0}
    assert learned.share(unseen) == {"freesolv": 0.0}
    assert len(learned.digest_K) == len(set(known))


def test_settings_that_would_leak_are_refused_and_a_change_is_recorded(
    made: tuple[Path, BaseResult, set[str]], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="not left out"):
        tiny_long(measured=("esol",))
    with pytest.raises(InputError, match="there is no list nothing"):
        pretrain_base([QM9], tmp_path / "out", tiny_long(held_out=("nothing.txt.gz",)))
    folder, done, _ = made
    kept = load_config(BaseConfig, "cpu-long", stage="base")
    assert all((HELD_OUT.parent / name).is_file() for name in (*kept.held_out, *kept.quantum))
    config = tiny_long(held_out=(str(folder / "held_out.txt"),), seed=7)
    again = pretrain_base([QM9, folder / "pool.smi"], folder / "out", config, allow_change=True)
    assert again == done
    assert "settings.seed 0 → 7" in read_json(folder / "out" / "run.json")["changes"][-1]["differences"]
    assert set(kept.measured) == set(kept.benchmarks) == set(BENCHMARKS)


def test_the_name_of_a_measured_property_may_have_a_comma() -> None:
    name = "sider/Neoplasms benign, malignant and unspecified"
    assert _name_and_unit(name, "labels") == (name, "labels", "")
    assert _name_and_unit("solvation_water, kcal/mol", "quantum") == ("solvation_water", "quantum", "kcal/mol")
