"""`dnd screen --ray`: the bytes of the local pool, from a stand-in for Ray and (slow) from a cluster losing a node."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import screen_toys
from dnd.common.errors import ConfigError, DndError, InputError
from dnd.common.files import write_json, write_manifest
from dnd.prediction.screen import ray as screen_ray
from dnd.prediction.screen.screen import ScreenConfig, ScreenSummary, screen

DRILL = Path(screen_toys.__file__).parent / "ray_drill.py"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class LocalRay(SimpleNamespace):
    """As much of `ray` as a screen uses; tasks run where they are called, and `losses` of them are lost for good."""

    def __init__(self, processors: int = 2, losses: int = 0, ready: bool = True) -> None:
        super().__init__(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))
        self.processors, self.losses, self.ready, self.most = processors, losses, ready, 0
        self.under_way, self.shut = 0, False

    def init(self, address: str, **options: Any) -> None:
        if address == "nowhere:1":
            raise ConnectionError("cannot connect")

    def shutdown(self) -> None:
        self.shut = True

    def put(self, value: Any) -> Any:
        return SimpleNamespace(value=value)

    def remote(self, **options: Any) -> Callable[..., Any]:
        assert options == {"num_cpus": 1, "max_retries": 5}

        def wrap(function: Callable[..., Any]) -> Any:
            def start(*arguments: Any) -> Any:
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                plain = [getattr(argument, "value", argument) for argument in arguments]
                try:
                    return SimpleNamespace(value=function(*plain))
                except Exception as error:
                    return SimpleNamespace(value=RayTaskError(error))

            return SimpleNamespace(remote=start)

        return wrap

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return (references, []) if self.ready else ([], references)

    def get(self, reference: Any) -> Any:
        if isinstance(reference.value, dict) and "error" in reference.value:
            self.under_way -= 1
            if self.losses:
                raise RayError("the worker died unexpectedly")
        if isinstance(reference.value, RayTaskError):
            raise reference.value
        return reference.value

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.processors)}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalRay]:
    ray = LocalRay()
    monkeypatch.setitem(sys.modules, "ray", ray)  # type: ignore[arg-type]
    yield ray
    screen_ray._close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("screen-ray")
    write_json(folder / "config.json", {"targets": [{"name": "size"}]})
    write_manifest(folder, kind="predictor", format_version=1)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.smi"
    path.write_text("".join(f"C{number}\n" for number in range(300)))
    return path


def stubbed(source: Path, model: Path, out: Path, ray: str | None = "auto", **changes: Any) -> ScreenSummary:
    config = ScreenConfig(**{"chunk": 4, "top": 5, **({} if ray else {"jobs": 1}), **changes})
    return screen([source], model, out, config, ray=ray, worker=screen_toys.WORKER)


def files(folder: Path) -> dict[str, str]:
    paths = [*folder.glob("part-*.parquet"), folder / "top.csv"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_files_are_those_of_the_local_pool(fake: LocalRay, model: Path, source: Path, tmp_path: Path) -> None:
    texts = source.read_text().splitlines()
    texts[6:9], texts[20] = ["KILL"] * 3, "RAISE"
    source.write_text("\n".join(texts))
    stubbed(source, model, tmp_path / "local", ray=None)
    assert stubbed(source, model, tmp_path / "ray").errors == 4
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    assert len(files(tmp_path / "ray")) == 4
    assert fake.most <= 4 * fake.processors
    assert fake.shut


def test_a_run_goes_on_here_that_began_on_ray(fake: LocalRay, model: Path, source: Path, tmp_path: Path) -> None:
    fake.losses = 1
    with pytest.raises(DndError, match=r"lost 6 times on Ray: found the worker died.*--resume"):
        stubbed(source, model, tmp_path / "out")
    assert fake.shut
    config = ScreenConfig(chunk=4, top=5, jobs=1)
    screen([source], model, tmp_path / "out", config, resume=True, worker=screen_toys.WORKER)
    stubbed(source, model, tmp_path / "local", ray=None)
    assert files(tmp_path / "out") == files(tmp_path / "local")


def test_refusals_are_one_line(
    fake: LocalRay, model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--jobs is for processes of this machine, not of a Ray cluster"):
        stubbed(source, model, tmp_path / "out", jobs=2)
    with pytest.raises(InputError, match=r"no Ray cluster at nowhere:1: found cannot connect\. Start one"):
        stubbed(source, model, tmp_path / "a", ray="nowhere:1")
    fake.ready, fake.processors = False, 0
    with pytest.raises(DndError, match="no machine of the Ray cluster is left"):
        stubbed(source, model, tmp_path / "b")
    fake.ready = True
    job = {"versions": {"dnd": "0", "torch": "0", "rdkit": "0"}}
    with pytest.raises(DndError, match="other versions"):
        screen_ray.screen_on_node(job, [], 4)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--ray needs the package ray\. pip install 'dnd-mol\[ray\]'"):
        stubbed(source, model, tmp_path / "c")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["stub", "model"])
def test_a_cluster_that_loses_a_node_half_way_leaves_the_same_files(kind: str, tmp_path: Path, model: Path) -> None:
    pytest.importorskip("ray.cluster_utils")
    source, out, environment = tmp_path / "in.smi", tmp_path / "ray", {**os.environ, "OMP_NUM_THREADS": "1"}
    if kind == "stub":
        source.write_text("".join(f"C{number}\n" for number in range(1500)))
        words = ["--worker", screen_toys.WORKER]
        environment["TOY_PAUSE_S"] = "0.02"
        stubbed(source, model, tmp_path / "local", ray=None)
    else:
        from finetuning_toys import molecules, tiny_model

        tiny_model(tmp_path)
        model, words = tmp_path / "model", []
        source.write_text("".join(f"{text}\n" for text in molecules() * 40))
        screen([source], model, tmp_path / "local", ScreenConfig(chunk=4, top=5, jobs=1))
    command = [sys.executable, str(DRILL), str(source), str(model), str(out), *words, "--kill"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["busy_processors"] == 2
    assert said["killed_after_shards"] < said["shards"] - 2
    assert files(out) == files(tmp_path / "local")
