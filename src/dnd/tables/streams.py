"""Bytes and lines of an input, whatever it's packed in: gzip by content, standard input, encodings, line ends."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, AnyStr, BinaryIO, cast

from dnd.common.errors import CorruptFileError, InputError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

STANDARD_INPUT = "-"
LIMIT_LINE = 16 * 2**20
"""Longest line in characters or bytes, so that one endless line can't fill the memory."""
LIMIT_BLANK_LINES = 100_000
"""Most empty lines in a row, so that a file without rows ends."""

SDF_ENDINGS = (".sdf", ".sd", ".mol", ".mdl")
_COUNT_SIGNS = frozenset(b" 0123456789")
_SHORTEST_COUNTS_LINE = 38  # two counts of three places, others, and the version
_MAGIC_BYTES = 8
_GZIP = b"\x1f\x8b"
_REFUSED = {
    b"PK\x03\x04": "a zip archive or an Excel workbook",
    b"\xfd7zXZ": "an xz archive",
    b"BZh": "a bzip2 archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
}
_REFUSED_TEXT = {  # text, but neither a table nor molecules
    b"<!DOCTYP": "an HTML page", b"<!doctyp": "an HTML page", b"<html": "an HTML page", b"<HTML": "an HTML page",
    b"<?xml": "XML", b'{"': "JSON", b'[{"': "JSON",
}  # fmt: skip
_WORKBOOK_ENDINGS = (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods", ".numbers")
_STRUCTURE_ENDINGS = (".xyz", ".mol2", ".pdb", ".cif", ".cdx", ".cdxml", ".mrv", ".pdbqt")
SAVE_AS_SDF = "Convert it to SDF or a table of SMILES; `dnd prepare` alone reads XYZ"
SAVE_AS_CSV = "Save the sheet as 'CSV UTF-8' in the spreadsheet program, and give that file"
_MARKS = {  # the four bytes first: UTF-32 begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
_HEAD_BYTES = 8192
PARQUET = b"PAR1"  # its first bytes


def _latin_1(error: UnicodeError) -> tuple[str, int]:
    """Read what isn't UTF-8 as Latin-1: names with accents in files from spreadsheets."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin-1"), error.end


codecs.register_error("dnd_latin_1", _latin_1)


def open_bytes(path: str | Path) -> BinaryIO:
    """Open an input for reading; `-` is standard input, gzip is recognised by its first bytes.

    Raises:
        InputError: there is no such file, standard input is closed, it can't be read, it's empty, or it's packed in
            another way.
    """
    if str(path) == STANDARD_INPUT and sys.stdin is None:
        raise InputError("standard input is closed", next_step="Name a file")
    if str(path) == STANDARD_INPUT:  # a pipe may hand over one byte at a time
        raw = Replayed.buffered(sys.stdin.buffer.read(_MAGIC_BYTES), sys.stdin.buffer)
    else:
        raw = _open_file(Path(path))
    head = raw.peek(_MAGIC_BYTES)[:_MAGIC_BYTES]
    if not head:
        raw.close()
        raise empty_input(path)
    _refuse_other_packing(raw, path, head)
    if not head.startswith(_GZIP):
        return raw
    unpacked = cast(BinaryIO, io.BufferedReader(_Gunzip(raw)))
    _refuse_other_packing(unpacked, path, peeked(unpacked, path, _MAGIC_BYTES), packed=True)
    return unpacked


def _refuse_other_packing(stream: BinaryIO, path: str | Path, head: bytes, *, packed: bool = False) -> None:
    """Refuse what is neither text nor Parquet by its first bytes, and what is packed twice."""
    known = {**_REFUSED, _GZIP: "gzip"} if packed else _REFUSED
    name = next((name for magic, name in known.items() if head.startswith(magic)), None)
    if name is not None:
        stream.close()
        step = SAVE_AS_CSV if "Excel" in name else "Unpack it, or pack it with gzip"
        step = "Unpack it" if packed else step
        found = f"{name} inside of gzip" if packed else name
        raise InputError(f"{path} can't be read", found=found, expected="text, gzip or Parquet", next_step=step)
    name = next((name for magic, name in _REFUSED_TEXT.items() if head.startswith(magic)), None)
    if name is not None:
        stream.close()
        raise InputError(
            f"{path} can't be read", found=name, expected="a table or a file of molecules",
            next_step="Save the table as CSV, or download the file itself instead of the page about it",
        )  # fmt: skip


def is_sdf(path: str | Path) -> bool:
    """Whether the name of a file says that it's an SDF or mol file, gzipped or not."""
    return str(path).lower().removesuffix(".gz").endswith(SDF_ENDINGS)


def is_counts_line(line: bytes) -> bool:
    """Whether a line is the fourth of a mol block, by which an SDF is known."""
    text = line.rstrip()
    known = text.endswith((b"V2000", b"V3000")) and len(text) >= _SHORTEST_COUNTS_LINE
    return known and _COUNT_SIGNS.issuperset(text[:6])


def is_workbook(path: str | Path) -> bool:
    """Whether the name of a file is that of a spreadsheet program's own format."""
    return str(path).lower().endswith(_WORKBOOK_ENDINGS)


def is_structure(path: str | Path) -> bool:
    """Whether the name of a file is that of a format of structures that no table is read from."""
    return str(path).lower().removesuffix(".gz").endswith(_STRUCTURE_ENDINGS)


def wide_encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, by the mark or by the zeros between Latin letters; None for text of single bytes.

    Args:
        head: the first eight bytes, or more.
    """
    marked = next((encoding for mark, encoding in _MARKS.items() if head.startswith(mark)), None)
    if marked is not None or len(head) < _MAGIC_BYTES:
        return marked
    if head[0] and head[4] and not any(head[1:4] + head[5:8]):
        return "utf-32-le"
    if head[3] and head[7] and not any(head[:3] + head[4:7]):
        return "utf-32-be"
    even, odd = head[:_MAGIC_BYTES:2], head[1:_MAGIC_BYTES:2]
    if all(even) and not any(odd):
        return "utf-16-le"
    return "utf-16-be" if all(odd) and not any(even) else None


def peeked(stream: BinaryIO, path: str | Path, count: int) -> bytes:
    """The first bytes of what `open_bytes` opened, unpacked; they are read again by whoever reads next.

    Raises:
        CorruptFileError: the gzip stream is damaged or cut off.
    """
    with read_errors(path):
        return cast(io.BufferedReader, stream).peek(count)[:count]


def empty_input(path: str | Path) -> InputError:
    """The error for an empty input."""
    name = "standard input" if str(path) == STANDARD_INPUT else path
    return InputError(f"{name} is empty", next_step="Check how it was made or copied")


class _Gunzip(gzip.GzipFile):
    """Closes the file it reads from too, which `GzipFile` leaves to its caller."""

    def __init__(self, source: io.BufferedReader) -> None:
        super().__init__(fileobj=source)
        self._source = source

    def close(self) -> None:
        """Close both."""
        super().close()
        self._source.close()


class Replayed(io.RawIOBase):
    """Bytes that were read from `rest` to look at them, and then `rest`."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    @classmethod
    def buffered(cls, head: bytes, rest: BinaryIO) -> io.BufferedReader:
        """As a stream that is read like any file."""
        return io.BufferedReader(cls(head, rest))

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` as far as there is something at hand."""
        view = memoryview(buffer)
        if not self._head:
            self._head = cast(io.BufferedReader, self._rest).read1(len(view))
        piece, self._head = self._head[: len(view)], self._head[len(view) :]
        view[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Close `rest` too."""
        super().close()
        self._rest.close()


_pipes: set[tuple[int, int]] = set()
"""Named pipes that this process has opened, by device and inode."""


def is_pipe(path: str | Path) -> bool:
    """Whether an input can be read once only: standard input, a named pipe, a device."""
    return str(path) == STANDARD_INPUT or (Path(path).exists() and not Path(path).is_file() and not Path(path).is_dir())


def _open_file(path: Path) -> io.BufferedReader:
    """Open a file, or a named pipe for the first time; a second time nobody would write to it, and it would hang."""
    if path.is_dir():
        raise InputError(f"{path} is a folder", expected="a file of molecules")
    try:
        if path.is_fifo():
            known = path.stat().st_dev, path.stat().st_ino
            if known in _pipes:
                raise InputError(
                    f"{path} is a named pipe, which can be read once only", next_step="Save it to a file first"
                )
            _pipes.add(known)
        return open(path, "rb")
    except OSError as error:
        raise InputError(
            f"{path} can't be opened", found=error.strerror, next_step="Check the name and the permissions"
        ) from error


def text_lines(stream: BinaryIO, path: str | Path) -> Iterator[str]:
    """Lines of text with their ends: UTF-8, UTF-16 or UTF-32, with or without a byte order mark, else Latin-1.

    Raises:
        CorruptFileError: the gzip stream is damaged or cut off.
        InputError: a line is longer than `LIMIT_LINE`.
    """
    _refuse_parquet(stream, path)
    encoding = wide_encoding(peeked(stream, path, _MAGIC_BYTES)) or "utf-8-sig"
    # newline="" splits at \n, \r\n and \r and leaves them in place, as the csv module wants them.
    with io.TextIOWrapper(stream, encoding=encoding, errors="dnd_latin_1", newline="") as text:
        yield from _bounded(text, path)


def byte_lines(stream: BinaryIO, path: str | Path) -> Iterator[bytes]:
    """The same as UTF-8 bytes; text that is not UTF-8 is left as it is. Raises as `text_lines` does.

    Files with newlines, which is nearly all, are never decoded.
    """
    _refuse_parquet(stream, path)
    head = peeked(stream, path, _HEAD_BYTES)
    if wide_encoding(head):
        yield from (line.encode() for line in text_lines(stream, path))
        return
    mark = codecs.BOM_UTF8 if head.startswith(codecs.BOM_UTF8) else b""
    if b"\r" in head and b"\n" not in head:
        with io.TextIOWrapper(stream, encoding="latin-1", newline="") as text:  # one character per byte
            lines = (line.encode("latin-1") for line in _bounded(text, path))
            yield from _without(mark, lines)
        return
    with stream:
        yield from _without(mark, _bounded(stream, path))


def _refuse_parquet(stream: BinaryIO, path: str | Path) -> None:
    if peeked(stream, path, len(PARQUET)) == PARQUET:
        stream.close()
        raise InputError(
            f"{path} is a Parquet file", expected="text", next_step="Rename it so that it ends in .parquet"
        )


def _without(mark: bytes, lines: Iterator[bytes]) -> Iterator[bytes]:
    if mark:
        yield next(lines, b"").removeprefix(mark)
    yield from lines


def _bounded(stream: IO[AnyStr], path: str | Path) -> Iterator[AnyStr]:
    number = blank = 0
    while True:
        with read_errors(path):
            line = stream.readline(LIMIT_LINE + 1)
        number += 1
        if not line:
            return
        if len(line) > LIMIT_LINE:
            raise InputError(f"{path}, line {number} is too long", expected=f"at most {LIMIT_LINE:,} characters")
        blank = blank + 1 if line.isspace() else 0
        if blank > LIMIT_BLANK_LINES:  # eight megabytes of gzip unpack to hours of them, in which no row is answered
            raise InputError(
                f"{path} has too many empty lines before line {number}",
                expected=f"at most {LIMIT_BLANK_LINES:,} in a row",
                next_step="Remove them",
            )
        yield line


@contextlib.contextmanager
def read_errors(path: str | Path) -> Iterator[None]:
    """Say what is wrong with the file where reading its bytes fails.

    Raises:
        CorruptFileError: the gzip stream is damaged or cut off.
        InputError: the file can't be read.
    """
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CorruptFileError(
            f"{path} is a damaged gzip file", found=str(error), next_step="Copy or download it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path} can't be read", found=error.strerror or str(error)) from error
