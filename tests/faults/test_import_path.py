"""No process of ours imports from the folder it stands in, nor from one it was given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from stage_runs import stages

from dnd.common.processes import child_environment, code_command, trusted_path
from dnd.reproduction.grid import WORKER

NAMES = ("numpy", "json", "torch", "sitecustomize", "dnd", "typing", "rdkit", "pickle", "struct", "socket", "typer")


def plant(folder: Path) -> Path:
    """Modules that leave their name in `folder/CANARY` when they are imported; returns that file."""
    folder.mkdir(exist_ok=True, parents=True)
    canary = folder / "CANARY"
    for name in NAMES:
        (folder / f"{name}.py").write_text(
            f"open({str(canary)!r}, 'a').write('{name} ')\nraise ImportError('planted')\n"
        )
    return canary


def run(command: list[str], folder: Path, **variables: str) -> str:
    environment = {**child_environment(), **variables}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


# What a program does that uses `dnd` with an empty entry in PYTHONPATH, from a folder that somebody sent.
CHILDREN = """
import os
os.environ["PYTHONPATH"] = os.pathsep + "." + os.pathsep
del os.environ["PYTHONSAFEPATH"]
sys.path.insert(0, os.getcwd())  # as `python -m` has it
sys.path.insert(0, "")
planted = {entry: sys.path_importer_cache.pop(entry, None) for entry in list(sys.path_importer_cache)}
sys.path.remove("")
sys.path.remove(os.getcwd())
from dnd.common.workers import WorkerPool
import math
sys.path[:0] = ["", os.getcwd()]
with WorkerPool("math:sqrt") as pool:
    print(list(pool.map([4.0, 9.0])))
del sys.path[:2]
with WorkerPool("math:sqrt", copies=True) as pool:
    print(list(pool.map([4.0, 9.0])))
assert os.environ["PYTHONPATH"] == os.pathsep + "." + os.pathsep
"""


def test_no_worker_imports_from_the_current_folder(tmp_path: Path) -> None:
    canary = plant(tmp_path / "here")
    assert run(code_command(CHILDREN), canary.parent) == "[2.0, 3.0]\n[2.0, 3.0]\n"
    assert not canary.exists(), canary.read_text()


def test_python_m_dnd_forgets_the_current_folder_before_it_imports(tmp_path: Path) -> None:
    canary = plant(tmp_path)
    (tmp_path / "dnd.py").unlink()  # what `python -m dnd` finds first is Python's choice; see the page on security
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "dnd", "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not canary.exists(), canary.read_text()


def test_the_path_keeps_what_the_user_named_and_drops_what_nobody_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine, here = str(tmp_path / "mine"), str(tmp_path)
    monkeypatch.setattr(sys, "path", ["", ".", here, mine, "/elsewhere"])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "mine", "."]))
    assert trusted_path() == [mine, "/elsewhere"]
    assert child_environment()["PYTHONPATH"] == mine
    monkeypatch.setenv("PYTHONPATH", here)  # named in full, so it is meant
    assert trusted_path() == [here, mine, "/elsewhere"]
    assert child_environment()["PYTHONPATH"] == here


def test_a_plotting_style_in_the_current_folder_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 77\n")
    code = "import matplotlib\nfrom dnd.report.figures import drawing\n"
    code += "with drawing():\n  print(matplotlib.rcParams['text.usetex'])"
    assert run(code_command(f"exec({code!r})"), tmp_path).strip() == "False"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_verb_imports_from_where_it_stands_or_from_what_it_is_given(tmp_path: Path) -> None:
    """Every folder that a verb is given, and the one it stands in, hold planted modules."""
    here = plant(tmp_path / "here").parent
    dnd = str(Path(sys.executable).with_name("dnd"))
    (tmp_path / "work").mkdir()
    for stage in stages(tmp_path / "work"):
        words = (
            (str(Path(__file__).parents[1] / "data" / "qm9_300.npz"), "--limit", "60")
            if stage.name == "prepare"
            else stage.words
        )
        out = tmp_path / "work" / stage.name
        run([dnd, stage.verb, *words, "-o", str(out)], here)
        plant(out)
    model, table = str(tmp_path / "work" / "finetune"), str(tmp_path / "work" / "labels.csv")
    fast = str(tmp_path / "fast")
    run([dnd, "finetune", table, "--target-columns", "y", "--recipe", "fast", "--split", "random", "-o", fast], here)
    plant(Path(fast))
    for folder in (model, fast):
        run([dnd, "predict", table, "-m", folder, "-o", str(tmp_path / "p.csv"), "--jobs", "2"], Path(folder))
        run([dnd, "explain", "CCO", "-m", folder, "-o", str(tmp_path / f"e-{Path(folder).name}")], Path(folder))
        run([dnd, "evaluate", table, "-m", folder, "--target-columns", "y"], Path(folder))
        run(
            [dnd, "screen", table, "-m", ".", "-o", str(tmp_path / f"s-{Path(folder).name}"), "--jobs", "1"],
            Path(folder),
        )
    run([*WORKER], here)
    run([dnd, "embed", table, "--encoder", str(tmp_path / "work" / "distill"), "-o", str(tmp_path / "x.npy")], here)
    ran = sorted(str(path) for path in tmp_path.rglob("CANARY"))
    assert not ran, [Path(path).read_text() for path in ran]
