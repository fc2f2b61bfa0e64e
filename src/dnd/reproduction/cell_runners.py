"""What each kind of cell does. A stage gets its settings, paths, the folders of what it needs, and its own folder.

Everything resumes: a killed cell continues where its stage can, since its folder is named by its digest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnd.common.config import load_config
from dnd.common.files import MANIFEST, folder_lock, write_bytes, write_text
from dnd.report.figures import table_text
from dnd.reproduction.results import ENCODER, MODEL, STORE, TABLE, TEACHER, Work

if TYPE_CHECKING:
    from dnd.reproduction.labelled_table import LabelledTable

Result = dict[str, Any]


def prepare_store(work: Work) -> Result:
    """Files with conformers → a store of a given number of molecules, without those of the labelled table, if any."""
    from dnd.store.prepare import prepare
    from dnd.store.settings import PrepareConfig

    inputs = work.inputs()
    exclude = tuple(str(work.file_of(folder, TABLE)) for folder in work.needs.values())
    config = PrepareConfig(
        target_columns=tuple(work.settings["targets"]),
        hydrogens=work.settings["hydrogens"],
        conformers=work.settings["conformers"],
        seed=work.settings["seed"],
        num_conformers=work.settings.get("num_conformers", 1),
        sample=work.settings["molecules"],
        exclude=exclude,
    )
    summary = prepare(inputs, work.folder / STORE, config, resume=True)
    text = f"{summary.molecules} molecules, {sum(summary.rejected.values())} rejected"
    return {"molecules": summary.molecules, "rejected": summary.rejected, "summary": text}


def random_encoder(work: Work) -> Result:
    """A student with random weights as an encoder, so that it goes through the finetuning of any other."""
    import torch

    from dnd.common.compute import derive_seed
    from dnd.finetuning.settings import FinetuneConfig
    from dnd.models.students.encoders import build_student, save_encoder

    config, seed = load_config(FinetuneConfig, None, work.settings["config"]), work.settings["seed"]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(derive_seed(seed, "student"))
        student = build_student(config.student)
    description = {"stage": "random", "hydrogens": work.settings["hydrogens"], "seed": seed}
    save_encoder(work.folder / ENCODER, student, description, f"# Random weights, seed {seed}\n")
    return {"weights": sum(parameter.numel() for parameter in student.parameters())}


def shipped_encoder(work: Work) -> Result:
    """An encoder that comes with the package, so that it goes through the finetuning of any other."""
    from dnd.models.students.encoders import encoder_folder

    with folder_lock(work.folder / ENCODER):
        for path in encoder_folder(work.settings["name"]).iterdir():
            write_bytes(work.folder / ENCODER / path.name, path.read_bytes())  # follows no link, which a copy would
    return {"summary": work.settings["name"]}


def denoise_teacher(work: Work) -> Result:
    """Store → teacher."""
    from dnd.pretraining.denoise import DenoiseConfig, denoise

    return _trained(work, DenoiseConfig, denoise, work.need("prepare") / STORE, work.folder / TEACHER)


def supervise_teacher(work: Work) -> Result:
    """Store with labels → teacher that has learned them."""
    from dnd.pretraining.supervised_teacher import SuperviseConfig, supervise

    return _trained(work, SuperviseConfig, supervise, work.need("prepare") / STORE, work.folder / TEACHER)


def distill_encoder(work: Work) -> Result:
    """Store and teacher → encoder."""
    from dnd.pretraining.distill import distill
    from dnd.pretraining.settings import DistillConfig

    store, teacher = work.need("prepare") / STORE, work.need("denoise", "supervise") / TEACHER
    return _trained(work, DistillConfig, distill, store, teacher, work.folder / ENCODER)


def distill_from_stores(work: Work) -> Result:
    """Stores and a teacher that are there already → encoder; what the settings have of them is their identity.

    Where a path `finished` names an encoder of the same settings, it is taken instead of distilled again.
    """
    from dnd.common.config import from_dict
    from dnd.pretraining.distill import distill
    from dnd.pretraining.settings import DistillConfig
    from dnd.store.reader import Store, union

    config = from_dict(DistillConfig, work.settings["config"])
    store = union([Store.open(path) for path in work.paths["stores"]])
    teacher = work.paths["teacher"] if config.needs_teacher else None
    if "finished" in work.paths:
        _copy_sealed(Path(work.paths["finished"]), work.folder / ENCODER)
    targets = Path(work.paths["targets"]) if teacher else None
    summary = distill(store, teacher, work.folder / ENCODER, config, resume=True, cache_folder=targets)
    return {"metrics": summary.metrics, "summary": _numbers(summary.metrics)}


def _copy_sealed(source: Path, folder: Path) -> None:
    """Copy the files of a sealed folder, its manifest last, so that a kill leaves nothing that passes for sealed."""
    if not (folder / MANIFEST).exists():
        for path in sorted(source.iterdir(), key=lambda path: path.name == MANIFEST):
            if path.is_file() and not path.name.startswith("."):
                write_bytes(folder / path.name, path.read_bytes())  # follows no link, which a copy would


def contrast_encoder(work: Work) -> Result:
    """Store → encoder by 3DInfomax."""
    from dnd.pretraining.baselines.infomax3d import ContrastConfig, contrast

    return _trained(work, ContrastConfig, contrast, work.need("prepare") / STORE, work.folder / ENCODER)


def pretrain_encoder(work: Work) -> Result:
    """Store → encoder by GraphCL, ProPred, DisPred or ConfGen."""
    from dnd.pretraining.baselines.pretrain import pretrain
    from dnd.pretraining.settings import PretrainConfig

    return _trained(work, PretrainConfig, pretrain, work.need("prepare") / STORE, work.folder / ENCODER)


def _trained(work: Work, config_class: type, train: Callable[..., Any], *folders: Path) -> Result:
    """Run a training verb on `folders`, its input and output, with the cell's settings."""
    config: Any = load_config(config_class, work.settings.get("recipe"), work.settings["config"])
    metrics = train(*folders, config, resume=True).metrics
    return {"metrics": metrics, "summary": _numbers(metrics)}


