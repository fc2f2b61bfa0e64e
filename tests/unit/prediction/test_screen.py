"""Screens: the same as `predict`, whatever is killed, in constant memory, with an exact top K."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

import screen_toys
from dnd.common.about import diagnose
from dnd.common.errors import ConfigError, CorruptFileError, InputError
from dnd.common.files import read_json, write_json, write_manifest
from dnd.common.log import Progress
from dnd.common.runs import read_record, write_record
from dnd.prediction.screen.chunks import CHUNK_CHARACTERS, Candidate, in_chunks
from dnd.prediction.screen.screen import ScreenConfig, ScreenSummary, screen
from dnd.prediction.screen.shards import CHUNKS_PER_SHARD, CHUNKS_UNTIL_020, ScreenJournal

CHILD = """
import sys
from dnd.prediction.screen.screen import ScreenConfig, screen
screen([sys.argv[1]], sys.argv[2], sys.argv[3], ScreenConfig(jobs=2, chunk=int(sys.argv[4]), top=5),
       resume=True, worker="screen_toys:make_stub")
print([line for line in open("/proc/self/status") if line.startswith("VmHWM")][0].split()[1])
"""


def sealed_model(folder: Path, *targets: str) -> Path:
    """As much of a MODEL folder as a screen itself reads; its workers here are stubs."""
    write_json(folder / "config.json", {"targets": [{"name": name} for name in targets]})
    write_manifest(folder, kind="predictor", format_version=1)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sealed_model(tmp_path_factory.mktemp("screen"), "size")


def write_smi(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def texts(count: int) -> list[str]:
    return [f"C{number}" for number in range(count)]


def stubbed(inputs: list[Path], model: Path, out: Path, *, resume: bool = False, **changes: object) -> ScreenSummary:
    config = ScreenConfig(**{"jobs": 1, "chunk": 4, **changes})
    return screen(inputs, model, out, config, resume=resume, worker=screen_toys.WORKER)


def shards(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("part-*.parquet"))}


def rows(folder: Path) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet")))


def finished(folder: Path) -> list[Path]:
    """Shards with an entry in the journal, without pieces of the next; all when the folder is sealed."""
    if (folder / "manifest.json").exists():
        return sorted(folder.glob("part-*.parquet"))
    return [folder / f"part-{entry.stem}.parquet" for entry in (folder / ".progress").glob("[0-9]" * 5 + ".json")]


def child(source: Path, model: Path, out: Path, chunk: int, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(screen_toys.__file__).parent), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(source), str(model), str(out), str(chunk)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
    )


def test_shards_are_checked_typed_and_independent_of_workers(model: Path, tmp_path: Path):
    source = write_smi(tmp_path / "in.smi", [*texts(300), *(["x y"] * 2)])
    stubbed([source], model, tmp_path / "one")
    stubbed([source], model, tmp_path / "two", jobs=2)
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    assert [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "one").glob("part-*"))] == [64] * 4 + [46]
    manifest = read_json(tmp_path / "one" / "manifest.json")
    assert manifest["counts"] == {"rows": 302, "errors": 0, "shards": 5}
    assert not (tmp_path / "one" / ".progress").exists()
    facts, damage = diagnose(tmp_path / "one")
    assert "screen, format 1" in facts[0]
    assert not damage
    data = bytearray((tmp_path / "one" / "part-00001.parquet").read_bytes())
    data[200] ^= 4
    (tmp_path / "bad.parquet").write_bytes(data)
    with pytest.raises(OSError, match=r"checksum|CRC"):
        pq.read_table(tmp_path / "bad.parquet", page_checksum_verification=True)


@pytest.mark.parametrize("ascending", [False, True])
def test_top_is_exact_and_ties_are_stable(model: Path, tmp_path: Path, ascending: bool):
    smiles = [*texts(3000), ""] * 2
    pq.write_table(pa.table({"smiles": smiles}), tmp_path / "in.parquet")
    stubbed([tmp_path / "in.parquet"], model, tmp_path / "out", chunk=16, top=37, ascending=ascending)
    sign = 1 if ascending else -1
    ranked = sorted((sign * screen_toys.value(text), row) for row, text in enumerate(smiles) if text)
    lines = [line.split(",") for line in (tmp_path / "out" / "top.csv").read_text().splitlines()]
    assert lines[0] == ["row", "smiles", "size_pred", "error"]
    assert [int(line[0]) for line in lines[1:]] == [row for _, row in ranked[:37]]
    assert [line[1] for line in lines[1:]] == [smiles[row] for _, row in ranked[:37]]


def test_killed_anywhere_and_resumed_is_the_same_bytes(model: Path, tmp_path: Path):
    source = write_smi(tmp_path / "in.smi", texts(1000))
    stubbed([source], model, tmp_path / "whole", top=5, jobs=2, chunk=8)
    out, kills, seen = tmp_path / "killed", 0, {}
    delays = itertools.cycle([0.0, 0.15, 0.4])
    while True:
        process = child(source, model, out, 8, TOY_PAUSE_S="0.02")
        before = len(list(out.glob("part-*.parquet")))
        while process.poll() is None and len(list(out.glob("part-*.parquet"))) < before + 2:
            time.sleep(0.01)
        time.sleep(next(delays))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in finished(out):
            assert seen.setdefault(path.name, path.stat().st_mtime_ns) == path.stat().st_mtime_ns, path
        if process.returncode == 0:
            break
        kills += 1
        assert kills < 20
    assert kills >= 2
    assert shards(out) == shards(tmp_path / "whole")
    assert (out / "top.csv").read_bytes() == (tmp_path / "whole" / "top.csv").read_bytes()
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in (tmp_path / "whole").iterdir())


@pytest.mark.slow
def test_a_killed_screen_of_20000_rows_goes_on_behind_its_first_shard(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = write_smi(tmp_path / "in.smi", texts(20_000)), tmp_path / "out"
    first = out / ".progress" / "00000.json"
    process = child(source, model, out, ScreenConfig.chunk, TOY_PAUSE_S="0.1")
    while not first.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert ScreenJournal(out).rows == CHUNKS_PER_SHARD * ScreenConfig.chunk == 16_384
    made, said = (out / "part-00000.parquet").stat().st_mtime_ns, list[int]()
    monkeypatch.setattr(Progress, "advance", lambda self, rows: said.append(rows))
    stubbed([source], model, out, chunk=ScreenConfig.chunk, jobs=2, top=5, resume=True)
    assert sum(said) == 20_000 - 16_384
    assert (out / "part-00000.parquet").stat().st_mtime_ns == made
    assert rows(out)["row"].to_pylist() == list(range(20_000))


@pytest.mark.parametrize("recorded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_screen_that_began_with_larger_shards_goes_on_with_them(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: bool
):
    """Until 0.2.0 a shard had 32 chunks, and the record did not say so; here it stopped with 8 chunks of the second."""
    source, out = write_smi(tmp_path / "in.smi", texts(300)), tmp_path / "out"
    with monkeypatch.context() as larger:
        larger.setattr("dnd.prediction.screen.screen.CHUNKS_PER_SHARD", CHUNKS_UNTIL_020)
        stubbed([source], model, tmp_path / "whole")
        larger.setattr(Progress, "advance", interrupted_after(40, lambda progress, rows: None))
        with pytest.raises(KeyboardInterrupt):
            stubbed([source], model, out)
    record = read_record(out / "run.json")
    assert record["settings"]["chunks_per_shard"] == CHUNKS_UNTIL_020
    if not recorded:
        del record["settings"]["chunks_per_shard"]
        write_record(out / "run.json", record)
    for _ in range(2):  # goes on; then it is finished
        assert stubbed([source], model, out, resume=True).shards == 3
    assert shards(out) == shards(tmp_path / "whole")


def test_a_damaged_shard_is_made_again(model: Path, tmp_path: Path):
    source, out = write_smi(tmp_path / "in.smi", texts(300)), tmp_path / "out"
    process = child(source, model, out, 4, TOY_PAUSE_S="0.02")
    while not (out / "part-00001.parquet").exists():
        time.sleep(0.01)
    process.kill()
    process.communicate()
    shutil.copy(out / "part-00000.parquet", out / "part-00001.parquet")
    stubbed([source], model, out, top=5, jobs=2, resume=True)
    stubbed([source], model, tmp_path / "whole", top=5, jobs=2)
    assert shards(out) == shards(tmp_path / "whole")


def test_a_stopped_run_of_less_than_a_shard_has_something_to_resume(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Ctrl-C keeps every chunk that was done; a minute keeps those before, so that `kill -9` costs a minute."""
    source, out = write_smi(tmp_path / "in.smi", texts(40)), tmp_path / "out"
    stubbed([source], model, tmp_path / "whole")
    done = 0

    def advance(progress: Progress, rows: int) -> None:
        nonlocal done
        done += rows
        if done == 12:
            raise KeyboardInterrupt

    monkeypatch.setattr("dnd.prediction.screen.shards.KEEP_EVERY_S", float("inf"))  # however slow the machine is
    monkeypatch.setattr(Progress, "advance", advance)
    with pytest.raises(KeyboardInterrupt):
        stubbed([source], model, out)
    assert ScreenJournal(out).rows == 12
    monkeypatch.setattr("dnd.prediction.screen.shards.KEEP_EVERY_S", 0.0)
    monkeypatch.setattr(ScreenJournal, "keep", interrupted_after(3, ScreenJournal.keep))
    with pytest.raises(KeyboardInterrupt):
        stubbed([source], model, out, resume=True)
    assert ScreenJournal(out).rows == 24
    monkeypatch.undo()
    piece = next((out / ".progress").glob("00000-002.parquet"))
    piece.write_bytes(piece.read_bytes()[:-1])
    assert ScreenJournal(out).rows == 16  # a damaged piece is made again
    assert stubbed([source], model, out, resume=True).rows == 40
    assert shards(out) == shards(tmp_path / "whole")


