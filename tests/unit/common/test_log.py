"""One logger: silent in a library, shown by a command, written to a file; one line that moves."""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from dnd.__main__ import _show_any_text
from dnd.common import log
from dnd.common.errors import InputError
from dnd.common.log import LOGGER, PROGRESS, RESULT, Progress, data_stream, is_shown, level_of, muted, told
from support.said import said

LEVELS = {"epoch": logging.DEBUG, "far": PROGRESS, "done": logging.INFO, "out": RESULT, "odd": logging.WARNING}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def say_all() -> None:
    for word, level in LEVELS.items():
        LOGGER.log(level, word)


def test_a_library_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    say_all()
    with told(level_of(False)):
        say_all()
    assert capsys.readouterr() == ("", "")


def test_a_user_who_configures_logging_gets_the_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    say_all()
    assert caplog.messages == ["done", "out", "odd"]


@pytest.mark.parametrize(
    ("level", "out", "err"),
    [
        (PROGRESS, "done\nout\n", "far\nodd\n"),
        (logging.DEBUG, "done\nout\n", "epoch\nfar\nodd\n"),
        (RESULT, "out\n", "odd\n"),
    ],
)
def test_each_level_has_its_stream(level: int, out: str, err: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = LOGGER.level, list(LOGGER.handlers)
    with told(level):
        say_all()
    assert capsys.readouterr() == (out, err)
    assert (LOGGER.level, LOGGER.handlers) == before


def test_verbose_stands_for_levels() -> None:
    assert [level_of(verbose) for verbose in (False, 0, True, 1, 2)] == [
        None, None, PROGRESS, PROGRESS, logging.DEBUG,
    ]  # fmt: skip


def test_nothing_is_shown_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with told(PROGRESS), told(PROGRESS):
        LOGGER.info("once")
    lines: list[str] = []
    with said(lines), told(PROGRESS):  # the user's own handler
        LOGGER.info("theirs")
    assert capsys.readouterr().out == "once\n"
    assert lines == ["theirs"]


def test_what_is_shown_commands_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with told(PROGRESS, tmp_path / "log"):
        LOGGER.info("column \x1b[2J\r")
        LOGGER.warning("column \x9b2J")
    found = capsys.readouterr()
    assert found == ("column \\x1b[2J\\r\n", "column \\x9b2J\n")
    assert "\x1b" not in (tmp_path / "log").read_text()
    assert (tmp_path / "log").read_text().endswith("WARNING column \\x9b2J\n")


def test_muted_leaves_the_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    with told(logging.DEBUG):
        with muted(progress=True):
            say_all()
            assert not is_shown(PROGRESS)
        assert capsys.readouterr() == ("", "odd\n")
        with muted(progress=False):
            say_all()
            assert is_shown(PROGRESS)
        assert capsys.readouterr() == ("", "epoch\nfar\nodd\n")
        assert is_shown(PROGRESS)
    assert not is_shown(logging.WARNING)


def test_other_ranks_only_warn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with told(logging.DEBUG, tmp_path / "log"):
        say_all()
    assert capsys.readouterr() == ("", "odd\n")
    assert not (tmp_path / "log").exists()


def test_a_log_file_has_every_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        with told(RESULT, tmp_path / "log"):
            say_all()
    lines = (tmp_path / "log").read_text().splitlines()
    assert [line.split(maxsplit=2)[2] for line in lines] == [
        "DEBUG epoch", "PROGRESS far", "INFO done", "RESULT out", "WARNING odd",
    ] * 2  # fmt: skip
    assert capsys.readouterr() == ("out\n" * 2, "odd\n" * 2)


def test_a_log_file_takes_nothing_for_its_own(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("smiles,y\nCCO,1\n")
    with (
        pytest.raises(InputError, match=r"data.csv is not a log file: found 'smiles,y"),
        told(None, tmp_path / "data.csv"),
    ):
        pass
    assert (tmp_path / "data.csv").read_text() == "smiles,y\nCCO,1\n"
    with pytest.raises(InputError, match="cannot write the log file"), told(None, tmp_path / "data.csv" / "log"):
        pass
    with told(None, tmp_path / "new folder" / "log"):  # as --out makes it
        pass
    assert (tmp_path / "new folder" / "log").is_file()
    (tmp_path / "link").symlink_to(tmp_path / "new")
    with pytest.raises(InputError, match="link"), told(None, tmp_path / "link"):
        pass


def test_standard_output_takes_any_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table with a letter that the encoding of the terminal lacks ended in an internal error."""
    lines, rows = io.BytesIO(), io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(lines, encoding="ascii"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    _show_any_text()
    print("5 µM", flush=True)
    assert lines.getvalue() == b"5 \\xb5M\n"
    stream = data_stream(io.TextIOWrapper(rows, encoding="latin-1"))
    print("µ, 名", file=stream, flush=True)
    assert rows.getvalue().decode() == "µ, 名\n"  # as in a file


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_behind_the_log_file_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "open_own", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    with told(PROGRESS, tmp_path / "log"):
        LOGGER.info("one")
        LOGGER.info("two")
    found = capsys.readouterr()
    assert found.out == "one\ntwo\n"
    assert found.err.count("any more") == 1
    assert "No space left" in found.err


def test_progress_says_rate_and_time_left(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with told(PROGRESS):
        progress = Progress("screen", unit="row", total=100_000, first=2000, about=True)
        progress.advance(1000)
        assert progress.line(10.0) == "screen  3,000 of about 100,000 rows  100 per second  16 min 10 s left"
        assert capsys.readouterr().err == ""
        monkeypatch.setattr(log, "LINE_EVERY_S", -1.0)
        progress.advance(97_000, note="loss 0.5")
        assert "100,000 of about 100,000 rows" in capsys.readouterr().err
        progress.close()
    assert capsys.readouterr().err.rstrip().endswith("loss 0.5")
    assert Progress("denoise", unit="step").line(1.0) == "denoise  0 steps  0 per second"


def test_on_a_terminal_one_line_is_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with told(PROGRESS):
        progress = Progress("finetune, seed 0", unit="step", total=4)
        for _ in range(4):
            progress.advance(note="epoch 1, loss 0.25")
        LOGGER.warning("a line that stays")
        progress.close()
        second = Progress("finetune, seed 1", unit="step", total=4)
        second.close(say=False)
    text = stream.getvalue()
    assert "finetune, seed 0: " in text
    assert "finetune, seed 1: " in text
    assert re.search(r"\r[^\r]* 0 of 4 steps, \? left", text)  # nothing is done yet
    assert next(line.split("\r")[-1] for line in text.split("\n")) == "a line that stays"
    assert text.count("\n") == 1


def test_a_line_that_moves_says_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with told(PROGRESS):
        progress = Progress("features", unit="molecule", total=100)
        time.sleep(0.15)  # tqdm draws no more often than every tenth of a second
        progress.reach(50)
        progress.close(say=False)
    assert re.search(r"\rfeatures: +50%[^\r]* 50 of 100 molecules, 00:00 left", stream.getvalue())


def test_a_run_that_fails_takes_its_line_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with told(PROGRESS):
        Progress("denoise", unit="step", total=4).advance()
    assert stream.getvalue().rstrip(" ").endswith("\r")


def test_a_notebook_has_its_own_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    made: list[dict[str, object]] = []

    class Bar:
        def __init__(self, **options: object) -> None:
            made.append(options)

        def __getattr__(self, name: str) -> object:
            return lambda *words, **options: None

    monkeypatch.setitem(sys.modules, "tqdm.auto", SimpleNamespace(tqdm=Bar))
    with told(PROGRESS):
        Progress("denoise", unit="step", total=4).close()
    assert [(one["desc"], one["total"]) for one in made] == [("denoise", 4)]
