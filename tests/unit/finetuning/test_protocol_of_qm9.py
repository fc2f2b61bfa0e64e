"""3DInfomax's finetuning: its readout, its schedule, fresh batch norms, and regularisation that finetuning states."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dnd.common.errors import ConfigError
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig, Regularization
from dnd.finetuning.students import initial_student, student_to_train
from dnd.models.students.base import StudentConfig, pool_four
from dnd.models.students.encoders import build_student, load_encoder, save_encoder
from dnd.prediction.embedder import Embedder
from dnd.predictor.ensemble import PropertyNetwork
from dnd.predictor.predictor import Predictor
from dnd.training.loop import Position
from dnd.training.settings import LoopConfig, learning_rate
from student_batches import batch_of, random_molecule

PNA = StudentConfig("pna", 8, 2, dropout=0.3, batch_norm_momentum=0.93)


def encoder(folder: Path, config: StudentConfig = PNA) -> str:
    """A pretrained encoder whose batch norms have moved."""
    torch.manual_seed(0)
    student = build_student(config).train()
    with torch.no_grad():
        for _ in range(3):
            student(batch_of([random_molecule(atoms, atoms) for atoms in (3, 6, 8)]))
    save_encoder(folder, student, {"hydrogens": "heavy_both"}, "# Encoder\n")
    return str(folder)


def test_finetuning_states_its_regularisation_whatever_the_pretraining_had(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "e")
    assert load_encoder(folder)[0].config == PNA
    student = initial_student(FinetuneConfig(), folder, seed=1)
    assert (student.config.dropout, student.config.batch_norm_momentum) == (0.0, 0.1)
    assert {module.momentum for module in student.modules() if isinstance(module, torch.nn.BatchNorm1d)} == {0.1}
    assert {module.p for module in student.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    stated = FinetuneConfig(regularization=Regularization(dropout=0.2, batch_norm_momentum=0.5))
    assert initial_student(stated, folder, seed=1).config.dropout == 0.2
    described = FinetuneConfig(student=StudentConfig("pna", 8, 2, dropout=0.4))
    assert initial_student(described, "random", seed=1).config.dropout == 0.4


def test_a_tokengt_gets_the_defaults_of_its_architecture(tmp_path: Path) -> None:
    pretrained = StudentConfig(
        "tokengt", 8, 1, num_heads=2, attention_dropout=0.1, activation_dropout=0.1, drop_path=0.1
    )
    torch.manual_seed(0)
    save_encoder(tmp_path / "t", build_student(pretrained), {"hydrogens": "heavy_both"}, "# Encoder\n")
    config = initial_student(FinetuneConfig(), str(tmp_path / "t"), seed=1).config
    assert config == StudentConfig("tokengt", 8, 1, num_heads=2)
    assert (config.identifier_dropout, config.attention_dropout, config.drop_path) == (0.2, 0.0, 0.0)


def test_fresh_batch_norms_forget_and_all_else_stays(tmp_path: Path) -> None:
    folder = encoder(tmp_path / "e")
    kept = student_to_train(FinetuneConfig(), folder, seed=1).state_dict()
    fresh = student_to_train(FinetuneConfig(batch_norm="fresh"), folder, seed=1).state_dict()
    with pytest.raises(ConfigError, match="fresh batch norms, which change"):
        FinetuneConfig(batch_norm="fresh", probe_steps=10)
    norms = {name for name in kept if "norm" in name}
    assert any(not torch.equal(kept[name], fresh[name]) for name in norms)
    for name in kept:
        if name not in norms:
            assert torch.equal(kept[name], fresh[name])
        elif name.endswith(("running_mean", "bias", "num_batches_tracked")):
            assert not fresh[name].any()
        else:
            assert (fresh[name] == 1).all()


def test_the_readout_is_the_pooling_and_head_of_the_protocol() -> None:
    torch.manual_seed(0)
    network = PropertyNetwork(build_student(PNA).eval(), "min_max_mean_sum", "pna", 2).eval()
    graph = batch_of([random_molecule(atoms, atoms) for atoms in (3, 7)])
    pooled = network.embed(graph)
    assert pooled.shape == (2, network.width) == (2, 32)
    torch.testing.assert_close(pooled, pool_four(network.student(graph).atoms_ND, graph))
    torch.testing.assert_close(network(graph), network.head(pooled))
    assert network.head.norm.momentum == 0.93
    shapes = {name: tuple(value.shape) for name, value in network.head.named_parameters() if "norm" not in name}
    assert shapes == {"hidden.weight": (8, 32), "hidden.bias": (8,), "out.weight": (2, 8), "out.bias": (2,)}


def test_the_rate_falls_with_each_plateau_and_no_lower_than_its_floor() -> None:
    config = LoopConfig(schedule="plateau", learning_rate=7e-5, min_learning_rate=1e-5, warmup_epochs=2.0)
    rates = [learning_rate(config, epoch=5.0, step=9, steps_per_epoch=3, cuts=cuts) for cuts in range(5)]
    assert rates == pytest.approx([7e-5, 3.5e-5, 1.75e-5, 1e-5, 1e-5])
    assert learning_rate(config, epoch=0.5, step=1, steps_per_epoch=3) == pytest.approx(7e-5 / 4)
    assert Position.from_state({**Position(cuts=3).to_state()}).cuts == 3
    assert (
        Position.from_state({name: value for name, value in Position().to_state().items() if name != "cuts"}).cuts == 0
    )


def test_a_run_on_the_protocol_cuts_stops_and_predicts(tmp_path: Path) -> None:
    """Labels that can't be learned: the validation loss is soon at its best, so the rate is cut and the run stops."""
    smiles = ["C" * n + tail for n in range(1, 13) for tail in ("O", "N", "Cl", "C(=O)O")]
    values = np.random.default_rng(0).normal(size=len(smiles))
    parts = ["train"] * 32 + ["valid"] * 8 + ["test"] * 8
    rows = [f"{text},{value},{part}" for text, value, part in zip(smiles, values, parts, strict=True)]
    (tmp_path / "d.csv").write_text("smiles,y,split\n" + "\n".join(rows) + "\n")
    config = FinetuneConfig(
        pooling="min_max_mean_sum", head="pna", batch_norm="fresh", select_by="loss", split="column:split",
        baselines=False, jobs=1, layer_decay=1.0, task="regression",
        loop=LoopConfig(epochs=60, batch_size=16, learning_rate=1e-2, min_learning_rate=1e-6, warmup_epochs=0.0,
                        schedule="plateau", plateau_patience=2, patience=8, weight_decay=1e-11, clip_norm=None),
    )  # fmt: skip
    summary = finetune(tmp_path / "d.csv", tmp_path / "m", ["y"], config, encoder=encoder(tmp_path / "e"))
    assert summary.metrics["members"][0]["steps"] < 60 * 2
    lines = (tmp_path / "m" / "metrics.jsonl").read_text()
    assert '"learning_rate": 0.01' in lines
    assert '"learning_rate": 0.0025' in lines
    predictor = Predictor.load(tmp_path / "m")
    assert np.isfinite(predictor.predict_values(["CCO"])[0]).all()
    embedder = Embedder.load(tmp_path / "e", pooling="min_max_mean_sum")
    assert embedder.embed(["CCO", "CCN"]).shape == (2, 32)
