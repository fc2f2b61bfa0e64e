"""Options that several verbs share: how labels are read, and how a training runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dnd.common.config import RECIPES
from dnd.common.errors import ConfigError
from dnd.common.log import LOGGER, RESULT

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
        "--standardize", help="Reduce each molecule to its largest organic part, neutralised, here and in predictions."
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


def echo(line: str) -> None:
    """Print a line of the result, once for all processes of a `torchrun`."""
    LOGGER.log(RESULT, line)
