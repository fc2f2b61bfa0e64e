"""Every code block of the docs runs, page by page, in an empty folder; links lead somewhere; sizes hold."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.docs_site import notebook_page, on_page_markdown

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
NOTEBOOKS = sorted((ROOT / "docs").rglob("*.ipynb"))
BLOCK = re.compile(r"^```(\w+)( [^\n]*)?\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")
# Results hold the commands of runs that took hours; what they show is recorded, not repeated here.
RUN_PAGES = [page for page in PAGES if "results" not in page.parts and BLOCK.search(page.read_text(encoding="utf-8"))]
# The code blocks of all pages take a quarter of the suite's time: the others run with `-m slow`, which `.ci/run` does.
DAILY_PAGES = [ROOT / "docs" / page for page in ("tutorial/first-model.md", "how-to/check-data.md")]


# A reader copies the plain command; here it takes seconds, unless the page says itself how long it may take.
SHRINKING = """#!/bin/sh
case " $* " in
  *" loop.epochs="*|*" --limit "*) exec "$DND" "$@" ;;
  " prepare qm9_slice.npz "*) exec "$DND" "$@" --limit 60 ;;
  " denoise "*--recipe*|" distill "*--recipe*) exec "$DND" "$@" ;;
  " denoise "*"loop.stop_after_s="*) exec "$DND" "$@" --recipe tiny loop.epochs=2 loop.stop_after_s=0.5 ;;
  " denoise "*) exec "$DND" "$@" --recipe tiny loop.epochs=2 ;;
  " distill "*"--level auto"*) exec "$DND" "$@" --recipe tiny seeds=2 finetune.loop.epochs=1 ;;
  " distill "*) exec "$DND" "$@" --recipe tiny loop.epochs=1 ;;
  " pretrain-base "*) exec "$DND" "$@" --recipe tiny most_molecules=40 ;;
  " compress "*) exec "$DND" "$@" most_rows=100 loop.epochs=2 ;;
  " finetune "*--time-limit*) exec "$DND" "$@" ;;
  " finetune "*"--recipe small"*) exec "$DND" "$@" baselines=false loop.epochs=2 ;;
  " finetune "*--recipe*) exec "$DND" "$@" ;;
  " finetune "*) exec "$DND" "$@" blend.folds=2 blend.trees=10 baselines=false ;;
  *) exec "$DND" "$@" ;;
esac
"""
SHRINKING_TORCHRUN = """#!/bin/sh
exec "$TORCHRUN" "$@" --recipe tiny loop.epochs=1
"""
# Of Python blocks the finetuning alone takes long.
SHRINKING_PYTHON = """
from dnd.common import config
def shrunk(recipe, overrides, stage, given=config._given):
    if stage != "finetune":
        return given(recipe, overrides, stage)
    own = {"fast": ["blend.folds=2", "blend.trees=10"], "small": ["loop.epochs=1"]}[recipe]
    return given(recipe, ["baselines=false", *own, *overrides], stage)
config._given = shrunk
"""


def blocks(page: Path) -> list[tuple[str, str]]:
    found = [(match[1], match[2] or "", match[3]) for match in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [(language, text) for language, mark, text in found if language in ("sh", "python") and "no-run" not in mark]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "page",
    [page if page in DAILY_PAGES else pytest.param(page, marks=pytest.mark.slow) for page in RUN_PAGES],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_every_code_block_runs(page: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Shell blocks run as they stand but for the size of models, Python blocks share an order but no state."""
    installed, shrinking = Path(sys.executable).parent, tmp_path_factory.mktemp("bin")
    for name, script in (("dnd", SHRINKING), ("torchrun", SHRINKING_TORCHRUN)):
        (shrinking / name).write_text(script)
        (shrinking / name).chmod(0o755)
    path = os.pathsep.join([str(shrinking), str(installed), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "DND_DATA": str(ROOT / "data"), "OMP_NUM_THREADS": "1"}
    environment |= {name.upper(): str(installed / name) for name in ("dnd", "torchrun")}
    for language, text in blocks(page):
        shell = ["bash", "-euo", "pipefail", "-c", text]
        command = shell if language == "sh" else [sys.executable, "-c", SHRINKING_PYTHON + text]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280, check=False
        )
        assert result.returncode == 0, f"{text}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_site_shows_blocks_by_their_language_alone() -> None:
    page = "```sh no-run: needs a GPU\ndnd predict no-run\n```\n```python\n```"
    assert on_page_markdown(page) == "```sh\ndnd predict no-run\n```\n```python\n```"
    assert on_page_markdown("[a](notebooks/first-model.ipynb)") == "[a](notebooks/first-model.md)"


def test_a_notebook_is_a_page_with_its_cells_and_what_they_gave() -> None:
    page = notebook_page(json.loads(NOTEBOOKS[0].read_text(encoding="utf-8")), "first-model.ipynb")
    assert page.startswith("# A chemist's first model\n")
    assert "[This page as a notebook](first-model.ipynb)" in page
    assert "```python\nmade = dnd.finetune(" in page
    assert page.count("](data:image/png;base64,iVBOR") == 1
    assert "<table" in page
    assert "<svg" in page


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_notebook_runs_and_gives_what_is_kept_with_it(path: Path) -> None:
    pytest.importorskip("nbclient", reason="nbclient, of the extra `test`, is not installed")
    command = [sys.executable, str(ROOT / "tests" / "support" / "notebooks.py"), "--check", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


def test_the_tracked_tree_stays_small() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    sizes = [(ROOT / name).stat().st_size for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert sum(sizes) < 40 * 2**20


def test_nothing_that_could_run_foreign_code_is_in_the_package() -> None:
    loaders = r"\b(import pickle|pickle\.loads?|torch\.load|joblib\.load|yaml\.load|shell=True)"
    forbidden = re.compile(loaders + r"|(?<![.\w])(eval|exec)\(")
    hits = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in (ROOT / "src").rglob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if forbidden.search(line) and not line.lstrip().startswith(('"""', "#"))
    ]
    assert not hits
