"""The command `dnd`: finds the verb, imports only that verb, turns errors into one line and an exit code."""

from __future__ import annotations

import contextlib
import errno
import gc
import inspect
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
import typer.core

from dnd.common.errors import (
    EXIT_OUR_FAULT,
    EXIT_ROWS,
    EXIT_STORAGE,
    OUT_OF_MEMORY,
    ConfigError,
    DndError,
    Interrupted,
    end_by_unwinding,
    forget_rows,
    noted_rows,
    signal_of,
)
from dnd.common.files import STORAGE_ERRNO, forget_held_folder, last_held_folder
from dnd.common.log import LOGGER, PROGRESS, RESULT, nobody_reads, show_from_now_on, show_no_more, shown, told
from dnd.common.processes import forget_current_folder

# Heading in `dnd --help` → its verbs, each with its line; the first heading is what most users come for.
_HEADINGS = {
    "From your table to predictions": {
        "check": "Labelled molecules → a summary of the table, its problems, and the command to run next.",
        "finetune": "Labelled molecules → a model, compared with classical baselines.",
        "predict": "Molecules → predictions, row by row: by a model, or ready-made properties.",
        "explain": "Molecules and a model → pictures of how much each atom contributes to a prediction.",
        "evaluate": "Labelled molecules and a model → metrics.",
    },
    "More with a model": {
        "properties": "The ready-made properties that predict returns when no model is named.",
        "serve": "Models → a web page for SMILES and files, and a JSON interface for programs.",
        "screen": "Any number of molecules and a model → sharded Parquet, in constant memory; can be resumed.",
        "embed": "Molecules and an encoder → representations, row by row.",
        "compress": "A model of several members → one student that imitates it and predicts several times as fast.",
        "export": "A model of one student → ONNX, with the code that makes its inputs; runs without torch.",
    },
    "Train an encoder": {
        "prepare": "Molecules with or without conformers → a store.",
        "denoise": "Store → teacher: a 3D network that predicts the noise added to conformers.",
        "distill": "Store and teacher → encoder: a 2D student that learned the teacher's representations.",
        "contrast": "Store → encoder by 3DInfomax, the contrastive baseline.",
        "pretrain": "Store → encoder by another baseline: GraphCL, ProPred, DisPred, ConfGen.",
        "pretrain-base": "Files of molecules → the encoders that ship: stores, teacher, students, cards.",
    },
    "Try, inspect, reproduce": {
        "demo": "Run all stages on small shipped data: denoise, distill, finetune, predict, report.",
        "info": "Versions, device and shipped encoders; or the kind, origin and settings of a folder.",
        "doctor": "Check a store, a checkpoint or a model for damage.",
        "analyse": "Statistics, overlap, loss curves, attention, label efficiency.",
        "reproduce": "The tables and figures of the paper, made again and compared with its numbers.",
        "bench": "Speed and memory as ratios to a named reference.",
    },
}
# Verb → its line in `dnd --help`.
VERBS = {verb: line for verbs in _HEADINGS.values() for verb, line in verbs.items()}
# Module of `dnd.cli` → its verbs, each a function or a Typer app of that name, with `_` where the verb has `-`.
FAMILIES = {
    "pretraining": ("prepare", "denoise", "distill", "contrast", "pretrain", "pretrain-base"),
    "check": ("check",),
    "finetuning": ("finetune", "compress"),
    "inference": ("predict", "properties", "screen", "embed", "evaluate", "explain", "export", "serve"),
    "reproduction": ("demo", "reproduce", "analyse"),
    "installation": ("info", "doctor", "bench"),
}
_RUN_ALONE = ("demo", "info", "properties")  # verbs that do something without an argument


_OUT_OF_MEMORY = "out of memory: lower loop.batch_size, --jobs or --chunk; everything saved before is intact"

_WRITES = ("out", "as_json")  # options that name a file or folder to write
_COLLECT_EVERY = 50_000
"""New objects after which Python looks for cycles; its 700 cost a tenth of the time of loading the libraries."""


