"""Numbers of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnd.common import compute, processes
from dnd.common.about import about_installation
from dnd.common.errors import ConfigError
from dnd.common.processes import process_count

_PROBE = """
import json
from dnd.common.compute import set_threads
count = set_threads()
import scipy.linalg
import torch
from threadpoolctl import threadpool_info
blas = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
print(json.dumps({"count": count, "torch": torch.get_num_threads(), "blas": blas}))
"""


@pytest.mark.parametrize(("given", "expected"), [({}, 1), ({"DND_THREADS": "2"}, 2), ({"OMP_NUM_THREADS": "2,1"}, 2)])
def test_torch_and_every_blas_have_the_same_number_of_threads(given: dict[str, str], expected: int) -> None:
    """BLAS that is loaded before, with NumPy, and after, with SciPy."""
    own = {name: value for name, value in os.environ.items() if not name.endswith("_THREADS")}
    said = subprocess.run([sys.executable, "-c", _PROBE], env=own | given, capture_output=True, check=True, timeout=60)
    found = json.loads(said.stdout)
    assert found["count"] == found["torch"] == expected
    assert len(found["blas"]) >= 2
    assert {min(count, os.cpu_count() or 1) for count in found["blas"]} == {min(expected, os.cpu_count() or 1)}


@pytest.mark.parametrize(("text", "expected"), [("4", 4), ("4,1", 4), (" 3 , 2", 3), ("", 1), (" ", 1), ("0002", 2)])
def test_of_a_list_of_threads_the_first_number_counts(
    monkeypatch: pytest.MonkeyPatch, text: str, expected: int
) -> None:
    monkeypatch.delenv("DND_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert processes.threads_asked_for() == expected
    assert next(line for line in about_installation() if line.startswith("threads")).split()[1] == f"{expected},"


def test_a_system_that_does_not_say_which_processors_are_ours_has_processors_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As macOS; one place asks, so that no verb ends there."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert process_count(0) == os.cpu_count()
    sources = Path(compute.__file__).parents[1].rglob("*.py")
    assert [path.name for path in sources if "sched_getaffinity" in path.read_text()] == ["processes.py"]


@pytest.mark.parametrize("text", ["four", "0", "-1", "1.5", ",2", "٤", "99999", "0,4"])
@pytest.mark.parametrize("variable", ["DND_THREADS", "OMP_NUM_THREADS"])
def test_what_is_no_number_of_threads_is_one_line(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    monkeypatch.delenv("DND_THREADS", raising=False)
    monkeypatch.setenv(variable, text)
    with pytest.raises(ConfigError, match=f"{variable} is no number of threads: found .*expected a whole number"):
        compute.set_threads()
