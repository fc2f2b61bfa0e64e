"""Options that several verbs share: how labels are read, how a training runs, and what every verb has."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dnd.common.config import RECIPES
from dnd.common.errors import ConfigError
from dnd.common.log import LOGGER, PROGRESS, RESULT

# Options that say how cells are read, shared by `finetune`, `check` and `evaluate`.

Missing = Annotated[
    list[str] | None,
    typer.Option(metavar="WORDS", help="Further words or values that mean a missing label, such as -999 or n.d.,BLQ."),
]
Measured = Annotated[
    list[str] | None,
    typer.Option(metavar="VALUES", help="Values such as 9999 that look like placeholders but were measured."),
]
Censored = Annotated[
    str | None,
    typer.Option(
        help="Labels such as >10 and <0.1: keep (learn as limits), drop, or limit (learn the limit as a value).",
        autocompletion=lambda: ["keep", "drop", "limit"],
    ),
]
Decimal = Annotated[
    str | None, typer.Option(help="Decimal mark of the labels, comma or point, where the cells are ambiguous.")
]

Standardize = Annotated[
    bool,
    typer.Option(
        "--standardize",
        help="Strip salts: reduce each molecule to its largest organic part, neutralised, here and in predictions.",
    ),
]


_DECIMAL_COMMA = re.compile(r"[+-]?\d{1,30},0{1,30}")


def label_settings(
    missing: Sequence[str] | None, measured: Sequence[str] | None, censored: str | None, decimal: str | None
) -> dict[str, Any]:
    """Those of `LabelRules` that were given, by name."""
    given = {
        "missing": _label_words(missing),
        "measured": _label_words(measured),
        "censored": censored,
        "decimal": decimal,
    }
    return {name: value for name, value in given.items() if value}


def _label_words(words: Sequence[str] | None) -> list[str]:
    """Words or values that an option says of labels.

    Raises:
        ConfigError: a single number with a decimal comma, such as -999,0, which would be read as -999 and 0.
    """
    for given in words or ():
        if _DECIMAL_COMMA.fullmatch(given.strip()):
            whole = given.strip().partition(",")[0]
            raise ConfigError(
                "commas separate values here, and this may be one number with a decimal comma",
                found=given,
                expected=f"{whole}, which stands for every spelling of the number",
                next_step=f"Use {whole}, or repeat the option for each of two values",
            )
    return comma_words(words)


def comma_words(words: Sequence[str] | None) -> list[str]:
    """Words of an option that may be repeated and may hold several, separated by commas."""
    return [word.strip() for given in words or () for word in given.split(",") if word.strip()]


# Options and arguments that verbs share which read molecules or a model.

SmilesColumn = Annotated[str | None, typer.Option(help="Column with SMILES. Found by name or content if not given.")]
LabelledTable = Annotated[str, typer.Argument(help="CSV, TSV, SMI, SDF or Parquet with SMILES and labels.")]
StoreOfConformers = Annotated[Path, typer.Argument(help="Store with conformers, from `dnd prepare`.")]
MoleculesIn = Annotated[
    str, typer.Argument(metavar="SMILES|IN", help="A SMILES, or CSV, TSV, SMI, SDF or Parquet; - = stdin.")
]
PoolingName = Annotated[str | None, typer.Option(help="mean (+MP), virtual_node (+VN) or min_max_mean_sum.")]
Raw = Annotated[bool, typer.Option("--raw", help="Do not escape cells that start with = + - @ (spreadsheet formulas).")]
InferenceDevice = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
ParsingJobs = Annotated[int, typer.Option(help="Processes for parsing; 0 = one per processor.")]
RayAddress = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Work on a Ray cluster: auto, HOST:PORT, ray://HOST:PORT.")
]
ModelFolder = Annotated[Path, typer.Option("--model", "-m", help="MODEL folder of `dnd finetune`.")]
SmilesColumnOfModel = Annotated[
    str | None, typer.Option(help="Column with SMILES. By default that of the model, or found by name or content.")
]
SmilesColumnOfTables = Annotated[
    str | None, typer.Option(help="Column of SMILES in tables. Found by name or content if not given.")
]

# Options shared by verbs that train, and the settings that they set.

EncoderOut = Annotated[Path, typer.Option("--out", "-o", help="ENCODER folder to write.")]
StudentName = Annotated[str | None, typer.Option(help="A student (tokengt, pna, gine, …) or a preset.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume an interrupted run.")]

SkipNonfinite = Annotated[
    int | None,
    typer.Option("--skip-nonfinite", metavar="N", help="Skip up to N batches whose loss or gradient is not finite."),
]
AllowChange = Annotated[
    bool,
    typer.Option("--allow-change", help="With --resume: accept other settings, data or versions, and record them."),
]


Device = Annotated[str | None, typer.Option(help="cpu, cuda or auto (default): CUDA if there is a GPU.")]


def recipe_option(stage: str) -> Any:
    """`--recipe` of a stage: help and completion name the same recipes as the hints do."""
    names = RECIPES[stage]
    return typer.Option(help=f"{', '.join(names)}, or a TOML file.", autocompletion=lambda: list(names))


def completed_by(words: str) -> Callable[[], list[str]]:
    """What a shell completes an option with: known values, separated by blanks."""
    return lambda: words.split()


def loop_words(skip_nonfinite: int | None, allow_change: bool, device: str | None = None) -> list[str]:
    """`key=value` settings of the training loop."""
    skip = [] if skip_nonfinite is None else [f"loop.skip_nonfinite={skip_nonfinite}"]
    where = [] if device is None else [f"loop.device={device}"]
    return [*skip, *(["loop.allow_change=true"] if allow_change else []), *where]


# What every verb has: the options that say what is shown of its work, and `--device` and `--jobs`.
#
# A verb that can choose a device or share its work names these two in its own signature. The others get them here, so
# that a script need not know which verb has which; the help of each says what is true of it.

_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show only results and warnings.")]
_Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show every epoch.")]
_LogFile = Annotated[
    Path | None, typer.Option("--log-file", help="File to append every line to, with its time, as -v shows them.")
]
LOG_OPTIONS = {"quiet": (_Quiet, False), "verbose": (_Verbose, False), "log_file": (_LogFile, None)}

_CPU_ALONE = "Changes nothing: this verb uses the CPU alone."
_ONE_PROCESS = "Changes nothing: this verb uses one process."
_BY_TORCHRUN = "Changes nothing: training uses one process; torchrun starts several."
_OF_TRAINING = "cpu, cuda or auto (default): CUDA if there is a GPU."
_MACHINE_HELP = {  # of the verbs for which the above would not be the whole truth
    ("device", "demo"): _OF_TRAINING,
    ("device", "reproduce"): _OF_TRAINING,
    ("device", "analyse labels"): _OF_TRAINING,
    ("device", "prepare"): "Changes nothing: this verb uses the CPU, and a GPU for nvmolkit's conformers alone.",
    **{("jobs", verb): _BY_TORCHRUN for verb in ("denoise", "distill", "contrast", "pretrain")},
}


def machine_options(verb: str, own: Collection[str]) -> dict[str, tuple[Any, None]]:
    """`--device` and `--jobs` of a verb, without those of its own: name → annotation and default."""
    kinds = {"device": (str | None, _CPU_ALONE), "jobs": (int | None, _ONE_PROCESS)}
    return {
        name: (Annotated[kind, typer.Option(help=_MACHINE_HELP.get((name, verb), text))], None)
        for name, (kind, text) in kinds.items()
        if name not in own
    }


def heed_machine_options(verb: str, device: str | None, jobs: int | None) -> None:
    """Do what `machine_options` ask for: choose the device of a verb that trains, and say where one changes nothing.

    Raises:
        ConfigError: there is no such device or number of processes.
    """
    if jobs is not None:
        from dnd.common.processes import process_count

        process_count(jobs)
        if jobs > 1:
            LOGGER.log(PROGRESS, f"note: --jobs {jobs} changes nothing: dnd {verb} uses one process")
    if device is not None:
        from dnd.common.compute import require_device_name, use_device_alone

        require_device_name(device)
        if _MACHINE_HELP.get(("device", verb)) == _OF_TRAINING:
            use_device_alone(device)
        elif device.startswith("cuda"):
            LOGGER.log(PROGRESS, f"note: --device {device} changes nothing: dnd {verb} uses the CPU")


def echo(line: str) -> None:
    """Print a line of the result, once for all processes of a `torchrun`."""
    LOGGER.log(RESULT, line)
