"""What runs here, what a folder of ours is, and whether it is whole: from metadata, without torch and RDKit."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from dnd.common.errors import CorruptFileError, InputError
from dnd.common.files import MANIFEST, called, damaged_files, package_versions, read_json, read_manifest
from dnd.common.processes import processors, threads_asked_for
from dnd.common.runs import RUN_RECORD, run_id

# Checks a folder that `dnd` wrote without opening anything that could run: sizes, digests, links, strangers.

KINDS = ("store", "teacher", "targets", "encoder", "predictor", "checkpoint", "screen")
_CODE = {".pkl", ".pickle", ".pt", ".pth", ".joblib", ".py", ".so"}


def diagnose(folder: Path) -> tuple[list[str], list[str]]:
    """What a folder is and what is wrong with it.

    Args:
        folder: a store, a model, a checkpoint, or a run folder with `checkpoints/`.

    Returns:
        Lines that describe it and lines that name damage; no damage means it is fit for use.

    Raises:
        InputError: `folder` is not a folder, or `dnd` wrote nothing in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    is_sealed, is_run = (folder / MANIFEST).exists(), (folder / RUN_RECORD).exists()
    checkpoints = sorted((folder / "checkpoints").glob("*"))
    if not is_sealed and not checkpoints and not is_run:
        raise InputError(f"{folder} has no manifest.json", expected="a store, a model, a screen or a run that dnd made")
    facts: list[str] = []
    damage: list[str] = []
    if is_sealed:
        _check_sealed(folder, facts, damage)
    own_id = _own_id(folder, damage) if is_run else None
    for part in checkpoints:
        if ".tmp-" in part.name:
            facts.append(f"{part}: incomplete, from a run that was killed; it is never read")
            continue
        manifest = _check_sealed(part, facts, damage)
        if own_id is not None and manifest is not None and manifest.get("run") != own_id:
            damage.append(f"{part} belongs to another run: found {manifest.get('run')}, expected {own_id}")
    unfinished = checkpoints or (folder / ".progress").is_dir() or not _results(folder)
    if not is_sealed and unfinished:
        facts.append(f"{folder}: an unfinished run; add --resume to the command that started it")
    elif not is_sealed:
        damage.append(f"{folder} has lost its {MANIFEST}, so these can't be checked: {', '.join(_results(folder))}")
    return facts, damage


def _results(folder: Path) -> list[str]:
    """Files that only a finished stage leaves behind when it has removed its checkpoints."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in {".safetensors", ".arrow", ".parquet"})


def _check_sealed(part: Path, facts: list[str], damage: list[str]) -> dict[str, Any] | None:
    try:
        manifest = read_manifest(part)
        facts.append(_describe(part, manifest))
        damage.extend(_strangers(part, manifest))
        damage.extend(damaged_files(part, manifest))
    except CorruptFileError as error:
        damage.append(str(error))
        return None
    return manifest


def _own_id(folder: Path, damage: list[str]) -> str | None:
    try:
        return run_id(folder)
    except CorruptFileError as error:
        damage.append(str(error))
        return None


def _describe(part: Path, manifest: dict[str, Any]) -> str:
    """One line of a manifest whose own digest is right, so its entries have the types that we wrote."""
    version, files, kind = manifest["versions"].get("dnd"), manifest["files"], manifest["kind"]
    named = called(kind) if kind in KINDS else f"unknown kind {kind!r}"
    return f"{part}: {named}, format {manifest['format_version']}, {len(files)} files, by dnd {version}"


def _strangers(part: Path, manifest: dict[str, Any]) -> Iterator[str]:
    """Links, and files that no manifest vouches for and that could carry code."""
    for path in sorted(part.iterdir()):
        if path.is_symlink():
            yield f"{path} is a symbolic link"
        elif path.suffix in _CODE and path.name not in manifest["files"]:
            yield f"{path} was not written by dnd and is never opened"


DISTRIBUTION = "dnd-mol"
_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9._-]+).*extra\s*==\s*['\"]([^'\"]+)['\"]")
_DEVELOPMENT = ("dev", "test", "docs")  # extras that no user installs
_GPUS = Path("/proc/driver/nvidia/gpus")
_TRAINING = ("epochs", "batch_size", "learning_rate", "precision", "seed")  # the settings that a reader asks for first
_WIDTH = 14  # of the first column


def about_installation() -> Iterator[str]:
    """Versions, device, threads, shipped encoders and models, and what is there of the optional extras."""
    versions = package_versions()
    yield f"dnd {versions.pop('dnd')}, {Path(str(resources.files('dnd')))}"
    for name, version in versions.items():
        yield _line(name, version)
    yield _line("device", _device())
    yield _line("threads", f"{threads_asked_for()}, of {processors()} processors")
    yield "shipped encoders"
    encoders = Path(str(resources.files("dnd") / "data" / "encoders"))
    for manifest in sorted(encoders.glob(f"*/{MANIFEST}")):
        yield _line(f"  {manifest.parent.name}", _student(read_json(manifest.parent / "config.json")))
    yield "shipped models"
    for manifest in sorted(Path(str(resources.files("dnd") / "data" / "models")).glob(f"*/{MANIFEST}")):
        count = len(read_json(manifest.parent / "config.json")["targets"])
        yield _line(f"  {manifest.parent.name}", f"{count} ready-made properties; `dnd properties` lists them")
    yield "optional extras"
    for extra, packages in _extras().items():
        found = [f"{name} {_version(name) or 'not installed'}" for name in packages]
        missing = any(_version(name) is None for name in packages)
        hint = f"  (pip install '{DISTRIBUTION}[{extra}]')" if missing else ""
        yield _line(f"  {extra}", ", ".join(found) + hint)


def about_folder(folder: Path) -> Iterator[str]:
    """The kind of a folder, what made it, and its settings in brief.

    Raises:
        InputError: it is not a folder, or `dnd` did not write it.
        CorruptFileError: its manifest or its configuration is damaged.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder")
    run = read_json(folder / RUN_RECORD) if (folder / RUN_RECORD).is_file() else {}
    if not (folder / MANIFEST).is_file():
        if not run:
            raise InputError(
                f"{folder} has no manifest.json", expected="a store, a model, a screen or a run that dnd made"
            )
        yield f"{folder}: an unfinished run; the command below with --resume resumes it"
        yield from _origin(run)
        return
    manifest = read_manifest(folder)
    size = sum(entry["bytes"] for entry in manifest["files"].values())
    yield f"{folder}: {called(manifest['kind'])}, {len(manifest['files'])} files, {size:,} bytes"
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    yield _line("written by", versions)
    yield from _origin(run)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    describe = {"encoder": _about_encoder, "teacher": _about_teacher, "predictor": _about_model}
    if manifest["kind"] in describe:
        yield from describe[manifest["kind"]](folder, config)
    if manifest.get("settings"):  # of a store or a screen
        yield _line("settings", _settings(manifest["settings"]))
    for name, value in manifest.get("counts", {}).items():
        if isinstance(value, int):
            yield _line(name, f"{value:,}")


