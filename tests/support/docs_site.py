"""What the site needs besides the pages: `mkdocs` calls it for each of them."""

from __future__ import annotations

from typing import Any

MARK = " no-run"  # behind the language of a block: what the tests do with it, and why


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with blocks that have a language alone."""
    lines = markdown.split("\n")
    return "\n".join(line.partition(MARK)[0] if line.startswith("```") else line for line in lines)
