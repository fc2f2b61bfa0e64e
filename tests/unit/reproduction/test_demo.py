"""What the demo says of its numbers is true, whichever way they went; a line moves while it works."""

from __future__ import annotations

import io
import time
from pathlib import Path

import numpy as np
import pytest

from dnd.common.log import LOGGER, PROGRESS, RESULT, told
from dnd.reproduction import demo
from dnd.reproduction.demo import Progress, run_demo
from dnd.reproduction.demo_report import (
    FINETUNED,
    Knowledge,
    System,
    compare,
    knowledge_sentence,
    paired_interval,
    table_lines,
)
from support.said import said

SIGNS = np.where(np.arange(100) % 2, 1.0, -1.0)


def system(name: str, rmse: float, valid: float | None = None, noise: float = 0.0) -> System:
    errors_B = SIGNS * (1 + noise * np.sin(np.arange(100)))
    errors_B *= rmse / np.sqrt(np.mean(errors_B**2))
    return System(name, rmse if valid is None else valid, errors_B)


def systems(finetuned: float, forest: float, noise: float = 0.0) -> list[System]:
    return [
        system(FINETUNED, finetuned, noise=noise),
        system("random forest counts", forest),
        system("random forest descriptors", forest - 0.5, valid=9.0),  # better on the test part, which must not matter
    ]


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((0.8, 1.0), ["better than", "0.80 against 1.00", "change -0.20"]),
        ((1.2, 1.0), ["worse than", "1.20 against 1.00", "change +0.20"]),
        ((1.0, 1.0), ["level with", "change +0.00"]),
    ],
)
def test_the_sentence_follows_the_numbers(numbers: tuple[float, float], expected: list[str]) -> None:
    sentence = compare(systems(*numbers))
    assert all(words in sentence for words in expected), sentence
    assert "random forest counts" in sentence


def test_a_difference_within_the_scatter_is_no_difference() -> None:
    assert "level with" in compare(systems(0.98, 1.0, noise=0.9))
    assert "better than" in compare(systems(0.98, 1.0))


def test_what_distillation_gave_is_counted_whichever_way_it_went() -> None:
    found = [Knowledge("gap", 0.8, 0.7), Knowledge("r2", 0.3, 0.5), Knowledge("mu", 0.1, -0.2)]
    assert "2 of 3 properties" in knowledge_sentence(found)
    assert "median R² 0.30 against 0.50" in knowledge_sentence(found)


def test_the_interval_holds_the_difference_and_is_repeatable() -> None:
    ours, theirs = system("a", 1.0, noise=0.5), system("b", 1.1)
    low, high = paired_interval(ours, theirs)
    assert low < ours.test_rmse - theirs.test_rmse < high
    assert paired_interval(ours, theirs) == (low, high)


def test_the_table_has_a_line_for_each_system() -> None:
    lines = list(table_lines(systems(0.8, 1.0)))
    assert len(lines) == 4
    assert lines[1].split()[-2:] == ["0.800", "0.800"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_moves_while_a_stage_works(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "kind": "step", "loss": 0.5, "step": 40}\n{"torn')
    stream, kept = io.StringIO(), []
    progress = Progress(stream, every_s=0.02)
    with told(PROGRESS), said(kept):
        with progress.stage("distill", tmp_path, 7):
            time.sleep(0.3)
        progress.say("a line that stays")
    lines = stream.getvalue().splitlines()
    assert len(lines) > 2
    assert all(line.startswith("   distill  ") and line.endswith("epoch 2 of 7  step 40  loss 0.500") for line in lines)
    assert kept == ["a line that stays"]


def test_on_a_terminal_the_line_is_rewritten_and_goes_away() -> None:
    stream = Terminal()
    with told(PROGRESS), Progress(stream, every_s=0.02).stage("prepare"):
        time.sleep(0.2)
    text = stream.getvalue()
    assert "\n" not in text
    assert text.count("\r\x1b[K   prepare") > 1
    assert text.endswith("\r\x1b[K")
    assert max(demo.TERMINAL_EVERY_S, demo.ELSEWHERE_EVERY_S) < 5


def test_a_stream_that_is_closed_stops_nothing() -> None:
    stream = io.StringIO()
    with told(PROGRESS), Progress(stream, every_s=0.02).stage("prepare"):
        stream.close()
        time.sleep(0.1)
        went_on = True
    assert went_on
    assert stream.closed


def test_a_stage_shows_its_own_line_only(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with told(PROGRESS), Progress(stream, every_s=0.02).stage("prepare"):
        LOGGER.info("an account of the stage")
        LOGGER.warning("a warning")
        time.sleep(0.1)
    assert capsys.readouterr() == ("", "a warning\n")
    assert "prepare" in stream.getvalue()


def test_nothing_moves_where_nothing_is_shown() -> None:
    stream = io.StringIO()
    with told(RESULT), Progress(stream, every_s=0.02).stage("prepare"):
        time.sleep(0.1)
    assert stream.getvalue() == ""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_whole_demo(tmp_path: Path) -> None:
    """All its parts, for real: minutes of a busy core."""
    found = run_demo(tmp_path / "demo", jobs=1)
    own = {entry.name: entry.test_rmse for entry in found.systems}
    assert own[FINETUNED] < 0.6 * own["mean"]
    assert sum(one.distilled > one.untrained for one in found.knowledge) > len(found.knowledge) / 2
    text = found.report.read_text(encoding="utf-8")
    assert text.count("<svg") > 12
    assert "unclosed ring" in text
    assert (tmp_path / "demo" / "model" / "report.html").is_file()
    again = run_demo(tmp_path / "demo", jobs=1)
    assert again.sentence == found.sentence
