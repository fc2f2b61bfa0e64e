import json
from pathlib import Path

import pytest

from dnd.cli.main import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["analyse", *map(str, words)])
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_statistics_of_a_data_set_and_a_table(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("smiles,y\nCCO,1\nC1CC,2\n")
    code, output, _ = run(capsys, "statistics", tmp_path / "own.csv", "--datasets", "freesolv", "-o", tmp_path / "out")
    assert code == 0
    assert "unreadable rows: 1" in output
    assert files(tmp_path / "out") == {"statistics.png", "statistics.svg", "statistics.csv", "statistics.txt"}
    assert "freesolv,642,8.7" in (tmp_path / "out" / "statistics.csv").read_text()


def test_curves_of_two_runs_of_one_name(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "encoder").mkdir(parents=True)
        lines = [{"kind": "step", "step": step, "loss": 1 / step} for step in (1, 2, 3)]
        (tmp_path / name / "encoder" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, output, _ = run(capsys, "curves", tmp_path / "a/encoder", tmp_path / "b/encoder", "-o", tmp_path / "out")
    assert code == 0
    assert output.count("nothing held out") == 2
    assert "curves.svg" in files(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["statistics"], "no molecules are named"),
        (["statistics", "--datasets", "esoll"], "Did you mean esol"),
        (["curves", "nowhere"], "holds no metrics.jsonl"),
        (["overlap", "--store", "nowhere", "--datasets", "esol"], "nowhere is not a folder"),
        (["attention", "nowhere", "--encoder", "random"], "nowhere is not a folder"),
        (["labels", "no.csv", "--target-columns", "y", "--encoder", "e", "--fractions", "a"], "not numbers"),
        (["labels", "no.csv", "--target-columns", "y", "--encoder", "e", "--fractions", "0.1"], "1 among them"),
    ],
)
def test_bad_words(capsys: pytest.CaptureFixture[str], tmp_path: Path, words: list[str], message: str) -> None:
    code, _, errors = run(capsys, *words, "-o", tmp_path / "out")
    assert code == 2
    assert message in errors
    assert errors.count("\n") == 1