def test_a_minute_of_work_is_kept_however_long_a_shard_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still between chunks of 25 s: after a kill at any time a minute and a chunk are lost."""
    now = 0.0
    monkeypatch.setattr("dnd.prediction.screen.shards.time", SimpleNamespace(monotonic=lambda: now))
    journal, kept = ScreenJournal(tmp_path), []
    for number in range(CHUNKS_PER_SHARD + 4):
        now += 25.0
        journal.add({"smiles": [f"{'C' * (number + 1)}"], "y_pred": np.ones(1), "error": [""]})
        kept.append(ScreenJournal(tmp_path).rows)  # what a resume would find
        assert now - 25.0 * kept[-1] < 60.0 + 25.0
    assert kept[:7] == [0, 0, 3, 3, 3, 6, 6]
    assert kept[CHUNKS_PER_SHARD - 1] == CHUNKS_PER_SHARD
    assert [path.name for path in finished(tmp_path)] == ["part-00000.parquet"]
    assert journal.rows == CHUNKS_PER_SHARD + 4


def test_pieces_behind_a_damaged_one_do_not_go_on_from_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunk = {"smiles": ["CCO"], "y_pred": np.ones(1), "error": [""]}
    monkeypatch.setattr("dnd.prediction.screen.shards.KEEP_EVERY_S", 0.0)
    journal = ScreenJournal(tmp_path)
    for _ in range(3):
        journal.add(chunk)
    first = tmp_path / ".progress" / "00000-000.parquet"
    first.write_bytes(first.read_bytes()[:-1])
    journal = ScreenJournal(tmp_path)
    assert journal.rows == 0
    monkeypatch.setattr("dnd.prediction.screen.shards.KEEP_EVERY_S", float("inf"))
    journal.add(chunk)
    journal.add(chunk)
    journal.keep()
    assert ScreenJournal(tmp_path).rows == 2


def interrupted_after(count: int, function: Callable[..., None]) -> Callable[..., None]:
    """`function`, which is stopped when it has been called so often."""
    calls = itertools.count(1)

    def called(*values: object) -> None:
        function(*values)
        if next(calls) == count:
            raise KeyboardInterrupt

    return called


def test_the_columns_that_name_molecules_come_back(model: Path, tmp_path: Path):
    table = write_smi(tmp_path / "a.csv", ["Catalog ID,weight,structure,smiles", "7,30.1,x,CC", "=8,2,x,", "9,1,x,CCO"])
    named = write_smi(tmp_path / "b.smi", ["CC ethane", "CCO"])
    block = Chem.MolToMolBlock(Chem.MolFromSmiles("CCC"))
    (tmp_path / "c.sdf").write_text(f"propane{block}> <idnumber>\n0012\n\n> <logP>\n1.8\n\n$$$$\n")
    stubbed([table, named, tmp_path / "c.sdf"], model, tmp_path / "out", top=6)
    found = rows(tmp_path / "out")
    assert found.column_names == ["row", "Catalog ID", "name", "title", "idnumber", "smiles", "size_pred", "error"]
    assert found["Catalog ID"].to_pylist() == ["7", "=8", "9", "", "", ""]
    assert found["name"].to_pylist() == ["", "", "", "ethane", "", ""]
    assert found["title"].to_pylist() == ["", "", "", "", "", "propane"]
    assert found["idnumber"].to_pylist() == ["", "", "", "", "", "0012"]
    assert (tmp_path / "out" / "top.csv").read_text().startswith("row,Catalog ID,name,title,idnumber,smiles,")


def test_a_killing_row_costs_itself_only(model: Path, tmp_path: Path):
    smiles = texts(40)
    smiles[6:9], smiles[20] = ["KILL"] * 3, "RAISE"
    summary = stubbed([write_smi(tmp_path / "in.smi", smiles)], model, tmp_path / "out")
    errors = rows(tmp_path / "out")["error"].to_pylist()
    assert summary.errors == 4
    assert [row for row, error in enumerate(errors) if error] == [6, 7, 8, 20]
    assert errors[6] == errors[8] == "worker died: exit code 9"
    assert errors[20] == "internal error: ValueError: odd molecule"


def test_a_worker_that_somebody_killed_changes_nothing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = write_smi(tmp_path / "in.smi", texts(40))
    stubbed([source], model, tmp_path / "whole")
    monkeypatch.setenv("TOY_ONCE", str(tmp_path / "died"))
    stubbed([source], model, tmp_path / "out")
    assert (tmp_path / "died").exists()
    assert shards(tmp_path / "out") == shards(tmp_path / "whole")


def test_refusals(model: Path, tmp_path: Path):
    source, out = write_smi(tmp_path / "in.smi", texts(10)), tmp_path / "out"
    with pytest.raises(ConfigError, match=r"no target 'sice'.*Did you mean size"):
        stubbed([source], model, out, top=1, by="sice")
    with pytest.raises(ConfigError, match="--top K"):
        ScreenConfig(by="size")
    with pytest.raises(ConfigError, match="standard input"):
        stubbed([Path("-")], model, out)
    with pytest.raises(InputError, match="no column 'smiles'"):
        stubbed([source, write_smi(tmp_path / "b.csv", ["a,b", "1,2"])], model, out)
    with pytest.raises(InputError, match="is not a folder"):
        stubbed([source], tmp_path / "none", out)
    assert not out.exists()
    stubbed([source], model, out)
    assert stubbed([source], model, out, resume=True).rows == 10
    with pytest.raises(InputError, match="already contains a finished screen"):
        stubbed([source], model, out)
    write_smi(source, texts(11))
    with pytest.raises(InputError, match=r"other settings.*inputs"):
        stubbed([source], model, out, resume=True)
    write_smi(source, texts(10))
    other = sealed_model(tmp_path / "other", "size", "more")
    with pytest.raises(InputError, match=r"other settings.*model"):
        stubbed([source], other, out, resume=True)
    (out / "part-00000.parquet").write_bytes(b"")
    with pytest.raises(CorruptFileError, match="another size"):
        stubbed([source], model, out, resume=True)


def test_chunks_are_bounded_by_rows_and_by_text():
    long = Candidate("C" * (CHUNK_CHARACTERS // 2))
    sizes = [len(chunk) for chunk in in_chunks(iter([*[Candidate("C")] * 7, long, long, long]), 4)]
    assert sizes == [4, 4, 2]
    assert [len(chunk) for chunk in in_chunks(iter([long] * 5), 4)] == [2, 2, 1]


@pytest.mark.parametrize(
    "counts",
    [
        (60_000, 220_000),
        pytest.param((200_000, 2_000_000), marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
)
def test_memory_does_not_grow_with_rows(model: Path, tmp_path: Path, counts: tuple[int, int]):
    """Fault plan S1, at its size behind `slow`: the peak of the parent at both is the same, give or take 16 MB."""
    peaks_kib = []
    for count in counts:
        source = write_smi(tmp_path / f"{count}.smi", texts(count))
        process = child(source, model, tmp_path / str(count), 1024)
        peaks_kib.append(int(process.communicate(timeout=60 + count / 1000)[0]))
        assert process.returncode == 0
    assert rows(tmp_path / str(counts[1])).num_rows == counts[1]
    assert peaks_kib[1] - peaks_kib[0] <= 16 * 1024
