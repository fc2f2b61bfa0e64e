"""A blend compressed into one student: a MODEL like any other that knows how far it is from its teacher."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import dnd
from dnd.chemistry.identity import identities_of
from dnd.chemistry.parse import parse_smiles
from dnd.common.about import about_folder
from dnd.common.config import load_config
from dnd.common.errors import ConfigError, DndError, InputError
from dnd.common.files import folder_lock, read_json
from dnd.common.model_folder import read_model
from dnd.finetuning import compress as module
from dnd.finetuning.compress import CompressConfig, compress
from dnd.finetuning.compressed_model import POOL, read_test_part, read_unlabelled, taught_values, widened
from dnd.prediction.evaluate import evaluate_file
from dnd.prediction.screen.screen import hint_to_compress
from dnd.predictor.model_folder import KIND
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Transform
from dnd.predictor.uncertainty.intervals import ConformalIntervals, Predicted
from dnd.report.model_report import write_model_report
from dnd.store.featurize import valid_molecules
from dnd.tables.molecules import as_molecules
from finetuning_toys import heavy_atoms, molecules, quietly, write_classes, write_csv, write_regression

BLEND = ("blend.classical=ridge,forest_descriptors", "blend.students=false", "blend.folds=2", "blend.trees=5")
SMALL = ("encoder=random", "student.name=gine", "student.width=16", "student.num_layers=2", "jobs=1", "loop.device=cpu")
HEADS = ("CO", "CN", "FC", "OC(=O)", "NC(=O)", "BrC", "CS", "CCC")
RINGS = ("c1ccc(C)cc1", "c1ccc(F)nc1", "C1CCCCC1", "C1CCOC1", "c1ccsc1", "C1CCNCC1", "c1ccc(Cl)cc1", "C1CCC1")


def small_config(*words: str) -> CompressConfig:
    settings = ("loop.epochs=3", "loop.learning_rate=3e-3", "loop.batch_size=16", *SMALL, *words)
    return load_config(CompressConfig, None, settings)


def run(model: Path, out: Path, tables: list[Path], *words: str, **options: object):
    return compress(model, out, tables, small_config(*words), **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blend of `size`, one of classes, the tables of both, and a table without labels."""
    folder = tmp_path_factory.mktemp("compress")
    quietly(write_regression(folder), folder / "blend", ["size"], *BLEND)
    quietly(write_classes(folder), folder / "classes", ["ring", "hetero"], *BLEND)
    write_csv(folder / "library.csv", {"smiles": [head + ring for head in HEADS for ring in RINGS]})
    return folder


@pytest.fixture(scope="module")
def small(made: Path) -> Path:
    return run(made / "blend", made / "small", [made / "library.csv", made / "toy.csv"]).folder


def test_the_student_is_a_model_that_predicts_with_intervals_and_a_domain(made: Path, small: Path) -> None:
    student = Predictor.load(small, device="cpu")
    assert student.parts.blend is None
    assert len(student.parts.members) == 1
    assert student.columns == ["size_pred", "size_low", "size_high", "in_domain", "domain_reason"]
    table = student.predict(["CCO", "c1ccccc1CO", "no molecule"])
    assert np.isfinite(table["size_pred"][:2]).all()
    assert (table["size_low"][:2] < table["size_high"][:2]).all()
    assert table["error"][2]
    assert np.isnan(table["size_pred"][2])
    assert student.known == Predictor.load(made / "blend").known
    assert evaluate_file(student, made / "toy.csv")["molecules"] == 54
    assert write_model_report(small).is_file()


def test_it_says_how_far_it_is_from_its_teacher(made: Path, small: Path) -> None:
    metrics, teacher = read_json(small / "metrics.json"), Predictor.load(made / "blend", device="cpu")
    found = metrics["compressed"]
    assert found["held_out"] == 20
    assert found["known_molecules"] == len(teacher.known)
    texts = {
        parse_smiles(text).smiles for name in ("library.csv", "toy.csv") for text in as_molecules(made / name).texts
    }
    test = {parse_smiles(text).smiles for text in as_molecules(made / "blend" / "test_predictions.csv").texts}
    assert found["molecules"] + found["held_out"] == len(texts - test)
    assert found["targets"]["size"]["r2"] <= 1
    assert found["targets"]["size"]["mae"] <= found["targets"]["size"]["rmse"]
    assert "the student differs from its model by" in (small / "card.md").read_text()
    beside = read_json(made / "blend" / "metrics.json")["parts"]["test"]
    own = metrics["baselines"]["the_model_it_was_made_of"]["parts"]["test"]
    assert own["molecules"] == metrics["parts"]["test"]["molecules"] == beside["molecules"]
    assert own["rmse"] == pytest.approx(beside["rmse"], rel=1e-6)


