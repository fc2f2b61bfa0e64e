"""The interface of `dnd serve`: answers, limits, files, and what it refuses."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="the package httpx2 is not installed")

from fastapi.testclient import TestClient

from dnd.cli.main import main
from dnd.common.errors import ConfigError
from dnd.prediction.files import predict_file
from dnd.predictor.predictor import Predictor
from dnd.serve import guard
from dnd.serve.app import build_app
from dnd.serve.guard import BusyError, Limits, Receive, Send, TooSlowError, Turns, problem
from dnd.serve.models import ServedModels, reasons_of
from finetuning_toys import molecules
from serve_toys import two_models

pytestmark = pytest.mark.timeout(300)
API = "/api/v1"
ASKED = ["c1ccccc1CO", "no molecule", "C1CC", "CCC1CCCCC1", "C1CC"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return two_models(tmp_path_factory.mktemp("serve"))


@pytest.fixture(scope="module")
def models(folders: list[Path]) -> ServedModels:
    return ServedModels.load(folders, device="cpu")


@pytest.fixture(scope="module")
def client(models: ServedModels) -> Iterator[TestClient]:
    with TestClient(build_app(models, Limits())) as own:
        yield own


@pytest.fixture
def limited(models: ServedModels) -> Iterator[TestClient]:
    limits = Limits(body_bytes=4000, smiles=3, rows=10, queued=2, page_rows=4)
    with TestClient(build_app(models, limits, hosts=["testserver"])) as own:
        yield own


def finished(client: TestClient, place: str) -> dict:
    for _ in range(600):
        job = client.get(place).json()
        if job["state"] in ("done", "failed"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)


def send(client: TestClient, content: bytes, name: str = "mine.csv", **fields: str):
    return client.post(f"{API}/files", files={"file": (name, content)}, data=fields)


def test_the_models_say_what_they_predict(client: TestClient):
    found = client.get(f"{API}/models").json()
    assert [one["name"] for one in found] == ["model", "classes"]
    assert found[0]["targets"] == [{"name": "size", "title": "", "unit": "", "kind": "regression", "classes": []}]
    assert [one["kind"] for one in found[1]["targets"]] == ["classification", "classification"]


def test_values_are_those_of_the_model_and_bad_rows_have_their_reason(client: TestClient, folders: list[Path]):
    found = client.post(f"{API}/predict", json={"smiles": ASKED}).json()
    expected = Predictor.load(folders[0], device="cpu").predict(ASKED)
    assert found["model"] == "model"
    assert [row["smiles"] for row in found["rows"]] == ASKED
    assert [row["error"] for row in found["rows"]] == list(expected["error"])
    assert [row["values"][0]["value"] for row in (found["rows"][0], found["rows"][3])] == pytest.approx(
        [expected["size_pred"][0], expected["size_pred"][3]]
    )
    assert [row["in_domain"] for row in found["rows"]] == [
        {"yes": True, "no": False, "": None}[word] for word in expected["in_domain"]
    ]
    assert found["reasons"][0] == {"reason": "unclosed ring for input: 'C1CC'", "rows": 2, "first_row": 3}
    assert found["rows"][1]["values"] == []


def test_the_table_of_a_paste_is_that_of_predict(client: TestClient, folders: list[Path], tmp_path: Path):
    asked = [*ASKED, "=1+1", "'=1+1"]  # a spreadsheet would run the first
    answer = client.post(f"{API}/predict.csv", json={"smiles": asked, "model": "classes"})
    assert answer.headers["content-type"].startswith("text/csv")
    source, out = tmp_path / "asked.csv", tmp_path / "out.csv"
    source.write_text("\n".join(["smiles", *asked]) + "\n")
    predict_file(Predictor.load(folders[1], device="cpu"), source, str(out))
    assert answer.text == out.read_text()
    assert "\n'=1+1," in answer.text


def test_an_explanation_has_an_atom_each(client: TestClient):
    found = client.post(f"{API}/explain", json={"smiles": "OCc1ccccc1", "target": "hetero", "model": "classes"}).json()
    assert (found["smiles"], found["target"], found["unit"]) == ("OCc1ccccc1", "hetero", "log-odds")
    assert found["atoms"] == ["O", *"CCCCCCC"]
    assert len(found["contributions"]) == 8
    assert found["svg"].startswith("<svg")
    assert client.post(f"{API}/explain", json={"smiles": "C1CC"}).json()["error"].startswith("unclosed ring")
    assert client.post(f"{API}/explain", json={"smiles": "C", "target": "logP"}).status_code == 422


def test_what_is_no_json_is_told_what_to_send(client: TestClient):
    for content, kind in (
        (b'{"smiles":', "application/json"),
        (b'{"smiles": ["C"]}', "text/plain"),
        (b"[]", "application/json"),
    ):
        answer = client.post(f"{API}/predict", content=content, headers={"content-type": kind})
        assert answer.status_code == 422
        assert answer.json()["error"].endswith("not a JSON object; send one with content-type: application/json")


def test_a_drawing_is_an_image_that_runs_nothing(client: TestClient):
    found = client.get(f"{API}/drawing", params={"smiles": "CCO"})
    assert found.headers["content-type"] == "image/svg+xml"
    assert found.headers["content-security-policy"].startswith("default-src 'none'")
    assert "<script" not in found.text
    assert client.get(f"{API}/drawing", params={"smiles": "no molecule"}).status_code == 404


def test_a_file_comes_back_with_its_own_rows_and_columns(client: TestClient, folders: list[Path]):
    lines = ["name;smiles", *(f"m{place};{text}" for place, text in enumerate(molecules())), 'odd;"CCO', "bad;C1CC"]
    answer = send(client, gzip.compress("\n".join(lines).encode()), "../../my molecules.csv.gz")
    assert answer.status_code == 202
    job = finished(client, answer.headers["location"])
    assert (job["state"], job["file"], job["done"], job["rows"]) == ("done", "my molecules.csv.gz", 56, 56)
    assert [one["rows"] for one in job["reasons"]] == [1, 1]
    assert job["reasons"][0]["reason"] == "a quote is opened and never closed"
    table = client.get(f"{API}/files/{job['id']}/result.csv")
    rows = list(csv.DictReader(io.StringIO(table.text), delimiter=";"))
    assert [row["name"] for row in rows] == [line.partition(";")[0] for line in lines[1:]]
    page = client.get(f"{API}/files/{job['id']}/rows", params={"start": 50, "count": 10}).json()
    assert (page["start"], page["total"], len(page["rows"])) == (50, 56, 6)
    expected = Predictor.load(folders[0], device="cpu").predict(molecules())["size_pred"]
    assert [row["values"][0]["value"] for row in page["rows"][:4]] == pytest.approx(list(expected[50:54]))
    assert client.delete(f"{API}/files/{job['id']}").status_code == 204
    assert client.get(f"{API}/files/{job['id']}").json() == {
        "error": "there is no such file, or its results are no longer kept"
    }


def test_files_that_cannot_be_read_say_why_without_a_path_of_ours(client: TestClient):
    for content, name, words in (
        (b"", "a.sdf", "a.sdf"),
        (b"x,y\n1,2\n", "b.csv", "b.csv"),
        (b"smiles,size_pred\nC,1\n", "c.csv", "size_pred"),
        (b"PK\x03\x04", "d.xlsx", "save"),
    ):
        job = finished(client, send(client, content, name).headers["location"])
        assert job["state"] == "failed", job
        assert words.lower() in job["error"].lower(), job["error"]
        assert "dnd-serve" not in job["error"]
        assert client.get(f"{API}/files/{job['id']}/result.csv").status_code == 409


@pytest.mark.parametrize("name", ["water.xyz", "a.mol2", "book.xlsx"])
def test_a_file_is_read_by_its_ending_as_predict_reads_it(client: TestClient, name: str):
    job = finished(client, send(client, b"smiles\nCCO\n", name).headers["location"])
    assert job["state"] == "failed"
    assert name in job["error"]
    assert "unknown kind" in job["error"] or "workbook" in job["error"]


@pytest.mark.parametrize("name", ["molecules", "my table (2)", "a.b c", ".csv", "x.CSV"])
def test_a_name_without_an_ending_is_that_of_a_table(client: TestClient, name: str):
    assert finished(client, send(client, b"smiles\nCCO\n", name).headers["location"])["state"] == "done"


def test_limits_answer_in_one_line(limited: TestClient):
    said = [
        (limited.post(f"{API}/predict", json={"smiles": ["C"] * 4}), 422, "at most 3 at once"),
        (limited.post(f"{API}/predict", json={"smiles": ["C" * 5000]}), 413, "4,000 bytes"),
        (limited.post(f"{API}/predict", content=iter([b"x" * 3000] * 2)), 413, "4,000 bytes"),
        (limited.post(f"{API}/predict", json={"smiles": ["C"], "model": "other"}), 404, "there are: model, classes"),
        (limited.post(f"{API}/predict", json={"smiles": []}), 422, "smiles"),
        (limited.post(f"{API}/predict", json={"smile": ["C"]}), 422, "smile"),
        (limited.get(f"{API}/nothing"), 404, "Not Found"),
        (limited.get("/", headers={"host": "elsewhere.example"}), 421, "that name"),
        (limited.post(f"{API}/predict", headers={"sec-fetch-site": "cross-site"}), 403, "another site"),
    ]
    for answer, status, words in said:
        assert answer.status_code == status, answer.text
        assert words in answer.json()["error"]
    job = finished(limited, send(limited, b"smiles\n" + b"C\n" * 11).headers["location"])
    assert job["error"].startswith("the file has too many rows for the page: expected at most 10")
    job = finished(limited, send(limited, b"smiles\n" + b"C\n" * 9).headers["location"])
    assert len(limited.get(f"{API}/files/{job['id']}/rows", params={"count": 9}).json()["rows"]) == 4


def test_bodies_of_many_requests_have_a_limit_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(guard, "_BODIES", 1)
    held: list[asyncio.Event] = []

    async def app(scope: object, receive: Receive, send: Send) -> None:
        held.append(asyncio.Event())
        await held[-1].wait()
        await problem(200, "fine")(scope, receive, send)

    async def asked(own: guard.Guard) -> int:
        body = [{"type": "http.request", "body": b"x" * 700, "more_body": False}]
        said: list[int] = []

        async def receive() -> dict:
            return body.pop()

        async def send(message: dict) -> None:
            said.append(message.get("status", 0))

        await own({"type": "http", "method": "POST", "headers": []}, receive, send)
        return said[0]

    async def drill() -> None:
        own = guard.Guard(app, Limits(body_bytes=1000))
        first = asyncio.ensure_future(asked(own))
        while not held:
            await asyncio.sleep(0)
        assert await asked(own) == 503
        held[0].set()
        assert await first == 200
        third = asyncio.ensure_future(asked(own))
        while len(held) < 2:
            await asyncio.sleep(0)
        held[1].set()
        assert await third == 200

    asyncio.run(drill())


def test_a_full_line_of_files_is_told_to_come_again(models: ServedModels, monkeypatch: pytest.MonkeyPatch):
    go = threading.Event()
    describe = Predictor.describe
    monkeypatch.setattr(Predictor, "describe", lambda self, smiles: (go.wait(20), describe(self, smiles))[1])
    with TestClient(build_app(models, Limits(queued=2))) as client:
        first = send(client, b"smiles\nC\nCC\n").json()["id"]
        for _ in range(200):
            if client.get(f"{API}/files/{first}").json()["state"] == "running":
                break
            time.sleep(0.02)
        second, third = (send(client, b"smiles\nCCC\n").json()["id"] for _ in range(2))
        assert client.get("/ready").status_code == 503
        assert client.get("/health").json()["status"] == "ok"
        refused = send(client, b"smiles\nCCC\n")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert client.get(f"{API}/files/{third}").json()["ahead"] == 2
        client.delete(f"{API}/files/{second}")
        go.set()
        assert finished(client, f"{API}/files/{third}")["done"] == 1
        assert finished(client, f"{API}/files/{first}")["done"] == 2
        assert client.get("/ready").status_code == 200


def test_old_results_are_forgotten_and_the_folder_goes_with_the_server(models: ServedModels):
    with TestClient(build_app(models, Limits(kept=1))) as client:
        ids = [send(client, b"smiles\nC\n").json()["id"] for _ in range(2)]
        finished(client, f"{API}/files/{ids[1]}")
        folder = client.app.state.jobs._folder
        assert client.get(f"{API}/files/{ids[0]}").status_code == 404
        assert client.get(f"{API}/files/{ids[1]}").status_code == 200
        assert len(list(folder.iterdir())) == 1
    assert not folder.exists()


def test_a_request_that_takes_too_long_is_told_so_and_keeps_its_slot():
    async def drill() -> None:
        turns, go = Turns(Limits(running=1, waiting=1, seconds=0.05)), threading.Event()
        with pytest.raises(TooSlowError):
            await turns.take(go.wait)
        waits = asyncio.ensure_future(turns.take(lambda: "second"))
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await turns.take(lambda: "third")
        assert not waits.done()
        go.set()
        assert await waits == "second"

    asyncio.run(drill())


def test_an_error_of_ours_is_one_line_without_what_it_says(models: ServedModels, monkeypatch: pytest.MonkeyPatch):
    def broken(self: Predictor, smiles: object) -> None:
        raise KeyError("/a/path/of/ours")

    monkeypatch.setattr(Predictor, "describe", broken)
    with TestClient(build_app(models, Limits()), raise_server_exceptions=False) as client:
        answer = client.post(f"{API}/predict", json={"smiles": ["C"]})
        assert (answer.status_code, answer.json()) == (500, {"error": "internal error: KeyError"})
        job = finished(client, send(client, b"smiles\nC\n").headers["location"])
        assert job["error"] == "internal error: KeyError"


def test_the_page_loads_nothing_from_elsewhere_and_runs_nothing_inline(client: TestClient):
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    own = [part.split('"')[0] for mark in ('src="', 'href="') for part in page.text.split(mark)[1:] if part[0] != '"']
    assert own
    assert all(name.startswith("/page/") for name in own)
    assert "style=" not in page.text
    assert "onclick" not in page.text
    for name in own:
        answer = client.get(name)
        assert answer.status_code == 200
        assert "http:" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https:" not in answer.text
        assert "innerHTML" not in answer.text
    assert client.get("/page/secret.py").status_code == 404
    assert client.get("/docs").status_code == 404


def test_reasons_are_counted_and_the_most_frequent_comes_first():
    found = reasons_of(["", "b", "a", "", "a"])
    assert [(one.reason, one.rows, one.first_row) for one in found] == [("a", 2, 3), ("b", 1, 2)]


def test_two_models_of_one_name_are_refused(folders: list[Path]):
    with pytest.raises(ConfigError, match="a name of its own"):
        ServedModels.load([folders[0], folders[0]])


def test_missing_numbers_are_null_and_likely_classes_a_list(models: ServedModels):
    own = models.named("classes")
    columns = {"ring_pred": np.array([0.75]), "ring_set": ["0|1"], "hetero_pred": np.array([np.inf])}
    (row,) = own.as_rows(["C"], columns, [""])
    assert (row.values[0].value, row.values[0].classes, row.values[1].value) == (0.75, ["0", "1"], None)
    own.targets[0].classes = ["no", "yes"]
    named = {"ring_pred": ["yes"], "ring_prob_no": np.array([0.25]), "ring_prob_yes": np.array([0.75])}
    (row,) = own.as_rows(["C"], {**columns, **named}, [""])
    own.targets[0].classes = []
    assert (row.values[0].predicted_class, row.values[0].value) == ("yes", None)
    assert row.values[0].probabilities == {"no": 0.25, "yes": 0.75}


def test_without_the_extra_one_line_says_what_to_install(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "uvicorn" else name)
    with pytest.raises(SystemExit) as end:
        main(["serve", "-m", str(folders[0])])
    assert end.value.code == 2
    assert capsys.readouterr().err == "dnd: serve needs the package uvicorn. pip install 'dnd-mol[serve]'\n"
