"""What a drawing may be that goes into a page: SVG whose tags and attributes run nothing and fetch nothing."""

from __future__ import annotations

import re
from xml.parsers import expat

_TAGS = {
    *("svg", "g", "defs", "path", "use", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan"),
    *("title", "desc", "style", "clipPath", "mask", "pattern", "linearGradient", "radialGradient", "stop", "image"),
    *("marker", "symbol", "metadata"),
}
# Which no XML may hold, not even as a reference; labels come from files.
_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def drawn_svg(text: str) -> str:
    """The `<svg>` element of what a drawing program wrote, without prologue, comments and illegal characters."""
    parts = _ILLEGAL.sub(" ", text[text.index("<svg") :]).split("<!--")
    return (parts[0] + "".join(part.partition("-->")[2] for part in parts[1:])).strip()


class SvgCheck:
    """Reads the tags of a drawing."""

    def __init__(self) -> None:
        self.problem, self._in_style = "", False

    @classmethod
    def of(cls, svg: str) -> str:
        """What is wrong with a drawing, or nothing."""
        check, parser = cls(), expat.ParserCreate()
        parser.StartElementHandler, parser.EndElementHandler = check._start, check._end
        parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = check._text, check._doctype
        if not svg.lstrip().startswith("<svg"):
            return f"it begins with {svg.lstrip()[:20]!a}"
        try:
            parser.Parse(svg.strip(), True)
        except (expat.ExpatError, UnicodeError) as error:
            return f"no XML, {error}"
        return check.problem

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        tag = name.rpartition(":")[2]
        known = tag in _TAGS or name.partition(":")[0] in ("rdf", "cc", "dc", "rdkit")
        self.problem = self.problem or ("" if known else f"a tag {name}")
        self._in_style = tag == "style"
        for key, value in attributes.items():
            own = key.rpartition(":")[2].lower()
            if own.startswith("on") or (own in ("href", "src") and not value.startswith(("#", "data:image/"))):
                self.problem = self.problem or f"an attribute {key}={value[:40]!r}"
            elif not key.startswith("xmlns"):
                self._css(value)

    def _end(self, name: str) -> None:
        self._in_style = False

    def _text(self, text: str) -> None:
        if self._in_style:
            self._css(text)

    def _css(self, text: str) -> None:
        for part in text.lower().split("url(")[1:]:
            if not part.lstrip(" \"'").startswith(("#", "data:image/")):
                self.problem = self.problem or f"a reference url({part[:40]}"
        if "@import" in text.lower() or "javascript:" in text.lower():
            self.problem = self.problem or "a reference in a style"

    def _doctype(self, name: str, *_: object) -> None:
        self.problem = self.problem or "a document type"
