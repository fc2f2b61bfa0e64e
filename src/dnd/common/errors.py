"""Every error a user can see: one clear line with what was found, what was expected and the next step."""

from __future__ import annotations

EXIT_OUR_FAULT = 1
EXIT_USER_INPUT = 2
EXIT_NON_FINITE = 3
EXIT_ROWS = 5  # rows with an internal error; the others are done
EXIT_STORAGE = 74  # EX_IOERR of sysexits.h


class DndError(Exception):
    """Base of all errors that `dnd` raises on purpose.

    Args:
        what: what went wrong, with row, file or field.
        found: what was there.
        expected: what should have been there.
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
