"""Lists of molecules that name none: a digest per line, by which a molecule can be recognised but not read.

A file of its own, since it's neither a table of molecules nor one of labels.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from dnd.common.errors import CorruptFileError, InputError

_DIGITS = 16
_LINE = re.compile(rf"[0-9a-f]{{{_DIGITS}}}")
_SUFFIXES = (".txt", ".txt.gz")


def key_digest(connectivity: str) -> str:
    """First 16 hex digits of the SHA-256 of a connectivity key (the first 14 characters of an InChIKey).

    Example:
        >>> key_digest("LFQSCWFLJHTTHZ")  # ethanol
        'd024cad94e64b2e2'
    """
    return hashlib.sha256(connectivity.encode()).hexdigest()[:_DIGITS]


def is_key_list(path: Path) -> bool:
    """Whether a file is such a list: a text file whose first line is a digest, where a table has its header."""
    if not path.name.lower().endswith(_SUFFIXES) or not path.is_file():
        return False
    try:
        return bool(_LINE.fullmatch(_text(path).partition("\n")[0].strip()))
    except (OSError, EOFError, UnicodeDecodeError):
        return False


def read_key_list(path: Path) -> frozenset[str]:
    """The digests of a list.

    Raises:
        InputError: there is no such file.
        CorruptFileError: the file can't be read, or a line is not a digest.
    """
    try:
        lines = _text(path).splitlines()
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise CorruptFileError(f"{path} can't be read", found=str(error), next_step="Copy it again") from error
    for number, line in enumerate(lines, start=1):
        if not _LINE.fullmatch(line):
            raise CorruptFileError(
                f"line {number} of {path} is not a digest of a molecule",
                found=line[:40],
                expected=f"{_DIGITS} hex digits: the SHA-256 of the first 14 characters of the InChIKey, cut",
            )
    return frozenset(lines)


def key_list_text(digests: Iterable[str]) -> str:
    """The text of a list, ascending, each digest once."""
    return "".join(f"{digest}\n" for digest in sorted(set(digests)))


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.name.lower().endswith(".gz") else data).decode("ascii")
