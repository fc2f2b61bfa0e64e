"""K7: a run is not resumed under settings that change its result, nor by another version; the difference is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from children import training
from outcomes import outcome

from dnd.common import run_record
from dnd.common.errors import InputError
from dnd.common.versions import package_versions


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 2}, "seed 1 → 2"),
        ({"batch_size": 4}, "batch_size 8 → 4"),
        ({"epochs": 5}, "epochs 3 → 5"),
        ({"rows": 40}, "rows 32 → 40"),
        ({"seed": 2, "batch_size": 4}, "batch_size 8 → 4; seed 1 → 2"),
    ],
)
def test_other_settings_are_refused_and_listed(scratch: Path, changes: dict[str, Any], said: str) -> None:
    training(scratch, stop_after_s=0.0)
    before = outcome(scratch)
    with pytest.raises(InputError, match=f"holds a run with other settings: found {said}"):
        training(scratch, **changes)
    assert outcome(scratch) == before


@pytest.mark.parametrize("package", ["dnd", "torch"])
def test_another_version_is_refused(scratch: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    training(scratch, stop_after_s=0.0)
    newer = {**package_versions(), package: "99.0"}
    monkeypatch.setattr(run_record, "package_versions", lambda: newer)
    with pytest.raises(InputError, match=rf"{package} .* → 99\.0"):
        training(scratch)


def test_settings_that_change_no_bit_may_differ(scratch: Path, uninterrupted: dict[str, str]) -> None:
    training(scratch, stop_after_s=0.0)
    training(scratch, checkpoint_every=None, checkpoint_seconds=1.0, log_every=7, threads=2)
    assert outcome(scratch) == uninterrupted


def test_without_resume_a_folder_that_holds_a_run_is_refused(scratch: Path) -> None:
    training(scratch, stop_after_s=0.0)
    with pytest.raises(InputError, match="Add --resume to go on"):
        training(scratch, resume=False)
