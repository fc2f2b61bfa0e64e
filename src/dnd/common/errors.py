"""Every error a user can see: one clear line with what was found, what was expected and the next step.

A command ends by one of these errors; a row that raises costs only that row (below).
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

EXIT_OUR_FAULT = 1
EXIT_USER_INPUT = 2
EXIT_NON_FINITE = 3
EXIT_ROWS = 5  # rows with an internal error; the others are done
EXIT_STORAGE = 74  # EX_IOERR of sysexits.h


class DndError(Exception):
    """Base of all errors that `dnd` raises on purpose.

    Args:
        what: what went wrong, with row, file or field.
        found: the offending value.
        expected: what was expected instead.
        next_step: what the user can do about it.
    """

    exit_code = EXIT_OUR_FAULT

    def __init__(
        self, what: str, *, found: object = None, expected: object = None, next_step: str | None = None
    ) -> None:
        self.what, self.found, self.expected, self.next_step = what, found, expected, next_step
        details = [f"found {found}"] if found is not None else []
        details += [f"expected {expected}"] if expected is not None else []
        line = what + (": " + ", ".join(details) if details else "")
        super().__init__(line + (f". {next_step}" if next_step else ""))


class InputError(DndError):
    """The user's data or command can't be used as it is."""

    exit_code = EXIT_USER_INPUT


class ConfigError(InputError):
    """A setting is unknown, of the wrong type or at odds with another."""


class ShapeError(DndError, ValueError):
    """Two arrays that belong together differ in shape."""


class CorruptFileError(InputError):
    """A file is damaged, foreign, or not the one its manifest names."""


class NonFiniteError(DndError):
    """A loss or a gradient is not finite; nothing was updated."""

    exit_code = EXIT_NON_FINITE


class StorageError(DndError):
    """The disk is full, read-only or gone; everything sealed before is intact."""

    exit_code = EXIT_STORAGE


class Interrupted(DndError):
    """A signal asked the run to stop; its state is saved.

    Attributes:
        exit_code: 128 + the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; the state is saved; resume with --resume")
        self.exit_code = 128 + number


class Ended(KeyboardInterrupt):
    """A signal asked the process to end; it unwinds as Ctrl-C does, so that nothing half-written is left.

    Attributes:
        number: the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def signal_of(error: BaseException | None) -> int:
    """The signal behind an interrupt; SIGINT, as of Ctrl-C, where the interrupt does not say."""
    return error.number if isinstance(error, Ended) else signal.SIGINT


def end_by_unwinding() -> None:
    """Let SIGTERM and SIGHUP raise `Ended` in this process; a signal that is ignored, as under nohup, stays ignored."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _unwind)


