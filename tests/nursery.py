"""Children that may be killed: forked by a process that has imported torch and has run nothing with it.

Importing torch costs seconds, and a fork after a torch operation may hang; so a nursery imports, and forks on demand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).parent


class Child:
    """A process that runs one task."""

    def __init__(self, nursery: Nursery, pid: int, output: Path) -> None:
        self._nursery, self.pid, self._output = nursery, pid, output

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> int:
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Its exit code; minus the signal's number if a signal ended it."""
        return self._nursery.ask({"wait": self.pid})

    @property
    def output(self) -> str:
        return self._output.read_text()


class Nursery:
    """Forks children that call functions of one module.

    Args:
        tasks: the module's file; its function `run(task, arguments)` never returns, and `preload()`, if it has one,
            imports what its tasks will need.
        scratch: folder for what the children print.
    """

    def __init__(self, tasks: Path, scratch: Path) -> None:
        self._scratch, self._count = scratch, 0
        path = os.pathsep.join([str(HERE), str(tasks.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
        command = [sys.executable, "-W", "ignore", str(HERE / "nursery.py"), tasks.stem]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.ask({"ready": True})

    def ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, task: str, *, variables: dict[str, str] | None = None, **arguments: Any) -> Child:
        """Fork a child that calls `<task>(**arguments)` with further environment variables."""
        self._count += 1
        output = self._scratch / f"child-{self._count}.txt"
        request = {"task": task, "arguments": arguments, "output": str(output), "variables": variables or {}}
        pid = self.ask(request)
        return Child(self, pid, output)

    def run(self, task: str, **arguments: Any) -> Child:
        """Start a child and wait for a good end."""
        child = self.start(task, **arguments)
        code = child.wait()
        assert code == 0, child.output
        return child

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(timeout=300)


def _serve() -> None:
    import_module("torch._dynamo")  # else the first optimizer step imports it in each child, for two seconds
    module = import_module(sys.argv[1])
    if hasattr(module, "preload"):
        module.preload()

    for line in sys.stdin:
        request = json.loads(line)
        if "ready" in request:
            answer = 1
        elif "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        else:
            answer = os.fork()
            if answer == 0:
                output = os.open(request["output"], os.O_WRONLY | os.O_CREAT)
                os.dup2(output, 1)
                os.dup2(output, 2)
                os.environ.update(request["variables"])
                module.run(request["task"], request["arguments"])
        os.write(1, f"{answer}\n".encode())


def end_like_the_command(action: Callable[[], object]) -> NoReturn:
    """Call `action` and leave the process with the exit code that the installed command would have."""
    from dnd.common.errors import DndError

    code = 1
    try:
        action()
        code = 0
    except DndError as error:
        code = error.exit_code
        print(f"dnd: {error}", file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
