"""Recipes `best` and `fast`: weights out of fold, time limits, folders without code, predictions as reported."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dnd.chemistry.descriptors import DESCRIPTOR_NAMES
from dnd.common.config import load_config, read_duration
from dnd.common.errors import ConfigError, CorruptFileError
from dnd.common.files import read_json
from dnd.finetuning.blend_weights import fit_weights
from dnd.finetuning.classical import MEMBERS, FitOptions, FoldData, KeptWork, Training, _pilot, fit_member
from dnd.finetuning.finetune import _plan, finetune
from dnd.finetuning.fold_data import rows_with_features, scaffold_folds
from dnd.finetuning.labelled_data import LabelledFile
from dnd.finetuning.settings import CLASSICAL_MEMBERS, BlendConfig, Clock, FinetuneConfig
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import (
    LearnedLabels,
    Property,
    PropertyHeads,
    build_student,
    load_learned_labels,
    save_encoder,
)
from dnd.prediction.embedder import Embedder
from dnd.predictor.classical.features import COUNTS, DESCRIPTORS, LEAN_DESCRIPTORS, Layout, features_of
from dnd.predictor.ensemble import columns_of
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target
from dnd.store.featurize import valid_molecules
from finetuning_toys import heavy_atoms, molecules, quietly, write_classes, write_csv, write_regression
from support.said import said

BLEND = (
    "blend.classical=ridge,forest_descriptors",
    "blend.folds=3",
    "blend.trees=10",
    "ensemble=2",
    "blend.second.name=gine",
    "blend.second.width=8",
    "blend.second.num_layers=2",
    "loop.epochs=2",
    "baselines=true",
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two students and two classical members on a toy table, all with one weight: two epochs would earn none."""
    folder = tmp_path_factory.mktemp("blend")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "dnd.finetuning.stacking.fit_weights", lambda values, *_: np.full(values.shape[::2], 1 / len(values))
        )
        patch.setattr("dnd.finetuning.stacking.lowers_error", lambda *_: (True, 0.0, 1.0))
        quietly(write_regression(folder), folder / "model", ["size"], *BLEND)
    return folder / "model"


