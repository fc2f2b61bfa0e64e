"""Conformers, students, teachers, locality, CCMD's alignments and several data sets at once: plans and reports."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.models.students.encoders import load_encoder
from dnd.pretraining.denoise import DenoiseConfig
from dnd.pretraining.settings import DistillConfig, PretrainConfig
from dnd.pretraining.supervised_teacher import SuperviseConfig
from dnd.reproduction.budgets import budget
from dnd.reproduction.ccmd import ALIGNMENTS, alignment_scores, write_ccmd
from dnd.reproduction.cell_runners import STAGES
from dnd.reproduction.locality import additive_share, atom_type_counts, draw_locality
from dnd.reproduction.multitask import multitask_cells, shared_tests, without_leaks, write_multitask
from dnd.reproduction.protocol import Request, plan
from dnd.reproduction.results import ENCODER, Record, Work
from dnd.reproduction.tables import Entry


def test_conformers_at_equal_steps_and_at_equal_molecules() -> None:
    cells = {
        cell.key: cell for cell in plan(Request("conformers", budget("cpu"), datasets=("esol",), upstream_seeds=(1,)))
    }
    store = cells["molecules/conformers/prepare"].settings
    assert (store["num_conformers"], store["conformers"], store["molecules"]) == (10, "etkdg", 3000)
    epochs, teachers = {}, {}
    for name in ("conformers-1", "conformers-5", "conformers-5-all", "conformers-1-passes-10"):
        finetuned = cells[f"esol/{name}/mean/upstream-1/seed-1"]
        student = cells[finetuned.needs[0]]
        teacher = cells[student.needs[1]]
        own = load_config(DistillConfig, student.settings.get("recipe"), student.settings["config"])
        assert own.conformers == "mean"
        assert student.needs[0] == "molecules/conformers/prepare"
        epochs[name] = own.loop.epochs
        taught = load_config(DenoiseConfig, teacher.settings.get("recipe"), teacher.settings["config"])
        teachers[name] = taught.loop.epochs
        assert own.num_conformers == taught.num_conformers == int(name.split("-")[1])
    wanted = {"conformers-1": 8, "conformers-5": 8, "conformers-5-all": 40, "conformers-1-passes-10": 80}
    assert epochs == teachers == wanted


def test_students_share_a_teacher_and_teachers_a_student() -> None:
    cells = {
        cell.key: cell for cell in plan(Request("students", budget("cpu"), datasets=("esol",), upstream_seeds=(1,)))
    }
    students = {key: cell for key, cell in cells.items() if cell.kind == "distill"}
    assert len(students) == 7
    assert {cell.needs[1] for cell in students.values()} == {"molecules/seed-1/denoise"}
    named = {load_config(DistillConfig, None, cell.settings["config"]).student.name for cell in students.values()}
    assert named == {"tokengt", "gine", "gcn", "graphsage", "gatv2", "gps", "pna"}
    cells = {
        cell.key: cell for cell in plan(Request("teachers", budget("cpu"), datasets=("esol",), upstream_seeds=(1,)))
    }
    painn = cells["molecules/seed-1/painn/denoise"]
    assert load_config(DenoiseConfig, None, painn.settings["config"]).teacher.name == "painn"
    assert cells["molecules/seed-1/distill-node-gine-painn"].needs[1] == painn.key


def test_an_additive_label_is_wholly_local_and_a_square_of_the_size_is_not() -> None:
    generator = np.random.default_rng(0)
    smiles = ["C" * int(n) + "O" * int(m) + "N" * int(k) for n, m, k in generator.integers(1, 6, (150, 3))]
    counts, valid = atom_type_counts([*smiles, "broken("])
    assert len(valid) == len(counts) == 150
    assert np.array_equal(counts.sum(axis=1), [len(text) for text in smiles])
    weights = generator.normal(size=counts.shape[1])
    additive = counts @ weights
    noise = generator.normal(size=150)
    targets = np.stack([additive, noise], axis=1)
    targets[3, 0] = np.nan
    assert additive_share(smiles, targets[:, :1]) > 0.99
    assert additive_share(smiles, targets[:, 1:]) < 0.1
    assert additive_share(smiles, targets) == pytest.approx(
        (additive_share(smiles, targets[:, :1]) + additive_share(smiles, targets[:, 1:])) / 2
    )
    with pytest.raises(InputError, match="enough labels"):
        additive_share(smiles, np.full((150, 1), np.nan))


def entry(dataset: str, system: str, values: list[float]) -> Entry:
    scores = {(seed, 1): value for seed, value in enumerate(values, 1)}
    return Entry(dataset, system, "mean", "rmse", scores, (8, 1, 1), (8, 1, 1), 1.0, None)


def test_a_pattern_has_to_hold_without_any_data_set_and_in_every_pretraining() -> None:
    shares = {"esol": 0.9, "lipo": 0.7, "freesolv": 0.5, "bp": 0.3, "mp": 0.1}
    graph = [entry(name, "dnd-graph", [1.0, 1.0]) for name in shares]
    rising = [entry(name, "dnd-node", [1.0 - 0.1 * share, 1.0 - 0.2 * share]) for name, share in shares.items()]
    finding = draw_locality([*graph, *rising], shares)
    assert "NODE is better than GRAPH on 5 of 5" in finding.sentence
    assert "is +1.00 (p = 0.02 over 5 data sets" in finding.sentence
    assert "+1.00 to +1.00 when one is left out; +1.00, +1.00 by pretraining" in finding.sentence
    assert "a guideline: local properties favour NODE" in finding.sentence
    mixed = [entry(name, "dnd-node", [1.0 - 0.1 * share, 1.0 + 0.2 * share]) for name, share in shares.items()]
    assert "no clear pattern" in draw_locality([*graph, *mixed], shares).sentence
    once = [entry(one.dataset, one.system, [one.by_seed[1, 1]]) for one in (*graph, *rising)]
    assert "favour NODE, in the one pretraining there is" in draw_locality(once, shares).sentence
    four = [one for one in (*graph, *rising) if one.dataset != "mp"]
    assert "(p = 0.08 over 4 data sets" in (text := draw_locality(four, shares).sentence)  # 2 of 24 orders
    assert "no clear pattern" in text
    with pytest.raises(InputError, match="too few data sets"):
        draw_locality([*graph[:3], *rising[:3]], shares)


def ccmd_record(name: str, seed: int, value: float) -> Record:
    metrics = {"valid_task_loss": value, "valid_loss": 9.0}
    if name == "none":
        metrics = {"valid_loss": value}
    if name == "supervise":
        metrics = {"held_out_loss": value, "label_deviation": 0.05}
    return Record(f"ccmd/seed-{seed}/{name}", "0", "done", "distill", {}, {"metrics": metrics})


def test_ccmd_has_a_teacher_per_seed_and_labels_in_every_student() -> None:
    cells = {cell.key: cell for cell in plan(Request("ccmd", budget("cpu")))}
    for seed in (1, 2, 3):
        teacher = cells[f"ccmd/seed-{seed}/supervise"]
        config = load_config(SuperviseConfig, None, teacher.settings["config"])
        assert (config.target, config.teacher.molecule_token, config.loop.seed) == ("gap", True, seed)
        for name in set(ALIGNMENTS) - {"none"}:
            student = load_config(DistillConfig, None, cells[f"ccmd/seed-{seed}/{name}"].settings["config"])
            assert student.weights()["task"] == 1.0
            assert (student.task_target, student.task_readout) == ("gap", "virtual_node")
            assert student.holdout_fraction == config.holdout_fraction
    terms = {
        name: set(load_config(DistillConfig, None, cells[f"ccmd/seed-1/{name}"].settings["config"]).weights())
        for name in set(ALIGNMENTS) - {"none"}
    }
    assert terms["global"] == {"task", "global_tokens"}
    assert terms["local-mean"] == {"task", "local_atoms"}
    assert terms["coordinated"] == terms["global-local-mean"] == {"task", "global_tokens", "local_atoms"}


def test_ccmd_at_the_papers_budget_has_its_recipes() -> None:
    cells = {cell.key: cell for cell in plan(Request("ccmd", budget("paper")))}
    loops = {}
    for name, config in (("supervise", SuperviseConfig), ("none", PretrainConfig), ("coordinated", DistillConfig)):
        settings = cells[f"ccmd/seed-1/{name}"].settings
        loops[name] = load_config(config, settings.get("recipe"), settings["config"]).loop
    assert {name: (loop.epochs, loop.batch_size) for name, loop in loops.items()} == {
        "supervise": (30, 70), "none": (100, 128), "coordinated": (100, 128),
    }  # fmt: skip
    teacher = load_config(SuperviseConfig, None, cells["ccmd/seed-1/supervise"].settings["config"]).teacher
    assert (teacher.width, teacher.num_layers, teacher.molecule_token) == (768, 8, True)


def test_ccmds_report_compares_with_labels_alone(tmp_path: Path) -> None:
    records = [ccmd_record("none", seed, 0.5 + 0.01 * seed) for seed in (1, 2, 3)]
    records += [ccmd_record("coordinated", seed, 0.4 + 0.011 * seed) for seed in (1, 2, 3)]
    records += [ccmd_record("supervise", seed, 0.2) for seed in (1, 2, 3)]
    found = {one.name: one for one in alignment_scores(records)}
    assert found["coordinated"].mean == pytest.approx(0.422)
    assert found["coordinated"].test is not None
    assert (found["coordinated"].test.count, found["coordinated"].test.over) == (3, "pretrainings")
    assert found["none"].test is None
    assert found["supervise"].unit_value == pytest.approx(0.2 * 0.05 * 27211.386, rel=1e-6)
    text = write_ccmd(records, tmp_path)
    assert "| labels + global + coordinated local (1/N²) | 0.422 ± 0.011 | 574.2 | -18.8 % |" in text
    assert (tmp_path / "ccmd.csv").read_text().count("\n") == 10
    with pytest.raises(InputError, match="no student of CCMD"):
        alignment_scores([])


def test_no_molecule_is_learned_in_one_set_and_judged_in_another() -> None:
    kept = without_leaks(
        {
            "a": (["CCO", "CCN", "CCC", "broken("], ["train", "train", "test", "train"]),
            "b": (["OCC", "C1CC1", "CCC", "C(C)N"], ["test", "train", "valid", "train"]),
        }
    )
    assert kept["a"].tolist() == [1, 2, 3]  # ethanol is tested in b
    assert kept["b"].tolist() == [0, 1, 3]  # propane is tested in a


def test_multitask_learns_each_set_alone_and_all_together() -> None:
    cells = plan(Request("multitask", budget("tiny"), datasets=("esol", "freesolv"), seeds=(1,)))
    keys = [cell.key for cell in cells if cell.kind == "multitask"]
    assert keys == [f"multitask/properties/{one}/upstream-1/seed-1" for one in ("together", "esol", "freesolv")]
    assert len({tuple(cell.settings["config"]) for cell in cells if cell.kind == "multitask"}) == 1
    with pytest.raises(ConfigError, match="two data sets of a group"):
        list(multitask_cells(Request("multitask", budget("tiny"), datasets=("esol", "tox21"))))


def test_a_shipped_encoder_is_one_pretraining_and_needs_no_training(tmp_path: Path) -> None:
    request = Request("multitask", budget("small"), datasets=("esol", "freesolv"), systems=("dnd-base",), seeds=(1, 2))
    cells = plan(request)
    assert [cell.kind for cell in cells] == ["shipped_encoder"] + ["multitask"] * 6
    assert {cell.needs for cell in cells[1:]} == {(cells[0].key,)}
    assert {cell.settings["upstream_seed"] for cell in cells[1:]} == {1}
    words = cells[1].settings["config"]
    assert "regularization.batch_norm_momentum=0.1" in words  # a GINE's, not a TokenGT's
    assert not any("attention" in word for word in words)
    STAGES["shipped_encoder"](Work(cells[0].settings, {}, {}, tmp_path))
    assert load_encoder(tmp_path / ENCODER)[1]["student"] == load_encoder("dnd-base")[1]["student"]
    table = plan(Request("table1", budget("small"), datasets=("esol",), systems=("dnd-base", "randinit-1.0")))
    finetuned = [cell.settings for cell in table if cell.kind == "finetune" and cell.settings["pooling"] == "mean"]
    seeds = {name: [one["upstream_seed"] for one in finetuned if one["system"] == name]
             for name in ("dnd-base", "randinit-1.0")}  # fmt: skip
    assert seeds == {"dnd-base": [1], "randinit-1.0": [1, 2, 3]}


def test_the_multitask_report_tests_over_sets_and_says_what_they_share(tmp_path: Path) -> None:
    records = []
    sets = ("bp", "mp", "logp", "ri", "esol")
    for number, name in enumerate(sets):
        for learned, value in ((name, 1.0), ("together", 0.9 - 0.01 * number)):
            settings = {"learned": learned, "upstream_seed": 1, "seed": 1}
            result = {"test_by_dataset": {name: value}, "shared_test_molecules": (3, 40)}
            key = f"multitask/properties/{learned}/{number}"
            records.append(Record(key, "0", "done", "multitask", settings, result))
    text = write_multitask(records, tmp_path)
    assert "over 5 sets; Wilcoxon's signed ranks over the sets, p = 0.062; 3 of 40 test molecules are in" in text


def test_molecules_in_several_test_parts_are_counted_once() -> None:
    tables = {
        "a": (["CCO", "CCN", "CCC", "broken("], ["test", "train", "test", "test"]),
        "b": (["OCC", "C1CC1", "CCC"], ["test", "test", "valid"]),
    }
    assert shared_tests(tables) == (1, 3)


def test_the_multitask_report_has_the_sign_of_each_metric(tmp_path: Path) -> None:
    def record(learned: str, upstream: int, scores: dict[str, float]) -> Record:
        settings = {"learned": learned, "upstream_seed": upstream, "seed": 1}
        return Record(f"m/{learned}/{upstream}", "0", "done", "multitask", settings, {"test_by_dataset": scores})

    records = []
    for upstream, shift in ((1, 0.00), (2, 0.01)):
        records.append(record("together", upstream, {"esol": 0.9 + shift, "sider": 0.6 - shift}))
        records.append(record("esol", upstream, {"esol": 1.0}))
        records.append(record("sider", upstream, {"sider": 0.5}))
    text = write_multitask(records, tmp_path)
    assert "| esol | RMSE ↓ | 1 | 0.905 | +9.5 % |" in text
    assert "| sider | ROC-AUC ↑ | 0.5 | 0.595 | +19.0 % |" in text
    assert "| 2 pretrainings |" in text
    assert "- toxicity: mean gain +19.0 % over 1 sets, p = " in text
    assert "Wilcoxon" not in text
    with pytest.raises(InputError, match="both alone and together"):
        write_multitask(records[:1], tmp_path)


def test_the_first_conformers_of_a_store_are_those_that_are_used(tmp_path: Path) -> None:
    from dnd.models.teachers.base import TeacherConfig
    from dnd.models.teachers.teachers import build_teacher
    from dnd.pretraining.denoise import DenoisingObjective
    from dnd.pretraining.teacher_outputs import TargetRequest, digest_of, teacher_outputs
    from dnd.store.prepare import prepare
    from dnd.store.reader import Store
    from dnd.store.settings import PrepareConfig

    (tmp_path / "few.csv").write_text("smiles\nCCCCO\nCC(C)CCN\nCCOCC\n")
    prepare([tmp_path / "few.csv"], tmp_path / "s", PrepareConfig(conformers="etkdg", num_conformers=3))
    store, rows = Store.open(tmp_path / "s"), np.arange(3)
    config = TeacherConfig(width=8, num_layers=1, num_heads=2, num_rbf=8)
    of = {n: DenoisingObjective(store, DenoiseConfig(teacher=config, num_conformers=n)) for n in (None, 1, 2)}
    seen = {n: [one.load_batch(rows, epoch).conformers.positions_A3 for epoch in range(4)] for n, one in of.items()}
    same = {n: [[bool((a == b).all()) for a in own] for b in own] for n, own in seen.items()}
    assert same[1] == [[True] * 4] * 4
    assert same[2][0] == [True, False, True, False]
    assert same[None][0] == [True, False, False, True]
    teacher = build_teacher(config).eval()
    requests = {n: TargetRequest((0,), (), conformers="mean", num_conformers=n) for n in (1, 2, 3, None)}
    mean = {n: teacher_outputs(teacher, store, rows, one, torch.device("cpu"))[0] for n, one in requests.items()}
    first = teacher_outputs(teacher, store, rows, TargetRequest((0,), ()), torch.device("cpu"))[0]
    torch.testing.assert_close(mean[1], first)
    torch.testing.assert_close(mean[3], mean[None])
    assert (mean[2] - mean[1]).abs().max() > 1e-4
    assert digest_of(teacher, "s", requests[2]) != digest_of(teacher, "s", requests[3])
