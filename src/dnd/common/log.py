"""What a run says: one logger, `dnd`, for every line, and one moving line for how far it is.

A library is silent: lines go to the logger, and whoever uses it decides whether they are shown. A command, and
`verbose=` in Python, show them with `told`.

    level     what                                     shown on     -q   (none)  -v
    DEBUG     each epoch                               stderr                    x
    PROGRESS  how far a long work is                   stderr            x       x
    INFO      what is done, planned or left out        stdout            x       x
    RESULT    what came out                            stdout       x    x       x
    WARNING   what may need a look                     stderr       x    x       x

A log file has all of them. What is shown is data: `shown` escapes what would command a terminal."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from dnd.common.errors import InputError
from dnd.common.files import open_own

# What is shown is data: text from files reaches a terminal without the characters that would command it.
#
# Column names, class names, file names and SMILES stand in our lines. An escape sequence in one of them could set the
# window's title, clear the screen or rewrite what was said before; a right-to-left mark could turn a name around.

_TAG = re.compile(r"<(?=[A-Za-z/!?])")
_CONTROLS = ("Cc", "Cf", "Cs", "Zl", "Zp", "Co")  # categories of Unicode: control, format, surrogate, line separators


def shown(text: str) -> str:
    r"""`text` with every control character but newline and tab as its escape, such as `\x1b`."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return text
    return "".join(
        repr(one)[1:-1] if unicodedata.category(one) in _CONTROLS and one not in "\n\t" else one for one in text
    )


def markdown_safe(text: str) -> str:
    """Markdown of ours in which names of the user's stand: nothing in it is a tag, and nothing commands a terminal."""
    return _TAG.sub("&lt;", shown(text))


