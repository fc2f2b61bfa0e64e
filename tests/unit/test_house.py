"""The shape of the house: no circle of imports, the order of the rooms, and how many files a command executes."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import dnd
from support.executed_modules import executed
from support.rooms import PICTURE, ROOMS, between_rooms, cycles, modules, picture

PACKAGE = Path(dnd.__file__).parent
SCRIPT = Path(__file__).parents[1] / "support" / "executed_modules.py"


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert cycles() == []


def test_a_room_imports_only_rooms_below_it() -> None:
    place = {name: number for number, name in enumerate(ROOMS)}
    assert {(a, b) for a, b in between_rooms() if place[a] < place[b]} == set()


def test_every_module_is_in_a_room_that_the_picture_shows() -> None:
    rooms = {name.split(".")[1] for name in modules() if "." in name} - {"__main__", "recipes", "vocabulary"}
    assert rooms == set(ROOMS)
    assert PICTURE.read_text(encoding="utf-8") == picture(), "run python tests/support/rooms.py"


REFERENCE = re.compile(r"`((?:dnd\.)?[a-z_]+(?:\.[A-Za-z_]+)+)`")
FILES = ("csv", "html", "json", "jsonl", "md", "onnx", "safetensors", "txt")


def leads_somewhere(name: str) -> bool:
    """Whether `room.module`, or `room.module.NAME`, is a module or what one of them defines."""
    parts = name.split(".")
    for cut in range(len(parts), -1, -1):
        module = PACKAGE.joinpath(*parts[:cut])
        path = module / "__init__.py" if module.is_dir() else module.with_suffix(".py")
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            pattern = rf"^(?:(?:async )?def |class )?{parts[cut]}\b|\"{parts[cut]}\"" if cut < len(parts) else ""
            return re.search(pattern, text, re.MULTILINE) is not None
    return False


def test_what_docstrings_and_comments_refer_to_is_there() -> None:
    lost = [
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for name in REFERENCE.findall(path.read_text(encoding="utf-8"))
        if name.split(".")[0] in ("dnd", *ROOMS) and name.rpartition(".")[2] not in FILES
        if not leads_somewhere(name.removeprefix("dnd."))
    ]
    assert lost == []


def test_the_count_of_executed_files_sees_this_process() -> None:
    import dnd.common.errors  # noqa: F401

    assert "common/errors.py" in executed()


pytestmark = pytest.mark.timeout(400)  # two whole commands in fresh processes


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Files that `finetune --recipe best` and `predict` with its blend execute."""
    folder = tmp_path_factory.mktemp("house")
    with gzip.open(str(files("dnd.data") / "esol.csv.gz"), "rt") as source:
        (folder / "esol.csv").write_text("".join(source.readlines()[:61]))
    small = ["loop.epochs=1", "blend.folds=2", "blend.trees=5", "ensemble=1", "probe_steps=1", "baselines=false"]
    commands = {
        "finetune": ["finetune", "esol.csv", "-o", "model", "--target-columns", "logS", "--recipe", "best", *small],
        "predict": ["predict", "esol.csv", "-m", "model", "-o", "out.csv"],
    }
    return {verb: _executed(folder, words) for verb, words in commands.items()}


def _executed(folder: Path, words: list[str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *words], cwd=folder, capture_output=True, text=True, timeout=300, check=True
    )
    lines = done.stdout.splitlines()
    number = int(lines[-1])
    return lines[-1 - number : -1]


def test_a_finetuning_executes_few_of_our_files(counted: dict[str, list[str]]) -> None:
    assert len(counted["finetune"]) <= 75, counted["finetune"]


def test_a_prediction_executes_few_of_our_files_and_no_trainer(counted: dict[str, list[str]]) -> None:
    assert len(counted["predict"]) <= 42, counted["predict"]
    assert not [
        name for name in counted["predict"] if name.startswith(("finetuning/", "pretraining/", "training/loop"))
    ]