def test_it_is_described_by_its_own_training(small: Path) -> None:
    """And the table has no column of the validation part, of which neither model has numbers."""
    assert "training       epochs 3, batch_size 16, learning_rate 0.003" in "\n".join(about_folder(small))
    page = write_model_report(small).read_text()
    assert "loop.batch_size=16" in page
    assert "blend.folds" not in page
    assert "valid rmse" not in (small / "card.md").read_text()


def test_what_the_teacher_was_judged_by_teaches_nothing(made: Path, small: Path) -> None:
    before, after = (read_json(made / name / "splits.json")["test"] for name in ("blend", "small"))
    assert sorted(after) == sorted(before)
    assert len(after) > 0
    judged = {molecules()[row] for row in before}
    domain = json.loads((small / "domain.json").read_text())["limits"]
    assert domain["training_molecules"] == 54 - len(judged)


def test_the_same_command_makes_the_same_weights(made: Path, small: Path, tmp_path: Path) -> None:
    again = run(made / "blend", tmp_path / "again", [made / "library.csv", made / "toy.csv"]).folder
    assert (again / "model.safetensors").read_bytes() == (small / "model.safetensors").read_bytes()
    assert read_json(again / "calibration.json") == read_json(small / "calibration.json")
    other = run(made / "blend", tmp_path / "other", [made / "library.csv", made / "toy.csv"], "loop.seed=2").folder
    assert (other / "model.safetensors").read_bytes() != (small / "model.safetensors").read_bytes()


