"""A real server on loopback: many at once and none lost, memory that stays, and a stop that lets work end."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from dnd.common.errors import ConfigError
from dnd.predictor.predictor import Predictor
from dnd.serve.app import _listening
from finetuning_toys import molecules, tiny_model
from serve_toys import served

PARALLEL = 50
GROWTH_MB = 40  # of the resident memory between the first tenth of the requests and the last
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("load"))


@pytest.fixture
def server(model: Path) -> Iterator[tuple[str, object]]:
    with served([model]) as found:
        yield found


def ask(address: str, numbers: Iterator[int], wanted: list[float]) -> Counter[str]:
    """One visitor's requests, one after the other; how many were answered and how."""
    found: Counter[str] = Counter()
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    for number in numbers:
        place = number % len(wanted)
        body = json.dumps({"smiles": [molecules()[place], "C1CC"]})
        connection.request("POST", "/api/v1/predict", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        rows = json.loads(answer.read())["rows"]
        right = abs(rows[0]["values"][0]["value"] - wanted[place]) < 1e-2 and rows[1]["error"]
        found[f"{answer.status} {'right' if right else 'wrong'}"] += 1
    connection.close()
    return found


def resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.mark.parametrize("requests", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_fifty_at_once_lose_nothing_and_memory_stays(server, model: Path, requests: int):
    address, process = server
    wanted = [float(value) for value in Predictor.load(model, device="cpu").predict(molecules())["size_pred"]]
    lock, numbers, memory = threading.Lock(), iter(range(requests)), {}

    def shared() -> Iterator[int]:
        while True:
            with lock:
                number = next(numbers, None)
                if number is not None and number % (requests // 10) == 0:
                    memory[number] = resident_mb(process.pid)
            if number is None:
                return
            yield number

    with ThreadPoolExecutor(PARALLEL) as visitors:
        found = sum(visitors.map(lambda _: ask(address, shared(), wanted), range(PARALLEL)), Counter())
    print(f"{requests} requests, {PARALLEL} at once; resident MB: {[round(value) for value in memory.values()]}")
    assert found == {"200 right": requests}
    assert memory[requests // 10 * 9] - memory[requests // 10] < GROWTH_MB


def test_a_stop_lets_a_request_end(server):
    address, process = server
    answers: list[int] = []

    def visit() -> None:
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        body = json.dumps({"smiles": (molecules() * 19)[:1000]})
        connection.request("POST", "/api/v1/predict", body, {"content-type": "application/json"})
        sent.set()
        answer = connection.getresponse()
        answers.append(len(json.loads(answer.read())["rows"]))
        connection.close()

    sent = threading.Event()
    visitor = threading.Thread(target=visit)
    visitor.start()
    sent.wait(20)
    threading.Event().wait(0.5)  # until the request is read
    process.send_signal(signal.SIGTERM)
    visitor.join(60)
    assert answers == [1000]
    assert process.wait(60) == 0


def test_a_closed_terminal_stops_it_and_leaves_no_folder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with served([model]) as (_, process):
        assert list(tmp_path.glob("dnd-serve-*"))
        process.send_signal(signal.SIGHUP)
        assert process.wait(60) == 0
        assert not list(tmp_path.glob("dnd-serve-*"))


def test_an_address_that_can_not_be_listened_at_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"can't listen at 127.0.0.1, port {port}: found .*in use.*--port"):
            _listening("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"can't listen at no.such.host.invalid"):
        _listening("no.such.host.invalid", 0)
    (own,) = _listening("127.0.0.1", 0)
    own.close()
