"""The ablation of the teachers: what a variant trains, which cells there are, what the tables make of scores."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from distillation_toys import toy_config, toy_teacher_folder
from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.models.students.encoders import load_encoder
from dnd.pretraining import distill
from dnd.pretraining.settings import ALIGNMENT, AUXILIARY, TermWeights
from dnd.reproduction.benchmarks import BENCHMARKS
from dnd.reproduction.cell_runners import STAGES
from dnd.reproduction.encoder_ablation import (
    ARMS,
    FOUR,
    NEITHER,
    VARIANTS,
    Ablation,
    ablation_page,
    equal_budget,
    plan,
    scores_of,
    variant_config,
)
from dnd.reproduction.pretrain_base import store_folders
from dnd.reproduction.pretraining_labels import BaseConfig
from dnd.reproduction.results import ENCODER, Cell, Record, Work, digests
from dnd.reproduction.tables import paper_best
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig

QM9 = Path(__file__).parents[2] / "data" / "qm9_300.npz"
STUDENT = load_config(BaseConfig, "base-tiny").base


def test_variants_differ_in_their_terms_only() -> None:
    assert set(VARIANTS["all+labels"]) == ALIGNMENT | AUXILIARY
    assert set(VARIANTS["all"]) == set(VARIANTS["3d+quantum"]) | set(VARIANTS["descriptors"])
    assert set(ARMS) <= VARIANTS.keys()
    assert set(VARIANTS["3d"]).isdisjoint(VARIANTS["descriptors"])
    for name in ("3d", "descriptors", "both", "all+labels"):
        config = variant_config(STUDENT, name)
        assert config.weights() == {term: w for term, w in STUDENT.weights().items() if term in VARIANTS[name]}
        assert replace(config, terms=STUDENT.terms) == STUDENT
        assert config.needs_teacher == (name != "descriptors")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ablation") / "base"
    prepare([QM9], folder / "stores" / "0-qm9", PrepareConfig(limit=20))
    toy_teacher_folder(folder / "teacher")
    return folder


def test_the_cells_are_encoders_then_finetunings_and_the_control_has_the_same_student(base: Path) -> None:
    ablation = Ablation(base, STUDENT, datasets=("esol",), seeds={"esol": 2})
    cells = plan(ablation)
    assert [cell.key for cell in cells[:3]] == ["encoder/3d", "encoder/descriptors", "encoder/both"]
    assert len(cells) == 3 + 2 * 4 * 2
    assert len(set(digests(cells).values())) == len(cells)
    control = next(cell for cell in cells if cell.key == f"esol/{NEITHER}/labels-10/seed-2")
    assert control.needs == ()
    assert "student.name=gine" in control.settings["config"]
    assert "hydrogens=heavy_both" in control.settings["config"]
    both = next(cell for cell in cells if cell.key == "esol/both/labels-10/seed-2")
    assert both.needs == ("encoder/both",)
    assert all("layer_decay=1.0" in cell.settings["config"] for cell in (control, both))
    with pytest.raises(InputError, match="holds no stores"):
        plan(replace(ablation, base=base / "nowhere"))
    with pytest.raises(ConfigError, match="unknown variant"):
        replace(ablation, variants=("4d",))


def test_a_cell_distils_from_the_stores_that_are_there(base: Path, tmp_path: Path) -> None:
    cell = next(
        cell for cell in plan(Ablation(base, toy_config(level="node"), variants=("3d",))) if cell.key == "encoder/3d"
    )
    result = STAGES[cell.kind](Work(cell.settings, cell.paths, {}, tmp_path))
    assert "valid_node_r2" in result["metrics"]
    assert load_encoder(tmp_path / ENCODER)[1]["terms"] == {"node": 1.0}


def test_a_student_of_the_base_with_the_same_settings_is_not_distilled_again(base: Path, tmp_path: Path) -> None:
    student = toy_config(level="custom", terms=TermWeights(node=1.0))
    ablation = Ablation(base, student, variants=("3d", "both"))
    first, second = plan(ablation)[:2]
    assert second.needs == (first.key,), "both read the teacher's outputs, which the first one writes"
    STAGES[first.kind](Work(first.settings, first.paths, {}, base / "students" / "made"))
    shutil.move(base / "students" / "made" / ENCODER, base / "students" / "dnd-base")
    taken = plan(ablation)[0]
    assert digests([taken]) == digests([first]), "where it comes from is not part of what it is"
    STAGES[taken.kind](Work(taken.settings, taken.paths, {}, tmp_path))
    source, copy = base / "students" / "dnd-base", tmp_path / ENCODER
    written = {path.name: path.read_bytes() for path in source.iterdir() if path.name != ".lock"}
    assert {path.name: path.read_bytes() for path in copy.iterdir() if path.name != ".lock"} == written
    other = replace(student, loop=replace(student.loop, epochs=student.loop.epochs + 1))
    assert "finished" not in plan(replace(ablation, student=other))[0].paths


def test_a_copy_that_was_torn_is_completed(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    student = toy_config(level="custom", terms=TermWeights(node=1.0))
    cell = plan(Ablation(base, student, variants=("3d",)))[0]
    STAGES[cell.kind](Work(cell.settings, cell.paths, {}, tmp_path / "whole"))
    source, copy = tmp_path / "whole" / ENCODER, tmp_path / "torn" / ENCODER
    copy.mkdir(parents=True)
    shutil.copy(source / "config.json", copy)  # a kill came here
    monkeypatch.setattr(distill, "train", lambda *arguments, **settings: pytest.fail("it is trained again"))
    STAGES[cell.kind](Work(cell.settings, {**cell.paths, "finished": str(source)}, {}, tmp_path / "torn"))
    assert (copy / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_more_than_ten_stores_are_read_in_their_order(tmp_path: Path) -> None:
    names = [f"{number}-file" for number in range(12)]
    for name in reversed(names):
        (tmp_path / "stores" / name).mkdir(parents=True)
    assert [path.name for path in store_folders(tmp_path)] == names
    assert store_folders(tmp_path / "none") == []


def test_arms_see_as_many_molecules_whatever_they_learn_from() -> None:
    solid = equal_budget(variant_config(STUDENT, "3d"), 1000, 200)
    assert solid.loop.epochs == 5 * STUDENT.loop.epochs
    assert equal_budget(variant_config(STUDENT, "all+labels"), 1000, 200).loop == STUDENT.loop
    assert equal_budget(variant_config(STUDENT, "3d"), 200, 200).loop == STUDENT.loop


def test_frozen_representations_are_scored_and_neither_has_descriptors_alone(base: Path, tmp_path: Path) -> None:
    student = toy_config(level="custom", terms=TermWeights(node=1.0))
    ablation = Ablation(
        base, student, variants=("3d", NEITHER), datasets=("freesolv",), fractions=(1.0,), seeds={"freesolv": 1},
        most_molecules=60, frozen=("ridge", "gp", "forest", "ridge+descriptors"), finetuned=False,
    )  # fmt: skip
    cells = plan(ablation)
    assert [cell.kind for cell in cells] == ["distill_from_stores"] + ["frozen"] * 8
    encoder, *frozen = cells
    STAGES[encoder.kind](Work(encoder.settings, encoder.paths, {}, tmp_path / "encoder"))
    records = []
    for cell in frozen:
        needs = {encoder.key: tmp_path / "encoder"} if cell.needs else {}
        result = STAGES[cell.kind](Work(cell.settings, cell.paths, needs, tmp_path))
        assert 0 < result["test"] < 12  # kcal/mol
        records.append(Record(cell.key, "0", "done", cell.kind, cell.settings, result))
    tests = {(record.settings["system"], record.settings["model"]): record.result["test"] for record in records}
    assert len(set(tests.values())) == len(tests)
    scores = scores_of(records, "ridge+descriptors")
    assert scores.parts["test"]["freesolv", NEITHER, 1.0] == {1: tests[NEITHER, "ridge+descriptors"]}
    assert scores_of(records).parts["test"] == {}
    with pytest.raises(ConfigError, match="unknown frozen model"):
        replace(ablation, frozen=("svm",))


def record(dataset: str, variant: str, fraction: float, seed: int, test: float) -> Record:
    cell = Cell(f"{dataset}/{variant}/{fraction}/{seed}", "finetune")
    settings = {"dataset": dataset, "system": variant, "fraction": fraction, "seed": seed, "pooling": "mean"}
    metric = BENCHMARKS[dataset].metric
    result = {"metric": metric, "test": test, "valid": test + 0.1, "molecules": {"train": int(100 * fraction)}}
    return Record(cell.key, "0", "done", cell.kind, settings, result)


def test_changes_are_paired_and_the_bars_count() -> None:
    shift = {"both": -0.2, NEITHER: 0.0}
    records = [
        record(dataset, variant, fraction, seed, (1.0 if fraction == 1.0 else 1.1) + 0.05 * seed + change)
        for dataset in ("esol", "lipo")
        for variant, change in shift.items()
        for fraction in (1.0, 0.1)
        for seed in (1, 2, 3)
    ]
    records.append(Record("esol/both/9", "0", "failed", "finetune", {}, reason="no memory"))
    scores = scores_of(records)
    found = scores.change("test", ("esol", "both", 1.0))
    assert found is not None
    change, half = found
    assert change == pytest.approx(-0.2 / 1.1)
    assert half == pytest.approx(0.0, abs=1e-9)
    page = ablation_page(scores, ["both", NEITHER], [1.0, 0.1])
    assert "| esol | RMSE ↓ | 100 | 0.900 ± 0.050 (3) | 1.100 ± 0.050 (3) |" in page
    assert "-18.2 ± 0.0 % *" in page
    assert "both, regression: mean change of the test error -18.2 %" in page
    assert "with the most (mean within one deviation) on 2 of 2 (esol, lipo)" in page
    assert "- `esol/both/9`: no memory" in page
    assert "–" in ablation_page(scores, [*FOUR], [1.0])


def test_the_papers_best_numbers() -> None:
    assert paper_best("esol") == pytest.approx(0.928, abs=0.001)
    assert paper_best("bbbp") == pytest.approx(0.6788), "the largest ROC-AUC"


def test_roc_auc_changes_by_differences_and_larger_is_better() -> None:
    records = [record("bbbp", name, 1.0, seed, auc) for name, auc in (("both", 0.7), (NEITHER, 0.6)) for seed in (1, 2)]
    scores = scores_of([*records, *(record("esol", NEITHER, 1.0, seed, 1.0) for seed in (1, 2))])
    assert scores.change("test", ("bbbp", "both", 1.0)) == pytest.approx((0.1, 0.0))
    page = ablation_page(scores, ["both", NEITHER], [1.0])
    assert "| bbbp | ROC-AUC ↑ | 100 | 0.700 ± 0.000 (2) | 0.600 ± 0.000 (2) |" in page
    assert "| bbbp | +0.100 ± 0.000 * |" in page
    assert "| mean of classification | +0.100 (better on 1 of 1" in page
    assert "both, classification: mean change of the test ROC-AUC +0.100" in page
    assert "better than the paper's best number on 1 of 1 data sets that have one (bbbp;" in page
