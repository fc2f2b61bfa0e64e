"""What the site needs besides the pages: `mkdocs` calls it for each of them, and makes pages of the notebooks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

MARK = " no-run"  # behind the language of a block: what the tests do with it, and why


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with blocks that have a language alone, and with links to the pages of notebooks."""
    lines = [line.partition(MARK)[0] if line.startswith("```") else line for line in markdown.split("\n")]
    return re.sub(r"(notebooks/[\w-]+)\.ipynb\)", r"\1.md)", "\n".join(lines))


def on_files(files: Any, config: Any, **_: Any) -> Any:
    """The files of the site, with a page for each notebook; the notebook lies beside it, to be fetched."""
    from mkdocs.structure.files import File

    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            content = Path(file.abs_src_path).read_text(encoding="utf-8")
            page = notebook_page(json.loads(content), Path(file.src_uri).name)
            files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=page))
    return files


def notebook_page(notebook: dict[str, Any], name: str) -> str:
    """A notebook as Markdown: its text, its cells, and the outputs kept with them, pictures within the page."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        parts += [_shown(output) for output in cell["outputs"]]
    fetch = f"[This page as a notebook]({name})"
    return "\n\n".join([parts[0], fetch, *parts[1:]]) + "\n"


def _shown(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f"![Output of the cell above](data:image/png;base64,{''.join(data['image/png']).strip()})"
    if "text/html" in data:
        return "".join(data["text/html"]).replace("\n", " ")
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"