def finetune_student(work: Work) -> Result:
    """A labelled table and an encoder, or random weights → test score."""
    from dnd.finetuning.finetune import finetune
    from dnd.finetuning.settings import FinetuneConfig
    from dnd.reproduction.labelled_table import labelled_table

    table = labelled_table(work)
    write_text(work.folder / TABLE, table.text())
    config = load_config(FinetuneConfig, work.settings["recipe"], work.settings["config"])
    made = [folder / ENCODER for folder in work.needs.values() if (folder / ENCODER).is_dir()]
    given = [Path(work.paths["encoder"])] if "encoder" in work.paths else []
    summary = finetune(
        work.folder / TABLE,
        work.folder / MODEL,
        table.names,
        config,
        encoder=next(iter([*made, *given]), "random"),
        resume=True,
    )
    metrics = summary.metrics
    main, scale = table.metric.removesuffix("_z"), table.scale
    parts = {part: metrics["parts"][part][main] for part in ("valid", "test")}
    student = next(iter(metrics["members"]), {"steps": None, "best_step": None})  # `fast` trains none
    for name in ("metrics.json", "test_predictions.csv", "rejects.csv", "metrics.jsonl", "run.json"):
        if (work.folder / MODEL / name).is_file():
            write_bytes(work.folder / name, (work.folder / MODEL / name).read_bytes())  # follows no link
    shutil.rmtree(work.folder / MODEL)  # hundreds of cells of a grid: the numbers are kept, the weights are not
    return {
        **table.describe(),
        **_scores(table.metric, parts, scale),
        "rejected": metrics["counts"]["rejected"],
        "skipped_targets": metrics["parts"]["test"]["skipped_targets"],
        "steps": student["steps"],
        "best_step": student["best_step"],
    }


def multitask(work: Work) -> Result:
    """Several labelled tables and an encoder → a test score of each."""
    from dnd.reproduction.multitask import multitask_student

    return multitask_student(work)


def classical_features(work: Work) -> Result:
    """Count fingerprints and descriptors of a labelled table, once for all classical models."""
    from dnd.chemistry.molecule import Molecule
    from dnd.chemistry.parse import parse_smiles
    from dnd.common.files import replacing
    from dnd.predictor.classical.features import count_fingerprints, descriptors_2d
    from dnd.reproduction.labelled_table import labelled_table

    table = labelled_table(work)
    outcomes = [parse_smiles(text) for text in table.smiles]
    valid = np.array([isinstance(outcome, Molecule) for outcome in outcomes])
    mols = [outcome.mol for outcome in outcomes if isinstance(outcome, Molecule)]
    counts = np.minimum(count_fingerprints(mols), 255).astype(np.uint8)
    with replacing(work.folder / "features.npz") as path, open(path, "wb") as stream:
        np.savez_compressed(stream, counts=counts, descriptors=descriptors_2d(mols), valid=valid)
    return {"molecules": int(valid.sum()), "unreadable": int((~valid).sum())}


