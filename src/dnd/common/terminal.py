"""What is shown is data: text from files reaches a terminal without the characters that would command it.

Column names, class names, file names and SMILES stand in our lines. An escape sequence in one of them could set the
window's title, clear the screen or rewrite what was said before; a right-to-left mark could turn a name around.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from typing import Any, TextIO, cast

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


def data_stream(stream: TextIO) -> TextIO:
    """Where a table goes: the stream itself, byte for byte, unless it is a terminal."""
    return stream if stream.isatty() else raw_stream(stream)
