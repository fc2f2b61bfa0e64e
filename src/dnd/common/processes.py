"""Where our processes import from: never the current folder, which may come from somebody else.

Python puts the current folder on the path of imports for `python -m` and `python -c`, and for every empty entry of
`PYTHONPATH` (`PYTHONPATH=$PYTHONPATH:/mine` has one where the variable was unset). A `numpy.py` in a received folder
would then run. All processes are started with what this file returns; folders that the user names in `PYTHONPATH` by an
absolute path stay. Only modules that Python itself has loaded at its start are imported at the head of this file.
"""

from __future__ import annotations

import os
import sys

_VARIABLE = "PYTHONPATH"
_MOST_DIGITS = 4  # of a number of threads


def trusted_path() -> list[str]:
    """The entries of `sys.path` that a process of ours may import from, in order."""
    here = os.getcwd()
    named = os.environ.get(_VARIABLE, "").split(os.pathsep)
    return [
        entry
        for entry in sys.path
        if os.path.isabs(entry) and (entry in named or os.path.realpath(entry) != os.path.realpath(here))
    ]


def forget_current_folder() -> None:
    """Take the current folder off this process's path of imports, and off those of all processes it starts."""
    sys.path[:] = trusted_path()
    os.environ.update(_safe_variables())


def child_environment(**changes: str) -> dict[str, str]:
    """The environment for a Python process: this one's, without what would let it import from its current folder."""
    return {**os.environ, **_safe_variables(), **changes}


def python_command(*words: str) -> list[str]:
    """The command that runs this Python with `words`, isolated from its current folder; see `child_environment`."""
    return [sys.executable, "-P", *words]


def code_command(code: str) -> list[str]:
    """The command that runs a line of code with this process's path of imports.

    The path travels in the command and not in `PYTHONPATH`, where a folder with a colon in its name would be two.
    """
    return python_command("-c", f"import sys; sys.path[:] = {trusted_path()!r}; {code}")


MOST_PROCESSES = 1024
"""Largest number of processes; starting many more takes all threads that a user of the machine may have."""


def process_count(jobs: int) -> int:
    """How many processes `--jobs` asks for; 0 = one per processor.

    Raises:
        ConfigError: it is negative, or more than any machine can start.
    """
    if not 0 <= jobs <= MOST_PROCESSES:
        from dnd.common.errors import ConfigError

        raise ConfigError(
            "jobs must be at least 0" if jobs < 0 else f"jobs must be at most {MOST_PROCESSES:,}",
            found=jobs,
            expected="a number of processes; 0, one per processor",
        )
    return jobs or processors()


def processors() -> int:
    """Processors that this process may use; where the system does not say which, as on macOS, all of them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_asked_for() -> int:
    """The number of threads that the environment asks for, see `dnd.common.compute.set_threads`; 1 where it does not.

    Raises:
        ConfigError: one of its variables is no number of threads.
    """
    return _threads_of("DND_THREADS") or _threads_of("OMP_NUM_THREADS") or 1


def _threads_of(variable: str) -> int:
    """The number of threads that a variable of the environment asks for; 0 where it is not set."""
    given = os.environ.get(variable, "").strip()
    first = given.partition(",")[0].strip()
    is_number = first.isascii() and first.isdecimal() and len(first) <= _MOST_DIGITS
    if given and not (is_number and int(first)):
        from dnd.common.errors import ConfigError

        raise ConfigError(
            f"{variable} is no number of threads",
            found=repr(given[:40]),
            expected="a whole number from 1 on",
            next_step="Set it anew, or unset it for one thread",
        )
    return int(first) if given else 0


def _safe_variables() -> dict[str, str]:
    """Relative entries of `PYTHONPATH` become absolute, since the child may stand elsewhere; empty ones and `.` go."""
    here, named = os.getcwd(), os.environ.get(_VARIABLE, "").split(os.pathsep)
    absolute = [os.path.abspath(entry) for entry in named if entry]
    safe = [entry for entry in absolute if entry != here or here in named]
    return {_VARIABLE: os.pathsep.join(safe), "PYTHONSAFEPATH": "1"}