def _origin(run: Mapping[str, Any]) -> Iterator[str]:
    if run:
        yield _line("command", shlex.join(map(str, run.get("command", []))))
        yield _line("started", str(run.get("started", "not recorded")))


def _about_encoder(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    yield _line("student", _student(config))
    yield _line("trained by", f"{config.get('stage', 'not recorded')}, level {config.get('level', 'none')}")
    yield _line("molecules", f"{config.get('molecules', 0):,}, hydrogens {config.get('hydrogens')}")
    yield _line("training", _training(config.get("settings", {})))


def _about_teacher(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    yield _line("teacher", _settings(config.get("teacher", {})))
    yield _line("noise", f"{config.get('sigma')} angstrom")
    yield _line("molecules", f"{config.get('molecules', 0):,}, hydrogens {config.get('hydrogens')}")
    yield _line("training", _training(config.get("settings", {})))


def _about_model(folder: Path, config: Mapping[str, Any]) -> Iterator[str]:
    training = config.get("training", {})
    for target in config.get("targets", []):
        if target.get("group"):
            continue
        unit = f" in {target['unit']}" if target.get("unit", "") not in target["name"] else ""
        yield _line("target", f"{target['name']}{unit}, {target.get('kind', config.get('task'))}")
    classes: dict[str, list[str]] = {}
    for target in config.get("targets", []):
        if target.get("group"):
            classes.setdefault(target["group"], []).append(target["class_name"])
    for name, own in classes.items():
        yield _line("target", f"{name}, one of {', '.join(own)}")
    classical = [member["name"] for member in (config.get("blend") or {}).get("classical", [])]
    networks = len(config.get("members", []))
    trained = [f"{networks} network{'s' * (networks != 1)}"] if networks or not classical else []
    yield _line("members", ", ".join([*trained, *classical]))
    yield _line("encoder", str(training.get("encoder", "not recorded")))
    yield _line("data", f"{training.get('data')}, split {training.get('settings', {}).get('split')}")
    own = training.get("compressed", training)  # a compressed model keeps the settings of the one that taught it, too
    yield _line("training", _training(own.get("settings", {}), _TRAINING if trained else ("seed",)))
    metrics = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    test = metrics.get("parts", {}).get("test", {})
    for name, values in test.get("targets", {}).items():
        numbers = ", ".join(f"{key} {value:.3g}" for key, value in values.items() if isinstance(value, float))
        yield _line("test part", f"{name}: {numbers}")


def _student(config: Mapping[str, Any]) -> str:
    student = config.get("student", {})
    return f"{student.get('name')}, {student.get('num_layers')} layers of {student.get('width')}"


def _training(settings: Mapping[str, Any], names: Sequence[str] = _TRAINING) -> str:
    loop = settings.get("loop", {})
    return ", ".join(f"{name} {loop[name]}" for name in names if loop.get(name) is not None) or "not recorded"


def _settings(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items() if isinstance(value, str | int | float))


def _line(name: str, text: str) -> str:
    return f"{name:{_WIDTH}} {text}"


def _device() -> str:
    """What `auto` will take, judged without loading torch: the libraries of its build, and the driver's list."""
    names = [_gpu_name(path) for path in sorted(_GPUS.glob("*/information"))]
    try:
        files = metadata.distribution("torch").files or []
    except metadata.PackageNotFoundError:
        return "none: torch is not installed"
    with_cuda = any("libtorch_cuda" in path.name or "torch_cuda" in path.name for path in files)
    if names and with_cuda:
        return f"cuda: {', '.join(names)}"
    if names:
        return f"cpu: this build of torch has no CUDA, though there is a GPU ({', '.join(names)})"
    return "cpu" + (": no NVIDIA GPU is seen" if with_cuda else "")


def _gpu_name(information: Path) -> str:
    lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model")), "GPU")


def _extras() -> dict[str, list[str]]:
    """Extra → its packages, as the metadata of the distribution list them."""
    try:
        requirements = metadata.requires(DISTRIBUTION) or []
    except metadata.PackageNotFoundError:  # run from a source tree that was never installed
        return {}
    found: dict[str, list[str]] = {}
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        if match is not None and match[2] not in _DEVELOPMENT:
            found.setdefault(match[2], []).append(match[1])
    return found


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
