"""Folders that are written to: nothing outside them is touched, and two runs never share one."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillation_toys import STUDENT, TEACHER, toy_config, toy_store, toy_teacher_folder
from dnd.common.config import load_config
from dnd.common.errors import InputError
from dnd.common.files import folder_lock, write_text
from dnd.common.runs import append_line
from dnd.finetuning.finetune import finetune
from dnd.finetuning.settings import FinetuneConfig
from dnd.prediction.files import embed_file, predict_file
from dnd.prediction.screen.screen import screen
from dnd.predictor.predictor import Predictor
from dnd.pretraining.baselines.infomax3d import ContrastConfig, contrast
from dnd.pretraining.baselines.pretrain import pretrain
from dnd.pretraining.denoise import DenoiseConfig, denoise
from dnd.pretraining.distill import distill
from dnd.pretraining.settings import PretrainConfig
from dnd.report.explain import file_names
from dnd.store.prepare import prepare
from dnd.store.settings import PrepareConfig
from dnd.tables.writers import open_writer
from dnd.training.logs import RunLog
from dnd.training.settings import LoopConfig
from finetuning_toys import quietly

GOLDEN = Path(__file__).parents[1] / "golden"


def lock(folder: Path) -> None:
    with folder_lock(folder):
        pass


def log(folder: Path) -> None:
    RunLog(folder, total_steps=1, first_step=0, title="t").close()


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "lock": (".lock", lock),
    "log": ("metrics.jsonl", log),
    "journal": ("search.jsonl", lambda folder: append_line(folder / "search.jsonl", {"a": 1})),
    "file": ("config.json", lambda folder: write_text(folder / "config.json", "{}")),
    "scrap": (f".config.json.tmp-{os.getpid()}", lambda folder: write_text(folder / "config.json", "{}")),
}


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("writer", WRITERS)
def test_no_link_is_followed_for_writing(tmp_path: Path, writer: str, kind: str) -> None:
    precious, folder = tmp_path / "precious", tmp_path / "out"
    precious.write_text("precious\n")
    folder.mkdir()
    name, write = WRITERS[writer]
    (folder / name).symlink_to("../precious") if kind == "symbolic" else os.link(precious, folder / name)
    with contextlib.suppress(InputError):
        write(folder)
    assert precious.read_text() == "precious\n"


def test_a_folder_that_is_a_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("precious")
    (tmp_path / "out" / "a").mkdir(parents=True)
    (tmp_path / "out" / "a" / "checkpoints").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="checkpoints is a symbolic link"):
        lock(tmp_path / "out")
    assert (tmp_path / "elsewhere" / "precious").read_text() == "precious"


@pytest.mark.parametrize("name", ["device.csv", "pipe.csv", "link.csv"])
def test_an_output_takes_the_place_of_plain_files_only(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe.csv":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/null" if name == "device.csv" else tmp_path / "x.csv")
    with pytest.raises(InputError, match="link or not a regular file"), open_writer(str(path)) as writer:
        writer.write({"a": ["1"]})
    assert path.is_symlink() or path.is_fifo()


def test_an_output_that_is_the_input_is_refused(tmp_path: Path) -> None:
    model, table = Predictor.load(GOLDEN / "predictor-regression"), tmp_path / "in.csv"
    table.write_text("smiles\nCCO\n")
    (tmp_path / "link.csv").symlink_to(table)
    os.link(table, tmp_path / "hard.csv")
    for out in ("in.csv", "../" + tmp_path.name + "/in.csv", "link.csv", "hard.csv"):
        for write in (predict_file, embed_file):
            with pytest.raises(InputError, match="is the input"):
                write(model, table, str(tmp_path / out))
    assert table.read_text() == "smiles\nCCO\n"


def test_a_named_pipe_is_read_once_or_refused(tmp_path: Path) -> None:
    """None of these hangs; what reads its input twice says so."""
    pipe, model = tmp_path / "pipe.csv", GOLDEN / "predictor-regression"
    os.mkfifo(pipe)
    reads_twice: list[Callable[[], object]] = [
        lambda: prepare([pipe], tmp_path / "a", PrepareConfig()),
        lambda: prepare([tmp_path / "in.csv"], tmp_path / "b", PrepareConfig(exclude=(str(pipe),))),
        lambda: screen([pipe], model, tmp_path / "c"),
        lambda: quietly(pipe, tmp_path / "d", ["y"]),
    ]
    (tmp_path / "in.csv").write_text("smiles,y\nCCO,1\nCCN,2\n")
    for read in reads_twice:
        with pytest.raises(InputError, match="is a named pipe"):
            read()
    writer = threading.Thread(target=lambda: pipe.write_bytes((tmp_path / "in.csv").read_bytes()))
    writer.start()
    assert predict_file(Predictor.load(model), pipe, str(tmp_path / "out.csv")).rows == 2
    writer.join()


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("small", ["student.name=gine", "student.width=8", "loop.epochs=1", "baselines=false"]),
        ("fast", ["blend.classical=ridge"]),
    ],
)
def test_a_finetuning_locks_its_folder_whatever_the_recipe(tmp_path: Path, recipe: str, words: list[str]) -> None:
    table, out = tmp_path / "x.csv", tmp_path / "model"
    chains = ["C" * (1 + i % 20) + "O" * (1 + i // 20) for i in range(60)]
    table.write_text("smiles,y\n" + "".join(f"{one},{i % 7}\n" for i, one in enumerate(chains)))
    config = load_config(FinetuneConfig, recipe, ["split=random", "jobs=1", *words], stage="finetune")
    options = {"encoder": "random", "resume": True}
    with folder_lock(out), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        finetune(table, out, ["y"], config, **options)
    assert [path.name for path in out.iterdir()] == [".lock"]


LOOP = LoopConfig(epochs=1, batch_size=8, device="cpu", threads=1)
SMALL: dict[str, Any] = {"holdout_fraction": 0.2, "student": STUDENT, "loop": LOOP}
PRETRAININGS: dict[str, Callable[[Path, Path], object]] = {
    "denoise": lambda out, teacher: denoise(toy_store(20), out, DenoiseConfig(teacher=TEACHER, loop=LOOP)),
    "distill": lambda out, teacher: distill(toy_store(20), teacher, out, toy_config(loop=LOOP)),
    "contrast": lambda out, teacher: contrast(toy_store(20), out, ContrastConfig(**SMALL)),
    "pretrain": lambda out, teacher: pretrain(toy_store(20), out, PretrainConfig(**SMALL)),
}


@pytest.mark.parametrize("verb", PRETRAININGS)
def test_a_pretraining_holds_its_folder_from_its_checks_to_its_seal(
    tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dnd.common.model_folder as module

    out, teacher, sealed = tmp_path / "out", toy_teacher_folder(tmp_path / "teacher"), []
    with folder_lock(out), pytest.raises(InputError, match=f"in use by process {os.getpid()}"):
        PRETRAININGS[verb](out, teacher)
    assert [path.name for path in out.iterdir()] == [".lock"]
    real = module.write_manifest

    def tried(folder: Path, **options: Any) -> None:
        with pytest.raises(InputError, match="in use"):
            lock(folder)
        real(folder, **options)
        sealed.append(folder)

    monkeypatch.setattr(module, "write_manifest", tried)
    PRETRAININGS[verb](out, teacher)
    assert sealed == [out]
    lock(out)


def test_a_child_that_outlives_its_parent_does_not_hold_the_folder(tmp_path: Path) -> None:
    read, write = os.pipe()
    with folder_lock(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent lets go
            os._exit(0)
    lock(tmp_path)  # the child lives
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    os.close(read)


def test_names_of_files_made_of_names_are_all_different() -> None:
    names = ["logS", "LogS", "a/b", "a_b", "a b", "µ", "0-a_b", "../x", "x" * 70, "x" * 71, ""]
    found = file_names(names)
    assert len({name.casefold() for name in found}) == len(names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzLSO0123456789-_") and name for name in found)
    assert file_names(["logS", "y"]) == ["logS", "y"]


def test_an_input_that_changes_while_it_is_read_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in.csv"
    source.write_text("smiles\n" + "CCCCCC\n" * 20)
    import dnd.store.prepare as module

    real = module._make_shards

    def changed_meanwhile(*arguments: object) -> None:
        source.write_text("smiles\n" + "CCCCCO\n" * 20)
        real(*arguments)

    monkeypatch.setattr(module, "_make_shards", changed_meanwhile)
    with pytest.raises(InputError, match=r"in\.csv changed while it was read"):
        prepare([source], tmp_path / "out", PrepareConfig())
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(InputError):
        prepare([source], tmp_path / "out", replace(PrepareConfig()), resume=True)
