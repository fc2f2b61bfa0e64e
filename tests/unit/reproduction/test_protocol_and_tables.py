import itertools
from pathlib import Path

import numpy as np
import pytest

from dnd.common.config import load_config
from dnd.common.errors import ConfigError, InputError
from dnd.finetuning.settings import FinetuneConfig
from dnd.pretraining.baselines.infomax3d import ContrastConfig
from dnd.pretraining.denoise import DenoiseConfig
from dnd.pretraining.settings import DistillConfig
from dnd.reproduction.benchmarks import BENCHMARKS, load_benchmark
from dnd.reproduction.budgets import BUDGETS, budget
from dnd.reproduction.cell_runners import STAGES, prepare_store
from dnd.reproduction.labelled import labelled_table, nested_subset, reduced
from dnd.reproduction.paper_figures import curves_of, draw_label_efficiency
from dnd.reproduction.protocol import Request, plan
from dnd.reproduction.results import Record, Work, digests
from dnd.reproduction.table_report import write_table
from dnd.reproduction.tables import compare, entries, paper_value, sign_test


@pytest.mark.parametrize("name", BUDGETS)
@pytest.mark.parametrize("what", ["table1", "table2", "table6", "fig3", "fig4", "fig5"])
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
    assert {"molecules/prepare", "molecules/denoise", "molecules/distill-node", "esol/dnd-node/mean/seed-1"} <= {
        key for key, _ in shared
    }
    assert sum(cell.kind == "classical" for cell in table) == 4 * 3


def test_systems_beside_the_tables_have_encoders_of_their_own() -> None:
    names = ("3dinfomax", "3dinfomax-0.01", "ccmd-global", "ccmd-mean", "coordinated")
    cells = plan(Request("table1", budget("cpu"), datasets=("esol",), systems=names))
    settings = {cell.key: cell.settings["config"] for cell in cells if cell.kind in ("contrast", "distill")}
    own = {key.removeprefix("molecules/"): [word for word in words if not word.startswith(("loop.", "student."))]
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
        DenoiseConfig, cells["molecules/denoise"].settings["recipe"], cells["molecules/denoise"].settings["config"]
    )
    assert (teacher.teacher.width, teacher.loop.learning_rate, teacher.loop.weight_decay) == (768, 4e-4, 0.0)
    published = {key: load_config(ContrastConfig, cells[key].settings["recipe"], cells[key].settings["config"])
                 for key in ("molecules/contrast", "qm9/contrast")}  # fmt: skip
    assert [one.temperature for one in published.values()] == [0.01, 0.1]
    assert published["qm9/contrast"].loop.batch_size == 500


def test_unknown_names_answer_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean table1"):
        Request("tabel1", budget("tiny"))
    with pytest.raises(ConfigError, match="Did you mean dnd-node"):
        Request("table1", budget("tiny"), systems=("dnd-nod",))
    with pytest.raises(ConfigError, match="Did you mean freesolv"):
        Request("table1", budget("tiny"), datasets=("freesol",))
    with pytest.raises(ConfigError, match="Did you mean gap"):
        Request("table6", budget("tiny"), datasets=("gapp",))
    with pytest.raises(ConfigError, match="Did you mean tiny"):
        budget("tinny")


def test_missing_pretraining_data_fails_its_cell_only(tmp_path: Path) -> None:
    cells = plan(Request("table1", budget("paper"), datasets=("esol",)))
    prepare = next(cell for cell in cells if cell.key == "molecules/prepare")
    with pytest.raises(InputError, match=r"PCQM4Mv2 is missing.*ogb\.stanford\.edu"):
        prepare_store(Work(prepare.settings, prepare.paths, {}, tmp_path))
    independent = [cell for cell in cells if cell.kind == "finetune" and not cell.needs]
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
    assert whole.scale == pytest.approx(data.targets_NC[data.parts["train"]].std())
    assert whole.text().splitlines()[0] == "smiles,measured log solubility in mols per litre,split"
    assert set(small.smiles) <= set(whole.smiles)
    assert reduced({"train": np.arange(9), "valid": np.arange(9, 10)}, 100)["train"].tolist() == list(range(9))


def test_targets_without_a_training_label_are_left_out(tmp_path: Path) -> None:
    table = labelled_table(work(tmp_path, dataset="tox21", most_molecules=60))
    train = np.array(table.split) == "train"
    assert table.targets_NC.shape[1] == len(table.names) <= 12
    assert (~np.isnan(table.targets_NC[train])).any(axis=0).all()


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
    system: str, seed: int, test: float | None, *, dataset: str = "esol", fraction: float = 1.0, **other: object
) -> Record:
    sizes = {"train": 902, "valid": 113, "test": 113}
    metric = BENCHMARKS[dataset].metric
    result = {
        "test": test,
        "metric": metric,
        "molecules": {**sizes, "train": round(902 * fraction)},
        "available": sizes,
    }
    settings = {
        "dataset": dataset,
        "system": system,
        "pooling": "" if system.startswith("rf") else "mean",
        "seed": seed,
    }
    kind = "classical" if system.startswith("rf") else "finetune"
    return Record(
        f"{dataset}/{system}/{seed}/{fraction}", "0", "done", kind, {**settings, "fraction": fraction}, result, **other
    )


def test_paper_values() -> None:
    assert paper_value("esol", "dnd-graph", "mean") == (0.9276, 0.0562)
    assert paper_value("logp", "randinit-1.0", "virtual_node") == (0.0503, 0.0034)
    assert paper_value("qm9-gap", "graphcl", "mean") == (120.08, None)
    assert paper_value("esol", "coordinated", "mean") is None
    assert paper_value("esol", "rf-both", "") is None


def test_entries_and_paired_tests() -> None:
    ours = [record("dnd-node", seed, 0.9 + 0.001 * seed) for seed in (1, 2, 3)]
    theirs = [record("randinit-1.0", seed, 1.0 + 0.002 * seed) for seed in (1, 2, 3)]
    first, second = entries([*ours, *theirs, record("dnd-node", 4, None), record("dnd-node", 5, 9.0, fraction=0.1)])
    assert first.mean == pytest.approx(0.902)
    assert first.deviation == pytest.approx(0.001)
    result = compare(first, second)
    assert (result.seeds, result.verdict) == (3, "better")
    assert result.gain == pytest.approx((1.004 - 0.902) / 1.004)
    assert compare(second, first).verdict == "worse"
    assert compare(first, first).p_value is None
    assert sign_test([0.1] * 9 + [-0.2, 0.0]) == (9, 10, pytest.approx(0.0215, abs=1e-4))


def test_a_table_has_ours_and_the_papers(tmp_path: Path) -> None:
    records = [
        record(name, seed, base + 0.01 * seed)
        for name, base in (("dnd-node", 0.9), ("randinit-1.0", 1.0), ("rf-both", 0.8))
        for seed in (1, 2)
    ]
    records.append(Record("bace/x", "0", "failed", "finetune", {"fraction": 1.0}, reason="no file <b>"))
    text = write_table("table1", budget("tiny"), records, tmp_path)
    assert "0.915 ± 0.0071 | 2 | 1.01 ± 0.038" in text
    assert "902 / 113 / 113 molecules" in text
    assert "| bace/x | no file <b> |" in text
    assert "D&D-NODE against RandInit, layer decay 1.0: better on 1 of 1" in text
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
    assert ("ESOL", "D&D-NODE +MP", 0.1, 90, 1, 1.05) in finding.rows
    with pytest.raises(InputError, match="no finetuning"):
        curves_of([], {})
