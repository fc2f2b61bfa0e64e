import itertools
from pathlib import Path

import numpy as np
import pytest

from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.settings import FinetuneConfig
from dnd.pretraining.baselines.infomax3d import ContrastConfig
from dnd.pretraining.denoise import DenoiseConfig
from dnd.pretraining.settings import DistillConfig, PretrainConfig
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.budgets import BUDGETS, budget
from dnd.reproduction.cell_runners import STAGES, prepare_store
from dnd.reproduction.label_efficiency import curves_of, draw_label_efficiency
from dnd.reproduction.labelled_table import labelled_table, nested_subset, reduced
from dnd.reproduction.protocol import _PLANS, Request, plan
from dnd.reproduction.results import Record, Work, digests
from dnd.reproduction.table_report import write_table
from dnd.reproduction.tables import compare, entries, paper_value


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("what", _PLANS)
def test_every_plan_holds_together_and_its_settings_are_known(name: str, what: str) -> None:
    cells = plan(Request(what, budget(name)))
    assert digests(cells)
    assert {cell.kind for cell in cells} <= STAGES.keys()
    classes = {"denoise": DenoiseConfig, "distill": DistillConfig, "contrast": ContrastConfig}
    for cell in cells:
        if cell.kind in classes:
            load_config(classes[cell.kind], cell.settings.get("recipe"), cell.settings["config"])
    for cell in [cell for cell in cells if cell.kind == "finetune"][:8]:
        config = load_config(FinetuneConfig, cell.settings["recipe"], cell.settings["config"])
        assert config.split == "column:split"
        assert config.loop.seed == cell.settings["seed"]


def test_randinit_is_there_twice_and_encoders_are_shared() -> None:
    table, figure = (plan(Request(what, budget("cpu"), datasets=("esol",))) for what in ("table1", "fig5"))
    decays = {word for cell in table if "randinit" in cell.key for word in cell.settings["config"] if "decay" in word}
    assert decays == {"layer_decay=0.65", "layer_decay=1.0"}
    shared = digests(table).items() & digests(figure).items()
    wanted = {"molecules/prepare"}
    for seed in (1, 2, 3):
        wanted |= {f"molecules/seed-{seed}/{stage}" for stage in ("denoise", "distill-node", "random")}
        wanted |= {f"esol/dnd-node/mean/upstream-{seed}/seed-{own}" for own in (1, 2)}
    assert wanted <= {key for key, _ in shared}
    assert sum(cell.kind == "classical" for cell in table) == 4 * 2


def test_each_pretraining_has_a_teacher_of_its_own_and_all_share_the_molecules() -> None:
    cells = {cell.key: cell for cell in plan(Request("table1", budget("cpu"), datasets=("esol",)))}
    for seed in (1, 2, 3):
        student = cells[f"molecules/seed-{seed}/distill-node"]
        assert student.needs == ("molecules/prepare", f"molecules/seed-{seed}/denoise")
        for cell in (student, cells[f"molecules/seed-{seed}/denoise"]):
            assert f"loop.seed={seed}" in cell.settings["config"]
        finetuned = cells[f"esol/dnd-node/mean/upstream-{seed}/seed-2"]
        assert finetuned.needs == (student.key,)
        assert (finetuned.settings["upstream_seed"], finetuned.settings["seed"]) == (seed, 2)
    figure = plan(Request("fig4", budget("cpu")))
    assert {cell.key.split("/")[1] for cell in figure} == {"prepare", "seed-1"}


def test_systems_beside_the_tables_have_encoders_of_their_own() -> None:
    names = ("3dinfomax", "3dinfomax-0.01", "ccmd-global", "ccmd-mean", "coordinated")
    cells = plan(Request("table1", budget("cpu"), datasets=("esol",), systems=names, upstream_seeds=(1,)))
    settings = {cell.key: cell.settings["config"] for cell in cells if cell.kind in ("contrast", "distill")}
    own = {key.removeprefix("molecules/seed-1/"): [word for word in words if not word.startswith(("loop.", "student."))]
           for key, words in settings.items()}  # fmt: skip
    assert own == {
        "contrast": ["holdout_fraction=0.02"],
        "contrast-3dinfomax-0.01": ["holdout_fraction=0.02", "temperature=0.01"],
        "distill-ccmd-global": ["holdout_fraction=0.02", "level=custom", "terms.global_tokens=1"],
        "distill-ccmd-mean": ["holdout_fraction=0.02", "level=coordinated", "size_factor=mean"],
        "distill-coordinated": ["holdout_fraction=0.02", "level=coordinated"],
    }


