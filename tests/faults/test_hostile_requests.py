"""Requests to `dnd serve` that no browser sends: halves of characters, pages of other sites, silent connections."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="the package httpx2 is not installed")

import uvicorn
from fastapi.testclient import TestClient

from dnd.predictor.predictor import Predictor
from dnd.serve import app as serving
from dnd.serve.app import build_app
from dnd.serve.guard import Limits
from dnd.serve.jobs import Jobs
from dnd.serve.models import ServedModels
from serve_toys import two_models

pytestmark = pytest.mark.timeout(300)
API = "/api/v1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ServedModels:
    return ServedModels.load(two_models(tmp_path_factory.mktemp("serve")), device="cpu")


@pytest.fixture(scope="module")
def client(models: ServedModels) -> Iterator[TestClient]:
    with TestClient(build_app(models, Limits())) as own:
        yield own


def test_half_a_character_is_a_bad_molecule_and_its_neighbour_is_answered(client: TestClient) -> None:
    """JSON may hold `\\ud800`, which no answer can: it was an internal error."""
    headers = {"content-type": "application/json"}
    rows = client.post(f"{API}/predict", content=r'{"smiles": ["C\ud800", "CCO"]}', headers=headers).json()["rows"]
    assert "is not printable ASCII" in rows[0]["error"]
    assert rows[1]["error"] == ""
    assert rows[1]["values"]
    table = client.post(f"{API}/predict.csv", content=r'{"smiles": ["C\ud800", "CCO"]}', headers=headers)
    assert table.status_code == 200
    assert len(table.text.splitlines()) == 3
    explained = client.post(f"{API}/explain", content=r'{"smiles": "\ud800"}', headers=headers).json()
    assert "is not printable ASCII" in explained["error"]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("origin", "http://evil.example")], 403),
        ([("origin", "null")], 403),
        ([("origin", "http://testserver:81")], 403),
        ([("origin", "http://testserver.evil.example")], 403),
        ([("origin", "http://testserver")], 200),
        ([("origin", "https://TESTSERVER"), ("sec-fetch-site", "same-origin")], 200),
        ([("sec-fetch-site", "cross-site"), ("sec-fetch-site", "none")], 403),
        ([("sec-fetch-site", "same-site")], 403),
        ([], 200),
    ],
)
def test_pages_of_other_sites_are_refused_also_in_browsers_that_say_only_the_origin(
    client: TestClient, headers: list[tuple[str, str]], status: int
) -> None:
    assert client.post(f"{API}/predict", json={"smiles": ["CCO"]}, headers=headers).status_code == status


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"modle": "x"}, "'modle' is not a field; there are file, model, smiles_column"),
        ({"smiles_column": ["a", "b"]}, "smiles_column is there twice"),
    ],
)
def test_a_field_that_would_not_be_read_is_refused(client: TestClient, more: dict[str, object], said: str) -> None:
    sent = client.post(f"{API}/files", files={"file": ("a.csv", b"a,b\nC,N\n")}, data=more)
    assert (sent.status_code, sent.json()) == (422, {"error": said})


def test_a_host_is_a_name_in_any_case(models: ServedModels) -> None:
    with TestClient(build_app(models, Limits(), hosts=["localhost"])) as own:
        assert own.get("/health", headers={"host": "LOCALHOST:80"}).status_code == 200
        assert own.get("/health", headers={"host": "localhost.evil.example"}).status_code == 421


def test_an_error_of_ours_is_one_line_of_the_log_and_no_trace_back(
    models: ServedModels, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Predictor, smiles: object) -> None:
        raise KeyError("a name")

    monkeypatch.setattr(Predictor, "describe", broken)
    with TestClient(build_app(models, Limits())) as own, caplog.at_level(logging.ERROR):
        assert own.post(f"{API}/predict", json={"smiles": ["C"]}).status_code == 500
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        "internal error of POST /api/v1/predict: KeyError: 'a name'"
    ]


def test_files_that_were_cancelled_leave_the_line_at_once(
    models: ServedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They kept their places, and their files on disk, until the one that was running had ended."""
    gate = threading.Event()
    monkeypatch.setattr(Jobs, "_run", lambda self, job: gate.wait(60))
    with TestClient(build_app(models, Limits(queued=2))) as own:

        def sent() -> int:
            return own.post(f"{API}/files", files={"file": ("a.csv", b"smiles\nC\n")}).status_code

        try:
            assert sent() == 202
            while own.app.state.jobs._line.qsize():  # type: ignore[attr-defined]
                time.sleep(0.01)
            (first,) = own.app.state.jobs._jobs.values()  # type: ignore[attr-defined]
            first.state = "running"  # as `_run` says first
            assert [sent() for _ in range(3)] == [202, 202, 503]
            waiting = [job for job in own.app.state.jobs._jobs.values() if job is not first]  # type: ignore[attr-defined]
            assert [own.delete(f"{API}/files/{job.id}").status_code for job in waiting] == [204, 204]
            assert not any(job.folder.exists() for job in waiting)
            assert [sent() for _ in range(3)] == [202, 202, 503]
        finally:
            gate.set()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server whose requests have half a second to begin, and one to be answered."""
    monkeypatch.setattr(serving, "_SECONDS_TO_ASK", 0.5)

    async def slow(scope: dict[str, object], receive: object, send: object) -> None:
        await asyncio.sleep(1.0)
        await send({"type": "http.response.start", "status": 204, "headers": []})  # type: ignore[operator]
        await send({"type": "http.response.body", "body": b""})  # type: ignore[operator]

    config = uvicorn.Config(slow, port=0, http=serving._Impatient, lifespan="off", log_level="critical", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


@pytest.mark.parametrize(
    ("sent", "answered"),
    [(b"", False), (b"GET / HTTP/1.1\r\nhost: loc", False), (b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", True)],
)
def test_a_connection_that_asks_nothing_is_closed_and_an_answer_is_waited_for(
    port: int, sent: bytes, answered: bool
) -> None:
    """Silent connections were kept for ever, and 320 of them kept everyone else out."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as own:
        own.sendall(sent)
        assert own.recv(100).startswith(b"HTTP/1.1 204") == answered
        if answered:  # and a second request that is not finished on the same connection
            own.sendall(b"GET / HT")
            while own.recv(100):
                pass
