"""`dnd bench`: counts, structure and equal results of what it compares; never seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from dnd.bench import default_model, scaling, startup, throughput
from dnd.bench.measure import (
    Line,
    Table,
    Variant,
    drug_like_smiles,
    graph_store,
    machine,
    measure,
    qm9_store,
    random_student,
    tokens_of,
)
from dnd.bench.scaling import Point, chain, packing, points_csv, repeat_store, write_points
from dnd.bench.startup import added_memory, run_command
from dnd.bench.training import PackedTokenGT, PaddedTokenGT, tokengt_forward, transformer_forward
from dnd.chemistry.parse import parse_smiles
from dnd.cli import installation as command
from dnd.common.about import diagnose
from dnd.common.errors import DndError
from dnd.models.students.base import StudentConfig, preset
from dnd.models.students.encoders import build_student
from dnd.models.students.tokengt import TokenGT
from dnd.models.teachers.base import TeacherConfig
from dnd.models.teachers.equivariant_transformer import EquivariantTransformer
from dnd.store.reader import Store
from dnd.training.settings import LoopConfig


def table(share: bool = False) -> Table:
    return Table("work", "item", "slow", (Line("slow", (4.0, 2.0, 3.0)), Line("fast", (1.0, 1.0, 2.0))), share)


def test_ratios_are_of_medians_and_the_range_is_of_repetitions() -> None:
    assert table().ratio("fast") == 3.0
    assert table().spread("fast") == (1.5, 4.0)
    assert table(share=True).ratio("fast") == pytest.approx(1 / 3)
    assert table().ratio("slow") == 1.0


def test_variants_alternate_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    lines = measure([Variant(name, lambda name=name: calls.append(name), 2) for name in "ab"], 3)
    assert calls == list("ab" * 4)
    assert [(line.name, len(line.seconds)) for line in lines] == [("a", 3), ("b", 3)]


def test_a_table_prints_its_reference_and_only_columns_with_content() -> None:
    plain = table().text()
    assert "reference: slow" in plain
    assert "peak MiB" not in plain
    assert "peak MiB" in table().with_peaks({"fast": 12.0}).text()
    assert json.loads(json.dumps(table().to_json()))["ratios"]["fast"]["ratio"] == 3.0


def test_the_report_names_machine_and_versions(tmp_path: Path) -> None:
    command._report([table()], tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert {"processor", "cores", "load_average", "threads", "versions"} <= written["machine"].keys()
    assert {"torch", "rdkit", "ogb", "torchmd-net", "chemprop"} <= machine()["versions"].keys()
    assert written["tables"][0]["reference"] == "slow"


def test_work_is_prepared_then_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(scaling, "ATOMS", (10, 31))
    startup.main("dnd.bench.scaling:atoms_work", json.dumps({"network": "gine-small", "repetitions": 1}))
    points = json.loads(capsys.readouterr().out)
    assert [(point["axis"], point["value"]) for point in points] == [("atoms", 10), ("atoms", 31)]


def test_a_file_is_predicted_and_its_rows_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("smiles\nCCO\nc1ccccc1\nCC(=O)N", encoding="utf-8")
    startup.main("dnd.bench.scaling:rows_work", json.dumps({"table": str(table), "network": "gine-small"}))
    point = json.loads(capsys.readouterr().out)
    assert (point["axis"], point["value"], point["per"]) == ("rows", 3, "row")
    assert point["cpu_ms"] > 0
    assert len((tmp_path / "rows.out.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_the_default_model_is_measured_beside_rdkit_and_forests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(default_model, "TRAINING_ROWS", 40)
    tables = list(default_model.bench_default_model(8, 1))
    assert [table.title for table in tables] == ["SMILES -> answer", "SMILES -> descriptors", "table -> model"]
    assert [len(table.lines) for table in tables] == [4, 3, 2]
    assert all(line.median > 0 for table in tables for line in table.lines)


def test_only_functions_of_the_bench_run_in_a_fresh_process() -> None:
    with pytest.raises(DndError, match="failed in a fresh process"):
        added_memory("os:system", command="true")


def test_a_failing_command_is_an_error() -> None:
    with pytest.raises(DndError):
        run_command([sys.executable, "-c", "raise SystemExit('broken')"])
    assert run_command([sys.executable, "-c", "pass"]).peak_mb > 1


def test_padded_and_packed_tokengt_give_the_same() -> None:
    student = build_student(StudentConfig("tokengt", 32, 2, num_heads=4)).eval()
    assert isinstance(student, TokenGT)
    graph = graph_store(["CCO", "c1ccccc1C(=O)N", "C"]).read(np.arange(3)).graph
    padded, packed = (network(student)(graph).detach() for network in (PaddedTokenGT, PackedTokenGT))
    assert abs(float(packed)) > 1e-2
    torch.testing.assert_close(padded, packed, rtol=1e-5, atol=1e-4)


def test_operations_of_tokengt_are_those_that_torch_counts() -> None:
    config = StudentConfig("tokengt", 32, 3, num_heads=4, ffn_width=64)
    student = build_student(config).eval()
    store = graph_store(["CCO", "c1ccccc1C(=O)N"])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        student(store.read(np.arange(2)).graph)
    counted = counter.get_flop_counts()
    linear = sum(counted["TokenGT.layers." + str(number)].get(torch.ops.aten.addmm, 0) for number in range(3))
    tokens = tokens_of(store)
    attention = 3 * 4 * float((tokens**2).sum()) * 32
    assert tokengt_forward(config, tokens).flops == pytest.approx(linear + attention)


def test_operations_of_the_plain_teacher_are_those_that_torch_counts() -> None:
    config = TeacherConfig(width=32, num_layers=2, num_rbf=16, cutoff=50.0)  # every pair is near
    teacher, conformers = EquivariantTransformer(config, "plain"), packing(5, 2)
    teacher.closest_approach = 0.0
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        teacher(conformers)
    embedding = 2 * 50 * 16 * 32 + 2 * 10 * 64 * 32
    assert transformer_forward(config, 10, 50).flops == counter.get_total_flops() - embedding


def test_wider_networks_do_more_per_byte() -> None:
    tokens = np.full(8, 96)
    narrow, wide = (tokengt_forward(preset(name), tokens) for name in ("tokengt-table5b", "tokengt-paper"))
    assert narrow.intensity < wide.intensity


def test_a_pipeline_table_has_the_step_as_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "LOOP", LoopConfig(batch_size=4))
    first = next(iter(throughput.bench_pipeline(12, 1)))
    assert first.share
    assert [line.name for line in first.lines] == [
        "training step",
        "read and pack the batch",
        "plan the epoch, per step",
    ]


def test_drug_like_molecules_are_the_same_each_time() -> None:
    texts, name = drug_like_smiles(20)
    assert (texts, name) == drug_like_smiles(20)
    assert len(set(texts)) == 20


def test_a_random_student_is_the_same_each_time() -> None:
    first, second = random_student("gine-small"), random_student("gine-small")
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize("atoms", [10, 31, 300])
def test_chains_have_the_atoms_asked_for(atoms: int) -> None:
    molecule = parse_smiles(chain(atoms))
    assert molecule.ok
    assert molecule.mol.GetNumAtoms() == atoms


def test_a_repeated_store_is_a_store_and_takes_no_space(tmp_path: Path) -> None:
    qm9_store(tmp_path / "one", 8)
    repeat_store(tmp_path / "one", tmp_path / "many", 5)
    store = Store.open(tmp_path / "many")
    assert len(store) == 40
    assert (tmp_path / "many" / "shard-00004.arrow").stat().st_nlink == 6
    assert diagnose(tmp_path / "many")[1] == []
    first, last = (store.read(np.arange(start, start + 8)).graph for start in (0, 32))
    assert torch.equal(first.node_features_NF, last.node_features_NF)


def test_points_become_a_table_and_a_picture(tmp_path: Path) -> None:
    points = [Point("net", "atoms", atoms, 1.0 * atoms, 2.0 * atoms, "molecule", 0.5) for atoms in (10, 30)]
    points += [Point("net", "threads", count, 1.0, 2.0, "molecule") for count in (1, 2)]
    assert points_csv(points).splitlines()[1] == "net,atoms,10,10.0,20.0,molecule,0.5,"
    paths = write_points(points, tmp_path / "scaling")
    assert [path.suffix for path in paths] == [".csv", ".png", ".svg"]
    assert all(path.stat().st_size > 100 for path in paths)