def test_the_papers_budget_starts_from_the_papers_recipes() -> None:
    cells = {cell.key: cell for name in ("table1", "table6") for cell in plan(Request(name, budget("paper")))}
    teacher = load_config(
        DenoiseConfig,
        cells["molecules/seed-1/denoise"].settings["recipe"],
        cells["molecules/seed-1/denoise"].settings["config"],
    )
    assert (teacher.teacher.width, teacher.loop.learning_rate, teacher.loop.weight_decay) == (768, 4e-4, 0.0)
    published = {key: load_config(ContrastConfig, cells[key].settings["recipe"], cells[key].settings["config"])
                 for key in ("molecules/seed-1/contrast", "qm9/seed-1/contrast")}  # fmt: skip
    assert [one.temperature for one in published.values()] == [0.01, 0.1]
    assert published["qm9/seed-1/contrast"].loop.batch_size == 500
    for method in ("graphcl", "propred", "dispred", "confgen"):
        cell = cells[f"qm9/seed-1/pretrain-{method}"]
        other = load_config(PretrainConfig, cell.settings["recipe"], cell.settings["config"])
        assert (other.method, other.loop.epochs, other.student.name, other.student.width) == (method, 100, "pna", 200)


def test_unknown_names_answer_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean table1"):
        Request("tabel1", budget("tiny"))
    with pytest.raises(ConfigError, match="Did you mean dnd-node"):
        Request("table1", budget("tiny"), systems=("dnd-nod",))
    with pytest.raises(ConfigError, match="Did you mean freesolv"):
        Request("table1", budget("tiny"), datasets=("freesol",))
    with pytest.raises(ConfigError, match="Did you mean gap"):
        Request("table6", budget("tiny"), datasets=("gapp",))
    with pytest.raises(ConfigError, match="its finetuning has no layer decay"):
        Request("table6", budget("tiny"), systems=("randinit-0.65",))
    with pytest.raises(ConfigError, match="Did you mean tiny"):
        budget("tinny")


def test_missing_pretraining_data_fails_its_cell_only(tmp_path: Path) -> None:
    cells = plan(Request("table1", budget("paper"), datasets=("esol",)))
    prepare = next(cell for cell in cells if cell.key == "molecules/prepare")
    with pytest.raises(InputError, match=r"PCQM4Mv2 is missing.*ogb\.stanford\.edu"):
        prepare_store(Work(prepare.settings, prepare.paths, {}, tmp_path))
    independent = [cell for cell in cells if cell.kind == "finetune" and cell.needs == ("molecules/seed-1/random",)]
    assert {cell.settings["system"] for cell in independent} == {"randinit-0.65", "randinit-1.0"}


def work(tmp_path: Path, **settings: object) -> Work:
    return Work({"dataset": "esol", "most_molecules": None, "seed": 1, **settings}, {}, {}, tmp_path)


def test_labelled_tables_reduce_in_proportion(tmp_path: Path) -> None:
    whole = labelled_table(work(tmp_path))
    small = labelled_table(work(tmp_path, most_molecules=200))
    assert small.describe()["molecules"] == {"train": 160, "valid": 20, "test": 20}
    assert small.describe()["available"] == {"train": 902, "valid": 113, "test": 113}
    assert small.smiles == labelled_table(work(tmp_path, most_molecules=200, seed=2)).smiles
    data = load_benchmark("esol")
    assert whole.scale == pytest.approx(data.targets_BC[data.parts["train"]].std())
    assert whole.text().splitlines()[0] == "smiles,measured log solubility in mols per litre,split"
    assert set(small.smiles) <= set(whole.smiles)
    assert reduced({"train": np.arange(9), "valid": np.arange(9, 10)}, 100)["train"].tolist() == list(range(9))


