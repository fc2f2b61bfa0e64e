"""A worker of the grid that is forked rather than started anew: the same protocol without seconds of imports."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import Any, NoReturn

from dnd.reproduction import cells as cell_process


class ForkedWorker:
    """As much of `subprocess.Popen` as the grid uses."""

    def __init__(self, command: list[str], **pipes: Any) -> None:
        child_in, own_out = os.pipe()
        own_in, child_out = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(own_out)
            os.close(own_in)
            _serve(child_in, child_out)
        os.close(child_in)
        os.close(child_out)
        self.stdin, self.stdout = os.fdopen(own_out, "wb", 0), os.fdopen(own_in, "rb", 0)

    def poll(self) -> int | None:
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def wait(self, timeout: float = 3600.0) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("worker", timeout)
            time.sleep(0.005)
        return code

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)


def _serve(child_in: int, child_out: int) -> NoReturn:
    os.dup2(child_in, 0)
    os.dup2(child_out, 1)
    os.close(child_in)
    os.close(child_out)
    try:
        cell_process.serve()
    finally:
        os._exit(0)