def classical_model(work: Work) -> Result:
    """A classical model on the features of a labelled table → test score; unreadable molecules are left out."""
    from dnd.reproduction.frozen_models import predict
    from dnd.reproduction.labelled_table import labelled_table

    table = labelled_table(work)
    with np.load(work.file_of(work.need("features"), "features.npz"), allow_pickle=False) as arrays:
        features = {name: arrays[name] for name in ("counts", "descriptors")}
        valid = arrays["valid"]
    targets_BC, split = table.targets_BC[valid], np.array(table.split)[valid]
    predictions_BC, settings = predict(
        work.settings["system"],
        features,
        targets_BC,
        np.flatnonzero(split == "train"),
        table.task,
        work.settings["seed"],
    )
    return {
        **part_scores(table, targets_BC, predictions_BC, split),
        "rejected": int((~valid).sum()),
        "model": settings,
    }


def part_scores(table: LabelledTable, targets_BC: np.ndarray, predictions_BC: np.ndarray, split: np.ndarray) -> Result:
    """Description of a labelled table, and the scores of predictions on its validation and test part."""
    from dnd.predictor.metrics import score

    main = table.metric.removesuffix("_z")
    found = {part: score(main, targets_BC[split == part], predictions_BC[split == part]) for part in ("valid", "test")}
    parts = {part: value.value for part, value in found.items()}
    return {
        **table.describe(),
        **_scores(table.metric, parts, table.scale),
        "skipped_targets": found["test"].skipped,
    }


def frozen_model(work: Work) -> Result:
    """A model on the frozen representation of an encoder → test score."""
    from dnd.reproduction.frozen_models import frozen_features, predict_frozen
    from dnd.reproduction.labelled_table import labelled_table

    table = labelled_table(work)
    features_BF = frozen_features(work, list(table.smiles))
    valid = np.isfinite(features_BF).all(axis=1)
    targets_BC, split = table.targets_BC[valid], np.array(table.split)[valid]
    train = np.flatnonzero(split == "train")
    predictions_BC = predict_frozen(
        work.settings["model"], features_BF[valid], targets_BC, train, table.task, work.settings["seed"]
    )
    return {**part_scores(table, targets_BC, predictions_BC, split), "rejected": int((~valid).sum())}


def qm9_labels(work: Work) -> Result:
    """QM9's labelled molecules, drawn and split once, in the units of Table 6."""
    from dnd.reproduction.benchmarks import draw_labelled

    smiles, targets_BC, split, available = draw_labelled(
        Path(work.inputs()[0]), work.settings["molecules"], work.settings["reserved"]
    )
    rows = [[text, *map(float, row), part] for text, row, part in zip(smiles, targets_BC, split, strict=True)]
    write_text(work.folder / TABLE, table_text(["smiles", *work.settings["targets"], "split"], rows))
    return {"molecules": len(smiles), "labelled_molecules_in_file": available}


STAGES: dict[str, Callable[[Work], Result]] = {
    "prepare": prepare_store,
    "random_encoder": random_encoder,
    "shipped_encoder": shipped_encoder,
    "denoise": denoise_teacher,
    "supervise": supervise_teacher,
    "distill": distill_encoder,
    "distill_from_stores": distill_from_stores,
    "contrast": contrast_encoder,
    "pretrain": pretrain_encoder,
    "finetune": finetune_student,
    "multitask": multitask,
    "features": classical_features,
    "classical": classical_model,
    "qm9_labels": qm9_labels,
    "frozen": frozen_model,
}


def _scores(metric: str, parts: Mapping[str, float | None], scale: float) -> Result:
    """Validation and test score; `mae_z` in label deviations, with the raw value beside it."""
    divisor = scale if metric == "mae_z" else 1.0
    shown = {part: None if value is None else value / divisor for part, value in parts.items()}
    text = f"test {metric} {shown['test']:.4g}" if shown["test"] is not None else "no test score"
    return {"metric": metric, **shown, "test_raw": parts["test"], "label_deviation": scale, "summary": text}


def _numbers(metrics: Mapping[str, Any]) -> str:
    wanted = ("held_out_loss", "trivial", "floor", "valid_loss", "train_loss", "valid_node_r2", "valid_graph_r2")
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in wanted if isinstance(metrics.get(name), float))