class _Verbs(typer.core.TyperGroup):
    """All verbs: the one place that sees Ctrl-C and SIGTERM in any of them before Typer makes an exit code of it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise Interrupted(signal_of(error)) from None


def build_app(verb: str | None) -> typer.Typer:
    """The command line with `verb` loaded; without one, all verbs as their help lines only."""
    app = typer.Typer(name="dnd", cls=_Verbs, no_args_is_help=True, pretty_exceptions_enable=False)
    app.callback(help="Predict molecular properties from SMILES.")(_root)
    headings = {name: heading for heading, verbs in _HEADINGS.items() for name in verbs}
    for name, line in VERBS.items():
        panel = headings[name]
        if name != verb:
            app.command(name, help=line, rich_help_panel=panel)(_not_loaded)
            continue
        loaded = load_verb(name)
        if isinstance(loaded, typer.Typer):
            for command in loaded.registered_commands:
                assert command.callback is not None
                own = inspect.unwrap(command.callback)  # once, however often this runs
                command.callback = with_common_options(own, f"{name} {command.name or own.__name__}")
            app.add_typer(loaded, name=name, help=line, no_args_is_help=True, rich_help_panel=panel)
        else:
            own_help = app.command(name, no_args_is_help=name not in _RUN_ALONE, rich_help_panel=panel)
            own_help(with_common_options(loaded, name))
    return app


def load_verb(verb: str) -> Any:
    """The function of a verb, or the Typer app of one that has verbs of its own."""
    module = next(name for name, verbs in FAMILIES.items() if verb in verbs)
    return getattr(import_module(f"dnd.cli.{module}"), verb.replace("-", "_"))


def with_common_options(verb: Callable[..., None], name: str) -> Callable[..., None]:
    """`verb`, called `name`, with the options that every verb has; see `dnd.cli.options`."""
    from dnd.cli.options import LOG_OPTIONS, heed_machine_options, machine_options

    own = inspect.signature(verb, eval_str=True)
    machine = machine_options(name, own.parameters)
    further = {**machine, **LOG_OPTIONS}
    added = [
        inspect.Parameter(option, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for option, (annotation, default) in further.items()
    ]

    @wraps(verb)
    def run(*words: Any, quiet: bool, verbose: bool, log_file: Path | None, **options: Any) -> None:
        if quiet and verbose:
            raise ConfigError("-q and -v contradict each other", next_step="Leave one of them out")
        if log_file is not None and any(log_file == Path(str(options[name])) for name in _WRITES if options.get(name)):
            raise ConfigError(
                f"the log and another output would both be {log_file}", next_step="Choose another --log-file"
            )
        with told(RESULT if quiet else logging.DEBUG if verbose else PROGRESS, log_file):
            LOGGER.debug(f"command: {shlex.join(['dnd', *sys.argv[1:]])}")
            try:
                given = {option: options.pop(option) for option in machine}
                heed_machine_options(name, given.get("device"), given.get("jobs"))
                verb(*words, **options)
            except (typer.Exit, typer.Abort):
                raise
            except BaseException as error:
                LOGGER.debug(f"ended by {type(error).__name__}: {error}")
                raise

    run.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    run.__annotations__ = {**verb.__annotations__, **{option: kind for option, (kind, _) in further.items()}}
    return run


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with one of the codes in `docs/how-to/resume-and-check.md`."""
    if arguments is None:
        forget_current_folder()
        end_by_unwinding()
    forget_rows()
    forget_held_folder()
    gc.set_threshold(_COLLECT_EVERY)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if any(shown(word) != word for word in words):
        show_from_now_on()  # before a complaint about a word quotes it
    verb = next((word for word in words or _words_to_complete() if not word.startswith("-")), None)
    try:
        build_app(verb)(args=words, prog_name="dnd")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):  # Typer's and Rich's 1, where the reader of a pipe left
            sys.exit(0)
        if end.code == 128 + signal.SIGINT:  # Typer's, of a Ctrl-C before the verb was reached
            _stop(_what_is_kept(verb, words), 128 + signal_of(end.__context__))
        if not end.code and (count := noted_rows()):
            rows = "a row" if count == 1 else f"{count} rows"
            _stop(
                f"{rows} failed with an internal error, which is the row's reason; all other rows are done", EXIT_ROWS
            )
        raise
    except Interrupted as error:
        _stop(_what_is_kept(verb, words), error.exit_code)
    except KeyboardInterrupt as error:  # before the verb began
        _stop(_what_is_kept(verb, words), 128 + signal_of(error))
    except DndError as error:
        _stop(str(error), error.exit_code)
    except BrokenPipeError:
        nobody_reads()
        sys.exit(0)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            _stop("too many files are open: raise the limit with ulimit -n, or lower --jobs", EXIT_OUR_FAULT)
        if error.errno not in STORAGE_ERRNO:
            _internal_error(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is buffered can't be written either
        _stop(f"cannot write the output: {os.strerror(error.errno or 0)}. Free space, then run it again", EXIT_STORAGE)
    except MemoryError:
        _stop(_OUT_OF_MEMORY, EXIT_OUR_FAULT)
    except Exception as error:
        _internal_error(error)
    finally:
        show_no_more()
        if arguments is None:
            gc.freeze()  # the process ends: a last search through all that torch loaded took a tenth of a short command


def _what_is_kept(verb: str | None, words: Sequence[str]) -> str:
    """What a command that was asked to stop leaves behind, and the line that resumes it."""
    folder = last_held_folder()
    if folder is None or not any(path.name != ".lock" for path in folder.iterdir()):
        return "stopped before the end, so there is no complete result; run the command again"
    command = typer.main.get_group(build_app(verb)).commands[verb or ""]
    can_resume = any("--resume" in option.opts for option in command.params)
    line = ["dnd", *words, *["--resume"] * (can_resume and "--resume" not in words)]
    return f"stopped; finished work is kept in {folder}. To resume: {shlex.join(line)}"


def _internal_error(error: Exception) -> NoReturn:
    if os.environ.get("DND_DEBUG"):
        raise error
    text = " ".join(str(error).split())
    if any(words in text for words in OUT_OF_MEMORY):
        _stop(_OUT_OF_MEMORY, EXIT_OUR_FAULT)
    _stop(f"internal error: {type(error).__name__}: {text} (DND_DEBUG=1 shows where)", EXIT_OUR_FAULT)


def _stop(line: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):  # a full or closed stderr must not hide the exit code
        print(f"dnd: {shown(line)}", file=sys.stderr, flush=True)
    sys.exit(code)


def _words_to_complete() -> list[str]:
    """What stands on the line that a shell wants completed, behind `dnd`; empty in a run of the command.

    Shells ask with variables in place of arguments: bash with `COMP_WORDS`, the others with `_TYPER_COMPLETE_ARGS`.
    """
    if "_DND_COMPLETE" not in os.environ:
        return []
    return (os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS") or "").split()[1:]


def _print_version(wanted: bool) -> None:
    if wanted:
        from dnd import __version__

        typer.echo(f"dnd {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """Options in front of every verb; from here on names come from files, and what is shown of them is data."""
    show_from_now_on()


def _not_loaded() -> None:
    raise AssertionError("only the verb on the command line is loaded")
