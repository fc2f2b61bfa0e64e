"""A MODEL folder as files that need no torch: `model.onnx`, `settings.json` and `featurizer.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

from dnd import __version__
from dnd.chemistry.molecule import LIMITS
from dnd.common.errors import ConfigError, InputError
from dnd.common.files import building_folder, write_bytes, write_json, write_text
from dnd.predictor.model_folder import MOST_ATOMS, Member
from dnd.predictor.predictor import Predictor
from dnd.predictor.targets import Target

FORMATS = {"onnx": "ONNX"}
MODEL, SETTINGS, FEATURIZER = "model.onnx", "settings.json", "featurizer.py"
FORMAT_VERSION = 1


def export_onnx(model: Path | str, out: Path) -> list[Path]:
    """Write `model` as ONNX with what makes its inputs from SMILES.

    Values are those of `dnd predict`: in the target's unit, or calibrated probabilities. Intervals, domain and sets of
    classes stay with the MODEL folder.

    Args:
        model: MODEL folder of one student.
        out: folder to make.

    Returns:
        The three files.

    Raises:
        ConfigError: the model is a blend or several students, or the package `onnx` is not installed.
        InputError: `out` exists, or the folder is not a MODEL folder.
    """
    try:
        from dnd.export.graph import Graph
    except ModuleNotFoundError as error:
        raise ConfigError("export needs the package onnx", next_step="pip install 'dnd-mol[onnx]'") from error
    from dnd.export.graph import value_nodes
    from dnd.export.students import network_nodes

    if out.exists():
        raise InputError(f"{out} exists already", next_step="Give another folder to --out, or remove it")
    predictor = Predictor.load(model, device="cpu")
    member = _one_student(predictor)
    graph = Graph()
    outputs = network_nodes(graph, member.network)
    values = value_nodes(graph, outputs, member.targets, predictor.calibration)
    graph.output(values, "values", "float64", ["molecules", len(member.targets)])
    built = graph.model(f"{', '.join(target.name for target in member.targets)}; made by dnd {__version__}")
    with building_folder(out) as folder:
        write_bytes(folder / MODEL, built.SerializeToString())
        write_json(folder / SETTINGS, _settings(predictor, member))
        write_text(folder / FEATURIZER, resources.files("dnd.export").joinpath(FEATURIZER).read_text(encoding="utf-8"))
    return [out / name for name in (MODEL, SETTINGS, FEATURIZER)]


def _one_student(predictor: Predictor) -> Member:
    parts = predictor.parts
    classical = parts.blend.classical if parts.blend else ()
    if len(parts.members) != 1 or classical:
        raise ConfigError(
            "only a model of one student can be written as ONNX",
            found=f"{len(parts.members)} students and {len(classical)} classical members",
            next_step="Make one student of it with `dnd compress`, or finetune with --recipe small",
        )
    return parts.members[0]


def _settings(predictor: Predictor, member: Member) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "dnd": __version__,
        "standardize": predictor.parts.standardize,
        "explicit_hydrogens": predictor.parts.hydrogens == "all_both",
        "identifiers": _identifiers(member),
        "limits": asdict(LIMITS),
        "targets": _targets(predictor.targets, predictor.parts.config.get(MOST_ATOMS) or {}),
    }


def _identifiers(member: Member) -> dict[str, Any] | None:
    """Which identifiers of the atoms the student takes, as `featurizer.py` names them; None = none."""
    kind = "walks" if member.student.name == "gps" else member.student.identifiers
    columns = member.student.num_identifiers
    return {"kind": kind, "columns": columns} if kind and columns else None


def _targets(targets: Sequence[Target], most_atoms: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"name": one.group or one.name, "unit": one.unit, "kind": one.kind, "classes": list(one.classes)}
        | ({"class": one.class_name} if one.group else {})
        | ({MOST_ATOMS: most_atoms[one.name]} if one.name in most_atoms else {})
        for one in targets
    ]