def test_targets_without_a_training_label_are_left_out(tmp_path: Path) -> None:
    table = labelled_table(work(tmp_path, dataset="tox21", most_molecules=60))
    train = np.array(table.split) == "train"
    assert table.targets_BC.shape[1] == len(table.names) <= 12
    assert (~np.isnan(table.targets_BC[train])).any(axis=0).all()


def test_subsets_are_nested_and_hold_both_classes() -> None:
    targets = np.zeros((200, 2))
    targets[77, 0] = targets[13, 1] = 1
    sizes = (0.05, 0.1, 0.5, 1.0)
    subsets = [set(nested_subset(targets, size, 3, "classification").tolist()) for size in sizes]
    assert [len(subset) for subset in subsets] == [10, 20, 100, 200]
    assert all(first < second for first, second in itertools.pairwise(subsets))
    assert {77, 13} <= subsets[0]
    assert subsets[1] != set(nested_subset(targets, 0.1, 4, "classification").tolist())


def record(
    system: str,
    seed: int,
    test: float | None,
    *,
    dataset: str = "esol",
    fraction: float = 1.0,
    upstream: int = 1,
    **other: object,
) -> Record:
    sizes = {"train": 902, "valid": 113, "test": 113}
    metric = BENCHMARKS[dataset].metric
    result = {
        "test": test,
        "valid": test,
        "metric": metric,
        "molecules": {**sizes, "train": round(902 * fraction)},
        "available": sizes,
    }
    settings = {
        "dataset": dataset,
        "system": system,
        "pooling": "" if system.startswith("rf") else "mean",
        "seed": seed,
        "upstream_seed": upstream,
        "recipe": "finetune-small",
        "config": ["loop.epochs=3", "layer_decay=1.0", f"loop.seed={seed}"],
    }
    kind = "classical" if system.startswith("rf") else "finetune"
    return Record(
        f"{dataset}/{system}/{upstream}/{seed}/{fraction}",
        "0",
        "done",
        kind,
        {**settings, "fraction": fraction},
        result,
        **other,
    )


def test_paper_values() -> None:
    assert paper_value("esol", "dnd-graph", "mean") == (0.9276, 0.0562)
    assert paper_value("logp", "randinit-1.0", "virtual_node") == (0.0503, 0.0034)
    assert paper_value("qm9-gap", "graphcl", "mean") == (120.08, None)
    assert paper_value("esol", "coordinated", "mean") is None
    assert paper_value("esol", "rf-both", "") is None


def grid_of(system: str, base: float, *, pretrainings: int = 3, dataset: str = "esol") -> list[Record]:
    """Pretrainings 0.01 apart and two finetuning seeds of each 0.2 apart."""
    return [
        record(system, seed, base + 0.01 * upstream + 0.2 * seed, upstream=upstream, dataset=dataset)
        for upstream in range(1, pretrainings + 1)
        for seed in (1, 2)
    ]


def test_entries_have_two_levels() -> None:
    (entry,) = entries(
        [*grid_of("dnd-node", 0.5), record("dnd-node", 4, None), record("dnd-node", 5, 9.0, fraction=0.1)]
    )
    assert entry.by_pretraining == pytest.approx({1: 0.81, 2: 0.82, 3: 0.83})
    assert (entry.mean, entry.deviation) == pytest.approx((0.82, 0.01))
    assert entry.deviation_of_finetuning == pytest.approx(0.2 / np.sqrt(2))
    assert entry.counts == "3 × 2"
    (classical,) = entries([record("rf-both", seed, 1.0) for seed in (1, 2)])
    assert classical.counts == "2"
    (alone,) = entries(grid_of("dnd-node", 0.5, pretrainings=1))
    assert alone.deviation == pytest.approx(0.2 / np.sqrt(2))