class ShownStream:
    """A text stream that shows what is written to it; the rest is the stream's own."""

    def __init__(self, stream: TextIO) -> None:
        self.own = stream

    def write(self, text: str) -> int:
        """Write `text` as `shown` gives it."""
        self.own.write(shown(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)


def show_from_now_on() -> None:
    """Let both standard streams show what is written to them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, ShownStream):
            setattr(sys, name, cast(TextIO, ShownStream(stream)))


def show_no_more() -> None:
    """Take that back."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, ShownStream):
            setattr(sys, name, stream.own)


def raw_stream(stream: TextIO) -> TextIO:
    """The stream itself, for progress bars, whose carriage returns are ours."""
    return stream.own if isinstance(stream, ShownStream) else stream


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def nobody_reads() -> None:
    """Send standard output nowhere from now on: its reader left, as `head` does when it has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def data_stream(stream: TextIO | None) -> TextIO:
    """Where a table goes: the stream itself, byte for byte and in UTF-8 as in a file, unless it is a terminal.

    Raises:
        InputError: there is none.
    """
    if stream is None:
        raise InputError("standard output is closed", next_step="Choose a file with --out")
    if stream.isatty():
        return stream
    own = raw_stream(stream)
    if isinstance(own, io.TextIOWrapper) and own.encoding.lower().replace("-", "") != "utf8":
        own.reconfigure(encoding="utf-8")
    return own


LOGGER = logging.getLogger("dnd")
LOGGER.addHandler(logging.NullHandler())
PROGRESS, RESULT = 15, 25
logging.addLevelName(PROGRESS, "PROGRESS")
logging.addLevelName(RESULT, "RESULT")

MANY = 1000  # molecules; fewer are parsed before a line about it would be read
_BAR = "{l_bar}{bar}| {n_fmt} of {total_fmt}{unit}, {remaining} left{postfix}"  # tqdm's, with the time left in words
LINE_EVERY_S = 10.0  # of progress, where there is no line to rewrite
_TIME = "%Y-%m-%d %H:%M:%S"


def level_of(verbose: int) -> int | None:
    """The log level of `verbose` in Python: 0 or False nothing, 1 or True as the command, 2 as with `-v`."""
    return None if not verbose else PROGRESS if verbose == 1 else logging.DEBUG


@contextmanager
def told(level: int | None, log_file: Path | None = None) -> Iterator[None]:
    """Show the lines from `level` on until the block ends, and write all of them to `log_file`.

    Nothing is shown a second time: where the logger has a handler already, by an outer block or by the user, that
    one shows them. Under `torchrun` the first process speaks, and the others warn.

    Args:
        level: the lowest that is shown; None = nothing is.
        log_file: lines are appended to it.

    Raises:
        InputError: `log_file` can't be written, or holds something else.
    """
    own: list[logging.Handler] = []
    helper = os.environ.get("RANK", "0") != "0"
    taken = any(not isinstance(handler, logging.NullHandler) for handler in LOGGER.handlers)
    if level is not None and not taken:
        own.append(Console(max(level, logging.WARNING) if helper else level))
    if log_file is not None and not helper:
        own.append(_LogFile(log_file))
    before = LOGGER.level
    if own:
        LOGGER.setLevel(min([LOGGER.getEffectiveLevel(), *(handler.level or logging.DEBUG for handler in own)]))
    for handler in own:
        LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.setLevel(before)
        for handler in own:
            LOGGER.removeHandler(handler)
            handler.close()


@contextmanager
def muted(*, progress: bool) -> Iterator[None]:
    """Show no account of the work in the block, only its warnings; the caller has a shorter one.

    Args:
        progress: whether to leave out how far it is, too.
    """
    console = _console()
    before = None if console is None else console.hidden
    if console is not None:
        console.hidden = (logging.DEBUG if progress else logging.INFO, RESULT)
    try:
        yield
    finally:
        if console is not None:
            console.hidden = before


class Console(logging.Handler):
    """Lines on the standard streams, as they are at that moment.

    Attributes:
        bar: the line that moves, which other lines do not tear.
        hidden: the lowest and the highest level of those that are not shown for now.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.bar: Any = None
        self.hidden: tuple[int, int] | None = None

    def shows(self, level: int) -> bool:
        """Whether lines of this level are shown now."""
        return level >= self.level and (self.hidden is None or not self.hidden[0] <= level <= self.hidden[1])

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line; one that can't be written is an error if it is a result, but not where its reader left."""
        if not self.shows(record.levelno) or (record.levelno == PROGRESS and self.bar is not None):
            return
        account = logging.INFO <= record.levelno < logging.WARNING
        if self.bar is not None:
            self.bar.clear()
        with nullcontext() if account else suppress(OSError, ValueError):
            try:
                print(shown(record.getMessage()), file=sys.stdout if account else sys.stderr, flush=True)
            except BrokenPipeError:
                nobody_reads()
        if self.bar is not None:
            self.bar.refresh()

    def close(self) -> None:
        """End what moves."""
        if self.bar is not None:
            self.bar.close()
        super().close()


class _LogFile(logging.StreamHandler[Any]):
    """Lines with their time and level, appended to a file; one that is full stops no run."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            _require_log(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            stream = os.fdopen(open_own(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"cannot write the log file {path}", found=error.strerror, next_step="Choose another --log-file"
            ) from error
        super().__init__(stream)

    def format(self, record: logging.LogRecord) -> str:
        """A line of the file."""
        when = time.strftime(_TIME, time.localtime(record.created))
        return f"{when} {record.levelname} {shown(record.getMessage())}"

    def handleError(self, record: logging.LogRecord) -> None:
        """Say once that the file stops."""
        LOGGER.removeHandler(self)
        LOGGER.warning(f"warning: can't write to the log file {self._path} any more: {sys.exc_info()[1]}")

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # it is tried again what has failed before
            self.stream.close()
        super().close()


def _require_log(path: Path) -> None:
    """Refuse to append to a file that is something else, such as the table that was meant to be read."""
    if not path.is_file() or not path.stat().st_size:
        return
    with open(path, "rb") as stream:
        first = stream.read(19).decode("utf-8", "replace")
    try:
        time.strptime(first, _TIME)
    except ValueError as error:
        raise InputError(
            f"{path} is not a log file", found=repr(first), next_step="Choose another --log-file"
        ) from error


def is_shown(level: int) -> bool:
    """Whether a line of this level would be shown now."""
    console = _console()
    return console is not None and console.shows(level)


def _console() -> Console | None:
    return next((handler for handler in LOGGER.handlers if isinstance(handler, Console)), None)


class Progress:
    """How far a long work is: one line that is rewritten on a terminal, a bar in a notebook, elsewhere some lines.

    Args:
        title: names the work: stage and member.
        unit: name of the things counted.
        total: total number, if known.
        first: number of those done before.
        about: whether the total is an estimate.
    """

    def __init__(self, title: str, *, unit: str, total: int | None = None, first: int = 0, about: bool = False) -> None:
        self._title, self._unit, self._total, self._about = title, unit, total, about
        self._first = self._count = first
        self._note = ""
        self._started = self._said = time.monotonic()
        self._bar = _new_bar(title, unit, total, first)

    def advance(self, count: int = 1, note: str = "") -> None:
        """So many more are done; `note` stands behind the numbers, such as the loss."""
        self._count, self._note = self._count + count, note
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
        if time.monotonic() - self._said > LINE_EVERY_S:
            self._say()

    def reach(self, count: int) -> None:
        """So many are done."""
        self.advance(count - self._count)

    def close(self, *, say: bool = True) -> None:
        """Take away what moves, and say where the count stands unless the caller has a line of its own."""
        if say:
            self._say()
        if self._bar is not None:
            self._bar.close()
            if (console := _console()) is not None and console.bar is self._bar:
                console.bar = None

    def _say(self) -> None:
        self._said = time.monotonic()
        LOGGER.log(PROGRESS, self.line(self._said - self._started))

    def line(self, seconds: float) -> str:
        """Where the work stands after `seconds` of this call."""
        rate = (self._count - self._first) / max(seconds, 1e-3)
        left = max(self._total - self._count, 0) if self._total else 0
        of_all = f" of {'about ' if self._about else ''}{self._total:,}" if self._total else ""
        speed = f"{rate:,.0f}" if rate >= 10 or not rate else f"{rate:.2g}"
        time_left = f"  {_duration(left / rate)} left" if rate and left else ""
        note = f"  {self._note}" if self._note else ""
        return f"{self._title}  {self._count:,}{of_all} {self._unit}s  {speed} per second{time_left}{note}"


def _new_bar(title: str, unit: str, total: int | None, first: int) -> Any:
    """A bar of tqdm, where one can be seen and no other one moves; else None."""
    console = _console()
    if console is None or console.bar is not None or not console.shows(PROGRESS):
        return None
    if _in_notebook():
        from tqdm.auto import tqdm

        console.bar = tqdm(total=total, initial=first, desc=shown(title), unit=unit, leave=False)
    elif sys.stderr.isatty():
        from tqdm import tqdm as line

        console.bar = line(
            total=total,
            initial=first,
            desc=shown(title),
            unit=f" {unit}s",
            leave=False,
            file=raw_stream(sys.stderr),
            bar_format=_BAR if total else None,
        )
    return console.bar


def _in_notebook() -> bool:
    """Whether a notebook's kernel runs this."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None else None
    return shell is not None and "IPKernelApp" in shell.config


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
