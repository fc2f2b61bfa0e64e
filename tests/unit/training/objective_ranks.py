"""Every objective that trains on several ranks, small, with dropout and batch statistics off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from distillation_toys import STUDENT, TEACHER, toy_config, toy_store, toy_teacher
from dnd.chemistry.splits import Split
from dnd.finetuning.objective import SupervisedObjective
from dnd.graphs.batch import MoleculeBatch
from dnd.models.students.base import StudentConfig
from dnd.models.students.encoders import build_student
from dnd.predictor.ensemble import PropertyNetwork
from dnd.predictor.targets import Target
from dnd.pretraining.baselines.infomax3d import ContrastConfig, ContrastiveObjective, contrastive_step
from dnd.pretraining.baselines.pretrain import DisPredObjective, ProPredObjective
from dnd.pretraining.denoise import DenoiseConfig, DenoisingObjective
from dnd.pretraining.distill_objective import DistillationObjective
from dnd.pretraining.settings import PretrainConfig, TermWeights
from dnd.training.distributed import World
from dnd.training.settings import LoopConfig, Objective, StepLoss
from nursery import end_like_the_command
from toy import ToyObjective

LOOP = LoopConfig(batch_size=8, device="cpu")
BATCHES = [list(range(8)), list(range(20, 27)), [30, 31], [1, 2, 40], [5]]
"""Even, odd, a molecule for each rank, two without a label of `rare`, one molecule for two ranks."""

CLASSES = [Target(f"c_prob_{name}", kind="multiclass", group="c", class_name=name) for name in "xyz"]


def distilling(level: str = "node", **terms: float) -> Objective:
    more = {"task_target": "energy"} if "task" in terms else {}
    config = toy_config(level=level, terms=TermWeights(**terms), loop=LOOP, **more)
    return DistillationObjective(toy_store(), toy_teacher(), config)


def pretraining(method: str, **settings: str) -> PretrainConfig:
    return PretrainConfig(method, student=STUDENT, holdout_fraction=0.2, loop=LOOP, **settings)  # type: ignore[arg-type]


def contrasting(**changes: object) -> Objective:
    settings = {"out_width": 8, "hidden_3d": 8, "teacher": TEACHER, "student": STUDENT, "holdout_fraction": 0.2}
    return ContrastiveObjective(toy_store(), ContrastConfig(**{**settings, "loop": LOOP, **changes}))  # type: ignore[arg-type]


class Exact(ToyObjective):
    """A contrastive loss at the paper's temperature in float64, where the equality is no matter of rounding."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.ModuleList(nn.Linear(9, 5) for _ in range(2)).double()

    def forward(self, batch: MoleculeBatch, seed: int) -> StepLoss:
        features_NF = batch.graph.node_features_NF / 1000.0
        anchors_BD, positives_BD = (layer(features_NF.double()) for layer in self.network)
        return contrastive_step(anchors_BD, positives_BD, 0.01, gather=self.training)


def finetuning(targets: list[Target], **settings: Any) -> Objective:
    """Labels follow from the row; every third row has them all, the others miss some."""
    store = toy_store()
    rows = np.arange(len(store))
    columns = []
    for number, target in enumerate(targets):
        values = np.sin(rows * (number + 1.0))
        labels = values if target.kind == "regression" else (values > 0.4).astype(float)
        columns.append(np.where((rows + number) % 3 == 1, np.nan, labels))
    labels_BC = np.stack(columns, axis=1)
    if targets[-1].group:  # a row has one class or no label at all
        labels_BC[:, -3:] = np.where((rows % 4 == 3)[:, None], np.nan, np.eye(3)[rows * 7 % 5 % 3])
    network = PropertyNetwork(build_student(STUDENT), "mean", "mlp", len(targets))
    parts = Split(rows[:48], rows[48:54], rows[54:])
    return SupervisedObjective(network, store, labels_BC, targets, parts, loop=LOOP, layer_decay=1.0, **settings)


VALUE, CLASS = Target("a"), Target("b", kind="classification")
CASES: dict[str, Callable[[], Objective]] = {
    "denoise": lambda: DenoisingObjective(toy_store(), DenoiseConfig(teacher=TEACHER, loop=LOOP)),
    "distill node": distilling,
    "distill graph": lambda: distilling("graph"),
    "distill coordinated": lambda: distilling("coordinated"),
    "distill many": lambda: distilling("custom", node=1.0, graph=2.0, task=0.5, labels=1.0, radii=0.3, distances=0.2),
    # At a low temperature two alike molecules have the loss 0 as a difference of numbers near 10, in float32.
    "contrast": lambda: contrasting(encoder_3d="teacher", temperature=1.0),
    "contrast published": lambda: contrasting(student=StudentConfig("gine", 16, 2), temperature=0.5),
    "contrast in float64": Exact,
    "pretrain propred": lambda: ProPredObjective(toy_store(), pretraining("propred", target="energy")),
    "pretrain dispred": lambda: DisPredObjective(toy_store(), pretraining("dispred")),
    "finetune values": lambda: finetuning([VALUE, Target("c")], balanced=False),
    "finetune classes": lambda: finetuning([CLASS, Target("c", kind="classification")], balanced=False),
    "finetune rare classes": lambda: finetuning([CLASS], balanced=False, class_weights=True),
    "finetune several classes": lambda: finetuning(CLASSES, balanced=False, class_weights=True),
    "finetune both": lambda: finetuning([VALUE, CLASS, *CLASSES], balanced=True, class_weights=True),
}


def gradients_of(case: str, world: World) -> dict[str, Tensor]:
    """The gradient of every parameter for each of `BATCHES`, as this rank's optimizer would get it."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        objective = CASES[case]()
    for part in objective.children():
        part.eval()  # the objective itself is training
    parallel = world.wrap(objective)
    found: dict[str, Tensor] = {}
    for number, rows in enumerate(BATCHES):
        if "contrast" in case and len(rows) < 2:
            continue
        objective.zero_grad()
        batch = objective.load_batch(world.share(np.array(rows)), 0)
        loss = world.weigh(parallel(batch, 0), borrowed=world.rank >= len(rows))
        loss.backward()
        found[f"{number} loss"] = world.mean(loss.detach())
        for name, parameter in objective.named_parameters():
            found[f"{number} {name}"] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    return {name: tensor.detach().clone().contiguous() for name, tensor in found.items()}


def gradients(case: str, out: str) -> None:
    """Write the gradients of `case` as this rank has them."""
    world = World.join(torch.device("cpu"))
    save_file(gradients_of(case, world), f"{out}-{world.rank}.safetensors")


def run(task: str, arguments: dict[str, Any]) -> NoReturn:
    end_like_the_command(lambda: globals()[task](**arguments))