def test_comparisons_are_over_pretrainings_and_corrected_for_their_number() -> None:
    shifts = {1: -0.10, 2: -0.11, 3: -0.12}
    control = grid_of("randinit-1.0", 1.0)
    ours = [
        record("dnd-node", one.settings["seed"], one.result["test"] + shifts[one.settings["upstream_seed"]],
               upstream=one.settings["upstream_seed"])
        for one in control
    ]  # fmt: skip
    first, second = entries([*ours, *control])
    (alone,) = compare([(first, second)])
    assert (alone.test.count, alone.test.over, alone.verdict) == (3, "pretrainings", "better")
    assert alone.corrected == alone.test.p_value == pytest.approx(0.0027435, rel=1e-4)  # t = 0.11 / (0.01 / sqrt 3)
    twice = compare([(first, second), (second, first)])
    assert [one.corrected for one in twice] == pytest.approx([2 * 0.0027435] * 2, rel=1e-4)
    assert [one.verdict for one in twice] == ["better", "worse"]
    assert compare([(first, first)])[0].test.p_value is None


def test_one_pretraining_supports_no_verdict() -> None:
    ours = [record("dnd-node", seed, 0.9 + 0.001 * seed) for seed in (1, 2, 3)]
    theirs = [record("randinit-1.0", seed, 1.0 + 0.002 * seed) for seed in (1, 2, 3)]
    (found,) = compare([tuple(entries([*ours, *theirs]))])
    assert found.test.over == "finetuning seeds of one pretraining"
    assert found.test.p_value is not None
    assert found.test.p_value < 0.001
    assert (found.corrected, found.verdict) == (None, "open")
    assert found.gain == pytest.approx((1.004 - 0.902) / 1.004)


def test_a_table_has_ours_and_the_papers(tmp_path: Path) -> None:
    records = [
        record(name, seed, base + 0.01 * seed + spread * upstream, upstream=upstream)
        for name, base, spread in (("dnd-node", 0.9, 0.001), ("randinit-1.0", 1.0, 0.002))
        for upstream in (1, 2)
        for seed in (1, 2)
    ]
    records += [record("rf-both", seed, 0.8 + 0.01 * seed) for seed in (1, 2)]
    records.append(Record("bace/x", "0", "failed", "finetune", {"fraction": 1.0}, reason="no file <b>"))
    text = write_table("table1", budget("tiny"), records, tmp_path)
    assert "0.9165 ± 0.00071 | 2 × 2 | 1.01 ± 0.038" in text
    assert "Finetuning: finetune-small with loop.epochs=3; at most" in text
    assert "902 / 113 / 113 molecules" in text
    assert "| bace/x | no file <b> |" in text
    assert "D&D-NODE +MP against RandInit, layer decay 1.0: better on 1 of 1 data sets" in text
    assert "over 2 pretrainings, corrected for the lines of this list" in text
    assert "2 pretrainings)" in text
    assert "sign test" not in text
    page = (tmp_path / "table1.html").read_text()
    assert "no file &lt;b&gt;" in page
    assert (tmp_path / "table1.csv").read_text().count("\n") == 4


def test_label_efficiency_says_what_is_comparable() -> None:
    records = []
    for seed, shift in ((1, 0.0), (2, 0.1)):
        for fraction, value in ((0.1, 1.05), (1.0, 0.9)):
            records.append(record("dnd-node", seed, value + shift, fraction=fraction))
            records.append(record("randinit-1.0", seed, value + 0.1 + shift, fraction=fraction))
    finding = draw_label_efficiency(curves_of(records, {"esol": "ESOL"}))
    assert "D&D-NODE +MP with 10 % of the training labels is comparable to RandInit" in finding.sentence
    assert "with all of them on 1 of 1 data sets (ESOL)" in finding.sentence
    assert ("ESOL", "D&D-NODE +MP", 0.1, 90, 1, 1, 1.05) in finding.rows
    with pytest.raises(InputError, match="no finetuning"):
        curves_of([], {})


def test_fewer_systems_of_table_6_take_over_what_all_of_them_made() -> None:
    cells = plan(Request("table6", budget("tiny"), systems=("randinit-1.0", "dnd-node")))
    every, few = digests(plan(Request("table6", budget("tiny")))), digests(cells)
    assert next(cell for cell in cells if cell.kind == "prepare").settings["targets"]
    assert set(few) < set(every)
    assert {key: every[key] for key in few} == few