def test_a_blend_predicts_after_loading_what_it_was_judged_by(model: Path):
    with open(model / "test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = Predictor.load(model, device="cpu").predict([row["smiles"] for row in rows])
    np.testing.assert_allclose(found["size_pred"], [float(row["size_pred"]) for row in rows], rtol=1e-4)
    assert list(found) == [
        "smiles",
        "size_pred",
        "size_std",
        "size_low",
        "size_high",
        "in_domain",
        "domain_reason",
        "error",
    ]
    assert (found["size_std"] > 0).all()


def test_a_blend_of_the_first_format_says_what_it_said():
    golden = Path(__file__).parents[2] / "golden/predictor-blend"
    with open(golden / "test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = Predictor.load(golden, device="cpu").predict([row["smiles"] for row in rows])
    np.testing.assert_allclose(found["size_pred"], [float(row["size_pred"]) for row in rows], rtol=1e-4)


def test_descriptors_that_no_member_looks_at_are_not_computed(model: Path):
    parts = Predictor.load(model, device="cpu").parts
    blend, found = parts.blend, valid_molecules(molecules()[:6], parts.hydrogens)
    own, every = blend.features(found.store), features_of(found.store.smiles(), None, blend.layout)
    used = [DESCRIPTOR_NAMES.index(name) for name in blend.used_descriptors]
    columns = blend.layout.columns("descriptors")
    assert 0 < len(used) < len(DESCRIPTOR_NAMES)
    np.testing.assert_array_equal(own.x_BF[:, columns[used]], every.x_BF[:, used])
    assert not own.x_BF[:, np.delete(columns, used)].any()
    for member in blend.classical:
        whole = own.x_BF.copy()
        whole[:, columns] = every.x_BF[:, : len(columns)]
        np.testing.assert_array_equal(member.predict(own.x_BF), member.predict(whole))


def test_the_folder_says_who_is_in_it_and_what_each_reached(model: Path):
    metrics, config = read_json(model / "metrics.json"), read_json(model / "config.json")
    (about,) = metrics["blend"]
    assert set(about["members"]) == {"students", "ridge", "forest_descriptors"}
    assert sum(one["weights"][0] for one in about["members"].values()) == pytest.approx(1, abs=1e-5)
    assert set(metrics["alone"]) == {"students", "ridge", "forest_descriptors"}
    assert set(metrics["baselines"]) == {"mean", "random_forest_counts", "random_forest_descriptors"}
    assert metrics["parts"]["test"]["rmse"] < metrics["baselines"]["mean"]["parts"]["test"]["rmse"]
    assert config["blend"]["features"] == ["descriptors", "counts"]
    assert [member["student"]["width"] for member in config["members"]] == [16, 8]
    suffixes = {path.suffix for path in model.iterdir() if path.is_file() if path.name != ".lock"}
    assert suffixes <= {".json", ".safetensors", ".csv", ".md", ".txt"}


def test_a_flipped_bit_in_the_classical_part_is_found(model: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    path = copy / "classical.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CorruptFileError, match=r"classical\.safetensors"):
        Predictor.load(copy)


def test_without_networks_there_is_a_model_but_no_representation(tmp_path: Path):
    settings = ("blend.classical=ridge,gaussian_process", "blend.students=false", "blend.folds=3")
    quietly(write_classes(tmp_path), tmp_path / "model", ["ring", "hetero"], *settings)
    predictor = Predictor.load(tmp_path / "model", device="cpu")
    found = predictor.predict([*molecules()[:3], "no molecule"])
    assert np.isnan(found["ring_pred"][3])
    assert ((found["ring_pred"][:3] >= 0) & (found["ring_pred"][:3] <= 1)).all()
    assert set(found["in_domain"]) <= {"yes", "no", ""}
    assert set(found["ring_set"]) <= {"0", "1", "0|1", ""}
    with pytest.raises(Exception, match="no network"):
        predictor.embed(["CCO"])
    assert not (tmp_path / "model/model.safetensors").exists()


def test_a_frozen_encoder_gives_features_and_is_kept_beside_the_finetuned_students(tmp_path: Path):
    encoder = tmp_path / "encoder"
    student = build_student(StudentConfig("gine", width=16, num_layers=2))
    save_encoder(encoder, student, {"hydrogens": "heavy_both"}, "# Encoder")
    settings = ("blend.classical=ridge", "blend.folds=2", "ensemble=1", "loop.epochs=1", "probe_steps=25")
    table = write_regression(tmp_path)
    quietly(table, tmp_path / "model", ["size"], *settings, encoder=str(encoder))
    assert read_json(tmp_path / "model/config.json")["blend"]["features"] == ["embedding", "descriptors", "counts"]
    frozen = load_file(tmp_path / "model/embedding.safetensors")
    assert all(torch.equal(frozen[name], values) for name, values in student.state_dict().items())
    with open(tmp_path / "model/test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    predictor = Predictor.load(tmp_path / "model", device="cpu")
    found = predictor.predict([row["smiles"] for row in rows])["size_pred"]
    np.testing.assert_allclose(found, [float(row["size_pred"]) for row in rows], rtol=1e-4)
    assert predictor.embed(["CCO"]).shape == (1, 16)


def test_ready_made_properties_of_the_encoder_follow_its_representation(tmp_path: Path):
    """But no class that it predicts badly, and no property that it learned of these very molecules."""
    student = build_student(StudentConfig("gine", width=16, num_layers=2)).eval()
    heads = PropertyHeads(
        16,
        [
            Property("solvation", "quantum", unit="kcal/mol", mean=-5.0, deviation=3.0),
            Property("mine/size", "labels"),
            Property("set/toxic", "labels", kind="class", scores={"roc_auc": 0.79}),
            Property("set/permeable", "labels", kind="class", scores={"roc_auc": 0.81}),
            Property("other/melting point", "labels", unit="°C", mean=80.0, deviation=50.0),
            Property("gap", "labels", unit="hartree"),
            Property("TPSA", "descriptors"),
        ],
    ).eval()
    learned = LearnedLabels.of_sets({"mine": molecules()[::3], "other": [*molecules()[:1], "CCCCCCCCCCCC"], "set": []})
    listed, unlisted = tmp_path / "listed", tmp_path / "unlisted"
    save_encoder(listed, student, {"hydrogens": "heavy_both"}, "# Encoder", heads=heads, learned=learned)
    save_encoder(unlisted, student, {"hydrogens": "heavy_both"}, "# Encoder", heads=heads)
    table, lines = write_regression(tmp_path), []
    settings = ("blend.classical=ridge", "blend.students=false", "blend.folds=2", "blend.properties=quantum,labels")
    with said(lines):
        quietly(table, tmp_path / "model", ["size"], *settings, encoder=str(listed))
        quietly(table, tmp_path / "other", ["size"], *settings, encoder=str(unlisted))
    seen = [line for line in lines if line.startswith("features: left out")]
    assert ["mine (35%)" in line for line in seen] == [True, False]
    assert ["other (unknown)" in line for line in seen] == [False, True]
    with open(tmp_path / "model/test_predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    predictor = Predictor.load(tmp_path / "model", device="cpu")
    found = predictor.predict([row["smiles"] for row in rows])["size_pred"]
    np.testing.assert_allclose(found, [float(row["size_pred"]) for row in rows], rtol=1e-4)
    row = read_json(tmp_path / "model/splits.json")["train"][0]  # within the limits, which are those of these molecules
    text = molecules()[row]
    batch = Embedder(student, "heavy_both", device="cpu").embed([text])  # the mean over atoms, which the heads read
    pooled_BD = torch.from_numpy(batch)
    quantum, labels = (heads.networks[term](pooled_BD)[0].tolist() for term in ("quantum", "labels"))
    for model, values in (("model", [*quantum, *labels[2:]]), ("other", [*quantum, labels[4]])):
        seen_D = Predictor.load(tmp_path / model, device="cpu").embed([text])[0]
        assert seen_D[:16] == pytest.approx(batch[0], abs=1e-5)
        assert seen_D[16:] == pytest.approx(values, abs=1e-5)


def test_a_property_that_the_encoder_learned_of_the_test_molecules_alone_is_left_out_too(tmp_path: Path):
    """As in a split by time or by a column of parts: the development molecules say nothing of it."""
    student = build_student(StudentConfig("gine", width=16, num_layers=2)).eval()
    names = ("mine/size", "other/melting point")
    heads = PropertyHeads(16, [Property(name, "labels", unit="K") for name in names]).eval()
    texts = valid_molecules(molecules(), "heavy_both").smiles
    parts = ["test" if row < 30 else "valid" if row % 5 == 0 else "train" for row in range(len(texts))]
    learned = LearnedLabels.of_sets({"mine": texts[:10], "other": texts[10:11]})
    save_encoder(tmp_path / "encoder", student, {"hydrogens": "heavy_both"}, "# E", heads=heads, learned=learned)
    columns = {"smiles": texts, "size": [heavy_atoms(text) for text in texts], "part": parts}
    table, lines = write_csv(tmp_path / "parts.csv", columns), []
    settings = ("blend.classical=ridge", "blend.students=false", "blend.folds=2", "blend.properties=labels")
    with said(lines):
        encoder = str(tmp_path / "encoder")
        metrics = quietly(table, tmp_path / "model", ["size"], "split=column:part", *settings, encoder=encoder).metrics
    assert any(line.startswith("features: left out predicted mine (33%)") for line in lines)
    assert "features: the encoder learned labels of some test molecules: other (3.3%)" in lines
    assert metrics["test_molecules_learned_by_encoder"] == {"other": pytest.approx(1 / 30)}


def test_the_list_of_learned_labels_is_read_as_it_was_written_or_refused(tmp_path: Path):
    learned = LearnedLabels.of_sets({"one": ["CCO", "CC", "CCO"], "two": ["CC", "c1ccccc1"]})
    save_encoder(tmp_path / "encoder", build_student(StudentConfig("gine", width=8, num_layers=1)),
                 {"hydrogens": "heavy_both"}, "# Encoder", learned=learned)  # fmt: skip
    found = load_learned_labels(tmp_path / "encoder")
    assert found is not None
    assert found.share(["CC", "CCO", "CCO", "N", "O"]) == {"one": 0.5, "two": 0.25}
    assert LearnedLabels.of_sets({"none": []}).share(["CC"]) == {"none": 0.0}
    tensors = learned.tensors()
    for wrong in (
        {**tensors, "digest": tensors["digest"].flip(0)},
        {**tensors, "sets": tensors["sets"] * 4},
        {**tensors, "sets": tensors["sets"][:1]},
        {**tensors, "digest": tensors["digest"].double()},
        {"digest": tensors["digest"]},
    ):
        with pytest.raises(CorruptFileError, match="does not list"):
            LearnedLabels.of_tensors(wrong, learned.sets, "it")


def test_members_beside_a_representation_look_at_the_lean_descriptors_alone():
    bare, beside = Layout(0), Layout(4)
    assert bare.seen(DESCRIPTORS).tolist() == bare.columns(DESCRIPTORS).tolist()
    names = [DESCRIPTOR_NAMES[place] for place in beside.seen(DESCRIPTORS) - beside.starts[DESCRIPTORS]]
    assert names == list(LEAN_DESCRIPTORS)
    assert "MolLogP" in names
    assert not {"qed", "BertzCT", "fr_benzene"} & set(names)
    rng = np.random.default_rng(0)
    x_BF = np.zeros((60, beside.width), np.float32)
    x_BF[:, beside.columns(DESCRIPTORS)] = rng.normal(size=(60, len(DESCRIPTOR_NAMES)))
    x_BF[:, :4] = rng.normal(size=(60, 4))
    x_BF[:, beside.columns(COUNTS)[:20]] = rng.integers(0, 3, (60, 20))
    y_B = x_BF[:, beside.starts[DESCRIPTORS] + DESCRIPTOR_NAMES.index("qed")].astype(np.float64)
    hidden = np.setdiff1d(beside.columns(DESCRIPTORS), beside.seen(DESCRIPTORS))
    for name in MEMBERS:
        model = fit_member(name, Training(x_BF, y_B, beside, False, 1, 0, FitOptions(trees=5)))
        assert not np.isin(columns_of(model), hidden).any(), name


def test_several_classes_are_blended_as_one_against_the_rest_and_sum_to_1(tmp_path: Path):
    smiles = molecules()
    kinds = ["acid" if "=O" in text else "aromatic" if "c1" in text else "other" for text in smiles]
    table = write_csv(tmp_path / "kinds.csv", {"smiles": smiles, "kind": kinds})
    settings = (
        "blend.classical=ridge,forest_descriptors",
        "blend.folds=2",
        "blend.trees=10",
        "ensemble=1",
        "loop.epochs=1",
    )
    quietly(table, tmp_path / "model", ["kind"], *settings)
    found = Predictor.load(tmp_path / "model", device="cpu").predict([*smiles[:5], "no molecule"])
    assert set(found["kind_pred"]) <= {"acid", "aromatic", "other", ""}
    sums = found["kind_prob_acid"] + found["kind_prob_aromatic"] + found["kind_prob_other"]
    np.testing.assert_allclose(sums[:5], 1, atol=1e-9)
    assert np.isnan(sums[5])


def test_folds_make_one_model_of_all_and_judge_each_on_its_own_test_part(tmp_path: Path):
    settings = ("blend.classical=ridge", "blend.students=false", "blend.folds=2", "split=kfold", "folds=3")
    done = quietly(write_regression(tmp_path), tmp_path / "model", ["size"], *settings)
    assert len(done.metrics["folds"]) == 3
    config = read_json(tmp_path / "model/config.json")
    assert [member["weights"] for member in config["blend"]["classical"]] == [[pytest.approx(1 / 3)]] * 3


def test_a_very_small_time_limit_leaves_a_classical_model_and_says_what_it_left_out(tmp_path: Path):
    lines: list[str] = []
    names = "ridge,forest_descriptors,boosting,forest"
    config = load_config(
        FinetuneConfig,
        "finetune-best",
        ["split=random", "jobs=1", "loop.device=cpu", f"blend.classical={names}", "blend.time_limit_s=0.01"],
    )
    with said(lines):
        finetune(write_regression(tmp_path), tmp_path / "model", ["size"], config, encoder="random")
    assert any("time limit" in line and "forest" in line for line in lines)
    assert any("no students" in line for line in lines)
    assert np.isfinite(Predictor.load(tmp_path / "model").predict(["CCO"])["size_pred"]).all()


def test_a_forest_that_would_take_too_long_gets_fewer_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seconds = {"ridge": 0.0, "forest": 100.0, "boosting": 100.0, "forest_counts": 10_000.0}
    monkeypatch.setattr("dnd.finetuning.classical._pilot", lambda data, name: seconds[name])
    lines: list[str] = []
    settings = ["split=random", "jobs=1", "loop.device=cpu", "blend.students=false", "blend.folds=2"]
    settings += [f"blend.classical={','.join(seconds)}", "blend.trees=60", "blend.time_limit_s=300"]
    config = load_config(FinetuneConfig, "finetune-best", settings)
    table = write_regression(tmp_path)
    with said(lines):
        finetune(table, tmp_path / "model", ["size"], config, encoder="random")
    cut = next(line for line in lines if "of 60 trees of forest:" in line)
    assert 10 < int(cut.split()[3]) < 20  # 0.8 of 300 s have room for 240 / 330 of the trees
    assert [line.split(":")[1].strip() for line in lines if "left out" in line and " s, time" in line] == [
        "left out boosting", "left out forest_counts",
    ]  # fmt: skip


def test_what_many_targets_cost_is_measured_on_a_few(monkeypatch: pytest.MonkeyPatch):
    fitted: list[tuple[int, int]] = []
    targets, rows = tuple(Target(str(number)) for number in range(30)), np.arange(1000)
    x_BF, folds = np.zeros((1000, 1), np.float32), np.zeros(1000, np.int64)
    labels = np.zeros((1000, 30))
    data = FoldData(x_BF, rows, labels, labels, targets, Layout(), rows, folds, 5, 0, FitOptions(), rows)
    moments = iter([0.0, 2.0, 2.0, 4.0])
    monkeypatch.setattr("time.monotonic", lambda: next(moments))
    monkeypatch.setattr(
        FoldData, "fit", lambda self, name, rows, fold, columns: fitted.append((len(rows), len(columns)))
    )
    assert _pilot(data, "ridge") == pytest.approx(2.0 * 30 / 4 * (1000 / 334) ** 1.2)
    assert fitted == [(334, 4)]
    assert _pilot(data, "boosting") == pytest.approx(2.0 * 30 / 4 * (1000 / 334) ** 0.8)  # bins, not molecules


def test_large_tables_are_thinned_for_the_classical_members_and_it_is_said(tmp_path: Path):
    smiles = [
        text + "." + other
        for text in molecules()[:12]
        for other in ("C", "CC", "CCC", "CO", "CN", "CS", "O", "N", "F", "Cl")
    ]
    table = write_csv(tmp_path / "many.csv", {"smiles": smiles, "size": [heavy_atoms(text) for text in smiles]})
    lines: list[str] = []
    settings = ["split=random", "jobs=1", "loop.device=cpu", "blend.classical=ridge", "blend.students=false"]
    config = load_config(FinetuneConfig, None, [*settings, "fractions=0.9,0.05,0.05", "blend.classical_rows=100"])
    with said(lines):
        finetune(table, tmp_path / "model", ["size"], config, encoder="random")
    assert any("106 of 120 molecules drawn" in line for line in lines)
    folds = load_config(FinetuneConfig, None, [*settings, "split=kfold:12", "blend.classical_rows=100"])
    plan = _plan([LabelledFile(table, ("size",))], folds, "random")
    drawn = rows_with_features(plan, Clock(None), KeptWork(None))
    assert drawn.sum() == 109  # of each partition's 110 development molecules about 100


@pytest.mark.parametrize("labels", [list(range(20)), [row % 2 for row in range(20)], ["a", "b", "c", "a"] * 5])
def test_a_fold_whose_molecules_are_rows_of_a_single_one_is_learned_too(tmp_path: Path, labels: list[object]):
    columns: dict[str, list[object]] = {"smiles": ["CCO", "CCN", "CCC", "CCO"] * 5, "y": labels}
    table = write_csv(tmp_path / "few.csv", {**columns, "part": ["train", "valid", "test", "train"] * 5})
    words = ("split=column:part", f"blend.classical={','.join(CLASSICAL_MEMBERS)}", "blend.students=false")
    done = quietly(table, tmp_path / "model", ["y"], *words, "blend.trees=5")
    assert set(done.metrics["alone"]) == set(CLASSICAL_MEMBERS)


def test_weights_find_the_better_member_and_stay_between_0_and_1():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=(400, 1))
    good, bad = labels + 0.1 * generator.normal(size=labels.shape), generator.normal(size=labels.shape)
    weights = fit_weights(np.stack([bad, good]), labels, ["regression"], np.ones(1))
    assert weights[1, 0] > 0.95
    assert weights.sum(axis=0) == pytest.approx(1)
    few = fit_weights(np.stack([bad, good])[:, :4], labels[:4], ["regression"], np.ones(1))
    assert 0.05 < few[0, 0] < 0.5  # four molecules prove little


def test_members_with_independent_errors_share_the_weight():
    generator = np.random.default_rng(1)
    labels = (generator.random((600, 1)) < 0.5).astype(float)
    noisy = [
        np.clip(0.5 + 0.25 * (2 * labels - 1) + 0.15 * generator.normal(size=labels.shape), 0.01, 0.99) for _ in "ab"
    ]
    weights = fit_weights(np.stack(noisy), labels, ["classification"], np.ones(1))
    assert weights[:, 0] == pytest.approx([0.5, 0.5], abs=0.1)


def test_where_a_target_lies_changes_no_weight_also_where_others_lend_theirs():
    generator = np.random.default_rng(2)
    labels = generator.normal(size=(300, 2))
    members = np.stack([labels + spread * generator.normal(size=labels.shape) for spread in (0.3, 1.5)])
    labels[15:, 0] = np.nan  # so few labels take the weights of both targets together
    kinds, offset = ["regression", "regression"], np.array([0.0, 1000.0])
    weights = fit_weights(members, labels, kinds, np.ones(2))
    assert weights[0].min() > 0.9
    assert fit_weights(members + offset, labels + offset, kinds, np.ones(2)) == pytest.approx(weights, abs=1e-4)


def test_folds_hold_whole_scaffolds_and_are_about_equal():
    smiles = [
        f"{'C' * size}{ring}"
        for size in range(1, 7)
        for ring in ("c1ccccc1", "C1CCCCC1", "c1ccncc1", "C1CC1", "C1CCC1")
    ]
    smiles += ["C" * size for size in range(2, 12)]
    folds = scaffold_folds(smiles, 5, seed=0)
    assert set(folds) == set(range(5))
    assert np.ptp(np.bincount(folds)) <= 2
    assert len(set(folds[-10:])) > 1  # molecules without rings are no scaffold
    small = scaffold_folds(["c1ccccc1C", "c1ccccc1O", *smiles], 2, seed=0)
    assert np.array_equal(small, scaffold_folds(["c1ccccc1C", "c1ccccc1O", *smiles], 2, seed=0))


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400), (" 2 M ", 120)])
def test_durations(text: str, seconds: float):
    assert read_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "ten", "-3s", "1d", "nan"])
def test_what_is_no_duration_is_refused(text: str):
    with pytest.raises(ConfigError):
        read_duration(text)


def test_a_clock_without_a_limit_never_ends():
    assert Clock(None).share(0.5) == np.inf
    assert Clock(1e-9).share(0.5) == 0


def test_settings_that_are_at_odds_are_refused():
    with pytest.raises(ConfigError, match="fall back"):
        BlendConfig(time_limit_s=10.0)
    with pytest.raises(ConfigError, match="has no members"):
        BlendConfig(students=False)
    with pytest.raises(ConfigError, match="unknown classical member"):
        BlendConfig(classical=("wood",))
    assert tuple(MEMBERS) == CLASSICAL_MEMBERS