def end_at_once() -> None:
    """Undo `end_by_unwinding` in a forked child: files that are half-written belong to the parent."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is _unwind:
            signal.signal(number, signal.SIG_DFL)


def _unwind(number: int, frame: FrameType | None) -> None:
    raise Ended(number)


@contextmanager
def named_as(names: Mapping[str, str]) -> Iterator[None]:
    """Let errors call settings and files as the caller does.

    Args:
        names: name in the errors → name that the caller uses, such as `loop.epochs` → `epochs`.
    """
    try:
        yield
    except DndError as error:
        for own, name in names.items():
            error.args = tuple(str(text).replace(own, name) for text in error.args)
        raise


_OPTION = re.compile(r"`[^`]*`|\bdnd [a-z-]{1,20} --\S+|--(?P<name>[a-z]+(?:-[a-z]+)*)(?: (?P<value>\S+))?")
_AS_ARGUMENT = {
    "resume": "resume=True", "standardize": "standardize=True", "allow-change": "loop.allow_change=true",
    "skip-nonfinite": "loop.skip_nonfinite=", "student": "student.name=",
}  # fmt: skip
_NO_VALUES = frozenset(
    {
        "a", "accepts", "again", "and", "as", "by", "continue", "continues", "counts", "for", "has", "if", "in", "is",
        "it", "need", "needs", "of", "or", "out", "raises", "runs", "that", "the", "to", "uses", "where", "which",
        "with",
    }
)  # fmt: skip
"""Words of a sentence that stand behind an option and are not its value."""


@contextmanager
def named_as_arguments() -> Iterator[None]:
    """Let errors speak of `smiles_column=` where the command line has `--smiles-column`; whole commands stay.

    For all that Python callers call; it is also a decorator.
    """
    try:
        yield
    except DndError as error:
        error.args = tuple(as_arguments(str(text)) for text in error.args)
        raise


def as_arguments(text: str) -> str:
    """A message with the options of the command line as arguments of the public functions.

    Example:
        >>> as_arguments("Name it with --smiles-column NAME")
        'Name it with smiles_column=NAME'
    """
    return _OPTION.sub(_argument, text)


def _argument(found: re.Match[str]) -> str:
    name, value = found["name"], found["value"]
    if name is None:  # a command
        return found[0]
    own = _AS_ARGUMENT.get(name, f"{name.replace('-', '_')}=")
    if value is None:
        return own
    return f"{own} {value}" if not own.endswith("=") or value.strip(".,;:") in _NO_VALUES else f"{own}{value}"


# One row that raises costs that row: found among its neighbours, named, and counted for the exit code.
#
# A bad molecule has a reason of its own and is no error. What is caught here is a mistake of ours or of a library,
# which must not end a file of a million rows, and must not pass as an ordinary reject either.


INTERNAL = "internal error: "
# torch raises a RuntimeError for memory it can't have, on a CPU and on a GPU.
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory", "CUDA out of memory", "failed to map segment from shared object",
)  # fmt: skip

_counts = {"rows": 0}
_Result = TypeVar("_Result")
_Item = TypeVar("_Item")


def internal_reason(error: Exception) -> str:
    """The reason of a row that raised `error`.

    Raises:
        Exception: `error` itself, if it says that the memory is full or a setting is wrong, which is not the fault of
            the row.
    """
    if isinstance(error, MemoryError | ConfigError) or any(words in str(error) for words in OUT_OF_MEMORY):
        raise error
    return f"{INTERNAL}{' '.join(f'{type(error).__name__}: {error}'.split())[:300]}"


def note_rows(reasons: Iterable[str | None]) -> None:
    """Count the rows of a file with an internal error; the command ends with an exit code of its own."""
    _counts["rows"] += sum(reason is not None and reason.startswith(INTERNAL) for reason in reasons)


def forget_rows() -> None:
    """Count from 0: a command begins."""
    _counts["rows"] = 0


def noted_rows() -> int:
    """How many there were since the last call."""
    count, _counts["rows"] = _counts["rows"], 0
    return count


def isolating(
    compute: Callable[[Sequence[_Item]], _Result], items: Sequence[_Item], blank: _Item
) -> tuple[_Result, dict[int, str]]:
    """`compute(items)`; where it raises, that of the items without those to blame, and why, by their place.

    The others are computed as the batch they are, with `blank` in the place of the bad ones, so that a bad neighbour
    changes nothing for them.

    Raises:
        Exception: each item alone is well and together they are not, or `blank` itself is to blame.
    """
    try:
        return compute(items), {}
    except Exception as error:
        reasons = dict(_to_blame(compute, items, 0, error))
        if not reasons:
            raise
    return compute([blank if place in reasons else item for place, item in enumerate(items)]), reasons


def _to_blame(
    compute: Callable[[Sequence[_Item]], _Result], items: Sequence[_Item], first: int, error: Exception
) -> Iterable[tuple[int, str]]:
    reason = internal_reason(error)
    if len(items) < 2:
        yield from ((first, reason) for _ in items)  # without an item there is none to blame, and no half of them
        return
    middle = len(items) // 2
    for start, part in ((0, items[:middle]), (middle, items[middle:])):
        try:
            compute(part)
        except Exception as found:
            yield from _to_blame(compute, part, first + start, found)