def test_a_run_that_was_killed_goes_on_and_asks_the_teacher_nothing_again(
    made: Path, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables, out = [made / "library.csv", made / "toy.csv"], tmp_path / "out"

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train", killed)
        with pytest.raises(KeyboardInterrupt):
            run(made / "blend", out, tables)
    with pytest.raises(InputError, match="resume"):
        run(made / "blend", out, tables)
    with pytest.raises(InputError, match="other settings"):
        run(made / "blend", out, tables, "loop.epochs=4", resume=True)
    pieces = sorted(path.read_bytes() for path in (out / ".work" / "predictions").iterdir())
    stopped = run(made / "blend", out, tables, "loop.stop_after_s=0", resume=True)
    assert not stopped.finished
    assert sorted(path.read_bytes() for path in (out / ".work" / "predictions").iterdir()) == pieces
    done = run(made / "blend", out, tables, resume=True)
    assert (done.folder / "model.safetensors").read_bytes() == (small / "model.safetensors").read_bytes()
    assert not (out / ".work" / "predictions").exists()
    assert run(made / "blend", out, tables, resume=True).finished
    with pytest.raises(InputError, match="finished"):
        run(made / "blend", out, tables)


def test_a_piece_that_was_altered_is_no_lesson(made: Path, tmp_path: Path) -> None:
    teacher = Predictor.load(made / "blend", device="cpu")
    values_BC = taught_values(teacher, ["CCO", "CCCO"], tmp_path)
    assert values_BC == pytest.approx(teacher.predict_values(["CCO", "CCCO"])[0])
    (piece,) = tmp_path.iterdir()
    piece.write_bytes(piece.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(DndError):
        taught_values(teacher, ["CCO", "CCCO"], tmp_path)


def test_classes_keep_their_sets_and_the_student_learns_probabilities(made: Path, tmp_path: Path) -> None:
    done = run(made / "classes", tmp_path / "small", [made / "library.csv"], "loop.epochs=8")
    student, teacher = (Predictor.load(folder, device="cpu") for folder in (done.folder, made / "classes"))
    assert student.columns == [name for name in teacher.columns if not name.endswith("_std")]
    values, said = (one.predict_values(as_molecules(made / "library.csv").texts)[0] for one in (student, teacher))
    assert ((values > 0) & (values < 1)).all()
    assert np.corrcoef(values[:, 0], said[:, 0])[0, 1] > 0.2
    for before, after in zip(teacher.calibration.targets, student.calibration.targets, strict=True):
        assert after.chosen.sets == before.chosen.sets
        assert after.chosen.scaling is None


def test_without_the_labelled_table_the_domain_goes_by_structure(made: Path, tmp_path: Path) -> None:
    folder = run(made / "blend", tmp_path / "small", [made / "library.csv"], "loop.epochs=1").folder
    own, before = (Predictor.load(path).domain for path in (folder, made / "blend"))
    assert own.limits == replace(before.limits, largest_distance=None)
    assert own.embeddings_VD.shape == (len(before.fingerprints_VF), 0)
    assert "representation" not in own.limits.sentences()[0]
    reasons, similarity = own.judge(["CCc1ccccc1", "[Na+].[Cl-]"], np.zeros((2, 16)))
    assert similarity[0] == 1.0
    assert reasons[0] == ""
    assert "no training molecule has" in reasons[1]


def test_intervals_widen_with_the_distance_to_the_teacher() -> None:
    generator, teacher = np.random.default_rng(0), ConformalIntervals(2.0, None, (0.3, 0.7), (1.2, 0.8))
    said, near = generator.standard_normal(2_000), np.full(2_000, 0.5)
    low, high = said - 2.0, said + 2.0
    same = widened(teacher, low, high, Predicted(said, None, similarity_B=near), 0)
    away = said + 2.0 / 1.6449 * generator.standard_normal(2_000)
    other = widened(teacher, low, high, Predicted(away, None, similarity_B=near), 0)
    assert same.half_width == pytest.approx(2.0, rel=0.03)
    assert same.similarity_knots == teacher.similarity_knots
    assert other.half_width == pytest.approx(2.0 * 2**0.5, rel=0.03)
    logarithm = Transform("log")
    mapped = widened(
        replace(teacher, half_width=0.5, similarity_knots=None, similarity_factors=None),
        np.exp(said - 0.5), np.exp(said + 0.5), Predicted(np.exp(said), None, logarithm), 0,
    )  # fmt: skip
    assert mapped.half_width == pytest.approx(0.5, rel=0.03)


def test_what_can_not_be_compressed_is_refused(made: Path, small: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="single member"):
        run(small, tmp_path / "again", [made / "library.csv"])
    few = write_csv(tmp_path / "few.csv", {"smiles": ["CCO", "CCCO", "CCO"]})
    with pytest.raises(InputError, match="too few molecules to teach"):
        run(made / "blend", tmp_path / "few", [few])
    with pytest.raises(InputError, match="hold some out"):
        run(made / "blend", tmp_path / "known", [made / "toy.csv", few], "most_rows=100")
    with folder_lock(tmp_path / "held"), pytest.raises(InputError, match="in use"):
        run(made / "blend", tmp_path / "held", [made / "library.csv"])
    with pytest.raises(ConfigError, match="held_out"):
        small_config("held_out=0")


def test_the_pool_that_ships_is_of_different_molecules_in_canonical_form() -> None:
    texts = as_molecules(POOL).texts
    assert len(texts) == len(set(texts)) == 20_000
    some = texts[::2_000]
    assert [parse_smiles(text).smiles for text in some] == some


def test_a_large_screen_by_a_blend_is_told_of_it() -> None:
    blend = {"blend": {"classical": [{"name": "ridge"}]}}
    assert "dnd compress MODEL -o SMALL" in hint_to_compress(blend, 100_001)
    assert hint_to_compress(blend, 100_000) == hint_to_compress({}, 10**9) == ""


def test_the_python_function_is_the_verb(made: Path, tmp_path: Path) -> None:
    words = {key: value for key, _, value in (word.partition("=") for word in (*SMALL, "loop.epochs=1"))}
    done = dnd.compress(
        made / "blend", tmp_path / "small", molecules=made / "library.csv", settings=words, verbose=False
    )
    assert done.report.is_file()
    assert done.predictor.predict("CCO")["error"] == [""]


def test_what_teaches_and_judges_the_student_has_the_form_that_the_model_sees(tmp_path: Path) -> None:
    salts = [f"{text}.Cl" for text in molecules()]
    table = write_csv(tmp_path / "salts.csv", {"smiles": salts, "size": [heavy_atoms(text) for text in salts]})
    quietly(table, tmp_path / "model", ["size"], "standardize=true", *BLEND)
    saved = read_model(tmp_path / "model", kind=KIND)
    teacher = Predictor.of(saved, device="cpu")
    test = read_test_part(saved, teacher, "heavy_both", jobs=1)
    known = {identity for identity in identities_of(molecules()) if teacher.knows([identity]) == [True]}
    assert known
    assert test.smiles
    assert set(test.identities) <= set(identities_of(valid_molecules(molecules(), "heavy_both").smiles))
    assert not known & set(test.identities)
    more = write_csv(tmp_path / "more.csv", {"smiles": [*salts, *(head + ring for head in HEADS for ring in RINGS)]})
    found = read_unlabelled(
        [more], teacher, "heavy_both", set(test.identities), smiles_column=None, most=1000, seed=0, jobs=1
    )
    assert not any("." in text for text in found.smiles)
    assert found.store.smiles() == found.smiles
    assert not set(test.identities) & set(found.smiles)
    assert found.known_B.sum() == len(teacher.known or ())
