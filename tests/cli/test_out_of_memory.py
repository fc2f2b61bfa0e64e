"""Memory that can't be had is one line with what to lower, however a library says it."""

from __future__ import annotations

import pytest

from dnd.cli import main as command

TORCH = "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried 99 bytes"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "out of memory: lower loop.batch_size"),
        (RuntimeError(TORCH), "out of memory: lower loop.batch_size"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "out of memory: lower loop.batch_size"),
        (RuntimeError("a\nb"), "internal error: RuntimeError: a b"),
    ],
)
def test_one_line(
    error: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(verb: str | None) -> None:
        raise error

    monkeypatch.delenv("DND_DEBUG", raising=False)
    monkeypatch.setattr(command, "build_app", fail)
    with pytest.raises(SystemExit) as ended:
        command.main(["doctor", "x"])
    assert ended.value.code == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"dnd: {said}")
