import json
from pathlib import Path

import pytest

from dnd.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["reproduce", *map(str, words)])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tabel1"], "unknown table or figure 'tabel1'. Did you mean table1"),
        (["table1", "--budget", "cpuu"], "unknown budget 'cpuu'. Did you mean cpu"),
        (["table1", "--systems", "dnd-nodes"], "unknown system 'dnd-nodes'. Did you mean dnd-node"),
        (["table1", "--datasets", "esoll"], "unknown data set 'esoll'. Did you mean esol"),
        (["table1", "--hydrogens", "all"], "unknown hydrogen setting 'all'"),
        (["table1", "--seeds", "0"], "--seeds must be at least 1"),
        (["table1", "--upstream-seeds", "0"], "--upstream-seeds must be at least 1"),
        (["table2", "--systems", "randinit-0.65"], "its finetuning has no layer decay"),
    ],
)
def test_bad_words_answer_with_the_nearest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str
) -> None:
    code, _, errors = run(capsys, *words, "-o", tmp_path / "out")
    assert code == 2
    assert message in errors
    assert not (tmp_path / "out").exists()


def test_classical_cells_with_a_missing_data_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "ri.csv.gz").write_bytes(b"torn")
    words = ("table1", "--systems", "rf-descriptors", "--datasets", "freesolv,ri", "--seeds", 1, "--data-dir", tmp_path)
    code, output, errors = run(capsys, *words, "-o", tmp_path / "out")
    assert code == 0
    assert "random forest, RDKit descriptors" in output
    assert "ri/features: " in errors
    assert "not a readable gzip file" in errors
    assert "needs ri/features, which failed" in errors
    records = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert {record["key"]: record["status"] for record in records} == {
        "freesolv/features": "done",
        "freesolv/rf-descriptors/seed-1": "done",
        "ri/features": "failed",
        "ri/rf-descriptors/seed-1": "failed",
    }
    done = next(record for record in records if record["key"] == "freesolv/rf-descriptors/seed-1")
    assert done["result"]["molecules"] == {"train": 120, "valid": 15, "test": 15}
    assert {"rdkit", "torch", "scikit-learn"} <= done["versions"].keys()
    code, output, _ = run(capsys, *words, "-o", tmp_path / "out")
    assert "2 were finished before" in output


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_chain_at_the_tiny_budget(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, output, errors = run(capsys, "table1", "--datasets", "esol", "--seeds", 1, "--jobs", 2, "-o", tmp_path)
    assert (code, errors) == (0, "")
    assert "D&D-NODE +MP" in output
    for figure in ("fig3", "fig4"):
        code, output, _ = run(capsys, figure, "-o", tmp_path)
        assert code == 0
        assert "0 cells ran" in output
        assert (tmp_path / f"{figure}.png").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("words", "shown", "files"),
    [
        (["ccmd", "--upstream-seeds", 2], "labels + global + coordinated local (1/N²)", ["ccmd.md", "ccmd.csv"]),
        (["multitask", "--datasets", "esol,freesolv"], "| freesolv | RMSE ↓ |", ["multitask.md", "multitask.csv"]),
        (
            ["conformers", "--datasets", "esol", "--systems", "conformers-1,conformers-2-all"],
            "D&D-NODE, 2 conformers, each as often as a single one",
            ["conformers.md"],
        ),
        (["students", "--datasets", "esol", "--systems", "gine-random,gine-node"], "gine, D&D-NODE", ["students.md"]),
        (["locality", "--datasets", "esol,freesolv,lipo,bace"], "no clear pattern", ["locality.csv", "locality.png"]),
        (["table6", "--datasets", "gap", "--systems", "randinit-1.0,dnd-node"], "D&D-NODE", ["table6.md"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_the_other_grids_at_the_tiny_budget(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], shown: str, files: list[str]
) -> None:
    code, output, errors = run(capsys, *words, "--seeds", 1, "--jobs", 2, "-o", tmp_path)
    assert (code, errors) == (0, "")
    assert shown in output
    for name in files:
        assert (tmp_path / name).is_file()
    assert "0 cells ran" in run(capsys, *words, "--seeds", 1, "-o", tmp_path)[1]
