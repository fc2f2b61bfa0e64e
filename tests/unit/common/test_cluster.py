"""`--ray`: the bytes of the processes here, from a stand-in for Ray and (slow) from a cluster that loses a node."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import screen_toys
from dnd.common import cluster
from dnd.common.cluster import RayCluster
from dnd.common.errors import ConfigError, DndError, InputError
from dnd.common.files import write_json, write_manifest
from dnd.common.workers import Failure, Here, Work
from dnd.models.students.encoders import encoder_folder
from dnd.prediction import files
from dnd.prediction.embedder import ClusterEmbedder, embedding_folder, load_embedder
from dnd.prediction.screen.screen import ScreenConfig, ScreenSummary, screen
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig
from dnd.store.writer import StoreJournal
from finetuning_toys import molecules, tiny_model

pytestmark = pytest.mark.timeout(600)  # whole commands, several times

DRILL = Path(screen_toys.__file__).parent / "ray_drill.py"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: Exception) -> None:
        self.cause = cause


class LocalRay(SimpleNamespace):
    """As much of `ray` as a run uses; tasks run where they are called, and `losses` of them are lost for good."""

    def __init__(self, processors: int = 2, losses: int = 0, ready: bool = True) -> None:
        super().__init__(exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError))
        self.processors, self.losses, self.ready, self.most = processors, losses, ready, 0
        self.under_way, self.tasks, self.shut = 0, 0, False

    def init(self, address: str, **options: Any) -> None:
        if address == "nowhere:1":
            raise ConnectionError("cannot connect")

    def shutdown(self) -> None:
        self.shut = True

    def put(self, value: Any) -> Any:
        return SimpleNamespace(value=value, of_task=False)

    def remote(self, **options: Any) -> Callable[..., Any]:
        assert options == {"num_cpus": 1, "max_retries": 5}

        def wrap(function: Callable[..., Any]) -> Any:
            def start(*arguments: Any) -> Any:
                self.under_way, self.tasks = self.under_way + 1, self.tasks + 1
                self.most = max(self.most, self.under_way)
                plain = [getattr(argument, "value", argument) for argument in arguments]
                try:
                    return SimpleNamespace(value=function(*plain), of_task=True)
                except Exception as error:
                    return SimpleNamespace(value=RayTaskError(error), of_task=True)

            return SimpleNamespace(remote=start)

        return wrap

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return (references, []) if self.ready else ([], references)

    def get(self, reference: Any) -> Any:
        if reference.of_task:
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
    cluster.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As much of a MODEL folder as a screen itself reads."""
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


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a finished run but the manifest and the record of the run, which hold times."""
    paths = [*folder.glob("part-*.parquet"), *folder.glob("shard-*.arrow"), *folder.glob("*.csv")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(paths)}


# The mechanism.


def test_results_come_in_order_in_blocks_a_few_under_way(fake: LocalRay) -> None:
    work = Work(function="workers_probe:make_adder", settings={"amount": 5}, block=7, ahead=14)
    assert list(RayCluster("auto").run(work, range(300))) == list(range(5, 305)) == list(Here(2).run(work, range(300)))
    assert fake.tasks == 43
    assert fake.most == 2 * fake.processors
    assert fake.shut


def test_a_bad_item_costs_itself_and_its_kind_of_work_says_what_stands_for_it(fake: LocalRay) -> None:
    work = Work(function="workers_probe:misbehave", timeout_s=1.0, block=3)
    items = [1, "hang", 2, "raise", 3]
    for where in (Here(1), RayCluster("auto")):
        found = [one.reason if isinstance(one, Failure) else one for one in where.run(work, items)]
        assert found == [1, "over 1 s", 2, "internal error: ValueError: two lines", 3]


def test_a_machine_with_other_versions_is_named(fake: LocalRay) -> None:
    run = {"name": "a", "work": Work(function="workers_probe:echo"), "files": [], "versions": {"dnd": "0"}}
    with pytest.raises(DndError, match="other versions"):
        cluster.work_on_node(run, [b"a"])


def test_a_cluster_without_machines_ends_the_run(fake: LocalRay) -> None:
    fake.ready, fake.processors = False, 0
    with pytest.raises(DndError, match="no machine of the Ray cluster is left"):
        list(RayCluster("auto").run(Work(function="workers_probe:echo"), [b"a"]))
    assert fake.shut


def test_refusals_are_one_line(
    fake: LocalRay, model: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="--jobs counts processes of this machine"):
        stubbed(source, model, tmp_path / "out", jobs=2)
    with pytest.raises(ConfigError, match="--jobs counts processes of this machine"):
        prepare([source], tmp_path / "out", PrepareConfig(jobs=2), ray="auto")
    with pytest.raises(ConfigError, match="--jobs counts processes of this machine"):
        ClusterEmbedder.at("auto", "dnd-tokengt", pooling=None, device="auto", jobs=2)
    with pytest.raises(ConfigError, match="embed on their processors: found --device cuda"):
        ClusterEmbedder.at("auto", "dnd-tokengt", pooling=None, device="cuda", jobs=1)
    with pytest.raises(InputError, match=r"can't join a Ray cluster at nowhere:1: found cannot connect\. Start one"):
        stubbed(source, model, tmp_path / "a", ray="nowhere:1")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"--ray needs the package ray\. pip install 'dnd-mol\[ray\]'"):
        prepare([source], tmp_path / "c", ray="auto")


# The three verbs.


@pytest.mark.slow
def test_a_screen_has_the_files_of_processes_here(fake: LocalRay, model: Path, source: Path, tmp_path: Path) -> None:
    texts = source.read_text().splitlines()
    texts[6:9], texts[20] = ["KILL"] * 3, "RAISE"
    source.write_text("\n".join(texts))
    stubbed(source, model, tmp_path / "local", ray=None)
    assert stubbed(source, model, tmp_path / "ray").errors == 4
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert len(digests(tmp_path / "ray")) == 6
    assert fake.most == 4 * fake.processors


def test_a_run_goes_on_here_that_began_on_ray(fake: LocalRay, model: Path, source: Path, tmp_path: Path) -> None:
    fake.losses = 1
    with pytest.raises(DndError, match=r"lost 6 times on Ray: found the worker died.*--resume"):
        stubbed(source, model, tmp_path / "out")
    assert fake.shut
    config = ScreenConfig(chunk=4, top=5, jobs=1)
    screen([source], model, tmp_path / "out", config, resume=True, worker=screen_toys.WORKER)
    stubbed(source, model, tmp_path / "local", ray=None)
    assert digests(tmp_path / "out") == digests(tmp_path / "local")


def test_a_store_has_the_files_of_processes_here_and_goes_on_here(
    fake: LocalRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, exclude = tmp_path / "in.csv", tmp_path / "exclude.smi"
    table.write_text("smiles\n" + "".join(f"{text}\n" for text in [*molecules(), "no molecule", "CCO"]))
    exclude.write_text("OCC\n")
    config = PrepareConfig(conformers="etkdg_raw", shard_size=20, exclude=(str(exclude),))
    summary = prepare([table], tmp_path / "local", config)
    assert {reason.partition(":")[0]: count for reason, count in summary.rejected.items()} == {"exclude": 1, "parse": 1}
    seal, calls = StoreJournal.seal, []

    def stop_at_second(self: StoreJournal, *arguments: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        seal(self, *arguments)

    monkeypatch.setattr(StoreJournal, "seal", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        prepare([table], tmp_path / "ray", config, ray="auto")
    assert fake.shut
    monkeypatch.setattr(StoreJournal, "seal", seal)
    kept = (tmp_path / "ray" / "shard-00000.arrow").stat().st_mtime_ns
    prepare([table], tmp_path / "ray", config, ray="auto", resume=True)
    assert (tmp_path / "ray" / "shard-00000.arrow").stat().st_mtime_ns == kept
    assert digests(tmp_path / "ray") == digests(tmp_path / "local")
    assert len(digests(tmp_path / "ray")) == 4


@pytest.mark.slow
def test_vectors_are_those_of_processes_here_and_a_row_that_kills_costs_itself(
    fake: LocalRay, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "CHUNK_ROWS", 8)
    encoder = tiny_model(tmp_path)
    table = tmp_path / "in.csv"
    table.write_text("smiles\n" + "".join(f"{text}\n" for text in [*molecules()[:30], "no molecule", "CCO"]))
    files.embed_file(load_embedder(tmp_path / "model", device="cpu"), table, str(tmp_path / "plain.npy"))
    on_ray = ClusterEmbedder.at("auto", tmp_path / "model", pooling=None, device="auto", jobs=1)
    for name, embedder in {"ray": on_ray, "here": replace(on_ray, where=Here(1))}.items():
        assert files.embed_file(embedder, table, str(tmp_path / f"{name}.npy")).errors == 1
    plain, ray, here = (np.load(tmp_path / f"{name}.npy") for name in ("plain", "ray", "here"))
    assert ray.tobytes() == here.tobytes()
    assert np.allclose(plain, ray, atol=1e-6, equal_nan=True)
    assert encoder.is_dir()
    table.write_text("smiles\nC1\nKILL\nC2\n")
    toy = ClusterEmbedder(model, RayCluster("auto"), worker="screen_toys:make_vectors")
    summary = files.embed_file(toy, table, str(tmp_path / "killed.csv"))
    assert (summary.rows, summary.errors) == (3, 1)
    assert summary.first_error == "row 3: worker died: exit code 9"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_cluster_that_loses_a_node_in_every_verb_leaves_the_same_files(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray.cluster_utils", reason="the extra `ray` is not installed")
    numbers, texts, encoder = tmp_path / "numbers.smi", tmp_path / "in.csv", tiny_model(tmp_path)
    numbers.write_text("".join(f"C{number}\n" for number in range(1000)))
    rows = [*molecules(), "no molecule"] * 6
    texts.write_text("smiles\n" + "".join(f"{text}\n" for text in rows))
    many = tmp_path / "many.csv"
    many.write_text("smiles\n" + "".join(f"{text}\n" for text in rows * 6))
    settings = {"conformers": "etkdg_raw", "shard_size": 50}
    stubbed(numbers, model, tmp_path / "screen-here", ray=None)
    screen([many], encoder, tmp_path / "model-here", ScreenConfig(chunk=4, top=5, jobs=1))
    prepare([texts], tmp_path / "store-here", PrepareConfig(**settings))  # type: ignore[arg-type]
    monkeypatch.setattr(files, "CHUNK_ROWS", 16)
    files.embed_file(ClusterEmbedder(encoder, Here(1)), many, str(tmp_path / "here.npy"))
    plan: list[dict[str, Any]] = [
        {"verb": "screen", "input": numbers, "model": model, "worker": screen_toys.WORKER, "out": "screen-ray"},
        {"verb": "screen", "input": many, "model": encoder, "out": "model-ray"},
        {"verb": "prepare", "input": texts, "settings": settings, "out": "store-ray"},
        {"verb": "embed", "input": many, "encoder": encoder, "out": "ray.npy"},
    ]
    for step, kill_at in zip(plan, (60, 20, 40, 4), strict=True):
        step |= {"kill_at": kill_at, "out": tmp_path / step["out"]}
    (tmp_path / "plan.json").write_text(json.dumps(plan, default=str))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOY_PAUSE_S": "0.02"}
    command = [sys.executable, str(DRILL), str(tmp_path / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert [step["results"] for step in said] == [250, 495, 330, 124]
    assert all(step["killed_after"] < step["results"] for step in said), said
    for name in ("screen", "model", "store"):
        assert digests(tmp_path / f"{name}-ray") == digests(tmp_path / f"{name}-here")
    assert (tmp_path / "ray.npy").read_bytes() == (tmp_path / "here.npy").read_bytes()


def test_a_model_that_ships_is_embedded_by_its_name_as_it_is_here() -> None:
    on_ray = ClusterEmbedder("dnd-properties", Here(1), worker="screen_toys:make_vectors")
    (values_BD, reasons), *_ = on_ray.embed_chunks(iter([["C1", "C2"]]))
    assert len(values_BD) == len(reasons) == 2
    assert embedding_folder("dnd-base") == encoder_folder("dnd-base")
    with pytest.raises(InputError, match="is not a folder"):
        embedding_folder("dnd-none")
